"""The tools of an agent as its page has them: what each may do, who is asked first, and how it failed last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from horarium.client import Client
from horarium.definitions import Agent
from horarium.durations import words as length
from horarium.gateway.auth import Caller
from horarium.gateway.console.definition_words import gate_in_words
from horarium.gateway.console.words import count
from horarium.gateway.v1 import agents as v1
from horarium.ledger.agents import AgentVersion, ServedTool, ToolCatalog
from horarium.ledger.figures import ToolFailure
from horarium.ledger.toolworkers import group_of
from horarium.ledger.trusted_tools import KnownTool, TrustedTools
from horarium.toolboxes import named_version
from horarium.tools import Effect

MOST_MET = 200  # tools of one MCP server
_STATES = {"new": "nobody has trusted it yet", "changed": "the server says something else than was trusted"}


@dataclass(frozen=True, slots=True)
class ToolLine:
    """A tool as the page has it; `state` says what is wrong with it, or nothing."""

    name: str
    source: str
    effect: str
    asks: str
    retries: str
    description: str
    state: str = ""
    link: str | None = None
    failure: ToolFailure | None = None


async def tool_lines(
    client: Client, caller: Caller, found: AgentVersion, failures: Mapping[str, ToolFailure]
) -> list[ToolLine]:
    """What a version of an agent can use, and what else of it failed lately."""
    agent = found.agent
    ledger = client.require_ledger()
    usable = (await v1.agents_tools(client, caller, agent.name, found.version)).data
    served = await ToolCatalog(ledger).all()
    lines: list[ToolLine] = []
    for tool in usable:
        if tool.kind == "python":
            lines.append(_python(agent, tool, served.get(tool.name), failures))
        elif tool.kind == "toolbox":
            lines.append(_toolbox(tool))
        elif tool.kind == "mcp":
            met = await TrustedTools(ledger).list(agent.mcp[tool.name].key)
            lines += _server(agent, tool.name, met, failures)
    known = {line.name for line in lines}
    gone = (failure for name, failure in failures.items() if name not in known and name not in agent.agents)
    return [*lines, *(_elsewhere(agent, failure) for failure in gone)]


def _python(
    agent: Agent, tool: v1.AgentTool, served: ServedTool | None, failures: Mapping[str, ToolFailure]
) -> ToolLine:
    spec = served.spec if served is not None else None
    return ToolLine(
        name=tool.name,
        source=group_of(served.queue) if served is not None else "–",
        effect=str(tool.effect) if tool.effect is not None else "not known",
        asks=gate_in_words(agent, tool.name, tool.effect or Effect.EXTERNAL),
        retries=_retries(spec.attempts, spec.timeout) if spec is not None else "–",
        description=tool.description,
        state="" if tool.available else "no worker has announced it",
        failure=failures.get(tool.name),
    )


def _toolbox(tool: v1.AgentTool) -> ToolLine:
    name, version = named_version(tool.name)
    return ToolLine(
        name=tool.name,
        source="toolbox",
        effect="each its own",
        asks="by the effect of each of its tools, or the plan",
        retries="each its own",
        description="Its default version." if version is None else f"Version {version}.",
        state="" if tool.available else "there is no such toolbox",
        link=f"/agents/toolboxes/{name}" + (f"?version={version}" if version else "") if tool.available else None,
    )


def _server(agent: Agent, label: str, met: Iterable[KnownTool], failures: Mapping[str, ToolFailure]) -> list[ToolLine]:
    server = agent.mcp[label]
    source, retries = f"MCP server {label}: {server.address}", _retries(server.attempts, server.timeout)
    lines = []
    for known in [one for one in met if server.offers(one.tool)][:MOST_MET]:
        name, effect = f"{label}__{known.tool}", server.effect_of(known.tool)
        lines.append(
            ToolLine(
                name=name,
                source=source,
                effect=str(effect),
                asks=gate_in_words(agent, name, effect),
                retries=retries,
                description=str(known.seen.get("description") or ""),
                state=_STATES.get(known.state, ""),
                failure=failures.get(name),
            )
        )
    if lines:
        return lines
    offered = ", ".join(server.tools)
    return [
        ToolLine(
            f"{label}__*",
            source,
            "each its own",
            "by the effect of each",
            retries,
            f"{offered}; no run has met it so far.",
        )
    ]


def _elsewhere(agent: Agent, failure: ToolFailure) -> ToolLine:
    """A tool of a toolbox, of an earlier version, or of whoever started the run: known by its failure only."""
    return ToolLine(
        name=failure.tool,
        source="a toolbox, an earlier version, or whoever started the run",
        effect="–",
        asks=gate_in_words(agent, failure.tool, None),
        retries="–",
        description="",
        failure=failure,
    )


def _retries(attempts: int, timeout: timedelta) -> str:
    return f"{count(attempts, 'attempt')}, {length(timeout)} each"
