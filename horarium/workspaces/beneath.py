"""A directory, and ways to files in it that do not lead out of it.

Every step of a way is opened relative to the directory before it and never through a link, so a link that somebody
puts in the middle between a look and a use is met as a link, and refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from horarium.errors import WorkspaceError
from horarium.workspaces.names import parts_of

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without waiting: opening a pipe that nobody writes to would never come back.
FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_LED_OUT = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)

Name = str | os.PathLike[str]


class Beneath:
    """One directory, open until it is closed; afterwards every way into it is refused."""

    def __init__(self, directory: Path) -> None:
        self._lock = threading.Lock()
        self._root: int | None = os.open(directory, DIRECTORY)

    def close(self) -> None:
        """Let nobody in any more."""
        with self._lock:
            if self._root is not None:
                os.close(self._root)
            self._root = None

    @contextmanager
    def root(self) -> Iterator[int]:
        """A descriptor of the directory.

        Raises:
            WorkspaceError: It was closed.
        """
        with self._lock:
            if self._root is None:
                raise WorkspaceError("The call that this workspace was opened for is over.")
            own = os.dup(self._root)
        try:
            yield own
        finally:
            os.close(own)

    @contextmanager
    def parent(self, name: Name, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """A descriptor of the directory that a name is in, and its last part. `make`: the directories on the way.

        Raises:
            WorkspaceError: The name cannot be, leads through a link, or its directory is not there.
        """
        parts = parts_of(name)
        with self.root() as root, _stepping(name):
            here = open_parents(root, parts[:-1], make=make)
            try:
                yield here, parts[-1]
            finally:
                os.close(here)

    def open(self, name: Name, flags: int) -> int:
        """Open a regular file; `O_CREAT` makes the directories on the way too. `O_TRUNC` counts once it is one.

        Raises:
            WorkspaceError: It is not there, is no regular file, or is a hard link and to be written.
        """
        truncate = bool(flags & os.O_TRUNC)
        with self.parent(name, make=bool(flags & os.O_CREAT)) as (directory, last):
            file = os.open(last, (flags & ~os.O_TRUNC) | FILE, 0o666, dir_fd=directory)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise WorkspaceError(f"{os.fspath(name)!r} is no regular file.")
            if found.st_nlink > 1 and flags & (os.O_WRONLY | os.O_RDWR):
                raise WorkspaceError(f"{os.fspath(name)!r} has another name somewhere; it is not written to.")
            if truncate:
                os.ftruncate(file, 0)
        except BaseException:
            os.close(file)
            raise
        return file

    def make_directory(self, name: Name) -> None:
        """Make a directory, and those on the way; one that is there is no error."""
        with self.parent(name, make=True) as (directory, last):
            os.close(open_parents(directory, (last,), make=True))

    def remove(self, name: Name) -> None:
        """Remove a file or link, or a directory with all that is in it.

        Raises:
            WorkspaceError: It is not there.
        """
        with self.parent(name) as (directory, last):
            remove_tree(directory, last)


def remove_tree(directory: int, name: str) -> None:
    """Remove what has a name in an open directory, whatever it is and however deep, without following links."""
    try:
        os.unlink(name, dir_fd=directory)
        return
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
    # Each directory is moved up beside the first before it is emptied: no depth is too deep for that.
    waiting = [name]
    serial = 0
    while waiting:
        current = waiting[-1]
        opened = os.open(current, DIRECTORY, dir_fd=directory)
        try:
            inner = []
            with os.scandir(opened) as entries:
                found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
            for part, is_directory in found:
                if not is_directory:
                    os.unlink(part, dir_fd=opened)
                    continue
                serial += 1
                aside = f".removed-{os.getpid()}-{threading.get_ident()}-{serial}"
                os.rename(part, aside, src_dir_fd=opened, dst_dir_fd=directory)
                inner.append(aside)
        finally:
            os.close(opened)
        if not inner:
            os.rmdir(current, dir_fd=directory)
            waiting.pop()
        waiting += inner


def open_parents(root: int, parts: Iterable[str], *, make: bool) -> int:
    """A descriptor of a directory below an open one, to be closed. `make`: it, and those on the way."""
    here = os.dup(root)
    try:
        for part in parts:
            here = _step(here, part, make=make)
    except BaseException:
        os.close(here)
        raise
    return here


def _step(here: int, part: str, *, make: bool) -> int:
    """One directory further; `here` is closed unless this raises."""
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o777, dir_fd=here)
    further = os.open(part, DIRECTORY, dir_fd=here)
    os.close(here)
    return further


@contextmanager
def _stepping(name: Name) -> Iterator[None]:
    shown = repr(os.fspath(name))
    try:
        yield
    except FileNotFoundError as error:
        raise WorkspaceError(f"There is no {shown} in the workspace.", hint="List what there is.") from error
    except FileExistsError as error:
        raise WorkspaceError(f"{shown} is there already.") from error
    except IsADirectoryError as error:
        raise WorkspaceError(f"{shown} is a directory.") from error
    except OSError as error:
        if error.errno in _LED_OUT:
            raise WorkspaceError(f"{shown} leads through a link, or through a file.") from error
        if error.errno == errno.ENXIO:
            raise WorkspaceError(f"{shown} is no regular file.") from error
        raise
