"""Toolboxes: finding the tools of those that an agent names."""

from __future__ import annotations

from activities.mcp_tools import McpTools
from horarium.definitions import Agent
from horarium.ledger.database import Ledger
from horarium.toolsets import PinnedTool


class ToolboxFinder:
    """Finds what is in an agent's toolboxes."""

    def __init__(self, ledger: Ledger, mcp: McpTools) -> None:
        self._ledger = ledger
        self._mcp = mcp

    async def needs_network(self, agent: Agent) -> bool:
        """Whether one of its toolboxes has MCP servers."""
        return bool(agent.toolboxes)

    async def find(self, agent: Agent, tenant: str) -> list[PinnedTool]:
        """The tools of all its toolboxes, each by its source."""
        if not agent.toolboxes:
            return []
        raise NotImplementedError
