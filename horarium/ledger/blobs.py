"""Large and binary outputs, by their digest, behind fsspec: files on a disk, or object storage."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import fsspec

_CHUNK = 1 << 20


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


def _chunks(content: str | bytes) -> Any:
    for start in range(0, len(content), _CHUNK):
        chunk = content[start : start + _CHUNK]
        yield chunk.encode("utf-8") if isinstance(chunk, str) else chunk
