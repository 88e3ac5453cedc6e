"""The gateway while what is behind it dies: a call is done once, and its caller is always answered."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import anyio
import mcp_types as types
import pytest
from mcp import Client as McpClient
from mcp import MCPError

from horarium.client import Run
from horarium.definitions import ApprovalRule
from horarium.gateway.results import KEY, RUN
from horarium.gateway.serving import serving
from horarium.ids import new_run_id
from horarium.ledger.toolboxes import Toolboxes
from horarium.settings import GatewaySettings
from horarium.toolboxes import Toolbox
from tests.crash.rig import crash_stack, wait_for
from tests.gateway.conftest import keyed, of_gateway
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes
from tests.support.stack import Stack, until

BANK = Toolbox(name="bank", tools=("look", "put", "post", "pay"), approvals=(ApprovalRule(tools=("p*",), required=0),))


@asynccontextmanager
async def bank(stack: Stack, patience: float, start: float = 10) -> AsyncIterator[McpClient]:
    """A client of the crash project's tools, served in front of its stack."""
    await Toolboxes(stack.client.require_ledger()).register(BANK)
    settings = GatewaySettings(call_patience=timedelta(seconds=patience), start_patience=timedelta(seconds=start))
    async with (
        serving(stack.client, of_gateway(stack.settings, settings), host="127.0.0.1", port=0) as served,
        McpClient(served.address("bank")) as client,
    ):
        yield client


def text(result: types.CallToolResult) -> str:
    block = result.content[0]
    assert isinstance(block, types.TextContent)
    return block.text


async def the_run(stack: Stack, order: str) -> Run:
    """The run of the call with this key."""
    found: list[str] = []

    async def is_there() -> bool:
        found[:] = [run.id for run in await stack.client.runs() if run.key and run.key.endswith(order)]
        return bool(found)

    await until(is_there, "the call has its run")
    return stack.client.run(found[0])


@in_both_modes
@pytest.mark.parametrize("ref", ["inside", "after"])
async def test_a_worker_killed_in_mid_call_makes_no_second_effect_and_the_caller_has_the_result(
    tmp_path: Path, ref: str
) -> None:
    order, got = new_run_id(), list[types.CallToolResult]()
    async with crash_stack(tmp_path) as (stack, book), bank(stack, patience=40) as client:

        async def call() -> None:
            got.append(await client.call_tool("pay", {"ref": ref}, meta=keyed(order)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            run = await the_run(stack, order)
            await book.stands(run, "pay", ref)
            stack.kill_worker()
            book.go()
            stack.start_worker()

        assert text(got[0]).startswith(f"pay {ref}: done")
        assert len(book.effects(run, "pay")) == 1


@in_both_modes
async def test_a_call_of_which_nobody_knows_is_not_made_again_and_waits_for_a_person(tmp_path: Path) -> None:
    order, got = new_run_id(), list[types.CallToolResult]()
    async with crash_stack(tmp_path) as (stack, book), bank(stack, patience=8) as client:

        async def call() -> None:
            got.append(await client.call_tool("post", {"ref": "after"}, meta=keyed(order)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            run = await the_run(stack, order)
            await book.stands(run, "post", "after")
            stack.kill_worker()
            book.go()
            stack.start_worker()
            step = await wait_for(run, "unknown_outcome")
        assert got[0].is_error
        assert "waits for a person" in text(got[0])

        await run.resolve(step, "supply", by="ana", output="It was posted.")
        again = await client.call_tool("post", {"ref": "after"}, meta=keyed(order))

        assert text(again) == "It was posted."
        assert len(book.effects(run, "post")) == 1


async def listed(client: McpClient) -> bool:
    """Whether the gateway knows what tools there are; for a few seconds it believes that nobody can tell."""
    try:
        await client.list_tools(cache_mode="bypass")
    except MCPError:
        return False
    return True


async def test_without_a_worker_every_caller_is_answered_in_time_and_the_call_is_done_later(tmp_path: Path) -> None:
    order = new_run_id()
    async with crash_stack(tmp_path, workers=()) as (stack, book), bank(stack, patience=30, start=1) as client:
        began = time.monotonic()
        nothing_known = await client.call_tool("look", {"ref": "through"})
        assert "No engine worker" in text(nothing_known)
        assert time.monotonic() - began < 20
        stack.start_worker()
        await stack.worker_ready()
        await until(lambda: listed(client), "what could not be looked up is looked up again")
        stack.kill_worker()

        queued = await client.call_tool("pay", {"ref": "through"}, meta=keyed(order))

        assert (queued.is_error, (queued.meta or {})[KEY]) == (True, order)
        assert "no engine worker has taken it up" in text(queued)
        stack.start_worker()
        run = stack.client.run((queued.meta or {})[RUN])
        await run.result(timedelta(seconds=40))
        assert text(await client.call_tool("pay", {"ref": "through"}, meta=keyed(order))) == "pay through: done"
        assert len(book.effects(run, "pay")) == 1


async def test_without_temporal_a_caller_is_told_so_in_time_and_may_try_again(tmp_path: Path) -> None:
    order = new_run_id()
    async with crash_stack(tmp_path) as (stack, book), bank(stack, patience=30) as client:
        await client.call_tool("look", {"ref": "through"})
        stack.kill_server()
        began = time.monotonic()
        away = await client.call_tool("pay", {"ref": "through"}, meta=keyed(order))
        assert away.is_error
        assert "Temporal" in text(away)
        assert time.monotonic() - began < 25

        await stack.start_server()
        result = await client.call_tool("pay", {"ref": "through"}, meta=keyed(order))

        assert text(result) == "pay through: done"
        assert len(book.effects(await the_run(stack, order), "pay")) == 1
