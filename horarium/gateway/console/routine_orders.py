"""Orders for one routine: run now, pause, resume, backfill, take out of use."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import Request
from starlette.responses import Response

from horarium.errors import ConfigError
from horarium.gateway.console import routine_views
from horarium.gateway.console.forms import TheForm
from horarium.gateway.console.page import said
from horarium.gateway.console.routing import pages
from horarium.gateway.context import Operator, TheClient
from horarium.gateway.v1.fields import Named

router = pages()


def _home(name: str) -> str:
    return f"/routines/{quote(name)}"


@router.post("/routines/{name}/run")
async def run(request: Request, client: TheClient, caller: Operator, name: Named, form: TheForm) -> Response:
    """Start a tick now; the same form twice is one tick."""
    done = await client.run_routine(name, form.get("input"), key=form.get("key"), tenant=caller.tenant, by=caller.name)
    return said(request, done.message, back=_home(name))


@router.post("/routines/{name}/pause")
async def pause(request: Request, client: TheClient, caller: Operator, name: Named, form: TheForm) -> Response:
    """Let no trigger fire."""
    record = await client.routine_record(name, tenant=caller.tenant)
    until = routine_views.typed_time(form.get("until"), routine_views.home_of(record.routine), "Until")
    done = await client.pause_routine(name, note=form.get("note"), until=until, tenant=caller.tenant, by=caller.name)
    return said(request, done.message, back=_home(name))


@router.post("/routines/{name}/resume")
async def resume(request: Request, client: TheClient, caller: Operator, name: Named, form: TheForm) -> Response:
    """Let the triggers fire again."""
    done = await client.resume_routine(name, tenant=caller.tenant, by=caller.name)
    return said(request, done.message, back=_home(name))


@router.post("/routines/{name}/backfill")
async def backfill(request: Request, client: TheClient, caller: Operator, name: Named, form: TheForm) -> Response:
    """Start the ticks that the preview of the range named."""
    start, end = (
        routine_views.typed_time(form[field], routine_views.zone_of("UTC"), field) for field in ("start", "end")
    )
    if start is None or end is None:
        raise ConfigError("The form does not say from when to when.", hint="Load the page again.")
    done = await client.backfill_routine(name, start, end, tenant=caller.tenant, by=caller.name)
    return said(request, done.message, back=_home(name))


@router.post("/routines/{name}/delete")
async def delete(request: Request, client: TheClient, caller: Operator, name: Named, form: TheForm) -> Response:
    """Take it out of use; its ticks stay."""
    done = await client.delete_routine(name, tenant=caller.tenant, by=caller.name)
    return said(request, done.message, back="/routines")
