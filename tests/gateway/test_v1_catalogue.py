"""Agents and toolboxes over REST: what the project has, by version."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from horarium.definitions import Agent
from horarium.ledger.agents import Agents
from horarium.ledger.toolboxes import Toolboxes
from horarium.mcpservers import McpServer
from horarium.toolboxes import Toolbox
from tests.engine.conftest import World
from tests.gateway.conftest import SHOP, Serve
from tests.gateway.rest import STRANGER, Rest, rest_of
from tests.support.engine import Engine

TICKETS = McpServer(url="https://tickets.example/mcp?key=hidden", headers={"Authorization": "Bearer ${TICKETS}"})


@pytest.fixture
async def rest(engine: Engine, world: World, serve: Serve) -> AsyncIterator[Rest]:
    agents = Agents(engine.ledger)
    await agents.register(Agent("helper", model="scripted:test", description="Helps."))
    for words in ("one", "two", "three"):
        clerk = Agent(
            "clerk",
            model="scripted:test",
            instructions=words,
            tools=["look", "gone"],
            agents=["helper"],
            mcp={"tickets": TICKETS},
            toolboxes=["shop"],
        )
        await agents.register(clerk)
    await Toolboxes(engine.ledger).register(SHOP)
    await Toolboxes(engine.ledger).register(Toolbox(name="shop", tools=("look",), description="Smaller."))
    async with rest_of(engine, serve) as rest:
        yield rest


async def test_agents_are_listed_by_name_and_their_versions_newest_first(rest: Rest) -> None:
    listed = await rest.pages("/v1/agents", 1, "viewer")
    versions = await rest.pages("/v1/agents/clerk/versions", 2, "viewer")

    assert [(item["name"], item["version"]) for page in listed for item in page] == [("clerk", 3), ("helper", 1)]
    assert [[item["version"] for item in page] for page in versions] == [[3, 2], [1]]


async def test_a_definition_is_shown_with_references_and_without_the_query_of_a_server(rest: Rest) -> None:
    newest = await rest("GET", "/v1/agents/clerk", "viewer")
    first = await rest.ok("GET", "/v1/agents/clerk/versions/1", "viewer")

    server = newest.json()["definition"]["mcp"]["tickets"]
    assert (server["url"], server["headers"]) == ("https://tickets.example/mcp", {"Authorization": "Bearer ${TICKETS}"})
    assert "hidden" not in newest.text
    assert first["definition"]["instructions"] == "one"


async def test_its_tools_say_what_is_there(rest: Rest) -> None:
    tools = (await rest.ok("GET", "/v1/agents/clerk/versions/3/tools", "viewer"))["data"]

    assert [(tool["name"], tool["kind"], tool["effect"], tool["available"]) for tool in tools] == [
        ("look", "python", "read", True),
        ("gone", "python", None, False),
        ("helper", "agent", None, True),
        ("tickets", "mcp", None, True),
        ("shop", "toolbox", None, True),
    ]
    assert tools[0]["queue"] == "horarium"


async def test_what_is_not_there_is_named(rest: Rest) -> None:
    paths = ("/v1/agents/clrk", "/v1/agents/clerk/versions/9", "/v1/toolboxes/shed", "/v1/toolboxes/shop/versions/9")

    answers = [await rest("GET", path, "viewer") for path in paths]

    assert [answer.status_code for answer in answers] == [404] * len(paths)
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}
    assert "clerk" in answers[0].json()["detail"]


async def test_a_version_is_promoted_and_rolled_back_once(rest: Rest) -> None:
    before = await rest.ok("GET", "/v1/toolboxes/shop", "viewer")
    promoted = await rest.ok("POST", "/v1/toolboxes/shop/promote", "operator", json={"version": 2})
    back = await rest.ok("POST", "/v1/toolboxes/shop/rollback", "operator")
    again = await rest("POST", "/v1/toolboxes/shop/rollback", "operator")

    assert [item["version"] for item in (before, promoted, back)] == [1, 2, 1]
    assert (promoted["previous"], promoted["changed_by"], again.status_code) == (1, "operator", 409)
    assert [item["version"] for page in await rest.pages("/v1/toolboxes/shop/versions", 1) for item in page] == [2, 1]
    assert (await rest.ok("GET", "/v1/toolboxes/shop/versions/2"))["definition"]["tools"] == ["look"]


async def test_another_tenant_and_a_viewer_change_no_toolbox(rest: Rest) -> None:
    calls = [("promote", {"version": 2}), ("rollback", None)]

    answers = [
        await rest("POST", f"/v1/toolboxes/shop/{what}", who, json=body)
        for who in ("viewer", STRANGER)
        for what, body in calls
    ]

    assert [answer.status_code for answer in answers] == [403] * 4
    assert (await rest.ok("GET", "/v1/toolboxes/shop", STRANGER))["version"] == 1


@pytest.mark.parametrize("cursor", ["x", "W10", "WzEsMl0", "WyJhIiwiYiJd", "!", "WzEuNV0"])
async def test_a_cursor_of_somebody_else_is_refused(rest: Rest, cursor: str) -> None:
    for path in ("/v1/agents", "/v1/audit", "/v1/ticks", "/v1/memories", "/v1/keys"):
        answer = await rest("GET", path, params={"cursor": cursor})

        assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor"), path
