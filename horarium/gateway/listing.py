"""Which tools a toolbox has, as MCP clients are told.

What a version's servers offer is known to the engine only, so it is asked for with a run that makes no call; what that
run had pinned is the list.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta

import mcp_types as types

from horarium.client import Client, Run
from horarium.contract import RunResult
from horarium.endpoints import endpoint_agent
from horarium.errors import BY_CODE, HorariumError, Unreachable
from horarium.ledger.agents import Agents
from horarium.ledger.toolboxes import Toolboxes
from horarium.ledger.toolsets import Toolsets
from horarium.tools import Effect
from horarium.toolsets import PinnedTool

FRESH_SECONDS = 60.0
FAILED_SECONDS = 1.0  # the server asks twice for one call, and would make its caller wait twice
KEPT = 500
BEGIN_PATIENCE = 15.0  # seconds for Temporal and the ledger to take a lookup in
ANSWER_PATIENCE = 5.0  # seconds for a worker to say that it has it in hand
LOOKUP_PATIENCE = timedelta(seconds=60)  # servers may be slow to say what they have
EFFECT = "horarium/effect"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One version of a toolbox, and the agent version that makes its calls."""

    toolbox: str
    version: int
    agent: str
    agent_version: int

    @property
    def reference(self) -> str:
        """`payments@2`."""
        return f"{self.toolbox}@{self.version}"


class Listings:
    """The tools of endpoints; one object for each process."""

    def __init__(self, client: Client, start_patience: timedelta) -> None:
        self._client = client
        self._ledger = client.require_ledger()
        self._start_patience = start_patience
        self._toolboxes = Toolboxes(self._ledger)
        self._toolsets = Toolsets(self._ledger)
        self._endpoints: dict[tuple[str, int], Endpoint] = {}
        self._known: OrderedDict[tuple[str, str], tuple[float, dict[str, PinnedTool]]] = OrderedDict()
        self._failed: dict[tuple[str, str], tuple[float, HorariumError]] = {}
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}

    async def default_version(self, toolbox: str) -> int:
        """The version that counts when nobody names another.

        Raises:
            ToolboxNotFound: There is no such toolbox.
        """
        return await self._toolboxes.default_version(toolbox)

    async def endpoint(self, toolbox: str, version: int) -> Endpoint:
        """The agent that stands for a version of a toolbox.

        Raises:
            ToolboxNotFound: There is no such toolbox, or not in this version.
        """
        known = self._endpoints.get((toolbox, version))
        if known is None:
            agent = endpoint_agent(await self._toolboxes.get(toolbox, version))
            registered = await Agents(self._ledger).register(agent)
            known = self._endpoints[toolbox, version] = Endpoint(toolbox, version, agent.name, registered)
        return known

    async def tools(self, endpoint: Endpoint, tenant: str) -> dict[str, PinnedTool]:
        """What a version offers, by name; asked for again after a minute.

        Raises:
            HorariumError: It cannot be found out, in words for the caller.
        """
        label = (endpoint.reference, tenant)
        async with self._locks.setdefault(label, asyncio.Lock()):
            at, known = self._known.get(label, (0.0, {}))
            if at and time.monotonic() - at < FRESH_SECONDS:
                return known
            failed_at, failure = self._failed.get(label, (0.0, None))
            if failure is not None and time.monotonic() - failed_at < FAILED_SECONDS:
                raise failure
            try:
                found = await self._look_up(endpoint, tenant)
            except HorariumError as error:
                self._failed[label] = (time.monotonic(), error)
                raise
            self._failed.pop(label, None)
            self._known[label] = (time.monotonic(), found)
            self._known.move_to_end(label)
            while len(self._known) > KEPT:
                gone, _ = self._known.popitem(last=False)
                self._locks.pop(gone, None)
            return found

    async def _slow(self, run: Run) -> RunResult:
        """Go on waiting for a lookup that some worker has in hand; one that nobody has taken is given up.

        A worker that is there answers a query, also while servers are asked what they have.
        """
        with contextlib.suppress(TimeoutError, Unreachable):
            async with asyncio.timeout(ANSWER_PATIENCE):
                await run.step_summaries()
            return await run.result(LOOKUP_PATIENCE)
        with contextlib.suppress(HorariumError):
            await run.cancel()
        raise Unreachable("No engine worker looked up what tools there are.", hint="Start one: horarium worker")

    async def _look_up(self, endpoint: Endpoint, tenant: str) -> dict[str, PinnedTool]:
        try:
            async with asyncio.timeout(BEGIN_PATIENCE):
                run = await self._client.look_up_tools(endpoint.agent, endpoint.agent_version, tenant=tenant)
        except TimeoutError:
            raise Unreachable("Temporal does not answer.", hint="Try again later.") from None
        try:
            result = await run.result(self._start_patience)
        except TimeoutError:
            result = await self._slow(run)
        if result.status != "completed":
            words = result.message if result.reason in BY_CODE else f"see run {run.id}"
            raise HorariumError(f"The tools of {endpoint.reference} cannot be found out: {words}.")
        found = await self._toolsets.of_run(run.id)
        return {tool.spec.name: tool for tool in found.toolset.tools} if found is not None else {}


def as_mcp(tool: PinnedTool) -> types.Tool:
    """A tool in MCP's words. Its hints say what we know and nothing that we do not.

    Our `idempotent` is about the same key, MCP's about the same arguments: it promises less than that hint says.
    """
    spec = tool.spec
    hints = types.ToolAnnotations(
        read_only_hint=spec.effect is Effect.READ,
        idempotent_hint=None if spec.effect is Effect.READ else False,
        open_world_hint=True if spec.untrusted else None,
    )
    return types.Tool(
        name=spec.name,
        description=spec.description.strip(),
        input_schema={"type": "object", **spec.parameters},
        annotations=hints,
        _meta={EFFECT: spec.effect.value},
    )
