"""The audit trail: who was asked, who decided, what was released, in one chain for the whole ledger.

An entry is appended inside the transaction that does what it tells of, so neither is there without the other. It holds
digests and no content; deleting a thread leaves it. How the chain is hashed and checked is in horarium/audit.py.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import bindparam, exists, func, insert, select

from horarium.audit import BEGINNING, entry_hash
from horarium.content import canonical, clean_json, clean_text, shorten
from horarium.ledger.database import Ledger, Prepared, Statements
from horarium.ledger.schema import audit

AuditKind = Literal[
    "approval.requested",
    "approval.reminded",
    "approval.escalated",
    "approval.reassigned",
    "approval.voted",
    "approval.edited",
    "approval.decided",
    "approval.expired",
    "approval.withdrawn",
    "decision.refused",
    "question.opened",
    "question.resolved",
    "question.withdrawn",
    "grant.made",
    "grant.used",
    "grant.revoked",
    "effect.released",
    "effect.refused",
    "link.used",
    "notice.failed",
    "routine.put",
    "routine.deleted",
    "routine.paused",
    "routine.resumed",
    "routine.ordered",
    "routine.refused",
    "memory.reviewed",
    "memory.edited",
    "memory.deleted",
    "memory.undone",
    "memory.feedback",
    "toolbox.promoted",
    "toolbox.rolled_back",
    "thread.deleted",
    "tool.trusted",
    "api_key.created",
    "api_key.revoked",
]

_LOCK = 7_206_018  # any number, the same in every process of ours
_PAGE = 1_000  # entries in memory while exporting
_COLUMNS = ("seq", "at", "kind", "tenant", "run_id", "subject", "data", "previous", "hash")
_LAST = select(func.max(audit.c.seq)).scalar_subquery()
_HEAD = Prepared(
    select(audit.c.seq, audit.c.hash, exists().where(audit.c.once == bindparam("of_once"))).where(audit.c.seq == _LAST)
)
_APPEND = Prepared(insert(audit).values({name: bindparam(name) for name in (*_COLUMNS, "once")}))


def _storable(subject: str | None) -> str | None:
    return None if subject is None else shorten(clean_text(subject)[0], 200)


class AuditEntry(BaseModel):
    """One thing that happened. What strangers wrote into it is made storable, and secrets are taken out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: AuditKind
    at: AwareDatetime
    tenant: str
    run_id: str | None = None
    subject: Annotated[str | None, AfterValidator(_storable)] = Field(
        default=None, description="Id of the approval, question, grant, key or link; cut at 200 characters."
    )
    data: Annotated[dict[str, Any], AfterValidator(clean_json)] = Field(
        default={},
        description="`by`, `verdict`, `via`, `key`, `comment`, `proof`, `reason` where there is one. Of arguments, "
        "answers and outputs the digest only: nothing here is ever deleted.",
    )
    once: str | None = Field(
        default=None, description="Activities are repeated: the entry of this name is written once."
    )


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One entry as the ledger has it."""

    seq: int
    at: datetime
    kind: str
    tenant: str
    run_id: str | None
    subject: str | None
    data: Any
    previous: str
    hash: str

    def json(self) -> dict[str, Any]:
        """As it is exported and hashed."""
        return _hashed(
            self.seq, self.at, self.kind, self.tenant, self.run_id, self.subject, self.data, self.previous
        ) | {"hash": self.hash}


class Head(NamedTuple):
    """The last entry's number and hash; 0 and zeros before the first."""

    seq: int
    hash: str


async def append(connection: Statements, entry: AuditEntry) -> None:
    """Add an entry to the chain, within the transaction that does what it tells of.

    Whoever appends next waits for this transaction to end, so append late in it: what it locks afterwards may be held
    by a transaction that waits for this one.
    """
    await connection.lock(_LOCK)
    rows = await connection.run(_HEAD, of_once=entry.once)
    seq, previous, known = rows[0] if rows else (0, BEGINNING, False)
    if known:
        return
    content = _hashed(seq + 1, entry.at, entry.kind, entry.tenant, entry.run_id, entry.subject, entry.data, previous)
    await connection.run(
        _APPEND,
        seq=seq + 1,
        at=entry.at,
        kind=entry.kind,
        tenant=entry.tenant,
        run_id=entry.run_id,
        subject=entry.subject,
        data=canonical(entry.data),
        previous=previous,
        hash=entry_hash(content),
        once=entry.once,
    )


