"""The page behind a link from a message: looking changes nothing, and one person decides with it, once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from playwright.async_api import Browser, expect

from horarium.client import Run
from horarium.definitions import ApprovalRule
from horarium.links import Links
from tests.console.browser import PATIENCE, console_of
from tests.engine.conftest import World
from tests.gateway.rest import Rest
from tests.gateway.test_v1_approvals import CLERK, asking
from tests.support.engine import Engine

expect.set_options(timeout=PATIENCE)
ASKS_DORA = CLERK.model_copy(update={"approvals": (ApprovalRule(tools=("pay",), approvers=("dora", "admin")),)})


async def link(engine: Engine, run: Run, *, ago: timedelta = timedelta()) -> str:
    """Where Dora's message leads."""
    [question] = await engine.client.approvals(run=run.id)
    token = Links.of(engine.settings, engine.ledger).make(question, "dora", datetime.now(UTC) - ago)
    return f"/approve/{token}"


async def scan(http: httpx2.AsyncClient, path: str) -> None:
    """As a mail scanner does, three times."""
    for _ in range(3):
        assert (await http.get(path)).status_code == 200
        assert (await http.head(path)).status_code == 200


async def test_a_scanner_that_follows_the_link_decides_nothing_and_the_person_decides_once(
    browser: Browser, strict: Rest, engine: Engine, world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    run = await asking(engine, 5, agent=ASKS_DORA, requested_by="bob", input="Pay \u202eeve.")
    path = await link(engine, run)
    await scan(strict.http, path)
    assert (await run.status()).status == "requires_action"

    async with console_of(browser, strict, phone=True) as dora:
        page = await dora.see(path)
        said = await dora.main()
        assert '"amount": 5' in said
        assert "bob: Pay <U+202E>eve." in said
        assert "You decide as dora" in said
        assert await page.get_by_role("navigation").count() == 0
        assert await page.locator("main a").count() == 0
        await dora.fits()
        await dora.accessible()
        fields = await page.locator("form.decide input[name=token]").input_value()
        await page.get_by_role("button", name="Approve").click()
        await expect(page.locator(".said")).to_contain_text("Thank you. pay is approved.")
        assert "dora used this link" in await dora.main()
        assert await page.get_by_role("button", name="Approve").count() == 0
        again = await dora.context.request.post(
            dora.url + path, form={"token": fields, "verdict": "reject"}, headers={"Origin": dora.url}
        )
        assert again.status == 409
        assert "dora used this link" in await again.text()
    await engine.finish(run)

    found = await engine.client.approvals(run=run.id, status="approved")
    assert [one.decided_by for one in found] == ["dora"]
    assert [amount for _, amount in world.effects] == ["5"]
    assert path.removeprefix("/approve/") not in "".join(capfd.readouterr())


async def test_a_link_rejects_or_answers_and_the_model_is_told(
    browser: Browser, strict: Rest, engine: Engine, world: World
) -> None:
    async with console_of(browser, strict) as dora:
        run = await asking(engine, agent=ASKS_DORA)
        page = await dora.see(await link(engine, run))
        await page.get_by_label("Reason").fill("Too early.")
        await page.get_by_role("button", name="Reject").click()
        await expect(page.locator(".said")).to_contain_text("pay is rejected")
        await engine.finish(run)
        assert "Too early." in str(engine.model.heard())

        run = await asking(engine, agent=ASKS_DORA)
        page = await dora.see(await link(engine, run))
        await page.get_by_text("Answer instead").click()
        await page.get_by_role("button", name="Answer").click()
        await expect(page.locator(".said")).to_contain_text("The answer is empty")
        await page.get_by_label("What the model is told").fill("Paid by hand.")
        await page.get_by_role("button", name="Answer").click()
        await expect(page.locator(".said")).to_contain_text("pay is answered")
        await engine.finish(run)
        assert "Paid by hand." in str(engine.model.heard())
    assert world.effects == []


async def test_a_link_that_does_not_decide_says_why(browser: Browser, strict: Rest, engine: Engine) -> None:
    run = await asking(engine, agent=ASKS_DORA)
    path, late = await link(engine, run), await link(engine, run, ago=timedelta(days=2))
    forged = await strict("POST", path, None, data={"token": "0" * 64, "verdict": "approve"})
    assert forged.status_code == 403
    assert (await run.status()).status == "requires_action"

    async with console_of(browser, strict) as dora:
        await dora.see(path[:-3], status=404)
        assert "part of it may be missing" in await dora.main()
        page = await dora.see(late, status=410)
        assert "This link was good until" in await dora.main()
        assert await page.get_by_role("button", name="Approve").count() == 0
        await dora.see(path)
        [question] = await engine.client.approvals(run=run.id)
        body = {"digest": question.digest, "verdict": "reject"}
        await strict.ok("POST", f"/v1/approvals/{question.id}/decide", json=body)
        await page.get_by_role("button", name="Approve").click()
        await expect(page.locator(".said")).to_contain_text("rejected by admin")
        await dora.accessible()
    answer = await strict.http.get(path)
    assert answer.headers["referrer-policy"] == "strict-origin"
    assert answer.headers["cache-control"] == "no-store"
