"""Agents and toolboxes in the console: what each is in words, what changed, how its tools fare, what counts."""

from __future__ import annotations

from datetime import timedelta

from playwright.async_api import Browser, expect

from horarium.definitions import Agent, ApprovalRule, Limits, Memory
from horarium.gateway.console.definition_words import (
    as_written,
    difference,
    gate_in_words,
    memory_in_words,
    plan_in_words,
)
from horarium.ledger.agents import Agents
from horarium.ledger.toolboxes import Toolboxes
from horarium.mcpservers import McpServer
from horarium.tools import Effect
from tests.console.browser import Console, console_of
from tests.console.routine_world import routine
from tests.console.seeded import HOSTILE, PAYER
from tests.engine.conftest import World
from tests.gateway.conftest import SHOP
from tests.gateway.rest import STRANGER, Rest
from tests.support.engine import asks, call, says

PLANNED = Agent("payer", model="scripted:x", **PAYER)  # type: ignore[arg-type]


def test_an_approval_plan_is_said_in_words() -> None:
    plan = plan_in_words(PLANNED.approvals)

    assert plan == [
        "pay when amount is more than 1000: waits for 2 of maria, dora, not whoever started the run. "
        "After 4h these are asked: ben; after as long again it is rejected.",
        "ref*: runs without asking anybody.",
    ]
    assert gate_in_words(PLANNED, "pay", Effect.EXTERNAL) == "depends on its arguments: see the approval plan"
    assert gate_in_words(PLANNED, "refuse", Effect.EXTERNAL) == "runs without asking anybody"
    assert gate_in_words(PLANNED, "look", Effect.READ) == "runs without asking"
    assert gate_in_words(PLANNED, "ship", Effect.EXTERNAL) == "waits for one person"


def test_an_earlier_rule_hides_a_later_one_in_words_as_it_does_in_runs() -> None:
    rules = (ApprovalRule(tools=("pay",), approvers=("role:finance",)), ApprovalRule(tools=("*",), required=0))
    agent = PLANNED.model_copy(update={"approvals": rules})

    assert gate_in_words(agent, "pay", Effect.EXTERNAL) == "waits for the role finance"
    assert gate_in_words(agent, "ship", Effect.EXTERNAL) == "runs without asking anybody"


def test_a_difference_marks_what_came_and_what_went_and_hides_what_a_server_is_reached_with() -> None:
    server = McpServer(url="https://tickets.example.com/mcp?key=canary", timeout=timedelta(seconds=5))
    after = PLANNED.model_copy(update={"mcp": {"tickets": server}, "limits": Limits(max_turns=3)})

    lines = difference(as_written(PLANNED), as_written(after))

    assert {line.mark for line in lines} == {"@", " ", "+"}
    assert [line.text for line in lines if "max_turns" in line.text] == ["  max_turns: 3"]
    assert "canary" not in as_written(after)
    assert difference(as_written(after), as_written(after)) == []


def test_memory_without_a_judge_says_that_somebody_has_to_look() -> None:
    said = memory_in_words(Memory(scope="desk", kinds=("procedural",), expires_after=timedelta(days=30)), "local")

    assert "Procedures wait for a review, or for positive feedback on their run." in said
    assert "What is not learned again goes after 30d." in said


async def test_an_agents_page_says_what_it_may_do_what_changed_and_how_its_tools_failed(
    console: Console, rest: Rest, world: World
) -> None:
    engine = rest.engine
    await Agents(engine.ledger).register(Agent("payer", model="scripted:x", tools=["look"]))
    agent = PLANNED.model_copy(update={"description": HOSTILE})
    run = await engine.start(agent, asks(call("refuse", "r1")), says("It is closed."), requested_by="ana")
    await engine.finish(run)
    await routine(rest, "monthly", agent="payer")
    await routine(rest, "other")

    page = await console.see("/agents")
    row = page.get_by_role("row", name="payer")
    await expect(row).to_contain_text("3 tools")
    await expect(row).to_contain_text("1 run")
    await row.get_by_role("link", name="payer").click()

    said = await console.main()
    assert "<img src=x onerror=alert(1)> <U+202E>gnp.exe" in said
    assert "waits for 2 of maria, dora" in said
    refuse = page.get_by_role("row", name="refuse")
    await expect(refuse).to_contain_text("runs without asking anybody")
    await expect(refuse).to_contain_text("The archive is closed on Sundays.")
    await expect(page.get_by_role("row", name="pay the engine worker")).to_contain_text("3 attempts, 5m each")
    assert await page.get_by_role("link", name="monthly").count() == 1
    assert await page.get_by_role("link", name="other").count() == 0
    await page.get_by_role("link", name="what changed").first.click()
    diff = page.locator("pre.diff")
    await expect(diff.locator(".added", has_text="- pay").first).to_contain_text("added:")
    await page.goto(f"{console.url}/agents/payer")
    await page.locator("#start-input").fill("Go on.")
    await page.get_by_role("button", name="Start", exact=True).click()
    await expect(page.get_by_role("status").first).to_contain_text("Started a run of payer.")
    await engine.finish(engine.client.run(page.url.rpartition("/")[2]))


async def test_a_toolbox_is_promoted_and_rolled_back_by_an_operator_of_the_project_alone(
    browser: Browser, strict: Rest
) -> None:
    boxes = Toolboxes(strict.engine.ledger)
    await boxes.register(SHOP)
    await boxes.register(SHOP.model_copy(update={"tools": ("look", "pay")}))
    assert (await boxes.default("shop")).version == 1

    async with console_of(browser, strict, who="operator") as console:
        page = await console.see("/agents/toolboxes/shop")
        await expect(page.locator("main")).to_contain_text(f"{console.url}/toolboxes/shop/mcp")
        page.on("dialog", lambda dialog: dialog.accept())
        await page.get_by_role("button", name="Let version 2 count").click()
        await expect(page.get_by_role("status").first).to_contain_text("Version 2 of shop counts")
        promoted = await boxes.default("shop")
        await page.get_by_role("button", name="Roll back to version 1").click()
        await expect(page.get_by_role("status").first).to_contain_text("Version 1 of shop counts again")
        await console.see("/agents/toolboxes/shop/diff?before=1&after=2")
        await expect(page.locator("pre.diff .removed", has_text="- ship")).to_have_count(1)
    async with console_of(browser, strict, who="viewer") as console:
        page = await console.see("/agents/toolboxes/shop")
        assert await page.locator("main form[method=post]").count() == 0
    stranger = await strict("GET", "/agents/toolboxes/shop", STRANGER)

    assert (promoted.version, promoted.changed_by) == (2, "operator")
    assert (await boxes.default("shop")).version == 1
    assert 'action="/agents/toolboxes/shop/promote' not in stranger.text
