"""Pages about what is remembered: the list, what waits for a review, one memory, and what goes to a store elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlencode

from fastapi import Query, Request
from starlette.responses import Response

from horarium.errors import ConfigError, HorariumError
from horarium.gateway.console.forms import Form, TheForm
from horarium.gateway.console.page import page, said
from horarium.gateway.console.routing import pages
from horarium.gateway.console.start import sent
from horarium.gateway.console.words import count
from horarium.gateway.context import Admin, Approver, TheClient, Viewer
from horarium.gateway.v1 import memories as v1
from horarium.gateway.v1.fields import page_end
from horarium.gateway.v1.memories import MemoryId
from horarium.gateway.v1.paging import Cursor, cursor_of, read_cursor
from horarium.ledger.memories import Memories
from horarium.ledger.memory_outbox import HELD_BACK, Outbox
from horarium.memories import KINDS, PENDING, MemoryKind, MemoryStatus

ON_A_PAGE = 50
MOST_REVIEWED = 200
SHOWN_USES = 50
STATUSES: dict[MemoryStatus, str] = {
    "active": "told to runs",
    "candidate": "waits: not known yet whether its run did well",
    "quarantined": "waits: its run had read what strangers wrote",
    "rejected": "rejected",
    "withdrawn": "withdrawn after negative feedback",
    "undone": "undone",
}

router = pages()
Words = Annotated[str, Query(max_length=200)]


@router.get("/memory")
async def list_page(
    request: Request,
    client: TheClient,
    caller: Viewer,
    kind: Words = "",
    status: Words = "",
    scope: Words = "",
    user: Words = "",
    text: Words = "",
    run: Words = "",
    cursor: Cursor = None,
) -> Response:
    """What is remembered, the newest first."""
    before = read_cursor(cursor, datetime, str)
    of_kind: MemoryKind | None = next((one for one in KINDS if one == kind), None)
    of_status: MemoryStatus | None = next((one for one in get_args(MemoryStatus) if one == status), None)
    found = await client.memories(
        kind=of_kind,
        scope=scope.strip() or None,
        user=user.strip() or None,
        status=(of_status,) if of_status else (),
        run=run.strip() or None,
        text=text.strip() or None,
        tenant=caller.tenant,
        before=(before[0], before[1]) if before else None,
        limit=ON_A_PAGE + 1,
    )
    shown, end = page_end(found, ON_A_PAGE, lambda item: cursor_of(item.created_at.isoformat(), item.id))
    filters = {"kind": of_kind, "status": of_status, "scope": scope, "user": user, "text": text, "run": run}
    asked = {name: value for name, value in filters.items() if value}
    ledger = client.require_ledger()
    return page(
        request,
        "memories.html",
        title="Memory",
        memories=shown,
        uses=await Memories(ledger).use_counts([one.id for one in shown]),
        filters=filters,
        is_filtered=bool(asked),
        kinds=KINDS,
        statuses=STATUSES,
        now=datetime.now(UTC),
        next=f"/memory?{urlencode({**asked, 'cursor': end})}" if end else None,
    )


@router.get("/memory/review")
async def review_page(request: Request, client: TheClient, caller: Viewer, cursor: Cursor = None) -> Response:
    """What waits for a person before runs are told of it."""
    before = read_cursor(cursor, datetime, str)
    found = await client.memories(
        status=PENDING,
        tenant=caller.tenant,
        before=(before[0], before[1]) if before else None,
        limit=ON_A_PAGE + 1,
    )
    shown, end = page_end(found, ON_A_PAGE, lambda item: cursor_of(item.created_at.isoformat(), item.id))
    held = await client.memory_deliveries(status=HELD_BACK, tenant=caller.tenant, limit=ON_A_PAGE)
    return page(
        request,
        "memory_review.html",
        title="Memories to review",
        memories=[one for one in shown if one.pending is not None],
        deliveries=held,
        statuses=STATUSES,
        next=f"/memory/review?cursor={end}" if end else None,
    )


@router.post("/memory/review")
async def review(request: Request, client: TheClient, caller: Approver, form: TheForm) -> Response:
    """Let what was chosen be told to later runs, or never."""
    verdict = _verdict(form)
    note = form.get("note")
    orders: list[Callable[[], Coroutine[Any, Any, object]]] = []
    said_by: dict[str, Any] = {"by": caller.name, "tenant": caller.tenant}
    for chosen in dict.fromkeys(form.all("memory")):
        memory, _, number = chosen.partition("@")
        seen = int(number) if number.isdecimal() and len(number) < 9 else None
        orders.append(partial(client.review_memory, memory, verdict, version=seen, note=note, **said_by))
    for run in dict.fromkeys(form.all("delivery")):
        orders.append(partial(client.review_delivery, run, verdict, **said_by))
    back = form.get("back") or "/memory/review"
    if not orders:
        raise ConfigError("Nothing is chosen.", hint="Tick the boxes of those that you have looked at.")
    if len(orders) > MOST_REVIEWED:
        raise ConfigError(f"More than {MOST_REVIEWED} at once.", hint="Choose fewer of them.")
    wrong: list[str] = []
    for order in orders:  # each takes the same lock
        try:
            await order()
        except HorariumError as error:
            wrong.append(error.message)
    words = f"{count(len(orders) - len(wrong), 'memory', 'memories')} {verdict}ed."
    if wrong:
        return said(request, f"{words} Not done: {' '.join(wrong)}", back=back, tone="bad")
    return said(request, words, back=back)


def _verdict(form: Form) -> Literal["accept", "reject"]:
    match form.get("verdict"):
        case "accept":
            return "accept"
        case "reject":
            return "reject"
        case _:
            raise ConfigError("The form does not say what to do.", hint="Load the page again.")


@router.get("/memory/deliveries")
async def deliveries_page(
    request: Request, client: TheClient, caller: Viewer, status: Words = "", cursor: Cursor = None
) -> Response:
    """What runs left for a memory store elsewhere, and how far it is."""
    before = read_cursor(cursor, datetime)
    statuses = ("pending", "sent", "delivered", "failed", *HELD_BACK, "rejected", "withdrawn")
    chosen = next((one for one in statuses if one == status), None)
    found = await Outbox(client.require_ledger()).list(
        tenant=caller.tenant,
        status=(chosen,) if chosen else (),
        before=before[0] if before else None,
        limit=ON_A_PAGE + 1,
    )
    shown, end = page_end(found, ON_A_PAGE, lambda one: cursor_of(one.created_at.isoformat()) if one.created_at else "")
    kept = {"status": chosen} if chosen else {}
    return page(
        request,
        "memory_deliveries.html",
        title="Deliveries",
        deliveries=shown,
        statuses=statuses,
        chosen=chosen,
        next=f"/memory/deliveries?{urlencode({**kept, 'cursor': end})}" if end else None,
    )


@router.get("/memory/{memory}")
async def memory_page(request: Request, client: TheClient, caller: Viewer, memory: MemoryId) -> Response:
    """One memory with all its versions."""
    found = await client.memory(memory, tenant=caller.tenant)
    uses = await client.memory_uses(memory, tenant=caller.tenant)
    taught = list(dict.fromkeys(run for runs in found.sources.values() for run in runs))
    return page(
        request,
        "memory.html",
        title=found.subject or found.id,
        memory=found,
        uses=list(reversed(uses))[:SHOWN_USES],
        used=len(uses),
        feedback=await Memories(client.require_ledger()).feedback(taught),
        statuses=STATUSES,
        now=datetime.now(UTC),
    )


@router.post("/memory/{memory}/edit")
async def edit(request: Request, client: TheClient, caller: Approver, memory: MemoryId, form: TheForm) -> Response:
    """Have it say something else."""
    await v1.memories_edit(client, caller, memory, sent(v1.Edit, text=form["text"]))
    return said(request, "It says so from now on; it can be undone.", back=f"/memory/{memory}")


@router.post("/memory/{memory}/undo")
async def undo(request: Request, client: TheClient, caller: Approver, memory: MemoryId, form: TheForm) -> Response:
    """Take back what holds now."""
    done = await v1.memories_undo(client, caller, memory)
    after = f"version {done.restored} holds again" if done.restored else "runs are told nothing of it"
    told = f" {count(len(done.used_by), 'run')} had been told of it." if done.used_by else ""
    return said(request, f"Version {done.undone} is undone; {after}.{told}", back=f"/memory/{memory}")


@router.post("/memory/{memory}/delete")
async def delete(request: Request, client: TheClient, caller: Admin, memory: MemoryId, form: TheForm) -> Response:
    """Remove it with all its versions, for good."""
    done = await v1.memories_delete(client, caller, memory)
    told = f" {count(len(done.used_by), 'run')} had been told of it." if done.used_by else ""
    return said(request, f"{memory} is deleted.{told}", back="/memory")
