"""Ticks: who may begin, what each attempt goes on with, and what is left for the next one.

Overlap is decided here and not by Temporal's schedules: it holds across all triggers of a routine and for ticks that
people set off, and every tick that does not run leaves its reason. Each change is one transaction under the lock of
the routine's row, so two ticks never both believe to be the only one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from horarium.contract import OPEN_TICK_STATUSES, TickSource, TickStatus
from horarium.durations import words
from horarium.errors import RoutineNotFound
from horarium.ledger.database import Ledger, Statements
from horarium.ledger.routines import ENGINE, RoutineRecord
from horarium.ledger.schema import routines, runs, ticks
from horarium.routines import Routine
from horarium.tick_protocol import Alert, CloseTick, EndAttempt, OpenTick, TickPlan

ASKED_FOR: tuple[TickSource, ...] = ("manual", "backfill")
RUNNING: tuple[TickStatus, ...] = ("running", "parked")
MOST_TOLD = 4  # ticks that one that ends tells: the one that takes its place, and some in case it may not
MOST_WAITING = 1_000  # ticks of one routine, with `overlap: buffer_all`
_CAP_LOCK = 7_206_019  # any number, the same in every process of ours
LEAST_CATCH_UP = timedelta(minutes=1)  # a worker that restarts is no outage


@dataclass(frozen=True)
class TickRecord:
    """One tick as the ledger has it. Times are UTC."""

    id: str
    routine: str
    tenant: str
    trigger: str | None
    source: TickSource
    scheduled_at: datetime
    execution: str | None
    definition: Mapping[str, Any] | None
    event: Mapping[str, Any] | None
    status: TickStatus
    reason: str | None
    message: str | None
    input: str | None
    state: Mapping[str, Any] | None
    attempts: int
    run_id: str | None
    thread_id: str | None
    next_try_at: datetime | None
    told_at: datetime | None
    output: str | None
    alerts: Sequence[Mapping[str, Any]] | None
    turns: int
    input_tokens: int
    output_tokens: int
    cost_micro_usd: int
    opened_at: datetime | None
    started_at: datetime | None
    closed_at: datetime | None

    @cached_property
    def routine_then(self) -> Routine:
        """The definition that the tick was opened with.

        Raises:
            RoutineNotFound: It never was opened.
        """
        if self.definition is None:
            raise RoutineNotFound(f"Tick {self.id!r} was never opened.")
        return Routine.model_validate(dict(self.definition))

    @property
    def is_open(self) -> bool:
        """Whether it waits or runs."""
        return self.status in OPEN_TICK_STATUSES

    @property
    def lateness(self) -> timedelta | None:
        """From its scheduled time to its start; None when it did not start."""
        return self.started_at - self.scheduled_at if self.started_at is not None else None


@dataclass(frozen=True, slots=True)
class Opened:
    """What opening came to, and the ticks that have to end first (`cancel_other`, `terminate_other`)."""

    plan: TickPlan
    cancel: tuple[str, ...] = ()
    terminate: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Closed:
    """Whom a closed tick concerns: people, and ticks that may begin now."""

    alerts: tuple[Alert, ...] = ()
    next: tuple[str, ...] = ()


class Ticks:
    """The ticks of a ledger; `max_running`: how many run at once, of all routines together."""

    def __init__(self, ledger: Ledger, *, max_running: int = 50) -> None:
        self._ledger = ledger
        self._max_running = max_running
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert

    # ---- looking

    async def get(self, tick: str) -> TickRecord:
        """One tick.

        Raises:
            RoutineNotFound: There is none of this id.
        """
        async with self._ledger.read() as connection:
            row = (await connection.execute(select(ticks).where(ticks.c.id == tick))).first()
        if row is None:
            raise RoutineNotFound(f"There is no tick {tick!r}.", hint="See them: horarium routine ticks NAME")
        return TickRecord(*row)

    async def list(
        self,
        *,
        routine: str | None = None,
        tenant: str | None = None,
        status: Sequence[TickStatus] = (),
        since: datetime | None = None,
        limit: int = 50,
    ) -> list[TickRecord]:
        """The latest ticks, by scheduled time, newest first."""
        query = select(ticks).order_by(ticks.c.scheduled_at.desc(), ticks.c.id.desc()).limit(limit)
        if status:
            query = query.where(ticks.c.status.in_(status))
        if since is not None:
            query = query.where(ticks.c.scheduled_at >= since)
        for column, value in ((ticks.c.routine, routine), (ticks.c.tenant, tenant)):
            if value is not None:
                query = query.where(column == value)
        async with self._ledger.read() as connection:
            return [TickRecord(*row) for row in await connection.execute(query)]

    async def of_run(self, run: str) -> TickRecord | None:
        """The tick of which a run is an attempt."""
        query = select(ticks).join(runs, runs.c.tick == ticks.c.id).where(runs.c.id == run)
        async with self._ledger.read() as connection:
            row = (await connection.execute(query)).first()
        return TickRecord(*row) if row is not None else None

    # ---- opening

    async def open(self, opening: OpenTick) -> Opened:
        """Write a tick down, once, and say whether it begins, waits, or is skipped and why. Safe to repeat."""
        request = opening.request
        async with self._ledger.write() as connection:
            routine = await _routine(connection, request.routine)
            fresh = {
                "trigger": request.trigger,
                "source": request.source,
                "execution": opening.execution,
                "definition": dict(routine.definition) if routine is not None else None,
                "event": {"event": request.event, "input": request.input, "by": request.by},
                "state": dict(routine.state) if routine is not None else None,
                "status": "queued",
                "opened_at": opening.at,
            }
            tenant = routine.tenant if routine is not None else "default"
            made = await connection.execute(
                self._insert(ticks)
                .values(
                    id=opening.tick,
                    routine=request.routine,
                    tenant=tenant,
                    scheduled_at=opening.scheduled_at,
                    attempts=0,
                    turns=0,
                    input_tokens=0,
                    output_tokens=0,
                    cost_micro_usd=0,
                    **fresh,
                )
                .on_conflict_do_nothing()
            )
            tick = await _tick(connection, opening.tick)
            if not made.rowcount and tick.status == "missed" and tick.execution is None:
                # It was taken for lost, and comes after all.
                await connection.execute(
                    update(ticks)
                    .where(ticks.c.id == tick.id)
                    .values(**fresh, reason=None, message=None, closed_at=None)
                )
                tick = await _tick(connection, opening.tick)
            if tick.execution != opening.execution:
                message = f"This tick is {tick.status} already; a tick happens once."
                return Opened(TickPlan(decision="end", status=tick.status, reason="done_before", message=message))
            if not tick.is_open:
                return Opened(_ended(tick))
            refusal = _refusal(tick, routine, opening.at)
            if refusal is not None or routine is None:
                reason, message = refusal or ("deleted", "The routine was deleted.")
                return Opened(await _skip(connection, tick, reason, message, opening.at))
            return await self._admit(connection, routine, tick, opening.at)

    async def admit(self, tick_id: str, at: datetime) -> Opened:
        """Ask again for a tick that waits. Safe to repeat."""
        async with self._ledger.write() as connection:
            name = await connection.scalar(select(ticks.c.routine).where(ticks.c.id == tick_id))
            routine = await _routine(connection, name or "")
            tick = await _tick(connection, tick_id)
            if not tick.is_open:
                return Opened(_ended(tick))
            if routine is None:
                return Opened(await _skip(connection, tick, "deleted", "The routine was deleted.", at))
            return await self._admit(connection, routine, tick, at)

    async def _admit(self, connection: Statements, routine: RoutineRecord, tick: TickRecord, at: datetime) -> Opened:
        definition = tick.routine_then
        if tick.status in RUNNING:
            return Opened(_plan(definition))
        others = [other for other in await _open_ticks(connection, tick.routine) if other.id != tick.id]
        running = [other for other in others if other.status in RUNNING]
        before = [other for other in others if other.status == "queued" and _order(other) < _order(tick)]
        in_the_way = [
            other
            for other in (*running, *before)
            # What people asked for is not ended for a schedule, and a newer tick not for an older one.
            if other.source not in ASKED_FOR and _order(other) < _order(tick)
        ]
        waiting = [other for other in others if other.status == "queued"]
        ends: dict[str, tuple[str, ...]] = {}
        # A person who asks for a tick wants it done, and a backfill all of its ticks: they wait their turn.
        overlap = "buffer_all" if tick.source in ASKED_FOR else definition.overlap
        fresh = tick.message is None
        if (running or before) and overlap != "allow_all":
            first = (running or before)[0]
            match overlap:
                case "skip" if fresh:
                    why = f"Skipped: the tick of {_shown(first)} was not done ({first.status})."
                    return Opened(await _skip(connection, tick, "overlap", why, at))
                case "buffer_one" if fresh and waiting:
                    why = f"Skipped: the tick of {_shown(waiting[0])} waits already."
                    return Opened(await _skip(connection, tick, "overlap", why, at))
                case "buffer_all" if fresh and len(waiting) >= MOST_WAITING:
                    why = f"Skipped: {len(waiting)} ticks wait already."
                    return Opened(await _skip(connection, tick, "overlap", why, at))
                case "cancel_other":
                    ends = {"cancel": tuple(other.id for other in in_the_way)}
                case "terminate_other":
                    ends = {"terminate": tuple(other.id for other in in_the_way)}
                case _:
                    pass
            return Opened(await _wait(connection, tick, f"Waits for the tick of {_shown(first)}."), **ends)
        await connection.lock(_CAP_LOCK)
        if await _running(connection) >= self._max_running:
            why = f"Waits: {self._max_running} ticks run at once (`max_ticks` in [routines])."
            return Opened(await _wait(connection, tick, why))
        await connection.execute(
            update(ticks)
            .where(ticks.c.id == tick.id)
            # The state as it is now: whoever waited, waited for the one who changes it.
            .values(status="running", started_at=at, message=None, state=dict(routine.state))
        )
        return Opened(_plan(definition))

    # ---- attempts

    async def attempt_opened(
        self, tick_id: str, number: int, *, run: str, thread: str, input: str | None, keep_thread: bool
    ) -> None:
        """Write down which run an attempt is. Safe to repeat."""
        async with self._ledger.write() as connection:
            name = await connection.scalar(select(ticks.c.routine).where(ticks.c.id == tick_id))
            await _routine(connection, name or "")
            tick = await _tick(connection, tick_id)
            values: dict[str, Any] = {"attempts": number, "run_id": run, "thread_id": thread, "next_try_at": None}
            if input is not None:
                values["input"] = input
            await connection.execute(update(ticks).where(ticks.c.id == tick_id).values(**values))
            if keep_thread:
                await connection.execute(
                    update(routines)
                    .where(routines.c.name == tick.routine, routines.c.thread_id.is_(None))
                    .values(thread_id=thread)
                )

    async def attempt_ended(self, ending: EndAttempt) -> None:
        """Write down that an attempt failed and when the next one follows."""
        async with self._ledger.write() as connection:
            await connection.execute(
                update(ticks)
                .where(ticks.c.id == ending.tick, ticks.c.status.in_(RUNNING))
                .values(status="running", reason=ending.code, message=ending.message, next_try_at=ending.next_try_at)
            )

    async def parked(self, run: str, *, parked: bool) -> str | None:
        """Show that a tick's run waits for people, or goes on; its id, if the run is one of a tick."""
        async with self._ledger.write() as connection:
            tick_id: str | None = await connection.scalar(select(runs.c.tick).where(runs.c.id == run))
            if tick_id is None:
                return None
            name = await connection.scalar(select(ticks.c.routine).where(ticks.c.id == tick_id))
            await _routine(connection, name or "")
            tick = await _tick(connection, tick_id)
            if tick.run_id != run or tick.status not in RUNNING:
                return None
            await connection.execute(
                update(ticks).where(ticks.c.id == tick_id).values(status="parked" if parked else "running")
            )
            if tick.routine_then.unattended == "hold_next":
                held = routines.c.held_by.is_(None) if parked else routines.c.held_by == tick_id
                await connection.execute(
                    update(routines)
                    .where(routines.c.name == tick.routine, held)
                    .values(held_by=tick_id if parked else None)
                )
            return tick_id

    # ---- closing

    async def close(self, closing: CloseTick) -> Closed:
        """End a tick: what it leaves for the next one, and whom it concerns. Safe to repeat.

        A tick that completed hands on its `state` and becomes `previous`; a failed one leaves both as they were.
        """
        async with self._ledger.write() as connection:
            name = await connection.scalar(select(ticks.c.routine).where(ticks.c.id == closing.tick))
            if name is None:
                return Closed()  # cancelled before it was opened
            routine = await _routine(connection, name or "")
            tick = await _tick(connection, closing.tick)
            if tick.is_open:
                alerts = await self._close(connection, routine, tick, closing)
            else:
                alerts = tuple(Alert.model_validate(alert) for alert in tick.alerts or ())
            return Closed(alerts, await self._next(connection, tick.routine, closing.at))

    async def _close(
        self, connection: Statements, routine: RoutineRecord | None, tick: TickRecord, closing: CloseTick
    ) -> tuple[Alert, ...]:
        alerts: list[Alert] = []
        if routine is not None:
            changes, alerts = _left_behind(routine, tick, closing)
            await connection.execute(update(routines).where(routines.c.name == routine.name).values(**changes))
        used = runs.c
        spent = (
            await connection.execute(
                select(
                    func.coalesce(func.sum(used.turns), 0),
                    func.coalesce(func.sum(used.input_tokens), 0),
                    func.coalesce(func.sum(used.output_tokens), 0),
                    func.coalesce(func.sum(used.cost_micro_usd), 0),
                ).where(used.tick == tick.id)
            )
        ).one()
        await connection.execute(
            update(ticks)
            .where(ticks.c.id == tick.id)
            .values(
                status=closing.status,
                reason=closing.code,
                message=closing.message,
                output=closing.output,
                next_try_at=None,
                alerts=[alert.model_dump(mode="json") for alert in alerts],
                **dict(zip(("turns", "input_tokens", "output_tokens", "cost_micro_usd"), map(int, spent), strict=True)),
                closed_at=closing.at,
            )
        )
        return tuple(alerts)

    async def _next(self, connection: Statements, routine: str, at: datetime) -> tuple[str, ...]:
        """The ticks that may begin now: they are told, and ask to be let in. Who was told lately comes last."""
        free = self._max_running - await _running(connection)
        if free <= 0:
            return ()
        busy = select(ticks.c.routine).where(ticks.c.status.in_(RUNNING))
        found = await connection.execute(
            select(ticks.c.id, ticks.c.routine, ticks.c.definition)
            .where(ticks.c.status == "queued")
            .order_by(
                ticks.c.routine != routine,
                ticks.c.told_at.is_not(None),
                ticks.c.told_at,
                ticks.c.scheduled_at,
                ticks.c.id,
            )
            .where((ticks.c.routine == routine) | ticks.c.routine.not_in(busy))
            .limit(min(free, MOST_TOLD))
        )
        told = tuple(row.id for row in found)
        await connection.execute(update(ticks).where(ticks.c.id.in_(told)).values(told_at=at))
        return told


