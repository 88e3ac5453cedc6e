"""Calls to tools that another process serves, or nobody, on a real server."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment

from horarium.client import Run
from horarium.contract import RunStatus
from horarium.definitions import Agent, ApprovalRule
from horarium.errors import ConfigError, ToolTaken
from horarium.ids import split_step_id
from horarium.serving import serve_tools
from horarium.settings import ApprovalsSettings, Settings, TemporalSettings, ToolsSettings, Webhook
from tests.engine.conftest import World
from tests.support.addresses import Server, listening
from tests.support.engine import PATIENCE, Engine, asks, call, running_engine, says
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes

pytestmark = in_both_modes

SOON = timedelta(milliseconds=300)
READER = Agent("reader", model="scripted:x", tools=["look"])
PAYER = Agent("payer", model="scripted:x", tools=["pay"], approvals=[ApprovalRule(tools=("pay",), required=0)])


@pytest.fixture
def server() -> Iterator[Server]:
    with listening() as server:
        yield server


@pytest.fixture
def group(tmp_path: Path) -> str:
    """A name of the test's own: the server is shared, and so are its queues."""
    return f"g{abs(hash(tmp_path)) % 10**12}"


@pytest.fixture
async def engine(
    env: WorkflowEnvironment, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Engine]:
    """An engine without tools of its own, that soon says when nobody takes a call."""
    monkeypatch.setenv("TEAM", f"json://127.0.0.1:{server.port}/team")
    monkeypatch.setenv("SIGNING", "whsec_" + base64.b64encode(b"thirty-two bytes of no use at all").decode())
    settings = Settings(
        root=tmp_path,
        temporal=TemporalSettings(address=env.client.service_client.config.target_host),
        tools=ToolsSettings(unserved_after=SOON),
        approvals=ApprovalsSettings(
            notify=("${TEAM}",),
            webhooks=(Webhook(url=f"http://127.0.0.1:{server.port}/hook", secret="${SIGNING}"),),
        ),
    )
    async with running_engine(env, tmp_path, [], settings=settings) as engine:
        yield engine


