"""The engine worker: runs, models, and the project's tools unless they have a worker of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import structlog
from temporalio.client import Client as TemporalClient
from temporalio.worker import UnsandboxedWorkflowRunner, WorkflowRunner

from activities.alerts import Alerter
from activities.bookkeeping import Bookkeeping
from activities.call_model import ModelCaller
from activities.catalog import Catalog
from activities.compaction import Compaction
from activities.deciding import Deciding
from activities.discovery import Discovery
from activities.finding_tools import ToolFinding
from activities.functions import FunctionSteps
from activities.handoff import Handoffs
from activities.mcp_tools import McpTools
from activities.memory import MemoryWriter
from activities.memory_delivery import MemoryDeliverer
from activities.models.router import Models
from activities.notify import Notifier
from activities.openapi_tools import OpenApiTools
from activities.opening import Opening
from activities.performers import Performers
from activities.reassigning import Reassigning
from activities.recalling import Recalling
from activities.ticks import TickKeeper
from activities.toolboxes import ToolboxFinder
from activities.unserved import Whereabouts
from horarium.connection import connect
from horarium.contract import ENGINE_QUEUE
from horarium.ledger.agents import Agents
from horarium.ledger.database import Ledger
from horarium.project import AgentFiles, Project
from horarium.proof import KeyRing
from horarium.protocol import CALL_MODEL, CALL_TOOL, COMPACT_THREAD, RECALL_MEMORY
from horarium.serving import make_worker, present
from horarium.settings import Settings
from horarium.stepping import LedgerSteps
from horarium.toolhost import ToolHost
from horarium.workspaces.host import WorkspaceHost
from schedules.deploy import Deployment
from schedules.expected import next_fire
from schedules.orders import Orders
from schedules.watch import Watch
from schedules.watch_schedule import keep_watch
from workers.activations import ActivationExecutor
from workers.alignment import AlignedRunner
from workers.segments import Segments
from workflows.agent_run import AgentRun
from workflows.memory_delivery import MemoryDelivery
from workflows.routine_alert import RoutineAlert
from workflows.routine_order import ObeyedOrder
from workflows.routine_tick import RoutineTick
from workflows.routine_watch import RoutineWatch
from workflows.tell_people import TellPeople

log = structlog.get_logger()


async def run_engine(settings: Settings, project: Project, stop: asyncio.Event) -> None:
    """Serve the engine's queue until `stop` is set; then finish what is in flight, within the grace time.

    Raises:
        Unreachable: Temporal or the ledger does not answer.
        ConfigError: An agent's definition cannot be used.
    """
    temporal = await connect(settings)
    ledger = await Ledger.open(settings)
    try:
        await serve_engine(temporal, ledger, settings, project, stop, models=Models(settings))
    finally:
        await ledger.close()


async def serve_engine(
    temporal: TemporalClient,
    ledger: Ledger,
    settings: Settings,
    project: Project,
    stop: asyncio.Event,
    *,
    models: Models,
    runner: WorkflowRunner | None = None,
) -> None:
    """As `run_engine`, on connections that the caller opened and closes."""
    agents = Agents(ledger)
    for agent in project.agents.values():
        await agents.register(agent)
    catalog = Catalog(ledger, project.tools.values())
    keys, required = KeyRing.of(settings).public_only(), settings.approvals.require_proof
    mcp = McpTools(ledger, settings)
    finding = ToolFinding(ledger, catalog)
    performers = Performers(ledger, mcp, OpenApiTools(settings), finding)
    workspaces = WorkspaceHost(ledger, settings)
    tools = ToolHost(
        LedgerSteps(ledger, keys, require_proof=required),
        project.tools.values(),
        threads=settings.worker.max_steps,
        elsewhere=performers.find,
        workspaces=workspaces,
    )
    files = AgentFiles(settings)
    handoffs = Handoffs(ledger, temporal, files, settings)
    toolboxes = ToolboxFinder(ledger, mcp, settings)
    await toolboxes.publish_all()
    discovery = Discovery(ledger, [mcp, toolboxes, handoffs], files)
    recalling, deliverer = Recalling(ledger, catalog, settings), MemoryDeliverer(ledger, settings)
    keeper = TickKeeper(ledger, temporal, settings, files)
    steps: dict[str, Callable[..., Any]] = {
        CALL_MODEL: ModelCaller(ledger, models, catalog, finding).call_model,
        CALL_TOOL: tools.call_tool,
        RECALL_MEMORY: recalling.recall_memory,
        COMPACT_THREAD: Compaction(ledger, models, catalog).compact_thread,
    }
    segments = Segments(ledger, steps, settings.worker)
    activities: list[Callable[..., Any]] = [
        *steps.values(),
        segments.start_segment,
        segments.run_segment,
        MemoryWriter(ledger, models, catalog, settings).write_memory,
        deliverer.deliver_memories,
        handoffs.begin_handoff,
        handoffs.settle_handoff,
        *_of_functions(FunctionSteps(ledger, settings)),
        Notifier(ledger, settings).notify,
        Whereabouts(ledger).find_worker,
        Alerter(ledger, settings, next_fire).send_alert,
        Orders(ledger, temporal, settings).obey_order,
        Opening(ledger, catalog, temporal, discovery, files, settings).open_run,
        discovery.discover_tools,
        *_deciding(Deciding(ledger, catalog, settings)),
        Reassigning(ledger, catalog, settings).reassign,
        *_bookkeeping(Bookkeeping(ledger, temporal, settings)),
        *_of_ticks(keeper),
        *_of_watch(Watch(ledger, temporal, converge=Deployment(ledger, temporal).converge, end_gone=keeper.end_gone)),
    ]
    activations = ActivationExecutor(thread_name_prefix="workflow")
    worker = make_worker(
        temporal,
        ENGINE_QUEUE,
        settings.worker,
        activities,
        [AgentRun, TellPeople, RoutineTick, RoutineAlert, RoutineWatch, ObeyedOrder, MemoryDelivery],
        AlignedRunner(runner or UnsandboxedWorkflowRunner()),
        activations,
    )
    try:
        async with present(ledger, [tool.spec for tool in project.tools.values()]), worker:
            serves = {"agents": len(project.agents), "tools": len(project.tools)}
            log.info("worker.started", pid=os.getpid(), queue=ENGINE_QUEUE, **serves)
            await keep_watch(temporal)
            await stop.wait()
    finally:
        await segments.close()
        tools.close()
        await workspaces.close()
        await performers.close()
        await recalling.close()
        await deliverer.close()
        await models.close()
        activations.shutdown(wait=False)
    log.info("worker.stopped", queue=ENGINE_QUEUE)


def _of_ticks(keeper: TickKeeper) -> list[Callable[..., Any]]:
    return [
        keeper.open_tick,
        keeper.admit_tick,
        keeper.open_attempt,
        keeper.look_at_attempt,
        keeper.end_attempt,
        keeper.close_tick,
    ]


def _of_functions(steps: FunctionSteps) -> list[Callable[..., Any]]:
    return [steps.begin_function, steps.take_tool_outputs, steps.settle_function]


def _of_watch(watch: Watch) -> list[Callable[..., Any]]:
    return [watch.watch_routines, watch.account_routines]


def _deciding(deciding: Deciding) -> list[Callable[..., Any]]:
    return [
        deciding.ask_approvals,
        deciding.settle_approvals,
        deciding.check_decision,
        deciding.check_resolution,
        deciding.record_vote,
        deciding.escalate,
        deciding.open_question,
        deciding.settle_question,
        deciding.settle_step,
    ]


def _bookkeeping(book: Bookkeeping) -> list[Callable[..., Any]]:
    return [book.write_message, book.mark_run, book.close_run]
