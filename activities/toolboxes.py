"""Toolboxes: finding the tools of those that an agent names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from activities.handoff import agent_tool
from activities.mcp_tools import McpTools
from horarium.definitions import Agent
from horarium.errors import ConfigError, ToolUnavailable
from horarium.ledger.agents import Agents, ServedTool, ToolCatalog
from horarium.ledger.database import Ledger
from horarium.ledger.toolboxes import Toolboxes, ToolboxVersion
from horarium.mcpservers import SEPARATOR
from horarium.openapi import BoundOperation, Operation
from horarium.problems import near_miss
from horarium.settings import Settings
from horarium.toolboxes import OpenApi, named_version
from horarium.toolboxpublishing import Publisher
from horarium.tools import ToolSpec
from horarium.toolsets import OpenApiSource, PinnedTool, PythonSource


class ToolboxFinder:
    """Finds what is in an agent's toolboxes."""

    def __init__(self, ledger: Ledger, mcp: McpTools, settings: Settings) -> None:
        self._toolboxes = Toolboxes(ledger)
        self._tools = ToolCatalog(ledger)
        self._agents = Agents(ledger)
        self._mcp = mcp
        self._publisher = Publisher(ledger, settings)

    async def publish_all(self) -> None:
        """Make versions of what the project's files say."""
        await self._publisher.refresh()

    async def needs_network(self, agent: Agent) -> bool:
        """Whether one of its toolboxes has MCP servers, or a changed file that names a document elsewhere."""
        names = {name for name, _ in map(named, agent.toolboxes)}
        if any(file.remote for name, file in self._publisher.changed().items() if name in names):
            return True
        await self._publisher.refresh(names)
        return any([version.toolbox.mcp for version in await self._versions(agent)])

    async def find(self, agent: Agent, tenant: str) -> list[PinnedTool]:
        """The tools of all its toolboxes, each by its source.

        Raises:
            ToolboxNotFound: There is no such toolbox, or not in this version.
            ToolUnavailable: Nobody ever announced one of its Python tools, or a server does not answer.
            AgentNotFound: There is no such sub-agent.
        """
        if not agent.toolboxes:
            return []
        await self._publisher.refresh({name for name, _ in map(named, agent.toolboxes)})
        found = await asyncio.gather(*map(self.tools_of, await self._versions(agent)))
        return [tool for tools in found for tool in tools]

    async def tools_of(self, version: ToolboxVersion) -> list[PinnedTool]:
        """The tools of one version, as they are to be called now.

        Raises:
            ToolUnavailable: Nobody ever announced one of its Python tools, or a server does not answer.
            AgentNotFound: There is no such sub-agent.
        """
        toolbox = version.toolbox
        served = await self._tools.all() if toolbox.tools else {}
        pins = [_python(version, name, served) for name in toolbox.tools]
        servers = await asyncio.gather(*(self._mcp.of_server(label, server) for label, server in toolbox.mcp.items()))
        pins += [tool for tools in servers for tool in tools]
        pins += _operations(version)
        pins += [agent_tool(await self._agents.get(name)) for name in toolbox.agents]
        return [pin.model_copy(update={"toolbox": version.reference}) for pin in pins]

    async def _versions(self, agent: Agent) -> list[ToolboxVersion]:
        return [await self._toolboxes.get(name, number) for name, number in map(named, agent.toolboxes)]


def named(reference: str) -> tuple[str, int | None]:
    """A toolbox as an agent names it.

    Raises:
        ConfigError: That is no name of one.
    """
    try:
        return named_version(reference)
    except ValueError as error:
        raise ConfigError(f"{reference!r} names no toolbox: {error}.") from error


def _python(version: ToolboxVersion, name: str, served: dict[str, ServedTool]) -> PinnedTool:
    if name not in served:
        raise ToolUnavailable(
            f"No worker serves the tool {name!r} of toolbox {version.reference!r}{near_miss(name, list(served))}",
            hint="Put it in tools/, or start the tool worker that has it: horarium worker --tools",
        )
    return PinnedTool(spec=served[name].spec, source=PythonSource(tool=name))


def _operations(version: ToolboxVersion) -> Iterator[PinnedTool]:
    for label, operations in version.operations.items():
        api = version.toolbox.openapi[label]
        for operation in operations:
            bound = BoundOperation(operation=operation, api=api).model_dump(mode="json")
            source = OpenApiSource(toolbox=version.toolbox.name, version=version.version, label=label, operation=bound)
            yield PinnedTool(spec=operation_spec(label, operation, api), source=source)


def operation_spec(label: str, operation: Operation, api: OpenApi) -> ToolSpec:
    """An operation as model and approvals see it."""
    return ToolSpec(
        name=f"{label}{SEPARATOR}{operation.name}",
        description=operation.description,
        parameters=operation.parameters,
        effect=operation.effect,
        timeout=api.timeout,
        attempts=api.attempts,
        untrusted=not api.trusted_output,
    )
