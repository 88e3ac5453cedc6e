"""A toolbox as an MCP endpoint, with the official client: the same journal, the same approvals."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError

from horarium.client import Run
from horarium.definitions import ApprovalRule
from horarium.gateway.results import KEY, RUN
from horarium.gateway.serving import serving
from horarium.ids import new_run_id
from horarium.ledger.toolboxes import Toolboxes
from horarium.settings import GatewaySettings
from horarium.toolboxes import Toolbox
from tests.engine.conftest import World
from tests.gateway.conftest import PATIENT, SHOP, Serve, Shop, keyed, of_gateway
from tests.support.engine import PATIENCE, Engine

HASTY = GatewaySettings(call_patience=timedelta(seconds=1))


def text(result: types.CallToolResult) -> str:
    block = result.content[0]
    assert isinstance(block, types.TextContent)
    return block.text


async def the_run(engine: Engine, status: str = "requires_action") -> Run:
    """The run of the call in flight, once it is so far."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            for record in await engine.client.runs(agent="toolbox-shop"):
                if record.steps == 0 and (await (run := engine.client.run(record.id)).status()).status == status:
                    return run
            await asyncio.sleep(0.05)


# ---- what there is


async def test_a_client_sees_the_tools_with_truthful_hints(shop: Shop) -> None:
    async with shop.client() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}

    assert set(tools) == {"look", "pay", "ship", "refuse", "wait"}
    assert tools["look"].description == "Look at something."
    assert tools["pay"].input_schema["properties"]["amount"]["type"] == "integer"
    hints = {name: tool.annotations and tool.annotations.read_only_hint for name, tool in tools.items()}
    assert hints == {"look": True, "refuse": True, "wait": True, "pay": False, "ship": False}


async def test_a_session_keeps_its_version_and_the_next_one_has_the_promoted(shop: Shop) -> None:
    toolboxes = Toolboxes(shop.engine.ledger)
    await toolboxes.register(SHOP.model_copy(update={"tools": ("look",), "approvals": ()}))

    async with shop.client(mode="legacy") as before:
        assert len((await before.list_tools()).tools) == 5
        await toolboxes.promote("shop", 2, by="ana")
        async with shop.client(mode="legacy") as after:
            assert len((await after.list_tools()).tools) == 1
        assert len((await before.list_tools(cache_mode="bypass")).tools) == 5
    async with shop.client(url=shop.url.replace("/mcp", "/versions/1/mcp")) as old:
        assert len((await old.list_tools()).tools) == 5


# ---- calling


async def test_a_read_is_answered_with_what_the_tool_returned(shop: Shop, world: World) -> None:
    world.result = {"colour": "blue"}
    async with shop.client() as client:
        result = await client.call_tool("look", {"what": "sky"})

    assert (result.is_error, result.structured_content) == (False, {"colour": "blue"})
    assert text(result) == '{"colour": "blue"}'


@pytest.mark.parametrize(
    ("returned", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00", types.ImageContent),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", types.AudioContent),
        (b"\xff\xfe\x00\x01", types.EmbeddedResource),
        (b"\x00" * 2_000_000, types.TextContent),
        ("x" * 100_000, types.TextContent),
    ],
)
async def test_binary_output_comes_whole_when_it_is_small(
    shop: Shop, world: World, returned: bytes | str, kind: type
) -> None:
    world.result = returned
    async with shop.client() as client:
        result = await client.call_tool("look", {})

    assert isinstance(result.content[0], kind)
    if isinstance(returned, str):
        assert text(result) == returned
    if isinstance(returned, bytes) and len(returned) > 1_000_000:
        assert "2,000,000 bytes of binary data" in text(result)


async def test_an_unknown_tool_is_a_protocol_error(shop: Shop) -> None:
    async with shop.client() as client:
        with pytest.raises(MCPError, match="Unknown tool"):
            await client.call_tool("launch", {})


async def test_wrong_arguments_are_told_and_nothing_is_done(shop: Shop, world: World) -> None:
    async with shop.client() as client:
        result = await client.call_tool("pay", {"amount": "much"})

    assert result.is_error
    assert "arguments do not fit 'pay'" in text(result)
    assert world.effects == []


async def test_a_tools_own_words_are_told_and_an_exceptions_are_not(shop: Shop, world: World) -> None:
    async with shop.client() as client:
        refused = await client.call_tool("refuse", {"what": "x"})
        world.fail_next = [RuntimeError("/etc/vault.key is open")] * 3
        broke = await client.call_tool("look", {})

    assert (refused.is_error, broke.is_error) == (True, True)
    assert "closed on Sundays" in text(refused)
    assert "vault" not in text(broke)
    assert (broke.meta or {})[RUN] in text(broke)


# ---- approvals


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_gated_call_waits_for_its_approval_and_says_so(shop: Shop, world: World, mode: str) -> None:
    heard: list[tuple[float, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, message))

    async with shop.client(mode=mode) as client:
        calling = asyncio.create_task(client.call_tool("pay", {"amount": 7}, progress_callback=on_progress))
        run = await the_run(shop.engine)
        approval = await run.next_approval(PATIENCE)
        async with asyncio.timeout(10):
            while not any("waits for an approver" in (message or "") for _, message in heard):
                await asyncio.sleep(0.05)
        assert world.effects == []
        await run.approve(approval, by="finance")
        result = await calling

    assert (result.is_error, text(result)) == (False, "paid 7")
    assert [amount for _, amount in world.effects] == ["7"]
    assert any(approval.id in (message or "") for _, message in heard)
    assert [progress for progress, _ in heard] == sorted({progress for progress, _ in heard})
    assert (await run.record()).requested_by == "anonymous"


