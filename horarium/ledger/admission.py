"""Who may begin: every rule that keeps a tick waiting or has it skipped, in one place.

Asked when a tick is opened and again each time that it may be its turn, within a transaction that holds the routine's
row. Nothing here reads more rows than it names: a thousand that wait cost no more than one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, and_, func, or_, select, update

from horarium.contract import TickSource, TickStatus
from horarium.durations import words
from horarium.ledger.database import Statements
from horarium.ledger.routines import RoutineRecord
from horarium.ledger.schema import ticks
from horarium.routines import Overlap, Routine
from horarium.tick_protocol import TickPlan

if TYPE_CHECKING:
    from horarium.ledger.ticks import TickRecord

RUNNING: tuple[TickStatus, ...] = ("running", "parked")
ASKED_FOR: tuple[TickSource, ...] = ("manual", "backfill")
MOST_WAITING = 1_000  # ticks of one routine, with `overlap: buffer_all`
MOST_TOLD = 4  # ticks that one that ends tells: the one that takes its place, and some in case it may not
LEAST_CATCH_UP = timedelta(minutes=1)  # a worker that restarts is no outage
_CAP_LOCK = 7_206_019  # any number, the same in every process of ours


@dataclass(frozen=True, slots=True)
class Opened:
    """What asking came to, and the ticks that have to end first (`cancel_other`, `terminate_other`)."""

    plan: TickPlan
    cancel: tuple[str, ...] = ()
    terminate: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Other:
    """Another open tick of the routine."""

    id: str
    status: TickStatus
    source: TickSource
    scheduled_at: datetime


def overlap_of(source: TickSource, routine: RoutineRecord | None) -> Overlap:
    """What a tick does while another one is not done.

    A person who asks for a tick wants it done, and a backfill all of its ticks: they wait their turn.
    """
    if source in ASKED_FOR:
        return "buffer_all"
    return routine.routine.overlap if routine is not None else "skip"


def is_of(tick: TickRecord, routine: RoutineRecord) -> bool:
    """Whether the routine is still the one that the tick is of, and not another one of its name."""
    return tick.incarnation == routine.incarnation and tick.tenant == routine.tenant


async def admit(
    connection: Statements, routine: RoutineRecord | None, tick: TickRecord, at: datetime, max_running: int
) -> Opened:
    """Let a tick begin, or say why it waits or never will. Safe to repeat."""
    if not tick.is_open:
        return Opened(_ended(tick))
    if tick.status in RUNNING:
        return Opened(_plan(tick.routine_then))
    if routine is None or routine.deleted_at is not None or not is_of(tick, routine):
        return Opened(await _skip(connection, tick, "deleted", "Skipped: the routine was deleted.", at))
    asked_for, waits = tick.source in ASKED_FOR, tick.message is not None
    if routine.paused and not asked_for:
        why = f"Skipped: the routine is paused{f': {routine.pause_note}' if routine.pause_note else '.'}"
        return Opened(await _skip(connection, tick, "paused", why, at))
    if not waits and (late := _too_late(tick, routine.routine, at)) is not None:
        return Opened(await _skip(connection, tick, "too_late", late, at))
    if routine.held_by not in (None, tick.id):
        held = f"tick {routine.held_by} waits for an approval, and holds the next ones."
        if waits or asked_for:
            return Opened(await _wait(connection, tick, f"Waits: {held}"))
        return Opened(await _skip(connection, tick, "held", f"Skipped: {held}", at))
    overlapping = await _overlapping(connection, tick, at, waits=waits)
    if overlapping is not None:
        return overlapping
    await connection.lock(_CAP_LOCK)
    if await _running(connection) >= max_running:
        why = f"Waits: {max_running} ticks run at once (`max_ticks` in [routines])."
        return Opened(await _wait(connection, tick, why))
    await connection.execute(
        update(ticks)
        .where(ticks.c.id == tick.id)
        # The state as it is now: whoever waited, waited for the one who changes it.
        .values(status="running", started_at=at, message=None, state=dict(routine.state))
    )
    return Opened(_plan(tick.routine_then))


async def next_waiting(connection: Statements, at: datetime, max_running: int) -> tuple[str, ...]:
    """The ticks that may begin now, to be told so: the oldest over all routines, who was told lately last.

    A routine whose tick is not done has none, and any other one, unless its ticks may overlap.
    """
    free = max_running - await _running(connection)
    if free <= 0:
        return ()
    busy = select(ticks.c.routine).where(ticks.c.status.in_(RUNNING))
    place = func.row_number().over(partition_by=ticks.c.routine, order_by=(ticks.c.scheduled_at, ticks.c.id))
    waiting = (
        select(ticks.c.id, ticks.c.overlap, ticks.c.told_at, ticks.c.scheduled_at, place.label("place"))
        .where(ticks.c.status == "queued", or_(ticks.c.overlap == "allow_all", ticks.c.routine.not_in(busy)))
        .subquery()
    )
    found = await connection.scalars(
        select(waiting.c.id)
        .where(or_(waiting.c.overlap == "allow_all", waiting.c.place == 1))
        .order_by(waiting.c.told_at.is_not(None), waiting.c.told_at, waiting.c.scheduled_at, waiting.c.id)
        .limit(min(free, MOST_TOLD))
    )
    told = tuple(found)
    if told:
        await connection.execute(update(ticks).where(ticks.c.id.in_(told)).values(told_at=at))
    return told


async def _overlapping(connection: Statements, tick: TickRecord, at: datetime, *, waits: bool) -> Opened | None:
    """What follows from other ticks of the routine that are not done; None when nothing does."""
    if tick.overlap == "allow_all":
        return None
    running = await _others(connection, tick, ticks.c.status.in_(RUNNING), limit=MOST_WAITING)
    before = await _others(connection, tick, and_(ticks.c.status == "queued", _earlier(tick)), limit=1)
    if not running and not before:
        return None
    first = (running or before)[0]
    ends: dict[str, tuple[str, ...]] = {}
    match tick.overlap:
        case "skip" if not waits:
            why = f"Skipped: the tick of {_shown(first)} was not done ({first.status})."
            return Opened(await _skip(connection, tick, "overlap", why, at))
        case "buffer_one" | "buffer_all" as overlap if not waits:
            most = 1 if overlap == "buffer_one" else MOST_WAITING
            if await _waiting(connection, tick) >= most:
                why = "Skipped: one waits already." if most == 1 else f"Skipped: {most:,} ticks wait already."
                return Opened(await _skip(connection, tick, "overlap", why, at))
        case "cancel_other":
            ends["cancel"] = await _in_the_way(connection, tick)
        case "terminate_other":
            ends["terminate"] = await _in_the_way(connection, tick)
        case _:
            pass
    return Opened(await _wait(connection, tick, f"Waits for the tick of {_shown(first)}."), **ends)


def _too_late(tick: TickRecord, definition: Routine, at: datetime) -> str | None:
    late, may_be = at - tick.scheduled_at, max(definition.catch_up, LEAST_CATCH_UP) + definition.jitter
    if tick.source != "schedule" or late <= may_be:
        return None
    return f"Skipped: it came {words(late)} late; `catch_up` is {words(definition.catch_up) or '0s'}."


async def _in_the_way(connection: Statements, tick: TickRecord) -> tuple[str, ...]:
    """Older ticks that triggers set off; what people asked for is waited for, and a newer one too."""
    older = and_(ticks.c.status.in_((*RUNNING, "queued")), ticks.c.source.not_in(ASKED_FOR), _earlier(tick))
    return tuple(other.id for other in await _others(connection, tick, older, limit=MOST_WAITING))


async def _others(connection: Statements, tick: TickRecord, which: ColumnElement[bool], *, limit: int) -> list[_Other]:
    query = (
        select(ticks.c.id, ticks.c.status, ticks.c.source, ticks.c.scheduled_at)
        .where(_of_the_same(tick), which)
        .order_by(ticks.c.scheduled_at, ticks.c.id)
        .limit(limit)
    )
    return [_Other(*row) for row in await connection.execute(query)]


async def _waiting(connection: Statements, tick: TickRecord) -> int:
    query = select(func.count()).where(_of_the_same(tick), ticks.c.status == "queued")
    return int(await connection.scalar(query) or 0)


def _of_the_same(tick: TickRecord) -> ColumnElement[bool]:
    return and_(ticks.c.routine == tick.routine, ticks.c.incarnation == tick.incarnation, ticks.c.id != tick.id)


def _earlier(tick: TickRecord) -> ColumnElement[bool]:
    same_time = and_(ticks.c.scheduled_at == tick.scheduled_at, ticks.c.id < tick.id)
    return or_(ticks.c.scheduled_at < tick.scheduled_at, same_time)


async def _running(connection: Statements) -> int:
    """Ticks that work now; one that waits for people, or for its next attempt, does not."""
    query = select(func.count()).where(ticks.c.status == "running", ticks.c.next_try_at.is_(None))
    return int(await connection.scalar(query) or 0)


def _plan(definition: Routine) -> TickPlan:
    return TickPlan(
        decision="run",
        agent=definition.agent,
        timeout=definition.timeout,
        attempt_timeout=definition.attempt_timeout,
        on_failure=definition.on_failure,
        retry=definition.ladder,
        unattended=definition.unattended,
    )


def _ended(tick: TickRecord) -> TickPlan:
    return TickPlan(decision="end", status=tick.status, reason=tick.reason, message=tick.message)


async def _skip(connection: Statements, tick: TickRecord, reason: str, message: str, at: datetime) -> TickPlan:
    values: dict[str, Any] = {"status": "skipped", "reason": reason, "message": message, "closed_at": at}
    await connection.execute(update(ticks).where(ticks.c.id == tick.id).values(**values))
    return TickPlan(decision="end", status="skipped", reason=reason, message=message)


async def _wait(connection: Statements, tick: TickRecord, why: str) -> TickPlan:
    if tick.message != why:
        await connection.execute(update(ticks).where(ticks.c.id == tick.id).values(message=why))
    return TickPlan(decision="wait", status="queued", message=why)


def _shown(tick: _Other) -> str:
    return f"{tick.scheduled_at:%Y-%m-%d %H:%M:%S} UTC"
