"""How the parts are that a run needs: each is asked by itself, with little patience, and what is broken says so."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Literal

import structlog
from sqlalchemy.exc import SQLAlchemyError
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, GetSystemInfoRequest
from temporalio.client import Client as TemporalClient
from temporalio.service import RPCError

from horarium.client import Client
from horarium.contract import ENGINE_QUEUE
from horarium.durations import words as length
from horarium.errors import HorariumError
from horarium.gateway.console.words import count, size
from horarium.ledger.agents import ToolCatalog
from horarium.ledger.figures import Figures
from horarium.ledger.toolworkers import ToolWorker, ToolWorkers, group_of, other_release, own_version
from horarium.pollers import may_live, polling
from horarium.secrets import redact

log = structlog.get_logger()

PATIENCE = timedelta(seconds=2)  # for one probe
SLOW_QUEUE = timedelta(seconds=10)  # a task that waits longer is shown as a trouble
WATCH_BEHIND = timedelta(minutes=10)
DUE_SOON = timedelta(hours=1)
MOST_QUEUES = 30
MOST_WORKERS = 50

State = Literal["ok", "warn", "bad"]


@dataclass(frozen=True, slots=True)
class Probe:
    """One part: how it is, in a sentence, and what to do. `link`: the page with what is counted. `rows`: more of it."""

    name: str
    state: State
    found: str
    advice: str = ""
    link: str | None = None
    rows: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Queue:
    """A task queue: who asks it for work, and what waits in it."""

    name: str
    serves: str
    workers: int
    waiting: int
    oldest: timedelta

    @property
    def state(self) -> State:
        """Whether what is put in is taken out."""
        if self.waiting and not self.workers:
            return "bad"
        return "warn" if self.oldest > SLOW_QUEUE else "ok"


@dataclass(frozen=True, slots=True)
class Presence:
    """A process that serves tools, or the engine."""

    worker: ToolWorker
    lives: bool
    other_release: bool


@dataclass(frozen=True, slots=True)
class Health:
    """Everything together."""

    probes: tuple[Probe, ...]
    queues: tuple[Queue, ...] = ()
    workers: tuple[Presence, ...] = ()
    versions: tuple[tuple[str, str], ...] = field(default=())

    @property
    def worst(self) -> State:
        """How the whole is."""
        found = [probe.state for probe in self.probes] + [queue.state for queue in self.queues]
        return "bad" if "bad" in found else "warn" if "warn" in found else "ok"


async def _asked(name: str, advice: str, probe: Awaitable[Probe]) -> Probe:
    """A probe's answer; that there is none is an answer too."""
    try:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            found = await probe
    except TimeoutError:
        return Probe(name, "bad", f"It does not answer within {length(PATIENCE)}.", advice)
    except HorariumError as error:
        return Probe(name, "bad", redact(error.message), error.hint or advice)
    except (RPCError, SQLAlchemyError, OSError, RuntimeError) as error:
        log.warning("console.probe_failed", probe=name, error=type(error).__name__)
        return Probe(name, "bad", "It does not answer.", advice)
    return replace(found, found=redact(found.found))


async def health(client: Client, *, tenant: str, whole: bool) -> Health:
    """How everything is; `whole`: with the processes, which are no tenant's."""
    figures, now = Figures(client.require_ledger()), datetime.now(UTC)
    asked = [
        _asked("Temporal", "Start it: horarium up, or look at its own log.", _server(client.temporal)),
        _asked("Engine workers", "Start one: horarium worker", _workers(client.temporal)),
        _asked("Timetable", "Look at the routines: horarium routine list", _timetable(figures, tenant, now)),
        _asked("People", "Answer them in the inbox.", _people(figures, tenant, now)),
        _asked("Memories", "Review them.", _memories(figures, tenant)),
    ]
    if not whole:
        return Health(tuple(await asyncio.gather(*asked)))
    asked.insert(2, _asked("Ledger", "Look at [ledger] in horarium.toml: horarium doctor", _ledger(figures)))
    probes = asyncio.gather(*asked)
    queues, workers, trouble = await _processes(client, now)
    return Health((*await probes, *trouble), queues, workers, await _versions(client.temporal))


# ---- the probes


async def _server(temporal: TemporalClient) -> Probe:
    await temporal.workflow_service.get_system_info(GetSystemInfoRequest())
    return Probe("Temporal", "ok", f"It answers; namespace {temporal.namespace}.")


async def _workers(temporal: TemporalClient) -> Probe:
    living = [identity for identity in await polling(temporal, ENGINE_QUEUE) if may_live(identity)]
    if not living:
        return Probe("Engine workers", "bad", "None asks for work: no run goes on.", "Start one: horarium worker")
    return Probe("Engine workers", "ok", f"{count(len(living), 'worker asks', 'workers ask')} for work.")


async def _ledger(figures: Figures) -> Probe:
    store = await figures.store()
    return Probe("Ledger", "ok", f"{store.kind}, {size(store.bytes)}, tables at {store.revision}.")


