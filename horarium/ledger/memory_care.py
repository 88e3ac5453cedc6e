"""What people do with memories: review, edit, delete, undo. Each leaves an entry in the audit trail, without text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import delete, insert, select

from horarium.content import clean_text, digest_text
from horarium.errors import ConfigError, Conflict, MemoryNotFound
from horarium.ledger.audit import AuditEntry, append
from horarium.ledger.database import Ledger, Statements
from horarium.ledger.memories import LOCK, one
from horarium.ledger.memory_lessons import admitted_until, set_version
from horarium.ledger.memory_outbox import HELD_BACK, hold_back, release
from horarium.ledger.schema import memories, memory_outbox, memory_sources, memory_uses, memory_versions
from horarium.memories import PENDING, TEXT_CHARS, Memory, Undone

Verdict = Literal["accept", "reject"]
_Kind = Literal["memory.reviewed", "memory.edited", "memory.deleted", "memory.undone"]


class MemoryCare:
    """People's changes to the memories of a ledger. `tenant` None: anybody's."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def review(
        self,
        memory: str,
        verdict: Verdict,
        by: str,
        *,
        version: int | None = None,
        note: str | None = None,
        tenant: str | None = None,
    ) -> Memory:
        """Let what waits be recalled from now on, or never; `version`: the one that was looked at.

        Raises:
            MemoryNotFound: There is none.
            Conflict: Nothing of it waits, or it is another version by now.
        """
        async with self._changing() as (connection, now):
            found = await one(connection, memory, tenant)
            waiting = found.pending
            if waiting is None:
                raise Conflict(f"Nothing of memory {memory} waits for a review.")
            if version not in (None, waiting.version):
                raise Conflict(
                    f"Of memory {memory} it is version {waiting.version} that waits by now, and not {version}.",
                    hint="Look at it: horarium memory review",
                )
            values: dict[str, Any] = {"status": "rejected"}
            if verdict == "accept":
                until = await admitted_until(connection, waiting.run_id, now)
                # Newer than what was learned meanwhile: a person has chosen it.
                newest = max(version.version for version in found.versions)
                values = {"status": "active", "expires_at": until}
                if found.current is not None and found.current.version > waiting.version:
                    values["version"] = newest + 1
                    await _renumber_sources(connection, memory, waiting.version, newest + 1)
            reason = f"{verdict}ed by {by}" + (f": {note}" if note else "")
            await set_version(connection, memory, waiting.version, reason=reason, changed_by=by, **values)
            data = {"by": by, "verdict": verdict, "version": waiting.version, "was": waiting.status}
            await _tell(connection, "memory.reviewed", found, now, data | {"text": digest_text(waiting.text)})
            return await one(connection, memory, tenant)

    async def review_delivery(self, run: str, verdict: Verdict, by: str, *, tenant: str | None = None) -> bool:
        """As `review`, for what a run left for a store elsewhere; whether it goes out now.

        Raises:
            MemoryNotFound: Nothing of this run waits.
        """
        async with self._changing() as (connection, now):
            query = select(memory_outbox.c.tenant, memory_outbox.c.status).where(memory_outbox.c.run_id == run)
            row = (await connection.execute(query)).first()
            if row is None or tenant not in (None, row.tenant) or row.status not in PENDING:
                raise MemoryNotFound(
                    f"Nothing that run {run!r} left waits for a review.", hint="See what does: horarium memory review"
                )
            goes = verdict == "accept" and await release(connection, run, HELD_BACK, now)
            if verdict == "reject":
                await hold_back(connection, run, "rejected", now)
            data = {"by": by, "verdict": verdict, "was": row.status}
            entry = AuditEntry(
                kind="memory.reviewed", at=now, tenant=row.tenant, run_id=run, subject=f"delivery:{run}", data=data
            )
            await append(connection, entry)
            return goes

    async def edit(self, memory: str, text: str, by: str, *, tenant: str | None = None) -> Memory:
        """Have it say something else: a new version, a person's, which holds at once.

        Raises:
            MemoryNotFound: There is none.
            ConfigError: The text is empty or too long.
        """
        said = clean_text(text)[0].strip()
        if not said or len(said) > TEXT_CHARS:
            raise ConfigError(f"A memory has 1 to {TEXT_CHARS:,} characters.")
        async with self._changing() as (connection, now):
            found = await one(connection, memory, tenant)
            before = found.shown
            version = max(each.version for each in found.versions) + 1
            await connection.execute(
                insert(memory_versions).values(
                    memory_id=memory,
                    version=version,
                    status="active",
                    text=said,
                    reason=f"edited by {by}",
                    changed_by=by,
                    created_at=now,
                    renewed_at=now,
                    expires_at=before.expires_at if before.holds(now) else None,
                )
            )
            data = {"by": by, "version": version, "text": digest_text(said), "before": digest_text(before.text)}
            await _tell(connection, "memory.edited", found, now, data)
            return await one(connection, memory, tenant)

    async def undo(self, memory: str, by: str, *, tenant: str | None = None) -> Undone:
        """Take back what holds now: the version before it holds again, or none.

        Raises:
            MemoryNotFound: There is none.
            Conflict: No version holds.
        """
        async with self._changing() as (connection, now):
            found = await one(connection, memory, tenant)
            current = found.current
            if current is None:
                raise Conflict(f"No version of memory {memory} holds: there is nothing to undo.")
            await set_version(
                connection, memory, current.version, status="undone", reason=f"undone by {by}", changed_by=by
            )
            after = await one(connection, memory, tenant)
            restored = after.current.version if after.current is not None else None
            used = await connection.scalars(
                select(memory_uses.c.run_id)
                .where(memory_uses.c.memory_id == memory, memory_uses.c.version == current.version)
                .order_by(memory_uses.c.at, memory_uses.c.run_id)
            )
            undone = Undone(after, current.version, restored, tuple(used))
            data = {"by": by, "undone": current.version, "restored": restored, "used_by": len(undone.used_by)}
            await _tell(connection, "memory.undone", found, now, data)
            return undone

    async def delete(self, memory: str, by: str, *, tenant: str | None = None) -> tuple[str, ...]:
        """Remove it with all its versions; what stays is which runs had been told of it.

        Returns:
            These runs. What they were shown is in their own evidence until their threads are deleted.

        Raises:
            MemoryNotFound: There is none.
        """
        async with self._changing() as (connection, now):
            found = await one(connection, memory, tenant)
            for table in (memory_sources, memory_versions):
                await connection.execute(delete(table).where(table.c.memory_id == memory))
            await connection.execute(delete(memories).where(memories.c.id == memory))
            used = await connection.scalars(select(memory_uses.c.run_id).where(memory_uses.c.memory_id == memory))
            told = tuple(dict.fromkeys(used))
            data = {"by": by, "versions": len(found.versions), "used_by": len(told)}
            await _tell(connection, "memory.deleted", replace(found, subject=""), now, data)
            return told

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[tuple[Statements, datetime]]:
        async with self._ledger.write() as connection:
            await connection.lock(LOCK)
            yield connection, datetime.now(UTC)


async def _renumber_sources(connection: Statements, memory: str, before: int, after: int) -> None:
    await connection.execute(
        memory_sources.update()
        .where(memory_sources.c.memory_id == memory, memory_sources.c.version == before)
        .values(version=after)
    )


async def _tell(connection: Statements, kind: _Kind, memory: Memory, now: datetime, data: dict[str, Any]) -> None:
    what = {"kind": memory.kind} | data
    await append(connection, AuditEntry(kind=kind, at=now, tenant=memory.tenant, subject=memory.id, data=what))
