"""Finding a run's tools before it begins: what its servers, toolboxes and sub-agents have, pinned under its id.

Each kind of source has a finder of its own, registered in workers/engine.py. What needs the network is found in the
activity `discover_tools`; the rest while the run is opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from pydantic import ValidationError
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.engine_tools import FIND_TOOLS
from activities.functions import function_tool
from horarium.contract import CallerFunction, RunRequest
from horarium.definitions import Agent
from horarium.errors import ConfigError, Conflict, ToolUnavailable
from horarium.functions import check_functions
from horarium.ledger.agents import Agents
from horarium.ledger.database import Ledger
from horarium.ledger.functions import Functions, RunFunctions
from horarium.ledger.runs import Runs
from horarium.ledger.toolsets import Toolsets
from horarium.project import AgentFiles
from horarium.protocol import DISCOVER_TOOLS, TOOLS_NOT_DISCOVERED, DiscoverTools
from horarium.secrets import redact
from horarium.toolhost import heartbeating
from horarium.toolsets import PinnedTool, Toolset

FIND_PATIENCE = 8  # attempts, for a server that is just being started again: most of a minute
FIRST_WAIT, MOST_WAIT = timedelta(seconds=0.5), timedelta(seconds=15)


class Finder(Protocol):
    """What knows the tools of one kind of source."""

    async def needs_network(self, agent: Agent) -> bool:
        """Whether finding them may take long, or fail for a while."""
        ...

    async def find(self, agent: Agent, tenant: str) -> list[PinnedTool]:
        """The tools of this kind that an agent has.

        Raises:
            ToolUnavailable: A server does not answer; worth another attempt.
            ToolChanged: A server says other things of a tool than somebody trusted.
            ConfigError: The source cannot be used as it is defined.
            NotFound: There is no such toolbox or agent.
        """
        ...


class Discovery:
    """The activity `discover_tools`, and what opening a run needs of it."""

    def __init__(self, ledger: Ledger, finders: Sequence[Finder], files: AgentFiles | None) -> None:
        self._agents = Agents(ledger)
        self._toolsets = Toolsets(ledger)
        self._runs = Runs(ledger)
        self._functions = Functions(ledger)
        self._finders = finders
        self._files = files

    async def pinned_version(self, run: str, request: RunRequest) -> int | None:
        """The agent's version that a run's tools were found for, so that it is opened with the same."""
        found = await self._toolsets.of_run(run)
        if found is None or found.agent != request.agent or request.version is not None:
            return request.version
        return found.version

    async def functions(self, run: str, request: RunRequest) -> RunFunctions:
        """The functions that whoever started the run carries out; a run that resumes another goes on with its own."""
        kept = await self._functions.of_run(run)
        if kept.functions:
            return kept
        if request.functions:
            check_functions(request.functions)
            return await self._functions.keep(run, RunFunctions(request.functions))
        if request.resume_from is None or (await self._runs.get(request.resume_from)).tenant != request.tenant:
            return kept
        before = await self._functions.of_run(request.resume_from)
        return await self._functions.keep(run, RunFunctions(before.functions)) if before.functions else kept

    async def ensure(
        self, run: str, agent: Agent, version: int, tenant: str, functions: Sequence[CallerFunction] = ()
    ) -> None:
        """Have the run's tools pinned, if it has any to be found, or functions of its caller's.

        Raises:
            ApplicationError: They have to be asked for over the network first (`TOOLS_NOT_DISCOVERED`).
            Conflict: Somebody else had other tools pinned for it, which this agent's approval plan does not know.
        """
        found = await self._toolsets.of_run(run)
        if found is not None and (found.agent, found.version) != (agent.name, version):
            raise Conflict(f"The tools of run {run} were found for version {found.version} of {found.agent!r}.")
        if found is not None or not (agent.finds_tools or functions):
            return
        for finder in self._finders:
            if await finder.needs_network(agent):
                raise ApplicationError("Its tools are not found yet.", type=TOOLS_NOT_DISCOVERED, non_retryable=True)
        await self._find(run, agent, version, tenant, functions)

    @activity.defn(name=DISCOVER_TOOLS)
    async def discover_tools(self, discovering: DiscoverTools) -> None:
        """Ask every server for its tools and pin them for the run. Safe to repeat: what was pinned first stands."""
        run, request = discovering.run, discovering.request
        async with heartbeating():
            await refresh(self._agents, self._files, request.agent)
            version = await self._agents.get(request.agent, request.version)
            if await self._toolsets.of_run(run) is None:
                try:
                    own = (await self.functions(run, request)).functions
                    await self._find(run, version.agent, version.version, request.tenant, own)
                except ToolUnavailable as error:
                    await self._runs.held_up(run, redact(f"It waits for its tools. {error}"))
                    attempt = activity.info().attempt
                    raise ApplicationError(
                        redact(str(error)),
                        type=error.code,
                        non_retryable=attempt >= FIND_PATIENCE,
                        next_retry_delay=min(FIRST_WAIT * 2 ** (attempt - 1), MOST_WAIT),
                    ) from error

    async def _find(
        self, run: str, agent: Agent, version: int, tenant: str, functions: Sequence[CallerFunction]
    ) -> None:
        found = await asyncio.gather(*(finder.find(agent, tenant) for finder in self._finders))
        given = [function_tool(function) for function in functions]
        if agent.tool_search is not None and any(tool.spec.name == FIND_TOOLS.name for tool in given):
            raise ConfigError(f"A function cannot have the name {FIND_TOOLS.name!r}: the engine has such a tool.")
        try:
            toolset = Toolset(tools=tuple(tool for tools in (*found, given) for tool in tools))
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(f"The tools of {agent.name!r} cannot be used together: {problem}.") from error
        own = [tool.spec.name for tool in toolset.tools if tool.spec.name in agent.tools]
        if own:
            raise ConfigError(f"Agent {agent.name!r} has the tool {own[0]!r} twice: in `tools`, and from elsewhere.")
        missing = [name for name in agent.procedure if name not in agent.tools and toolset.named(name) is None]
        if missing:
            raise ToolUnavailable(f"The procedure of {agent.name!r} names {missing[0]!r}, which none of its tools is.")
        await self._toolsets.pin(run, agent.name, version, toolset)


async def refresh(agents: Agents, files: AgentFiles | None, name: str) -> int | None:
    """An edited definition counts from the next run on, without a restart.

    Returns:
        The newest version's number; None when the agent has no file.
    """
    agent = files.current().get(name) if files is not None else None
    return await agents.register(agent) if agent is not None else None
