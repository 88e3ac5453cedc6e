"""What is in a directory now, seen without following a link."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import NamedTuple

from horarium.errors import WorkspaceError
from horarium.workspaces.beneath import DIRECTORY
from horarium.workspaces.names import MAX_DEPTH, name_problem


class Seen(NamedTuple):
    """What the file system says of a file; while all of it is the same, the content is taken to be."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int
    executable: bool


@dataclass(slots=True)
class Scan:
    """Regular files by name, directories, and what cannot be kept: links, devices, names that are none elsewhere."""

    files: dict[str, Seen] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)
    odd: dict[str, str] = field(default_factory=dict)
    _links: dict[int, list[str]] = field(default_factory=dict)
    _linked: dict[int, int] = field(default_factory=dict)


def scan(root: int, max_files: int) -> Scan:
    """Look at all that is below an open directory.

    Raises:
        WorkspaceError: There is more than can be kept at all: too many entries, or directories too deep.
    """
    found = Scan()
    _into(root, (), found, max_files)
    for inode, names in found._links.items():
        if len(names) == found._linked[inode]:
            continue  # all of its names are here: it leads nowhere else
        for name in names:
            found.files.pop(name)
            found.odd[name] = "a hard link"
    return found


def _into(directory: int, above: tuple[str, ...], found: Scan, max_files: int) -> None:
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries]
    for part in names:
        parts = (*above, part)
        name = "/".join(parts)
        try:
            about = os.stat(part, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            continue  # it went while we looked
        problem = name_problem(parts)
        if stat.S_ISDIR(about.st_mode):
            if len(parts) >= MAX_DEPTH:
                raise WorkspaceError(f"The workspace is more than {MAX_DEPTH} directories deep.")
            if problem is not None:
                found.odd[name] = f"it {problem}"
                continue
            found.directories.add(name)
            _below(directory, part, parts, found, max_files)
        elif stat.S_ISREG(about.st_mode) and problem is None:
            executable = bool(about.st_mode & stat.S_IXUSR)
            found.files[name] = Seen(about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, executable)
            if about.st_nlink > 1:
                found._links.setdefault(about.st_ino, []).append(name)
                found._linked[about.st_ino] = about.st_nlink
        else:
            found.odd[name] = f"it {problem}" if problem is not None else _kind(about.st_mode)
        if len(found.files) + len(found.directories) + len(found.odd) > 2 * max_files + 1_000:
            raise WorkspaceError(f"The workspace has more than the {max_files:,} files that it may have.")


def _below(directory: int, part: str, parts: tuple[str, ...], found: Scan, max_files: int) -> None:
    try:
        inner = os.open(part, DIRECTORY, dir_fd=directory)
    except OSError as error:
        raise WorkspaceError(f"{'/'.join(parts)!r} cannot be looked into: {error.strerror}.") from error
    try:
        _into(inner, parts, found, max_files)
    finally:
        os.close(inner)


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a link"
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
