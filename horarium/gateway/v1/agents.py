"""Agents over REST: to look at. They are the project's, whoever asks; their definitions come from its files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import Field

from horarium.definitions import Agent
from horarium.gateway.context import TheClient, Viewer
from horarium.gateway.v1.answers import errors
from horarium.gateway.v1.fields import Answer, Named, Numbered, SchemaOf, Time, page_end
from horarium.gateway.v1.paging import Cursor, Limit, Page, cursor_of, read_cursor
from horarium.ledger.agents import Agents, AgentVersion, ServedTool, ToolCatalog
from horarium.mcpservers import McpServer
from horarium.tools import Effect

router = APIRouter(prefix="/v1/agents", tags=["agents"])


class AgentSummary(Answer):
    """One version of an agent, in a list."""

    name: str
    version: int = Field(description="From 1; a version never changes.")
    model: str
    description: str
    created_at: Time


class AgentDetail(AgentSummary):
    """One version of an agent, whole."""

    definition: Annotated[dict[str, Any], SchemaOf(Agent)] = Field(
        description="As in the agent's file. It holds no secrets, only the names of environment variables."
    )
    input_schema: dict[str, Any] | None = Field(
        default=None, description="JSON Schema of an invocation's body. null: any JSON."
    )
    output_schema: dict[str, Any] | None = Field(
        default=None, description="JSON Schema that answers fit. null: they are texts."
    )


class AgentTool(Answer):
    """Something that a version of an agent can use."""

    name: str = Field(description="Of the tool or the sub-agent; the label of an MCP server; `name@version`.")
    kind: Literal["python", "agent", "mcp", "toolbox"]
    description: str = ""
    effect: Effect | None = Field(default=None, description="null: each of its tools has its own.")
    parameters: dict[str, Any] | None = Field(default=None, description="JSON Schema of the arguments.")
    queue: str | None = Field(default=None, description="Task queue of the worker that serves it.")
    available: bool = Field(description="Whether it is there now: announced, registered. An MCP server is not asked.")
    announced_at: Time | None = None


class AgentTools(Answer):
    """All that a version of an agent can use. What servers offer is asked for when a run begins."""

    data: list[AgentTool]


def definition_of(model: Any, **dumped: Any) -> dict[str, Any]:
    """A definition for people to see; the query of a server's URL is left out, for there may be a key in it.

    `dumped`: for pydantic's `model_dump`; as it is, JSON with every field.
    """
    shown: dict[str, Any] = model.model_dump(**({"mode": "json"} | dumped))
    for label, server in model.mcp.items():
        if server.url is not None:
            shown["mcp"][label]["url"] = server.address
    return shown


def _summary(found: AgentVersion) -> AgentSummary:
    agent = found.agent
    return AgentSummary(
        name=agent.name,
        version=found.version,
        model=agent.model,
        description=agent.description,
        created_at=found.created_at,
    )


def _detail(found: AgentVersion) -> AgentDetail:
    agent = found.agent
    schemas = {"input_schema": agent.input_schema, "output_schema": agent.output_schema}
    return AgentDetail(**dict(_summary(found)), definition=definition_of(agent), **schemas)


@router.get("", operation_id="agents_list", summary="List agents", responses=errors())
async def agents_list(
    client: TheClient, caller: Viewer, limit: Limit = 50, cursor: Cursor = None
) -> Page[AgentSummary]:
    """The newest version of every agent, by name."""
    agents = Agents(client.require_ledger())
    after = read_cursor(cursor, str)
    names = [name for name in sorted(await agents.names()) if after is None or name > after[0]]
    shown, end = page_end(names, limit, cursor_of)
    return Page(data=[_summary(await agents.get(name)) for name in shown], next=end)


@router.get("/{name}", operation_id="agents_get", summary="Show an agent", responses=errors(404))
async def agents_get(client: TheClient, caller: Viewer, name: Named) -> AgentDetail:
    """The newest version of an agent."""
    return _detail(await client.agent(name))


@router.get("/{name}/versions", operation_id="agents_versions", summary="List its versions", responses=errors(404))
async def agents_versions(
    client: TheClient, caller: Viewer, name: Named, limit: Limit = 50, cursor: Cursor = None
) -> Page[AgentSummary]:
    """The versions of an agent, newest first."""
    before = read_cursor(cursor, int)
    agents = Agents(client.require_ledger())
    found = await agents.versions(name, before=before[0] if before else None, limit=limit + 1)
    shown, end = page_end(found, limit, lambda item: cursor_of(item.version))
    return Page(data=[_summary(item) for item in shown], next=end)


@router.get(
    "/{name}/versions/{version}", operation_id="agents_version", summary="Show a version", responses=errors(404)
)
async def agents_version(client: TheClient, caller: Viewer, name: Named, version: Numbered) -> AgentDetail:
    """One version of an agent, with its definition."""
    return _detail(await client.agent(name, version))


@router.get(
    "/{name}/versions/{version}/tools", operation_id="agents_tools", summary="List its tools", responses=errors(404)
)
async def agents_tools(client: TheClient, caller: Viewer, name: Named, version: Numbered) -> AgentTools:
    """What a version of an agent can use, and what of it is there now."""
    agent = (await client.agent(name, version)).agent
    ledger = client.require_ledger()
    served = await ToolCatalog(ledger).all()
    toolboxes = {found.name: found for found in await client.toolboxes()}
    known = set(await Agents(ledger).names())
    found = [_python(tool, served.get(tool)) for tool in agent.tools]
    found += [_sub_agent(other, await client.agent(other) if other in known else None) for other in agent.agents]
    found += [_server(label, server) for label, server in agent.mcp.items()]
    for reference in agent.toolboxes:
        box = toolboxes.get(reference.partition("@")[0])
        found.append(AgentTool(name=reference, kind="toolbox", available=box is not None))
    return AgentTools(data=found)


def _python(name: str, served: ServedTool | None) -> AgentTool:
    if served is None:
        return AgentTool(name=name, kind="python", available=False)
    spec = served.spec
    return AgentTool(
        name=name,
        kind="python",
        description=spec.description,
        effect=spec.effect,
        parameters=spec.parameters,
        queue=served.queue,
        available=True,
        announced_at=served.seen_at,
    )


def _sub_agent(name: str, found: AgentVersion | None) -> AgentTool:
    description = found.agent.description if found is not None else ""
    return AgentTool(name=name, kind="agent", description=description, available=found is not None)


def _server(label: str, server: McpServer) -> AgentTool:
    offered = ", ".join(server.tools)
    return AgentTool(name=label, kind="mcp", description=f"{server.address}: {offered}", available=True)
