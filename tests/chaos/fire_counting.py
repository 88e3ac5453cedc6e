"""What the ledger, Temporal and the book say about fires, against what should have come."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select
from temporalio.client import Client as TemporalClient

from horarium.client import Client
from horarium.contract import RUN_WORKFLOW, TICK_WORKFLOW, TickStatus
from horarium.ids import split_step_id
from horarium.ledger.schema import runs
from horarium.ledger.ticks import TickRecord
from schedules.expected import Fire

ALL = 1_000_000


@dataclass(slots=True)
class Evidence:
    """What the ledger, Temporal and the book have."""

    ticks: Sequence[TickRecord]
    runs: Mapping[str, list[str]]  # by tick
    counted: Counter[str]  # lines in the book, by run
    tick_starts: Counter[str] = field(default_factory=Counter)  # workflows of Temporal, by id
    run_starts: Counter[str] = field(default_factory=Counter)
    still_running: int = 0
    given_up: int = 0  # fires that Temporal's schedules would not catch up with

    @classmethod
    async def of(cls, client: Client, book: Path) -> Evidence:
        """All of it."""
        temporal = client.temporal
        of_tick: defaultdict[str, list[str]] = defaultdict(list)
        async with client.require_ledger().read() as connection:
            for run, tick in await connection.execute(select(runs.c.id, runs.c.tick)):
                of_tick[tick].append(run)
        lines = book.read_text("utf-8").splitlines() if book.exists() else []
        schedules = [temporal.get_schedule_handle(item.id) async for item in await temporal.list_schedules()]
        described = [await schedule.describe() for schedule in schedules]
        return cls(
            ticks=await client.ticks(limit=ALL),
            runs=of_tick,
            counted=Counter(split_step_id(json.loads(line)["step"])[0] for line in lines),
            tick_starts=await _starts(temporal, TICK_WORKFLOW),
            run_starts=await _starts(temporal, RUN_WORKFLOW),
            still_running=await running(temporal),
            given_up=sum(description.info.num_actions_missed_catchup_window for description in described),
        )


@dataclass(slots=True)
class Findings:
    """The figures, and the lists that should be empty."""

    due: int = 0
    ticks: Counter[TickStatus] = field(default_factory=Counter)
    effects: int = 0
    starts: int = 0
    found_done: int = 0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    badly: list[str] = field(default_factory=list)
    used_up: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """Everything that breaks a promise, in words; empty when all is well."""
        return [
            *(f"lost: {words}" for words in self.lost),
            *(f"done twice: {words}" for words in self.twice),
            *(f"not expected: {words}" for words in self.outside),
            *(f"ended badly: {words}" for words in self.badly),
            *(f"an attempt used up: {words}" for words in self.used_up),
            *(f"left over: {words}" for words in self.left),
        ]


def count(wanted: Mapping[str, Fire], evidence: Evidence) -> Findings:
    """Compare what should have come, by the id of its tick, with what came."""
    ticks = {tick.id: tick for tick in evidence.ticks}
    found = Findings(
        due=len(wanted),
        ticks=Counter(tick.status for tick in evidence.ticks),
        effects=evidence.counted.total(),
        starts=evidence.tick_starts.total(),
        found_done=sum(starts - 1 for starts in evidence.tick_starts.values()),
        lateness=sorted(tick.lateness.total_seconds() for tick in evidence.ticks if tick.lateness is not None),
    )
    found.lost = [f"{name}: {_fate(ticks.get(name))}" for name in sorted(wanted) if _is_lost(ticks.get(name))]
    found.outside = [f"{name}: a tick without a fire" for name in sorted(ticks.keys() - wanted.keys())]
    found.outside += [
        f"{name}: a workflow without a fire" for name in sorted(evidence.tick_starts.keys() - wanted.keys())
    ]
    for name, tick in sorted(ticks.items()):
        if name in wanted and tick.scheduled_at != wanted[name].at:
            found.outside.append(f"{name}: written down as of {tick.scheduled_at}")
        if tick.status in ("failed", "cancelled"):
            found.badly.append(f"{name}: {_fate(tick)}")
        if tick.attempts > 1:
            found.used_up.append(f"{name}: {tick.attempts} attempts")
        if tick.is_open:
            found.left.append(f"{name}: {_fate(tick)}")
        found.twice += _twice(name, evidence)
        if tick.status == "completed" and not any(evidence.counted[run] for run in evidence.runs.get(name, ())):
            found.lost.append(f"{name}: completed, and not in the book")
    if evidence.still_running:
        found.left.append(f"{evidence.still_running} workflows of ticks still run")
    if evidence.given_up:
        found.lost.append(f"{evidence.given_up} fires, which Temporal's schedules have given up")
    return found


def _twice(tick: str, evidence: Evidence) -> Iterator[str]:
    of_tick = evidence.runs.get(tick, [])
    if len(of_tick) > 1:
        yield f"{tick}: {len(of_tick)} runs"
    for run in of_tick:
        if evidence.run_starts[run] > 1:
            yield f"{tick}: its run {run} was started {evidence.run_starts[run]} times"
    if (effects := sum(evidence.counted[run] for run in of_tick)) > 1:
        yield f"{tick}: counted {effects} times"


def _is_lost(tick: TickRecord | None) -> bool:
    return tick is None or tick.status in ("missed", "skipped")


def _fate(tick: TickRecord | None) -> str:
    return "no tick" if tick is None else f"{tick.status}, {tick.reason}: {tick.message}"


async def _starts(temporal: TemporalClient, kind: str) -> Counter[str]:
    """Workflows by id, each start counted."""
    found = [item async for item in temporal.list_workflows(f"WorkflowType = '{kind}'")]
    return Counter(item.id for item in found)


async def running(temporal: TemporalClient) -> int:
    """How many ticks have a workflow that runs."""
    query = f"WorkflowType = '{TICK_WORKFLOW}' AND ExecutionStatus = 'Running'"
    return (await temporal.count_workflows(query)).count
