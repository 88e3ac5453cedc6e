"""Workers: how each of ours is set up, and the tool worker, which needs nothing but this package."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import structlog
from temporalio import activity
from temporalio.client import Client as TemporalClient
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    UnsandboxedWorkflowRunner,
    Worker,
    WorkflowRunner,
)

from horarium import protocol, tick_protocol
from horarium.connection import connect
from horarium.contract import TOOL_QUEUE_PREFIX
from horarium.errors import ConfigError, Conflict, HorariumError, NotFound
from horarium.ledger.agents import ToolCatalog
from horarium.ledger.database import Ledger
from horarium.proof import KeyRing
from horarium.secrets import redact
from horarium.settings import Settings, WorkerSettings
from horarium.toolhost import ToolHost
from horarium.tools import Tool

log = structlog.get_logger()

FINAL = (ConfigError, Conflict, NotFound)  # what cannot succeed is not tried again
# They verify whose word it is, and leave what they refuse in the audit trail; notices are workflows of their own.
LOOK_FOR_THEMSELVES = (
    protocol.CALL_TOOL,
    protocol.RECORD_VOTE,
    protocol.SETTLE_APPROVALS,
    protocol.SETTLE_QUESTION,
    protocol.SETTLE_STEP,
    protocol.NOTIFY,
    tick_protocol.SEND_ALERT,
)
HEARTBEAT_THROTTLE = timedelta(milliseconds=300)


async def serve_tools(
    tools: Iterable[Tool],
    *,
    name: str = "project",
    settings: Settings | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve tools from this process, until `stop` is set or SIGTERM or SIGINT comes.

    The tools are announced in the ledger, so agents can name them at once. What is in flight is finished within the
    grace time, else handed back.

    Args:
        tools: Made by `@tool`.
        name: Of this group; its task queue is `horarium-tools-<name>`. Workers of one name must serve the same tools.
        settings: Else those of the project around the current directory.

    Raises:
        Unreachable: Temporal or the ledger does not answer.
    """
    settings = settings or Settings.load()
    stop = stop or _stop_on_signals()
    served = list(tools)
    queue = f"{TOOL_QUEUE_PREFIX}{name}"
    temporal = await connect(settings)
    ledger = await Ledger.open(settings)
    keys, required = KeyRing.of(settings).public_only(), settings.approvals.require_proof
    host = ToolHost(ledger, served, threads=settings.worker.max_steps, keys=keys, require_proof=required)
    try:
        await ToolCatalog(ledger).announce((tool.spec for tool in served), queue)
        worker = make_worker(temporal, queue, settings.worker, [host.call_tool])
        log.info("worker.started", pid=os.getpid(), queue=queue, tools=len(served))
        async with worker:
            await stop.wait()
        log.info("worker.stopped", queue=queue)
    finally:
        host.close()
        await ledger.close()


def make_worker(
    temporal: TemporalClient,
    queue: str,
    settings: WorkerSettings,
    activities: Sequence[Callable[..., Any]],
    workflows: Sequence[type] = (),
    runner: WorkflowRunner | None = None,
) -> Worker:
    """A Temporal worker, tuned so that a dead one is noticed fast and a step costs little."""
    return Worker(
        temporal,
        task_queue=queue,
        activities=activities,
        workflows=workflows,
        # Workflow code is ours alone and the tests run it in the sandbox; here that would cost time and memory.
        workflow_runner=runner or UnsandboxedWorkflowRunner(),
        interceptors=[ErrorTranslation()],
        max_cached_workflows=settings.max_cached_runs,
        max_concurrent_activities=settings.max_steps,
        sticky_queue_schedule_to_start_timeout=settings.sticky_timeout,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        default_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=settings.grace,
    )


class ErrorTranslation(Interceptor):
    """Gives Temporal our errors by their code, and says which are worth another attempt."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Wrap every activity."""
        return _Translated(next)


class _Translated(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        try:
            _refuse_strangers(input)
            return await super().execute_activity(input)
        except HorariumError as error:
            final = isinstance(error, FINAL)
            raise ApplicationError(redact(str(error)), type=error.code, non_retryable=final) from None
        except (ApplicationError, asyncio.CancelledError):
            raise
        except Exception as error:
            # Causes and stacks go into the history too; the log has them, without what must not be stored.
            log.exception("activity.broke", activity=input.fn.__name__)
            raise ApplicationError(redact(f"{type(error).__name__}: {error}"), type="internal") from None


def _refuse_strangers(input: ExecuteActivityInput) -> None:
    """What is written about a run or a tick is asked for by itself: whoever reaches Temporal can name any in a payload.

    Raises:
        Conflict: Another workflow asks.
    """
    info = activity.info()
    if info.activity_type in LOOK_FOR_THEMSELVES or not input.args:
        return
    named = {name: getattr(input.args[0], name, None) for name in ("run", "tick")}
    for name, whose in named.items():
        if isinstance(whose, str) and whose != info.workflow_id:
            raise Conflict(f"Workflow {info.workflow_id} asked for {info.activity_type} of {name} {whose}.")


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
