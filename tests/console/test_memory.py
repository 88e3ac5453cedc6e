"""Memory in the console: found, reviewed in bulk, corrected, taken back, and deleted by an admin."""

from __future__ import annotations

from playwright.async_api import Browser, expect

from horarium.ids import new_run_id
from horarium.ledger.memories import Memories
from tests.console.browser import Console, console_of
from tests.console.seeded import HOSTILE, left_elsewhere, taught
from tests.gateway.rest import STRANGER, Rest


async def test_what_waits_is_reviewed_in_bulk_as_it_was_seen(console: Console, rest: Rest) -> None:
    first = await taught(rest, "account", f"Pay to another account. {HOSTILE}", tainted=True)
    second = await taught(rest, "terms", "Pays in 30 days.", tainted=True)
    run = new_run_id()
    await left_elsewhere(rest, run, "quarantined")
    page = await console.see("/memory/review")

    await expect(page.get_by_role("row", name="account")).to_contain_text(
        "Pay to another account. <img src=x onerror=alert(1)> <U+202E>gnp.exe"
    )
    await page.get_by_role("button", name="Accept").click()
    await expect(page.get_by_role("alert")).to_contain_text("Nothing is chosen.")
    await taught(rest, "account", "Pay to a third account.", tainted=True)  # while somebody reads
    await page.get_by_label("Choose account").check()
    await page.get_by_label("Choose terms").check()
    await page.get_by_label("Note").fill("An advertisement.")
    await page.get_by_role("button", name="Reject").click()
    await expect(page.get_by_role("alert")).to_contain_text("1 memory rejected. Not done:")
    await page.get_by_label(f"Choose what {run} left").check()
    await page.get_by_role("button", name="Accept").click()
    await expect(page.get_by_role("status").first).to_contain_text("1 memory accepted.")

    memories = Memories(rest.engine.ledger)
    assert (await memories.get(first)).pending is not None
    rejected = (await memories.get(second)).versions[-1]
    assert (rejected.status, rejected.reason) == ("rejected", "rejected by anonymous: An advertisement.")
    [delivery] = await rest.engine.client.memory_deliveries()
    assert delivery.status not in ("quarantined", "rejected")


async def test_a_memory_is_found_corrected_undone_and_shows_who_taught_it(console: Console, rest: Rest) -> None:
    run = new_run_id()
    memory = await taught(rest, "acme", "Pays in 14 days.", run=run)
    await taught(rest, "beta", "Wants blue paper.")
    await Memories(rest.engine.ledger).used(new_run_id(), 1, [(memory, 1)])
    page = await console.see("/memory?text=14 DAYS&status=active&user=Ana")
    assert await page.locator("[data-row]").count() == 1

    await page.get_by_role("link", name="acme").click()
    said = await console.main()
    assert "0.90 of 1 by model:scripted:judge" in said
    assert "told to 1 run" in said
    assert await page.locator(f'a[href="/runs/{run}"]').count() > 0
    await page.get_by_text("Have it say something else").click()
    await page.get_by_label("What it says from now on").fill("Pays in 30 days.")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("status").first).to_contain_text("It says so from now on")
    await expect(page.locator(".card", has_text="What runs are told")).to_contain_text("Pays in 30 days.")
    await page.get_by_text("Take back what holds now").click()
    await page.get_by_role("button", name="Undo version 2").click()

    await expect(page.get_by_role("status").first).to_contain_text("Version 2 is undone; version 1 holds again.")
    await expect(page.locator(".card", has_text="What runs are told")).to_contain_text("Pays in 14 days.")
    await console.see("/memory?text=no such words")
    assert "No memory is like that." in await console.main()


async def test_an_approver_corrects_an_admin_deletes_and_another_tenant_finds_nothing(
    browser: Browser, strict: Rest
) -> None:
    memory = await taught(strict, "acme", "Pays in 14 days.")

    async with console_of(browser, strict, who="operator") as console:
        page = await console.see(f"/memory/{memory}")
        assert await page.locator("main form[method=post]").count() == 0
    async with console_of(browser, strict, who="approver", phone=True) as console:
        page = await console.see(f"/memory/{memory}")
        assert await page.get_by_text("Have it say something else").count() == 1
        assert await page.get_by_text("Delete it").count() == 0
        token = await page.locator("input[name=token]").first.input_value()
        refused = await page.request.post(
            f"{console.url}/memory/{memory}/delete", form={"token": token}, headers={"Origin": console.url}
        )
        assert refused.status == 403
    foreign = await strict("GET", f"/memory/{memory}", STRANGER)
    listed = await strict("GET", "/memory", STRANGER)
    async with console_of(browser, strict, who="admin") as console:
        page = await console.see(f"/memory/{memory}")
        page.on("dialog", lambda dialog: dialog.accept())
        await page.get_by_text("Delete it").click()
        await page.get_by_role("button", name="Delete", exact=True).click()
        await expect(page.get_by_role("status").first).to_contain_text("is deleted")

    assert foreign.status_code == 404
    assert "acme" not in listed.text
    assert (await strict("GET", f"/v1/memories/{memory}")).status_code == 404
