"""`horarium agents`: the agents of the project's files, and the versions that the ledger has of them.

A file is what the next run will use; a version is what some run has used. Validation needs no server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from horarium.cli import evidence, talk, words
from horarium.cli.reach import opened_ledger
from horarium.cli.start import JsonOption
from horarium.definitions import Agent
from horarium.durations import words as duration_words
from horarium.errors import AgentNotFound, ConfigError, Unreachable
from horarium.ledger.agents import Agents, AgentVersion, ToolCatalog
from horarium.ledger.toolboxes import Toolboxes
from horarium.problems import near_miss
from horarium.project import (
    agent_files,
    check_plans,
    check_rankings,
    check_sub_agents,
    check_toolboxes,
    check_tools,
    load_agent,
    load_agents,
    load_tools,
)
from horarium.settings import Settings
from horarium.toolboxfiles import toolbox_files
from horarium.tools import Tool, ToolSpec

app = typer.Typer(no_args_is_help=True, help="See the agents of this project, and check their files.")

JsonLinesOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object a line.")]


@app.command("list")
def list_(as_json: JsonLinesOption = False) -> None:
    """List the agents of the project's files and of the ledger, and how the two differ.

    \b
    Exit codes: 0 done, 2 a file is wrong, 3 cannot reach the ledger.

    \b
    Example:
      horarium agents list
    """
    talk.perform(_list(as_json=as_json))


async def _list(*, as_json: bool) -> int:
    settings = Settings.load()
    files = load_agents(settings)
    async with opened_ledger(settings) as ledger:
        stored = {version.agent.name: version for version in await Agents(ledger).newest()}
    rows = [_row(name, files.get(name), stored.get(name)) for name in sorted({*files, *stored})]
    if as_json:
        for row in rows:
            talk.emit(row)
    elif rows:
        columns = ("agent", "version", "model", "tools", "state")
        cells = [
            (row["agent"], str(row["version"] or "-"), row["model"], _all_tools(row), row["state"]) for row in rows
        ]
        talk.out().print(talk.table(columns, cells))
    else:
        talk.say("No agents. Write a first project: horarium init DIR")
    return talk.DONE


def _row(name: str, file: Agent | None, stored: AgentVersion | None) -> dict[str, Any]:
    agent = file or (stored.agent if stored else None)
    return {
        "agent": name,
        "version": stored.version if stored else None,
        "model": agent.model if agent else "",
        "tools": list(agent.tools) if agent else [],
        "mcp": list(agent.mcp) if agent else [],
        "toolboxes": list(agent.toolboxes) if agent else [],
        "agents": list(agent.agents) if agent else [],
        "description": agent.description if agent else "",
        "state": _state(file, stored),
    }


def _all_tools(row: Mapping[str, Any]) -> str:
    elsewhere = [f"{label}__*" for label in row["mcp"]] + [f"toolbox {name}" for name in row["toolboxes"]]
    return ", ".join([*row["tools"], *elsewhere, *(f"agent {name}" for name in row["agents"])]) or "-"


def _state(file: Agent | None, stored: AgentVersion | None) -> str:
    if file is None:
        return "only in the ledger"
    if stored is None:
        return "new"
    return "current" if stored.agent.digest == file.digest else "changed"


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The agent's name.")],
    version: Annotated[
        int | None, typer.Option(min=1, help="A version of the ledger; else the file, or the newest.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show one agent: its model and instructions, its tools with their effect, its limits.

    \b
    Exit codes: 0 done, 2 there is none, 3 cannot reach the ledger.

    \b
    Examples:
      horarium agents show hello
      horarium agents show hello --version 1 --json
    """
    talk.perform(_show(name, version, as_json=as_json))


async def _show(name: str, version: int | None, *, as_json: bool) -> int:
    settings = Settings.load()
    files = load_agents(settings) if version is None else {}
    async with opened_ledger(settings) as ledger:
        agents = Agents(ledger)
        if name not in files and name not in await agents.names():
            known = sorted({*files, *await agents.names()})
            raise AgentNotFound(
                f"There is no agent {name!r}{near_miss(name, known) or '.'}",
                hint="See which there are: horarium agents list",
            )
        stored = await agents.get(name, version) if name in await agents.names() else None
        served = {tool: served.spec for tool, served in (await ToolCatalog(ledger).all()).items()}
    agent = files.get(name) or (stored.agent if stored else None)
    if agent is None:
        raise AgentNotFound(f"There is no agent {name!r}.", hint="See which there are: horarium agents list")
    same = stored is not None and stored.agent.digest == agent.digest
    number = stored.version if stored and same else None
    if as_json:
        talk.emit(_json(agent, number, stored, served))
        return talk.DONE
    for line in _lines(agent, number, stored, served):
        talk.out().print(Text(line), soft_wrap=True)
    return talk.DONE


def _json(
    agent: Agent, number: int | None, stored: AgentVersion | None, served: Mapping[str, ToolSpec]
) -> dict[str, Any]:
    tools = [{"name": tool, "effect": served[tool].effect.value if tool in served else None} for tool in agent.tools]
    created = evidence.moment(stored.created_at) if stored and number else None
    definition = agent.model_dump(mode="json")
    return {"agent": agent.name, "version": number, "created_at": created, "tools": tools, "definition": definition}


