"""Standing grants: what a person released for longer than one call, until it ends or is revoked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite

from horarium.contract import GrantScope
from horarium.errors import ApprovalNotFound
from horarium.ids import grant_id
from horarium.ledger.audit import AuditEntry, append
from horarium.ledger.database import Ledger, Statements
from horarium.ledger.schema import grants
from horarium.plans import fits


@dataclass(frozen=True, slots=True)
class Grant:
    """One standing grant. `bounds` are JSON Schema keywords by argument."""

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


class Grants:
    """The standing grants of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert

    async def make(
        self,
        *,
        tenant: str,
        agent: str,
        scope: GrantScope,
        scope_id: str,
        tool: str,
        schema_digest: str,
        bounds: Mapping[str, Any],
        by: str,
        granted_in: str,
        comment: str | None,
        at: datetime,
        ends_at: datetime,
    ) -> str:
        """Write a grant down; one for each approval, so it is safe to repeat. Its id."""
        made = grant_id(granted_in)
        async with self._ledger.write() as connection:
            fresh = await connection.execute(
                self._insert(grants)
                .values(
                    id=made,
                    tenant=tenant,
                    agent=agent,
                    scope=scope,
                    scope_id=scope_id,
                    tool=tool,
                    schema_digest=schema_digest,
                    bounds=dict(bounds),
                    granted_by=by,
                    granted_in=granted_in,
                    comment=comment,
                    created_at=at,
                    ends_at=ends_at,
                )
                .on_conflict_do_nothing()
            )
            if fresh.rowcount:
                data: dict[str, Any] = {
                    "by": by,
                    "tool": tool,
                    "scope": scope,
                    "scope_id": scope_id,
                    "bounds": dict(bounds),
                }
                data |= {"granted_in": granted_in, "ends_at": ends_at.isoformat(), "comment": comment}
                await append(
                    connection,
                    AuditEntry(kind="grant.made", at=at, tenant=tenant, subject=made, data=data, once=f"made:{made}"),
                )
        return made

    async def revoke(self, grant: str, by: str, at: datetime) -> Grant:
        """End a grant now. Safe to repeat: the first revocation stands.

        Raises:
            ApprovalNotFound: There is none of this id.
        """
        async with self._ledger.write() as connection:
            done = await connection.execute(
                update(grants)
                .where(grants.c.id == grant, grants.c.revoked_at.is_(None))
                .values(revoked_at=at, revoked_by=by)
            )
            found = await _one(connection, grant)
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
    ) -> Grant | None:
        """The grant that releases exactly this call now, if there is one."""
        query = select(grants).where(
            grants.c.tenant == tenant,
            grants.c.agent == agent,
            grants.c.tool == tool,
            grants.c.schema_digest == schema_digest,
            grants.c.revoked_at.is_(None),
            grants.c.created_at <= at,
            grants.c.ends_at > at,
            grants.c.scope_id.in_((run, thread, agent)),
        )
        scopes = {"run": run, "thread": thread, "agent": agent}
        async with self._ledger.read() as connection:
            found = [Grant(*row) for row in await connection.execute(query.order_by(grants.c.created_at))]
        return next(
            (grant for grant in found if scopes[grant.scope] == grant.scope_id and fits(grant.bounds, arguments)), None
        )

    async def list(self, *, tenant: str | None = None, everything: bool = False, at: datetime) -> list[Grant]:
        """Grants, newest first: those that hold, or everything there ever was."""
        query = select(grants).order_by(grants.c.created_at.desc(), grants.c.id)
        if tenant is not None:
            query = query.where(grants.c.tenant == tenant)
        if not everything:
            query = query.where(grants.c.revoked_at.is_(None), grants.c.ends_at > at)
        async with self._ledger.read() as connection:
            return [Grant(*row) for row in await connection.execute(query)]


async def _one(connection: Statements, grant: str) -> Grant:
    row = (await connection.execute(select(grants).where(grants.c.id == grant))).first()
    if row is None:
        raise ApprovalNotFound(f"There is no grant {grant!r}.", hint="See them: horarium approvals grants list")
    return Grant(*row)
