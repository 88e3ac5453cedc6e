"""Conversations in the console: what was said, the files, and forks."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import expect

from horarium.definitions import Agent
from tests.console.browser import Console
from tests.console.test_runs import looked_at
from tests.engine.conftest import World
from tests.gateway.rest import Rest
from tests.support.engine import asks, call, says


async def test_a_conversation_is_read_its_files_saved_and_it_goes_on_or_is_forked(
    console: Console, rest: Rest, world: World, tmp_path: Path
) -> None:
    engine, page = rest.engine, console.page
    agent = Agent("clerk", model="scripted:x", tools=["look"])
    run = await engine.start(agent, asks(call("look", what="ledger")), says("It has **two** lines."), input="Look.")
    await engine.finish(run)
    thread = (await run.record()).thread_id
    await engine.client.upload_file(thread, "reports/may #1.csv", b"a,b\n", by="ana")

    await console.see(f"/runs/{run.id}")
    await page.locator("#facts").get_by_role("link", name=thread[-6:]).click()
    await expect(page.locator(".said-by.assistant strong")).to_have_text("two")
    await expect(page.locator(".said-by.tool")).to_contain_text("1 tool answer")
    async with page.expect_download() as downloading:
        await page.get_by_role("link", name="reports/may #1.csv").click()
    assert Path(await (await downloading.value).path()).read_bytes() == b"a,b\n"
    await looked_at(console, "thread", tmp_path)

    await page.get_by_role("button", name="Fork after message 2").click()
    await expect(page.get_by_role("status").first).to_contain_text("up to 2")
    assert thread not in page.url
    await expect(page.locator(".said-by")).to_have_count(3)

    engine.model.lines[:] = [says("Three, by now.")]
    await page.locator("#on-input").fill("And now?")
    await page.get_by_role("button", name="Start a run").click()
    await expect(page.locator("#head")).to_contain_text("Three, by now.")
    await console.see(f"/threads/{thread}")
    assert "Three, by now." not in await console.main()
    await console.see("/threads/thr_0", status=404)
