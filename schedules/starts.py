"""Ticks that no schedule starts: by hand, by an event, and those that are made up for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from temporalio.client import Client as TemporalClient
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from horarium import contract
from horarium.client import TASK_TIMEOUT
from horarium.contract import RoutineOrder, TickRequest
from horarium.errors import ConfigError, Conflict, Unreachable
from horarium.ids import RUN_ID
from horarium.ledger.database import Ledger
from horarium.ledger.schema import ticks
from horarium.ledger.ticks import DID_NOT_RUN
from horarium.routines import Routine, tick_id
from schedules import specs
from schedules.drift import AT_ONCE, away

MOST_BACKFILLED = 1_000
OPENS_WITHIN = timedelta(seconds=30)  # a tick, where there is a worker
LOOKS = (0.01, 0.2)  # seconds between two looks whether it has: at first, and at most
A_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


@dataclass(frozen=True, slots=True)
class Start:
    """One tick to start."""

    id: str
    routine: Routine
    request: TickRequest


class Starter:
    """Starts ticks, each once."""

    def __init__(self, ledger: Ledger, temporal: TemporalClient) -> None:
        self._ledger = ledger
        self._temporal = temporal

    async def start(self, starts: Sequence[Start], order_id: str) -> list[bool]:
        """Start ticks; for each, whether this order started it, and no other one or a schedule before.

        Raises:
            Conflict: An id is that of another routine's tick.
            Unreachable: Temporal does not answer.
        """
        room = asyncio.Semaphore(AT_ONCE)

        async def one(start: Start) -> bool:
            async with room:
                return (await self._start(start, order_id, WorkflowIDReusePolicy.REJECT_DUPLICATE))[0]

        return list(await asyncio.gather(*(one(start) for start in starts)))

    async def start_in_turn(self, starts: Sequence[Start], order_id: str) -> list[bool]:
        """Start ticks as `start`, also those that did not run; each after the one before it was opened.

        So they run in this order, and each finds what the one before has left.

        Raises:
            Conflict: An id is that of another routine's tick.
            Unreachable: Temporal does not answer, or no worker opens them.
        """
        fresh: list[bool] = []
        for start in starts:
            mine, execution = await self._start(start, order_id, WorkflowIDReusePolicy.ALLOW_DUPLICATE)
            await self._opened(start, execution)
            fresh.append(mine)
        return fresh

    async def _opened(self, start: Start, execution: str | None) -> None:
        end, pause = asyncio.get_running_loop().time() + OPENS_WITHIN.total_seconds(), LOOKS[0]
        query = select(ticks.c.execution, ticks.c.status).where(ticks.c.id == start.id)
        while True:
            async with self._ledger.read() as connection:
                row = (await connection.execute(query)).first()
            # What stands there may be what is made up for; any other tick of this id is as good as this one.
            if row is not None and (row.execution == execution or row.status not in DID_NOT_RUN):
                return
            if asyncio.get_running_loop().time() > end:
                raise Unreachable(
                    f"No worker has opened the tick {start.id!r} within {OPENS_WITHIN.total_seconds():.0f} seconds.",
                    hint="Look what is missing: horarium doctor",
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LOOKS[1])

    async def _start(self, start: Start, order_id: str, reuse: WorkflowIDReusePolicy) -> tuple[bool, str | None]:
        """Start a tick: False when another order, or a schedule, had started it; and which of its workflows it is."""
        routine = start.routine
        try:
            handle = await self._temporal.start_workflow(
                contract.TICK_WORKFLOW,
                start.request,
                id=start.id,
                task_queue=contract.ENGINE_QUEUE,
                task_timeout=TASK_TIMEOUT,
                id_reuse_policy=reuse,
                search_attributes=specs.attributes(routine),
                memo={"routine": routine.name, "order": order_id},
                static_summary=f"{routine.name}: {start.request.trigger or start.request.source}",
            )
        except WorkflowAlreadyStartedError as error:
            return await self._is_of(start, order_id), error.run_id
        except RPCError as error:
            raise away(error) from error
        return True, handle.result_run_id

    async def _is_of(self, start: Start, order_id: str) -> bool:
        """Whether this very order started the tick, before it was tried again."""
        try:
            memo = await (await self._temporal.get_workflow_handle(start.id).describe()).memo()
        except RPCError:
            return False  # it went away meanwhile; it was there
        if memo.get("routine", start.routine.name) != start.routine.name:
            raise Conflict(
                f"{start.id!r} is a tick of the routine {memo['routine']!r} already.", hint="Choose another key."
            )
        return memo.get("order") == order_id

    async def done(self, ids: Iterable[str]) -> set[str]:
        """Of these ticks, those that the ledger has; one that did not run does not count."""
        wanted, found = list(ids), set[str]()
        async with self._ledger.read() as connection:
            for begin in range(0, len(wanted), 500):
                some = wanted[begin : begin + 500]
                query = select(ticks.c.id).where(ticks.c.id.in_(some), ticks.c.status.not_in(DID_NOT_RUN))
                found |= set(await connection.scalars(query))
        return found


def starts_of_range(routine: Routine, order: RoutineOrder, now: datetime) -> list[Start]:
    """A tick for each fire of the range that an order names.

    Raises:
        ConfigError: The range is no range, is to come, or has too many fires.
    """
    start, end = order.start, order.end
    if start is None or end is None or start.tzinfo is None or end.tzinfo is None:
        raise ConfigError("A backfill needs `start` and `end`, with their time zone.")
    if start > end:
        raise ConfigError("`end` is before `start`.")
    if end > now:
        raise ConfigError("`end` is still to come, and so are its fires.", hint="Backfill up to now at the most.")
    if not routine.timed:
        raise ConfigError(f"The routine {routine.name!r} has no trigger of time, so there is nothing to backfill.")
    found: dict[datetime, str] = {}
    for trigger in routine.timed:
        for count, fire in enumerate(specs.fires(routine, routine.triggers[trigger], start, end)):
            found.setdefault(fire, trigger)
            if count >= MOST_BACKFILLED or len(found) > MOST_BACKFILLED:
                raise ConfigError(
                    f"{routine.name!r} fires more than {MOST_BACKFILLED:,} times in this range.",
                    hint="Backfill it in parts.",
                )
    return [
        Start(
            tick_id(routine.name, fire),
            routine,
            TickRequest(routine=routine.name, trigger=found[fire], source="backfill", at=fire, by=order.by),
        )
        for fire in sorted(found)
    ]


def unscheduled_id(routine: Routine, key: str | None, at: datetime) -> str:
    """The id of a tick that no schedule starts: microseconds keep two orders of one second apart.

    No routine's name has a dot in it, so what follows one can be taken for no other routine's tick, nor for a
    scheduled one.

    Raises:
        ConfigError: The key cannot be part of an id, or could be taken for a time.
    """
    if key is None:
        return f"routine.{routine.name}.{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    made = f"routine.{routine.name}.{key}"
    if not RUN_ID.match(made):
        raise ConfigError(f"The key {key!r} cannot be used.", hint="Use letters, digits and any of _.:- in it.")
    if A_TIME.match(key):
        raise ConfigError(f"The key {key!r} looks like the time of a tick.", hint="Put something before it.")
    return made
