"""Ticks: who may begin, what each attempt goes on with, and what is left for the next one.

Overlap is decided here and not by Temporal's schedules: it holds across all triggers of a routine and for ticks that
people set off, and every tick that does not run leaves its reason. Each change is one transaction under the lock of
the routine's row, so two ticks never both believe to be the only one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from sqlalchemy import bindparam, func, select, tuple_, union_all, update
from sqlalchemy.dialects import postgresql, sqlite

from horarium.contract import OPEN_TICK_STATUSES, Status, TickSource, TickStatus
from horarium.errors import RoutineNotFound
from horarium.ledger.admission import RUNNING, Opened, admit, is_of, next_waiting, overlap_of
from horarium.ledger.database import Ledger, Prepared, Statements
from horarium.ledger.lineage import topmost
from horarium.ledger.routines import ENGINE, RoutineRecord
from horarium.ledger.schema import routines, runs, ticks
from horarium.routines import Routine
from horarium.tick_protocol import Alert, CloseTick, EndAttempt, OpenTick, TickPlan

_OF_RUN = Prepared(select(ticks).join(runs, runs.c.tick == ticks.c.id).where(runs.c.id == bindparam("of_run")))
DID_NOT_RUN: tuple[TickStatus, ...] = ("missed", "skipped")  # and so can be made up for


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
    output: str | None
    alerts: Sequence[Mapping[str, Any]] | None
    turns: int
    input_tokens: int
    output_tokens: int
    cost_micro_usd: int
    opened_at: datetime | None
    started_at: datetime | None
    closed_at: datetime | None
    told_at: datetime | None = None
    incarnation: int = 1
    overlap: str = "skip"
    holds: int = 0
    changes: Mapping[str, Any] | None = None

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
class TickMark:
    """As much of a tick as a list of routines shows."""

    id: str
    routine: str
    source: TickSource
    scheduled_at: datetime
    status: TickStatus
    reason: str | None
    message: str | None
    attempts: int
    next_try_at: datetime | None
    opened_at: datetime | None
    started_at: datetime | None
    closed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a tick."""

    tick: str
    run: str
    status: Status
    message: str | None
    created_at: datetime
    closed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Parked:
    """A tick whose run waits for people now, or no longer does, and the ticks that may begin now."""

    tick: str
    next: tuple[str, ...] = ()


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

    async def get(self, tick: str, *, tenant: str | None = None) -> TickRecord:
        """One tick.

        Raises:
            RoutineNotFound: There is none of this id, or it is another tenant's.
        """
        async with self._ledger.read() as connection:
            row = (await connection.execute(select(ticks).where(ticks.c.id == tick))).first()
        if row is None or tenant not in (None, row.tenant):
            raise RoutineNotFound(f"There is no tick {tick!r}.", hint="See them: horarium routine ticks NAME")
        return TickRecord(*row)

    async def list(
        self,
        *,
        routine: str | None = None,
        tenant: str | None = None,
        status: Sequence[TickStatus] = (),
        since: datetime | None = None,
        before: tuple[datetime, str] | None = None,
        limit: int = 50,
    ) -> list[TickRecord]:
        """The latest ticks, by scheduled time, newest first.

        `before`: the scheduled time and the id of the last one of the page before.
        """
        query = select(ticks).order_by(ticks.c.scheduled_at.desc(), ticks.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(tuple_(ticks.c.scheduled_at, ticks.c.id) < before)
        if status:
            query = query.where(ticks.c.status.in_(status))
        if since is not None:
            query = query.where(ticks.c.scheduled_at >= since)
        for column, value in ((ticks.c.routine, routine), (ticks.c.tenant, tenant)):
            if value is not None:
                query = query.where(column == value)
        async with self._ledger.read() as connection:
            return [TickRecord(*row) for row in await connection.execute(query)]

    async def latest(self, names: Sequence[str], *, tenant: str, most: int) -> Mapping[str, Sequence[TickMark]]:
        """The latest ticks of each of these routines, newest first; up to 200 routines."""
        if not names:
            return {}
        columns = [ticks.c[field.name] for field in fields(TickMark)]
        # One statement with a part for each: each part reads no more rows of the index than it gives.
        parts = [
            select(
                select(*columns)
                .where(ticks.c.routine == name, ticks.c.tenant == tenant)
                .order_by(ticks.c.scheduled_at.desc(), ticks.c.id.desc())
                .limit(most)
                .subquery()
            )
            for name in names
        ]
        async with self._ledger.read() as connection:
            every = [TickMark(*row) for row in await connection.execute(union_all(*parts))]
        every.sort(key=lambda mark: (mark.scheduled_at, mark.id), reverse=True)
        return {name: [mark for mark in every if mark.routine == name] for name in names}

    async def after(self, tick: TickRecord) -> TickRecord | None:
        """The tick of the same routine whose scheduled time comes next."""
        query = (
            select(ticks)
            .where(
                ticks.c.routine == tick.routine,
                ticks.c.tenant == tick.tenant,
                tuple_(ticks.c.scheduled_at, ticks.c.id) > (tick.scheduled_at, tick.id),
            )
            .order_by(ticks.c.scheduled_at, ticks.c.id)
            .limit(1)
        )
        async with self._ledger.read() as connection:
            row = (await connection.execute(query)).first()
        return TickRecord(*row) if row is not None else None

    async def attempts(self, ids: Sequence[str], *, tenant: str) -> Mapping[str, Sequence[Attempt]]:
        """The runs that are the attempts of these ticks, the first one first."""
        query = (
            select(runs.c.tick, runs.c.id, runs.c.status, runs.c.message, runs.c.created_at, runs.c.closed_at)
            .where(runs.c.tick.in_(ids), runs.c.tenant == tenant, runs.c.parent_run.is_(None))
            .order_by(runs.c.created_at, runs.c.id)
        )
        async with self._ledger.read() as connection:
            every = [Attempt(*row) for row in await connection.execute(query)]
        return {tick: [attempt for attempt in every if attempt.tick == tick] for tick in ids}

    async def of_run(self, run: str) -> TickRecord | None:
        """The tick of which a run is an attempt, or of which the run that it is below is one."""
        async with self._ledger.read() as connection:
            rows = await connection.run(_OF_RUN, of_run=await topmost(connection, run))
        return TickRecord(*rows[0]) if rows else None

    # ---- opening

    async def open(self, opening: OpenTick) -> Opened:
        """Write a tick down, once, and say whether it begins, waits, or is skipped and why. Safe to repeat."""
        request = opening.request
        async with self._ledger.write() as connection:
            routine = await routine_row(connection, request.routine)
            fresh = {
                "trigger": request.trigger,
                "source": request.source,
                "execution": opening.execution,
                "definition": dict(routine.definition) if routine is not None else None,
                "event": {"event": request.event, "input": request.input, "by": request.by},
                "state": dict(routine.state) if routine is not None else None,
                "incarnation": routine.incarnation if routine is not None else 0,
                "overlap": overlap_of(request.source, routine),
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
            tick = await tick_row(connection, opening.tick)
            if tick.routine != request.routine:
                message = f"This id is that of a tick of {tick.routine!r}."
                return Opened(TickPlan(decision="end", status="skipped", reason="not_its_tick", message=message))
            if not made.rowcount and tick.execution != opening.execution and _comes_after_all(tick, request.source):
                await connection.execute(
                    update(ticks)
                    .where(ticks.c.id == tick.id)
                    .values(**fresh, reason=None, message=None, closed_at=None)
                )
                tick = await tick_row(connection, opening.tick)
            if tick.execution != opening.execution:
                message = f"This tick is {tick.status} already; a tick happens once."
                return Opened(TickPlan(decision="end", status=tick.status, reason="done_before", message=message))
            return await admit(connection, routine, tick, opening.at, self._max_running)

    async def admit(self, tick_id: str, at: datetime) -> Opened:
        """Ask again for a tick that waits. Safe to repeat."""
        async with self._ledger.write() as connection:
            name = await connection.scalar(select(ticks.c.routine).where(ticks.c.id == tick_id))
            routine = await routine_row(connection, name or "")
            tick = await tick_row(connection, tick_id)
            return await admit(connection, routine, tick, at, self._max_running)

    # ---- attempts

    async def attempt_opened(
        self, tick_id: str, number: int, *, run: str, thread: str, input: str | None, keep_thread: bool
    ) -> None:
        """Write down which run an attempt is. Safe to repeat."""
        async with self._ledger.write() as connection:
            name = await connection.scalar(select(ticks.c.routine).where(ticks.c.id == tick_id))
            routine = await routine_row(connection, name or "")
            tick = await tick_row(connection, tick_id)
            values: dict[str, Any] = {"attempts": number, "run_id": run, "thread_id": thread, "next_try_at": None}
            if input is not None:
                values["input"] = input
            await connection.execute(update(ticks).where(ticks.c.id == tick_id).values(**values))
            if keep_thread and routine is not None and is_of(tick, routine):
                await connection.execute(
                    update(routines)
                    .where(routines.c.name == tick.routine, routines.c.thread_id.is_(None))
                    .values(thread_id=thread)
                )

    async def attempt_ended(self, ending: EndAttempt) -> tuple[str, ...]:
        """Write down that an attempt failed and when the next one follows; the ticks that may begin meanwhile."""
        async with self._ledger.write() as connection:
            await connection.execute(
                update(ticks)
                .where(ticks.c.id == ending.tick, ticks.c.status.in_(RUNNING))
                .values(status="running", reason=ending.code, message=ending.message, next_try_at=ending.next_try_at)
            )
            return await next_waiting(connection, ending.at, self._max_running)

    async def parked(self, run: str, *, parked: bool, at: datetime) -> Parked | None:
        """Show that a tick's run waits for people, or goes on; None if the run is not the one that a tick waits for."""
        async with self._ledger.write() as connection:
            tick_id: str | None = await connection.scalar(select(runs.c.tick).where(runs.c.id == run))
            if tick_id is None:
                return None
            name = await connection.scalar(select(ticks.c.routine).where(ticks.c.id == tick_id))
            routine = await routine_row(connection, name or "")
            tick = await tick_row(connection, tick_id)
            if tick.run_id != run or tick.status not in RUNNING:
                return None
            holds = parked and tick.routine_then.unattended == "hold_next"
            await connection.execute(
                update(ticks)
                .where(ticks.c.id == tick_id)
                .values(status="parked" if parked else "running", holds=int(holds))
            )
            await _show_holder(connection, routine, tick)
            return Parked(tick_id, await next_waiting(connection, at, self._max_running))

    # ---- closing

    async def close(self, closing: CloseTick) -> Closed:
        """End a tick: what it leaves for the next one, and whom it concerns. Safe to repeat.

        A tick that completed hands on its `state` and becomes `previous`; a failed one leaves both as they were.
        """
        async with self._ledger.write() as connection:
            name = await connection.scalar(select(ticks.c.routine).where(ticks.c.id == closing.tick))
            if name is None:
                return Closed()  # cancelled before it was opened
            routine = await routine_row(connection, name or "")
            tick = await tick_row(connection, closing.tick)
            if tick.is_open:
                alerts = await self._close(connection, routine, tick, closing)
            else:
                alerts = tuple(Alert.model_validate(alert) for alert in tick.alerts or ())
            return Closed(alerts, await next_waiting(connection, closing.at, self._max_running))

    async def _close(
        self, connection: Statements, routine: RoutineRecord | None, tick: TickRecord, closing: CloseTick
    ) -> tuple[Alert, ...]:
        alerts: list[Alert] = []
        if routine is not None and is_of(tick, routine):
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
                holds=0,
                alerts=[alert.model_dump(mode="json") for alert in alerts],
                **dict(zip(("turns", "input_tokens", "output_tokens", "cost_micro_usd"), map(int, spent), strict=True)),
                closed_at=closing.at,
            )
        )
        await _show_holder(connection, routine, tick)
        return tuple(alerts)


