"""Standing grants: what a person released for longer than one call, until it ends or is revoked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import insert, select, update

from horarium.content import canonical, digest
from horarium.contract import GrantScope
from horarium.errors import ApprovalNotFound
from horarium.ids import grant_id, routine_grant_id
from horarium.ledger.audit import AuditEntry, append
from horarium.ledger.database import Ledger, Statements
from horarium.ledger.schema import grants, routines
from horarium.plans import fits
from horarium.routines import Routine

StandingScope = GrantScope | Literal["routine"]
_LOCK = 7_206_027  # any number, the same in every process of ours
FOR_GOOD = datetime(2999, 1, 1, tzinfo=UTC)  # until the definition no longer has it


@dataclass(frozen=True, slots=True)
class Grant:
    """One standing grant. `bounds` are JSON Schema keywords by argument.

    `granted_in` is the approval that it came with; of a routine's, the mark of the definition.
    """

    id: str
    tenant: str
    agent: str
    scope: str
    scope_id: str
    tool: str
    schema_digest: str
    bounds: dict[str, Any]
    granted_by: str
    granted_in: str | None
    comment: str | None
    created_at: datetime
    ends_at: datetime
    revoked_at: datetime | None
    revoked_by: str | None

    @property
    def granter(self) -> str | None:
        """Who gave it; None: nobody said who had the routine so."""
        return None if self.granted_by == _nobody(self.scope_id) else self.granted_by

    def is_of(self, definition: Routine) -> bool:
        """Whether it came with exactly this definition of its routine."""
        return self.scope == "routine" and self.granted_in == definition_mark(definition)


@dataclass(frozen=True, slots=True)
class Granting:
    """A grant to write down, in the transaction that records the approval it came with."""

    tenant: str
    agent: str
    scope: GrantScope
    scope_id: str
    tool: str
    schema_digest: str
    bounds: Mapping[str, Any]
    by: str
    granted_in: str
    comment: str | None
    at: datetime
    ends_at: datetime


async def record_grant(connection: Statements, said: Granting) -> str:
    """Write a grant down; one for each approval, so it is safe to repeat. Its id."""
    made = grant_id(said.granted_in)
    if await connection.scalar(select(grants.c.id).where(grants.c.id == made)) is not None:
        return made
    bounds = dict(said.bounds)
    await connection.execute(
        insert(grants).values(
            id=made,
            tenant=said.tenant,
            agent=said.agent,
            scope=said.scope,
            scope_id=said.scope_id,
            tool=said.tool,
            schema_digest=said.schema_digest,
            bounds=bounds,
            granted_by=said.by,
            granted_in=said.granted_in,
            comment=said.comment,
            created_at=said.at,
            ends_at=said.ends_at,
        )
    )
    data: dict[str, Any] = {"by": said.by, "tool": said.tool, "scope": said.scope, "scope_id": said.scope_id}
    data |= {"bounds": bounds, "granted_in": said.granted_in, "comment": said.comment}
    data["ends_at"] = said.ends_at.isoformat()
    await append(
        connection,
        AuditEntry(kind="grant.made", at=said.at, tenant=said.tenant, subject=made, data=data, once=f"made:{made}"),
    )
    return made


class Grants:
    """The standing grants of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def revoke(self, grant: str, by: str, at: datetime, *, tenant: str | None = None) -> Grant:
        """End a grant now. Safe to repeat: the first revocation stands.

        Args:
            tenant: Whose it has to be. None: anybody's.

        Raises:
            ApprovalNotFound: There is none of this id, or it is another tenant's.
        """
        async with self._ledger.write() as connection:
            await _one(connection, grant, tenant)
            done = await connection.execute(
                update(grants)
                .where(grants.c.id == grant, grants.c.revoked_at.is_(None))
                .values(revoked_at=at, revoked_by=by)
            )
            found = await _one(connection, grant, tenant)
            if done.rowcount:
                entry = AuditEntry(
                    kind="grant.revoked",
                    at=at,
                    tenant=found.tenant,
                    subject=grant,
                    data={"by": by},
                    once=f"revoked:{grant}",
                )
                await append(connection, entry)
            return found

    async def standing(
        self,
        *,
        tenant: str,
        agent: str,
        run: str,
        thread: str,
        tool: str,
        schema_digest: str,
        arguments: Mapping[str, Any],
        at: datetime,
        routine: str | None = None,
        counts: Callable[[Grant], bool] = lambda _grant: True,
    ) -> Grant | None:
        """The grant that releases exactly this call now, if there is one.

        Args:
            routine: Of which the run is a tick's attempt.
            counts: Whether a grant counts under the rule that fits the call.
        """
        query = select(grants).where(
            grants.c.tenant == tenant,
            grants.c.agent == agent,
            grants.c.tool == tool,
            grants.c.schema_digest == schema_digest,
            grants.c.revoked_at.is_(None),
            grants.c.created_at <= at,
            grants.c.ends_at > at,
            grants.c.scope_id.in_([run, thread, agent, *([routine] if routine is not None else [])]),
        )
        scopes = {"run": run, "thread": thread, "agent": agent, "routine": routine}
        async with self._ledger.read() as connection:
            found = [Grant(*row) for row in await connection.execute(query.order_by(grants.c.created_at))]
        mine = (grant for grant in found if scopes[grant.scope] == grant.scope_id and counts(grant))
        return next((grant for grant in mine if fits(grant.bounds, arguments)), None)

    async def sync_routine(
        self,
        routine: Routine,
        schema_digests: Mapping[str, str],
        *,
        by: str | None,
        at: datetime,
        grant: bool = True,
    ) -> bool:
        """Make the standing grants of a routine those that its definition preapproves; whether that changed anything.

        A grant is of one definition, and of whoever put that one. What a person revoked stays revoked for as long as
        a definition means the same grant. Safe to repeat; of a definition that is no longer the routine's it does
        nothing.

        Args:
            schema_digests: Of the tools, by name; for a tool that is not there nothing is granted.
            by: Who put the definition. None: nobody said so, and the grants are nobody's.
            grant: Whether that is being done now. False: grants that are not of it are withdrawn, and none is made.
        """
        mark = definition_mark(routine)
        changed = False
        async with self._ledger.write() as connection:
            await connection.lock(_LOCK)  # two who apply at once must not both find that it is not there
            query = select(routines.c.definition, routines.c.deleted_at).where(routines.c.name == routine.name)
            row = (await connection.execute(query)).first()
            if row is not None and definition_mark(Routine.model_validate(row.definition)) != mark:
                return False  # whoever wrote the newer one does it
            gone = row is not None and row.deleted_at is not None
            meant = {} if gone else routine_grants(routine, schema_digests)
            ours = (grants.c.scope == "routine", grants.c.scope_id == routine.name)
            there = {found.id: Grant(*found) for found in await connection.execute(select(grants).where(*ours))}
            for former in there.values():
                lapsed = former.id not in meant or (former.granted_in != mark and not grant)
                if lapsed and former.revoked_at is None:
                    await _set(connection, former, revoked_at=at, revoked_by=_nobody(routine.name))
                    await _tell(connection, "grant.revoked", former, at, {"by": by, "routine": routine.name})
                    changed = True
            for made, (tool, bounds) in meant.items() if grant else ():
                before = there.get(made)
                if before is not None and not _is_renewed(before, mark, by):
                    continue
                values: dict[str, Any] = {"granted_by": by or _nobody(routine.name), "granted_in": mark}
                values |= {"created_at": at, "ends_at": FOR_GOOD}
                if before is None:
                    values |= {"tenant": routine.tenant, "agent": routine.agent, "tool": tool, "bounds": bounds}
                    values |= {"scope": "routine", "scope_id": routine.name, "schema_digest": schema_digests[tool]}
                    await connection.execute(insert(grants).values(id=made, **values))
                else:
                    await _set(connection, before, revoked_at=None, revoked_by=None, **values)
                given = await _one(connection, made, None)
                data = {"by": by, "tool": tool, "scope": "routine", "scope_id": routine.name, "definition": mark}
                await _tell(connection, "grant.made", given, at, data | {"bounds": bounds})
                changed = True
        return changed

    async def of_routines(self) -> dict[str, list[Grant]]:
        """Every grant of a routine, revoked or not, by the routine's name."""
        found: dict[str, list[Grant]] = {}
        async with self._ledger.read() as connection:
            for row in await connection.execute(select(grants).where(grants.c.scope == "routine")):
                found.setdefault(row.scope_id, []).append(Grant(*row))
        return found

    async def list(self, *, tenant: str | None = None, everything: bool = False, at: datetime) -> list[Grant]:
        """Grants, newest first: those that hold, or everything there ever was."""
        query = select(grants).order_by(grants.c.created_at.desc(), grants.c.id)
        if tenant is not None:
            query = query.where(grants.c.tenant == tenant)
        if not everything:
            query = query.where(grants.c.revoked_at.is_(None), grants.c.ends_at > at)
        async with self._ledger.read() as connection:
            return [Grant(*row) for row in await connection.execute(query)]


