"""Pages about one tick, and about two of them side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Query, Request
from starlette.responses import Response

from horarium.client import Client
from horarium.errors import ConfigError
from horarium.gateway.auth import Caller
from horarium.gateway.console import routine_views, strip
from horarium.gateway.console.page import page
from horarium.gateway.console.routine_page import tick_line
from horarium.gateway.console.routing import pages
from horarium.gateway.console.words import money
from horarium.gateway.context import TheClient, Viewer
from horarium.gateway.v1.fields import Named
from horarium.gateway.v1.routines import TickId
from horarium.ledger.approvals import ApprovalRecord, Approvals
from horarium.ledger.lateness import allowance
from horarium.ledger.ticks import TickRecord, Ticks
from horarium.routine_words import TickSeen
from horarium.tickdiff import Difference

router = pages()


@dataclass(frozen=True, slots=True)
class Kept:
    """One value of the routine's state that a tick changed; JSON, None where there is none."""

    key: str
    before: str | None
    after: str | None


@router.get("/ticks/{tick}")
async def tick_page(request: Request, client: TheClient, caller: Viewer, tick: TickId) -> Response:
    """What happened to one tick, and why."""
    record = await client.tick(tick, tenant=caller.tenant)
    ledger = client.require_ledger()
    attempts = (await Ticks(ledger).attempts([record.id], tenant=caller.tenant))[record.id]
    seen = await TickSeen.read(ledger, record)
    routine = record.routine_then if record.definition is not None else None
    home = routine_views.home_of(routine) if routine else routine_views.zone_of("UTC")
    allowed = allowance(routine) if routine else timedelta()
    earlier, later = await _beside(client, caller, record)
    asked = [item for attempt in attempts for item in await Approvals(ledger).of_run(attempt.run)]
    return page(
        request,
        "tick.html",
        here="/routines",
        title=f"{record.routine}: {routine_views.on_clock(record.scheduled_at, home)}",
        tick=record,
        routine=routine,
        line=tick_line(seen, attempts, allowed, home),
        attempts=attempts,
        ladder=routine.ladder if routine else None,
        asked=asked,
        waited=_waited(asked),
        event=_event(record.event),
        by=(record.event or {}).get("by"),
        state=await _state(client, caller, record),
        earlier=earlier,
        later=later,
        meanings=strip.MEANINGS,
        marks=strip.MARKS,
        allowed=allowed,
        diff=f"/routines/{quote(record.routine)}/diff",
    )


async def _beside(client: Client, caller: Caller, tick: TickRecord) -> tuple[TickRecord | None, TickRecord | None]:
    """The tick before, and the one after."""
    before = await client.ticks(tick.routine, tenant=caller.tenant, before=(tick.scheduled_at, tick.id), limit=1)
    return (before[0] if before else None), await Ticks(client.require_ledger()).after(tick)


def _waited(asked: Sequence[ApprovalRecord]) -> timedelta:
    """How long people were waited for, questions beside each other counted twice."""
    now = routine_views.now()
    return sum(((item.decided_at or now) - item.requested_at for item in asked), timedelta())


def _event(event: Mapping[str, Any] | None) -> str | None:
    """What set it off, as JSON; None: nothing but the clock or a person."""
    payload = (event or {}).get("event")
    return json.dumps(payload, ensure_ascii=False) if payload else None


async def _state(client: Client, caller: Caller, tick: TickRecord) -> list[Kept]:
    """What it changed in the routine's state; before is what the last completed tick before it left."""
    changes = tick.changes or {}
    written, gone = dict(changes.get("set", {})), list(changes.get("gone", ()))
    if not written and not gone:
        return []
    last = await client.ticks(
        tick.routine, status=("completed",), tenant=caller.tenant, before=(tick.scheduled_at, tick.id), limit=1
    )
    of_before = dict(last[0].state or {}) if last and last[0].incarnation == tick.incarnation else {}
    rows = [Kept(key, _json(of_before, key), _json(written, key)) for key in sorted(written)]
    return rows + [Kept(key, _json(of_before, key), None) for key in sorted(gone)]


def _json(values: Mapping[str, Any], key: str) -> str | None:
    return json.dumps(values[key], ensure_ascii=False) if key in values else None


@router.get("/routines/{name}/diff")
async def diff_page(
    request: Request,
    client: TheClient,
    caller: Viewer,
    name: Named,
    tick: Annotated[list[str] | None, Query(max_length=20)] = None,
) -> Response:
    """What is different between two ticks; between the last two that began, when none is named."""
    chosen = list(dict.fromkeys(tick or ()))
    if chosen and len(chosen) != 2:
        raise ConfigError(f"To compare takes two ticks, and {len(chosen)} are chosen.", hint="Tick two boxes.")
    records = [await client.tick(one, tenant=caller.tenant) for one in chosen]
    records.sort(key=lambda one: (one.scheduled_at, one.id))
    first, second = (records[0].id, records[1].id) if records else (None, None)
    found: Difference = await client.diff_ticks(name, first, second, tenant=caller.tenant)
    record = await client.routine_record(name, tenant=caller.tenant)
    return page(
        request,
        "tick_diff.html",
        title=f"Two ticks of {name}",
        record=record,
        found=found,
        sides=(found.before, found.after),
        changed=[pair for pair in found.steps if pair.change != "same"],
        same=sum(pair.change == "same" for pair in found.steps),
        figures=[
            (FIGURES[one.name], _figure(one.name, one.before), _figure(one.name, one.after), one.before == one.after)
            for one in found.figures
        ],
    )


FIGURES = {
    "duration_ms": "Took",
    "attempts": "Attempts",
    "turns": "Turns of the model",
    "calls": "Calls",
    "input_tokens": "Tokens in",
    "output_tokens": "Tokens out",
    "cost_micro_usd": "Cost",
}


def _figure(name: str, value: int | None) -> str:
    if value is None:
        return "–"
    if name == "duration_ms":
        return f"{value / 1000:,.1f} s"
    return money(value) if name == "cost_micro_usd" else f"{value:,}"
