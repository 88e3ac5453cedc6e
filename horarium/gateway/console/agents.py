"""Pages about agents: which there are, what each version is and may do, what it has used, and how its tools fare."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated
from urllib.parse import urlencode

from fastapi import Query, Request
from starlette.responses import Response

from horarium.client import Client
from horarium.definitions import ENDPOINT_PREFIX, NO_MODEL, Agent
from horarium.durations import words as length
from horarium.errors import AgentNotFound
from horarium.gateway.console.agent_tools import tool_lines
from horarium.gateway.console.definition_words import (
    as_written,
    difference,
    limits_in_words,
    memory_in_words,
    plan_in_words,
)
from horarium.gateway.console.page import page
from horarium.gateway.console.routing import pages
from horarium.gateway.console.run_words import RUN_STATUS
from horarium.gateway.console.start import new_key
from horarium.gateway.context import TheClient, Viewer
from horarium.gateway.roles import Role
from horarium.gateway.v1.fields import Named, page_end
from horarium.gateway.v1.paging import LARGEST, Cursor, cursor_of, read_cursor
from horarium.ledger.agents import Agents
from horarium.ledger.figures import Figures, Used
from horarium.ledger.routines import Routines
from horarium.ledger.runs import Runs

ON_A_PAGE = 50
VERSIONS = 20
RECENT_RUNS = 10
DAY, WEEK = timedelta(days=1), timedelta(days=7)

router = pages()
Version = Annotated[int | None, Query(ge=1, le=LARGEST)]


@router.get("/agents")
async def list_page(
    request: Request,
    client: TheClient,
    caller: Viewer,
    text: Annotated[str, Query(max_length=63)] = "",
    cursor: Cursor = None,
) -> Response:
    """The newest version of every agent, by name."""
    after = read_cursor(cursor, str)
    ledger = client.require_ledger()
    agents, now = Agents(ledger), datetime.now(UTC)
    wanted = text.strip().lower()
    # Those that stand for served toolboxes are no agents to anybody.
    names = [name for name in await agents.names() if wanted in name.lower() and not name.startswith(ENDPOINT_PREFIX)]
    left = sorted(name for name in names if after is None or name > after[0])
    shown, end = page_end(left, ON_A_PAGE, cursor_of)
    figures = Figures(ledger)
    return page(
        request,
        "agents.html",
        title="Agents",
        agents=[await agents.get(name) for name in shown],
        day=await figures.used_by_agents(caller.tenant, now - DAY),
        week=await figures.used_by_agents(caller.tenant, now - WEEK),
        nothing=Used(),
        text=text,
        next=f"/agents?{urlencode({'text': text, 'cursor': end})}" if end else None,
    )


@router.get("/agents/{name}/diff")
async def diff_page(
    request: Request, client: TheClient, caller: Viewer, name: Named, before: Version = None, after: Version = None
) -> Response:
    """What is different between two versions; between the last two, when none is named."""
    newer = await client.agent(name, after)
    older = await client.agent(name, before or max(newer.version - 1, 1))
    lines = difference(as_written(older.agent), as_written(newer.agent))
    return page(
        request,
        "definition_diff.html",
        title=f"{name}: versions {older.version} and {newer.version}",
        home=("/agents", "Agents"),
        name=name,
        place=f"/agents/{name}",
        older=older,
        newer=newer,
        lines=lines,
        command="\n".join(f"horarium agents show {name} --version {one.version}" for one in (older, newer)),
        path=f"/v1/agents/{name}/versions/{newer.version}",
    )


@router.get("/agents/{name}")
async def agent_page(
    request: Request, client: TheClient, caller: Viewer, name: Named, version: Version = None
) -> Response:
    """One version of an agent; the newest, when none is named."""
    found = await client.agent(name, version)
    agent = found.agent
    ledger, now = client.require_ledger(), datetime.now(UTC)
    versions, figures = await Agents(ledger).versions(name, limit=VERSIONS), Figures(ledger)
    runs = await Runs(ledger).list(agent=name, tenant=caller.tenant, limit=RECENT_RUNS)
    users = await Routines(ledger).of_agent(name, caller.tenant)
    return page(
        request,
        "agent.html",
        title=name,
        found=found,
        agent=agent,
        versions=versions,
        newest=versions[0].version,
        plan=plan_in_words(agent.approvals),
        limits=limits_in_words(agent.limits),
        memory=memory_in_words(agent.memory, agent.model),
        settings=_settings_of(agent),
        tools=await tool_lines(client, caller, found, await figures.tool_failures(name, caller.tenant, now - WEEK)),
        sub_agents=await _sub_agents(client, agent),
        text=as_written(agent),
        runs=runs,
        words=RUN_STATUS,
        used=[
            ("24 hours", await figures.used_by(name, caller.tenant, now - DAY)),
            ("7 days", await figures.used_by(name, caller.tenant, now - WEEK)),
        ],
        routines=users,
        may_start=caller.role >= Role.OPERATOR and agent.model != NO_MODEL and found.version == versions[0].version,
        key=new_key(),
    )


def _settings_of(agent: Agent) -> dict[str, str]:
    """How the model is asked, as far as the definition says so."""
    said = agent.settings.model_dump(exclude_defaults=True)
    shown = {name: length(value) if isinstance(value, timedelta) else str(value) for name, value in said.items()}
    return {name.replace("_", " "): value for name, value in shown.items()}


async def _sub_agents(client: Client, agent: Agent) -> list[tuple[str, str | None]]:
    """Name and description; None: there is no such agent."""
    found: list[tuple[str, str | None]] = []
    for name in agent.agents:
        try:
            found.append((name, (await client.agent(name)).agent.description))
        except AgentNotFound:
            found.append((name, None))
    return found
