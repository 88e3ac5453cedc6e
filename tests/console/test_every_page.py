"""Every page there is, at a desk and on a phone: it fits, everybody can use it, and it gives no secret away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fastapi import FastAPI
from playwright.async_api import Browser

from horarium.gateway.console.install import install
from horarium.gateway.console.routing import PageRoute
from horarium.gateway.sessions import Sessions
from horarium.settings import ApprovalsSettings, ModelsSettings, OpenAISettings, Settings, Webhook
from tests.console.browser import DESK, KEPT, PHONE, Console, console_of
from tests.console.seeded import Seeded, seeded
from tests.engine.conftest import World
from tests.gateway.conftest import PATIENT, Serve
from tests.gateway.rest import rest_of
from tests.support.engine import Engine

CANARY = "canary-5a1d7be2f0"
NO_PAGES = ("/", "/system/audit/export", "/sign-in/oidc", "/sign-in/callback")  # they lead on, or are a file
REFERENCES = {"MAIL_URL": "mailto://horarium", "HOOK_SECRET": "whsec_", "MODEL_KEY": "sk-"}


def examples(there: Seeded) -> dict[str, tuple[str, str]]:
    """Template of an address to one of its pages, and the name of its picture."""
    return {
        "/inbox": ("inbox", "/inbox"),
        "/inbox/{question}": ("question", f"/inbox/{there.question}"),
        "/approve/{token}": ("link", there.link),
        "/runs": ("runs", "/runs"),
        "/runs/{run}": ("run", f"/runs/{there.chief}"),
        "/runs/{run}/steps/{number}": ("step", f"/runs/{there.waiting}/steps/2"),
        "/threads/{thread}": ("thread", f"/threads/{there.thread}"),
        "/routines": ("routines", "/routines"),
        "/routines/{name}": ("routine", "/routines/nightly-triage"),
        "/routines/{name}/definition": ("routine-definition", "/routines/nightly-triage/definition"),
        "/routines/{name}/preview": ("routine-preview", "/routines/nightly-triage/preview"),
        "/routines/{name}/backfill": ("routine-backfill", "/routines/digest/backfill"),
        "/routines/{name}/diff": ("routine-diff", "/routines/nightly-triage/diff"),
        "/ticks/{tick}": ("tick", f"/ticks/{there.tick}"),
        "/calendar": ("calendar", "/calendar"),
        "/agents": ("agents", "/agents"),
        "/agents/{name}": ("agent", "/agents/payer"),
        "/agents/{name}/diff": ("agent-diff", "/agents/payer/diff"),
        "/agents/toolboxes": ("toolboxes", "/agents/toolboxes"),
        "/agents/toolboxes/{name}": ("toolbox", "/agents/toolboxes/shop"),
        "/agents/toolboxes/{name}/diff": ("toolbox-diff", "/agents/toolboxes/shop/diff?before=1&after=2"),
        "/memory": ("memory", "/memory"),
        "/memory/review": ("memory-review", "/memory/review"),
        "/memory/deliveries": ("memory-deliveries", "/memory/deliveries"),
        "/memory/{memory}": ("memory-one", f"/memory/{there.memory}"),
        "/system": ("system", "/system"),
        "/system/settings": ("settings", "/system/settings"),
        "/system/audit": ("audit", "/system/audit"),
        "/system/keys": ("keys", "/system/keys"),
        "/sign-in": ("sign-in", "/sign-in"),
    }


def addresses(settings: Settings) -> set[str]:
    """Of every page that the console has, aliases left out."""
    app = FastAPI()
    install(app, Sessions("secret", settings.gateway.session_lasts, port=1), port=1)
    routes = (route for part in app.routes if hasattr(part, "original_router") for route in part.original_router.routes)
    found = {route.path for route in routes if isinstance(route, PageRoute) and "GET" in (route.methods or ())}
    return found - set(NO_PAGES) - {"/approvals/{question}"}


def with_secrets(settings: Settings) -> Settings:
    """A project whose settings and environment are full of them."""
    told = Webhook(url=f"https://hooks.example.com/{CANARY}", secret="${HOOK_SECRET}")
    approvals = ApprovalsSettings(notify=("${MAIL_URL}",), webhooks=(told,), links="https://horarium.example.com")
    address = f"https://ana:{CANARY}@models.example.com/v1?key={CANARY}"
    models = ModelsSettings(openai=OpenAISettings(base_url=address, api_key="${MODEL_KEY}"))
    return settings.model_copy(update={"approvals": approvals, "models": models})


async def looked_at(console: Console, name: str, path: str, folder: Path) -> str:
    """At both sizes, and in both lights; what the page sent."""
    await console.page.emulate_media(color_scheme="light")
    await console.page.set_viewport_size(DESK)  # type: ignore[arg-type]
    await console.see(path)
    await console.fits()
    await console.accessible()
    await _picture(console, f"{name}-desk", folder)
    await console.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    await console.page.emulate_media(color_scheme="dark")
    await console.fits()
    await console.accessible()
    await _picture(console, f"{name}-phone", folder)
    return await console.page.content()  # what is folded too


async def _picture(console: Console, name: str, folder: Path) -> None:
    """Only where somebody wants to see it: most runs of the tests have no time for it."""
    if KEPT in os.environ:
        await console.picture(name, folder)


@pytest.mark.slow
async def test_every_page_fits_can_be_used_by_everybody_and_tells_no_secret(
    browser: Browser,
    engine: Engine,
    world: World,
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, begin in REFERENCES.items():
        monkeypatch.setenv(name, f"{begin}{CANARY}")
    engine.settings = with_secrets(engine.settings)
    wrong: dict[str, str] = {}

    async with rest_of(engine, serve, PATIENT) as rest:
        there = await seeded(rest, world)
        pages = examples(there)
        async with console_of(browser, rest) as console:
            for name, path in pages.values():
                try:
                    sent = await looked_at(console, name, path, tmp_path)
                    assert CANARY not in sent, f"{path} tells a secret"
                except AssertionError as error:
                    wrong[path] = str(error)

    assert not wrong, "\n\n".join(wrong.values())
    assert set(pages) == addresses(engine.settings)
