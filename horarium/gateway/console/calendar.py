"""The page with the coming week of all routines."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from urllib.parse import urlencode

from fastapi import Query, Request
from starlette.responses import Response

from horarium.errors import ConfigError
from horarium.gateway.console import routine_views
from horarium.gateway.console.page import page
from horarium.gateway.console.routing import pages
from horarium.gateway.console.weeks import DAYS, OFTEN, week_of
from horarium.gateway.context import TheClient, Viewer
from horarium.gateway.routine_previews import calendar_of
from horarium.ledger.routines import Routines
from horarium.routine_words import zone_name

MOST = 500  # routines in one calendar
COMMON = (
    "UTC",
    "Europe/London",
    "Europe/Berlin",
    "America/New_York",
    "America/Los_Angeles",
    "Asia/Kolkata",
    "Asia/Tokyo",
)
YEARS = (1971, 2999)

router = pages()


@router.get("/calendar")
async def calendar_page(
    request: Request,
    client: TheClient,
    caller: Viewer,
    start: Annotated[str | None, Query(max_length=10)] = None,
    zone: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """Seven days from a day on, of every routine; on the clock of a zone."""
    records = await Routines(client.require_ledger()).page(caller.tenant, limit=MOST + 1)
    homes = [zone_name(record.routine) for record in records]
    # Without a word, the zone that most routines have: there the lines read as they were written.
    named = (zone or "").strip() or max(sorted(set(homes)), key=homes.count, default="UTC")
    home = routine_views.zone_of(named)
    today = datetime.now(UTC).astimezone(home).date()
    first = _day(start) if start else today
    week = await asyncio.to_thread(week_of, records[:MOST], first, home, today, calendar_of(request.app))

    def at(day: date) -> str:
        return f"/calendar?{urlencode({'start': day.isoformat(), 'zone': named})}"

    return page(
        request,
        "calendar.html",
        here="/routines",
        title="Calendar",
        week=week,
        first=first,
        last=first + timedelta(days=DAYS - 1),
        zone=named,
        zones=sorted({*homes, *COMMON}),
        before=at(first - timedelta(days=DAYS)),
        after=at(first + timedelta(days=DAYS)),
        coming=at(today),
        is_now=first == today,
        routines=min(len(records), MOST),
        more=len(records) > MOST,
        often=OFTEN,
    )


def _day(said: str) -> date:
    try:
        day = date.fromisoformat(said)
    except ValueError as error:
        raise ConfigError(f"{said!r} is no day.", hint="Write it like 2026-12-01.") from error
    if not YEARS[0] <= day.year <= YEARS[1]:
        raise ConfigError(f"{said} is out of reach.", hint=f"Name a day from {YEARS[0]} to {YEARS[1]}.")
    return day
