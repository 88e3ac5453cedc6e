"""The week of all routines: worked out by the engine's calendar, and shown in a real browser."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from playwright.async_api import Browser, expect

from horarium.gateway.console.weeks import Week, week_of
from horarium.ledger.database import Ledger
from horarium.ledger.routines import Routines
from horarium.routines import Routine
from horarium.settings import Settings
from schedules.previews import preview
from tests.console.browser import PATIENCE, console_of
from tests.console.routine_world import routine
from tests.gateway.rest import Rest

expect.set_options(timeout=PATIENCE)
LONDON = ZoneInfo("Europe/London")
SPRING = date(2027, 3, 23)  # the week in which clocks go forward


async def a_week(tmp_path: Path, *, paused: tuple[str, ...] = (), **triggers: dict[str, Any]) -> Week:
    """The week of routines with one trigger each, in a ledger of their own."""
    ledger = await Ledger.open(Settings(root=tmp_path))
    try:
        for name, trigger in triggers.items():
            definition = {"name": name, "agent": "clerk", "input": "Go.", "triggers": {"t": trigger}}
            await Routines(ledger).put(Routine.model_validate(definition), by=None, at=datetime.now(UTC))
        for name in paused:
            await Routines(ledger).pause(name, note=None, until=None, by=None, at=datetime.now(UTC))
        return week_of(await Routines(ledger).list(), SPRING, LONDON, SPRING, preview)
    finally:
        await ledger.close()


def cron(line: str, **more: Any) -> dict[str, Any]:
    return {"cron": line, "time_zone": "Europe/London", **more}


async def test_a_week_has_each_fire_on_its_day_and_says_what_clocks_do(tmp_path: Path) -> None:
    week = await a_week(
        tmp_path, early=cron("30 1 * * *", gap="skip"), noon=cron("0 12 * * 0"), abroad={"cron": "30 23 * * 6"}
    )

    sunday = week.days[5]
    moments = [moment for hour in sunday.hours for moment in hour.moments]
    said = [(f"{moment.at:%H:%M}", entry.routine, entry.fires) for moment in moments for entry in moment.entries]
    assert [day.change for day in week.days] == [None] * 5 + ["Clocks go forward 1 h.", None]
    assert said == [("02:00", "early", False), ("12:00", "noon", True)]
    assert (week.rows, week.fires) == ((1, 2, 12, 23), 6 + 1 + 1)


async def test_what_fires_often_is_one_line_and_what_meets_is_marked(tmp_path: Path) -> None:
    mondays = {f"report{number}": cron("0 7 * * 1") for number in range(5)}

    week = await a_week(tmp_path, paused=("report4",), often={"every": "5m"}, **mondays)
    without = await a_week(tmp_path / "b", paused=("report3", "report4"), **mondays)

    assert [(one.routine, one.words) for one in week.frequent] == [("often", ("Every 5m",))]
    assert [(f"{moment.at:%a %H:%M}", len(moment.entries)) for moment in week.crowds] == [("Mon 07:00", 5)]
    assert without.crowds == ()


async def test_on_a_phone_the_calendar_is_a_list_of_days_on_the_clock_that_one_chooses(
    browser: Browser, rest: Rest, tmp_path: Path
) -> None:
    await routine(rest, "nightly")
    await routine(rest, "calendar", triggers={"t": cron("0 9 * * 0")})
    await rest.ok("POST", "/v1/routines/nightly/pause", json={"note": "House."})

    async with console_of(browser, rest, phone=True) as console:
        page = await console.see("/calendar?start=2027-03-23")
        sunday = page.get_by_role("region", name="Sun 28")
        await expect(sunday).to_contain_text("Clocks go forward 1 h.")
        await expect(sunday).to_contain_text("09:00 calendar")
        await expect(page.get_by_role("region", name="Fri 26")).to_contain_text("06:00 nightly paused")
        boxes = [await day.bounding_box() for day in await page.get_by_role("region").all()]
        assert len({box["x"] for box in boxes if box}) == 1  # below each other
        await console.fits()
        await console.accessible()
        await console.picture("calendar-phone", tmp_path)
        await page.get_by_label("On the clock of").fill("Asia/Tokyo")
        await page.get_by_role("button", name="Show").click()
        await expect(page.get_by_role("region", name="Sun 28")).to_contain_text("17:00 calendar")
        await page.get_by_role("link", name="After").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("30 March to 5 April 2027")
        await page.get_by_role("link", name="calendar").last.click()
        await expect(page.get_by_role("heading", level=1)).to_contain_text("calendar")
        await console.see("/calendar?zone=Mars/Olympus", status=422)
