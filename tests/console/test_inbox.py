"""The inbox: what waits is shown exactly, and what a person says in front of a browser is what happens."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path

from playwright.async_api import Browser, Page, expect

from horarium.client import Run
from horarium.definitions import ApprovalRule, RememberRule
from tests.console.browser import PATIENCE, Console, console_of
from tests.engine.conftest import World
from tests.gateway.rest import Rest
from tests.gateway.test_v1_approvals import CLERK, asking
from tests.support.engine import Engine, asks, call, says

expect.set_options(timeout=PATIENCE)
HOSTILE = '<img src="x" onerror="alert(1)"><script>alert(2)</script> "\'>'
TURNED = "invoice \u202egpj.exe\u200b"


async def waiting(engine: Engine, run: Run, tool: str = "pay") -> str:
    """The id of what a run asks."""
    [question] = await engine.client.approvals(run=run.id, tool=tool)
    return question.id


def told(engine: Engine) -> str:
    """What the model read of its tools."""
    return " ".join(text for role, text in engine.model.heard() if role == "tool")


async def says_on_top(page: Page, text: str) -> None:
    await expect(page.locator(".said").first).to_contain_text(text)


async def test_changed_arguments_are_what_is_done_and_a_mistake_keeps_what_was_typed(
    console: Console, engine: Engine, world: World
) -> None:
    run = await asking(engine)
    page = await console.see(f"/approvals/{await waiting(engine, run)}")  # where a message leads
    assert "/inbox/apr_" in page.url

    await page.get_by_text("Change the arguments").click()
    for typed, why in (('{"amount": 3', "no JSON"), ('{"amount": "much"}', "do not fit 'pay'")):
        await page.get_by_label("Arguments, as JSON").fill(typed)
        await page.get_by_role("button", name="Approve with these").click()
        await says_on_top(page, why)
        assert await page.get_by_label("Arguments, as JSON").input_value() == typed
    assert world.effects == []
    await page.get_by_label("Arguments, as JSON").fill('{"amount": 3}')
    await page.get_by_role("button", name="Approve with these").click()
    await says_on_top(page, "pay is approved")
    await engine.finish(run)

    assert [amount for _, amount in world.effects] == ["3"]
    said = await console.main()
    assert "anonymous changed the arguments" in said
    assert '"amount": 3' in said


async def test_a_call_is_compared_with_the_last_and_a_rejection_tells_the_model_why(
    console: Console, engine: Engine, world: World, tmp_path: Path
) -> None:
    first = await asking(engine, 5)
    page = await console.see("/inbox")
    assert "nobody has decided on a call of pay by clerk before" in await console.main()
    assert await page.title() == "(1) Inbox · Horarium"
    await page.get_by_role("button", name="Approve", exact=True).click()
    await says_on_top(page, "pay is approved")
    await expect(page.locator("#questions")).to_contain_text("Nothing waits for anybody")
    await engine.finish(first)

    second = await asking(engine, 7, requested_by="bob", input="Pay what we owe.")
    page = await console.see("/inbox?kind=approval&agent=clerk&tool=pay&mine=1&q=7")
    row = page.locator("tbody tr", has_text="amount")
    await expect(row).to_contain_text("5")
    await expect(row).to_contain_text("7")
    assert "bob: Pay what we owe." in await console.main()
    await page.set_viewport_size({"width": 390, "height": 844})
    await console.fits()
    await console.accessible()
    await console.picture("inbox-phone", tmp_path)
    await page.get_by_label("Reason", exact=True).fill("Too early.")
    await page.get_by_role("button", name="Reject", exact=True).click()
    await says_on_top(page, "pay is rejected")
    await engine.finish(second)

    assert "Too early." in told(engine)
    assert [amount for _, amount in world.effects] == ["5"]
    await console.see("/inbox?status=rejected")
    assert "was rejected by anonymous" in await console.main()


async def test_many_are_chosen_and_approved_by_keys_alone_after_a_second_look(
    console: Console, engine: Engine, world: World
) -> None:
    run = await asking(engine, 1, 2, 3)
    page = await console.see("/inbox")
    rows = page.locator("[data-row]")
    chosen = [await rows.nth(place).locator("pre").inner_text() for place in (0, 2)]

    for key in ("j", "x", "j", "j", "x", "a"):
        await page.keyboard.press(key)
    await expect(page.locator("#approve-chosen")).to_have_text("Approve 2 chosen")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#approve-all")
    assert await page.locator("pre").all_inner_texts() == chosen
    assert world.effects == []
    await console.accessible()
    await page.locator("#approve-all").press("Enter")
    await expect(page.locator("tbody .badge.approved")).to_have_count(2)
    await console.accessible()
    await page.get_by_role("link", name="Back to the inbox").click()
    await page.locator("input[data-all]").first.check()
    await page.get_by_label("Reason for all").fill("Enough.")
    await page.locator("#reject-chosen").click()
    await expect(page.locator("tbody .badge.rejected")).to_have_count(1)
    await engine.finish(run)

    assert sorted(f'{{"amount": {amount}}}' for _, amount in world.effects) == sorted(
        " ".join(text.split()).replace("{ ", "{").replace(" }", "}") for text in chosen
    )
    assert "Enough." in told(engine)


async def test_whoever_started_a_run_sees_why_he_may_not_decide_and_who_comes_second_is_told_who_did(
    browser: Browser, strict: Rest, engine: Engine, world: World
) -> None:
    rule = ApprovalRule(tools=("pay",), four_eyes=True)
    run = await asking(engine, agent=CLERK.model_copy(update={"approvals": (rule,)}), requested_by="approver")
    question = await waiting(engine, run)
    async with console_of(browser, strict, who="approver") as starter:
        page = await starter.see(f"/inbox/{question}")
        assert "four eyes" in await starter.main()
        assert await page.get_by_role("button", name="Approve").count() == 0
        assert await (await starter.see("/inbox")).locator("input[name=chosen]").count() == 0
    async with console_of(browser, strict, who="viewer") as viewer:
        page = await viewer.see("/inbox")
        assert "you need the role approver" in await viewer.main()
        assert await page.get_by_role("button", name="Approve").count() == 0
    async with console_of(browser, strict, who="stranger") as stranger:
        assert "Nothing waits" in await (await stranger.see("/inbox")).locator("#questions").inner_text()
        await stranger.see(f"/inbox/{question}", status=404)

    other = await asking(engine, 9, requested_by="bob")
    question = await waiting(engine, other)
    async with (
        console_of(browser, strict, who="approver") as one,
        console_of(browser, strict, who="admin") as two,
    ):
        first, second = await one.see(f"/inbox/{question}"), await two.see(f"/inbox/{question}")
        await second.get_by_label("Reason", exact=True).fill("No.")  # what is half filled is not refreshed away
        await first.get_by_role("button", name="Approve", exact=True).click()
        await says_on_top(first, "pay is approved")
        await second.get_by_role("button", name="Reject", exact=True).click()
        await says_on_top(second, "by approver")
        assert "was approved by approver" in await two.main()
        await engine.finish(other)

        two_say = CLERK.model_copy(update={"approvals": (ApprovalRule(tools=("pay",), required=2),)})
        third = await asking(engine, 4, agent=two_say)
        question = await waiting(engine, third)
        for page, word in ((first, "Noted: 1 of 2 approvals"), (second, "pay is approved")):
            await page.goto(f"{one.url}/inbox/{question}")
            await page.get_by_role("button", name="Approve", exact=True).click()
            await says_on_top(page, word)
        await first.reload()
        assert "approver, admin" in await one.main()
        await engine.finish(third)
    assert [amount for _, amount in world.effects] == ["9", "4"]


async def test_a_row_and_many_at_once_are_handed_to_others(
    browser: Browser, strict: Rest, engine: Engine, world: World
) -> None:
    fay_pays = ApprovalRule(tools=("pay",), approvers=("approver", "fay"))
    agent = CLERK.model_copy(update={"approvals": (fay_pays,)})
    run = await asking(engine, 1, 2, 3, agent=agent)
    first = (await engine.client.approvals())[0]
    async with console_of(browser, strict, who="approver") as asked:
        page = await asked.see("/inbox")
        row = page.locator(f"#question-{first.id}")
        await row.get_by_text("Reassign: let others decide").click()
        await row.get_by_label("Who decides instead").fill("role:heads")
        await row.get_by_role("button", name="Reassign").click()
        await says_on_top(page, "no role 'heads'")
        assert await page.get_by_label("Who decides instead").input_value() == "role:heads"
        await page.get_by_label("Who decides instead").fill("admin, <b>bruno</b>")
        await page.get_by_label("What you tell them").fill("On leave.")
        await page.get_by_role("button", name="Reassign").click()
        await says_on_top(page, "admin, <b>bruno</b> may decide on pay now.")
        assert "Others decide on this; approver is not asked." in await asked.main()
        assert "reassigned by approver" in await asked.main()
        await asked.accessible()

        await asked.see("/inbox")
        await page.locator("input[data-all]").first.check()
        await page.locator("#reassign-many summary").click()
        await page.get_by_label("To", exact=True).fill("admin")
        await page.get_by_label("To", exact=True).press("Enter")  # which presses the first button: Approve
        await expect(page.locator("main")).to_contain_text("press Reassign")
        assert world.effects == []
        await asked.see("/inbox")
        await page.locator("input[data-all]").first.check()
        await page.locator("#reassign-many summary").click()
        await asked.accessible()
        await page.get_by_label("To", exact=True).fill("admin")
        await page.locator("#reassign-chosen").click()
        await expect(page.locator("tbody .badge.reassigned")).to_have_count(2)
        await expect(page.locator("tbody")).to_contain_text("admin may decide on pay now.")
        await asked.accessible()
        assert await (await asked.see("/inbox?mine=1")).locator("[data-row]").count() == 0
    people = {one.id: one.approvers for one in await engine.client.approvals()}
    assert people.pop(first.id) == ["admin", "<b>bruno</b>"]
    assert list(people.values()) == [["admin"], ["admin"]]
    async with console_of(browser, strict, who="admin") as admin:
        page = await admin.see(f"/inbox/{first.id}")
        assert "On leave." in await admin.main()
        await page.get_by_role("button", name="Approve", exact=True).click()
        await says_on_top(page, "pay is approved")
        assert "approver handed it over: admin, <b>bruno</b> may decide." in await admin.main()
    assert (await run.status()).status == "requires_action"


async def test_a_decision_of_somebody_else_shows_up_and_what_is_half_typed_stays(
    console: Console, engine: Engine, rest: Rest
) -> None:
    await asking(engine, 1, 2)
    questions = await engine.client.approvals()
    page = await console.see("/inbox")
    typed, other = (page.locator(f"#question-{one.id}") for one in questions)
    await typed.get_by_label("Reason", exact=True).fill("I am thinking")
    await other.get_by_text("Answer instead").click()

    await asking(engine, 3)
    await page.evaluate("refresh()")
    await expect(page.locator("[data-row]")).to_have_count(3)
    await expect(other.locator("details[id^=answer]")).to_have_attribute("open", "")
    await expect(typed.get_by_label("Reason", exact=True)).to_have_value("I am thinking")
    for one in questions:
        body = {"digest": one.digest, "verdict": "reject"}
        await rest.ok("POST", f"/v1/approvals/{one.id}/decide", json=body)
    await expect(other).to_have_count(0)
    await expect(typed).to_contain_text("It no longer waits.")
    await expect(typed.get_by_label("Reason", exact=True)).to_have_value("I am thinking")
    await expect(page.locator("#count")).to_contain_text("1 question waiting")


async def test_nothing_that_a_model_or_a_person_wrote_is_more_than_text(
    console: Console, engine: Engine, tmp_path: Path
) -> None:
    turn = dataclasses.replace(asks(call("ship", item=f"{HOSTILE} {TURNED}")), text=HOSTILE)
    run = await engine.start(CLERK, turn, says(), requested_by=f"eve {HOSTILE}", input=f"{HOSTILE} {TURNED}")
    await engine.until(run, "requires_action")
    question = await waiting(engine, run, "ship")

    for path in ("/inbox", f"/inbox/{question}"):
        page = await console.see(path)
        said = await console.main()
        assert "invoice <U+202E>gpj.exe<U+200B>" in said
        assert "<img src=" in said
        assert "\u202e" not in await page.content()
        assert await page.locator("main img, main script").count() == 0
        assert r"\u202egpj.exe\u200b" in await page.locator("textarea[name=arguments]").input_value()
        await console.accessible()
    await console.page.set_viewport_size({"width": 390, "height": 844})
    await console.fits()
    await console.picture("question-phone", tmp_path)
    await console.page.get_by_text("Change the arguments").click()
    await console.page.get_by_role("button", name="Approve with these").click()
    await says_on_top(console.page, "ship is approved")
    await engine.finish(run)
    [step] = [step for step in await run.steps() if step.kind == "tool_call"]
    assert "changed" not in (step.note or "")


async def test_the_same_call_is_released_for_longer_where_the_plan_lets(
    console: Console, engine: Engine, world: World
) -> None:
    rule = ApprovalRule(tools=("pay",), remember=RememberRule(scopes=("thread",), longest=timedelta(hours=2)))
    run = await asking(engine, agent=CLERK.model_copy(update={"approvals": (rule,)}))
    page = await console.see("/inbox")

    await page.locator("select[name=remember]").select_option(label="and the same call in this thread")
    await page.get_by_label("If longer, for").select_option(label="2h")
    await page.get_by_role("button", name="Approve", exact=True).click()
    await says_on_top(page, "pay is approved")
    await engine.finish(run)

    [grant] = await engine.client.grants()
    assert (grant.scope, grant.granted_by, grant.ends_at - grant.created_at) == (
        "thread",
        "anonymous",
        timedelta(hours=2),
    )


async def test_an_unknown_outcome_is_settled_by_whoever_found_out(
    console: Console, engine: Engine, world: World
) -> None:
    world.fail_next = [ConnectionError("reset by peer")]
    run = await asking(engine, 3)
    page = await console.see("/inbox")
    await page.get_by_role("button", name="Approve", exact=True).click()
    await says_on_top(page, "pay is approved")
    row = page.locator("[data-row]", has_text="unknown outcome")
    await expect(row).to_contain_text("Did pay of clerk happen?")

    await page.goto(f"{console.url}/inbox?kind=unknown_outcome")
    await console.accessible()
    await row.get_by_label("Reason", exact=True).fill("The bank says so.")
    await row.get_by_label("What came of it").fill("Paid as 4711.")
    await row.get_by_role("button", name="It happened").click()
    await says_on_top(page, "pay of clerk is settled")
    result = await engine.finish(run)

    assert result.status == "completed"
    assert "Paid as 4711." in told(engine)
    assert world.effects == []
