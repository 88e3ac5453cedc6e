"""What `horarium doctor` looks at where MCP servers are concerned: whether they answer, and how much they offer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Literal

from horarium.definitions import Agent
from horarium.engine import use_engine
from horarium.errors import ConfigError, HorariumError
from horarium.logs import set_up_logging
from horarium.mcpservers import McpServer
from horarium.project import load_agents
from horarium.settings import Settings
from horarium.visible import one_line

Found = tuple[str, Literal["ok", "warn", "fail"], str, str]  # what was looked at, how it is, in words, what to do

CHECK = "MCP server"
SECONDS = 20.0


async def look_at_mcp_servers(settings: Settings) -> list[Found]:
    """Speak to every server that an agent of the project names; wrong agents' files are said elsewhere."""
    try:
        agents = load_agents(settings)
    except ConfigError:
        return []
    servers = _servers(agents)
    if servers:
        set_up_logging("error")  # what they say while they start is for the engine's log
    return await asyncio.gather(*(_look(settings, *server) for server in servers.values()))


def _servers(agents: Mapping[str, Agent]) -> dict[str, tuple[str, McpServer, list[str]]]:
    found: dict[str, tuple[str, McpServer, list[str]]] = {}
    for agent in agents.values():
        for label, server in agent.mcp.items():
            found.setdefault(f"{label} {server.model_dump_json()}", (label, server, []))[2].append(agent.name)
    return found


async def _look(settings: Settings, label: str, server: McpServer, users: list[str]) -> Found:
    use_engine()
    from activities.mcp.connections import Connections

    connections = Connections(settings.root)
    where = f"{label} of {', '.join(users)}: {one_line(server.address)}"
    try:
        async with asyncio.timeout(SECONDS):
            tools = await connections.ask(label, server, lambda connection: connection.tools())
    except TimeoutError:
        return CHECK, "fail", f"{where} does not answer within {SECONDS:g} s", "See whether it runs."
    except HorariumError as error:
        return CHECK, "fail", f"{where}: {one_line(error.message)}", error.hint or "See whether it runs."
    finally:
        await connections.close()
    offered = [name for name in tools if server.offers(name)]
    if not offered:
        return CHECK, "warn", f"{where} offers none of the tools that `tools` names", "Correct the patterns."
    return CHECK, "ok", f"{where}, {len(offered)} tools", ""
