"""Routines over REST. What changes one, or has it run, is an order that the engine obeys; looking is the ledger's."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query, Request
from pydantic import ValidationError

from horarium.client import Client
from horarium.contract import RoutineOrdered, TickStatus
from horarium.errors import ConfigError
from horarium.gateway.auth import Caller
from horarium.gateway.context import Operator, TheClient, Viewer
from horarium.gateway.routine_previews import calendar_of, usually_takes
from horarium.gateway.v1 import routine_answers as answers
from horarium.gateway.v1.answers import errors
from horarium.gateway.v1.fields import IdempotencyKey, Named, page_end
from horarium.gateway.v1.paging import Cursor, Limit, Page, cursor_of, read_cursor
from horarium.gateway.v1.routine_answers import Definition, Ordered, RoutineDetail, RoutineSummary, Tick
from horarium.previews import Asked, Preview
from horarium.problems import sentences
from horarium.routines import Routine

router = APIRouter(prefix="/v1", tags=["routines"])
ONE = "/routines/{name}"
TickId = Annotated[str, Path(min_length=1, max_length=300, description="Its id, like routine.NAME-TIME.")]
Statuses = Annotated[list[TickStatus] | None, Query(description="Only these; may be there several times.")]


def _ordered(done: RoutineOrdered) -> Ordered:
    return Ordered.model_validate(done)


def _defined(definition: dict[str, Any], name: str, caller: Caller) -> Routine:
    """What the caller wants a routine to be.

    It is his tenant's, and in his name its runs are started, so that four eyes are not two.
    """
    said = [field for field in ("tenant", "requested_by") if field in definition]
    if said:
        raise ConfigError(f"{said[0]}: is the caller's, and is not said here.", hint=f"Leave {said[0]!r} out.")
    if definition.get("name", name) != name:
        raise ConfigError(f"name: is {definition['name']!r} in the definition, and {name!r} in the address.")
    whole = {**definition, "name": name, "tenant": caller.tenant, "requested_by": caller.name}
    try:
        return Routine.model_validate(whole)
    except ValidationError as error:
        raise ConfigError("\n".join(sentences(error, Routine))) from error
    except (OverflowError, RecursionError) as error:
        raise ConfigError(f"The definition cannot be read: {error}.") from error


@router.get("/routines", operation_id="routines_list", summary="List routines", responses=errors())
async def routines_list(
    client: TheClient, caller: Viewer, limit: Limit = 50, cursor: Cursor = None
) -> Page[RoutineSummary]:
    """The tenant's routines, by name."""
    after = read_cursor(cursor, str)
    records = sorted(await client.routines(tenant=caller.tenant), key=lambda record: record.name)
    found = [record for record in records if after is None or record.name > after[0]]
    shown, end = page_end(found, limit, lambda record: cursor_of(record.name))
    return Page(data=[answers.summary(record) for record in shown], next=end)


@router.get(ONE, operation_id="routines_get", summary="Show a routine", responses=errors(404))
async def routines_get(client: TheClient, caller: Viewer, name: Named) -> RoutineDetail:
    """A routine as it is meant to be, and with what it remembers."""
    return answers.detail(await client.routine_record(name, tenant=caller.tenant))


@router.put(ONE, operation_id="routines_put", summary="Create or update", responses=errors(409))
async def routines_put(
    client: TheClient, caller: Operator, name: Named, body: Annotated[Definition, Body(examples=[answers.MORNINGS])]
) -> Ordered:
    """Create or update a routine. The same twice is one change. A definition that cannot be deployed is 422.

    Names are the project's: one that another tenant has is refused.
    """
    return _ordered(await client.put_routine(_defined(body, name, caller), by=caller.name))


@router.delete(ONE, operation_id="routines_delete", summary="Take out of use", responses=errors(404))
async def routines_delete(client: TheClient, caller: Operator, name: Named) -> Ordered:
    """Take a routine out of use; its ticks stay as evidence. Safe to repeat."""
    return _ordered(await client.delete_routine(name, tenant=caller.tenant, by=caller.name))


@router.post(f"{ONE}/pause", operation_id="routines_pause", summary="Pause", responses=errors(404))
async def routines_pause(
    client: TheClient, caller: Operator, name: Named, body: answers.Pause | None = None
) -> Ordered:
    """Let no trigger fire from now on. Safe to repeat."""
    said = body or answers.Pause()
    return _ordered(
        await client.pause_routine(name, note=said.note, until=said.until, tenant=caller.tenant, by=caller.name)
    )


