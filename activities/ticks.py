"""The activities of a tick: let it in, give each attempt its run and its input, write down what came of it.

All are local activities: a transaction in the ledger each, and a word to other workflows where one is owed. A word that
is lost does no harm, because whoever waits for it asks again by itself.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import structlog
from temporalio import activity
from temporalio.client import Client as TemporalClient
from temporalio.service import RPCError, RPCStatusCode

from horarium.content import digest
from horarium.contract import RunRequest
from horarium.errors import HorariumError
from horarium.ids import run_id_for_key, thread_id_for_run
from horarium.ledger.admission import Opened
from horarium.ledger.agents import Agents
from horarium.ledger.database import Ledger
from horarium.ledger.routines import Routines
from horarium.ledger.runs import Runs
from horarium.ledger.ticks import TickRecord, Ticks
from horarium.project import AgentFiles
from horarium.routines import Routine
from horarium.settings import Settings
from horarium.templates import Past, Tick, render, values_of
from horarium.tick_protocol import (
    ADMIT_TICK,
    CLOSE_TICK,
    END_ATTEMPT,
    OPEN_ATTEMPT,
    OPEN_TICK,
    SIGNAL_ADMITTED,
    AdmitTick,
    Attempt,
    ClosedTick,
    CloseTick,
    EndAttempt,
    OpenAttempt,
    OpenTick,
    TickPlan,
)

log = structlog.get_logger()

IMPORTED = "foundry."
OVERLAPPED = "The next tick of its routine ended it (`overlap: terminate_other`)."


class TickKeeper:
    """The activities of a tick and what they need."""

    def __init__(self, ledger: Ledger, temporal: TemporalClient, settings: Settings, files: AgentFiles | None) -> None:
        self._ticks = Ticks(ledger, max_running=settings.routines.max_ticks)
        self._routines = Routines(ledger)
        self._runs = Runs(ledger)
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

    @activity.defn(name=CLOSE_TICK)
    async def close_tick(self, closing: CloseTick) -> ClosedTick:
        """Write down how the tick ended, and let in who waited for that."""
        closed = await self._ticks.close(closing)
        for tick in closed.next:
            await self._send(tick, SIGNAL_ADMITTED)
        return ClosedTick(alerts=closed.alerts)

    async def _opened(self, tick: TickRecord, number: int) -> Attempt:
        routine = tick.routine_then
        record = await self._routines.current(tick.routine)
        run = run_id_for_key(tick.tenant, f"{tick.id}/{number}")
        resumes = run_id_for_key(tick.tenant, f"{tick.id}/{number - 1}") if number > 1 else None
        text = None
        if number == 1:
            text = tick.input if tick.input is not None else await self._input(tick)
        await self._newest(routine.agent)
        version = (await self._agents.get(routine.agent, routine.version)).version
        keep = routine.conversation == "continue"
        thread = tick.thread_id or (record.thread_id if keep and record is not None else None) or thread_id_for_run(run)
        request = RunRequest(
            agent=routine.agent,
            version=version if number == 1 else await self._version_before(resumes, version),
            thread=thread,
            tenant=tick.tenant,
            requested_by=routine.starter,
            resume_from=resumes,
            metadata={"routine": routine.name, "tick": tick.id} | _labels(routine),
        )
        asked = request.model_copy(update={"input": text})
        await self._runs.create(
            run, asked, key=None, request_digest=digest({"request": asked.model_dump(mode="json")}), tick=tick.id
        )
        await self._ticks.attempt_opened(tick.id, number, run=run, thread=thread, input=text, keep_thread=keep)
        return Attempt(run=run, request=request)

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