def _left_behind(routine: RoutineRecord, tick: TickRecord, closing: CloseTick) -> tuple[dict[str, Any], list[Alert]]:
    """What a closed tick changes in its routine, and whom that concerns."""
    definition = tick.routine_then

    def alert(event: Any, occurrence: str) -> Alert:
        return Alert(event=event, routine=routine.name, tick=tick.id, occurrence=occurrence, at=closing.at)

    changes: dict[str, Any] = {"last_tick": tick.id}
    alerts: list[Alert] = []
    if closing.status == "completed":
        changes |= {"previous_tick": tick.id, "state": _changed(routine.state, tick.changes), "failures": 0}
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


def _comes_after_all(tick: TickRecord, source: TickSource) -> bool:
    """Whether a tick that did not run may run now: it was taken for lost, or people want it made up for."""
    if tick.status == "missed" and tick.execution is None:
        return True
    return source == "backfill" and tick.status in DID_NOT_RUN


def _changed(state: Mapping[str, Any], changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """The routine's state with what a tick changed, key by key: ticks at the same time do not undo each other's."""
    said = changes or {}
    gone = set(said.get("gone", ()))
    return {key: value for key, value in {**state, **said.get("set", {})}.items() if key not in gone}


async def _show_holder(connection: Statements, routine: RoutineRecord | None, tick: TickRecord) -> None:
    """Which parked tick holds the next ones, if any does."""
    if routine is None or not is_of(tick, routine):
        return
    holder = await connection.scalar(
        select(ticks.c.id)
        .where(ticks.c.routine == routine.name, ticks.c.incarnation == routine.incarnation, ticks.c.holds == 1)
        .order_by(ticks.c.scheduled_at, ticks.c.id)
        .limit(1)
    )
    if holder != routine.held_by:
        await connection.execute(update(routines).where(routines.c.name == routine.name).values(held_by=holder))


async def routine_row(connection: Statements, name: str) -> RoutineRecord | None:
    """Within a transaction: the routine's row, which nobody else changes until its end."""
    row = (await connection.execute(select(routines).where(routines.c.name == name).with_for_update())).first()
    return RoutineRecord(*row) if row is not None else None


async def tick_row(connection: Statements, tick: str) -> TickRecord:
    """Within a transaction: the tick's row, which nobody else changes until its end.

    Raises:
        RoutineNotFound: There is none of this id.
    """
    row = (await connection.execute(select(ticks).where(ticks.c.id == tick).with_for_update())).first()
    if row is None:
        raise RoutineNotFound(f"There is no tick {tick!r}.")
    return TickRecord(*row)
