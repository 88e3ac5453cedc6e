"""The workspaces of one process: each call that uses one gets a copy to itself, and what it changed is kept.

Calls that run at once do not share a directory: each begins with what was settled before it, and what they change is
put together file by file as they settle. So it makes no difference whether they run on one host or on several.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from horarium.errors import Unreachable, WorkspaceError
from horarium.ledger.blobs import ContentChanged
from horarium.ledger.database import Ledger, is_unreachable
from horarium.ledger.workspaces import Workspaces
from horarium.settings import Settings
from horarium.workspace import Workspace
from horarium.workspaces.copies import Copy, copies_of, remove_unused
from horarium.workspaces.manifest import Change, Limits, Manifest, difference, some

log = structlog.get_logger()

PREPARE_PATIENCE = timedelta(seconds=30)
KEEP_PATIENCE = timedelta(minutes=10)  # as long as the journal waits to settle
THREADS = 4
MOST_FREE = 2  # copies of one thread that wait for the next call
MOST_KNOWN = 200  # threads, and copies, that are remembered
CLEAN_EVERY = 3_600.0  # seconds
TIDY_EVERY = 8  # versions
_PLAIN = re.compile(r"^thr_[0-9A-Z]{26}$")
T = TypeVar("T")


class WorkspaceHost:
    """The copies of workspaces on this host, as one process uses them. One object, as long as the process."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        wanted = settings.workspaces
        self.workspaces = Workspaces(ledger)
        self.limits = Limits(wanted.max_bytes, wanted.max_files, wanted.max_file_bytes)
        self.base = settings.workspaces_dir
        self._keep_versions = wanted.keep_versions
        self._keep_copies = wanted.keep_copies
        self._manifests: OrderedDict[str, tuple[int, Manifest]] = OrderedDict()
        self._known: OrderedDict[Path, Any] = OrderedDict()
        self._cleaned = 0.0
        self._background: set[asyncio.Future[Any]] = set()
        # Their own: tools wait for what these do, and may have taken every other one.
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="workspace")

    async def take(self, thread: str, run: str | None = None) -> tuple[Copy, int, Manifest]:
        """A copy of the latest version, for one call of a run.

        Raises:
            Unreachable: The ledger or the blob store does not answer, or the disk is full.
            WorkspaceError: The thread is another run's.
        """
        self._clean()
        return await _patiently(lambda: self._take(thread, run), PREPARE_PATIENCE, "prepare")

    async def _take(self, thread: str, run: str | None) -> tuple[Copy, int, Manifest]:
        if run is not None and not await self.workspaces.is_of_run(thread, run):
            raise WorkspaceError(f"Thread {thread} is not the one of run {run}.")
        home = self.base / _directory_name(thread)
        copy = await self._in_a_thread(self._free_copy, home)
        while True:
            try:
                version, manifest = await self._latest(thread)
                await self._in_a_thread(copy.restore, manifest, self.workspaces.contents, self.limits)
                return copy, version, manifest
            except WorkspaceError:  # what is left in it cannot even be looked through
                await self._in_a_thread(copy.discard)
                copy = await self._in_a_thread(Copy.make, home)
            except BaseException as error:
                # What was fetched before a store went away is there for the next attempt.
                (self.free if isinstance(error, OSError) else self.discard)(copy)
                raise

    async def keep(self, copy: Copy, thread: str, version: int, before: Manifest) -> Change:
        """Store what differs in a copy from the version it began with; the change is still to be recorded.

        Raises:
            WorkspaceError: It has more than a workspace may, or changes while it is looked at.
        """
        for _ in range(3):
            found = await self._in_a_thread(copy.look, self.limits)
            changed, gone = difference(before, found.files)
            notes = [f"[Workspace: not kept: {_reasons(found.odd)}.]"] if found.odd else []
            if not changed:
                return Change(thread, version, {}, gone, None, tuple(notes))
            upload = await self.workspaces.reserve(entry.digest for entry in changed.values())
            with suppress(ContentChanged):
                await self._in_a_thread(copy.store, changed, self.workspaces.contents)
                return Change(thread, version, changed, gone, upload, tuple(notes))
        raise WorkspaceError("Files of the workspace change while they are kept: something the call began still runs.")

    def free(self, copy: Copy) -> None:
        """Let the next call have a copy."""
        _remember(self._known, copy.home, copy.known)
        self._later(self._let_go, copy)

    def discard(self, copy: Copy) -> None:
        """Throw a copy away."""
        self._later(copy.discard)

    async def tidy(self, thread: str) -> None:
        """Forget old versions, and contents that nobody names; what fails here is done another time."""
        try:
            await self.workspaces.tidy(thread, self._keep_versions)
        except (OSError, SQLAlchemyError) as error:
            log.warning("workspace.not_tidied", error=str(error).splitlines()[0])

    async def idle(self) -> None:
        """Wait until what is done in the background is done."""
        if self._background:
            await asyncio.wait(self._background)

    async def close(self) -> None:
        """Clean up after the last call."""
        await self.idle()
        self._threads.shutdown(wait=False)

    async def _latest(self, thread: str) -> tuple[int, Manifest]:
        version, oldest = await self.workspaces.latest(thread)
        known, manifest = self._manifests.get(thread, (0, {}))
        if known != version:
            if oldest <= known < version:
                manifest = await self.workspaces.newer(thread, manifest, known, version)
            else:
                manifest = await self.workspaces.manifest(thread, version)
            _remember(self._manifests, thread, (version, manifest))
        return version, manifest

    def _free_copy(self, home: Path) -> Copy:
        for there in copies_of(home):
            copy = Copy.take(there, self._known.get(there))
            if copy is not None:
                return copy
        return Copy.make(home)

    def _let_go(self, copy: Copy) -> None:
        waiting = copies_of(copy.home.parent)
        copy.free()
        for home in reversed(waiting):
            if home != copy.home and len(waiting) > MOST_FREE and (extra := Copy.take(home, None)) is not None:
                extra.discard()
                break

    def _clean(self) -> None:
        now = time.monotonic()
        if self._cleaned and now - self._cleaned < CLEAN_EVERY:
            return
        self._cleaned = now
        self._later(remove_unused, self.base, time.time() - self._keep_copies.total_seconds())

    async def _in_a_thread(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    def _later(self, function: Callable[..., Any], *args: Any) -> None:
        future = asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
        self._background.add(future)
        future.add_done_callback(self._done)

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._background.discard(future)
        if not future.cancelled() and (error := future.exception()) is not None:
            log.warning("workspace.copy_not_cleaned", error=str(error))


class CallFiles:
    """The workspace of one call: prepared when the tool first asks for it, kept when the call succeeds."""

    def __init__(self, host: WorkspaceHost | None, thread: str, run: str | None = None) -> None:
        """`host` None: the call has no workspace. `run`: whose call it is; the thread has to be that run's."""
        self._host = host
        self._thread = thread
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._preparing = asyncio.Lock()
        self._copy: Copy | None = None
        self._version = 0
        self._before: Manifest = {}
        self._workspace: Workspace | None = None
        self._ended = False
        self._over = False

    def open(self) -> Workspace:
        """The workspace, from the thread that the tool runs in; it waits until it is prepared.

        Raises:
            WorkspaceError: The call is over.
            Unreachable: It cannot be prepared now.
        """
        self._refuse_late()
        if self._workspace is not None:
            return self._workspace
        with suppress(RuntimeError):
            if asyncio.get_running_loop() is self._loop:
                raise WorkspaceError("The workspace is for tools, which do not run on the worker's own loop.")
        return asyncio.run_coroutine_threadsafe(self._prepared(), self._loop).result()

    async def _prepared(self) -> Workspace:
        async with self._preparing:
            if self._workspace is None:
                self._refuse_late()
                if self._host is None:
                    raise WorkspaceError("This call has no workspace.")
                copy, version, before = await self._host.take(self._thread, self._run)
                if self._over:
                    self._host.free(copy)
                self._refuse_late()
                self._copy, self._version, self._before = copy, version, before
                self._workspace = Workspace(copy.directory, self._host.limits)
            return self._workspace

    def _refuse_late(self) -> None:
        if self._over:
            raise WorkspaceError("The call that this workspace was asked for is over.")

    async def change(self) -> Change | None:
        """What the call changed, stored and to be recorded with its outcome; None: it changed nothing.

        Raises:
            WorkspaceError: It cannot be kept.
        """
        self._over = True
        async with self._preparing:
            copy, host = self._copy, self._host
        if copy is None or host is None:
            return None
        change = await _patiently(
            lambda: host.keep(copy, self._thread, self._version, self._before), KEEP_PATIENCE, "keep"
        )
        return change if change else None

    def ended(self) -> None:
        """The tool has come to an end: nothing of it goes on writing."""
        self._ended = True

    def refused(self, error: WorkspaceError) -> Change:
        """What is recorded of a call that happened, and whose files cannot be kept: the note that says so."""
        note = f"[Workspace: {error} Nothing of what this call changed there was kept; the rest of it was done.]"
        return Change(self._thread, self._version, notes=(note,))

    async def settled(self, change: Change | None) -> None:
        """After the outcome and the change are written down."""
        if self._host is not None and change is not None and (self._version + 1) % TIDY_EVERY == 0:
            await self._host.tidy(self._thread)

    def close(self) -> None:
        """The call is over. A copy in which its tool may still write is not used again."""
        self._over = True
        copy, self._copy = self._copy, None
        if self._workspace is not None:
            self._workspace.close()
        if copy is not None and self._host is not None:
            (self._host.free if self._ended else self._host.discard)(copy)


async def _patiently(work: Callable[[], Awaitable[T]], patience: timedelta, what: str) -> T:
    """Wait for a blob store, a database or a disk that may come back.

    Raises:
        Unreachable: It did not in time.
    """
    delay = 0.1
    deadline = asyncio.get_running_loop().time() + patience.total_seconds()
    while True:
        try:
            return await work()
        except (OSError, SQLAlchemyError) as error:
            if not (isinstance(error, OSError) or is_unreachable(error)):
                raise
            words = str(error).splitlines()[0] if str(error) else type(error).__name__
            if asyncio.get_running_loop().time() > deadline:
                raise Unreachable(
                    f"The workspace cannot be had: {words}.",
                    hint="Look whether the ledger, the blob store and the disk are well: horarium doctor",
                ) from error
            log.warning("workspace.waiting", to=what, error=words)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5.0)


def _remember(memory: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > MOST_KNOWN:
        memory.popitem(last=False)


def _directory_name(thread: str) -> str:
    """A thread's id may be anything; a directory's name may not."""
    return thread if _PLAIN.match(thread) else f"t-{hashlib.sha256(thread.encode('utf-8', 'replace')).hexdigest()[:40]}"


def _reasons(odd: Mapping[str, str]) -> str:
    by_reason: dict[str, list[str]] = {}
    for name, why in odd.items():
        by_reason.setdefault(why, []).append(name)
    return "; ".join(f"{some(names)} ({why})" for why, names in by_reason.items())
