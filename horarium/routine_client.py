"""The client's routines: what it orders goes through the engine, what it looks at comes from the ledger."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import ValidationError
from temporalio.client import Client as TemporalClient
from temporalio.client import WorkflowFailureError
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError

from horarium import contract
from horarium.contract import RoutineAction, RoutineOrder, RoutineOrdered, TickStatus
from horarium.definitions import Agent
from horarium.durations import duration
from horarium.errors import BY_CODE, ConfigError, Conflict, HorariumError, Unreachable
from horarium.ids import new_order_id, order_id
from horarium.ledger.agents import Agents
from horarium.ledger.database import Ledger
from horarium.ledger.routines import RoutineRecord, Routines
from horarium.ledger.ticks import TickRecord, Ticks
from horarium.problems import sentences
from horarium.proof import KeyRing
from horarium.routines import OnFailure, Overlap, Routine, Unattended
from horarium.settings import Settings

ORDER_PATIENCE = timedelta(seconds=60)
BACKFILL_PATIENCE = timedelta(minutes=10)  # its ticks are started one after the other
TRIGGER = "main"  # of a routine that is made with one
ORDER_TASK_TIMEOUT = timedelta(seconds=2)
ORDERS_AT_ONCE = 16  # of one that is for many routines


@dataclass(frozen=True, slots=True)
class Paused:
    """What pausing many routines came to; `wrong`: name to why it could not be."""

    obeyed: tuple[str, ...]
    wrong: Mapping[str, str]


class RoutineClient(ABC):
    """The part of `Client` that is about routines.

    What changes one or has it run is signed, when there is a key for who wants it (`by`).
    """

    temporal: TemporalClient
    settings: Settings | None

    @abstractmethod
    def require_ledger(self) -> Ledger:
        """The ledger."""

    @abstractmethod
    def _check_plan(self, agent: Agent) -> None:
        """Refuse an agent whose approval plan cannot be kept."""

    # ---- changing

    async def routine(
        self,
        name: str,
        agent: str | Agent,
        input: str,
        *,
        cron: str | None = None,
        time_zone: str = "UTC",
        every: timedelta | str | None = None,
        at: datetime | None = None,
        event: str | None = None,
        conversation: Literal["new", "continue"] = "new",
        timeout: timedelta = timedelta(hours=1),
        on_failure: OnFailure = "alert",
        unattended: Unattended = "ask",
        overlap: Overlap = "skip",
        catch_up: timedelta = timedelta(hours=1),
        alert: Sequence[str] = (),
        tenant: str = "default",
        by: str | None = None,
    ) -> RoutineOrdered:
        """Create or update a routine with one trigger, called `main`. For more of them: `put_routine`.

        Args:
            agent: Its name, or a definition, which becomes its newest version.
            input: A Jinja template; it knows `previous`, `last`, `state`, `tick` and `event`.
            cron: With `time_zone`; or give `every` (`"90m"`), `at` or `event` instead.
            alert: Apprise addresses, each by reference: `${TEAMS_ALERT_URL}`.
            by: Who wants it; it is in this name that preapproved calls are released.

        Raises:
            ConfigError: It cannot be deployed; names everything that is wrong with it.
            ProofInvalid: The workers require proof, and there is no key for `by` here. So for every order but an event.
            Conflict: The name is another tenant's.
            Unreachable: Temporal, or a worker, does not answer.
        """
        kinds = {"cron": cron, "every": every, "at": at, "event": event}
        given: dict[str, Any] = {kind: value for kind, value in kinds.items() if value is not None}
        if len(given) != 1:
            raise ConfigError("A routine has exactly one of `cron`, `every`, `at` and `event` here.")
        if isinstance(agent, Agent):
            self._check_plan(agent)
            await Agents(self.require_ledger()).register(agent)
            agent = agent.name
        if "every" in given:
            given["every"] = duration(given["every"])
        definition = {
            "name": name,
            "agent": agent,
            "input": input,
            "triggers": {TRIGGER: given | ({"time_zone": time_zone} if cron is not None else {})},
            "conversation": conversation,
            "timeout": timeout,
            "on_failure": on_failure,
            "unattended": unattended,
            "overlap": overlap,
            "catch_up": catch_up,
            "alert": tuple(alert),
            "tenant": tenant,
        }
        return await self.put_routine(_valid(definition), by=by)

    async def put_routine(self, routine: Routine, *, by: str | None = None) -> RoutineOrdered:
        """Create or update a routine; the same twice is one change. Raises as `routine`."""
        definition = routine.model_dump(mode="json", exclude_defaults=True)
        return await self._order("put", routine.name, routine.tenant, by, definition=definition)

    async def delete_routine(self, name: str, *, tenant: str = "default", by: str | None = None) -> RoutineOrdered:
        """Take a routine out of use; its ticks stay as evidence. Safe to repeat.

        Raises:
            RoutineNotFound: There never was one.
            Unreachable: Temporal, or a worker, does not answer.
        """
        return await self._order("delete", name, tenant, by)

    async def pause_routine(
        self,
        name: str,
        *,
        note: str | None = None,
        until: datetime | None = None,
        tenant: str = "default",
        by: str | None = None,
    ) -> RoutineOrdered:
        """Let no trigger fire from now on.

        Args:
            note: Why.
            until: It resumes by itself.

        Raises:
            RoutineNotFound: There is none.
            ConfigError: `until` has passed.
            Unreachable: Temporal, or a worker, does not answer.
        """
        return await self._order("pause", name, tenant, by, note=note, until=until)

    async def resume_routine(self, name: str, *, tenant: str = "default", by: str | None = None) -> RoutineOrdered:
        """Let the triggers fire again, and count failures anew.

        Raises:
            RoutineNotFound: There is none.
            Unreachable: Temporal, or a worker, does not answer.
        """
        return await self._order("resume", name, tenant, by)

    async def pause_routines(
        self, *, note: str | None = None, tenant: str = "default", by: str | None = None
    ) -> Paused:
        """Pause every routine that fires, for when something is wrong. What runs already goes on.

        Returns:
            Which were paused, and why some could not be: they fire on.
        """
        room = asyncio.Semaphore(ORDERS_AT_ONCE)
        wrong: dict[str, str] = {}

        async def one(name: str) -> str:
            async with room:
                try:
                    await self.pause_routine(name, note=note, tenant=tenant, by=by)
                except HorariumError as error:
                    wrong[name] = error.message
            return name

        firing = [record.name for record in await self.routines(tenant=tenant) if not record.paused]
        asked = await asyncio.gather(*map(one, firing))
        return Paused(tuple(name for name in asked if name not in wrong), wrong)

    # ---- running

    async def run_routine(
        self,
        name: str,
        input: str | None = None,
        *,
        key: str | None = None,
        tenant: str = "default",
        by: str | None = None,
    ) -> RoutineOrdered:
        """Start a tick now, also of a paused routine; its id is in `ticks`.

        Args:
            input: Instead of the routine's template.
            key: The same key is the same tick, however often it is asked for.

        Raises:
            RoutineNotFound: There is none.
            ConfigError: The key cannot be part of an id.
            Conflict: The key leads to another routine's tick.
            Unreachable: Temporal, or a worker, does not answer; with a key it is safe to try again.
        """
        return await self._order("run", name, tenant, by, key=key, input=input)

    async def backfill_routine(
        self, name: str, start: datetime, end: datetime, *, tenant: str = "default", by: str | None = None
    ) -> RoutineOrdered:
        """Start a tick for each fire from `start` to `end` that has none, or did not run; at most 1,000.

        They begin in the order of their times. Safe to repeat.

        Raises:
            RoutineNotFound: There is none.
            ConfigError: The range is to come, empty, or has too many fires.
            Unreachable: Temporal, or a worker, does not answer.
        """
        return await self._order("backfill", name, tenant, by, start=start, end=end)

    async def fire_event(
        self,
        event: str,
        payload: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        tenant: str = "default",
        by: str | None = None,
    ) -> RoutineOrdered:
        """Say that something happened: every routine with a trigger for it begins a tick, unless it is paused.

        Args:
            payload: What their templates get as `event`; at most 16,000 characters of JSON.
            key: The same key sets a routine off once.

        Raises:
            ConfigError: The payload is too large, or the key cannot be part of an id.
            Unreachable: Temporal, or a worker, does not answer; with a key it is safe to try again.
        """
        return await self._order("fire", None, tenant, by, event=event, payload=dict(payload or {}), key=key)

    # ---- looking

    async def routines(self, *, tenant: str | None = None) -> list[RoutineRecord]:
        """All routines, by name."""
        return await Routines(self.require_ledger()).list(tenant=tenant)

    async def routine_record(self, name: str, *, tenant: str | None = None) -> RoutineRecord:
        """One routine, as it is meant to be and with what it remembers. `tenant` None: whose it is does not matter.

        Raises:
            RoutineNotFound: There is none, or it is another tenant's.
        """
        return await Routines(self.require_ledger()).get(name, tenant=tenant)

    async def ticks(
        self,
        routine: str | None = None,
        *,
        status: Sequence[TickStatus] = (),
        tenant: str | None = None,
        before: tuple[datetime, str] | None = None,
        limit: int = 50,
    ) -> list[TickRecord]:
        """The latest ticks, of one routine or of all, newest first.

        `before`: the scheduled time and the id of the last one of the page before.
        """
        return await Ticks(self.require_ledger()).list(
            routine=routine, status=status, tenant=tenant, before=before, limit=limit
        )

    async def tick(self, tick: str, *, tenant: str | None = None) -> TickRecord:
        """One tick.

        Raises:
            RoutineNotFound: There is none of this id, or it is another tenant's.
        """
        return await Ticks(self.require_ledger()).get(tick, tenant=tenant)

    async def _order(
        self, action: RoutineAction, routine: str | None, tenant: str, by: str | None, **rest: Any
    ) -> RoutineOrdered:
        said = {"action": action, "routine": routine, "tenant": tenant, "by": by, **rest}
        try:
            order = RoutineOrder.model_validate(said)
        except ValidationError as error:
            raise ConfigError("\n".join(sentences(error, RoutineOrder))) from error
        key = order.key
        name = order_id(tenant, action, routine or order.event or "", key) if key is not None else new_order_id()
        patience = BACKFILL_PATIENCE if action == "backfill" else ORDER_PATIENCE
        try:
            return await asyncio.wait_for(self._obeyed(name, self._proven(name, order)), patience.total_seconds())
        except WorkflowFailureError as error:
            raise _raised(error.cause) from error
        except TimeoutError as error:
            raise Unreachable(
                f"Nobody has obeyed the order {name} so far; it stands, and will be when a worker is up.",
                hint="Look what is missing: horarium doctor",
            ) from error
        except RPCError as error:
            raise Unreachable(f"Temporal does not serve this: {error.message}.", hint="Try: horarium doctor") from error

    def _proven(self, name: str, order: RoutineOrder) -> RoutineOrder:
        if order.by is None or order.action == "fire" or self.settings is None:
            return order
        signer = KeyRing.of(self.settings).signer(order.by)
        return signer.sign(name, order) if signer is not None else order

    async def _obeyed(self, name: str, order: RoutineOrder) -> RoutineOrdered:
        try:
            handle = await self.temporal.start_workflow(
                contract.ROUTINE_ORDER_WORKFLOW,
                order,
                id=name,
                task_queue=contract.ENGINE_QUEUE,
                task_timeout=ORDER_TASK_TIMEOUT,
                result_type=RoutineOrdered,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
                static_summary=f"{order.action} {order.routine or order.event or ''}".strip(),
            )
        except WorkflowAlreadyStartedError:
            handle = self.temporal.get_workflow_handle(name, result_type=RoutineOrdered)
        ordered: RoutineOrdered = await handle.result()
        return ordered


def _raised(cause: BaseException) -> HorariumError:
    if not isinstance(cause, ApplicationError):
        return Conflict(f"The order was not obeyed: {cause}.")
    return BY_CODE.get(cause.type or "", HorariumError)(cause.message)


def _valid(definition: dict[str, Any]) -> Routine:
    try:
        return Routine.model_validate(definition)
    except ValidationError as error:
        raise ConfigError("\n".join(sentences(error, Routine))) from error
