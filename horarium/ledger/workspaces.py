"""Workspaces: which files a thread has, version by version.

A file is one row for as many versions as it stays the same, so a version costs what it changed. The contents are in the
blob store, in a part of their own. One is deleted only while a lock is held under which nobody begins to store it, and
when neither a version nor an upload names it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import and_, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from horarium.errors import ThreadNotFound
from horarium.ledger.database import Ledger, Prepared, Statements
from horarium.ledger.schema import (
    messages,
    runs,
    threads,
    workspace_files,
    workspace_garbage,
    workspace_uploads,
    workspace_versions,
)
from horarium.workspaces.manifest import Change, Entry, Manifest, in_the_way, some

CONTENTS_LOCK = 7_206_031  # any number, the same in every process of ours
UPLOAD_LASTS = timedelta(days=1)
_AT_ONCE = 500  # names in one statement
_SWEPT_AT_ONCE = 100

_LATEST = Prepared(
    select(func.max(workspace_versions.c.version), func.min(workspace_versions.c.version)).where(
        workspace_versions.c.thread_id == bindparam("of_thread")
    )
)
_files = workspace_files.c
_ENTRY = (_files.path, _files.size, _files.digest, _files.executable)


@dataclass(frozen=True, slots=True)
class WorkspaceVersion:
    """One version: how much there was, and who made it: a step, or a person."""

    thread_id: str
    version: int
    files: int
    bytes: int
    run_id: str | None
    step: int | None
    by: str | None
    note: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a change: its version, None when nothing had changed, and what its maker should know."""

    version: int | None
    note: str | None


