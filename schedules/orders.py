"""The activity that obeys orders about routines: from the client, and from any service that can start a workflow.

Each may be tried again after it was half done: rows are written once, schedules converge, and a tick's id says which
order it is of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import ValidationError
from temporalio import activity
from temporalio.client import Client as TemporalClient

from horarium import contract
from horarium.content import canonical
from horarium.contract import RoutineOrder, RoutineOrdered, TickRequest
from horarium.errors import ConfigError, RoutineNotFound
from horarium.ledger.database import Ledger
from horarium.ledger.routines import RoutineRecord, Routines
from horarium.problems import sentences
from horarium.routines import EventTrigger, Routine
from horarium.settings import Settings
from horarium.tick_protocol import OBEY_ORDER
from horarium.toolhost import heartbeating
from schedules.checks import Known, routine_problems
from schedules.deploy import Deployment
from schedules.proving import OrderProofs
from schedules.starts import Start, Starter, starts_of_range, unscheduled_id

MOST_EVENT_CHARS = contract.MAX_INLINE_INPUT_CHARS


class Orders:
    """Obeys orders; one object for each worker."""

    def __init__(self, ledger: Ledger, temporal: TemporalClient, settings: Settings) -> None:
        self._ledger = ledger
        self._starter = Starter(ledger, temporal)
        self._settings = settings
        self._routines = Routines(ledger)
        self._deployment = Deployment(ledger, temporal)
        self._proofs = OrderProofs(ledger, settings)

    @activity.defn(name=OBEY_ORDER)
    async def obey_order(self, order: RoutineOrder) -> RoutineOrdered:
        """Change a routine, or have it run. Safe to repeat.

        Raises:
            ProofInvalid: Proof is required, and nobody proves who gave it; nothing is done.
            RoutineNotFound: There is none of this name in the order's tenant.
            ConfigError: The order or the definition in it is wrong; names everything that is.
            Conflict: It contradicts what stands, as a key that another routine used.
            Unreachable: Temporal does not answer. Tried again.
        """
        info = activity.info()
        async with heartbeating():
            return await self.obey(order, str(info.workflow_id), info.scheduled_time, execution=info.workflow_run_id)

    async def obey(
        self, order: RoutineOrder, order_id: str, at: datetime, *, execution: str | None = None
    ) -> RoutineOrdered:
        """As the activity, for an order that was given at a time, by one of the workflows of its id."""
        await self._proofs.verify(order, order_id, execution or order_id, at)
        match order.action:
            case "put":
                return await self._put(order)
            case "delete":
                return await self._delete(order)
            case "pause":
                return await self._pause(order, at)
            case "resume":
                return await self._resume(order, at)
            case "run":
                return await self._run(order, order_id, at)
            case "backfill":
                return await self._backfill(order, order_id, at)
            case "fire":
                return await self._fire(order, order_id, at)

    # ---- changing

    async def _put(self, order: RoutineOrder) -> RoutineOrdered:
        routine = _defined(order)
        known = await Known.read(self._ledger)
        problems = await asyncio.to_thread(routine_problems, routine, known, self._settings)
        if problems:
            raise ConfigError("\n".join(f"{'.'.join(map(str, path))}: {problem}" for path, problem in problems))
        _, changed = await self._deployment.put(routine, by=order.by)
        said = (
            f"The routine {routine.name!r} is deployed." if changed else f"The routine {routine.name!r} was so before."
        )
        return RoutineOrdered(action="put", routine=routine.name, changed=changed, message=said)

    async def _delete(self, order: RoutineOrder) -> RoutineOrdered:
        name = _named(order)
        before = await self._routines.current(name)
        if before is None or before.tenant != order.tenant:
            raise _none(name)
        await self._deployment.delete(name, by=order.by)
        changed = before.deleted_at is None
        said = f"The routine {name!r} is deleted{_as_before(changed)}; its ticks stay as evidence."
        return RoutineOrdered(action="delete", routine=name, changed=changed, message=said)

    async def _pause(self, order: RoutineOrder, at: datetime) -> RoutineOrdered:
        name = (await self._mine(order)).name
        until = order.until
        if until is not None and until.tzinfo is None:
            raise ConfigError("`until` has no time zone.", hint="Write it like 2026-12-01T09:00:00Z.")
        if until is not None and until <= at:
            raise ConfigError("`until` has passed already.", hint="Name a time that is to come, or none.")
        _, changed = await self._routines.pause(name, note=order.note, until=until, by=order.by, at=at)
        await self._deployment.converge(name, by=order.by)
        end = f" until {until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if until else ""
        said = f"The routine {name!r} is paused{end}{_as_before(changed)}."
        return RoutineOrdered(action="pause", routine=name, changed=changed, message=said)

    async def _resume(self, order: RoutineOrder, at: datetime) -> RoutineOrdered:
        name = (await self._mine(order)).name
        _, changed = await self._routines.resume(name, by=order.by, at=at)
        await self._deployment.converge(name, by=order.by)
        said = f"The routine {name!r} fires {'again' if changed else '(as before)'}."
        return RoutineOrdered(action="resume", routine=name, changed=changed, message=said)

    # ---- running

    async def _run(self, order: RoutineOrder, order_id: str, at: datetime) -> RoutineOrdered:
        routine = (await self._mine(order)).routine
        request = TickRequest(routine=routine.name, source="manual", at=at, input=order.input, by=order.by)
        return await self._started(order, order_id, [Start(unscheduled_id(routine, order.key, at), routine, request)])

    async def _backfill(self, order: RoutineOrder, order_id: str, at: datetime) -> RoutineOrdered:
        routine = (await self._mine(order)).routine
        starts = await asyncio.to_thread(starts_of_range, routine, order, at)
        there = await self._starter.done([start.id for start in starts])
        return await self._started(order, order_id, [start for start in starts if start.id not in there])

    async def _fire(self, order: RoutineOrder, order_id: str, at: datetime) -> RoutineOrdered:
        if not order.event:
            raise ConfigError("The order has no `event`.", hint="Name the event that happened.")
        check_payload(order.payload)
        starts: list[Start] = []
        paused: list[str] = []
        for record in await self._routines.list(tenant=order.tenant):
            routine = record.routine
            trigger = next((name for name, item in routine.triggers.items() if _waits(item, order.event)), None)
            if trigger is None or (routine.start and at < routine.start) or (routine.end and at > routine.end):
                continue
            if record.paused:
                paused.append(routine.name)
                continue
            request = TickRequest(
                routine=routine.name, trigger=trigger, source="event", at=at, event=order.payload or {}, by=order.by
            )
            starts.append(Start(unscheduled_id(routine, order.key, at), routine, request))
        return await self._started(order, order_id, starts, paused)

    async def _started(
        self, order: RoutineOrder, order_id: str, starts: Sequence[Start], paused: Sequence[str] = ()
    ) -> RoutineOrdered:
        start = self._starter.start_in_turn if order.action == "backfill" else self._starter.start
        fresh = await start(starts, order_id)
        ids = [start.id for start, new in zip(starts, fresh, strict=True) if new or order.action != "backfill"]
        said = _told(order, sum(fresh), paused)
        return RoutineOrdered(
            action=order.action, routine=order.routine, changed=any(fresh), ticks=tuple(ids), message=said
        )

    async def _mine(self, order: RoutineOrder) -> RoutineRecord:
        return await self._routines.get(_named(order), tenant=order.tenant)


def check_payload(payload: object) -> None:
    """See that an event's payload is small enough for Temporal's history.

    Raises:
        ConfigError: It is not, or is no JSON.
    """
    try:
        size = len(canonical(payload or {}))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The event's payload is no JSON: {error}.") from error
    if size > MOST_EVENT_CHARS:
        raise ConfigError(
            f"The event's payload has {size:,} characters of JSON; at most {MOST_EVENT_CHARS:,} are taken.",
            hint="Send what leads to it, like an id or an address, and give the agent a tool that reads it.",
        )


def _defined(order: RoutineOrder) -> Routine:
    values = dict(order.definition or {})
    if not values:
        raise ConfigError("The order has no `definition`.", hint="Give the fields of a routine's file.")
    name = order.routine or values.get("name")
    for field, meant in (("name", name), ("tenant", order.tenant)):
        if values.setdefault(field, meant) != meant:
            raise ConfigError(f"{field}: is {values[field]!r} in the definition, and {meant!r} in the order.")
    try:
        return Routine.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(sentences(error, Routine))) from error


def _waits(trigger: object, event: str) -> bool:
    return isinstance(trigger, EventTrigger) and trigger.event == event


def _told(order: RoutineOrder, fresh: int, paused: Sequence[str]) -> str:
    ticks_said = "1 tick was started" if fresh == 1 else f"{fresh:,} ticks were started"
    if order.action == "fire" and not fresh:
        ticks_said = f"No routine was set off by {order.event!r}"
    elif order.action == "run" and not fresh:
        ticks_said = "The key had set it off before"
    return ticks_said + (f"; paused: {', '.join(paused)}." if paused else ".")


def _as_before(changed: bool) -> str:
    return "" if changed else " (as before)"


def _named(order: RoutineOrder) -> str:
    if not order.routine:
        raise ConfigError("The order has no `routine`.", hint="Name the routine that it is about.")
    return order.routine


def _none(name: str) -> RoutineNotFound:
    return RoutineNotFound(f"There is no routine {name!r}.", hint="See which there are: horarium routine list")
