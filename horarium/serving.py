"""Workers: how each of ours is set up, and the tool worker, which needs nothing but this package."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError
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
from horarium.contract import ENGINE_QUEUE, TOOL_QUEUE_PREFIX
from horarium.errors import AddressRefused, ConfigError, Conflict, HorariumError, NotFound
from horarium.ledger.database import Ledger
from horarium.ledger.toolworkers import ToolWorker, ToolWorkers, differing, other_release
from horarium.proof import KeyRing
from horarium.secrets import redact
from horarium.settings import Settings, WorkerSettings
from horarium.stepping import LedgerSteps
from horarium.toolhost import ToolHost
from horarium.tools import Tool, ToolSpec
from horarium.workspaces.host import WorkspaceHost

log = structlog.get_logger()

FINAL = (ConfigError, Conflict, NotFound, AddressRefused)  # what cannot succeed is not tried again
# They verify whose word it is, and leave what they refuse in the audit trail; notices and deliveries are workflows of
# their own.
LOOK_FOR_THEMSELVES = (
    protocol.CALL_TOOL,
    protocol.RECORD_VOTE,
    protocol.SETTLE_APPROVALS,
    protocol.SETTLE_QUESTION,
    protocol.SETTLE_STEP,
    protocol.NOTIFY,
    protocol.DELIVER_MEMORIES,
    tick_protocol.SEND_ALERT,
)
SEEN_EVERY = timedelta(seconds=10)
AWAY = (OSError, SQLAlchemyError, HorariumError)  # the ledger, or the gateway before it
GROUP = re.compile(r"^[A-Za-z0-9_\-.]{1,63}$")
HEARTBEAT_THROTTLE = timedelta(milliseconds=300)


async def serve_tools(
    tools: Iterable[Tool],
    *,
    name: str = "project",
    settings: Settings | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve tools from this process, until `stop` is set or SIGTERM or SIGINT comes.

    The tools are announced in the ledger, so agents can name them at once; `horarium doctor` shows who serves what.
    What is in flight is finished within the grace time, else handed back. Where the settings name a gateway, the
    ledger is behind it, and what a worker says and is told goes through it.

    Args:
        tools: Made by `@tool`.
        name: Of this group; its task queue is `horarium-tools-<name>`. Any number of processes may have one name,
            on any host; they must serve the same tools.
        settings: Else those of the project around the current directory.

    Raises:
        ConfigError: The name, or two tools of one name.
        ToolTaken: A worker of another name serves one of the tools.
        Unreachable: Temporal, the ledger or the gateway does not answer.
        GatewayRefuses: The gateway does not accept the key, or not any more.
    """
    settings = settings or Settings.load()
    stop = stop or _stop_on_signals()
    served = _each_once(tools)
    queue = _queue_named(name)
    if settings.tools.gateway is not None:
        await _serve_through_gateway(served, name, settings, stop)
        return
    temporal = await connect(settings)
    ledger = await Ledger.open(settings)
    keys, required = KeyRing.of(settings).public_only(), settings.approvals.require_proof
    workspaces = WorkspaceHost(ledger, settings)
    steps = LedgerSteps(ledger, keys, require_proof=required)
    host = ToolHost(steps, served, threads=settings.worker.max_steps, workspaces=workspaces)
    try:
        worker = make_worker(temporal, queue, settings.worker, [host.call_tool])
        async with present(ledger, [tool.spec for tool in served], queue), worker:
            log.info("worker.started", pid=os.getpid(), queue=queue, tools=len(served))
            await stop.wait()
        log.info("worker.stopped", queue=queue)
    finally:
        host.close()
        await workspaces.close()
        await ledger.close()


async def _serve_through_gateway(served: list[Tool], name: str, settings: Settings, stop: asyncio.Event) -> None:
    from horarium.remote_journal import Gateway, RemoteSteps, RemoteWorkers, refuse_workspaces  # brings an HTTP client

    refuse_workspaces(served)
    queue = _queue_named(name)
    temporal = await connect(settings)
    gateway = Gateway.of(settings)
    host = ToolHost(RemoteSteps(gateway, name), served, threads=settings.worker.max_steps)
    try:
        worker = make_worker(temporal, queue, settings.worker, [host.call_tool])
        async with _announced(RemoteWorkers(gateway, name), [tool.spec for tool in served], queue, SEEN_EVERY), worker:
            log.info("worker.started", pid=os.getpid(), queue=queue, tools=len(served), gateway=gateway.url)
            stopping = asyncio.create_task(stop.wait())
            either: set[asyncio.Future[Any]] = {stopping, gateway.refused}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
        log.info("worker.stopped", queue=queue)
        if gateway.refused.done():
            raise gateway.refused.result()
    finally:
        host.close()
        await gateway.close()


