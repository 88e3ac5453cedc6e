"""Routines in the console, in a real browser: what is seen of them, and what is ordered."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, expect

from tests.console.browser import PATIENCE, PHONE, Console, console_of
from tests.console.routine_world import BROKEN, a_lively_one, routine
from tests.gateway.rest import STRANGER, Rest
from tests.support.engine import asks, call, says

expect.set_options(timeout=PATIENCE)
HOSTILE = "<img src=x onerror=alert(1)> \u202egnp.exe"


async def closed(rest: Rest, name: str) -> list[Any]:
    """The ticks of a routine, once none is open."""
    async with asyncio.timeout(30):
        while True:
            found: list[Any] = (await rest.ok("GET", f"/v1/routines/{name}/ticks"))["data"]
            if found and all(tick["closed_at"] for tick in found):
                return found
            await asyncio.sleep(0.05)


async def test_the_list_says_how_each_stands_and_its_strip_needs_no_colour(
    console: Console, rest: Rest, tmp_path: Path
) -> None:
    await a_lively_one(rest, "nightly-triage")
    await routine(rest, "month-end", triggers={"last": {"cron": "0 18 L * *", "time_zone": "Europe/London"}})
    await routine(rest, "patch-day", triggers={"second": {"cron": "30 1 * * 2#2", "time_zone": "Europe/London"}})

    page = await console.see("/routines")

    row = page.get_by_role("row", name="nightly-triage")
    await expect(row).to_contain_text("At 06:00, Monday through Friday (Europe/London)")
    await expect(row).to_contain_text("failed")
    await expect(row).to_contain_text("The archive is away.")
    strip = row.get_by_role("img")
    await expect(strip).to_have_attribute(
        "aria-label",
        "The last 6 ticks: 1 done, 1 done after a retry, 1 done, late, 1 skipped, 1 failed, 1 missed.",
    )
    titles = await strip.locator("title").all_text_contents()
    kinds = await strip.locator("svg").evaluate_all("all => all.map((one) => one.classList[1])")
    assert kinds == ["skipped", "missed", "late", "retried", "done", "failed"]
    assert len({await mark.get_attribute("d") for mark in await strip.locator("path").all()}) == 6
    assert "skipped; it came 3d" in titles[0]
    assert "Temporal did not run at that time." in titles[1]
    assert titles[-1].endswith("failed; The archive is away.")
    await expect(page.get_by_role("row", name="month-end")).to_contain_text("on the last day of the month")
    await expect(page.get_by_role("row", name="patch-day")).to_contain_text("on the second Tuesday of the month")
    await console.accessible()
    await page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    await console.fits()
    await console.picture("routines", tmp_path)
    await console.see("/routines?stands=failing")
    assert await page.locator("[data-row]").count() == 1


async def test_a_routine_is_paused_with_a_note_resumed_and_run_now(console: Console, rest: Rest) -> None:
    await routine(rest, "nightly")
    rest.engine.model.lines[:] = [says("Filed.")]
    page = await console.see("/routines/nightly")

    await page.get_by_label("Note").fill(HOSTILE)
    await page.get_by_label("Until").fill("2030-07-01T09:00")
    await page.get_by_role("button", name="Pause", exact=True).click()
    await expect(page.get_by_role("status").first).to_contain_text("is paused until 2030-07-01 08:00:00 UTC")
    await expect(page.locator("#stands")).to_contain_text("<img src=x onerror=alert(1)> <U+202E>gnp.exe")
    await expect(page.locator("main")).to_contain_text("Tue 2 Jul 2030 06:00 BST")
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_role("status").first).to_contain_text("fires again")
    await page.get_by_text("With another input than usual").click()
    await page.get_by_label("Input").fill("Only today's.")
    await page.get_by_role("button", name="Run now").click()
    await expect(page.get_by_role("status").first).to_contain_text("started")

    [tick] = await closed(rest, "nightly")
    assert (tick["status"], tick["source"]) == ("completed", "manual")
    assert rest.engine.model.heard()[-1] == ("user", "Only today's.")
    await expect(page.locator("#tick-table")).to_contain_text("done")  # by itself: the page is live
    entries = await rest.ok("GET", "/v1/audit", params={"subject": "nightly"})
    by = {entry["kind"]: entry["data"]["by"] for entry in entries["data"]}
    assert by["routine.paused"] == by["routine.resumed"] == "anonymous"


async def test_those_that_are_chosen_are_paused_and_resumed_at_once(console: Console, rest: Rest) -> None:
    for name in ("one", "two", "three"):
        await routine(rest, name)
    page = await console.see("/routines")

    await page.get_by_label("Choose one", exact=True).check()
    await page.keyboard.press("j")
    await page.get_by_label("Choose two", exact=True).check()
    await page.get_by_label("Note").fill("The archive moves house.")
    await page.get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("status").first).to_have_text("2 routines paused.")
    paused = {item["name"]: item["pause_note"] for item in (await rest.ok("GET", "/v1/routines"))["data"]}
    await page.get_by_label("All on this page").check()
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_role("status").first).to_have_text("3 routines resumed.")
    await page.get_by_role("button", name="Pause").click()

    await expect(page.get_by_role("alert")).to_contain_text("No routine is chosen.")
    assert paused == {"one": "The archive moves house.", "two": "The archive moves house.", "three": None}


async def test_a_preview_says_what_a_clock_change_and_an_outage_do(console: Console, rest: Rest) -> None:
    early = {"cron": "30 1 * * *", "time_zone": "Europe/London"}
    await routine(
        rest, "early", triggers={"fires": early, "leaves-out": {**early, "cron": "45 1 * * *", "gap": "skip"}}
    )
    page = await console.see("/routines/early/preview")

    await page.get_by_label("From (empty").fill("2027-03-27T00:00")
    await page.get_by_label("Days").fill("3")
    await page.get_by_label("Everything is down for").fill("3h")
    await page.get_by_role("button", name="Preview").click()

    rows = page.locator("tbody tr")
    await expect(rows).to_have_count(6)
    await expect(rows.nth(0)).to_contain_text("missed: 3h late")
    await expect(rows.nth(2)).to_contain_text("Sun 28 Mar 2027 02:00 BST")
    await expect(rows.nth(2)).to_contain_text("its time does not exist on this day")
    await expect(rows.nth(3)).to_contain_text("no fire")
    await expect(rows.nth(4)).to_contain_text("Mon 29 Mar 2027 01:30 BST")
    await expect(page.locator("main")).to_contain_text("Everything is down for 3h")
    await console.accessible()
    await page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    await console.fits()
    await console.see("/routines/early/preview?start=2027-03-28T01:30", status=422)
    assert "does not exist in Europe/London" in await console.main()


async def test_a_backfill_shows_which_ticks_it_would_start_before_it_does(console: Console, rest: Rest) -> None:
    await routine(rest, "daily", triggers={"noon": {"cron": "0 12 * * *"}}, overlap="buffer_all")
    rest.engine.model.lines[:] = [says("Filed.")]
    page = await console.see("/routines/daily/backfill?start=2026-11-10T00:00&end=2026-11-12T00:00")

    await expect(page.locator("tbody tr")).to_have_count(2)
    await page.get_by_role("button", name="Start 2 ticks").click()
    await expect(page.get_by_role("status").first).to_contain_text("2")
    ticks = await closed(rest, "daily")
    await console.see("/routines/daily/backfill?start=2026-11-10T00:00&end=2026-11-12T00:00")

    assert [tick["scheduled_at"][:10] for tick in ticks] == ["2026-11-11", "2026-11-10"]
    await expect(page.locator("main")).to_contain_text("0 ticks would start")
    await expect(page.locator("tbody tr").first).to_contain_text("stays as it is: completed")


async def test_a_tick_tells_its_attempts_and_two_ticks_are_compared(console: Console, rest: Rest) -> None:
    await a_lively_one(rest, "nightly")
    page = await console.see("/routines/nightly")

    await page.get_by_role("row", name=re.compile("done after a retry")).get_by_role("link").first.click()
    await expect(page.locator("main")).to_contain_text("Done after a retry")
    attempts = page.locator("table").first.locator("tbody tr")
    await expect(attempts.nth(0)).to_contain_text("The archive is away.")
    await expect(attempts.nth(1)).to_contain_text("completed")
    await expect(page.locator(".markdown strong")).to_have_text("7")
    await console.accessible()
    await page.get_by_role("link", name="The one after").click()
    await page.get_by_role("link", name="Compare with it").click()

    await expect(page.get_by_role("heading", level=1)).to_have_text("What is different between two ticks")
    await expect(page.locator("pre.diff")).to_contain_text("-Filed **7** pages.")
    await console.accessible()
    await page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    await console.fits()
    for path in ("/routines/nightly", "/routines/nightly/definition", "/routines/nightly/diff"):
        await console.see(path)
        await console.fits()
        await console.accessible()


async def test_orders_are_for_operators_with_a_form_of_ours_and_another_tenant_finds_nothing(
    browser: Browser, strict: Rest
) -> None:
    await routine(strict, "nightly")
    strict.engine.model.lines[:] = [says("Filed.")]
    tick = (await strict.ok("POST", "/v1/routines/nightly/run"))["ticks"][0]

    async with console_of(browser, strict, who="viewer", phone=True) as console:
        for path in ("/routines", "/routines/nightly", "/routines/nightly/definition", f"/ticks/{tick}"):
            page = await console.see(path)
            assert await page.locator("main form[method=post]").count() == 0
            await console.fits()
        forged = await page.request.post(
            f"{console.url}/routines/nightly/pause", form={"note": "x"}, headers={"Origin": console.url}
        )
        assert forged.status == 403
    async with console_of(browser, strict, who="operator") as console:
        page = await console.see("/routines/nightly")
        forged = await page.request.post(
            f"{console.url}/routines/bulk",
            form={"action": "pause", "routine": "nightly", "token": "0" * 64},
            headers={"Origin": console.url},
        )
        assert forged.status == 403
    seen = [
        (await strict("GET", path, STRANGER)).status_code
        for path in ("/routines/nightly", "/routines/nightly/preview", f"/ticks/{tick}", "/routines/nightly/diff")
    ]
    listed = (await strict("GET", "/routines", STRANGER)).text
    assert (await strict.ok("GET", "/v1/routines/nightly"))["paused"] is False
    assert seen == [404] * 4
    assert "nightly" not in listed


async def test_a_tick_that_waits_says_for_what_and_its_place_on_the_ladder(console: Console, rest: Rest) -> None:
    await routine(rest, "patient", on_failure="retry", retry={"attempts": 3, "first": "5m"})
    await routine(rest, "asks", unattended="hold_next")
    rest.engine.model.lines[:] = [BROKEN]
    waiting = (await rest.ok("POST", "/v1/routines/patient/run"))["ticks"][0]
    page = await console.see("/routines/patient")

    stands = page.locator("#stands")
    await expect(stands).to_contain_text("attempt 1 of 3 failed: The archive is away.")
    await expect(stands).to_contain_text("(in 5 min)")
    await console.see(f"/ticks/{waiting}")
    await expect(page.locator("#tick")).to_contain_text("Waits for its next attempt: attempt 1 of 3 failed")
    rest.engine.model.lines[:] = [asks(call("pay", amount=7))]
    parked = (await rest.ok("POST", "/v1/routines/asks/run"))["ticks"][0]
    await console.see("/routines/asks")
    await expect(stands).to_contain_text("held by an approval")
    await expect(stands).to_contain_text("waits for approval")
    await console.see(f"/ticks/{parked}")

    await expect(page.get_by_role("heading", name="What people were asked")).to_be_visible()
    await expect(page.locator("#tick")).to_contain_text("pay")
    await console.accessible()
