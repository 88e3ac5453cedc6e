"""Pages about all routines: the list, orders for several of them, and events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, get_args
from urllib.parse import urlencode

from fastapi import Query, Request
from starlette.responses import Response

from horarium.contract import RoutineOrdered
from horarium.errors import ConfigError, HorariumError
from horarium.gateway.bodies import NotStrict, strict_json
from horarium.gateway.console import routine_views, strip
from horarium.gateway.console.forms import TheForm
from horarium.gateway.console.page import page, said
from horarium.gateway.console.routing import pages
from horarium.gateway.context import Operator, TheClient, Viewer
from horarium.gateway.routine_previews import calendar_of
from horarium.gateway.v1.fields import page_end
from horarium.gateway.v1.paging import Cursor, cursor_of, read_cursor
from horarium.ledger.routines import Routines, Stands
from horarium.ledger.ticks import Ticks

ON_A_PAGE = 50
AT_ONCE = 8  # orders of one form that are given at a time
MOST_ORDERED = 200

router = pages()
Text = Annotated[str | None, Query(max_length=63)]
Where = Annotated[str | None, Query(max_length=10)]


@router.get("/routines")
async def list_page(
    request: Request, client: TheClient, caller: Viewer, text: Text = None, stands: Where = None, cursor: Cursor = None
) -> Response:
    """Every routine: when it fires, how its ticks went, and what keeps it from running."""
    chosen: Stands | None = next((one for one in get_args(Stands) if one == stands), None)
    after = read_cursor(cursor, str)
    ledger = client.require_ledger()
    found = await Routines(ledger).page(
        caller.tenant, stands=chosen, text=text or None, after=after[0] if after else None, limit=ON_A_PAGE + 1
    )
    shown, end = page_end(list(found), ON_A_PAGE, lambda record: cursor_of(record.name))
    latest = await Ticks(ledger).latest([record.name for record in shown], tenant=caller.tenant, most=strip.SHOWN)
    calendar, now = calendar_of(request.app), routine_views.now()
    coming = await asyncio.to_thread(lambda: [routine_views.coming(record, now, 1, calendar) for record in shown])
    kept = {key: value for key, value in (("text", text), ("stands", chosen)) if value}
    return page(
        request,
        "routines.html",
        title="Routines",
        rows=[routine_views.row(record, latest[record.name], one) for record, one in zip(shown, coming, strict=True)],
        counts=await Routines(ledger).counts(caller.tenant),
        text=text or "",
        stands=chosen,
        next=f"/routines?{urlencode({**kept, 'cursor': end})}" if end else None,
        meanings=strip.MEANINGS,
        marks=strip.MARKS,
    )


@router.post("/routines/bulk")
async def bulk(request: Request, client: TheClient, caller: Operator, form: TheForm) -> Response:
    """Pause or resume the routines that were chosen."""
    names = list(dict.fromkeys(form.all("routine")))
    if not names:
        raise ConfigError("No routine is chosen.", hint="Tick the boxes of those that you mean.")
    if len(names) > MOST_ORDERED:
        raise ConfigError(f"More than {MOST_ORDERED} routines at once.", hint="Order fewer of them.")
    order: Callable[[str], Coroutine[Any, Any, RoutineOrdered]]
    match form.get("action"):
        case "pause":
            note = form.get("note")
            word, order = (
                "paused",
                lambda name: client.pause_routine(name, note=note, tenant=caller.tenant, by=caller.name),
            )
        case "resume":
            word, order = "resumed", lambda name: client.resume_routine(name, tenant=caller.tenant, by=caller.name)
        case _:
            raise ConfigError("The form does not say what to do.", hint="Load the page again.")
    room = asyncio.Semaphore(AT_ONCE)

    async def one(name: str) -> str | None:
        async with room:
            try:
                await order(name)
            except HorariumError as error:
                return f"{name}: {error.message}"
        return None

    wrong = [problem for problem in await asyncio.gather(*map(one, names)) if problem]
    number = len(names) - len(wrong)
    text = f"{number} routine{'' if number == 1 else 's'} {word}."
    back = form.get("back") or "/routines"
    if wrong:
        return said(request, f"{text} Not done: {' '.join(wrong)}", back=back, tone="bad")
    return said(request, text, back=back)


@router.post("/routines/fire")
async def fire(request: Request, client: TheClient, caller: Operator, form: TheForm) -> Response:
    """Say that something happened."""
    done = await client.fire_event(
        form["event"], read_payload(form.get("payload")), key=form.get("key"), tenant=caller.tenant, by=caller.name
    )
    return said(request, done.message, back=form.get("back") or "/routines")


def read_payload(text: str | None) -> dict[str, Any]:
    """The payload of an event, as somebody typed it.

    Raises:
        ConfigError: It is no JSON object.
    """
    try:
        payload = strict_json(text.encode()) if text is not None else {}
    except NotStrict as error:
        raise ConfigError(f"The payload is no JSON: {error}.", hint='Write it like {"number": 7}.') from error
    if not isinstance(payload, dict):
        raise ConfigError("The payload is no JSON object.", hint='Write it like {"number": 7}.')
    return payload
