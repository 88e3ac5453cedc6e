"""Large and binary outputs, by their digest, behind fsspec: files on a disk, or object storage."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from typing import IO, Any, Self

import fsspec

_CHUNK = 1 << 20


class ContentChanged(Exception):
    """A content is not what its digest says."""


class Blobs:
    """A content-addressed store. The same content is one blob; writing it twice is harmless."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._system: Any = None

    async def put(self, content: str | bytes) -> tuple[str, int]:
        """Store content; text as UTF-8. Returns its digest (`sha256:…`) and size in bytes."""
        return await asyncio.to_thread(self._put, content)

    async def get(self, digest: str) -> bytes:
        """Read a blob whole.

        Raises:
            FileNotFoundError: There is none of this digest.
        """
        return await asyncio.to_thread(self._get, digest)

    async def delete(self, digest: str) -> None:
        """Remove a blob; one that is not there is no error."""
        await asyncio.to_thread(self._delete, digest)

    async def clear(self) -> None:
        """Remove all that is in it: only of a store that is below another, and nobody else's."""
        await asyncio.to_thread(self._clear)

    def below(self, name: str) -> Self:
        """A store of its own in this one: what is deleted there is nobody else's."""
        return type(self)(f"{self._url}/{name}")

    def put_file(self, digest: str, file: IO[bytes]) -> None:
        """Store what a file has from its start, in pieces. It blocks: call it in a thread.

        Raises:
            ContentChanged: The file has another content than that of the digest.
        """
        system, root = self._files()
        path = self._path(root, digest)
        if system.exists(path):
            return
        system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        part = f"{path}.{secrets.token_hex(8)}.part"
        hasher = hashlib.sha256()
        try:
            file.seek(0)
            with system.open(part, "wb") as target:
                while chunk := file.read(_CHUNK):
                    hasher.update(chunk)
                    target.write(chunk)
            if f"sha256:{hasher.hexdigest()}" != digest:
                raise ContentChanged(digest)
            system.mv(part, path)
        except BaseException:
            with contextlib.suppress(Exception):
                system.rm(part)
            raise

    def fetch_file(self, digest: str, file: IO[bytes]) -> None:
        """Write a blob into a file, in pieces. It blocks: call it in a thread.

        Raises:
            FileNotFoundError: There is none of this digest.
            ContentChanged: It was damaged where it is stored.
        """
        hasher = hashlib.sha256()
        for chunk in self.pieces(digest):
            hasher.update(chunk)
            file.write(chunk)
        if f"sha256:{hasher.hexdigest()}" != digest:
            raise ContentChanged(digest)

    def pieces(self, digest: str) -> Iterator[bytes]:
        """Read a blob piece by piece; else as `fetch_file`."""
        system, root = self._files()
        with system.open(self._path(root, digest), "rb") as source:
            while chunk := source.read(_CHUNK):
                yield chunk

    def _files(self) -> tuple[Any, str]:
        if self._system is None:
            self._system = fsspec.core.url_to_fs(self._url)
        system, root = self._system
        return system, root

    def _path(self, root: str, digest: str) -> str:
        name = digest.removeprefix("sha256:")
        return f"{root}/{name[:2]}/{name}"

    def _put(self, content: str | bytes) -> tuple[str, int]:
        system, root = self._files()
        hasher = hashlib.sha256()
        size = 0
        for chunk in _chunks(content):
            hasher.update(chunk)
            size += len(chunk)
        digest = f"sha256:{hasher.hexdigest()}"
        path = self._path(root, digest)
        if not system.exists(path):
            system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            # Written beside and moved: a crash in the middle must not leave a blob that looks whole.
            part = f"{path}.{id(content):x}.part"
            with system.open(part, "wb") as file:
                for chunk in _chunks(content):
                    file.write(chunk)
            system.mv(part, path)
        return digest, size

    def _get(self, digest: str) -> bytes:
        system, root = self._files()
        with system.open(self._path(root, digest), "rb") as file:
            return bytes(file.read())

    def _delete(self, digest: str) -> None:
        system, root = self._files()
        path = self._path(root, digest)
        if system.exists(path):
            system.rm(path)

    def _clear(self) -> None:
        system, root = self._files()
        with contextlib.suppress(FileNotFoundError):
            system.rm(root, recursive=True)


def _chunks(content: str | bytes) -> Any:
    for start in range(0, len(content), _CHUNK):
        chunk = content[start : start + _CHUNK]
        yield chunk.encode("utf-8") if isinstance(chunk, str) else chunk