async def _timetable(figures: Figures, tenant: str, now: datetime) -> Probe:
    kept = await figures.timetable(tenant, now - timedelta(days=1))
    rows = (
        ("Missed in 24 hours", str(kept.missed)),
        ("Failed in 24 hours", str(kept.failed)),
        ("Under way", str(kept.open)),
    )
    if kept.watched_until is None:
        return Probe("Timetable", "ok", "There is no routine.", rows=rows)
    behind = now - kept.watched_until
    if behind > WATCH_BEHIND:
        found = f"Nobody has looked for missed fires for {_whole(behind)}."
        return Probe("Timetable", "bad", found, "The engine's worker does: horarium worker", rows=rows)
    if kept.not_applied:
        found = f"Of {count(kept.not_applied, 'routine')} Temporal's schedules are not as they say yet."
        return Probe("Timetable", "warn", found, "A worker does that within a minute.", rows=rows)
    if kept.missed or kept.failed:
        return Probe("Timetable", "warn", "Some ticks of the last day did not do well.", link="/routines", rows=rows)
    return Probe("Timetable", "ok", "Every routine is watched, and none missed a fire.", rows=rows)


async def _people(figures: Figures, tenant: str, now: datetime) -> Probe:
    waiting = await figures.waiting(tenant, now + DUE_SOON)
    if not waiting.questions:
        return Probe("People", "ok", "Nothing waits for anybody.")
    found = f"{count(waiting.questions, 'question waits', 'questions wait')} for people"
    if waiting.oldest is not None:
        found += f", the oldest for {_whole(now - waiting.oldest)}"
    if waiting.due:
        return Probe("People", "warn", f"{found}; {waiting.due} end within an hour.", link="/inbox")
    return Probe("People", "ok", f"{found}.", link="/inbox")


async def _memories(figures: Figures, tenant: str) -> Probe:
    waiting = await figures.memories_waiting(tenant)
    if not waiting:
        return Probe("Memories", "ok", "None waits for a review.")
    return Probe("Memories", "ok", f"{count(waiting, 'waits', 'wait')} for a review.", link="/memory/review")


def _whole(span: timedelta) -> str:
    minutes = round(span.total_seconds() / 60)
    return length(timedelta(minutes=minutes)) if minutes else "less than a minute"


# ---- processes, of the whole installation


async def _processes(
    client: Client, now: datetime
) -> tuple[tuple[Queue, ...], tuple[Presence, ...], tuple[Probe, ...]]:
    ledger = client.require_ledger()
    try:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            workers = (await ToolWorkers(ledger).all())[:MOST_WORKERS]
            served = await ToolCatalog(ledger).all()
            names = sorted({ENGINE_QUEUE} | {one.queue for one in served.values()} | {one.queue for one in workers})
            found = await asyncio.gather(*(_queues(client.temporal, name) for name in names[:MOST_QUEUES]))
    except (TimeoutError, RPCError, SQLAlchemyError, OSError) as error:
        log.warning("console.probe_failed", probe="queues", error=type(error).__name__)
        return (), (), (Probe("Queues", "bad", "Nobody can say how they are.", "Try: horarium doctor"),)
    queues = tuple(queue for queues in found for queue in queues)
    presences = tuple(
        Presence(worker, worker.lives(now), other_release(worker.version, own_version())) for worker in workers
    )
    return queues, presences, tuple(_unserved(queues, [each.worker for each in presences if each.lives]))


def _unserved(queues: Sequence[Queue], living: Sequence[ToolWorker]) -> Sequence[Probe]:
    """Calls that wait for a tool worker which is not there."""
    with_workers = {worker.queue for worker in living}
    lost = [queue for queue in queues if queue.waiting and queue.name not in with_workers and queue.state != "ok"]
    if not lost:
        return (Probe("Tool calls", "ok", "None waits for a worker that is not there."),)
    calls = count(sum(queue.waiting for queue in lost), "call waits", "calls wait")
    whose = ", ".join(group_of(queue.name) for queue in lost)
    return (Probe("Tool calls", "bad", f"{calls} for {whose}.", "Start it: horarium worker --tools --name NAME"),)


async def _queues(temporal: TemporalClient, name: str) -> list[Queue]:
    kinds = {"steps": TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY}
    if name == ENGINE_QUEUE:
        kinds["runs"] = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
    return [await _queue(temporal, name, serves, kind) for serves, kind in kinds.items()]


async def _queue(temporal: TemporalClient, name: str, serves: str, kind: TaskQueueType.ValueType) -> Queue:
    said = await temporal.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=temporal.namespace, task_queue=TaskQueue(name=name), task_queue_type=kind, report_stats=True
        )
    )
    workers = sum(may_live(poller.identity) for poller in said.pollers)
    oldest = said.stats.approximate_backlog_age.ToTimedelta()
    return Queue(name, serves, workers, int(said.stats.approximate_backlog_count), oldest)


async def _versions(temporal: TemporalClient) -> tuple[tuple[str, str], ...]:
    ours = (("horarium", own_version()), ("Python", platform.python_version()), ("temporalio", version("temporalio")))
    try:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            server = (await temporal.workflow_service.get_system_info(GetSystemInfoRequest())).server_version
    except (TimeoutError, RPCError):
        server = "does not answer"
    return (*ours, ("Temporal server", server))
