"""Memories in the ledger: looking, and recalling what fits. Learning and people's changes have modules of their own.

Which version of a memory holds is not written down: it is the newest that is active.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import (
    ColumnElement,
    Select,
    column,
    delete,
    func,
    literal_column,
    or_,
    select,
    table,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite

from horarium.errors import MemoryNotFound
from horarium.ledger.database import Ledger, Statements
from horarium.ledger.schema import (
    lessons,
    memories,
    memory_outbox,
    memory_sources,
    memory_uses,
    memory_versions,
)
from horarium.memories import FeedbackVerdict, Known, Memory, MemoryKind, MemoryStatus, MemoryVersion, query_words

LOCK = 7_206_031  # any number, the same in every process of ours
VERSION_COLUMNS = tuple(memory_versions.c[name] for name in MemoryVersion.__dataclass_fields__)
_MEMORY_COLUMNS = tuple(
    memories.c[name] for name in ("id", "tenant", "kind", "scope", "owner", "subject", "created_at")
)
_WORDS = table("memory_words", column("rowid"))
_MATCH: ColumnElement[str] = literal_column("memory_words")


class Feedback(NamedTuple):
    """What somebody said of a run that taught something."""

    verdict: FeedbackVerdict
    by: str | None
    note: str | None


class Memories:
    """The memories of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert

    async def recall(
        self, *, tenant: str, kind: MemoryKind, scope: str, owner: str, query: str, limit: int, at: datetime
    ) -> list[Known]:
        """What holds and fits a text best; when fewer fit, the latest besides. Best first.

        Args:
            scope: Empty for kind `user`.
            owner: The user, folded; empty for the other kinds.
        """
        of_these = self._holding(at).where(
            memories.c.tenant == tenant, memories.c.kind == kind, memories.c.scope == scope, memories.c.owner == owner
        )
        found: dict[str, Known] = {}
        words = query_words(query)
        async with self._ledger.read() as connection:
            for looked in ([self._ranked(of_these, words)] if words else []) + [
                of_these.order_by(memory_versions.c.renewed_at.desc(), memory_versions.c.id.desc())
            ]:
                if len(found) < limit:
                    for row in await connection.execute(looked.limit(limit)):
                        found.setdefault(row.id, Known(*row))
        return list(found.values())[:limit]

    async def used(self, run: str, step: int, what: Sequence[tuple[str, int]]) -> None:
        """Write down that a run was told of these; safe to repeat."""
        if not what:
            return
        now = datetime.now(UTC)
        rows = [
            {"memory_id": memory, "version": version, "run_id": run, "step": step, "at": now}
            for memory, version in dict.fromkeys(what)
        ]
        async with self._ledger.write() as connection:
            await connection.execute(self._insert(memory_uses).on_conflict_do_nothing(), rows)

    async def uses(self, memory: str, version: int | None = None) -> list[tuple[str, int]]:
        """The runs that were told of a memory, and of which version; the oldest first."""
        query = select(memory_uses.c.run_id, memory_uses.c.version).where(memory_uses.c.memory_id == memory)
        if version is not None:
            query = query.where(memory_uses.c.version == version)
        async with self._ledger.read() as connection:
            rows = await connection.execute(query.order_by(memory_uses.c.at, memory_uses.c.run_id))
            return [(row.run_id, row.version) for row in rows]

    async def get(self, memory: str, *, tenant: str | None = None) -> Memory:
        """One memory with all its versions.

        Raises:
            MemoryNotFound: There is none, or it is another tenant's.
        """
        async with self._ledger.read() as connection:
            return await one(connection, memory, tenant)

    async def list(
        self,
        *,
        tenant: str | None = None,
        kind: MemoryKind | None = None,
        scope: str | None = None,
        owner: str | None = None,
        status: Sequence[MemoryStatus] = (),
        run: str | None = None,
        text: str | None = None,
        before: tuple[datetime, str] | None = None,
        limit: int = 100,
    ) -> list[Memory]:
        """Memories, the newest first; with `status`, those that have such a version; with `run`, that it taught.

        `text`: part of its subject, or of what a version says. `before`: when the last of the page before was made,
        and its id.
        """
        query = select(memories.c.id).order_by(memories.c.created_at.desc(), memories.c.id.desc()).limit(limit)
        wanted = (
            (memories.c.tenant, tenant),
            (memories.c.kind, kind),
            (memories.c.scope, scope),
            (memories.c.owner, owner),
        )
        query = query.where(*(place == value for place, value in wanted if value is not None))
        if before is not None:
            query = query.where(tuple_(memories.c.created_at, memories.c.id) < before)
        if status:
            now = datetime.now(UTC)
            having = select(memory_versions.c.memory_id).where(memory_versions.c.status.in_(status), _not_expired(now))
            query = query.where(memories.c.id.in_(having))
        if run is not None:
            query = query.where(
                memories.c.id.in_(select(memory_sources.c.memory_id).where(memory_sources.c.run_id == run))
            )
        if text is not None:
            says = select(memory_versions.c.memory_id).where(memory_versions.c.text.icontains(text, autoescape=True))
            query = query.where(
                or_(memories.c.subject.icontains(text, autoescape=True), memories.c.id.in_(says), memories.c.id == text)
            )
        async with self._ledger.read() as connection:
            ids = list(await connection.scalars(query))
            found = {memory.id: memory for memory in await several(connection, ids)}
        return [found[identity] for identity in ids]

    async def use_counts(self, ids: Sequence[str]) -> dict[str, int]:
        """How many runs were told of each of these memories; of one that was never told, nothing."""
        query = select(memory_uses.c.memory_id, func.count(memory_uses.c.run_id.distinct()))
        query = query.where(memory_uses.c.memory_id.in_(ids)).group_by(memory_uses.c.memory_id)
        async with self._ledger.read() as connection:
            return {memory: int(number) for memory, number in await connection.execute(query)}

    async def feedback(self, of_runs: Sequence[str]) -> dict[str, Feedback]:
        """The last word on each of these runs; of one that nobody judged, nothing."""
        query = select(lessons.c.run_id, lessons.c.feedback, lessons.c.feedback_by, lessons.c.note)
        query = query.where(lessons.c.run_id.in_(of_runs), lessons.c.feedback.is_not(None))
        async with self._ledger.read() as connection:
            return {run: Feedback(*said) for run, *said in await connection.execute(query)}

    def _holding(self, at: datetime) -> Select[tuple[str, int, str, str, str]]:
        other = memory_versions.alias("other")
        newest = (
            select(func.max(other.c.version))
            .where(other.c.memory_id == memories.c.id, other.c.status == "active")
            .correlate(memories)
        )
        return (
            select(
                memories.c.id,
                memory_versions.c.version,
                memories.c.kind,
                memories.c.subject,
                memory_versions.c.text,
            )
            .join(memory_versions, memory_versions.c.memory_id == memories.c.id)
            .where(
                memory_versions.c.status == "active",
                memory_versions.c.version == newest.scalar_subquery(),
                _not_expired(at),
            )
        )

    def _ranked(
        self, query: Select[tuple[str, int, str, str, str]], words: Sequence[str]
    ) -> Select[tuple[str, int, str, str, str]]:
        if self._ledger.is_sqlite:
            wanted = " OR ".join(f'"{word}"*' for word in words)
            return (
                query.join(_WORDS, _WORDS.c.rowid == memory_versions.c.id)
                .where(_MATCH.op("MATCH")(wanted))
                .order_by(func.bm25(_MATCH), memory_versions.c.id.desc())
            )
        parsed = func.to_tsquery(literal_column("'simple'"), " | ".join(f"{word}:*" for word in words))
        text = func.to_tsvector(literal_column("'simple'"), memory_versions.c.text)
        return query.where(text.op("@@")(parsed)).order_by(
            func.ts_rank(text, parsed).desc(), memory_versions.c.id.desc()
        )


