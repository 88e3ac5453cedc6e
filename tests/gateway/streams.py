"""Reading server-sent events, as a browser does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2

PATIENCE = 40.0


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `id` is its own, None for one that has none."""

    kind: str
    id: str | None
    data: Any

    @property
    def what(self) -> tuple[str, Any]:
        """What it tells, without the times."""
        if self.kind == "status":
            return self.kind, self.data["status"]
        if self.kind == "end":
            return self.kind, self.data["status"]
        return self.kind, self.data["step"]["number"]


async def events(
    http: httpx2.AsyncClient, run: str, after: str | None = None, *, by_query: bool = False
) -> AsyncIterator[Event]:
    """The events of a run to the end of the stream, waited for no longer than `PATIENCE`."""
    headers = {"Last-Event-ID": after} if after is not None and not by_query else {}
    params = {"after": after} if after is not None and by_query else {}
    async with (
        asyncio.timeout(PATIENCE),
        http.stream("GET", f"/v1/runs/{run}/events", headers=headers, params=params) as stream,
    ):
        assert stream.status_code == 200, await stream.aread()
        assert stream.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        async for line in stream.aiter_lines():
            name, _, value = line.partition(": ")
            if line and name:
                fields[name] = value
            elif not line:
                if "event" in fields:
                    yield Event(fields["event"], fields.get("id"), json.loads(fields["data"]))
                fields = {}


async def told(http: httpx2.AsyncClient, run: str, after: str | None = None) -> list[Event]:
    """All events but the text, to the end of the stream."""
    return [event async for event in events(http, run, after) if event.kind != "text"]
