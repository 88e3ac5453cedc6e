"""Previews of routines in the gateway: its calendar, and how long ticks take."""

from __future__ import annotations

from datetime import timedelta
from statistics import median

from fastapi import FastAPI

from horarium.client import Client
from horarium.errors import Unreachable
from horarium.previews import Previewer

LOOKED_AT = 10  # of the latest ticks, for how long one takes
UNKNOWN = timedelta(seconds=30)  # how long a tick takes, before there was one


def calendar_of(app: FastAPI) -> Previewer:
    """The engine's calendar.

    Raises:
        Unreachable: This gateway was started without it.
    """
    work_out: Previewer | None = app.state.preview
    if work_out is None:
        raise Unreachable("This gateway was started without the engine's calendar: it has no previews.")
    return work_out


async def usually_takes(client: Client, tenant: str, name: str) -> timedelta:
    """How long a routine's ticks took: the middle of the last ones."""
    done = await client.ticks(name, status=("completed", "failed"), tenant=tenant, limit=LOOKED_AT)
    took = [(item.closed_at - item.started_at).total_seconds() for item in done if item.started_at and item.closed_at]
    return timedelta(seconds=max(1, round(median(took)))) if took else UNKNOWN