async def test_a_rejected_call_is_an_error_with_the_persons_reason(shop: Shop, world: World) -> None:
    async with shop.client() as client:
        calling = asyncio.create_task(client.call_tool("pay", {"amount": 7}))
        run = await the_run(shop.engine)
        await run.reject(await run.next_approval(PATIENCE), by="finance", comment="Too much.")
        result = await calling

    assert result.is_error
    assert "Too much." in text(result)
    assert world.effects == []


async def test_what_takes_too_long_is_answered_and_the_same_key_gets_the_result_later(
    engine: Engine, world: World, serve: Serve
) -> None:
    await Toolboxes(engine.ledger).register(SHOP)
    shop = Shop(await serve(HASTY), engine)
    async with shop.client() as client:
        early = await client.call_tool("pay", {"amount": 7})
        run = engine.client.run((early.meta or {})[RUN])
        approval = await run.next_approval(PATIENCE)
        assert early.is_error
        assert approval.id in text(early)
        assert (early.structured_content or {})["approval"] == approval.id
        await run.approve(approval, by="finance")
        await engine.finish(run)
        late = await client.call_tool("pay", {"amount": 7}, meta=keyed((early.meta or {})[KEY]))

    assert (late.is_error, text(late)) == (False, "paid 7")
    assert len(world.effects) == 1


async def test_a_key_is_one_effect_however_often_and_at_once_it_is_used(shop: Shop, world: World) -> None:
    order = new_run_id()  # ids of runs are made from keys, and the server has those of other tests
    async with shop.client() as one, shop.client() as two:
        calls = [client.call_tool("ship", {"item": "vase"}, meta=keyed(order)) for client in (one, two, one)]
        results = await asyncio.gather(*calls)
        again = await two.call_tool("ship", {"item": "vase"}, meta=keyed(order))
        other = await two.call_tool("ship", {"item": "lamp"}, meta=keyed(order))

    assert [text(result) for result in (*results, again)] == ["shipped vase"] * 4
    assert len(world.effects) == 1
    assert other.is_error
    assert "used before" in text(other)


async def test_a_key_still_leads_to_its_result_after_another_version_was_promoted(shop: Shop, world: World) -> None:
    order = new_run_id()  # ids of runs are made from keys, and the server has those of other tests
    async with shop.client() as client:
        assert text(await client.call_tool("ship", {"item": "vase"}, meta=keyed(order))) == "shipped vase"
    toolboxes = Toolboxes(shop.engine.ledger)
    await toolboxes.promote("shop", await toolboxes.register(SHOP.model_copy(update={"description": "New."})), "ana")

    async with shop.client() as client:
        again = await client.call_tool("ship", {"item": "vase"}, meta=keyed(order))

    assert text(again) == "shipped vase"
    assert len(world.effects) == 1


@pytest.mark.parametrize("key", ["", "x" * 201, 7, "a\x00b"])
async def test_a_key_that_cannot_be_one_is_refused(shop: Shop, world: World, key: object) -> None:
    async with shop.client() as client:
        with pytest.raises(MCPError, match="idempotency-key"):
            await client.call_tool("ship", {"item": "vase"}, meta=keyed(key))

    assert world.effects == []


# ---- ends


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_cancelled_request_cancels_its_run(shop: Shop, world: World, mode: str) -> None:
    async with shop.client(mode=mode) as client:
        calling = asyncio.create_task(client.call_tool("pay", {"amount": 7}))
        run = await the_run(shop.engine)
        calling.cancel()

        result = await run.result(PATIENCE)

    assert (result.status, world.effects) == ("cancelled", [])


async def test_one_of_two_who_wait_for_a_run_may_go_without_ending_it(shop: Shop, world: World) -> None:
    order = new_run_id()
    async with shop.client() as one, shop.client() as two:
        first = asyncio.create_task(one.call_tool("pay", {"amount": 7}, meta=keyed(order)))
        run = await the_run(shop.engine)
        waits = asyncio.Event()

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            waits.set()

        second = asyncio.create_task(
            two.call_tool("pay", {"amount": 7}, meta=keyed(order), progress_callback=on_progress)
        )
        await asyncio.wait_for(waits.wait(), 10)
        first.cancel()
        await run.approve(await run.next_approval(PATIENCE), by="finance")

        assert text(await second) == "paid 7"


async def test_a_gateway_that_stops_leaves_its_runs_alone(engine: Engine, world: World) -> None:
    await Toolboxes(engine.ledger).register(SHOP)
    async with serving(engine.client, of_gateway(engine.settings, PATIENT), host="127.0.0.1", port=0) as served:
        shop = Shop(served, engine)
        async with shop.client() as client:
            calling = asyncio.create_task(client.call_tool("pay", {"amount": 7}))
            run = await the_run(engine)
            approval = await run.next_approval(PATIENCE)  # it has begun, and not only been written down
    with pytest.raises((MCPError, asyncio.CancelledError)):
        await calling

    await run.approve(approval, by="finance")

    assert (await engine.finish(run)).output == "paid 7"


async def test_an_approval_rule_of_the_toolbox_counts_and_not_an_agents(engine: Engine, serve: Serve) -> None:
    plan = (ApprovalRule(tools=("look",), approvers=("ana",)),)
    await Toolboxes(engine.ledger).register(Toolbox(name="shop", tools=("look",), approvals=plan))
    shop = Shop(await serve(HASTY), engine)
    async with shop.client() as client:
        result = await client.call_tool("look", {})

    assert "waits for an approver (ana)" in text(result)
