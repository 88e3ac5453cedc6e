"""The installation in the console: how it is, its settings without secrets, the audit trail, and API keys."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect
from sqlalchemy import update

from horarium.gateway.console import health
from horarium.gateway.console.settings_shown import Shown, shown_settings
from horarium.ledger.schema import audit
from horarium.settings import ApprovalsSettings, LedgerSettings, Settings, ToolsSettings, Webhook
from tests.console.browser import Console, console_of
from tests.console.routine_world import routine
from tests.gateway.rest import STRANGER, Rest

SECRET = "canary-91f3"


def rows_of(settings: Settings, environment: dict[str, str]) -> dict[str, Shown]:
    return {row.name: row for section in shown_settings(settings, environment) for row in section.rows}


def test_settings_are_shown_without_what_lets_one_in(tmp_path: Path) -> None:
    told = Webhook(url=f"https://hooks.example.com/{SECRET}", secret="${HOOK}")
    settings = Settings(
        root=tmp_path,
        ledger=LedgerSettings(
            url=f"postgresql://ana:{SECRET}@db.example.com/horarium?password={SECRET}",
            blobs=f"simplecache::s3://key:{SECRET}/@bucket/blobs",
        ),
        approvals=ApprovalsSettings(
            webhooks=(told,), people={"maria": ("${MARIA}",)}, roles={"finance": ("maria", "ben")}
        ),
        tools=ToolsSettings(name="desk"),
    )

    rows = rows_of(settings, {"HOOK": f"whsec_{SECRET}"})

    assert not [row for row in rows.values() if SECRET in row.value]
    assert rows["ledger.blobs"].value == "simplecache::s3://key:[secret]@bucket/blobs"
    assert rows["ledger.url"].value == "postgresql://ana:[secret]@db.example.com/horarium?[secret]"
    assert rows["approvals.webhooks.0.url"].value == "https://hooks.example.com/…"
    assert (rows["approvals.webhooks.0.secret"].value, rows["approvals.webhooks.0.secret"].there) == ("${HOOK}", True)
    assert rows["approvals.people.maria.0"].there is False
    assert rows["approvals.roles.finance"].value == "maria, ben"
    assert (rows["tools.name"].is_default, rows["tools.process"].is_default) == (False, True)
    assert rows["tools.unserved_after"].value == "10.0s"
    assert rows["temporal.address"].variable == "HORARIUM_TEMPORAL__ADDRESS"


def test_a_queue_that_nobody_empties_is_broken_and_a_slow_one_wants_a_look() -> None:
    def state(workers: int, waiting: int, seconds: int = 0) -> str:
        return health.Queue("horarium-tools-desk", "steps", workers, waiting, timedelta(seconds=seconds)).state

    assert [state(0, 0), state(0, 2), state(1, 2), state(1, 2, 30)] == ["ok", "bad", "ok", "warn"]


async def test_the_first_page_says_how_everything_is_and_a_part_that_is_silent_does_not_break_it(
    console: Console, rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await routine(rest, "nightly")
    page = await console.see("/system")
    main = page.locator("main")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Everything is well")
    await expect(page.get_by_role("row", name="Engine workers")).to_contain_text("1 worker asks for work.")
    await expect(page.get_by_role("row", name="Ledger")).to_contain_text("SQLite")
    await expect(main).to_contain_text("1 active")
    await expect(page.get_by_role("row", name="horarium runs")).to_contain_text("well")

    async def silent(*_: object) -> frozenset[str]:
        await asyncio.sleep(60)
        return frozenset()

    monkeypatch.setattr(health, "polling", silent)
    await console.see("/system")

    await expect(page.get_by_role("heading", level=1)).to_have_text("Something is broken")
    await expect(page.get_by_role("row", name="Engine workers")).to_contain_text("does not answer within 2.0s")
    await expect(page.get_by_role("row", name="Ledger")).to_contain_text("SQLite")


async def test_all_routines_are_paused_with_one_note(console: Console, rest: Rest) -> None:
    for name in ("one", "two"):
        await routine(rest, name)
    await rest.ok("POST", "/v1/routines/one/pause", json={"note": "Earlier."})
    page = await console.see("/system")
    page.on("dialog", lambda dialog: dialog.accept())

    await page.get_by_label("Why", exact=True).fill("Something is wrong.")
    await page.get_by_role("button", name="Pause all routines").click()

    await expect(page.get_by_role("status").first).to_contain_text("1 routine paused.")
    notes = {item["name"]: item["pause_note"] for item in (await rest.ok("GET", "/v1/routines"))["data"]}
    assert notes == {"one": "Earlier.", "two": "Something is wrong."}


async def test_the_audit_trail_is_filtered_exported_and_a_changed_entry_is_found(console: Console, rest: Rest) -> None:
    await routine(rest, "nightly")
    await rest.ok("POST", "/v1/routines/nightly/pause", json={"note": "The archive moves."})
    page = await console.see("/system/audit?kind=routine.paused&by=admin")
    assert await page.locator("[data-row]").count() == 1
    await expect(page.locator("[data-row]")).to_contain_text("The archive moves.")
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    await console.see(f"/system/audit?kind=routine.paused&by=nobody&first={today}&last={today}")
    assert "No entry is like that." in await console.main()

    await console.see("/system/audit")
    await page.get_by_role("button", name="Check it").click()
    await expect(page.get_by_role("status").first).to_contain_text("The chain is whole:")
    async with page.expect_download() as downloading:
        await page.get_by_role("link", name="Export").click()
    exported = Path(await (await downloading.value).path()).read_text("utf-8").splitlines()
    async with rest.engine.ledger.write() as connection:
        await connection.execute(update(audit).where(audit.c.seq == 2).values(subject="another"))
    await page.get_by_role("button", name="Check it").click()

    await expect(page.get_by_role("alert")).to_contain_text("The chain is broken after 1 entry")
    kinds = [json.loads(line)["kind"] for line in exported]
    assert kinds[-1] == "routine.paused"
    assert kinds.count("api_key.created") == 4  # the fifth is another tenant's


async def test_a_key_is_shown_once_opens_what_it_may_and_is_revoked(browser: Browser, strict: Rest) -> None:
    async with console_of(browser, strict, who="admin") as console:
        page = await console.see("/system/keys")
        page.on("dialog", lambda dialog: dialog.accept())
        await page.get_by_label("Whose it is").fill("release-bot")
        await page.get_by_label("Role").select_option("viewer")
        await page.get_by_role("button", name="Make the key").click()
        key = await page.locator("#key").input_value()
        strict.keys["made"] = key
        opened = await strict("GET", "/v1/runs", "made")
        await page.get_by_role("button", name="Copy").click()
        await expect(page.locator("[data-copy]")).to_have_text(re.compile("Copied|Ctrl-C"))
        await page.get_by_role("link", name="I have it").click()
        assert key not in await page.content()
        await page.get_by_role("button", name="Revoke the key of release-bot").click()
        await expect(page.get_by_role("status").first).to_contain_text("opens nothing any more")
        closed = await strict("GET", "/v1/runs", "made")
        row = page.get_by_role("row", name="release-bot")
        await expect(row).to_contain_text("revoked")
        assert await page.get_by_role("row", name="stranger").count() == 0

    assert (opened.status_code, closed.status_code) == (200, 401)


async def test_who_may_not_sees_no_settings_no_keys_and_no_processes(browser: Browser, strict: Rest) -> None:
    async with console_of(browser, strict, who="operator") as console:
        page = await console.see("/system")
        assert await page.get_by_role("link", name="API keys").count() == 0
        await console.see("/system/settings", status=403)
        await console.see("/system/keys", status=403)
    elsewhere = (await strict("GET", "/system", STRANGER)).text
    settings = await strict("GET", "/system/settings", STRANGER)

    assert "Workers</h2>" not in elsewhere
    assert "SQLite" not in elsewhere
    assert settings.status_code == 403
