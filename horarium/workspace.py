"""The files that a tool finds under `context.workspace`.

`Path(context.workspace)` is the directory, for code that needs one. A name that came from a model goes through the
methods here: they refuse every way out of the directory, also one that is made while they look.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from horarium.errors import WorkspaceError
from horarium.workspaces.archives import Source, extract
from horarium.workspaces.beneath import Beneath, Name
from horarium.workspaces.manifest import Limits
from horarium.workspaces.names import matching
from horarium.workspaces.scanning import Scan, scan

__all__ = ["Workspace", "WorkspaceError"]

_FLAGS = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
}


class Workspace:
    """The workspace of one call. What the call leaves in it is kept when it succeeds.

    Empty directories, links and devices are not kept. A method given a name that leads out raises `WorkspaceError`;
    let it through, and the model is told why.
    """

    def __init__(self, directory: str | os.PathLike[str], limits: Limits | None = None) -> None:
        """A directory that is there, such as one of a test."""
        self._directory = Path(directory)
        self._limits = limits or Limits()
        self._beneath = Beneath(self._directory)

    def __fspath__(self) -> str:
        return str(self._directory)

    def __repr__(self) -> str:
        return f"Workspace({str(self._directory)!r})"

    def close(self) -> None:
        """The call is over: from now on every method refuses."""
        self._beneath.close()

    def open(self, name: Name, mode: str = "r", *, encoding: str = "utf-8", newline: str | None = None) -> IO[Any]:
        """Open a file as Python's `open` does; writing makes the directories on the way.

        Raises:
            WorkspaceError: The name leads out, or there is no such file.
        """
        kind, binary, both = mode[:1], "b" in mode, "+" in mode
        if kind not in _FLAGS or len(mode) != 1 + binary + both + ("t" in mode) or (binary and "t" in mode):
            raise ValueError(f"invalid mode: {mode!r}")
        flags = _FLAGS[kind]
        if both:
            flags = (flags & ~os.O_WRONLY) | os.O_RDWR
        file = self._beneath.open(name, flags)
        plain = ("w" if kind == "x" else kind) + ("b" if binary else "") + ("+" if both else "")
        try:
            if binary:
                return os.fdopen(file, plain)
            return os.fdopen(file, plain, encoding=encoding, newline=newline)
        except BaseException:
            os.close(file)
            raise

    def read_text(self, name: Name) -> str:
        """A file's text, as UTF-8; what is none is replaced.

        Raises:
            WorkspaceError: The name leads out, there is no such file, or it is larger than a file may be.
        """
        return self.read_bytes(name).decode("utf-8", "replace")

    def read_bytes(self, name: Name) -> bytes:
        """A file's content; else as `read_text`."""
        most = self._limits.max_file_bytes
        with self.open(name, "rb") as file:
            content: bytes = file.read(most + 1)
        if len(content) > most:
            raise WorkspaceError(f"{os.fspath(name)!r} is larger than the {most:,} bytes that a file may have.")
        return content

    def write_text(self, name: Name, text: str) -> None:
        """Write a file whole, as UTF-8.

        Raises:
            WorkspaceError: The name leads out, or the text is larger than a file may be.
        """
        self.write_bytes(name, text.encode("utf-8", "replace"))

    def write_bytes(self, name: Name, content: bytes) -> None:
        """Write a file whole; else as `write_text`."""
        most = self._limits.max_file_bytes
        if len(content) > most:
            raise WorkspaceError(f"{os.fspath(name)!r} would be larger than the {most:,} bytes that a file may have.")
        with self.open(name, "wb") as file:
            file.write(content)

    def list(self, pattern: str = "**") -> Sequence[str]:
        """The names of the files that a pattern means, in order; `**` stands for any number of directories."""
        return sorted(matching(self._scan().files, pattern))

    def mkdir(self, name: Name) -> None:
        """Make a directory, and those on the way. Without a file in it, it is there for this call only."""
        self._beneath.make_directory(name)

    def remove(self, name: Name) -> None:
        """Remove a file, or a directory with all that is in it.

        Raises:
            WorkspaceError: The name leads out, or there is nothing of this name.
        """
        self._beneath.remove(name)

    def extract(self, archive: Source, into: Name = ".") -> Sequence[str]:
        """Take the files out of a tar or zip archive, a file of the workspace or its content; their names.

        Raises:
            WorkspaceError: It is no archive, or one of its members leads out, is no plain file, or is too large.
                Then nothing of it was taken.
        """
        return extract(self, archive, into, self._limits, len(self._scan().files))

    def _scan(self) -> Scan:
        with self._beneath.root() as root:
            return scan(root, self._limits.max_files)
