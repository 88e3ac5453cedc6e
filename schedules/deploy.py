"""Deploying: the row in the ledger first, then Temporal's schedules as the row is by then, then a note that they are.

Whoever dies in between leaves a row that is not applied; deploying again, or the watch, carries it through. Whoever
deploys at the same time ends with the schedules of the row that was written last, whoever was the slower.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from temporalio.client import (
    Client as TemporalClient,
)
from temporalio.client import (
    ScheduleAlreadyRunningError,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from horarium.errors import Conflict, HorariumError, RoutineNotFound
from horarium.ledger.agents import ToolCatalog
from horarium.ledger.database import Ledger
from horarium.ledger.grants import Grants, definition_mark
from horarium.ledger.routines import ManagedBy, RoutineRecord, Routines
from horarium.routines import Routine
from schedules import specs
from schedules.differences import Change, Plan
from schedules.drift import Kind, away, found

AT_ONCE = 8  # routines
PATIENCE = 10  # times that somebody else may change the row meanwhile
_TRIES = 3
# What is there because somebody put it there, and the row does not know of.
_BY_HAND: tuple[Kind, ...] = ("extra",)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one change."""

    change: Change
    error: HorariumError | None = None


class _Newer(Exception):
    """The schedule in Temporal was made from a newer row."""


class Deployment:
    """Brings routines into the ledger, and Temporal's schedules in line with it."""

    def __init__(self, ledger: Ledger, temporal: TemporalClient) -> None:
        self._routines = Routines(ledger)
        self._grants = Grants(ledger)
        self._tools = ToolCatalog(ledger)
        self._temporal = temporal

    async def apply(self, plan: Plan, *, by: str | None) -> list[Outcome]:
        """Do what a plan says, several routines at once; one that fails stops no other. Safe to repeat."""
        room = asyncio.Semaphore(AT_ONCE)

        async def one(change: Change) -> Outcome:
            async with room:
                try:
                    await self._carry_out(change, by)
                except HorariumError as error:
                    return Outcome(change, error)
                return Outcome(change)

        outcomes = await asyncio.gather(*(one(change) for change in plan.changes if not change.empty))
        return [*outcomes, *[await self._doomed(schedule_id) for schedule_id in plan.doomed]]

    async def put(
        self, routine: Routine, *, by: str | None, managed_by: ManagedBy = "orders"
    ) -> tuple[RoutineRecord, bool]:
        """Create or update a routine and its schedules; whether its definition was another one before.

        Raises:
            Conflict: The name is another tenant's.
            ConfigError: A trigger cannot be used.
            Unreachable: Temporal does not answer; the row is written, and doing it again finishes it.
        """
        for trigger in routine.timed:
            specs.timing(routine, routine.triggers[trigger], specs.since_now(_now()))
        _, changed = await self._routines.put(routine, by=by, at=_now(), managed_by=managed_by)
        return await self.converge(routine.name, by=by, granting=routine), changed

    async def delete(self, name: str, *, by: str | None) -> RoutineRecord:
        """Take a routine and its schedules away. Safe to repeat.

        Raises:
            RoutineNotFound: There never was one.
            Unreachable: Temporal does not answer; doing it again finishes it.
        """
        await self._routines.delete(name, by=by, at=_now())
        return await self.converge(name, by=by)

    async def converge(
        self, name: str, *, by: str | None = None, also: Sequence[str] = (), granting: Routine | None = None
    ) -> RoutineRecord:
        """Make Temporal's schedules those that the routine's row stands for now, and end grants that it does not have.

        Args:
            also: Ids of schedules that somebody put there; they go away.
            granting: The definition that is being put: `by` releases what it preapproves, if it still is the row's.
                Nobody else who touches a routine releases anything.

        Raises:
            RoutineNotFound: There never was one.
            Unreachable: Temporal does not answer.
        """
        overruled: int | None = None
        for _ in range(PATIENCE):
            record = await self._routines.current(name)
            if record is None:
                raise RoutineNotFound(
                    f"There is no routine {name!r}.", hint="See which there are: horarium routine list"
                )
            await self._preapprove(record, by, granting)
            try:
                until = await self._schedules(record, also, even_newer=overruled == record.generation)
            except _Newer:
                # A row that stays older than its schedule is no matter of timing: the ledger is another one than then.
                overruled = record.generation
                continue
            timed = record.routine.timed if record.deleted_at is None else []
            if await self._routines.applied(name, record.generation, until, timed):
                return record
        raise Conflict(f"The routine {name!r} is being changed all the time.", hint="Try again: horarium apply")

    async def _carry_out(self, change: Change, by: str | None) -> None:
        if change.action == "delete":
            await self.delete(change.routine, by=by)
            return
        if change.action in ("create", "update") and change.definition is not None:
            await self._routines.put(change.definition, by=by, at=_now(), managed_by="files")
        also = [item.subject for item in change.drift if item.kind in _BY_HAND]
        await self.converge(change.routine, by=by, also=also, granting=change.definition)

    async def _doomed(self, schedule_id: str) -> Outcome:
        change = Change(schedule_id, "delete")
        try:
            await self._gone([schedule_id])
        except HorariumError as error:
            return Outcome(change, error)
        return Outcome(change)

    async def _preapprove(self, record: RoutineRecord, by: str | None, granting: Routine | None) -> None:
        grant = granting is not None and definition_mark(granting) == definition_mark(record.routine)
        digests = {name: tool.spec.schema_digest for name, tool in (await self._tools.all()).items()}
        await self._grants.sync_routine(record.routine, digests, by=by, at=_now(), grant=grant)

    async def _schedules(self, record: RoutineRecord, also: Iterable[str], *, even_newer: bool) -> datetime | None:
        meant = await asyncio.to_thread(specs.schedules, record, specs.since_now(_now()))
        newest = None if even_newer else record.generation
        for one in meant.values():
            await self._set(one, newest, expected=one.trigger in record.schedules and record.applied > 0)
        # New ones first: a trigger that got another name must not miss the fire in between.
        former = {record.routine.schedule_id(trigger) for trigger in record.schedules}
        await self._gone({*former, *also} - {one.id for one in meant.values()})
        return min((one.until for one in meant.values() if one.until is not None), default=None)

    async def _set(self, meant: specs.Meant, newest: int | None, *, expected: bool) -> None:
        for _ in range(_TRIES):
            if expected and await self._update(meant, newest):
                return
            expected = True
            try:
                await self._temporal.create_schedule(
                    meant.id, meant.schedule, memo=meant.memo, search_attributes=meant.attributes
                )
            except ScheduleAlreadyRunningError:
                continue
            except RPCError as error:
                raise away(error) from error
            return
        raise Conflict(f"The schedule {meant.id!r} comes and goes.", hint="Try again: horarium apply")

    async def _update(self, meant: specs.Meant, newest: int | None) -> bool:
        """False when there is no such schedule."""

        async def updated(now: ScheduleUpdateInput) -> ScheduleUpdate:
            generation = (await found(self._temporal, now.description)).generation
            if newest is not None and generation is not None and generation > newest:
                raise _Newer
            return ScheduleUpdate(schedule=meant.schedule, search_attributes=meant.attributes)

        try:
            await self._temporal.get_schedule_handle(meant.id).update(updated)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise away(error) from error
        return True

    async def _gone(self, ids: Iterable[str]) -> None:
        for schedule_id in sorted(ids):
            try:
                await self._temporal.get_schedule_handle(schedule_id).delete()
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise away(error) from error


def _now() -> datetime:
    return datetime.now(UTC)
