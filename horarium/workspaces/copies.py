"""A copy of a workspace in a directory of this host: brought to a version, and compared with it afterwards.

Everything here blocks; it is called in threads.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from horarium.errors import WorkspaceError
from horarium.ledger.blobs import Blobs, ContentChanged
from horarium.workspaces.beneath import DIRECTORY, FILE, open_parents, remove_tree
from horarium.workspaces.manifest import Entry, Limits, Manifest, directories_of, some
from horarium.workspaces.scanning import Scan, Seen, scan

# Two changes within one tick of a file system's clock look the same from outside.
CLOCK_NS = 2_000_000_000
_CHUNK = 1 << 20


class _Known(NamedTuple):
    """What a file had when it was read, and when that was."""

    seen: Seen
    digest: str
    read_at_ns: int

    def still(self, seen: Seen) -> bool:
        """Whether the content is the same for sure."""
        return self.seen == seen and max(seen.modified_ns, seen.changed_ns) < self.read_at_ns - CLOCK_NS


class Found(NamedTuple):
    """What a copy has: its files, and what is there and cannot be kept, with the reason."""

    files: Manifest
    odd: Mapping[str, str]


class Copy:
    """One copy, locked: no other call, in whatever process, has it while this object does."""

    def __init__(self, home: Path, lock: int, known: dict[str, _Known] | None = None) -> None:
        self.home = home
        self.directory = home / "files"
        self.known: dict[str, _Known] = known if known is not None else {}
        self._lock = lock

    @classmethod
    def make(cls, thread_home: Path) -> Self:
        """A new and empty one."""
        home = thread_home / secrets.token_hex(8)
        begun = thread_home / f".{home.name}"  # nobody takes it before it is whole
        begun.mkdir(mode=0o700, parents=True)
        (begun / "files").mkdir(mode=0o700)
        lock = _locked(begun)
        if lock is None:
            raise OSError(f"{begun} was made and cannot be locked")
        begun.rename(home)
        return cls(home, lock)

    @classmethod
    def take(cls, home: Path, known: dict[str, _Known] | None) -> Self | None:
        """One that is there and free; None: it is not."""
        lock = _locked(home)
        if lock is None:
            return None
        # Thrown away when its process was killed, or made something else by a tool.
        if not (home / "files").is_dir() or (home / "files").is_symlink():
            shutil.rmtree(home, ignore_errors=True)
            os.close(lock)
            return None
        return cls(home, lock, known)

    def free(self) -> None:
        """Let others have it; what it knows of its files stays with the caller."""
        with contextlib.suppress(OSError):
            os.utime(self.home)
        os.close(self._lock)

    def discard(self) -> None:
        """Throw it away. Whoever still writes into it does so into nothing."""
        with contextlib.suppress(OSError), _opened(self.home) as home:
            remove_tree(home, "files")
        shutil.rmtree(self.home, ignore_errors=True)
        os.close(self._lock)

    def restore(self, manifest: Manifest, contents: Blobs, limits: Limits) -> None:
        """Bring it to a version: what differs is fetched, what is not in it is removed.

        Raises:
            WorkspaceError: What is in it cannot be looked through; another copy can be made.
            OSError: The blob store or the disk does not do it now.
        """
        with _opened(self.directory) as root:
            found = scan(root, max(limits.max_files, len(manifest)))
            self._clear(root, found, manifest)
            for name, entry in manifest.items():
                seen = found.files.get(name)
                if seen is None or not self._is(root, name, seen, entry):
                    self._fetch(root, name, entry, contents)
            self.known = {name: known for name, known in self.known.items() if name in manifest}

    def look(self, limits: Limits) -> Found:
        """What is in it now; only what may have changed is read.

        Raises:
            WorkspaceError: It has more, or larger files, than a workspace may.
        """
        with self._looked_into() as root:
            found = scan(root, limits.max_files)
            if len(found.files) > limits.max_files:
                raise WorkspaceError(f"The workspace has more than the {limits.max_files:,} files that it may have.")
            large = [name for name, seen in found.files.items() if seen.size > limits.max_file_bytes]
            if large:
                raise WorkspaceError(f"A file may have {limits.max_file_bytes:,} bytes; larger: {some(large)}.")
            total = sum(seen.size for seen in found.files.values())
            if total > limits.max_bytes:
                raise WorkspaceError(f"The workspace has {total:,} bytes; it may have {limits.max_bytes:,}.")
            files = {name: self._entry(root, name, seen) for name, seen in found.files.items()}
        self.known = {name: known for name, known in self.known.items() if name in files}
        return Found(files, found.odd)

    def store(self, manifest: Manifest, contents: Blobs) -> None:
        """Put the contents of these files into the blob store.

        Raises:
            ContentChanged: A file is not what it was when it was looked at.
        """
        with _opened(self.directory) as root:
            for name, entry in manifest.items():
                with _reading(root, name) as file:
                    contents.put_file(entry.digest, file)

    @contextlib.contextmanager
    def _looked_into(self) -> Iterator[int]:
        try:
            opened = os.open(self.directory, DIRECTORY)
        except OSError as error:
            raise WorkspaceError("The directory of the workspace itself was removed or replaced.") from error
        try:
            yield opened
        finally:
            os.close(opened)

    def _clear(self, root: int, found: Scan, manifest: Manifest) -> None:
        needed = {directory for name in manifest for directory in directories_of(name)}
        for name in (*found.odd, *(found.files.keys() - manifest.keys())):
            _remove(root, name)
        for name in sorted(found.directories - needed):
            _remove(root, name)

    def _is(self, root: int, name: str, seen: Seen, entry: Entry) -> bool:
        return (
            seen.size == entry.size
            and seen.executable == entry.executable
            and self._entry(root, name, seen).digest == entry.digest
        )

    def _entry(self, root: int, name: str, seen: Seen) -> Entry:
        known = self.known.get(name)
        if known is None or not known.still(seen):
            at = time.time_ns()
            try:
                with _reading(root, name) as file:
                    digest = _digest(file)
            except OSError as error:
                raise WorkspaceError(f"{name!r} cannot be read: {error.strerror}.") from error
            known = self.known[name] = _Known(seen, digest, at)
        return Entry(seen.size, known.digest, seen.executable)

    def _fetch(self, root: int, name: str, entry: Entry, contents: Blobs) -> None:
        *above, last = name.split("/")
        directory = open_parents(root, above, make=True)
        try:
            # Beside and moved into its place: a link that is there is replaced, not followed.
            part = f".fetched-{secrets.token_hex(8)}"
            mode = 0o777 if entry.executable else 0o666
            made = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FILE, mode, dir_fd=directory)
            try:
                with os.fdopen(made, "wb") as file:
                    contents.fetch_file(entry.digest, file)
                os.rename(part, last, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException as error:
                with contextlib.suppress(OSError):
                    os.unlink(part, dir_fd=directory)
                if isinstance(error, ContentChanged):
                    raise OSError(f"the content of {name!r} is damaged in the blob store") from error
                raise
        finally:
            os.close(directory)
        self.known.pop(name, None)


def copies_of(thread_home: Path) -> list[Path]:
    """The copies of a thread that are there, the one used last first."""
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(thread_home) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            with contextlib.suppress(FileNotFoundError):
                found.append((entry.stat(follow_symlinks=False).st_mtime, thread_home / entry.name))
    return [home for _, home in sorted(found, reverse=True)]


def remove_unused(base: Path, before: float) -> None:
    """Throw away every free copy that nobody has used since a time (of the system's clock)."""
    with contextlib.suppress(FileNotFoundError):
        for thread_home in list(base.iterdir()):
            for home in list(thread_home.iterdir()):
                with contextlib.suppress(OSError):
                    if home.stat().st_mtime < before and (copy := Copy.take(home, None)) is not None:
                        copy.discard()
            with contextlib.suppress(OSError):
                thread_home.rmdir()


def _locked(home: Path) -> int | None:
    try:
        lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return None  # it went meanwhile
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        same = os.fstat(lock).st_ino == (home / "lock").stat().st_ino
    except OSError:
        same = False
    if not same:
        os.close(lock)
        return None
    return lock


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    opened = os.open(directory, DIRECTORY)
    try:
        yield opened
    finally:
        os.close(opened)


@contextlib.contextmanager
def _reading(root: int, name: str) -> Iterator[BinaryIO]:
    *above, last = name.split("/")
    directory = open_parents(root, above, make=False)
    try:
        opened = os.open(last, os.O_RDONLY | FILE, dir_fd=directory)
    finally:
        os.close(directory)
    with os.fdopen(opened, "rb") as file:
        yield file


def _remove(root: int, name: str) -> None:
    *above, last = name.split("/")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        directory = root
        opened: list[int] = []
        try:
            for part in above:
                directory = os.open(part, DIRECTORY, dir_fd=directory)
                opened.append(directory)
            remove_tree(directory, last)
        finally:
            for descriptor in opened:
                os.close(descriptor)


def _digest(file: BinaryIO) -> str:
    hasher = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        hasher.update(chunk)
    return f"sha256:{hasher.hexdigest()}"
