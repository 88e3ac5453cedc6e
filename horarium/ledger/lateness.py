"""Which expected fires have no tick, and which ticks do not end: what the watch asks the ledger, and writes into it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, ColumnElement, and_, or_, select, type_coerce, update
from sqlalchemy.dialects import postgresql, sqlite

from horarium.contract import OPEN_TICK_STATUSES
from horarium.ledger.database import Ledger
from horarium.ledger.routines import RoutineRecord
from horarium.ledger.schema import routines, ticks
from horarium.ledger.ticks import TickRecord
from horarium.routines import Routine
from horarium.tick_protocol import Alert

MOST_FIRES = 1_000  # of one routine that one look of the watch goes through; the rest is passed over
LATE = timedelta(minutes=5)  # where a routine does not say `late_after`: written down, nobody is told
_AT_ONCE = 500  # rows of one statement


@dataclass(frozen=True, slots=True)
class MissedFire:
    """A fire without a tick, and why, as far as it is known."""

    id: str
    trigger: str
    at: datetime
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class OpenTick:
    """A tick that waits or runs."""

    id: str
    routine: str
    scheduled_at: datetime
    opened_at: datetime


def allowance(routine: Routine) -> timedelta:
    """How long after its scheduled time a tick may begin before it counts as late."""
    return routine.jitter + (routine.late_after or LATE)


def is_late(tick: TickRecord, allowed: timedelta) -> bool:
    """Whether the tick of a fire did not come, or not in time."""
    if tick.source != "schedule":
        return False  # somebody had it made up for
    if tick.status == "missed" or (tick.status, tick.reason) == ("skipped", "too_late"):
        return True
    return tick.opened_at is not None and tick.opened_at - tick.scheduled_at > allowed


def late_rows(routine: str, start: datetime, end: datetime, allowed: timedelta) -> ColumnElement[bool]:
    """As `is_late`, of the ticks that a routine's schedules should have started from `start` to `end`."""
    waited = type_coerce(ticks.c.opened_at, BigInteger) - type_coerce(ticks.c.scheduled_at, BigInteger)
    return and_(
        ticks.c.routine == routine,
        ticks.c.source == "schedule",
        ticks.c.scheduled_at >= start,
        ticks.c.scheduled_at <= end,
        or_(
            ticks.c.status == "missed",
            and_(ticks.c.status == "skipped", ticks.c.reason == "too_late"),
            waited > allowed // timedelta(microseconds=1),
        ),
    )


class Lateness:
    """Ticks against the clock."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert

    async def known(self, ids: Sequence[str]) -> dict[str, TickRecord]:
        """Those of these ticks that there are."""
        found: dict[str, TickRecord] = {}
        async with self._ledger.read() as connection:
            for start in range(0, len(ids), _AT_ONCE):
                query = select(ticks).where(ticks.c.id.in_(ids[start : start + _AT_ONCE]))
                found |= {row.id: TickRecord(*row) for row in await connection.execute(query)}
        return found

    async def miss(self, routine: RoutineRecord, missed: Sequence[MissedFire], at: datetime) -> None:
        """Write down that ticks did not come; one that comes after all opens the row. Safe to repeat."""
        common = {
            "routine": routine.name,
            "tenant": routine.tenant,
            "incarnation": routine.incarnation,
            "source": "schedule",
            "status": "missed",
            "closed_at": at,
            **dict.fromkeys(("attempts", "turns", "input_tokens", "output_tokens", "cost_micro_usd"), 0),
        }
        rows = [
            {"id": fire.id, "trigger": fire.trigger, "scheduled_at": fire.at, "reason": fire.reason}
            | common
            | {"message": fire.message}
            for fire in missed
        ]
        async with self._ledger.write() as connection:
            for start in range(0, len(rows), _AT_ONCE):
                await connection.execute(self._insert(ticks).on_conflict_do_nothing(), rows[start : start + _AT_ONCE])

    async def watched(self, until: Mapping[str, datetime]) -> None:
        """Note, by routine, that every expected fire up to then is accounted for. Safe to repeat."""
        async with self._ledger.write() as connection:
            for name, moment in until.items():
                await connection.execute(
                    update(routines)
                    .where(routines.c.name == name, routines.c.watched_until < moment)
                    .values(watched_until=moment)
                )

    async def open_ticks(self, opened_before: datetime, limit: int) -> list[OpenTick]:
        """Ticks that are not done, oldest first."""
        columns = ticks.c
        query = (
            select(columns.id, columns.routine, columns.scheduled_at, columns.opened_at)
            .where(columns.status.in_(OPEN_TICK_STATUSES), columns.opened_at < opened_before)
            .order_by(columns.opened_at, columns.id)
            .limit(limit)
        )
        async with self._ledger.read() as connection:
            return [OpenTick(*row) for row in await connection.execute(query)]

    async def not_finished(self, at: datetime) -> list[TickRecord]:
        """Ticks that have been open for too long by their routine's `late_after`, and of which nobody was told."""
        query = select(ticks).where(ticks.c.status.in_(OPEN_TICK_STATUSES), ticks.c.alerts.is_(None))
        async with self._ledger.read() as connection:
            found = [TickRecord(*row) for row in await connection.execute(query)]
        return [tick for tick in found if tick.definition is not None and _is_overdue(tick, at)]

    async def told(self, alerts: Iterable[Alert]) -> None:
        """Note of open ticks that people were told of them."""
        async with self._ledger.write() as connection:
            for alert in alerts:
                await connection.execute(
                    update(ticks)
                    .where(ticks.c.id == alert.tick, ticks.c.status.in_(OPEN_TICK_STATUSES))
                    .values(alerts=[alert.model_dump(mode="json")])
                )


def due_since(tick: TickRecord) -> datetime:
    """From when a tick's time is counted: as scheduled, unless it was opened later than it may be."""
    opened = tick.opened_at or tick.scheduled_at
    late = opened - tick.scheduled_at > allowance(tick.routine_then)
    return opened if late or tick.source != "schedule" else tick.scheduled_at


def _is_overdue(tick: TickRecord, at: datetime) -> bool:
    routine = tick.routine_then
    if routine.late_after is None:
        return False
    return at > due_since(tick) + routine.jitter + routine.timeout + routine.late_after
