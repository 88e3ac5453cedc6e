"""A network before the gateway that loses answers: what was asked has been done, and nobody is told."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_LENGTH = re.compile(rb"(?i)^content-length:\s*(\d+)\s*$", re.MULTILINE)
_HOST = re.compile(rb"(?im)^host:[^\r\n]*")
_CONNECTION = re.compile(rb"(?im)^connection:[^\r\n]*\r\n")


@dataclass
class Network:
    """One request a connection. `drop`: beginnings of paths, each lost once for each time it is there."""

    target: int
    port: int = 0
    drop: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://127.0.0.1:{self.port}"

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one request there, and the answer back or not."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            request = await _message(reader)
            path = request.split(b" ", 2)[1].decode()
            self.seen.append(path)
            answer = await self._asked(request)
            lost = next((beginning for beginning in self.drop if path.startswith(beginning)), None)
            if lost is None:
                writer.write(answer)
                await writer.drain()
            else:
                self.drop.remove(lost)
        writer.close()

    async def _asked(self, request: bytes) -> bytes:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        head, _, body = request.partition(b"\r\n\r\n")
        head = _HOST.sub(b"Host: 127.0.0.1:%d" % self.target, _CONNECTION.sub(b"", head + b"\r\n")).rstrip(b"\r\n")
        back.write(head + b"\r\nConnection: close\r\n\r\n" + body)
        await back.drain()
        answer = await there.read()
        back.close()
        return answer


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    found = _LENGTH.search(head)
    return head + (await reader.readexactly(int(found.group(1))) if found else b"")


@asynccontextmanager
async def network(target: int) -> AsyncIterator[Network]:
    """One before the gateway of this port."""
    made = Network(target)
    server = await asyncio.start_server(made.carry, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
