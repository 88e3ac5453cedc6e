"""What people are told of a routine: read at the moment of telling, so that none of it travels through Temporal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Text, and_, func, or_, select, type_coerce, union
from sqlalchemy.dialects import postgresql, sqlite

from horarium.content import digest
from horarium.contract import StepKind, StepStatus
from horarium.ids import step_id
from horarium.ledger.audit import AuditEntry, append
from horarium.ledger.database import Ledger, Statements
from horarium.ledger.lateness import allowance, late_rows
from horarium.ledger.routines import RoutineRecord, Routines
from horarium.ledger.schema import approvals, notices, routines, steps, ticks
from horarium.ledger.ticks import TickRecord
from horarium.tick_protocol import Alert

MOST_LISTED = 10  # fires in one message; the rest is counted
OWED_FOR = timedelta(days=2)  # that long the watch finds what a tick that was ended has not told
MOST_OWED = 2_000  # that many of the latest are looked at, told or not
_HANDED_ON = "temporal"  # in place of an address: a workflow tells it
_NOT_DONE: tuple[StepStatus, ...] = ("failed", "unknown", "claimed", "pending")


@dataclass(frozen=True, slots=True)
class StepShown:
    """The step at which a run stopped, or is."""

    id: str
    number: int
    kind: StepKind
    name: str
    status: StepStatus
    code: str | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Question:
    """What a tick waits for."""

    id: str
    kind: str
    tool: str
    requested_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Episode:
    """Failed ticks in a row: how many, and since when."""

    failed: int
    since: datetime | None


@dataclass(frozen=True, slots=True)
class AlertShown:
    """Everything that a message about a routine says."""

    alert: Alert
    routine: RoutineRecord
    tick: TickRecord | None = None
    step: StepShown | None = None
    questions: Sequence[Question] = ()
    episode: Episode = Episode(0, None)
    fires: Sequence[TickRecord] = ()  # that were missed or came late, oldest first; cut
    fires_count: int = 0
    last_fire: datetime | None = None


class Alerts:
    """What a ledger knows for alerts."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._routines = Routines(ledger)
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert

    async def shown(self, alert: Alert) -> AlertShown | None:
        """What an alert is about; None when there is no such routine."""
        routine = await self._routines.current(alert.routine)
        if routine is None:
            return None
        async with self._ledger.read() as connection:
            row = (await connection.execute(select(ticks).where(ticks.c.id == alert.tick))).first()
            tick = TickRecord(*row) if row is not None else None
            if tick is None:
                return AlertShown(alert, routine)
            if alert.event == "not_fired":
                fires, count, last = await _fires(connection, routine, tick, alert.at)
                return AlertShown(alert, routine, tick, fires=fires, fires_count=count, last_fire=last)
            return AlertShown(
                alert,
                routine,
                tick,
                step=await _step(connection, tick.run_id),
                questions=await _questions(connection, tick.run_id),
                episode=await _episode(connection, tick),
            )

    async def parked(self, tick: TickRecord, run: str, at: datetime) -> list[Alert]:
        """One for each question that the run of a tick asks people."""
        async with self._ledger.read() as connection:
            questions = await _questions(connection, run)
        return [
            Alert(event="parked", routine=tick.routine, tick=tick.id, occurrence=question.id, at=at)
            for question in questions
        ]

    async def handed_on(self, alerts: Iterable[Alert], at: datetime) -> None:
        """Note that a workflow tells these. Safe to repeat."""
        rows = [{"id": _mark(alert), "address": _HANDED_ON, "sent_at": at} for alert in alerts]
        if rows:
            async with self._ledger.write() as connection:
                await connection.execute(self._insert(notices).on_conflict_do_nothing(), rows)

    async def owed(self, before: datetime) -> list[Alert]:
        """What closed ticks left to be told before then, and nobody has handed on."""
        # Each routine's latest tick, and the recent ones: both by index, whatever the number of ticks.
        lately = and_(ticks.c.routine == routines.c.name, ticks.c.scheduled_at > before - OWED_FOR)
        ids = union(select(routines.c.last_tick), select(ticks.c.id).select_from(routines.join(ticks, lately)))
        told_of = and_(ticks.c.closed_at < before, func.length(type_coerce(ticks.c.alerts, Text)) > len("[]"))
        query = select(ticks.c.alerts).where(ticks.c.id.in_(ids), told_of).order_by(ticks.c.closed_at.desc())
        async with self._ledger.read() as connection:
            rows = list(await connection.scalars(query.limit(MOST_OWED)))
            alerts = [Alert.model_validate(alert) for row in reversed(rows) for alert in row]
            marks = select(notices.c.id).where(notices.c.id.in_([_mark(alert) for alert in alerts]))
            there = set(await connection.scalars(marks))
        return [alert for alert in alerts if _mark(alert) not in there]

    async def failed(self, alert: Alert, tenant: str, problems: Sequence[str], at: datetime) -> None:
        """Write into the audit trail, once, that somebody could not be told."""
        entry = AuditEntry(
            kind="notice.failed",
            at=at,
            tenant=tenant,
            subject=alert.routine,
            data={"notice": f"routine.{alert.event}", "tick": alert.tick, "problems": list(problems)},
            once=f"notice.failed:routine:{alert.routine}:{alert.event}:{alert.occurrence}"[:200],
        )
        async with self._ledger.write() as connection:
            await append(connection, entry)


