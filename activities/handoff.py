"""The step `handoff`: a sub-agent does a call, in a run of its own."""

from __future__ import annotations

from temporalio import activity

from activities.catalog import Catalog
from horarium.definitions import Agent
from horarium.ledger.database import Ledger
from horarium.protocol import BEGIN_HANDOFF, SETTLE_HANDOFF, BeginHandoff, Handoff, SettleHandoff, ToolOutcome
from horarium.settings import Settings
from horarium.toolsets import PinnedTool


class Handoffs:
    """The activities `begin_handoff` and `settle_handoff`, and the finder of sub-agents."""

    def __init__(self, ledger: Ledger, catalog: Catalog, settings: Settings) -> None:
        self._ledger = ledger
        self._catalog = catalog
        self._settings = settings

    async def needs_network(self, agent: Agent) -> bool:
        """The ledger has all agents."""
        return False

    async def find(self, agent: Agent, tenant: str) -> list[PinnedTool]:
        """A tool for each of its sub-agents, with the version that is newest now."""
        if not agent.agents:
            return []
        raise NotImplementedError

    @activity.defn(name=BEGIN_HANDOFF)
    async def begin_handoff(self, beginning: BeginHandoff) -> Handoff:
        """Claim the step and put the task down for the sub-agent's run."""
        raise NotImplementedError

    @activity.defn(name=SETTLE_HANDOFF)
    async def settle_handoff(self, settling: SettleHandoff) -> ToolOutcome:
        """Settle the step with what the sub-agent's run came to."""
        raise NotImplementedError
