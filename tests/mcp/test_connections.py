"""Connections: what servers say that they should not, who shares them, and when they end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity
from temporalio.testing import ActivityEnvironment

from activities.mcp import connection
from activities.mcp.connections import Connections
from activities.mcp.faults import AnswerLost
from activities.mcp.listing import pinned, said_of
from activities.mcp.results import value_of
from activities.mcp.servers import McpPerformer
from horarium.errors import ToolError, ToolNotReached
from horarium.mcpservers import McpServer
from horarium.tools import ToolContext
from horarium.toolsets import McpSource
from tests.mcp.rig import bank
from tests.support.stack import until

BABBLER = Path(__file__).with_name("servers") / "babbler.py"


def _babbler(what: str) -> McpServer:
    return McpServer(command=(sys.executable, str(BABBLER), what))


@pytest.fixture
async def connections(tmp_path: Path) -> AsyncIterator[Connections]:
    found = Connections(tmp_path)
    yield found
    await found.close()


async def _talk(connections: Connections, server: McpServer, tool: str = "talk") -> Any:
    async def heard(progress: float, total: float | None, message: str | None) -> None:
        return None

    there = await connections.to("there", server)
    result = await there.call(tool, {"ref": "x"}, key="k", timeout=timedelta(seconds=10), on_progress=heard)
    return value_of(result)


async def test_text_between_the_messages_is_passed_over(connections: Connections) -> None:
    assert await _talk(connections, _babbler("text")) == "hello"


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("bad list", "cannot be read"),
        ("endless list", "does not end"),
        ("twice", "two tools 'a'"),
        ("many", "more than 1,000"),
    ],
)
async def test_a_list_that_cannot_be_one_is_refused_for_good(connections: Connections, what: str, word: str) -> None:
    with pytest.raises(ToolError, match=word):
        await (await connections.to("there", _babbler(what))).tools()


async def test_an_answer_that_cannot_be_read_leaves_open_what_happened(connections: Connections) -> None:
    with pytest.raises(AnswerLost, match="cannot be read"):
        await _talk(connections, _babbler("bad answer"))


async def test_a_program_that_ends_at_once_is_quoted(connections: Connections) -> None:
    with pytest.raises(ToolNotReached, match="no configuration file"):
        await connections.to("there", _babbler("exits"))


async def test_a_program_that_says_nothing_is_given_up(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "OPEN_SECONDS", 0.5)

    with pytest.raises(ToolNotReached, match="did not begin to speak"):
        await connections.to("there", _babbler("silent"))


async def test_nobody_waits_for_a_program_that_says_nothing_when_the_worker_leaves(connections: Connections) -> None:
    opening = asyncio.create_task(connections.to("there", _babbler("silent")))
    await asyncio.sleep(0)

    async with asyncio.timeout(connection.OPEN_SECONDS / 3):
        await connections.close()

    with pytest.raises(ToolNotReached, match="was closed"):
        await opening


async def test_whoever_asks_while_it_is_opened_gets_the_same_connection(connections: Connections) -> None:
    first, second = await asyncio.gather(*(connections.to(label, _babbler("text")) for label in ("a", "b")))

    assert first is second


async def test_another_secret_is_another_connection(
    connections: Connections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = McpServer(command=_babbler("text").command, env={"TOKEN": "${BABBLER_TOKEN}"})
    monkeypatch.setenv("BABBLER_TOKEN", "tok-one-1234")
    first = await connections.to("there", server)
    monkeypatch.setenv("BABBLER_TOKEN", "tok-two-1234")

    assert await connections.to("there", server) is not first


async def test_a_connection_that_nobody_uses_is_closed_and_opened_again(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE", timedelta(0))
    first = await connections.to("there", _babbler("text"))

    await until(lambda: not first.open, "the connection is closed", timeout=10)
    monkeypatch.undo()

    assert await _talk(connections, _babbler("text")) == "hello"


async def test_a_retired_connection_lets_its_last_call_end(connections: Connections, tmp_path: Path) -> None:
    with bank(tmp_path, "stdio") as there:
        server = there.server()
        calling = asyncio.create_task(_talk(connections, server, "wait"))
        await there.says("entered", "x")
        first = await connections.to("there", server)

        first.retire()
        second = await connections.to("there", server)
        there.go()

        assert second is not first
        assert await calling == "waited"
        await until(lambda: not first.open, "the retired connection is closed", timeout=10)


async def test_progress_is_told_to_temporal_as_numbers(connections: Connections, tmp_path: Path) -> None:
    beats: list[Any] = []

    @activity.defn
    async def count() -> Any:
        server = there.server()
        tool = (await (await connections.to("bank", server)).tools())["count"]
        found = pinned("bank", server, said_of(tool))
        assert isinstance(found.source, McpSource)
        context = ToolContext("run_1", "run_1/0001", "k", 1, "clerk", "default")
        return await McpPerformer(connections, found, found.source).perform({"ref": ""}, context)

    with bank(tmp_path, "stdio") as there:
        environment = ActivityEnvironment()
        environment.on_heartbeat = lambda *details: beats.extend(details)

        assert await environment.run(count) == "counted"

    assert beats == [{"progress": number, "total": 3.0} for number in (1.0, 2.0, 3.0)]