def _mark(alert: Alert) -> str:
    return digest(["handed_on", alert.workflow_id])


async def _fires(
    connection: Statements, routine: RoutineRecord, first: TickRecord, looked_at: datetime
) -> tuple[list[TickRecord], int, datetime | None]:
    allowed = allowance(routine.routine)
    # The watch looked up to then; what was missed later is another alert's.
    late = late_rows(first.routine, first.scheduled_at, looked_at - allowed, allowed)
    rows = await connection.execute(
        select(ticks).where(late).order_by(ticks.c.scheduled_at, ticks.c.id).limit(MOST_LISTED)
    )
    listed = [TickRecord(*row) for row in rows]
    count, last = (await connection.execute(select(func.count(), func.max(ticks.c.scheduled_at)).where(late))).one()
    return listed, count, last


async def _step(connection: Statements, run: str | None) -> StepShown | None:
    """The last step that did not get done; else the last one."""
    if run is None:
        return None
    rows = await connection.execute(
        select(steps)
        .where(steps.c.run_id == run, steps.c.kind != "approval")
        .order_by(steps.c.status.in_(_NOT_DONE).desc(), steps.c.number.desc())
        .limit(1)
    )
    row = rows.first()
    if row is None:
        return None
    return StepShown(step_id(run, row.number), row.number, row.kind, row.name, row.status, row.code, row.message)


async def _questions(connection: Statements, run: str | None) -> list[Question]:
    columns = approvals.c
    rows = await connection.execute(
        select(columns.id, columns.kind, columns.tool, columns.requested_at, columns.expires_at)
        .where(columns.run_id == run, columns.status == "pending")
        .order_by(columns.requested_at)
        .limit(MOST_LISTED)
    )
    return [Question(*row) for row in rows]


async def _episode(connection: Statements, tick: TickRecord) -> Episode:
    """The failed ticks before this one, back to the last that completed; it counts too when it failed."""
    if tick.closed_at is None:
        return Episode(0, None)
    columns = ticks.c
    before = or_(columns.closed_at < tick.closed_at, and_(columns.closed_at == tick.closed_at, columns.id == tick.id))
    completed = select(func.max(columns.closed_at)).where(
        columns.routine == tick.routine, columns.status == "completed", columns.id != tick.id, before
    )
    last = await connection.scalar(completed)
    failed = select(func.count(), func.min(columns.scheduled_at)).where(
        columns.routine == tick.routine, columns.status == "failed", before
    )
    if last is not None:
        failed = failed.where(columns.closed_at > last)
    count, since = (await connection.execute(failed)).one()
    return Episode(count, since)
