"""Who performs what was pinned for a run, by the kind of its source."""

from __future__ import annotations

from activities.engine_tools import FIND_TOOLS
from activities.finding_tools import ToolFinding
from activities.mcp_tools import McpTools
from activities.openapi_tools import OpenApiTools
from horarium.ledger.database import Ledger
from horarium.ledger.toolsets import Toolsets
from horarium.mcpservers import SEPARATOR
from horarium.performing import Performer
from horarium.toolsets import McpSource, OpenApiSource


class Performers:
    """Finds who performs a call that is no Python function; one object for each process."""

    def __init__(self, ledger: Ledger, mcp: McpTools, openapi: OpenApiTools, finding: ToolFinding) -> None:
        self._toolsets = Toolsets(ledger)
        self._mcp = mcp
        self._openapi = openapi
        self._finding = finding

    async def find(self, run: str, name: str) -> Performer | None:
        """Who performs the tool of this name; None: some worker's Python function."""
        if name == FIND_TOOLS.name and (found := await self._finding.performer(run)) is not None:
            return found
        if SEPARATOR not in name:
            return None  # no server's and no document's: most calls need not be looked up
        pinned = await self._toolsets.tool(run, name)
        match pinned.source if pinned is not None else None:
            case McpSource() as source if pinned is not None:
                return await self._mcp.performer(pinned, source)
            case OpenApiSource() as source if pinned is not None:
                return self._openapi.performer(pinned, source)
            case _:
                return None

    async def close(self) -> None:
        """Close every connection."""
        await self._mcp.close()
        await self._openapi.close()
