"""What a routine would do: its preview, and which ticks a backfill would start."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import Query, Request
from pydantic import ValidationError
from starlette.responses import Response

from horarium.client import Client
from horarium.errors import ConfigError
from horarium.gateway.console import routine_views
from horarium.gateway.console.page import page
from horarium.gateway.console.routing import pages
from horarium.gateway.context import TheClient, Viewer
from horarium.gateway.routine_previews import calendar_of, usually_takes
from horarium.gateway.v1.fields import Named
from horarium.gateway.v1.routine_answers import PreviewRequest
from horarium.ledger.lateness import Lateness
from horarium.ledger.routines import RoutineRecord
from horarium.ledger.ticks import DID_NOT_RUN
from horarium.previews import Asked, Preview
from horarium.problems import sentences

FIRES = 200  # on one page
MOST_MADE_UP = 1_000  # ticks of a backfill

router = pages()
Field = Annotated[str | None, Query(max_length=100)]


@router.get("/routines/{name}/preview")
async def preview_page(
    request: Request,
    client: TheClient,
    caller: Viewer,
    name: Named,
    start: Field = None,
    days: Field = None,
    takes: Field = None,
    outage: Field = None,
    outage_at: Field = None,
) -> Response:
    """What it would do in a time, and what an outage in it would do."""
    record = await client.routine_record(name, tenant=caller.tenant)
    routine, home = record.routine, routine_views.home_of(record.routine)
    usual = await usually_takes(client, caller.tenant, name)
    said = {"start": start, "days": days, "takes": takes, "outage": outage, "outage_at": outage_at}
    found: Preview | None = None
    problem: str | None = None
    asked: Asked | None = None
    try:
        asked = _asked({key: value.strip() for key, value in said.items() if value and value.strip()}, home, usual)
        found = await asyncio.to_thread(calendar_of(request.app), routine, asked)
    except ConfigError as error:
        problem = f"{error.message} {error.hint or ''}".strip()
    lines = routine_views.fire_lines(routine, found) if found else []
    return page(
        request,
        "routine_preview.html",
        status=422 if problem else 200,
        title=f"Preview of {name}",
        record=record,
        routine=routine,
        zone=home.key,
        asked=asked,
        fields={key: value or "" for key, value in said.items()},
        usual=usual,
        found=found,
        problem=problem,
        lines=lines[:FIRES],
        left_out=max(0, len(lines) - FIRES),
        outage=[routine_views.on_clock(at, home) for at in (found.outage_start, found.outage_end) if at]
        if found
        else [],
        counts=_fates(found),
    )


def _asked(said: Mapping[str, str], home: ZoneInfo, usual: timedelta) -> Asked:
    """What somebody wants to see, by the rules of the REST call of the same name."""
    times = {
        key: (routine_views.typed_time(said.get(key), home, label) or None)
        for key, label in (("start", "From"), ("outage_at", "The outage begins"))
    }
    body: dict[str, Any] = {key: value for key, value in said.items() if key in ("days", "takes", "outage")}
    with contextlib.suppress(ValueError):  # what is no number, the rules say
        body |= {"days": float(body["days"])} if "days" in body else {}
    body |= {key: at.isoformat() for key, at in times.items() if at is not None}
    try:
        read = PreviewRequest.model_validate(body)
    except ValidationError as error:
        raise ConfigError("; ".join(sentences(error, PreviewRequest))) from error
    return Asked(
        read.start or routine_views.now(),
        timedelta(days=read.days),
        read.takes or usual,
        read.outage,
        read.outage_at if read.outage is not None else None,
    )


def _fates(found: Preview | None) -> list[tuple[str, int]]:
    if found is None:
        return []
    words = {"runs": "run", "skipped": "skipped", "missed": "missed", "cancelled": "never begin"}
    counts = [(word, sum(fire.fate == fate for fire in found.fires)) for fate, word in words.items()]
    return [(word, number) for word, number in counts if number]


# ---- making up for what did not run


@router.get("/routines/{name}/backfill")
async def backfill_page(
    request: Request, client: TheClient, caller: Viewer, name: Named, start: Field = None, end: Field = None
) -> Response:
    """Which ticks a backfill would start, before it is ordered."""
    record = await client.routine_record(name, tenant=caller.tenant)
    home, now = routine_views.home_of(record.routine), routine_views.now()
    problem: str | None = None
    fires: list[tuple[str, str, str, str | None]] = []
    begin = until = None
    would = 0
    if start:
        try:
            begin = routine_views.typed_time(start, home, "From")
            until = routine_views.typed_time(end or None, home, "Up to") or now
            fires = await _made_up(request, client, record, begin or now, until)
            would = sum(what == "would start" for _, _, what, _ in fires)
        except ConfigError as error:
            problem = f"{error.message} {error.hint or ''}".strip()
    return page(
        request,
        "routine_backfill.html",
        status=422 if problem else 200,
        title=f"Backfill of {name}",
        record=record,
        zone=home.key,
        fields={"start": start or "", "end": end or ""},
        begin=begin,
        until=until,
        fires=fires[:FIRES],
        left_out=max(0, len(fires) - FIRES),
        would=would,
        problem=problem,
    )


async def _made_up(
    request: Request, client: Client, record: RoutineRecord, begin: datetime, until: datetime
) -> list[tuple[str, str, str, str | None]]:
    """The fires of a range: their time, trigger, what would become of each, and the tick that is there."""
    if begin >= until:
        raise ConfigError("The end is not after the beginning.")
    if until > routine_views.now():
        raise ConfigError("The end is still to come, and so are its fires.", hint="Backfill up to now at the most.")
    asked = Asked(begin, until - begin, timedelta(seconds=1), most=MOST_MADE_UP)
    found = await asyncio.to_thread(calendar_of(request.app), record.routine, asked)
    if not found.whole:
        raise ConfigError(f"It fires more than {MOST_MADE_UP:,} times in this range.", hint="Backfill it in parts.")
    there = await Lateness(client.require_ledger()).known([fire.tick for fire in found.fires])
    lines = []
    for fire in found.fires:
        line, tick = routine_views.fire_line(record.routine, fire), there.get(fire.tick)
        starts = tick is None or tick.status in DID_NOT_RUN
        what = "would start" if tick is None or starts else f"stays as it is: {tick.status}"
        if tick is not None and tick.tenant != record.tenant:  # who had a routine of this name before
            tick, what = None, "stays as it is"
        lines.append((line.local, line.triggers, what, tick.id if tick else None))
    return lines
