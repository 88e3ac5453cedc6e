"""Hosts for tests: each has a state directory of its own, and shares ledger and blob store with the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from horarium.ids import new_thread_id
from horarium.ledger.database import Ledger
from horarium.ledger.threads import Threads
from horarium.settings import Settings, WorkspacesSettings
from horarium.workspace import Workspace
from horarium.workspaces.host import CallFiles, WorkspaceHost


@dataclass
class Host:
    """One of several, by itself."""

    workspaces: WorkspaceHost

    @asynccontextmanager
    async def call(self, thread: str) -> AsyncIterator[CallFiles]:
        """A call that has begun and is not settled."""
        with closing(CallFiles(self.workspaces, thread)) as files:
            yield files

    async def does(self, thread: str, tool: Callable[[Workspace], Any], *, by: str | None = None) -> str | None:
        """Perform a tool in a call, and record what it changed; the note, if there is something to say."""
        async with self.call(thread) as files:
            await in_tool(files, tool)
            return await settle(self, files)


async def in_tool(files: CallFiles, tool: Callable[[Workspace], Any]) -> Any:
    """What a tool's function does with its workspace, in a thread as tools are."""
    try:
        return await asyncio.to_thread(lambda: tool(files.open()))
    finally:
        files.ended()


async def settle(host: Host, files: CallFiles) -> str | None:
    """Record what a call changed."""
    change = await files.change()
    note = (await host.workspaces.workspaces.record(change)).note if change is not None else None
    await files.settled(change)
    return note


def new_host(ledger: Ledger, directory: Path, **settings: Any) -> Host:
    """A host on this ledger."""
    return Host(WorkspaceHost(ledger, Settings(root=directory, workspaces=WorkspacesSettings(**settings))))


async def new_thread(ledger: Ledger) -> str:
    """A thread without anything."""
    thread = new_thread_id()
    async with ledger.write() as connection:
        await Threads(ledger).ensure(connection, thread, "default")
    return thread


def tree(directory: Path) -> dict[str, bytes]:
    """The files below a directory."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def contents(settings: Settings) -> set[str]:
    """The contents that the blob store of a project has for workspaces."""
    below = settings.state / "blobs" / "workspaces"
    return {path.name for path in below.rglob("*") if path.is_file()}