@asynccontextmanager
async def tool_worker(engine: Engine, world: World, name: str) -> AsyncIterator[None]:
    """A tool worker with the world's tools, as long as the context lasts."""
    stop = asyncio.Event()
    tools = [tool for tool in world.tools() if tool.name in ("look", "pay")]  # type: ignore[attr-defined]
    serving = asyncio.create_task(serve_tools(tools, name=name, settings=engine.settings, stop=stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(serving, 30)


async def announced(engine: Engine, world: World, name: str) -> None:
    """Have the tools announced by a worker that is gone again."""
    async with tool_worker(engine, world, name):
        run = await engine.start(READER, asks(call("look")), says())
        assert (await engine.finish(run)).status == "completed"


async def waiting_for_a_worker(engine: Engine, run: Run) -> RunStatus:
    status: RunStatus = await engine.until(run, "requires_action")
    return status


async def messages(server: Server, path: str) -> list[dict[str, object]]:
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not (found := server.messages(path)):
            await asyncio.sleep(0.02)
    return found


async def test_a_call_that_nobody_takes_waits_and_says_so_and_is_made_once_when_a_worker_starts(
    engine: Engine, world: World, server: Server, group: str
) -> None:
    await announced(engine, world, group)
    run = await engine.start(PAYER, asks(call("pay", amount=7)), says("Paid."))

    status = await waiting_for_a_worker(engine, run)

    [waiting] = status.waiting_for
    assert (waiting.kind, waiting.tool, split_step_id(waiting.id)[0]) == ("tool_worker", "pay", run.id)
    assert waiting.text == f"No worker serves pay: start the one of queue horarium-tools-{group}."
    assert world.effects == []

    [message] = await messages(server, "/team")
    assert message["title"] == "No worker serves pay of payer"
    said = str(message["message"])
    assert f"Start the tool worker '{group}', and the run goes on by itself. It was heard of last at " in said
    assert f"Run: {run.id} of agent payer" in said
    [hook] = await messages(server, "/hook")
    assert hook["type"] == "tool.unserved"
    told = hook["data"]
    assert isinstance(told, dict)
    assert (told["id"], told["run"], told["tool"], told["group"]) == (waiting.id, run.id, "pay", group)

    # It is tried again with growing patience; nobody is told again.
    assert (await run.status()).status == "requires_action"
    async with tool_worker(engine, world, group):
        result = await engine.finish(run)

    assert (result.status, result.output) == ("completed", "Paid.")
    assert [amount for _, amount in world.effects] == ["7"]
    assert {step.status for step in await run.steps()} == {"completed"}
    assert (len(server.messages("/team")), len(server.messages("/hook"))) == (1, 1)


async def test_a_run_whose_tools_nobody_has_ever_served_says_what_it_waits_for_and_then_begins(
    engine: Engine, world: World, group: str
) -> None:
    run = await engine.start(READER, asks(call("look")), says("Seen."))

    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not (record := await run.record()).message:
            await asyncio.sleep(0.02)
    assert record.status == "queued"
    assert record.message.startswith("It waits for its tools. No worker serves the tool 'look'")

    async with tool_worker(engine, world, group):
        assert (await engine.finish(run)).output == "Seen."
    assert (await run.record()).message is None


async def test_a_run_goes_back_to_work_when_its_call_was_taken(engine: Engine, world: World, group: str) -> None:
    await announced(engine, world, group)
    held = asyncio.Event()

    async def slowly(_request: object) -> object:
        await held.wait()
        return says()

    run = await engine.start(READER, asks(call("look")), slowly)  # type: ignore[arg-type]
    await waiting_for_a_worker(engine, run)

    async with tool_worker(engine, world, group):
        status = await engine.until(run, "in_progress")
        assert status.waiting_for == ()
        held.set()
        assert (await engine.finish(run)).status == "completed"


async def test_a_run_that_waits_for_a_worker_can_be_cancelled_and_nothing_is_done_later(
    engine: Engine, world: World, group: str
) -> None:
    await announced(engine, world, group)
    run = await engine.start(PAYER, asks(call("pay", amount=7)), says())
    await waiting_for_a_worker(engine, run)

    await run.cancel()

    assert (await engine.finish(run)).status == "cancelled"
    async with tool_worker(engine, world, group):
        other = await engine.start(PAYER, asks(call("pay", amount=8)), says())
        assert (await engine.finish(other)).status == "completed"
    assert [amount for _, amount in world.effects] == ["8"]


async def test_a_second_group_is_refused_a_tool_while_the_first_one_lives(
    engine: Engine, world: World, group: str
) -> None:
    async with tool_worker(engine, world, group):
        await engine.finish(await engine.start(READER, asks(call("look")), says()))
        with pytest.raises(ToolTaken, match=f"served by tool worker '{group}' already") as refused:
            async with tool_worker(engine, world, f"{group}-2"):
                pass
        assert "a tool moves when nobody serves it any more" in (refused.value.hint or "")


async def test_a_call_that_waits_for_a_group_is_taken_by_the_one_that_its_tool_has_moved_to(
    engine: Engine, world: World, group: str
) -> None:
    await announced(engine, world, group)
    run = await engine.start(PAYER, asks(call("pay", amount=7)), says())
    await waiting_for_a_worker(engine, run)

    async with tool_worker(engine, world, f"{group}-2"):
        assert (await engine.finish(run)).status == "completed"
    assert len(world.effects) == 1


@pytest.mark.parametrize("name", ["", "with space", "a/b", "x" * 64])
async def test_a_group_must_have_a_name_that_can_be_a_queues(engine: Engine, world: World, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a tool worker's name"):
        await serve_tools([], name=name, settings=engine.settings)


async def test_a_call_that_waits_lets_the_others_of_its_turn_be_made(
    env: WorkflowEnvironment, tmp_path: Path, world: World, group: str
) -> None:
    """`look` is the engine's, `pay` another process's."""
    look, pay, *_ = world.tools()
    settings = Settings(
        root=tmp_path,
        temporal=TemporalSettings(address=env.client.service_client.config.target_host),
        tools=ToolsSettings(unserved_after=SOON),
    )
    agent = Agent(
        "both", model="scripted:x", tools=["look", "pay"], approvals=[ApprovalRule(tools=("pay",), required=0)]
    )
    async with running_engine(env, tmp_path, [look], settings=settings) as engine:  # type: ignore[list-item]
        stop = asyncio.Event()
        stop.set()
        await serve_tools([pay], name=group, settings=settings, stop=stop)  # type: ignore[list-item]

        run = await engine.start(agent, asks(call("look"), call("pay", "call_2", amount=7)), says())
        status = await waiting_for_a_worker(engine, run)
        assert [waiting.tool for waiting in status.waiting_for] == ["pay"]
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while world.looks == 0:
                await asyncio.sleep(0.02)

        stop = asyncio.Event()
        serving = asyncio.create_task(serve_tools([pay], name=group, settings=settings, stop=stop))  # type: ignore[list-item]
        assert (await engine.finish(run)).status == "completed"
        stop.set()
        await asyncio.wait_for(serving, 30)
    assert len(world.effects) == 1