async def entry_named(connection: Statements, once: str) -> AuditRecord | None:
    """The entry that was written once under this name."""
    found = (
        await connection.execute(select(*(audit.c[name] for name in _COLUMNS)).where(audit.c.once == once))
    ).first()
    return _record(*found) if found is not None else None


class AuditTrail:
    """The audit trail of a ledger, to look at. It is of all tenants: the chain is one."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def entries(
        self,
        *,
        after: int = 0,
        run: str | None = None,
        tenant: str | None = None,
        limit: int = 100,
        newest: bool = False,
    ) -> list[AuditRecord]:
        """Entries after number `after`, oldest first: the first `limit` of them, or the `newest`."""
        query = select(*(audit.c[name] for name in _COLUMNS)).where(audit.c.seq > after).limit(limit)
        if run is not None:
            query = query.where(audit.c.run_id == run)
        if tenant is not None:
            query = query.where(audit.c.tenant == tenant)
        query = query.order_by(audit.c.seq.desc() if newest else audit.c.seq)
        async with self._ledger.read() as connection:
            found = [_record(*row) for row in await connection.execute(query)]
        return found[::-1] if newest else found

    async def latest(
        self,
        *,
        tenant: str,
        before: int | None = None,
        kind: str | None = None,
        run: str | None = None,
        subject: str | None = None,
        by: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
    ) -> list[AuditRecord]:
        """A tenant's entries, the newest first; those `before` a number.

        `by`: who did it, as it is written there. `since`, `until`: the entry's time; the second is left out.
        """
        query = select(*(audit.c[name] for name in _COLUMNS)).where(audit.c.tenant == tenant)
        for column, value in ((audit.c.kind, kind), (audit.c.run_id, run), (audit.c.subject, subject)):
            if value is not None:
                query = query.where(column == value)
        if by is not None:
            query = query.where(audit.c.data.contains(f'"by":{canonical(by)}', autoescape=True))
        if since is not None:
            query = query.where(audit.c.at >= since)
        if until is not None:
            query = query.where(audit.c.at < until)
        if before is not None:
            query = query.where(audit.c.seq < before)
        async with self._ledger.read() as connection:
            rows = await connection.execute(query.order_by(audit.c.seq.desc()).limit(limit))
            return [_record(*row) for row in rows]

    async def export(self, *, tenant: str | None = None) -> AsyncIterator[str]:
        """The whole chain as JSON Lines, in order, each without its line end; read in pages.

        What could steer a terminal is escaped. With `tenant` its entries only: they cannot be verified by themselves.
        """
        after = 0
        while page := await self.entries(after=after, tenant=tenant, limit=_PAGE):
            for record in page:
                yield json.dumps(record.json(), separators=(",", ":"))
            after = page[-1].seq

    async def head(self) -> Head:
        """Where the chain ends; keep its hash elsewhere, and a cut or rewritten chain is found."""
        async with self._ledger.read() as connection:
            rows = await connection.run(_HEAD, of_once=None)
        return Head(rows[0][0], rows[0][1]) if rows else Head(0, BEGINNING)


def _hashed(
    seq: int,
    at: datetime,
    kind: str,
    tenant: str,
    run: str | None,
    subject: str | None,
    data: Any,
    previous: str,
) -> dict[str, Any]:
    return {
        "seq": seq,
        "at": at.astimezone(UTC).isoformat(timespec="microseconds"),
        "kind": kind,
        "tenant": tenant,
        "run": run,
        "subject": subject,
        "data": data,
        "previous": previous,
    }


def _record(*row: Any) -> AuditRecord:
    values = dict(zip(_COLUMNS, row, strict=True))
    try:
        data = json.loads(values["data"])
    except ValueError:
        data = values["data"]  # somebody wrote into the table: exported as it is, and found by whoever verifies
    return AuditRecord(**values | {"data": data})