def _left_behind(routine: RoutineRecord, tick: TickRecord, closing: CloseTick) -> tuple[dict[str, Any], list[Alert]]:
    """What a closed tick changes in its routine, and whom that concerns."""
    definition = tick.routine_then

    def alert(event: Any, occurrence: str) -> Alert:
        return Alert(event=event, routine=routine.name, tick=tick.id, occurrence=occurrence, at=closing.at)

    changes: dict[str, Any] = {"last_tick": tick.id}
    alerts: list[Alert] = []
    if routine.held_by == tick.id:
        changes["held_by"] = None
    if closing.status == "completed":
        changes |= {"previous_tick": tick.id, "state": dict(tick.state or {}), "failures": 0}
        if routine.failing_since is not None:
            changes["failing_since"] = None
            alerts.append(alert("recovered", tick.id))
    elif closing.status == "failed":
        failures = routine.failures + 1
        changes["failures"] = failures
        if definition.on_failure != "skip" and routine.failing_since is None:
            changes["failing_since"] = closing.at
            alerts.append(alert("failed", tick.id))
        if definition.pause_after is not None and failures >= definition.pause_after and not routine.paused:
            note = f"{failures} ticks in a row failed; the last one: {closing.message or closing.code}"
            changes |= {
                "paused": 1,
                "pause_note": note[:1_000],
                "paused_until": None,
                "paused_by": ENGINE,
                "generation": routine.generation + 1,
            }
            alerts.append(alert("paused", tick.id))
    return changes, alerts


