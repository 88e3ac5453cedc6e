"""Which agent version and which tools a run works with, looked up once and kept."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable

from activities.engine_tools import FIND_TOOLS
from horarium.contract import ENGINE_QUEUE
from horarium.definitions import Agent
from horarium.errors import ToolUnavailable
from horarium.ledger.agents import Agents, AgentVersion, ServedTool, ToolCatalog
from horarium.ledger.database import Ledger
from horarium.ledger.toolsets import FoundTools, Toolsets
from horarium.problems import near_miss
from horarium.tools import Tool
from horarium.toolsets import AgentSource, CallerSource, PinnedTool, PythonSource

KEPT_RUNS = 5_000
FRESH_SECONDS = 5.0  # tools of other workers are looked up again after this


class Catalog:
    """Agents and tools as this worker sees them; one object for each process."""

    def __init__(self, ledger: Ledger, own: Iterable[Tool]) -> None:
        self._agents = Agents(ledger)
        self._tools = ToolCatalog(ledger)
        self._toolsets = Toolsets(ledger)
        self._own = {tool.name: tool.spec for tool in own}
        self._versions: dict[tuple[str, int], AgentVersion] = {}
        self._served: dict[str, ServedTool] = {}
        self._looked = -FRESH_SECONDS
        self._unpinned: OrderedDict[str, None] = OrderedDict()

    async def agent(self, name: str, version: int) -> AgentVersion:
        """One version; versions never change, so it is read once."""
        found = self._versions.get((name, version))
        if found is None:
            found = self._versions[name, version] = await self._agents.get(name, version)
        return found

    async def of_run(self, run: str, agent: Agent) -> dict[str, ServedTool]:
        """Every tool that a run has, by the name that the model uses: its agent's own, and those pinned for it.

        Raises:
            ToolUnavailable: No worker ever announced one of them; names the near miss.
        """
        tools = await self.tools(agent.tools)
        found = await self._pinned(run, agent)
        for pinned in found.toolset.tools if found is not None else ():
            tools[pinned.spec.name] = await self._served_by(pinned)
        if agent.tool_search is not None:
            tools[FIND_TOOLS.name] = ServedTool(FIND_TOOLS, ENGINE_QUEUE)
        return tools

    async def _pinned(self, run: str, agent: Agent) -> FoundTools | None:
        """What was pinned when the run was opened: for most runs nothing, ever, so that is remembered too."""
        if run in self._unpinned:
            return None
        found = await self._toolsets.of_run(run)
        if found is None and not agent.finds_tools:
            self._unpinned[run] = None
            if len(self._unpinned) > KEPT_RUNS:
                self._unpinned.popitem(last=False)
        return found

    async def tool_of_run(self, run: str, agent: Agent, name: str) -> ServedTool:
        """One tool of a run.

        Raises:
            ToolUnavailable: The run has none of this name.
        """
        tools = await self.of_run(run, agent)
        if name not in tools:
            raise ToolUnavailable(f"Run {run} has no tool {name!r}{near_miss(name, list(tools)) or '.'}")
        return tools[name]

    async def _served_by(self, pinned: PinnedTool) -> ServedTool:
        match pinned.source:
            case PythonSource(tool=tool):
                served = (await self.tools([tool]))[tool]
                return ServedTool(pinned.spec, served.queue, served.seen_at)
            case AgentSource(agent=agent):
                return ServedTool(pinned.spec, ENGINE_QUEUE, agent=agent)
            case CallerSource():
                return ServedTool(pinned.spec, ENGINE_QUEUE, function=True)
            case _:
                return ServedTool(pinned.spec, ENGINE_QUEUE)

    async def tools(self, names: Iterable[str]) -> dict[str, ServedTool]:
        """The Python tools of these names, in this order.

        Raises:
            ToolUnavailable: No worker ever announced one of them; names the near miss.
        """
        wanted = list(names)
        if not wanted:
            return {}
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
