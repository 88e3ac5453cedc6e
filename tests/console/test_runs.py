"""Runs in the console: the list, a run's page with its timeline and steps, the orders; and all that as it happens."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect
from pydantic import ValidationError

from activities.models.base import ModelRequest, OnText, Turn
from horarium.contract import StepKind, StepStatus
from horarium.definitions import Agent, ApprovalRule, Limits
from horarium.gateway.console.run_page import temporal_link
from horarium.gateway.console.run_words import EffectState, effect_state
from horarium.gateway.console.timeline import place_in_story
from horarium.gateway.serving import serving
from horarium.gateway.story import Story
from horarium.ledger.looking import Looking
from horarium.ledger.overview import Overview
from horarium.settings import Settings, TemporalSettings
from horarium.tools import Effect
from schedules.previews import preview
from tests.console.browser import DESK, PHONE, Console, console_of
from tests.crash.rig import begin, crash_stack
from tests.engine.conftest import World
from tests.gateway.conftest import PATIENT, of_gateway
from tests.gateway.rest import Rest
from tests.support.cast import Cast, hands, until_asked
from tests.support.engine import PATIENCE, asks, call, says

CLERK = Agent(
    "clerk",
    model="scripted:x",
    tools=["look", "pay", "ship"],
    approvals=(ApprovalRule(tools=("pay",), approvers=("maria",)),),
)


async def looked_at(console: Console, name: str, folder: Path) -> None:
    """The page fits a phone and can be used by everybody; pictures of it at both sizes."""
    await console.accessible()
    await console.fits()
    await console.picture(f"{name}-desk", folder)
    await console.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    await console.fits()
    await console.picture(f"{name}-phone", folder)
    await console.page.emulate_media(color_scheme="dark")
    await console.accessible()
    await console.picture(f"{name}-phone-dark", folder)
    await console.page.emulate_media(color_scheme="light")
    await console.page.set_viewport_size(DESK)  # type: ignore[arg-type]


async def test_a_run_that_waits_says_for_whom_and_shows_its_retry_and_its_wait(
    console: Console, rest: Rest, world: World, tmp_path: Path
) -> None:
    engine = rest.engine
    world.fail_next = [ConnectionError("reset by peer")]
    run = await engine.start(
        CLERK,
        asks(call("look", "c1", what="invoice 7"), call("look", "c2", what="ledger")),
        asks(call("pay", "c3", amount=120)),
        says("**Paid** 120.\n\n| what | sum |\n|---|---|\n| invoice 7 | 120 |"),
        input="Pay invoice 7.\nIt is due today.",
        requested_by="ana",
        metadata={"invoice": "7"},
    )
    approval = await run.next_approval(PATIENCE)

    await console.see("/runs")
    row = console.page.get_by_role("row", name="Pay invoice 7.")
    await expect(row).to_contain_text("waiting")
    await looked_at(console, "runs", tmp_path)
    await row.get_by_role("link", name="Pay invoice 7.").click()
    head = console.page.locator("#head")
    await expect(head).to_contain_text("Waiting for maria to approve pay")
    timeline = console.page.get_by_role("region", name="Timeline")
    await expect(timeline.get_by_role("link", name="approval pay: waiting")).to_have_count(1)
    assert await timeline.locator("title", has_text="look: done, 2 attempts").count() == 1
    assert "↻2" in (await timeline.text_content() or "")
    await expect(console.page.locator(".step.approval .badge.effect")).to_have_text("planned")
    await looked_at(console, "run-waiting", tmp_path)

    # A page that shows all this is told nothing of it again.
    look = await Looking(engine.ledger).look(run.id, status=0, step=0)
    place = place_in_story(await Overview(engine.ledger).outline(run.id, most=100), look.statuses)
    story = Story.at(place or "")
    assert story is not None
    assert list(story.goes_on(look)) == []
    assert len(list(Story().goes_on(look))) > 5

    await run.approve(approval, by="maria")

    # Nobody has loaded the page again.
    await expect(head).to_contain_text("completed")
    await expect(head.locator(".answer strong")).to_have_text("Paid")
    assert await head.locator(".answer table").count() == 1
    await expect(console.page.locator(".step", has_text="pay").locator(".badge.effect")).to_have_text("confirmed")
    await expect(console.page.locator(".step .line", has_text="by maria")).to_have_count(1)
    await looked_at(console, "run-completed", tmp_path)
    async with console.page.expect_download() as downloading:
        await console.page.get_by_role("link", name="Signed evidence").click()
    assert run.id in (await downloading.value).suggested_filename
    await console.page.locator(".step.tool_call .name", has_text="pay").click()
    assert "horarium/" in await console.main()
    await looked_at(console, "step", tmp_path)


async def test_orders_are_given_by_forms_and_a_run_goes_on_from_any_step(
    console: Console, rest: Rest, world: World, tmp_path: Path
) -> None:
    engine, page = rest.engine, console.page
    page.on("dialog", lambda dialog: dialog.accept())
    first = await engine.start(CLERK, asks(call("look", "c1")), asks(call("pay", "c2", amount=1)), says("Never."))
    await first.next_approval(PATIENCE)

    await console.see("/runs")
    await page.get_by_text("Start a run").click()
    await page.locator("#start-agent").fill("clerk")
    await page.locator("#start-input").fill("Started here.")
    await page.get_by_role("button", name="Start", exact=True).click()
    await expect(page.get_by_role("status").first).to_contain_text("Started a run of clerk.")
    await engine.finish(engine.client.run(page.url.rpartition("/")[2]))

    await console.see(f"/runs/{first.id}")
    await page.get_by_text("Say something to it").click()
    await page.locator("#message").fill("Hurry.")
    await page.get_by_role("button", name="Send").click()
    await expect(page.get_by_role("status").first).to_contain_text("Sent")
    await page.get_by_role("button", name="Cancel the run").click()
    await expect(page.locator("#head")).to_contain_text("cancelled")
    await page.get_by_text("How did it do?").click()
    await page.get_by_label("Why").fill("It never paid.")
    await page.get_by_role("button", name="It did not").click()
    await expect(page.get_by_role("status").first).to_contain_text("negative")

    engine.model.lines[:] = [says("Never.")]
    await page.get_by_text("Go on where it ended").click()
    await page.locator("#resume-input").fill("Forget the payment.")
    await page.get_by_role("button", name="Start a run that goes on").click()
    await page.wait_for_url(lambda url: first.id not in url)
    await expect(page.locator("#head")).to_contain_text("Waiting for maria to approve pay")
    await expect(page.locator("#facts")).to_contain_text("Goes on from")
    await page.get_by_role("button", name="Cancel the run").click()
    await expect(page.locator("#head")).to_contain_text("cancelled")

    # From the look on: the new run has it, and does it not again.
    looks = world.looks
    engine.model.lines[:] = [says("From the look on.")]
    await console.see(f"/runs/{first.id}/steps/2")
    await page.get_by_role("button", name="Start a run from this step").click()
    await page.wait_for_url(lambda url: first.id not in url)
    await expect(page.locator("#head")).to_contain_text("From the look on.")
    assert [role for role, _ in engine.model.heard()] == ["user", "assistant", "tool"]
    assert world.looks == looks

    # Where the model has answered, there is nothing to do without a word more.
    forked = page.url.rpartition("/")[2]
    await console.see(f"/runs/{forked}/steps/1")
    await page.locator("#fork-input").evaluate("field => field.required = false")
    await page.get_by_role("button", name="Start a run from this step").click()
    await expect(page.get_by_role("alert")).to_contain_text("nothing is left to do")


async def test_many_are_found_by_filters_and_ended_at_once(strict: Rest, browser: Browser, world: World) -> None:
    engine = strict.engine
    stubborn = Agent("stubborn", model="scripted:x", tools=["pay"])
    for n in range(3):
        engine.model.lines[:] = [asks(call("pay", amount=1)), says()]
        run = await engine.start(stubborn, input=f"Order {n}.", requested_by="ana" if n else "ben")
        await run.next_approval(PATIENCE)
    foreign = await engine.client.start(stubborn, "Of others.", tenant="elsewhere")

    async with console_of(browser, strict, who="operator") as console:
        page = console.page
        await console.see("/runs?agent=stubborn&by=ana&status=open")
        assert await page.locator("[data-row]").count() == 2
        assert foreign.id not in await page.content()
        await page.get_by_label("Text or id").fill("order 2")
        await page.get_by_role("button", name="Filter").click()
        await expect(page.locator("[data-row]")).to_have_count(1)
        await console.see("/runs?text=100%25")
        assert "No run is like that." in await console.main()
        await console.see(f"/runs/{foreign.id}", status=404)

        page.on("dialog", lambda dialog: dialog.accept())
        await console.see("/runs")
        await page.get_by_label("All runs that have not ended").check()
        await page.get_by_role("button", name="Cancel the chosen").click()
        await expect(page.get_by_role("status").first).to_contain_text("Asked 3 runs to end.")
        await expect(page.locator("[data-row] .badge.cancelled")).to_have_count(3, timeout=15_000)

    async with console_of(browser, strict, who="viewer", phone=True) as console:
        await console.see("/runs")
        assert await console.page.get_by_role("button", name="Cancel the chosen").count() == 0
        assert await console.page.get_by_text("Start a run").count() == 0
        await console.fits()
    assert world.effects == []


async def test_three_hundred_steps_are_read_in_pages_and_drawn_together(
    console: Console, rest: Rest, world: World, tmp_path: Path
) -> None:
    agent = Agent("long", model="scripted:x", tools=["look"], limits=Limits(max_turns=400))
    lines = [asks(call("look", f"c{n}", what=str(n))) for n in range(150)]
    run = await rest.engine.start(agent, *lines, says("All read."))
    assert (await rest.engine.finish(run)).status == "completed"

    await console.see(f"/runs/{run.id}")
    assert await console.page.locator("li.step").count() == 50
    assert await console.page.locator("svg a").count() < 250
    await console.page.get_by_role("link", name="Last").click()
    await expect(console.page.locator("li.step").last).to_have_attribute("id", "step-301")
    link = await console.page.locator("svg a").first.get_attribute("href")
    assert link == f"/runs/{run.id}?after=0#step-1"
    await looked_at(console, "run-long", tmp_path)


async def test_what_the_model_writes_is_seen_at_once_and_what_nobody_knows_is_marked(
    console: Console, rest: Rest, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, said = rest.engine.model, asyncio.Event()
    turns = model.generate

    async def writing(request: ModelRequest, on_text: OnText | None = None) -> Turn:
        assert on_text is not None
        text = "I am going to pay <b>one</b>"
        async with asyncio.timeout(30):
            while not said.is_set():
                text += "."
                await on_text(text)
                await asyncio.sleep(0.1)
        return await turns(request, on_text)

    monkeypatch.setattr(model, "generate", writing)
    world.fail_next = [ConnectionError("reset by peer")]
    free = CLERK.model_copy(update={"approvals": (ApprovalRule(tools=("pay",), required=0),)})
    run = await rest.engine.start(free, asks(call("pay", amount=1)), says("Never."))
    page = await console.see(f"/runs/{run.id}")
    await expect(page.locator(".partial")).to_contain_text("I am going to pay <b>one</b>.")

    said.set()

    pay = page.locator(".step.tool_call")
    await expect(pay.locator(".badge.effect")).to_have_text("unknown")
    await expect(page.locator("#head")).to_contain_text("a person to find out whether this was done: pay")
    assert "?" in (await page.get_by_role("region", name="Timeline").text_content() or "")
    await expect(pay.get_by_role("link", name="Settle it")).to_be_visible()
    await looked_at(console, "run-unknown", tmp_path)
    await pay.get_by_role("link", name="Settle it").click()
    assert "/inbox/" in page.url


async def test_a_run_shows_those_below_it_and_what_they_wait_for(console: Console, rest: Rest, world: World) -> None:
    cast = Cast(rest.engine)
    await cast.agent("writer", asks(call("pay", "p1", amount=7)), says("Paid 7."), tools=["pay"])
    await cast.agent("researcher", asks(hands("writer", "Pay 7.")), says("It is paid."), agents=["writer"])
    chief = await cast.agent("chief", asks(hands("researcher", "Find out.")), says("All."), agents=["researcher"])
    run = await rest.engine.client.start(chief, "Go.", requested_by="ann")
    (asked,) = await until_asked(rest.engine)
    await rest.engine.until(run, "requires_action")

    page = await console.see(f"/runs/{run.id}")
    await expect(page.locator("#head")).to_contain_text("Waiting for an approver to approve pay")
    await expect(page.locator("#head")).to_contain_text("asked by the sub-agent's run")
    assert [await row.inner_text() for row in await page.locator("#below a").all()] == ["researcher", "writer"]
    await page.locator("#below").get_by_role("link", name="writer").click()
    await expect(page.locator(".tree")).to_contain_text("chief › researcher")
    await page.get_by_role("link", name="Decide").click()
    assert asked.id in page.url


@pytest.mark.slow
async def test_a_page_goes_on_by_itself_while_a_worker_is_killed_and_another_takes_over(
    browser: Browser, tmp_path: Path
) -> None:
    async with (
        crash_stack(tmp_path) as (stack, book),
        serving(
            stack.client, of_gateway(stack.settings, PATIENT), host="127.0.0.1", port=0, preview=preview
        ) as gateway,
        console_of(browser, Rest(None, gateway, {}, None)) as console,  # type: ignore[arg-type]
    ):
        run = await begin(stack.client, "put", "inside")
        await book.stands(run, "put", "inside")
        page = await console.see(f"/runs/{run.id}")
        await page.evaluate("window.never = 'loaded again'")
        put = page.locator(".step.tool_call").last
        await expect(put.locator(".badge.effect")).to_have_text("sent")

        stack.kill_worker()
        book.go()
        stack.start_worker()

        await expect(page.locator("#head")).to_contain_text("All done.", timeout=40_000)
        await expect(put).to_contain_text("↻ 2 attempts")
        await expect(put.locator(".badge.effect")).to_have_text("confirmed")
        assert await page.evaluate("window.never") == "loaded again"
        assert len(book.effects(run, "put")) == 1


@pytest.mark.parametrize(
    ("kind", "status", "effect", "state"),
    [
        ("tool_call", "completed", "read", "read"),
        ("tool_call", "claimed", "read", "read"),
        ("tool_call", "pending", "external", "planned"),
        ("approval", "pending", "read", "planned"),
        ("approval", "completed", "read", None),
        ("tool_call", "claimed", "external", "sent"),
        ("tool_call", "claimed", "idempotent", "sent"),
        ("tool_call", "completed", "external", "confirmed"),
        ("handoff", "completed", "idempotent", "confirmed"),
        ("tool_call", "failed", "external", "failed"),
        ("tool_call", "unknown", "external", "unknown"),
        ("tool_call", "rejected", "external", "not done"),
        ("tool_call", "skipped", "external", "not done"),
        ("tool_call", "cancelled", "external", "not done"),
        ("model_call", "claimed", "idempotent", None),
        ("memory_write", "completed", "idempotent", None),
    ],
)
def test_how_far_an_effect_is(kind: StepKind, status: StepStatus, effect: str, state: EffectState | None) -> None:
    assert Effect(effect)

    assert effect_state(kind, status, effect) == state


@pytest.mark.parametrize(
    ("temporal", "link"),
    [
        ({"address": "temporal:7233"}, None),
        (
            {"address": "temporal:7233", "namespace": "ours", "ui": "https://temporal.example/ui/"},
            "https://temporal.example/ui/namespaces/ours/workflows/run_1",
        ),
    ],
)
async def test_temporals_own_page_is_linked_where_it_is_known(
    temporal: dict[str, str], link: str | None, tmp_path: Path
) -> None:
    settings = Settings(root=tmp_path, temporal=TemporalSettings.model_validate(temporal))

    assert await temporal_link(settings, "run_1") == link


def test_an_address_that_a_browser_would_run_is_no_address_of_temporals_page() -> None:
    with pytest.raises(ValidationError):
        TemporalSettings(ui="javascript:alert(1)")