def _refusal(tick: TickRecord, routine: RoutineRecord | None, at: datetime) -> tuple[str, str] | None:
    """Why a tick does not begin, whatever else runs: a code, and words."""
    if routine is None or routine.deleted_at is not None:
        return "deleted", "Skipped: the routine was deleted."
    if routine.paused and tick.source not in ASKED_FOR:
        return "paused", f"Skipped: the routine is paused{f': {routine.pause_note}' if routine.pause_note else '.'}"
    if routine.held_by is not None and routine.held_by != tick.id:
        return "held", f"Skipped: tick {routine.held_by} waits for an approval, and holds the next ones."
    definition = routine.routine
    late, may_be = at - tick.scheduled_at, max(definition.catch_up, LEAST_CATCH_UP) + definition.jitter
    if tick.source == "schedule" and late > may_be:
        return "too_late", f"Skipped: it came {words(late)} late; `catch_up` is {words(definition.catch_up) or '0s'}."
    return None


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
    await connection.execute(
        update(ticks)
        .where(ticks.c.id == tick.id)
        .values(status="skipped", reason=reason, message=message, closed_at=at)
    )
    return TickPlan(decision="end", status="skipped", reason=reason, message=message)


async def _wait(connection: Statements, tick: TickRecord, why: str) -> TickPlan:
    await connection.execute(update(ticks).where(ticks.c.id == tick.id).values(message=why))
    return TickPlan(decision="wait", status="queued", message=why)


