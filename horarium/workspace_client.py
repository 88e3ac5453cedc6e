"""The client's workspaces: the files of threads, from wherever the ledger and the blob store are reached.

A file that is put or removed is a version of its own, with who did it, also while a run has the thread open: a call
in flight began with the version before, and where both changed a file, the call that settles later has the last word.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO

from horarium.errors import NotFound, WorkspaceError
from horarium.ledger.database import Ledger
from horarium.ledger.workspaces import Workspaces, WorkspaceVersion
from horarium.settings import Settings, WorkspacesSettings
from horarium.workspaces.manifest import Change, Entry, Manifest, in_the_way, some
from horarium.workspaces.names import matching, parts_of
from horarium.workspaces.packing import Format, packed

Content = bytes | Path | IO[bytes]
_CHUNK = 1 << 20
_IN_MEMORY = 1 << 22


@dataclass(frozen=True, slots=True)
class WorkspaceFile:
    """One file of a workspace; `digest` is of its content."""

    name: str
    size: int
    digest: str
    executable: bool


class WorkspaceClient(ABC):
    """The part of `Client` that is about the files of threads.

    `tenant`: whose a thread has to be, None for anybody's.
    """

    settings: Settings | None

    @abstractmethod
    def require_ledger(self) -> Ledger:
        """The ledger."""

    async def workspace_files(
        self, thread: str, *, pattern: str = "**", version: int | None = None, tenant: str | None = None
    ) -> list[WorkspaceFile]:
        """The files, in order: the latest, or those at a version that is kept.

        Raises:
            ThreadNotFound: There is no such thread.
            NotFound: There is no such version, or it is not kept any more.
        """
        manifest = await self._manifest(thread, version, tenant)
        return [WorkspaceFile(name, *manifest[name]) for name in sorted(matching(manifest, pattern))]

    async def workspace_versions(self, thread: str, *, tenant: str | None = None) -> list[WorkspaceVersion]:
        """The versions that are kept, the latest first, and who made each.

        Raises:
            ThreadNotFound: There is no such thread.
        """
        workspaces = self._workspaces()
        await workspaces.check(thread, tenant)
        return await workspaces.versions(thread)

    async def download_file(
        self, thread: str, name: str, *, version: int | None = None, tenant: str | None = None
    ) -> AsyncIterator[bytes]:
        """The pieces of one file.

        Raises:
            ThreadNotFound: There is no such thread.
            NotFound: There is no such file, or no such version.
        """
        manifest = await self._manifest(thread, version, tenant)
        name = _name(name)
        if name not in manifest:
            raise _no_file(name, thread)
        async for piece in _in_a_thread(self._workspaces().contents.pieces(manifest[name].digest)):
            yield piece

    async def download_workspace(
        self, thread: str, *, format: Format = "zip", version: int | None = None, tenant: str | None = None
    ) -> AsyncIterator[bytes]:
        """The pieces of an archive with every file.

        Raises:
            ThreadNotFound: There is no such thread.
            NotFound: There is no such version, or it is not kept any more.
        """
        manifest = await self._manifest(thread, version, tenant)
        async for piece in _in_a_thread(packed(manifest, self._workspaces().contents, format)):
            yield piece

    async def upload_file(
        self,
        thread: str,
        name: str,
        content: Content,
        *,
        by: str | None = None,
        executable: bool = False,
        tenant: str | None = None,
    ) -> int | None:
        """Put a file, and return the version that has it; None when it was there like that already.

        Raises:
            ThreadNotFound: There is no such thread.
            WorkspaceError: The name leads out, or there would be more than a workspace may have.
        """
        workspaces = self._workspaces()
        await workspaces.check(thread, tenant)
        name = _name(name)
        limits = self._limits()
        with SpooledTemporaryFile(max_size=_IN_MEMORY) as spool:
            size, digest = await asyncio.to_thread(_spool, content, spool, limits.max_file_bytes, name)
            entry = Entry(size, digest, executable)
            self._check_room(await self._manifest(thread, None, tenant), name, entry)
            upload = await workspaces.reserve([digest])
            await asyncio.to_thread(workspaces.contents.put_file, digest, spool)
        recorded = await workspaces.record(Change(thread, None, {name: entry}, upload=upload), by=by)
        return await self._tidied(thread, recorded.version)

    async def delete_file(
        self, thread: str, name: str, *, by: str | None = None, tenant: str | None = None
    ) -> int | None:
        """Remove a file, or all below a directory, and return the version without.

        Raises:
            ThreadNotFound: There is no such thread.
            NotFound: There is nothing of this name.
            WorkspaceError: The name leads out.
        """
        name = _name(name)
        manifest = await self._manifest(thread, None, tenant)
        gone = frozenset(path for path in manifest if path == name or path.startswith(f"{name}/"))
        if not gone:
            raise _no_file(name, thread)
        recorded = await self._workspaces().record(Change(thread, None, {}, gone), by=by)
        return await self._tidied(thread, recorded.version)

    def _workspaces(self) -> Workspaces:
        return Workspaces(self.require_ledger())

    def _limits(self) -> WorkspacesSettings:
        return self.settings.workspaces if self.settings is not None else WorkspacesSettings()

    async def _manifest(self, thread: str, version: int | None, tenant: str | None) -> Manifest:
        workspaces = self._workspaces()
        await workspaces.check(thread, tenant)
        latest, oldest = await workspaces.latest(thread)
        if version is not None and not oldest <= version <= latest:
            raise NotFound(
                f"Version {version} of the workspace of thread {thread!r} is not there, or not any more.",
                hint=f"See which there are: horarium workspace versions {thread}",
            )
        return await workspaces.manifest(thread, latest if version is None else version)

    def _check_room(self, manifest: Manifest, name: str, entry: Entry) -> None:
        limits = self._limits()
        if blocked := in_the_way([name], manifest):
            raise WorkspaceError(
                f"{name!r} cannot be beside {some(blocked)}: one needs a directory of the other's name."
            )
        after = {**manifest, name: entry}
        if len(after) > limits.max_files:
            raise WorkspaceError(f"The workspace has the {limits.max_files:,} files that it may have.")
        if sum(item.size for item in after.values()) > limits.max_bytes:
            raise WorkspaceError(f"The workspace would have more than the {limits.max_bytes:,} bytes that it may have.")

    async def _tidied(self, thread: str, version: int | None) -> int | None:
        if version is not None:
            await self._workspaces().tidy(thread, self._limits().keep_versions)
        return version


class ThreadFiles(WorkspaceClient):
    """That part alone, for whoever has a ledger and no Temporal."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self.settings = settings
        self._ledger = ledger

    def require_ledger(self) -> Ledger:
        """The ledger."""
        return self._ledger


def _name(name: str | os.PathLike[str]) -> str:
    return "/".join(parts_of(name))


def _spool(content: Content, spool: IO[bytes], most: int, name: str) -> tuple[int, str]:
    hasher = hashlib.sha256()
    size = 0
    with _pieces(content) as pieces:
        for piece in pieces:
            size += len(piece)
            if size > most:
                raise WorkspaceError(f"{name!r} is larger than the {most:,} bytes that a file may have.")
            hasher.update(piece)
            spool.write(piece)
    return size, f"sha256:{hasher.hexdigest()}"


@contextmanager
def _pieces(content: Content) -> Iterator[Iterator[bytes]]:
    if isinstance(content, bytes):
        yield iter((content,))
    elif isinstance(content, Path):
        with content.open("rb") as file:
            yield iter(lambda: file.read(_CHUNK), b"")
    else:
        yield iter(lambda: content.read(_CHUNK), b"")


async def _in_a_thread(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        if piece:
            yield piece


def _no_file(name: str, thread: str) -> NotFound:
    said = f"There is no file {name!r} in the workspace of thread {thread!r}."
    return NotFound(said, hint=f"See which there are: horarium workspace list {thread}")
