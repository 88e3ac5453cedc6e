"""A workspace as one archive, written while it is read: no file of it is in memory whole."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import Literal

from horarium.ledger.blobs import Blobs
from horarium.workspaces.manifest import Entry, Manifest

Format = Literal["zip", "tar", "tar.gz"]
_TIME = (1980, 1, 1, 0, 0, 0)  # the same files make the same archive


def packed(manifest: Manifest, contents: Blobs, format: Format) -> Iterator[bytes]:
    """The pieces of an archive with these files. It blocks: call it in a thread.

    Raises:
        FileNotFoundError: A content is not in the blob store.
    """
    if format == "zip":
        return _zip(manifest, contents)
    pieces = _tar(manifest, contents)
    return pieces if format == "tar" else _gzipped(pieces)


def _gzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    squeeze = zlib.compressobj(wbits=31)  # with gzip's head and no time in it
    for piece in pieces:
        yield squeeze.compress(piece)
    yield squeeze.flush()


def _tar(manifest: Manifest, contents: Blobs) -> Iterator[bytes]:
    for name, entry in sorted(manifest.items()):
        info = tarfile.TarInfo(name)
        info.size = entry.size
        info.mode = _mode(entry)
        yield info.tobuf(tarfile.PAX_FORMAT)
        yield from contents.pieces(entry.digest)
        yield bytes(-entry.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _zip(manifest: Manifest, contents: Blobs) -> Iterator[bytes]:
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, entry in sorted(manifest.items()):
            info = zipfile.ZipInfo(name, _TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o100000 | _mode(entry)) << 16
            info.file_size = entry.size  # zipfile decides by it whether the file needs 64 bits
            with archive.open(info, "w") as target:
                for piece in contents.pieces(entry.digest):
                    target.write(piece)
                    yield pipe.taken()
            yield pipe.taken()
    yield pipe.taken()


def _mode(entry: Entry) -> int:
    return 0o755 if entry.executable else 0o644


class _Pipe(io.RawIOBase):
    """What is written into it is taken out again; it cannot be sought in."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        self._pieces.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        """All that was written since the last time."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken

    def writable(self) -> bool:
        return True
