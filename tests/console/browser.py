"""A real browser in front of a real gateway: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axe_core_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, Playwright, async_playwright

from tests.gateway.rest import Rest

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
PATIENCE = 15_000  # milliseconds that a page may take to show something
IMAGES = Path(__file__).parents[2] / "docs" / "images"
SCREENS = 2  # of a page that a picture shows
KEPT = "HORARIUM_SCREENSHOTS"  # set: screenshots go to docs/images
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)


def chromium() -> str:
    """Where the browser is.

    Raises:
        LookupError: There is none.
    """
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise LookupError("The console's tests need Chromium: apt-get install chromium")
    return found


async def launched(playwright: Playwright) -> Browser:
    """The browser, without a window."""
    return await playwright.chromium.launch(executable_path=chromium(), args=list(_FLAGS))


@asynccontextmanager
async def a_browser() -> AsyncIterator[Browser]:
    """One browser, for many tests."""
    async with async_playwright() as playwright:
        browser = await launched(playwright)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Console:
    """Somebody in front of the console. `wrong`: what went wrong in the pages: scripts, and what the CSP refused."""

    rest: Rest
    context: BrowserContext
    page: Page
    wrong: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Of the gateway."""
        return self.rest.serving.url

    async def see(self, path: str, *, status: int = 200) -> Page:
        """Go to a page of ours."""
        answer = await self.page.goto(self.url + path)
        assert answer is not None
        assert answer.status == status, (answer.status, await self.page.locator("main").inner_text())
        return self.page

    async def main(self) -> str:
        """What the page says."""
        return await self.page.locator("main").inner_text()

    async def fits(self) -> None:
        """Nothing of the page is wider than the window."""
        wide = await self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, f"{self.page.url} is {wide} pixels wider than the window"

    async def accessible(self) -> None:
        """WCAG 2.2 A and AA, as far as axe can tell."""
        found = await Axe().run(
            self.page, options={"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa"]}}
        )
        said = [
            f"{one['id']} ({one['impact']}): {one['help']}: {[node['html'][:200] for node in one['nodes'][:3]]}"
            for one in found["violations"]
        ]
        assert not said, f"{self.page.url}\n" + "\n".join(said)

    async def picture(self, name: str, folder: Path) -> Path:
        """A screenshot of the page's first two screens; into docs/images when that is asked for."""
        target = IMAGES if os.environ.get(KEPT) else folder
        target.mkdir(parents=True, exist_ok=True)
        width, screen, whole = await self.page.evaluate(
            "[window.innerWidth, window.innerHeight, document.documentElement.scrollHeight]"
        )
        clip: Any = {"x": 0, "y": 0, "width": width, "height": min(whole, SCREENS * screen)}
        await self.page.screenshot(path=target / f"{name}.png", full_page=True, clip=clip, animations="disabled")
        return target / f"{name}.png"


@asynccontextmanager
async def console_of(
    browser: Browser, rest: Rest, *, who: str | None = None, phone: bool = False, dark: bool = False, **more: Any
) -> AsyncIterator[Console]:
    """A new browser profile, signed in with the key of `who` (a role), or with none."""
    context = await browser.new_context(
        viewport=PHONE if phone else DESK,  # type: ignore[arg-type]
        is_mobile=phone,
        has_touch=phone,
        color_scheme="dark" if dark else "light",
        timezone_id="Europe/London",
        locale="en-GB",
        **more,
    )
    context.set_default_timeout(PATIENCE)
    page = await context.new_page()
    console = Console(rest, context, page)
    page.on("pageerror", lambda error: console.wrong.append(str(error)))
    page.on("console", lambda said: console.wrong.append(said.text) if "Content Security Policy" in said.text else None)
    try:
        if who is not None:
            await console.see("/sign-in")
            await page.get_by_label("API key").fill(rest.keys[who])
            await page.get_by_role("button", name="Sign in").click()
            await page.wait_for_url(lambda url: "/sign-in" not in url)
        yield console
        assert console.wrong == []
    finally:
        await context.close()
