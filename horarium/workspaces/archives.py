"""Taking archives apart: nothing of one is written before every member was found to be a plain file that stays inside.

An archive's own words about its sizes are not believed: what comes out is counted, and an archive that would
not fit ends there, however small it was.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from horarium.errors import WorkspaceError
from horarium.workspaces.manifest import Limits
from horarium.workspaces.names import parts_of

if TYPE_CHECKING:
    from horarium.workspace import Workspace

Source = str | os.PathLike[str] | bytes | IO[bytes]

_CHUNK = 1 << 20
_MAX_HEADER = 1 << 20  # bytes that one member's names and attributes may have
_MAGIC: tuple[tuple[bytes, Callable[[IO[bytes]], Any]], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file, mode="rb")),
    (b"BZh", lambda file: bz2.BZ2File(file, "rb")),
    (b"\xfd7zXZ\x00", lambda file: lzma.LZMAFile(file, "rb")),  # noqa: SIM115 - its caller closes it
)
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)


class _Member(NamedTuple):
    name: str
    executable: bool
    size: int
    content: Callable[[], IO[bytes]]


def extract(workspace: Workspace, archive: Source, into: str | os.PathLike[str], limits: Limits, has: int) -> list[str]:
    """As `Workspace.extract`; `has`: the files that are there."""
    prefix = os.fspath(into)
    prefix = "" if prefix in ("", ".", "./") else f"{'/'.join(parts_of(prefix))}/"
    with _opened(workspace, archive) as file, _explained():
        read = _zip_members if zipfile.is_zipfile(file) else _tar_members
        count = total = 0
        for member in read(file):
            parts_of(prefix + member.name)
            count, total = count + 1, total + member.size
            if member.size > limits.max_file_bytes or total > limits.max_bytes:
                raise WorkspaceError(
                    f"The archive does not fit: {member.name!r} and those before have {total:,} bytes."
                )
            if has + count > limits.max_files:
                raise WorkspaceError(f"The archive has more files than the {limits.max_files:,} that there may be.")
        budget = limits.max_bytes
        names = []
        for member in read(file):
            name = prefix + member.name
            budget -= _write(workspace, name, member, min(budget, limits.max_file_bytes))
            names.append(name)
    return names


def _write(workspace: Workspace, name: str, member: _Member, most: int) -> int:
    written = 0
    with member.content() as source, workspace.open(name, "wb") as target:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > most:
                raise WorkspaceError(f"{member.name!r} in the archive is larger than it says.")
            target.write(chunk)
        if member.executable:
            os.fchmod(target.fileno(), 0o755)
    return written


def _zip_members(file: IO[bytes]) -> Iterator[_Member]:
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            kind = stat.S_IFMT(mode)
            # orig_filename: zipfile itself cuts a name at NUL, and turns the separators of other systems into ours.
            name = info.orig_filename
            if info.is_dir():
                _check_directory(name)
                continue
            if kind not in (0, stat.S_IFREG):
                raise WorkspaceError(f"{name!r} in the archive is no plain file.")
            if info.flag_bits & 0x1:
                raise WorkspaceError(f"{name!r} in the archive is encrypted.")
            yield _Member(name, bool(mode & stat.S_IXUSR), info.file_size, partial(archive.open, info))


def _tar_members(file: IO[bytes]) -> Iterator[_Member]:
    file.seek(0)
    start = file.read(6)
    file.seek(0)
    with ExitStack() as stack:
        plain: Any = file
        for magic, open_plain in _MAGIC:
            if start.startswith(magic):
                plain = stack.enter_context(open_plain(file))
        archive = stack.enter_context(tarfile.open(fileobj=_Sparing(plain), mode="r:"))
        for info in archive:
            if info.isdir():
                _check_directory(info.name)
                continue
            if not info.isreg():
                raise WorkspaceError(f"{info.name!r} in the archive is no plain file.")
            yield _Member(info.name, bool(info.mode & stat.S_IXUSR), info.size, partial(_of, archive, info))


def _of(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    found = archive.extractfile(info)
    if found is None:
        raise WorkspaceError(f"{info.name!r} in the archive is no plain file.")
    return found


def _check_directory(name: str) -> None:
    if name.rstrip("/") not in ("", "."):
        parts_of(name)


class _Sparing(io.RawIOBase):
    """A file of which nobody reads much at once: tarfile takes a header into memory whole, whatever size it claims."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > _MAX_HEADER:
            raise WorkspaceError("The archive has a header that is too large.")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


@contextmanager
def _opened(workspace: Workspace, archive: Source) -> Iterator[IO[bytes]]:
    if isinstance(archive, bytes):
        yield io.BytesIO(archive)
    elif isinstance(archive, str | os.PathLike):
        with workspace.open(archive, "rb") as file:
            yield file
    else:
        yield archive


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise WorkspaceError(f"It is no tar or zip archive that can be read: {error}.") from error
    except OSError as error:  # gzip and bz2 say so of what is broken
        if error.errno is not None:
            raise
        raise WorkspaceError(f"It is no tar or zip archive that can be read: {error}.") from error