async def one(connection: Statements, memory: str, tenant: str | None) -> Memory:
    """Within a transaction: as `Memories.get`."""
    found = await several(connection, [memory])
    if not found or tenant not in (None, found[0].tenant):
        raise MemoryNotFound(f"There is no memory {memory!r}.", hint="See which there are: horarium memory list")
    return found[0]


async def several(connection: Statements, ids: Sequence[str]) -> list[Memory]:
    """Within a transaction: the memories of these ids, in any order, with their versions."""
    if not ids:
        return []
    versions: dict[str, list[MemoryVersion]] = {}
    of_these = memory_versions.c.memory_id.in_(ids)
    for row in await connection.execute(select(*VERSION_COLUMNS).where(of_these).order_by(memory_versions.c.version)):
        versions.setdefault(row.memory_id, []).append(MemoryVersion(*row))
    sources: dict[str, dict[int, tuple[str, ...]]] = {}
    for row in await connection.execute(
        select(memory_sources).where(memory_sources.c.memory_id.in_(ids)).order_by(memory_sources.c.at)
    ):
        of_memory = sources.setdefault(row.memory_id, {})
        of_memory[row.version] = (*of_memory.get(row.version, ()), row.run_id)
    rows = await connection.execute(select(*_MEMORY_COLUMNS).where(memories.c.id.in_(ids)))
    return [
        replace(Memory(*row), versions=tuple(versions.get(row.id, ())), sources=sources.get(row.id, {})) for row in rows
    ]


async def forget_runs(connection: Statements, runs: ColumnElement[str]) -> None:
    """Within a transaction: delete what these runs, and no others besides, have taught.

    Args:
        runs: A subquery of their ids.
    """
    taught = memory_sources.c.run_id.in_(runs)
    touched = set(await connection.scalars(select(memory_sources.c.memory_id).where(taught)))
    await connection.execute(delete(memory_sources).where(taught))
    left = select(memory_sources.c.run_id).where(
        memory_sources.c.memory_id == memory_versions.c.memory_id,
        memory_sources.c.version == memory_versions.c.version,
    )
    await connection.execute(
        delete(memory_versions).where(
            memory_versions.c.memory_id.in_(touched), memory_versions.c.run_id.is_not(None), ~left.exists()
        )
    )
    alive = select(memory_versions.c.memory_id).where(memory_versions.c.memory_id == memories.c.id)
    await connection.execute(delete(memories).where(memories.c.id.in_(touched), ~alive.exists()))
    await connection.execute(delete(memory_outbox).where(memory_outbox.c.run_id.in_(runs)))
    await connection.execute(delete(lessons).where(lessons.c.run_id.in_(runs)))


def _not_expired(at: datetime) -> ColumnElement[bool]:
    return or_(memory_versions.c.expires_at.is_(None), memory_versions.c.expires_at > at)