class Workspaces:
    """The workspaces of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert
        self.contents = ledger.blobs.below("workspaces")

    # ---- looking

    async def latest(self, thread: str) -> tuple[int, int]:
        """The latest version of a thread's workspace, 0 before the first, and the oldest that is kept."""
        async with self._ledger.read() as connection:
            newest, oldest = (await connection.run(_LATEST, of_thread=thread))[0]
        return newest or 0, oldest or 0

    async def manifest(self, thread: str, version: int) -> Manifest:
        """The files at a version that is kept."""
        holds = and_(_files.since <= version, or_(_files.until.is_(None), _files.until > version))
        async with self._ledger.read() as connection:
            rows = await connection.execute(select(*_ENTRY).where(_files.thread_id == thread, holds))
            return {row.path: _entry(row) for row in rows}

    async def newer(self, thread: str, manifest: Manifest, known: int, version: int) -> Manifest:
        """The files at `version`, from those at an earlier version `known` that is kept."""
        touched = or_(_files.since > known, _files.until > known)
        result = dict(manifest)
        async with self._ledger.read() as connection:
            query = select(*_ENTRY, _files.since, _files.until).where(_files.thread_id == thread, touched)
            rows = (await connection.execute(query.order_by(_files.since))).fetchall()
        for row in rows:
            if row.since <= version and (row.until is None or row.until > version):
                result[row.path] = _entry(row)
            elif row.until is not None and row.until <= version:
                result.pop(row.path, None)
        return result

    async def versions(self, thread: str) -> list[WorkspaceVersion]:
        """The versions that are kept, the latest first."""
        query = select(workspace_versions).where(workspace_versions.c.thread_id == thread)
        async with self._ledger.read() as connection:
            rows = await connection.execute(query.order_by(workspace_versions.c.version.desc()))
            return [WorkspaceVersion(*row) for row in rows]

    async def check(self, thread: str, tenant: str | None) -> None:
        """Look whether there is such a thread.

        Raises:
            ThreadNotFound: There is none, it was deleted, or it is another tenant's.
        """
        async with self._ledger.read() as connection:
            query = select(threads.c.tenant, threads.c.deleted_at).where(threads.c.id == thread)
            row = (await connection.execute(query)).first()
        if row is None or row.deleted_at is not None or tenant not in (None, row.tenant):
            raise ThreadNotFound(f"There is no thread {thread!r}.")

    async def is_of_run(self, thread: str, run: str) -> bool:
        """Whether a run was opened in this thread: whoever reaches Temporal can name any in a payload."""
        async with self._ledger.read() as connection:
            found: str | None = await connection.scalar(select(runs.c.thread_id).where(runs.c.id == run))
        return found == thread

    # ---- changing

    async def reserve(self, digests: Iterable[str]) -> str:
        """Say which contents will be stored now, before it is looked whether they are there. Returns its id."""
        upload = secrets.token_hex(16)
        now = datetime.now(UTC)
        async with self._ledger.write() as connection:
            await connection.lock(CONTENTS_LOCK)
            rows = [{"id": upload, "digest": digest, "created_at": now} for digest in sorted(set(digests))]
            if rows:
                await connection.execute(insert(workspace_uploads), rows)
        return upload

    async def record(self, change: Change, *, by: str | None = None) -> Recorded:
        """Record a change that is no step's.

        Raises:
            ThreadNotFound: There is no such thread.
        """
        async with self._ledger.write() as connection:
            return await record_change(connection, change, None, None, by, datetime.now(UTC))

    async def tidy(self, thread: str, keep: int) -> None:
        """Forget the versions before the latest `keep`, except those since the first that an open run made."""
        versions = workspace_versions.c
        async with self._ledger.write() as connection:
            newest = await connection.scalar(select(func.max(versions.version)).where(versions.thread_id == thread))
            open_run = select(threads.c.open_run).where(threads.c.id == thread).scalar_subquery()
            needed = await connection.scalar(
                select(func.min(versions.version)).where(versions.thread_id == thread, versions.run_id == open_run)
            )
            floor = min((newest or 0) - keep + 1, needed or newest or 0)
            await connection.execute(
                delete(workspace_versions).where(versions.thread_id == thread, versions.version < floor)
            )
            await self._forget(connection, and_(_files.thread_id == thread, _files.until <= floor))
        await self.sweep()

    async def delete_within(self, connection: Statements, thread: str) -> None:
        """Within a transaction: forget all files of a thread. `sweep` afterwards deletes what nobody else has."""
        await self._forget(connection, _files.thread_id == thread)
        await connection.execute(delete(workspace_versions).where(workspace_versions.c.thread_id == thread))

    async def fork_within(
        self, connection: Statements, source: str, target: str, *, upto: int | None = None, by: str | None = None
    ) -> None:
        """Within a transaction: give a new thread the files of another, as they are, or were at the message `upto`."""
        await connection.lock(CONTENTS_LOCK)
        versions = workspace_versions.c
        query = select(workspace_versions).where(versions.thread_id == source).order_by(versions.version.desc())
        kept = [WorkspaceVersion(*row) for row in await connection.execute(query)]
        said = (messages.c.thread_id == source, messages.c.seq <= (-1 if upto is None else upto))
        at = None if upto is None else await connection.scalar(select(func.max(messages.c.created_at)).where(*said))
        found = next((item for item in kept if at is None or item.created_at <= at), None)
        if found is None:
            return
        holds = and_(_files.since <= found.version, or_(_files.until.is_(None), _files.until > found.version))
        rows = (await connection.execute(select(*_ENTRY).where(_files.thread_id == source, holds))).fetchall()
        manifest = {row.path: _entry(row) for row in rows}
        note = f"From version {found.version} of {source}."
        await _new_version(connection, target, 1, manifest, found.files, found.bytes, None, None, by, note)

    async def sweep(self) -> None:
        """Delete contents that no version names any more."""
        now = datetime.now(UTC)
        async with self._ledger.write() as connection:
            await connection.lock(CONTENTS_LOCK)
            stale = workspace_uploads.c.created_at < now - UPLOAD_LASTS
            gone = await connection.execute(
                delete(workspace_uploads).where(stale).returning(workspace_uploads.c.digest)
            )
            await self._discard(connection, {row.digest for row in gone})
            found = set(await connection.scalars(select(workspace_garbage.c.digest).limit(_SWEPT_AT_ONCE)))
            # In this order: a change that is recorded meanwhile moves a digest from the first to the second.
            coming = await _among(connection, workspace_uploads.c.digest, found)
            named = await _among(connection, _files.digest, found)
            for digest in found - coming - named:
                await self.contents.delete(digest)
            await connection.execute(delete(workspace_garbage).where(workspace_garbage.c.digest.in_(found - coming)))

    async def _forget(self, connection: Statements, which: Any) -> None:
        gone = await connection.execute(delete(workspace_files).where(which).returning(_files.digest))
        await self._discard(connection, {row.digest for row in gone})

    async def _discard(self, connection: Statements, digests: set[str]) -> None:
        if digests:
            rows = [{"digest": digest} for digest in sorted(digests)]
            await connection.execute(self._insert(workspace_garbage).on_conflict_do_nothing(), rows)