async def _one(connection: Statements, grant: str, tenant: str | None) -> Grant:
    row = (await connection.execute(select(grants).where(grants.c.id == grant))).first()
    if row is None or tenant not in (None, row.tenant):
        raise ApprovalNotFound(f"There is no grant {grant!r}.", hint="See them: horarium approvals grants list")
    return Grant(*row)


def routine_grants(routine: Routine, schema_digests: Mapping[str, str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """The grants that a definition means: tool and bounds by the grant's id. Not of tools that nobody serves."""
    return {
        routine_grant_id(
            routine.tenant, routine.name, routine.agent, item.tool, schema_digests[item.tool], canonical(item.when)
        ): (item.tool, item.when)
        for item in routine.preapproved
        if item.tool in schema_digests
    }


def definition_mark(routine: Routine) -> str:
    """What a definition is known by in its grants: the same for as long as it says the same."""
    return digest(routine.model_dump(mode="json", exclude_defaults=True))[:40]


def _nobody(routine: str) -> str:
    """Who gives a grant when nobody says who; and who takes one back that left its definition, until it returns."""
    return f"routine:{routine}"


def _is_renewed(before: Grant, mark: str, by: str | None) -> bool:
    """Whether putting the definition again gives the grant anew, in the name of who does it."""
    if before.revoked_at is not None:
        return before.revoked_by == _nobody(before.scope_id)
    return before.granted_in != mark or (before.granter is None and by is not None)


async def _set(connection: Statements, grant: Grant, **values: Any) -> None:
    await connection.execute(update(grants).where(grants.c.id == grant.id).values(**values))


async def _tell(
    connection: Statements, kind: Literal["grant.made", "grant.revoked"], grant: Grant, at: datetime, data: Any
) -> None:
    await append(connection, AuditEntry(kind=kind, at=at, tenant=grant.tenant, subject=grant.id, data=data))
