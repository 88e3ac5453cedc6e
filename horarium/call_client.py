"""The client's direct calls: one tool, by name, without a model, through the same journal and approvals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from horarium.contract import DirectCall, RunRequest
from horarium.definitions import Agent
from horarium.directcalls import as_text
from horarium.endpoints import endpoint_agent
from horarium.ledger.agents import Agents
from horarium.ledger.database import Ledger
from horarium.ledger.toolboxes import Toolboxes
from horarium.toolboxes import named_version

if TYPE_CHECKING:
    from horarium.client import Run

TOOLBOX = "toolbox:"


class CallClient(ABC):
    """The part of `Client` that makes calls itself."""

    ledger: Ledger | None

    @abstractmethod
    def require_ledger(self) -> Ledger:
        """The ledger."""

    @abstractmethod
    def _check_plan(self, agent: Agent) -> None:
        """Refuse an agent whose approval plan cannot be kept."""

    @abstractmethod
    async def _begin(self, request: RunRequest, input: str | None, inline: RunRequest, key: str | None) -> Run:
        """Write a run down with its input and start it; without a ledger, start it with `inline`."""

    async def call(
        self,
        agent: str | Agent,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        version: int | None = None,
        tenant: str = "default",
        requested_by: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Run:
        """Start a run that makes this one call, as the approval plan says, and ends as the call does.

        Its result's `output` is what the tool returned, cut; `Run.output()` has the whole.

        Args:
            agent: Whose tool it is and whose plan counts: an agent's name or definition; or a toolbox, as
                `toolbox:payments` for its default version or `toolbox:payments@2`.
            tool: Its name, as a model would use it.
            arguments: They are kept in the ledger; without one, in Temporal's history.
            key: The same key, for the same call, is the same run, however often it is started.

        Raises:
            RunExists: The key was used for another call.
            ToolboxNotFound: There is no such toolbox.
            ArgumentsRejected: The arguments are no JSON. Whether they fit the tool, the run says.
            ConfigError: The approval plan of the definition cannot be kept.
            Unreachable: Temporal does not answer; with a key it is safe to try again.
        """
        if isinstance(agent, str) and agent.startswith(TOOLBOX):
            agent, version = await self._endpoint(agent.removeprefix(TOOLBOX))
        elif isinstance(agent, Agent):
            self._check_plan(agent)
            version = await Agents(self.require_ledger()).register(agent)
            agent = agent.name
        return await self._called(
            agent, version, tool, arguments or {}, key=key, tenant=tenant, by=requested_by, metadata=metadata or {}
        )

    async def look_up_tools(self, agent: str, version: int | None = None, *, tenant: str = "default") -> Run:
        """Start a run that makes no call: it finds the tools of an agent, which are pinned under its id, and ends."""
        return await self._called(agent, version, None, {}, key=None, tenant=tenant, by=None, metadata={})

    async def _endpoint(self, reference: str) -> tuple[str, int]:
        ledger = self.require_ledger()
        agent = endpoint_agent(await Toolboxes(ledger).get(*named_version(reference)))
        return agent.name, await Agents(ledger).register(agent)

    async def _called(
        self,
        agent: str,
        version: int | None,
        tool: str | None,
        arguments: Mapping[str, Any],
        *,
        key: str | None,
        tenant: str,
        by: str | None,
        metadata: Mapping[str, str],
    ) -> Run:
        request = RunRequest.model_validate(
            {
                "agent": agent,
                "version": version,
                "tenant": tenant,
                "requested_by": by,
                "metadata": dict(metadata),
                "call": DirectCall(tool=tool),
            }
        )
        inline = request.model_copy(update={"call": DirectCall(tool=tool, arguments=dict(arguments))})
        return await self._begin(request, as_text(tool, arguments), inline, key)