async def _routine(connection: Statements, name: str) -> RoutineRecord | None:
    """Within a transaction: the routine's row, which nobody else changes until its end."""
    row = (await connection.execute(select(routines).where(routines.c.name == name).with_for_update())).first()
    return RoutineRecord(*row) if row is not None else None


async def _tick(connection: Statements, tick: str) -> TickRecord:
    row = (await connection.execute(select(ticks).where(ticks.c.id == tick).with_for_update())).first()
    if row is None:
        raise RoutineNotFound(f"There is no tick {tick!r}.")
    return TickRecord(*row)


async def _open_ticks(connection: Statements, routine: str) -> list[TickRecord]:
    query = select(ticks).where(ticks.c.routine == routine, ticks.c.status.in_(OPEN_TICK_STATUSES))
    found = [TickRecord(*row) for row in await connection.execute(query)]
    return sorted(found, key=_order)


async def _running(connection: Statements) -> int:
    """Ticks that work now; one that waits for people does not."""
    return int(await connection.scalar(select(func.count()).where(ticks.c.status == "running")) or 0)


def _order(tick: TickRecord) -> tuple[datetime, str]:
    return tick.scheduled_at, tick.id


def _shown(tick: TickRecord) -> str:
    return f"{tick.scheduled_at:%Y-%m-%d %H:%M:%S} UTC"
