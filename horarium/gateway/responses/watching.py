"""Waiting for a response, and streaming it. Whoever goes away loses nothing: the run goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

from horarium.client import Client
from horarium.errors import Unreachable
from horarium.gateway.responses.events import Event, Storyteller
from horarium.gateway.responses.names import ResponseName
from horarium.gateway.responses.record import Part, Reader

LOOK_EVERY = 0.1  # seconds
LOOK_SELDOM = 0.5  # after a while in which nothing happened
A_WHILE = 20.0
KEEP_ALIVE = 15.0  # seconds of silence before a comment is sent, so that nothing between closes the connection
PATIENCE = timedelta(minutes=9)  # official clients wait for ten
SETTLING = 1.0  # seconds in which a decision that was just made reaches the ledger


async def wait(
    client: Client,
    name: ResponseName,
    *,
    patience: timedelta = PATIENCE,
    gone: Callable[[], Awaitable[bool]] | None = None,
) -> Part:
    """Wait for a response's end; or until only people elsewhere can say how it goes on, or the patience is over.

    Args:
        gone: Whether whoever asked is not there any more.
    """
    reader = Reader(client, name)
    began = time.monotonic()
    deadline = began + patience.total_seconds()
    stuck_since: float | None = None
    while True:
        part = await reader.read()
        now = time.monotonic()
        if part.ended or now > deadline:
            return part
        stuck_since = (stuck_since or now) if part.run.status == "requires_action" else None
        if stuck_since is not None and now - stuck_since > SETTLING:
            if await _needs_people(client, name.run):
                return await reader.read()
            stuck_since = now
        if gone is not None and await gone():
            return part
        await asyncio.sleep(LOOK_EVERY if now - began < A_WHILE else LOOK_SELDOM)


async def _needs_people(client: Client, run: str) -> bool:
    with contextlib.suppress(Unreachable):
        return bool((await client.run(run).status()).waiting_for)
    return False


async def stream(client: Client, name: ResponseName, *, after: int = -1) -> AsyncIterator[str]:
    """The response's events after number `after`, as server-sent events; its last one in any case."""
    reader, teller = Reader(client, name), Storyteller()
    spoke = happened = time.monotonic()
    while not teller.ended:
        events = [event for event in teller.tell(await reader.read()) if event["sequence_number"] > after]
        for event in events:
            yield as_sse(event)
        if teller.ended and not events:
            # Its number was given out already, by a stream that had seen a turn begun twice.
            yield as_sse({**teller.last, "sequence_number": after + 1})
        now = time.monotonic()
        if events:
            spoke = happened = now
        elif now - spoke > KEEP_ALIVE:
            spoke = now
            yield ": still here\n\n"
        if not teller.ended:
            await asyncio.sleep(LOOK_EVERY if now - happened < A_WHILE else LOOK_SELDOM)


def as_sse(event: Event) -> str:
    """One event on the wire."""
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False, allow_nan=False)}\n\n"
