"""The pages of one routine: how it stands, what it would do, and what it is."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, get_args
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

from fastapi import Query, Request
from pydantic import TypeAdapter
from starlette.responses import RedirectResponse, Response

from horarium.client import Client
from horarium.contract import OPEN_TICK_STATUSES, TickStatus
from horarium.durations import duration, words
from horarium.errors import RoutineNotFound
from horarium.gateway.auth import Caller
from horarium.gateway.console import routine_views, strip
from horarium.gateway.console.page import page
from horarium.gateway.console.routing import pages
from horarium.gateway.context import TheClient, TheSettings, Viewer
from horarium.gateway.routine_previews import calendar_of, usually_takes
from horarium.gateway.v1.fields import Named, page_end
from horarium.gateway.v1.paging import Cursor, cursor_of, read_cursor
from horarium.ledger.audit import AuditTrail
from horarium.ledger.lateness import allowance
from horarium.ledger.routines import RoutineRecord
from horarium.ledger.ticks import Attempt, TickRecord, Ticks
from horarium.routine_words import TickSeen, paused, policy, source
from horarium.routines import EventTrigger
from horarium.visible import one_line
from horarium.yamlfiles import yaml_of

NEXT = 10  # fires
TICKS = 25  # on a page
FIRES = 200  # of a preview, on one page
MOST_MADE_UP = 1_000  # ticks of a backfill
CHANGES = 30  # of its history

router = pages()
Field = Annotated[str | None, Query(max_length=100)]


@dataclass(frozen=True, slots=True)
class TickLine:
    """A tick in a table."""

    record: TickRecord
    kind: strip.Kind
    local: str
    by: str
    happened: str
    late: timedelta | None
    attempts: Sequence[Attempt]


def tick_line(seen: TickSeen, attempts: Sequence[Attempt], allowed: timedelta, home: ZoneInfo) -> TickLine:
    """A tick in a table, in words."""
    tick = seen.record
    mark = strip.mark_of(tick)
    return TickLine(
        record=tick,
        kind=strip.kind_of(mark, allowed),
        local=routine_views.on_clock(tick.scheduled_at, home),
        by=source(tick),
        happened=seen.happened(home),
        late=strip.lateness(mark),
        attempts=attempts,
    )


@router.get("/routines/{name}")
async def routine_page(
    request: Request,
    client: TheClient,
    settings: TheSettings,
    caller: Viewer,
    name: Named,
    status: Annotated[str | None, Query(max_length=20)] = None,
    cursor: Cursor = None,
) -> Response:
    """How it stands, what comes next, and what became of its ticks."""
    try:
        record = await client.routine_record(name, tenant=caller.tenant)
    except RoutineNotFound:
        if name == "calendar":  # where people look for it; a routine of this name comes first
            return RedirectResponse("/calendar", 303)
        raise
    routine, home, now = record.routine, routine_views.home_of(record.routine), routine_views.now()
    ledger, calendar = client.require_ledger(), calendar_of(request.app)
    takes = await usually_takes(client, caller.tenant, name)
    coming = await asyncio.to_thread(routine_views.coming, record, now, NEXT, calendar, takes)
    latest = (await Ticks(ledger).latest([name], tenant=caller.tenant, most=strip.SHOWN))[name]
    squares = strip.strip(latest, allowance(routine), home)
    chosen: TickStatus | None = next((one for one in get_args(TickStatus) if one == status), None)
    lines, end = await _tick_lines(client, caller, record, chosen, cursor)
    open_ticks = await client.ticks(name, status=OPEN_TICK_STATUSES, tenant=caller.tenant, limit=3)
    here = f"/routines/{quote(name)}"
    return page(
        request,
        "routine.html",
        title=name,
        record=record,
        routine=routine,
        states=routine_views.states(record),
        paused=paused(record),
        zone=home.key,
        triggers=_triggers(record, coming.words),
        problem=coming.problem,
        fires=[routine_views.fire_line(routine, fire) for fire in coming.fires],
        squares=squares,
        summary=strip.in_words(squares),
        seen=[(seen, seen.happened(home)) for seen in [await TickSeen.read(ledger, tick) for tick in open_ticks]],
        last=await _tick(client, caller, record.last_tick, home),
        previous=await _tick(client, caller, record.previous_tick, home),
        policy=list(policy(routine, len(settings.routines.alert) + len(settings.routines.webhooks))),
        lines=lines,
        only=chosen,
        statuses=get_args(TickStatus),
        next=f"{here}?{urlencode({**({'status': chosen} if chosen else {}), 'cursor': end})}#ticks" if end else None,
        events=[trigger.event for trigger in routine.triggers.values() if isinstance(trigger, EventTrigger)],
        key=secrets.token_hex(8),
        home=here,
        meanings=strip.MEANINGS,
        marks=strip.MARKS,
    )


def _triggers(record: RoutineRecord, words: Sequence[str]) -> list[tuple[str, str]]:
    """Name and words of what sets it off."""
    return list(zip(record.routine.triggers, words, strict=False))


async def _tick(client: Client, caller: Caller, tick: str | None, home: ZoneInfo) -> TickLine | None:
    if tick is None:
        return None
    try:
        found = await client.tick(tick, tenant=caller.tenant)
    except RoutineNotFound:
        return None
    seen = await TickSeen.read(client.require_ledger(), found)
    return tick_line(seen, (), timedelta.max, home)


async def _tick_lines(
    client: Client, caller: Caller, record: RoutineRecord, status: TickStatus | None, cursor: str | None
) -> tuple[list[TickLine], str | None]:
    before = read_cursor(cursor, datetime, str)
    found = await client.ticks(
        record.name,
        status=(status,) if status else (),
        tenant=caller.tenant,
        before=(before[0], before[1]) if before else None,
        limit=TICKS + 1,
    )
    shown, end = page_end(found, TICKS, lambda tick: cursor_of(tick.scheduled_at.isoformat(), tick.id))
    runs = await Ticks(client.require_ledger()).attempts([tick.id for tick in shown], tenant=caller.tenant)
    allowed, home = allowance(record.routine), routine_views.home_of(record.routine)
    # What a failed one's steps say is on its own page: here it would be a query for each.
    return [tick_line(TickSeen(tick), runs[tick.id], allowed, home) for tick in shown], end


# ---- what it is


@router.get("/routines/{name}/definition")
async def definition_page(request: Request, client: TheClient, caller: Viewer, name: Named) -> Response:
    """Its definition, and who changed what."""
    record = await client.routine_record(name, tenant=caller.tenant)
    entries = await AuditTrail(client.require_ledger()).latest(tenant=caller.tenant, subject=name, limit=CHANGES)
    history = [entry for entry in entries if entry.kind.startswith("routine.")]
    return page(
        request,
        "routine_definition.html",
        title=f"Definition of {name}",
        record=record,
        text=yaml_of(written(record.routine.model_dump(exclude_defaults=True))),
        history=[(entry, _change_words(entry.data)) for entry in history],
    )


def written(value: Any) -> Any:
    """A definition as people write it: `2d` and not `P2D`, `read` and not a member of an enumeration."""
    match value:
        case Mapping():
            return {str(key): written(item) for key, item in value.items()}
        case list() | tuple():
            return [written(item) for item in value]
        case timedelta():
            text = words(value).replace(" ", "").replace(".0s", "s")
            return text if duration(text) == value else TypeAdapter(timedelta).dump_python(value, mode="json")
        case datetime():
            return value.isoformat()
        case Enum():
            return value.value
        case Decimal():
            return float(value)
        case _:
            return value


def _change_words(data: Any) -> str:
    """What an entry of the audit trail tells besides its kind."""
    said = data if isinstance(data, Mapping) else {}
    parts = [
        f"{key}: {one_line(str(value)[:20]) + '…' if key == 'digest' else one_line(str(value))}"
        for key, value in said.items()
        if value not in (None, "", {}, []) and key not in ("by", "proof")
    ]
    return "; ".join(parts)
