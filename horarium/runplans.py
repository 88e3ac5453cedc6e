"""Which approval plan a run was opened with: looked up where an effect is, so that no caller's word counts for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import bindparam, select

from horarium.definitions import Agent
from horarium.errors import NotApproved
from horarium.ledger.agents import Agents
from horarium.ledger.database import Ledger, Prepared
from horarium.ledger.schema import runs
from horarium.plans import gate_of
from horarium.protocol import Gate
from horarium.tools import Effect

_KEPT_RUNS = 2_000
_VERSION = Prepared(select(runs.c.agent, runs.c.version).where(runs.c.id == bindparam("of_run")))


class RunPlans:
    """The plans of a ledger's runs; one object for each process. Neither a run's version nor a version ever changes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._agents = Agents(ledger)
        self._of_run: dict[str, Agent] = {}

    async def gate(self, run: str, tool: str, effect: Effect, arguments: Mapping[str, Any]) -> Gate | None:
        """What the plan puts between this call and its effect; None when nobody is asked.

        Raises:
            NotApproved: The run was never opened, so it has no plan.
            AgentNotFound: The ledger has lost the agent's version.
        """
        agent = self._of_run.get(run)
        if agent is None:
            agent = self._of_run[run] = await self._look_up(run)
            while len(self._of_run) > _KEPT_RUNS:
                del self._of_run[next(iter(self._of_run))]
        return gate_of(agent, tool, effect, arguments)

    async def _look_up(self, run: str) -> Agent:
        async with self._ledger.read() as connection:
            rows = await connection.run(_VERSION, of_run=run)
        if not rows or rows[0][1] is None:
            raise NotApproved(f"Run {run!r} was never opened: nobody knows what its approval plan asks.")
        name, version = rows[0]
        return (await self._agents.get(name, version)).agent
