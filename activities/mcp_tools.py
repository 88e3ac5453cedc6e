"""MCP servers: finding their tools when a run begins, and calling them."""

from __future__ import annotations

from horarium.definitions import Agent
from horarium.ledger.database import Ledger
from horarium.mcpservers import McpServer
from horarium.performing import Performer
from horarium.settings import Settings
from horarium.toolsets import McpSource, PinnedTool


class McpTools:
    """The MCP servers of this process's runs; one object for each process."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self._settings = settings

    async def needs_network(self, agent: Agent) -> bool:
        """Whether the agent has servers of its own; a toolbox says so for its own."""
        return bool(agent.mcp)

    async def find(self, agent: Agent, tenant: str) -> list[PinnedTool]:
        """The tools of the servers that the agent itself names."""
        return [tool for label, server in agent.mcp.items() for tool in await self.of_server(label, server)]

    async def of_server(self, label: str, server: McpServer) -> list[PinnedTool]:
        """What a server offers, as somebody trusts it.

        Raises:
            ToolUnavailable: It does not answer.
            ToolChanged: It says other things of a tool than somebody trusted.
        """
        raise NotImplementedError

    def performer(self, pinned: PinnedTool, source: McpSource) -> Performer:
        """What calls one of its tools."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close every connection."""
