"""Which agent version and which tools a model call works with, looked up once and kept."""

from __future__ import annotations

import time
from collections.abc import Iterable

from horarium.contract import ENGINE_QUEUE
from horarium.errors import ToolUnavailable
from horarium.ledger.agents import Agents, AgentVersion, ServedTool, ToolCatalog
from horarium.ledger.database import Ledger
from horarium.problems import near_miss
from horarium.tools import Tool

FRESH_SECONDS = 5.0  # tools of other workers are looked up again after this


class Catalog:
    """Agents and tools as this worker sees them; one object for each process."""

    def __init__(self, ledger: Ledger, own: Iterable[Tool]) -> None:
        self._agents = Agents(ledger)
        self._tools = ToolCatalog(ledger)
        self._own = {tool.name: tool.spec for tool in own}
        self._versions: dict[tuple[str, int], AgentVersion] = {}
        self._served: dict[str, ServedTool] = {}
        self._looked = -FRESH_SECONDS

    async def agent(self, name: str, version: int) -> AgentVersion:
        """One version; versions never change, so it is read once."""
        found = self._versions.get((name, version))
        if found is None:
            found = self._versions[name, version] = await self._agents.get(name, version)
        return found

    async def tools(self, names: Iterable[str]) -> dict[str, ServedTool]:
        """The tools of these names, in this order.

        Raises:
            ToolUnavailable: No worker ever announced one of them; names the near miss.
        """
        wanted = list(names)
        if time.monotonic() - self._looked > FRESH_SECONDS or any(name not in self._served for name in wanted):
            self._served = await self._tools.all()
            self._looked = time.monotonic()
        missing = [name for name in wanted if name not in self._served]
        if missing:
            raise ToolUnavailable(
                f"No worker serves the tool {missing[0]!r}{near_miss(missing[0], list(self._served))}",
                hint="Put it in tools/, or start the tool worker that has it: horarium worker --tools",
            )
        return {name: self._served[name] for name in wanted}

    def queue_of(self, tool: ServedTool) -> str | None:
        """The queue to call a tool on; None for the engine's own, where the call can start at once."""
        return None if tool.spec.name in self._own or tool.queue == ENGINE_QUEUE else tool.queue