def _lines(agent: Agent, number: int | None, stored: AgentVersion | None, served: Mapping[str, ToolSpec]) -> list[str]:
    state = "of the file, not used by a run yet"
    if stored and number:
        state = f"since {words.when(stored.created_at)}"
    elif stored:
        state = f"of the file; the newest that a run could use so far is version {stored.version}"
    limits = agent.limits
    lines = [
        f"Agent {agent.name}" + (f"@{number}" if number else ""),
        f"  version   {state}",
        *([f"  about     {words.one_line(agent.description)}"] if agent.description else []),
        f"  model     {agent.model}",
        f"  limits    {words.plural(limits.max_turns, 'turn')}, {duration_words(limits.wall_time)}"
        + (f", {limits.max_tokens:,} tokens" if limits.max_tokens else "")
        + (f", ${limits.max_cost_usd}" if limits.max_cost_usd else ""),
        f"  on failed step: {agent.on_step_failure}",
    ]
    if agent.procedure:
        lines.append(f"  procedure {' > '.join(agent.procedure)}")
    lines += [f"  tool      {tool}: {_effect(served.get(tool))}" for tool in agent.tools]
    lines += [f"  MCP       {label}: {words.one_line(server.address)}" for label, server in agent.mcp.items()]
    lines += [f"  toolbox   {reference}" for reference in agent.toolboxes]
    lines += [f"  sub-agent {name}" for name in agent.agents]
    if agent.tool_search:
        shown = words.plural(agent.tool_search.show, "tool")
        lines.append(f"  search    {shown} at each turn, {agent.tool_search.ranking}")
    if agent.memory:
        kinds, scope = ", ".join(agent.memory.kinds), words.one_line(agent.memory.scope)
        ranking = f", {agent.memory.ranking}" if agent.memory.store == "ledger" else ""
        lines.append(f"  memory    {kinds} of {scope!r}{ranking}")
    if agent.instructions:
        lines += ["", "Instructions", *words.harmless(agent.instructions).rstrip().splitlines()]
    return lines


def _effect(spec: ToolSpec | None) -> str:
    if spec is None:
        return "served by no worker so far"
    return f"{spec.effect.value}, " + ("runs without asking" if spec.effect == "read" else "waits for a person")


@app.command()
def validate(as_json: JsonOption = False) -> None:
    """Check the project's agents and tools, without a server: file, line, field, and the near miss.

    \b
    Exit codes: 0 all is well, 2 something is wrong.

    \b
    Example:
      horarium agents validate
    """
    talk.perform(_validate(as_json=as_json))


async def _validate(*, as_json: bool) -> int:
    settings = Settings.load()
    problems: list[str] = []
    agents: dict[str, Agent] = {}
    tools: dict[str, Tool] = {}
    for file in agent_files(settings):
        try:
            agent = load_agent(settings, file)
        except ConfigError as error:
            problems += error.message.splitlines()
        else:
            agents[agent.name] = agent
    problems = problems or check_sub_agents(settings, agents)  # of a file with mistakes nobody knows whom it would name
    try:
        tools = load_tools(settings)
    except ConfigError as error:
        problems += error.message.splitlines()
    else:
        served = await served_elsewhere(settings) | {name: tool.spec for name, tool in tools.items()}
        problems += check_tools(settings, agents, served) + check_plans(settings, agents, served)
    problems += check_rankings(settings, agents)
    problems += check_toolboxes(settings, agents, await known_toolboxes(settings))
    if as_json:
        talk.emit({"valid": not problems, "agents": sorted(agents), "tools": sorted(tools), "problems": problems})
    else:
        for problem in problems:
            talk.out().print(Text(words.one_line(problem)), soft_wrap=True)
        well = f"{words.plural(len(agents), 'agent')} and {words.plural(len(tools), 'tool')} are well."
        talk.say(f"{words.plural(len(problems), 'problem')} found." if problems else well)
    return talk.TYPED_WRONG if problems else talk.DONE


async def served_elsewhere(settings: Settings) -> dict[str, ToolSpec]:
    """Tools of workers that are no part of this project, as far as a ledger that is there already knows them."""
    if _has_no_ledger(settings):
        return {}
    try:
        async with opened_ledger(settings) as ledger:
            return {name: tool.spec for name, tool in (await ToolCatalog(ledger).all()).items()}
    except (ConfigError, Unreachable):
        return {}


async def known_toolboxes(settings: Settings) -> set[str]:
    """Names of the toolboxes that this project has a file of, and of those in a ledger that is there already."""
    names = {file.stem for file in toolbox_files(settings)}
    if _has_no_ledger(settings):
        return names
    try:
        async with opened_ledger(settings) as ledger:
            return names | set(await Toolboxes(ledger).names())
    except (ConfigError, Unreachable):
        return names


def _has_no_ledger(settings: Settings) -> bool:
    return settings.ledger.url is None and not (settings.state / "ledger.db").exists()