@router.post(f"{ONE}/resume", operation_id="routines_resume", summary="Resume", responses=errors(404))
async def routines_resume(client: TheClient, caller: Operator, name: Named) -> Ordered:
    """Let the triggers fire again, and count failures anew. Safe to repeat."""
    return _ordered(await client.resume_routine(name, tenant=caller.tenant, by=caller.name))


@router.post(f"{ONE}/run", operation_id="routines_run", summary="Run now", responses=errors(404, 409))
async def routines_run(
    client: TheClient,
    caller: Operator,
    name: Named,
    body: answers.RunNow | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Ordered:
    """Start a tick now, also of a routine that is paused; its id is in `ticks`."""
    said = body or answers.RunNow()
    return _ordered(
        await client.run_routine(name, said.input, key=idempotency_key, tenant=caller.tenant, by=caller.name)
    )


@router.post(f"{ONE}/backfill", operation_id="routines_backfill", summary="Backfill", responses=errors(404))
async def routines_backfill(client: TheClient, caller: Operator, name: Named, body: answers.Backfill) -> Ordered:
    """Start a tick for each fire of a range that has none, or did not run; at most 1,000. Safe to repeat."""
    return _ordered(await client.backfill_routine(name, body.start, body.end, tenant=caller.tenant, by=caller.name))


@router.get(f"{ONE}/ticks", operation_id="routines_ticks", summary="List its ticks", responses=errors(404))
async def routines_ticks(
    client: TheClient, caller: Viewer, name: Named, status: Statuses = None, limit: Limit = 50, cursor: Cursor = None
) -> Page[Tick]:
    """The ticks of a routine, newest first by scheduled time."""
    await client.routine_record(name, tenant=caller.tenant)
    return await _ticks(client, caller, name, status, limit, cursor)


@router.get("/ticks", operation_id="ticks_list", summary="List ticks", responses=errors())
async def ticks_list(
    client: TheClient, caller: Viewer, status: Statuses = None, limit: Limit = 50, cursor: Cursor = None
) -> Page[Tick]:
    """The ticks of all routines, newest first by scheduled time; also of routines that are out of use."""
    return await _ticks(client, caller, None, status, limit, cursor)


async def _ticks(
    client: Client, caller: Caller, name: str | None, status: list[TickStatus] | None, limit: int, cursor: str | None
) -> Page[Tick]:
    before = read_cursor(cursor, datetime, str)
    found = await client.ticks(
        name,
        status=status or (),
        tenant=caller.tenant,
        before=(before[0], before[1]) if before else None,
        limit=limit + 1,
    )
    shown, end = page_end(found, limit, lambda item: cursor_of(item.scheduled_at.isoformat(), item.id))
    return Page(data=[answers.tick(item) for item in shown], next=end)


@router.get("/ticks/{tick}", operation_id="ticks_get", summary="Show a tick", responses=errors(404))
async def ticks_get(client: TheClient, caller: Viewer, tick: TickId) -> Tick:
    """One tick."""
    return answers.tick(await client.tick(tick, tenant=caller.tenant))


@router.post(f"{ONE}/preview", operation_id="routines_preview", summary="Preview", responses=errors(404))
async def routines_preview(
    client: TheClient, caller: Viewer, request: Request, name: Named, body: answers.PreviewRequest | None = None
) -> Preview:
    """What a routine would do: its fires with clock changes, and what overlap and an outage make of them.

    Nothing is saved and nothing is started.
    """
    work_out = calendar_of(request.app)
    said = body or answers.PreviewRequest()
    if said.outage_at is not None and said.outage is None:
        raise ConfigError("`outage_at` says when, and `outage` is missing.")
    if said.definition is not None:
        routine = _defined(said.definition, name, caller)
    else:
        routine = (await client.routine_record(name, tenant=caller.tenant)).routine
    takes = said.takes or await usually_takes(client, caller.tenant, name)
    asked = Asked(said.start or datetime.now(UTC), timedelta(days=said.days), takes, said.outage, said.outage_at)
    return await asyncio.to_thread(work_out, routine, asked)


@router.post("/events", operation_id="events_fire", summary="Fire an event", responses=errors())
async def events_fire(
    client: TheClient, caller: Operator, body: answers.Event, idempotency_key: IdempotencyKey = None
) -> Ordered:
    """Say that something happened: every routine with a trigger for it begins a tick, unless it is paused."""
    return _ordered(
        await client.fire_event(body.event, body.payload, key=idempotency_key, tenant=caller.tenant, by=caller.name)
    )