async def record_change(
    connection: Statements, change: Change, run: str | None, step: int | None, by: str | None, now: datetime
) -> Recorded:
    """Within a transaction: make a change the latest version.

    What others recorded since its base stays, file by file; of a file that both changed, this change stands, and the
    note says so.

    Raises:
        ThreadNotFound: There is no such thread any more.
    """
    thread = change.thread
    await connection.lock(_lock_of(thread))
    query = select(threads.c.id).where(threads.c.id == thread, threads.c.deleted_at.is_(None))
    if await connection.scalar(query) is None:
        raise ThreadNotFound(f"There is no thread {thread!r}.")
    versions = workspace_versions.c
    query = select(versions.version, versions.files, versions.bytes).where(versions.thread_id == thread)
    last = (await connection.execute(query.order_by(versions.version.desc()).limit(1))).first()
    newest, files, size = (last.version, last.files, last.bytes) if last is not None else (0, 0, 0)
    notes = list(change.notes)
    moved = change.base is None or change.base != newest
    current = await _current(connection, thread, None if moved else [*change.set, *change.gone])
    if moved:
        notes += await _overlap(connection, change, current)
    gone = {name for name in change.gone if name in current}
    fresh = {name: entry for name, entry in change.set.items() if current.get(name) != entry}
    if moved:
        gone |= in_the_way(fresh, current.keys() - gone)
    if change.upload is not None:
        await connection.execute(delete(workspace_uploads).where(workspace_uploads.c.id == change.upload))
    note = " ".join(notes) or None
    if not fresh and not gone:
        return Recorded(None, note)
    ended = gone | (fresh.keys() & current.keys())
    for names in _portions(sorted(ended)):
        await connection.execute(
            update(workspace_files)
            .where(_files.thread_id == thread, _files.until.is_(None), _files.path.in_(names))
            .values(until=newest + 1)
        )
    files += len(fresh) - len(ended)
    size += sum(entry.size for entry in fresh.values()) - sum(current[name].size for name in ended)
    await _new_version(connection, thread, newest + 1, fresh, files, size, run, step, by, note, now)
    return Recorded(newest + 1, note)


async def _overlap(connection: Statements, change: Change, current: Manifest) -> list[str]:
    """What others changed since the base of a change, and this one changes too."""
    if change.base is None:
        return []
    since = or_(_files.since > change.base, _files.until > change.base)
    theirs = set(await connection.scalars(select(_files.path).where(_files.thread_id == change.thread, since)))
    both = theirs & (change.set.keys() | change.gone)
    both = {name for name in both if current.get(name) != change.set.get(name)}
    both |= in_the_way(change.set, theirs & current.keys())
    if not both:
        return []
    return [f"[Workspace: {some(both)} had been changed elsewhere meanwhile; what this call made of it stands.]"]


async def _new_version(
    connection: Statements,
    thread: str,
    version: int,
    fresh: Manifest,
    files: int,
    size: int,
    run: str | None,
    step: int | None,
    by: str | None,
    note: str | None,
    now: datetime | None = None,
) -> None:
    await connection.execute(
        insert(workspace_versions).values(
            thread_id=thread,
            version=version,
            files=files,
            bytes=size,
            run_id=run,
            step=step,
            by=by,
            note=note,
            created_at=now or datetime.now(UTC),
        )
    )
    rows = [
        {
            "thread_id": thread,
            "path": name,
            "since": version,
            "size": entry.size,
            "digest": entry.digest,
            "executable": int(entry.executable),
        }
        for name, entry in fresh.items()
    ]
    if rows:
        await connection.execute(insert(workspace_files), rows)


async def _current(connection: Statements, thread: str, names: Sequence[str] | None) -> Manifest:
    """The latest files: all, or those of some names."""
    query = select(*_ENTRY).where(_files.thread_id == thread, _files.until.is_(None))
    queries = [query] if names is None else [query.where(_files.path.in_(some)) for some in _portions(names)]
    found: Manifest = {}
    for part in queries:
        found.update({row.path: _entry(row) for row in await connection.execute(part)})
    return found


async def _among(connection: Statements, column: Any, digests: set[str]) -> set[str]:
    return set(await connection.scalars(select(column).where(column.in_(digests)).distinct())) if digests else set()


def _lock_of(thread: str) -> int:
    """Under it a thread gets its versions one after the other."""
    return int.from_bytes(hashlib.sha256(f"workspace/{thread}".encode()).digest()[:8], "big", signed=True)


def _portions(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _AT_ONCE):
        yield names[start : start + _AT_ONCE]


def _entry(row: Any) -> Entry:
    return Entry(row.size, row.digest, bool(row.executable))
