"""Pages about the installation: how it is, its settings, and the one order that stops everything that fires."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta

from fastapi import Request
from starlette.responses import Response

from horarium.errors import ConfigError
from horarium.gateway.auth import Caller
from horarium.gateway.console.forms import TheForm
from horarium.gateway.console.health import health
from horarium.gateway.console.page import page, said
from horarium.gateway.console.routing import pages
from horarium.gateway.console.run_words import RUN_STATUS
from horarium.gateway.console.settings_shown import shown_settings
from horarium.gateway.console.words import count
from horarium.gateway.context import Admin, Operator, TheClient, TheSettings, Viewer
from horarium.gateway.roles import NotAllowed
from horarium.ledger.figures import Figures
from horarium.ledger.routines import Routines
from horarium.ledger.toolboxes import EVERYBODY

DAY, WEEK = timedelta(days=1), timedelta(days=7)

router = pages()


def is_owner(caller: Caller) -> bool:
    """Whether the caller is of the tenant whose project this is: processes and settings are no other's."""
    return caller.tenant == EVERYBODY


@router.get("/system")
async def system_page(request: Request, client: TheClient, caller: Viewer) -> Response:
    """How everything is."""
    now, figures = datetime.now(UTC), Figures(client.require_ledger())
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    found = await health(client, tenant=caller.tenant, whole=is_owner(caller))
    spans = (("today, UTC", midnight), ("24 hours", now - DAY), ("7 days", now - WEEK))
    return page(
        request,
        "system.html",
        title="System",
        health=found,
        is_owner=is_owner(caller),
        statuses=await figures.statuses(caller.tenant, now - DAY),
        words=RUN_STATUS,
        used=[(label, await figures.used(caller.tenant, since)) for label, since in spans],
        routines=await Routines(client.require_ledger()).counts(caller.tenant),
    )


@router.get("/system/settings")
async def settings_page(request: Request, settings: TheSettings, caller: Admin) -> Response:
    """The settings that this gateway has, without secrets.

    Raises:
        NotAllowed: They are another tenant's.
    """
    if not is_owner(caller):
        raise NotAllowed(
            "The settings are the project's; another tenant does not see them.",
            hint=f"Use an API key of the tenant {EVERYBODY!r}.",
        )
    sections = await asyncio.to_thread(shown_settings, settings, dict(os.environ))
    return page(request, "settings.html", title="Settings", sections=sections)


@router.post("/system/pause-routines")
async def pause_routines(request: Request, client: TheClient, caller: Operator, form: TheForm) -> Response:
    """Pause every routine of the tenant; what runs goes on."""
    note = form.get("note")
    if note is None:
        raise ConfigError("Say why they are paused.", hint="Whoever finds them paused reads it.")
    done = await client.pause_routines(note=note, tenant=caller.tenant, by=caller.name)
    words = f"{count(len(done.obeyed), 'routine')} paused."
    if done.wrong:
        name, why = next(iter(done.wrong.items()))
        not_done = f"{count(len(done.wrong), 'routine')} could not be paused; {name}: {why}"
        return said(request, words, back="/system", tone="bad", hint=not_done)
    hint = "Runs that had begun go on. Resume them on the page of the routines." if done.obeyed else None
    return said(request, words, back="/system", hint=hint)
