"""The connections of one process: opened when they are needed, shared, opened anew when they broke."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from activities.mcp.connection import Connection
from activities.mcp.endpoint import Endpoint
from activities.mcp.faults import SessionGone
from horarium.mcpservers import McpServer

_T = TypeVar("_T")


class Connections:
    """One object for each process, used on one loop."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: dict[str, Connection] = {}
        self._retired: set[Connection] = set()

    async def ask(self, label: str, server: McpServer, question: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Do something over a connection; over a new one where the server has forgotten us, and so did nothing.

        Raises:
            ToolNotReached: The server does not answer.
            ToolError: It refuses us.
            ConfigError: A secret is not there, or the program cannot be started.
        """
        connection = await self.to(label, server)
        try:
            return await question(connection)
        except SessionGone:
            connection.retire()
        return await question(await self.to(label, server))

    async def to(self, label: str, server: McpServer) -> Connection:
        """An open connection; whoever asks while it is being opened waits for the same one.

        Raises:
            ToolNotReached: The server does not answer.
            ToolError: It refuses us.
            ConfigError: A secret is not there, or the program cannot be started.
        """
        endpoint = Endpoint.of(label, server, self._root)
        connection = self._open.get(endpoint.key)
        if connection is None or not connection.usable:
            self._retired = {kept for kept in (*self._retired, *self._open.values()) if not kept.usable and kept.open}
            self._open = {key: kept for key, kept in self._open.items() if kept.usable}
            connection = self._open[endpoint.key] = Connection(endpoint)
        await connection.opened()
        return connection

    async def close(self) -> None:
        """Close all of them."""
        await asyncio.gather(*(connection.close() for connection in (*self._open.values(), *self._retired)))
        self._open.clear()
        self._retired.clear()
