"""The page of a conversation: what was said in it, its files, and how to go on from a place in it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated
from urllib.parse import quote

from fastapi import Query, Request
from starlette.responses import Response

from horarium.client import Client
from horarium.errors import RunNotFound
from horarium.gateway.console.forms import TheForm
from horarium.gateway.console.page import page, said
from horarium.gateway.console.routing import pages
from horarium.gateway.console.start import new_key
from horarium.gateway.context import Operator, TheClient, Viewer
from horarium.gateway.v1.paging import LARGEST
from horarium.gateway.v1.threads import ThreadId
from horarium.ledger.threads import ThreadMessage

SIZE = 60  # messages on one page
MOST_FILES = 200
router = pages()

After = Annotated[int | None, Query(ge=-1, le=LARGEST)]


@router.get("/threads/{thread}")
async def thread_page(
    request: Request, thread: ThreadId, client: TheClient, caller: Viewer, after: After = None
) -> Response:
    """One conversation; the end of a long one first."""
    record = await client.thread_record(thread, tenant=caller.tenant)
    if after is None:
        after = (record.messages - 1) // SIZE * SIZE - 1 if record.messages else -1
    messages = await client.thread(thread, after=after, limit=SIZE, tenant=caller.tenant)
    files = await client.workspace_files(thread, tenant=caller.tenant)
    runs = await client.runs(thread=thread, tenant=caller.tenant, limit=1)
    return page(
        request,
        "thread.html",
        title=f"Thread {thread}",
        thread=record,
        turns=[(kind, list(group)) for kind, group in groupby(messages, _is_tools)],
        files=[(file, quote(file.name)) for file in files[:MOST_FILES]],
        more_files=max(len(files) - MOST_FILES, 0),
        last_agent=runs[0].agent if runs else await _agent_of(client, messages, caller.tenant),
        agents=sorted(one.agent.name for one in await client.agents()),
        after=after,
        size=SIZE,
        shown=(messages[0].seq, messages[-1].seq) if messages else None,
        key=new_key(),
    )


@router.post("/threads/{thread}/fork")
async def fork(request: Request, thread: ThreadId, client: TheClient, caller: Operator, form: TheForm) -> Response:
    """Make a new conversation of the messages up to a place."""
    place = form.get("at")
    at = int(place) if place is not None and place.isdecimal() and len(place) < 10 else None
    fork = await client.fork_thread(thread, at=at, tenant=caller.tenant)
    return said(request, f"This conversation has the messages up to {fork.forked_at}.", back=f"/threads/{fork.id}")


async def _agent_of(client: Client, messages: Sequence[ThreadMessage], tenant: str) -> str:
    """Whose the last message is, in a fork that no run has gone on with; empty: nobody's."""
    run = next((one.run_id for one in reversed(messages) if one.run_id is not None), None)
    try:
        return (await client.run_record(run, tenant=tenant)).agent if run is not None else ""
    except RunNotFound:
        return ""


def _is_tools(message: ThreadMessage) -> bool:
    return message.role == "tool"
