"""The activities of a tick: let it in, give each attempt its run and its input, write down what came of it.

All are local activities: a transaction in the ledger each, and a word to other workflows where one is owed. A word that
is lost does no harm, because whoever waits for it asks again by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import structlog
from temporalio import activity
from temporalio.client import Client as TemporalClient
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from horarium import contract
from horarium.content import digest
from horarium.contract import RunRequest
from horarium.errors import HorariumError
from horarium.ids import run_id_for_key, thread_id_for_run
from horarium.ledger.admission import Opened, is_of
from horarium.ledger.agents import Agents
from horarium.ledger.alerts import Alerts
from horarium.ledger.database import Ledger
from horarium.ledger.routines import Routines
from horarium.ledger.runs import Runs
from horarium.ledger.threads import Threads
from horarium.ledger.ticks import TickRecord, Ticks
from horarium.project import AgentFiles
from horarium.routines import Routine
from horarium.settings import Settings
from horarium.templates import Past, Tick, render, values_of
from horarium.tick_protocol import (
    ADMIT_TICK,
    CLOSE_TICK,
    END_ATTEMPT,
    LOOK_AT_ATTEMPT,
    OPEN_ATTEMPT,
    OPEN_TICK,
    SIGNAL_ADMITTED,
    AdmitTick,
    Alert,
    Attempt,
    AttemptNow,
    ClosedTick,
    CloseTick,
    EndAttempt,
    LookAtAttempt,
    OpenAttempt,
    OpenTick,
    TickPlan,
)

log = structlog.get_logger()

IMPORTED = "foundry."
OVERLAPPED = "The next tick of its routine ended it (`overlap: terminate_other`)."


@dataclass(frozen=True, slots=True)
class _Begun:
    """What the run of an attempt is begun with."""

    version: int | None
    thread: str
    input: str | None


class TickKeeper:
    """The activities of a tick and what they need."""

    def __init__(self, ledger: Ledger, temporal: TemporalClient, settings: Settings, files: AgentFiles | None) -> None:
        self._ticks = Ticks(ledger, max_running=settings.routines.max_ticks)
        self._routines = Routines(ledger)
        self._runs = Runs(ledger)
        self._threads = Threads(ledger)
        self._alerts = Alerts(ledger)
        self._agents = Agents(ledger)
        self._temporal = temporal
        self._files = files

    @activity.defn(name=OPEN_TICK)
    async def open_tick(self, opening: OpenTick) -> TickPlan:
        """Write a tick down and say whether it begins, waits or is skipped."""
        return await self._let_in(await self._ticks.open(opening))

    @activity.defn(name=ADMIT_TICK)
    async def admit_tick(self, asking: AdmitTick) -> TickPlan:
        """Ask again for a tick that waits."""
        return await self._let_in(await self._ticks.admit(asking.tick, asking.at))

    @activity.defn(name=OPEN_ATTEMPT)
    async def open_attempt(self, opening: OpenAttempt) -> Attempt:
        """Give an attempt its run: the first one the rendered input, each other one the run to resume.

        What cannot be done is an answer and no failure: it would fail again.
        """
        tick = await self._ticks.get(opening.tick)
        try:
            return await self._opened(tick, opening.number)
        except HorariumError as error:
            log.warning("tick.no_attempt", tick=tick.id, code=error.code, why=str(error))
            return Attempt(code=error.code, message=str(error))

    @activity.defn(name=END_ATTEMPT)
    async def end_attempt(self, ending: EndAttempt) -> None:
        """Write down that an attempt failed and when the next one follows."""
        for tick in await self._ticks.attempt_ended(ending):
            await self._send(tick, SIGNAL_ADMITTED)

    @activity.defn(name=LOOK_AT_ATTEMPT)
    async def look_at_attempt(self, looking: LookAtAttempt) -> AttemptNow:
        """Say whether the run of an attempt waits for people, and tell them where nobody is expected to look."""
        tick = await self._ticks.get(looking.tick)
        run = run_id_for_key(tick.tenant, f"{tick.id}/{looking.number}")
        parked = (await self._runs.get(run)).status == "requires_action"
        if parked and tick.routine_then.unattended == "deny":
            await self._hand_on(await self._alerts.parked(tick, run, looking.at), looking.at)
        return AttemptNow(parked=parked)

    @activity.defn(name=CLOSE_TICK)
    async def close_tick(self, closing: CloseTick) -> ClosedTick:
        """Write down how the tick ended, hand on whom that concerns, and let in who waited for it."""
        closed = await self._ticks.close(closing)
        await self._hand_on(closed.alerts, closing.at)
        await self._runs.drop_unread(closing.tick)
        for tick in closed.next:
            await self._send(tick, SIGNAL_ADMITTED)
        return ClosedTick(alerts=closed.alerts)

    async def _opened(self, tick: TickRecord, number: int) -> Attempt:
        routine = tick.routine_then
        run = run_id_for_key(tick.tenant, f"{tick.id}/{number}")
        resumes = run_id_for_key(tick.tenant, f"{tick.id}/{number - 1}") if number > 1 else None
        asked = await self._runs.asked(run)
        if asked is not None and asked.run.tick == tick.id:
            # Whoever wrote it down died right after; meanwhile the agent or the routine may have changed.
            begun = _Begun(asked.run.version, asked.run.thread_id, asked.input)
        else:
            begun = await self._begun(tick, run, resumes)
        request = RunRequest(
            agent=routine.agent,
            version=begun.version,
            thread=begun.thread,
            tenant=tick.tenant,
            requested_by=routine.starter,
            resume_from=resumes,
            metadata={"routine": routine.name, "tick": tick.id} | _labels(routine),
        )
        if asked is None or asked.run.tick != tick.id:
            whole = request.model_copy(update={"input": begun.input})
            request_digest = digest({"request": whole.model_dump(mode="json", exclude={"functions", "output_schema"})})
            await self._runs.create(run, whole, key=None, request_digest=request_digest, tick=tick.id)
        keep = routine.conversation == "continue"
        await self._ticks.attempt_opened(
            tick.id, number, run=run, thread=begun.thread, input=begun.input, keep_thread=keep
        )
        return Attempt(run=run, request=request)

    async def _begun(self, tick: TickRecord, run: str, resumes: str | None) -> _Begun:
        routine, text = tick.routine_then, None
        if resumes is None:
            text = tick.input if tick.input is not None else await self._input(tick)
        await self._newest(routine.agent)
        newest = (await self._agents.get(routine.agent, routine.version)).version
        return _Begun(await self._version_before(resumes, newest), await self._thread(tick, run), text)

    async def _thread(self, tick: TickRecord, run: str) -> str:
        """That of the attempt before; else, with `conversation: continue`, the routine's, unless it was deleted."""
        if tick.thread_id is not None:
            return tick.thread_id
        if tick.routine_then.conversation == "continue":
            record = await self._routines.current(tick.routine)
            if record is not None and record.thread_id is not None and is_of(tick, record):
                if not await self._threads.is_gone(record.thread_id, tick.tenant):
                    return record.thread_id
                log.info("routine.new_conversation", routine=record.name, gone=record.thread_id)
                await self._threads.leave(record.thread_id)
        return thread_id_for_run(run)

    async def _version_before(self, resumes: str | None, newest: int) -> int:
        """A resumed attempt goes on with the version that its steps were made with."""
        if resumes is None:
            return newest
        return (await self._runs.get(resumes)).version or newest

    async def _newest(self, agent: str) -> None:
        """An edited definition counts from the next tick on, without a restart."""
        found = self._files.current().get(agent) if self._files is not None else None
        if found is not None:
            await self._agents.register(found)

    async def _input(self, tick: TickRecord) -> str:
        """What the first attempt is asked.

        Raises:
            TemplateFailed: The routine's template does not fit what there is.
        """
        given = dict(tick.event or {})
        if given.get("input") is not None:
            return str(given["input"])
        record = await self._routines.get(tick.routine)
        return render(
            tick.routine_then.input,
            values_of(
                routine=tick.routine_then,
                created_at=record.created_at,
                tick=Tick.of(tick),
                previous=await self._past(record.previous_tick),
                last=await self._past(record.last_tick),
                state=dict(tick.state or {}),
                event=given.get("event"),
            ),
        )

    async def _past(self, tick: str | None) -> Past | None:
        return Past.of(await self._ticks.get(tick)) if tick is not None else None

    # ---- a word to others

    async def _let_in(self, opened: Opened) -> TickPlan:
        for tick in opened.cancel:
            await self._cancel(tick)
        for tick in opened.terminate:
            await self._terminate(tick)
        return opened.plan

    async def _cancel(self, tick: str) -> None:
        try:
            await self._temporal.get_workflow_handle(tick).cancel()
        except RPCError as error:
            _unless_gone(error)

    async def _terminate(self, tick_id: str) -> None:
        """End a tick that is in the way, with its run: neither can write down that it ended, so it is done for them."""
        tick = await self._ticks.get(tick_id)
        for workflow in (tick_id, tick.run_id):
            if workflow is None:
                continue
            try:
                await self._temporal.get_workflow_handle(workflow).terminate(reason=OVERLAPPED)
            except RPCError as error:
                _unless_gone(error)
        if tick.run_id is not None:
            await self._runs.close_gone(tick.run_id)
        await self.end_gone(tick_id, "terminated_by_next", OVERLAPPED)

    async def end_gone(self, tick: str, code: str, message: str, *, failed: bool = False) -> ClosedTick:
        """Close a tick whose workflow cannot do it any more: it was ended from outside."""
        status: Literal["failed", "cancelled"] = "failed" if failed else "cancelled"
        closing = CloseTick(tick=tick, status=status, code=code, message=message, at=datetime.now(UTC))
        return await self.close_tick(closing)

    async def _hand_on(self, alerts: Sequence[Alert], at: datetime) -> None:
        """Have alerts told, each by a workflow of its own. The watch does it where this process dies before."""
        for alert in alerts:
            with contextlib.suppress(WorkflowAlreadyStartedError):
                await self._temporal.start_workflow(
                    contract.ROUTINE_ALERT_WORKFLOW,
                    alert,
                    id=alert.workflow_id,
                    task_queue=contract.ENGINE_QUEUE,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                    static_summary=f"{alert.routine}: {alert.event}",
                )
        await self._alerts.handed_on(alerts, at)

    async def _send(self, workflow: str, signal: str, *arguments: object) -> None:
        try:
            await self._temporal.get_workflow_handle(workflow).signal(signal, args=list(arguments))
        except RPCError as error:
            _unless_gone(error)


def _labels(routine: Routine) -> dict[str, str]:
    """Those that people gave; an imported routine keeps there what only Foundry knows."""
    own = {name: value for name, value in routine.labels.items() if not name.startswith(IMPORTED)}
    return dict(list(own.items())[:14])


def _unless_gone(error: RPCError) -> None:
    if error.status is not RPCStatusCode.NOT_FOUND:
        raise error
