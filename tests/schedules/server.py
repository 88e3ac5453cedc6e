"""Asking a real server when a schedule spec fires."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from temporalio.api.workflowservice.v1 import ListScheduleMatchingTimesRequest
from temporalio.client import Client, Schedule, ScheduleActionStartWorkflow, ScheduleHandle, ScheduleSpec, ScheduleState
from temporalio.service import RPCError

MOST = 1_000  # times that the server names in one answer


class Refused(Exception):
    """The server takes no such spec."""


@dataclass(frozen=True)
class Asked:
    """A paused schedule on the server."""

    client: Client
    handle: ScheduleHandle

    async def between(self, start: datetime, end: datetime) -> list[datetime]:
        """Its times after `start` and up to `end`: the first thousand of them."""
        request = ListScheduleMatchingTimesRequest(namespace=self.client.namespace, schedule_id=self.handle.id)
        request.start_time.FromDatetime(start)
        request.end_time.FromDatetime(end)
        answer = await self.client.workflow_service.list_schedule_matching_times(request)
        return [item.ToDatetime(tzinfo=UTC) for item in answer.start_time]


@asynccontextmanager
async def asked(client: Client, spec: ScheduleSpec | str, zone: str | None = None) -> AsyncIterator[Asked]:
    """A paused schedule with this spec, or with this cron text in this zone; deleted at the end.

    Raises:
        Refused: The server does not take it.
    """
    if isinstance(spec, str):
        spec = ScheduleSpec(cron_expressions=[spec], time_zone_name=zone)
    schedule = Schedule(
        action=ScheduleActionStartWorkflow("Nothing", id="nothing", task_queue="nobody"),
        spec=spec,
        state=ScheduleState(paused=True),
    )
    try:
        handle = await client.create_schedule(f"asked-{uuid4().hex}", schedule)
    except RPCError as error:
        raise Refused(error.message) from error
    try:
        yield Asked(client, handle)
    finally:
        await handle.delete()


def moments(times: Sequence[datetime]) -> list[int]:
    """As Unix seconds."""
    return [int(time.timestamp()) for time in times]
