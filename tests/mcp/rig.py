"""What the tests of MCP tools share: the bank over either transport, and its book to count from."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import randrange
from typing import Any, Literal

import httpx2

from horarium.definitions import Agent
from horarium.mcpservers import McpServer
from tests.support.stack import until
from workers.server import free_port

BANK = Path(__file__).with_name("servers") / "bank.py"
PATIENCE = 30.0
Transport = Literal["stdio", "http", "http-legacy"]
TRANSPORTS: tuple[Transport, ...] = ("stdio", "http", "http-legacy")


class Bank:
    """A bank, and where it is."""

    def __init__(self, directory: Path, transport: Transport, environment: dict[str, str]) -> None:
        self.directory = directory
        self.book = directory / "book"
        self.transport = transport
        self._environment = {"LEGACY": "1"} | environment if transport == "http-legacy" else environment
        # An address of its own on loopback, so that no other session of tests can have its port.
        self._host, self._port = f"127.{randrange(1, 255)}.{randrange(256)}.{randrange(1, 255)}", free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def server(self, **more: Any) -> McpServer:
        """As an agent has it."""
        if self.transport == "stdio":
            env = self._environment | dict(more.pop("env", {}))
            return McpServer(command=(sys.executable, str(BANK), str(self.book)), env=env, **more)
        return McpServer(url=f"http://{self._host}:{self._port}/mcp", **more)

    def agent(self, name: str = "clerk", *, limits: Any = None, **more: Any) -> Agent:
        """An agent with this bank."""
        return Agent(name, model="scripted:lines", mcp={"bank": self.server(**more)}, limits=limits)

    async def start(self) -> None:
        """Have it listen; over stdio it is started by whoever speaks to it."""
        if self.transport == "stdio":
            return
        self._process = subprocess.Popen(
            [sys.executable, str(BANK), str(self.book), "--host", self._host, "--port", str(self._port)],
            env=os.environ | self._environment,
        )
        await until(self._listens, "the bank listens", self._process)

    def stop(self) -> None:
        """SIGKILL, whoever started it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for pid in {line["pid"] for line in self.lines()} if self.transport == "stdio" else ():
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue

    def go(self) -> None:
        """From now on nothing stands still."""
        (self.directory / "go").touch()

    def lines(self, event: str | None = None, ref: str | None = None) -> list[dict[str, Any]]:
        """Its book, or an event's, a reference's part."""
        text = self.book.read_text() if self.book.exists() else ""
        lines = [json.loads(line) for line in text.splitlines()]
        return [line for line in lines if event in (None, line["event"]) and ref in (None, line["ref"])]

    async def says(self, event: str, ref: str) -> None:
        """Wait until it has written this."""
        await until(lambda: bool(self.lines(event, ref)), f"the bank has {event} {ref}", timeout=PATIENCE)

    async def _listens(self) -> bool:
        try:
            async with httpx2.AsyncClient() as client:
                await client.get(f"http://{self._host}:{self._port}/")
        except httpx2.TransportError:
            await asyncio.sleep(0.02)
            return False
        return True


@contextmanager
def bank(directory: Path, transport: Transport = "http", **environment: str) -> Iterator[Bank]:
    """A bank that is gone afterwards; start it."""
    found = Bank(directory, transport, environment)
    try:
        yield found
    finally:
        found.go()
        found.stop()
