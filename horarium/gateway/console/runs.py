"""The list of runs: which there are, how each stands, and the orders for several at once."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, cast
from urllib.parse import urlencode

from fastapi import Query, Request
from starlette.responses import Response

from horarium.contract import OPEN_STATUSES, Status
from horarium.errors import HorariumError
from horarium.gateway.console.forms import TheForm
from horarium.gateway.console.page import page, said
from horarium.gateway.console.routing import pages
from horarium.gateway.console.run_words import RUN_STATUS, asked_in_words
from horarium.gateway.console.start import new_key
from horarium.gateway.console.words import count
from horarium.gateway.context import Operator, TheClient, Viewer
from horarium.gateway.v1.fields import page_end
from horarium.gateway.v1.paging import Cursor, cursor_of, read_cursor
from horarium.ledger.overview import Overview
from horarium.ledger.runs import Runs

SIZE = 50
MOST_AT_ONCE = 10  # of many orders
MOST_CHOSEN = 200
router = pages()

Words = Annotated[str, Query(max_length=200)]


@router.get("/runs")
async def listed(
    request: Request,
    client: TheClient,
    caller: Viewer,
    status: Annotated[list[str] | None, Query(max_length=20)] = None,
    agent: Words = "",
    routine: Words = "",
    thread: Words = "",
    by: Words = "",
    text: Words = "",
    cursor: Cursor = None,
) -> Response:
    """The runs, newest first."""
    place = read_cursor(cursor, datetime, str)
    wanted = [one for one in status or () if one in RUN_STATUS or one == "open"]
    statuses = [*(one for one in wanted if one != "open"), *(OPEN_STATUSES if "open" in wanted else ())]
    ledger = client.require_ledger()
    found = await Runs(ledger).list(
        status=cast("list[Status]", statuses),
        agent=agent.strip() or None,
        routine=routine.strip() or None,
        thread=thread.strip() or None,
        requested_by=by.strip() or None,
        text=text.strip() or None,
        tenant=caller.tenant,
        before=(place[0], place[1]) if place is not None else None,
        limit=SIZE + 1,
    )
    shown, following = page_end(found, SIZE, lambda run: cursor_of(run.created_at.isoformat(), run.id))
    overview = Overview(ledger)
    asked = await overview.inputs(shown)
    filters = {"status": wanted, "agent": agent, "routine": routine, "thread": thread, "by": by, "text": text}
    asked_for = {name: value for name, value in filters.items() if value}
    return page(
        request,
        "runs.html",
        title="Runs",
        runs=shown,
        words=RUN_STATUS,
        asked={run.id: asked_in_words(asked.get(run.id)) for run in shown},
        used=await overview.progress(shown),
        filters=filters,
        is_filtered=bool(asked_for),
        is_first=cursor is None,
        next=f"/runs?{urlencode({**asked_for, 'cursor': following}, doseq=True)}" if following else None,
        agents=sorted(one.agent.name for one in await client.agents()),
        key=new_key(),
    )


@router.post("/runs/cancel")
async def cancel(request: Request, client: TheClient, caller: Operator, form: TheForm) -> Response:
    """Have several runs end now."""
    chosen = list(dict.fromkeys(form.all("run")))[:MOST_CHOSEN]
    back = form.get("back") or "/runs"
    if not chosen:
        return said(request, "No run was chosen.", back=back, tone="bad", hint="Tick the box of each one first.")
    few = asyncio.Semaphore(MOST_AT_ONCE)

    async def one(run: str) -> HorariumError | None:
        async with few:
            try:
                await client.run_record(run, tenant=caller.tenant)
                await client.run(run).cancel()
            except HorariumError as error:
                return error
        return None

    failed = [error for error in await asyncio.gather(*map(one, chosen)) if error is not None]
    done = len(chosen) - len(failed)
    words = f"Asked {count(done, 'run')} to end."
    if not failed:
        return said(request, words, back=back)
    hint = f"{count(len(failed), 'run')} could not be asked; the first: {failed[0].args[0]}"
    return said(request, words, back=back, tone="bad", hint=hint)
