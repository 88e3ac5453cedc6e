"""Routines as they are meant to be, and what they remember between ticks.

Temporal's schedules are made from these rows (`schedules/deploy.py`): `generation` counts what they are made from,
`applied` says which of it they show. What ticks change is in `ledger/ticks.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Literal

from sqlalchemy import ColumnElement, Text, case, cast, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from horarium.errors import Conflict, RoutineNotFound
from horarium.ledger.audit import AuditEntry, append
from horarium.ledger.database import Ledger, Statements
from horarium.ledger.schema import routines
from horarium.problems import near_miss
from horarium.routines import Routine

SETTLES = timedelta(seconds=5)  # until a changed routine's schedules are what it says
FIRES_BY = ("triggers", "start", "end", "enabled")
ENGINE = "engine"  # who paused it, when nobody did
ManagedBy = Literal["files", "orders"]
Stands = Literal["active", "paused", "failing", "held"]

_STANDS: dict[Stands, ColumnElement[bool]] = {
    "active": routines.c.paused == 0,
    "paused": routines.c.paused != 0,
    "failing": or_(routines.c.failures > 0, routines.c.failing_since.is_not(None)),
    "held": routines.c.held_by.is_not(None),
}


@dataclass(frozen=True)
class RoutineRecord:
    """One routine as the ledger has it. Times are UTC."""

    name: str
    tenant: str
    definition: Mapping[str, Any]
    digest: str
    generation: int
    applied: int
    translated_until: datetime | None
    schedules: Sequence[str]
    managed_by: ManagedBy
    paused: int
    pause_note: str | None
    paused_until: datetime | None
    paused_by: str | None
    held_by: str | None
    state: Mapping[str, Any]
    thread_id: str | None
    previous_tick: str | None
    last_tick: str | None
    failures: int
    failing_since: datetime | None
    watched_until: datetime
    created_at: datetime
    changed_at: datetime
    changed_by: str | None
    deleted_at: datetime | None
    incarnation: int

    @cached_property
    def routine(self) -> Routine:
        """The definition."""
        return Routine.model_validate(dict(self.definition))


class Routines:
    """The routines of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert

    async def put(
        self, routine: Routine, *, by: str | None, at: datetime, managed_by: ManagedBy = "orders"
    ) -> tuple[RoutineRecord, bool]:
        """Write a definition down; whether that changed anything. The same twice is one change.

        What files say is theirs from then on, also when nothing else changed.

        A routine that was deleted begins anew: no state, no failures, not paused. `enabled: false` pauses a new one;
        of one that is there it is what people say with `pause` and `resume` that counts, unless the file changes it.

        Raises:
            Conflict: The name is another tenant's.
        """
        fresh = {
            "tenant": routine.tenant,
            "definition": routine.model_dump(mode="json"),
            "digest": routine.digest,
            "changed_at": at,
            "changed_by": by,
            "managed_by": managed_by,
        }
        anew: dict[str, Any] = {
            "paused": int(not routine.enabled),
            "pause_note": None if routine.enabled else "`enabled: false` in its definition",
            "paused_until": None,
            "paused_by": None if routine.enabled else by,
            "held_by": None,
            "state": {},
            "thread_id": None,
            "previous_tick": None,
            "last_tick": None,
            "failures": 0,
            "failing_since": None,
            "watched_until": at + SETTLES,
            "created_at": at,
            "deleted_at": None,
            "translated_until": None,
        }
        async with self._ledger.write() as connection:
            made = await connection.execute(
                self._insert(routines)
                .values(name=routine.name, generation=1, applied=0, schedules=routine.timed, **fresh, **anew)
                .on_conflict_do_nothing()
            )
            before = await _locked(connection, routine.name)
            if not made.rowcount:
                if before.deleted_at is not None:
                    changes = fresh | anew | {"incarnation": before.incarnation + 1}
                elif before.tenant != routine.tenant:
                    raise Conflict(f"The routine {routine.name!r} is another tenant's.", hint="Choose another name.")
                elif before.digest == routine.digest and managed_by in ("orders", before.managed_by):
                    return before, False
                else:
                    changes = fresh
                    if before.routine.enabled != routine.enabled:
                        changes |= {key: anew[key] for key in ("paused", "pause_note", "paused_until", "paused_by")}
                    if any(getattr(routine, name) != getattr(before.routine, name) for name in FIRES_BY):
                        # What fires from now on was not expected to fire before.
                        changes |= {"watched_until": at + SETTLES}
                    if routine.conversation != before.routine.conversation:
                        changes |= {"thread_id": None}
                # Those of the definition before may be there until Temporal has been told.
                changes |= {"schedules": sorted({*before.schedules, *routine.timed})}
                await _change(connection, before, **changes)
            await self._note(connection, routine.name, routine.tenant, "put", by, at, {"digest": routine.digest})
            return await _locked(connection, routine.name), True

    async def delete(self, name: str, *, by: str | None, at: datetime) -> RoutineRecord:
        """Take a routine out of use; its ticks stay as evidence. Safe to repeat.

        Raises:
            RoutineNotFound: There is none.
        """
        async with self._ledger.write() as connection:
            before = await _locked(connection, name)
            if before.deleted_at is None:
                await _change(connection, before, deleted_at=at, changed_at=at, changed_by=by)
                await self._note(connection, name, before.tenant, "deleted", by, at, {})
            return await _locked(connection, name)

    async def pause(
        self, name: str, *, note: str | None, until: datetime | None, by: str | None, at: datetime
    ) -> tuple[RoutineRecord, bool]:
        """No trigger fires from now on; whether that changed anything.

        Raises:
            RoutineNotFound: There is none.
        """
        async with self._ledger.write() as connection:
            before = await _alive(connection, name)
            if (before.paused, before.pause_note, before.paused_until) == (1, note, until):
                return before, False
            await _change(connection, before, paused=1, pause_note=note, paused_until=until, paused_by=by)
            data = {"note": note, "until": until.isoformat() if until else None}
            await self._note(connection, name, before.tenant, "paused", by, at, data)
            return await _alive(connection, name), True

    async def resume(self, name: str, *, by: str | None, at: datetime) -> tuple[RoutineRecord, bool]:
        """Triggers fire again, and failures are counted anew; whether that changed anything.

        Raises:
            RoutineNotFound: There is none.
        """
        async with self._ledger.write() as connection:
            before = await _alive(connection, name)
            if not before.paused:
                return before, False
            cleared: dict[str, Any] = {"paused": 0, "pause_note": None, "paused_until": None, "paused_by": None}
            await _change(connection, before, **cleared, failures=0, watched_until=at + SETTLES)
            await self._note(connection, name, before.tenant, "resumed", by, at, {})
            return await _alive(connection, name), True

    async def get(self, name: str, *, tenant: str | None = None) -> RoutineRecord:
        """One routine.

        Raises:
            RoutineNotFound: There is none of this name, it was deleted, or it is another tenant's.
        """
        theirs = select(routines) if tenant is None else select(routines).where(routines.c.tenant == tenant)
        async with self._ledger.read() as connection:
            row = (await connection.execute(theirs.where(routines.c.name == name))).first()
            if row is not None and row.deleted_at is None:
                return RoutineRecord(*row)
            alive = theirs.with_only_columns(routines.c.name).where(routines.c.deleted_at.is_(None))
            known = list(await connection.scalars(alive))
        raise RoutineNotFound(
            f"There is no routine {name!r}{near_miss(name, known) or '.'}",
            hint="See which there are: horarium routine list",
        )

    async def list(self, *, tenant: str | None = None, deleted: bool = False) -> list[RoutineRecord]:
        """All routines, by name; with `deleted`, also those that were taken out of use."""
        query = select(routines).order_by(routines.c.name)
        if tenant is not None:
            query = query.where(routines.c.tenant == tenant)
        if not deleted:
            query = query.where(routines.c.deleted_at.is_(None))
        async with self._ledger.read() as connection:
            return [RoutineRecord(*row) for row in await connection.execute(query)]

    async def page(
        self,
        tenant: str,
        *,
        stands: Stands | None = None,
        text: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Sequence[RoutineRecord]:
        """A tenant's routines by name: those that stand so, and have this text in their names, after a name."""
        query = select(routines).where(routines.c.tenant == tenant, routines.c.deleted_at.is_(None))
        if stands is not None:
            query = query.where(_STANDS[stands])
        if text is not None:
            query = query.where(routines.c.name.icontains(text, autoescape=True))
        if after is not None:
            query = query.where(routines.c.name > after)
        async with self._ledger.read() as connection:
            return [
                RoutineRecord(*row) for row in await connection.execute(query.order_by(routines.c.name).limit(limit))
            ]

    async def of_agent(self, agent: str, tenant: str, *, limit: int = 100) -> Sequence[RoutineRecord]:
        """A tenant's routines that use an agent, by name."""
        said = cast(routines.c.definition, Text).contains(f'"agent":{json.dumps(agent)}', autoescape=True)
        query = select(routines).where(routines.c.tenant == tenant, routines.c.deleted_at.is_(None), said)
        async with self._ledger.read() as connection:
            rows = await connection.execute(query.order_by(routines.c.name).limit(limit))
            return [found for row in rows if (found := RoutineRecord(*row)).routine.agent == agent]

    async def counts(self, tenant: str) -> dict[Stands, int]:
        """How many of a tenant's routines stand so."""
        sums = [func.coalesce(func.sum(case((condition, 1), else_=0)), 0) for condition in _STANDS.values()]
        query = select(*sums).where(routines.c.tenant == tenant, routines.c.deleted_at.is_(None))
        async with self._ledger.read() as connection:
            return dict(zip(_STANDS, map(int, (await connection.execute(query)).one()), strict=True))

    async def current(self, name: str) -> RoutineRecord | None:
        """The row as it is now, deleted or not; None when there never was one."""
        async with self._ledger.read() as connection:
            row = (await connection.execute(select(routines).where(routines.c.name == name))).first()
        return RoutineRecord(*row) if row is not None else None

    async def applied(
        self, name: str, generation: int, translated_until: datetime | None, schedules: Sequence[str]
    ) -> bool:
        """Note that Temporal has exactly these schedules, of this generation; False when there is a newer one."""
        async with self._ledger.write() as connection:
            done = await connection.execute(
                update(routines)
                .where(routines.c.name == name, routines.c.generation == generation)
                .values(applied=generation, translated_until=translated_until, schedules=list(schedules))
            )
            return bool(done.rowcount)

    async def watched(self, name: str, until: datetime) -> None:
        """Note that every expected fire up to here is accounted for."""
        async with self._ledger.write() as connection:
            await connection.execute(
                update(routines)
                .where(routines.c.name == name, routines.c.watched_until < until)
                .values(watched_until=until)
            )

    async def _note(
        self,
        connection: Statements,
        name: str,
        tenant: str,
        what: str,
        by: str | None,
        at: datetime,
        data: dict[str, Any],
    ) -> None:
        entry = AuditEntry(kind=f"routine.{what}", at=at, tenant=tenant, subject=name, data={"by": by, **data})
        await append(connection, entry)


async def _locked(connection: Statements, name: str) -> RoutineRecord:
    """Within a transaction: the row, which nobody else changes until its end.

    Raises:
        RoutineNotFound: There is none.
    """
    row = (await connection.execute(select(routines).where(routines.c.name == name).with_for_update())).first()
    if row is None:
        raise RoutineNotFound(f"There is no routine {name!r}.", hint="See which there are: horarium routine list")
    return RoutineRecord(*row)


async def _alive(connection: Statements, name: str) -> RoutineRecord:
    found = await _locked(connection, name)
    if found.deleted_at is not None:
        raise RoutineNotFound(f"The routine {name!r} was deleted.", hint="Apply its file again: horarium apply")
    return found


async def _change(connection: Statements, before: RoutineRecord, **changes: Any) -> None:
    await connection.execute(
        update(routines).where(routines.c.name == before.name).values(**changes, generation=before.generation + 1)
    )
