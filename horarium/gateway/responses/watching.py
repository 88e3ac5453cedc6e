"""Waiting for a response, and streaming it. Whoever goes away loses nothing: the run goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import timedelta
from typing import Annotated, Any
from weakref import WeakValueDictionary

import structlog
from fastapi import Depends, Request
from sqlalchemy.exc import DBAPIError

from horarium.client import Client
from horarium.errors import RunNotFound, Unreachable
from horarium.gateway.auth import Caller
from horarium.gateway.responses.events import Event, Storyteller
from horarium.gateway.responses.names import ResponseName
from horarium.gateway.responses.record import Part, Reader
from horarium.gateway.watching import Watches, watches_of

log = structlog.get_logger()

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


class Streams:
    """The streams of one process: those of one response read the ledger together, when its run has changed."""

    def __init__(self, client: Client, watches: Watches) -> None:
        self._client = client
        self._watches = watches
        self._readings: WeakValueDictionary[ResponseName, _Reading] = WeakValueDictionary()

    def check_room(self, caller: Caller) -> None:
        """Raises `TooManyWatchers`."""
        self._watches.check_room(caller)

    async def stream(self, name: ResponseName, caller: Caller, *, after: int = -1) -> AsyncGenerator[str]:
        """The response's events after number `after`, as server-sent events; its last one in any case.

        Cut off before when the process leaves, the key counts no more, or the ledger is away: whoever comes again
        goes on after the last that he has.
        """
        teller = Storyteller()
        try:
            async with aclosing(self._watches.changes(name.run, caller, KEEP_ALIVE)) as changes:
                reading = self._readings.setdefault(name, _Reading(self._client, name))
                async for change in changes:
                    if change is None:
                        yield ": still here\n\n"
                        continue
                    for event in teller.tell(await reading.at(change)):
                        if event["sequence_number"] > after:
                            yield as_sse(event)
                    if teller.ended:
                        if teller.last["sequence_number"] <= after:
                            # Its number was given out already, by a stream that had seen a turn begun twice.
                            yield as_sse({**teller.last, "sequence_number": after + 1})
                        return
        except (DBAPIError, OSError, RunNotFound) as error:
            log.warning("gateway.stream_ended", run=name.run, error=type(error).__name__)


class _Reading:
    """A response as it was last read, for all who stream it."""

    def __init__(self, client: Client, name: ResponseName) -> None:
        self._reader = Reader(client, name)
        self._reads = asyncio.Lock()
        self._read: tuple[int, Part] | None = None

    async def at(self, change: int) -> Part:
        """How it is after a change of its run."""
        async with self._reads:
            if self._read is None or self._read[0] < change:
                self._read = change, await self._reader.read()
            return self._read[1]


def _of_process(request: Request) -> Streams:
    """Those of the process, made when they are first needed."""
    state: Any = request.app.state
    if not hasattr(state, "response_streams"):
        state.response_streams = Streams(state.client, watches_of(request))
    streams: Streams = state.response_streams
    return streams


TheStreams = Annotated[Streams, Depends(_of_process)]


def as_sse(event: Event) -> str:
    """One event on the wire."""
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False, allow_nan=False)}\n\n"