class Presence(Protocol):
    """Where workers say that they live: the ledger's `ToolWorkers`, or a gateway's."""

    async def arrive(self, worker: ToolWorker, specs: Sequence[ToolSpec]) -> list[ToolWorker]:
        """Announce a worker and its tools. Returns others that live."""
        ...

    async def seen(self, worker: ToolWorker, now: datetime) -> None:
        """Note that a worker lives."""
        ...

    async def left(self, worker: ToolWorker, now: datetime) -> None:
        """Note that a worker ended by itself."""
        ...


@asynccontextmanager
async def present(
    ledger: Ledger, specs: Sequence[ToolSpec], queue: str = ENGINE_QUEUE, *, every: timedelta = SEEN_EVERY
) -> AsyncIterator[ToolWorker]:
    """Have this process and its tools announced, and say that it lives, for as long as the block lasts.

    Workers of the same group that serve other things, and of another release of this package, are logged.

    Raises:
        ToolTaken: A worker of another queue serves one of the tools.
    """
    async with _announced(ToolWorkers(ledger), specs, queue, every) as worker:
        yield worker


@asynccontextmanager
async def _announced(
    workers: Presence, specs: Sequence[ToolSpec], queue: str, every: timedelta
) -> AsyncIterator[ToolWorker]:
    worker = ToolWorker.this_process(specs, queue)
    others = await workers.arrive(worker, specs)
    for name, places in differing(worker, others).items():
        log.warning(
            "tools.differ",
            tool=name,
            queue=queue,
            here=worker.place,
            others=[other.place for other in places],
            advice="Workers of one group must serve the same tools: bring them to the same state.",
        )
    for other in others:
        if other_release(worker.version, other.version):
            log.warning("worker.other_release", here=worker.version, there=other.version, worker=other.place)
    beat = asyncio.create_task(_say_it_lives(workers, worker, every))
    try:
        yield worker
    finally:
        beat.cancel()
        with contextlib.suppress(*AWAY):  # then it is stale in a minute
            await workers.left(worker, datetime.now(UTC))


async def _say_it_lives(workers: Presence, worker: ToolWorker, every: timedelta) -> None:
    while True:
        await asyncio.sleep(every.total_seconds())
        try:
            await workers.seen(worker, datetime.now(UTC))
        except AWAY as error:
            log.warning("worker.unseen", worker=worker.id, error=redact(str(error).splitlines()[0]))


def _each_once(tools: Iterable[Tool]) -> list[Tool]:
    served = list(tools)
    names = [tool.name for tool in served]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"Two tools have the name {twice!r}.", hint="Rename one: @tool(name=…).")
    return served


def _queue_named(name: str) -> str:
    if not GROUP.match(name):
        raise ConfigError(f"{name!r} cannot be a tool worker's name.", hint="Use at most 63 letters, digits, '-', '_'.")
    return f"{TOOL_QUEUE_PREFIX}{name}"


def make_worker(
    temporal: TemporalClient,
    queue: str,
    settings: WorkerSettings,
    activities: Sequence[Callable[..., Any]],
    workflows: Sequence[type] = (),
    runner: WorkflowRunner | None = None,
    executor: ThreadPoolExecutor | None = None,
) -> Worker:
    """A Temporal worker, tuned so that a dead one is noticed fast and a step costs little."""
    return Worker(
        temporal,
        task_queue=queue,
        activities=activities,
        workflows=workflows,
        # Workflow code is ours alone and the tests run it in the sandbox; here that would cost time and memory.
        workflow_runner=runner or UnsandboxedWorkflowRunner(),
        workflow_task_executor=executor,
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
        except (ApplicationError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise translated(error, input.fn.__name__) from None


def translated(error: Exception, what: str) -> ApplicationError:
    """An error as Temporal is given it: its code, words without secrets, and whether another attempt is worth it."""
    if isinstance(error, ApplicationError):
        return error
    if isinstance(error, HorariumError):
        return ApplicationError(redact(str(error)), type=error.code, non_retryable=isinstance(error, FINAL))
    # Causes and stacks go into the history too; the log has them, without what must not be stored.
    log.error("activity.broke", activity=what, exc_info=error)
    return ApplicationError(redact(f"{type(error).__name__}: {error}"), type="internal")


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
