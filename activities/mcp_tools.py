"""MCP servers, as the engine knows them: their tools when a run begins, and who calls them.

What speaks to them is in `activities.mcp`, with the SDK. That takes half a second to import, so it is done at the first
server that is asked: most projects have none, and their workers take over from a dead one the sooner.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING

from horarium.definitions import Agent
from horarium.ledger.database import Ledger
from horarium.mcpservers import McpServer
from horarium.performing import Performer
from horarium.settings import Settings
from horarium.toolsets import McpSource, PinnedTool

if TYPE_CHECKING:
    from activities.mcp.servers import Servers


class McpTools:
    """The MCP servers of this process's runs; one object for each process."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self._settings = settings
        self._servers: Servers | None = None

    async def needs_network(self, agent: Agent) -> bool:
        """Whether the agent has servers of its own; a toolbox says so for its own."""
        return bool(agent.mcp)

    async def find(self, agent: Agent, tenant: str) -> list[PinnedTool]:
        """The tools of the servers that the agent itself names."""
        found = await asyncio.gather(*(self.of_server(label, server) for label, server in agent.mcp.items()))
        return [tool for tools in found for tool in tools]

    async def of_server(self, label: str, server: McpServer) -> list[PinnedTool]:
        """What a server offers, as somebody trusts it.

        Raises:
            ToolUnavailable: It does not answer; worth another attempt.
            ToolChanged: It says other things of a tool than somebody trusted, or has one that nobody has looked at.
            ConfigError: It refuses us, cannot be started, or what it says cannot be used.
        """
        return await (await self._spoken_to()).of_server(label, server)

    async def performer(self, pinned: PinnedTool, source: McpSource) -> Performer:
        """What calls one of its tools."""
        return (await self._spoken_to()).performer(pinned, source)

    async def close(self) -> None:
        """Close every connection."""
        if self._servers is not None:
            await self._servers.close()

    async def _spoken_to(self) -> Servers:
        if self._servers is None:
            # Elsewhere than on the loop: heartbeats of what else goes on here cannot wait for it.
            module = await asyncio.to_thread(import_module, "activities.mcp.servers")
            self._servers = self._servers or module.Servers(self._ledger, self._settings)
        return self._servers
