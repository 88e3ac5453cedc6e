"""`python -m bench storm`: a thousand routines that fire at the same second, and a cap on how many run at once.

On a stack of its own. What is judged is what must hold on any machine: every tick starts once, and never more than the
cap run. How fast they come is only shown; it is the machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from rich.console import Console
from sqlalchemy import func, select
from temporalio.client import Client as TemporalClient

from bench.report import Report, Row, table
from horarium.client import Client
from horarium.contract import TICK_WORKFLOW
from horarium.durations import duration
from horarium.ledger.schema import runs, ticks
from horarium.ledger.ticks import TickRecord
from horarium.routines import Routine, tick_id
from horarium.settings import STATE_DIR
from schedules.deploy import Deployment
from schedules.differences import Plan, differences
from tests.support.stack import running_stack, scratch

ROUTINES, AT_ONCE, JITTER = 1_000, 50, timedelta(seconds=30)
LEAST_LEAD = timedelta(seconds=8)  # from the first deployment to the storm
LEAD_EACH = timedelta(milliseconds=60)  # more of it for each routine
LONGEST = timedelta(minutes=10)  # until all ticks have ended
LOOK_EVERY = 0.5  # seconds
ALL = 1_000_000

# A tick's own times are those of its workflow, which asks to be let in a moment before it is: they overlap a little.
COUNTING = (
    "CREATE TABLE storm (most INTEGER NOT NULL)",
    "INSERT INTO storm VALUES (0)",
    "CREATE TRIGGER storm_counts AFTER UPDATE OF status ON ticks WHEN NEW.status = 'running' BEGIN "
    "UPDATE storm SET most = max(most, (SELECT count(*) FROM ticks WHERE status = 'running')); END",
)

AGENT = "name: clerk\nmodel: scripted:scripts/clerk.yaml\n"
SCRIPT = json.dumps([{"text": "Done."}])


@dataclass(frozen=True, slots=True)
class Storm:
    """What was measured. Moments are those of the ledger."""

    at: datetime
    names: Sequence[str]
    at_once: int
    deployed: timedelta
    planned: timedelta
    ticks: Sequence[TickRecord]
    due: dict[str, datetime]  # by tick, jitter included
    starts: Counter[str]  # workflows of ticks, by id
    runs: Counter[str]  # by tick
    most_running: int  # at once, counted by the ledger itself at each change

    @property
    def wrong(self) -> int:
        """Ticks that did not come, did not complete, came without a fire, or came or ran more than once."""
        wanted = {tick_id(name, self.at) for name in self.names}
        well = {tick.id for tick in self.ticks if tick.status == "completed" and tick.attempts == 1}
        doubled = {name for counts in (self.starts, self.runs) for name, times in counts.items() if times > 1}
        return len(wanted ^ (well - doubled)) + len(self.starts.keys() - wanted)

    @property
    def rows(self) -> list[Row]:
        """For the table."""
        count = len(self.names)
        started = {tick.id: tick.started_at for tick in self.ticks if tick.started_at is not None}
        late = sorted((at - self.at).total_seconds() for at in started.values())
        behind = sorted((at - self.due[name]).total_seconds() for name, at in started.items() if name in self.due)
        ended = max((tick.closed_at for tick in self.ticks if tick.closed_at is not None), default=self.at)
        whole = (ended - self.at).total_seconds()
        rows = [
            _row(f"deploy {count:,} routines", "s", self.deployed.total_seconds()),
            _row(f"plan {count:,} routines, none of them changed", "s", self.planned.total_seconds()),
            _row("ticks lost, doubled or not completed", "of them", self.wrong, bar=0),
            _row("most ticks running at once", "ticks", self.most_running, bar=self.at_once),
        ]
        for what, figures in (("scheduled + jitter → started", behind), ("scheduled → started", late)):
            if figures:
                rows.append(_row(f"{what}, median", "s", median(figures)))
                rows.append(_row(f"{what}, p99", "s", figures[math.ceil(len(figures) * 0.99) - 1]))
        if whole:
            rows.append(_row("scheduled → all have ended", "s", whole))
            rows.append(_row("throughput", "ticks/s", count / whole))
        return rows


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 when a tick was lost or doubled, or more ran at once than may."""
    parser = argparse.ArgumentParser(prog="python -m bench storm", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--routines", type=int, default=ROUTINES, metavar="N", help="Default: 1,000.")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, metavar="N", help="`max_ticks`. Default: 50.")
    parser.add_argument("--jitter", type=duration, default=JITTER, metavar="DURATION", help="Default: 30s.")
    parser.add_argument("--out", type=Path, help="JSON file. Default: none.")
    chosen = parser.parse_args(arguments)
    console, directory = Console(), scratch()
    try:
        with console.status("deploying, waiting for the fires, letting them end"):
            measured = asyncio.run(storm(directory, chosen.routines, at_once=chosen.at_once, jitter=chosen.jitter))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    report = Report.of(measured.rows, quick=False)
    if chosen.out:
        report.write(chosen.out)
    console.print(table(report))
    return 1 if any(row.met is False for row in measured.rows) else 0


async def storm(directory: Path, count: int, *, at_once: int, jitter: timedelta) -> Storm:
    """Deploy, wait for the one second at which all of them fire, and let all ticks end.

    Raises:
        RuntimeError: Deploying was not done by then, so nothing can be said of the fires.
    """
    settings = f"[routines]\nmax_ticks = {at_once}\n"
    agents, scripts = {"clerk": AGENT}, {"clerk.yaml": SCRIPT}
    async with running_stack(directory, agents=agents, scripts=scripts, settings=settings) as stack:
        client = stack.client
        at = (datetime.now(UTC) + LEAST_LEAD + count * LEAD_EACH).replace(microsecond=0)
        wanted = {routine.name: routine for routine in (_routine(number, at, jitter) for number in range(count))}
        ledger = stack.directory / STATE_DIR / "ledger.db"
        _in(ledger, *COUNTING)
        began = time.monotonic()
        await _deploy(client, wanted)
        deployed = time.monotonic() - began
        if datetime.now(UTC) >= at:
            raise RuntimeError(f"Deploying {count:,} routines took {deployed:.0f} s, longer than there was time.")
        began = time.monotonic()
        unchanged = await _plan(client, wanted)
        planned = time.monotonic() - began
        if not unchanged.empty:
            raise RuntimeError("What was just deployed differs from what it was deployed from.")
        await _until_all_ended(client, count)
        due, starts, of_tick = await asyncio.gather(
            _due(client.temporal, wanted.values(), at), _starts(client.temporal), _runs(client)
        )
        return Storm(
            at=at,
            names=list(wanted),
            at_once=at_once,
            deployed=timedelta(seconds=deployed),
            planned=timedelta(seconds=planned),
            ticks=await client.ticks(limit=ALL),
            due=due,
            starts=starts,
            runs=of_tick,
            most_running=_in(ledger, "SELECT most FROM storm"),
        )


def _routine(number: int, at: datetime, jitter: timedelta) -> Routine:
    line = f"{at.minute} {at.hour} * * * {at.second}"
    return Routine.model_validate(
        {
            "name": f"storm-{number:04}",
            "agent": "clerk",
            "input": "Say that it is done.",
            "triggers": {"daily": {"cron": line}},
            "jitter": jitter,
        }
    )


async def _plan(client: Client, wanted: dict[str, Routine]) -> Plan:
    ledger, now = client.require_ledger(), datetime.now(UTC)
    return await differences(ledger, client.temporal, wanted, whole=True, prune=False, now=now)


async def _deploy(client: Client, wanted: dict[str, Routine]) -> None:
    deployment = Deployment(client.require_ledger(), client.temporal)
    outcomes = await deployment.apply(await _plan(client, wanted), by="bench")
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error


async def _until_all_ended(client: Client, count: int) -> None:
    """Wait for all ticks, at most `LONGEST`."""
    deadline = time.monotonic() + LONGEST.total_seconds()
    query = select(ticks.c.status, func.count()).group_by(ticks.c.status)
    while time.monotonic() < deadline:
        async with client.require_ledger().read() as connection:
            found: dict[str, int] = {status: number for status, number in await connection.execute(query)}
        if sum(found.values()) >= count and not found.keys() & {"queued", "running", "parked"}:
            return
        await asyncio.sleep(LOOK_EVERY)


def _in(ledger: Path, *statements: str) -> int:
    """Say something to the ledger's file; the first figure of the last answer, 0 without one."""
    with closing(sqlite3.connect(ledger, timeout=10)) as connection, connection:
        answers = [connection.execute(statement).fetchone() for statement in statements]
    return int(answers[-1][0]) if answers[-1] else 0


async def _due(temporal: TemporalClient, routines: Iterable[Routine], at: datetime) -> dict[str, datetime]:
    """When each tick was to start, by Temporal's jitter."""
    found: dict[str, datetime] = {}
    for routine in routines:
        for trigger in routine.timed:
            described = await temporal.get_schedule_handle(routine.schedule_id(trigger)).describe()
            for action in described.info.recent_actions:
                found[tick_id(routine.name, at)] = action.scheduled_at
    return found


async def _starts(temporal: TemporalClient) -> Counter[str]:
    return Counter([item.id async for item in temporal.list_workflows(f"WorkflowType = '{TICK_WORKFLOW}'")])


async def _runs(client: Client) -> Counter[str]:
    async with client.require_ledger().read() as connection:
        return Counter(await connection.scalars(select(runs.c.tick).where(runs.c.tick.is_not(None))))


def _row(measure: str, unit: str, figure: float, bar: float | None = None) -> Row:
    return Row(part="storm", measure=measure, unit=unit, horarium=figure, judged="value", bar=bar)
