"""The activity `open_run`: all that a run needs before its first step, and what it owes to the one it resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.client import Client as TemporalClient
from temporalio.client import WorkflowExecutionStatus
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from activities.catalog import Catalog
from activities.direct import DirectCalls
from activities.discovery import Discovery, refresh
from activities.gating import Gatekeeper
from activities.handoff_words import FAILED
from horarium import embeddings
from horarium.content import call_digest
from horarium.contract import RunRequest
from horarium.definitions import Agent
from horarium.errors import (
    ConfigError,
    Conflict,
    RunNotFound,
    ToolUnavailable,
)
from horarium.ids import RUN_ID, STEP_ID, idempotency_key, split_step_id, step_id, sub_run_id, thread_id_for_run
from horarium.ledger.agents import Agents, ServedTool
from horarium.ledger.answer_schemas import AnswerSchemas
from horarium.ledger.approvals import Approvals
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Journal, StepClaim, StepRecord
from horarium.ledger.runs import Asked, Runs, handed_digest
from horarium.ledger.threads import ThreadMessage, Threads
from horarium.ledger.ticks import Ticks
from horarium.plans import plan_problems
from horarium.project import AgentFiles
from horarium.protocol import (
    OPEN_RUN,
    REVISION,
    Call,
    OpenRun,
    RunPlan,
)
from horarium.settings import Settings, notifies, told_of_runs
from horarium.tools import Effect
from horarium.turns import StoredCall, stored_turn

RESUMED_RUNS = 1_000  # in a row, of which four eyes keep the starters out
CALLS = ("tool_call", "handoff")
OPEN_PATIENCE = 60  # attempts, some seconds apart, for a tool worker that is still starting
ENDED = (
    WorkflowExecutionStatus.COMPLETED,
    WorkflowExecutionStatus.FAILED,
    WorkflowExecutionStatus.CANCELED,
    WorkflowExecutionStatus.TERMINATED,
    WorkflowExecutionStatus.TIMED_OUT,
)


@dataclass(frozen=True, slots=True)
class _Owed:
    """What an earlier run left open: calls to make, and steps whose answers the model has not seen."""

    calls: tuple[Call, ...] = ()
    answered: tuple[str, ...] = ()
    procedure_done: int = 0
    callers: bool = False  # what is left to do is a caller's call, and no model's


class Opening:
    """The activity `open_run` and what it needs."""

    def __init__(
        self,
        ledger: Ledger,
        catalog: Catalog,
        temporal: TemporalClient,
        discovery: Discovery,
        agents: AgentFiles | None,
        settings: Settings,
    ) -> None:
        self._runs = Runs(ledger)
        self._threads = Threads(ledger)
        self._agents = Agents(ledger)
        self._approvals = Approvals(ledger)
        self._gatekeeper = Gatekeeper(ledger)
        self._direct = DirectCalls(ledger, catalog)
        self._journal = Journal(ledger)
        self._ticks = Ticks(ledger)
        self._schemas = AnswerSchemas(ledger)
        self._catalog = catalog
        self._temporal = temporal
        self._discovery = discovery
        self._files = agents
        self._worker = settings.worker
        self._settings = settings

    @activity.defn(name=OPEN_RUN)
    async def open_run(self, opening: OpenRun) -> RunPlan:
        """Settle everything a run needs before its first step: agent version, thread, limits, what it resumes.

        Raises:
            AgentNotFound, ThreadNotFound, ThreadBusy, ToolUnavailable, Conflict, ConfigError: It cannot begin.
        """
        run, request = opening.run, opening.request
        if not RUN_ID.match(run):
            raise Conflict(
                f"{run!r} cannot be a run's id.", hint="Use at most 200 letters, digits, '-', '_', '.' or ':'."
            )
        written = await self._runs.asked(run)
        parent = await self._parent_of(run, request, written)
        newest = await refresh(self._agents, self._files, request.agent)
        version = await self._agents.get(request.agent, await self._discovery.pinned_version(run, request) or newest)
        agent = version.agent
        functions = await self._discovery.functions(run, request)
        await self._discovery.ensure(run, agent, version.version, request.tenant, functions.functions)
        served = await self._tools_are_served(run, agent)
        not_by = await self._starters(run, request, written)
        self._plan_can_be_kept(agent, served, not_by)
        asked = await self._direct.asked(run, request)
        called = await self._direct.served(run, agent, asked) if asked is not None else None
        if asked is None and "memory" in agent.by_meaning:
            embeddings.require("Memories")
        if asked is not None:
            request = self._direct.as_asked(request, asked)
        thread = await self._thread_of(run, request)
        owed = await self._owed(run, request, agent, thread)
        await self._release_if_gone(thread, run)
        messages = await self._runs.open(
            run, thread, request, version.version, answered=owed.answered, owes_calls=bool(owed.calls)
        )
        structured = await self._schemas.settle(
            run, asked=request.output_schema, resumes=request.resume_from, agents=agent.output_schema
        )
        plan = RunPlan(
            run=run,
            thread=thread,
            agent=agent.name,
            version=version.version,
            limits=request.limits or agent.limits,
            on_step_failure=agent.on_step_failure,
            procedure=agent.procedure,
            choice=functions.choice,
            remembers=agent.memory is not None,
            recalls=agent.memory is not None and agent.memory.recall > 0,
            model_timeout=agent.settings.timeout + timedelta(seconds=30),
            heartbeat_timeout=self._worker.heartbeat_timeout,
            continue_as_new_after=request.continue_as_new_after or self._worker.continue_as_new_after,
            pending=owed.calls,
            answered=owed.answered if owed.calls else (),
            messages=messages,
            procedure_done=owed.procedure_done,
            revision=REVISION,
            require_proof=self._settings.approvals.require_proof,
            notifies=notifies(self._settings),
            not_by=not_by,
            parent=parent.run_id if parent is not None else None,
            parent_step=parent.number if parent is not None else None,
            unserved_after=self._settings.tools.unserved_after,
            structured=structured,
            tells_runs=parent is None and bool(told_of_runs(self._settings, request.tenant)),
            execution=agent.execution or self._worker.execution,
        )
        if asked is not None and called is not None:
            pending = (await self._direct.begin(run, thread, request, agent, called, asked),)
            return _without_model(plan).model_copy(update={"pending": pending, "next_number": 2})
        return _without_model(plan) if asked is not None or owed.callers else plan

    async def _parent_of(self, run: str, request: RunRequest, written: Asked | None) -> StepRecord | None:
        """The step that handed this run its task, as it was written down before; None when nobody did.

        Raises:
            Conflict: What starts this run is not what the parent handed down, or the parent does not wait for it.
        """
        above = (written.run.parent_run, written.run.parent_step) if written is not None else (None, None)
        if request.parent is None and above == (None, None):
            return None
        strange = Conflict(f"Run {run} is no run that a sub-agent's task was handed to.", hint="Leave `parent` out.")
        if written is None or request.parent is None or not STEP_ID.match(request.parent):
            raise strange
        step = await self._journal.get(*split_step_id(request.parent))
        handed = (step.run_id, step.number) == above and run == sub_run_id(request.parent, step.permit)
        if not handed or written.run.request_digest != handed_digest(request):
            raise strange
        if (step.kind, step.status) != ("handoff", "claimed"):
            raise Conflict(f"Step {request.parent} no longer waits for run {run}.")
        return step

    async def _starters(self, run: str, request: RunRequest, written: Asked | None) -> tuple[str, ...]:
        """Who started the run, those that it goes on with and those above it: the people that four eyes keep out.

        Of a tick's run also who asked for the tick.
        """
        starters: list[str | None] = [request.requested_by]
        if written is not None and (written.run.tick, written.run.parent_run) != (None, None):
            starters.append(await self._asked_by(run))
        above = split_step_id(request.parent)[0] if request.parent is not None else None
        ahead = [before for before in (request.resume_from, above) if before is not None]
        seen: set[str] = set()
        while ahead and len(seen) < RESUMED_RUNS:
            before = ahead.pop()
            if before in seen:
                continue
            seen.add(before)
            record = await self._runs.get(before)
            starters += [record.requested_by, await self._asked_by(before) if record.tick is not None else None]
            ahead += [one for one in (record.resume_from, record.parent_run) if one is not None]
        return tuple(dict.fromkeys(name for name in starters if name))

    async def _asked_by(self, run: str) -> str | None:
        tick = await self._ticks.of_run(run)
        by = (tick.event or {}).get("by") if tick is not None else None
        return str(by) if by else None

    def _plan_can_be_kept(self, agent: Agent, served: Mapping[str, ServedTool], not_by: tuple[str, ...]) -> None:
        """Refuse a run whose approvals nobody could ever give.

        Raises:
            ConfigError: The plan names roles or arguments that are not there, or too few people.
            Conflict: It wants four eyes, and nobody said who starts the run, or nobody else is left to decide.
        """
        tools = {name: tool.spec for name, tool in served.items()}
        problems = plan_problems(agent, self._settings, tools=tools)
        if problems:
            raise ConfigError(f"The approval plan of {agent.name!r} cannot be kept: {problems[0]}")
        alone = plan_problems(agent, self._settings, not_by=not_by)
        if alone:
            raise Conflict(
                f"The approval plan of {agent.name!r} cannot be kept in this run: {alone[0]}.",
                hint="Let somebody else start it, or name more approvers.",
            )
        if not not_by and any(rule.four_eyes for rule in agent.approvals):
            raise Conflict(
                f"The approval plan of {agent.name!r} wants four eyes, and nobody said who starts this run.",
                hint="Start it with `requested_by`.",
            )

    async def _tools_are_served(self, run: str, agent: Agent) -> dict[str, ServedTool]:
        try:
            return await self._catalog.of_run(run, agent)
        except ToolUnavailable as error:
            await self._runs.held_up(run, f"It waits for its tools. {error}")
            last = activity.info().attempt >= OPEN_PATIENCE
            raise ApplicationError(
                str(error), type=error.code, non_retryable=last, next_retry_delay=timedelta(seconds=1)
            ) from error

    async def _thread_of(self, run: str, request: RunRequest) -> str:
        if request.resume_from is None:
            return request.thread or thread_id_for_run(run)
        origin = await self._runs.get(request.resume_from)
        if origin.tenant != request.tenant:
            raise RunNotFound(f"There is no run {request.resume_from!r}.")
        if request.thread not in (None, origin.thread_id):
            raise Conflict(
                f"Run {origin.id} is of thread {origin.thread_id}, not {request.thread}.", hint="Leave `thread` out."
            )
        if origin.closed_at is None and not await self._is_gone(origin.id):
            raise Conflict(f"Run {origin.id} is still open.", hint=f"Watch it: horarium runs watch {origin.id}")
        if origin.status == "completed" and request.input is None:
            raise Conflict(f"Run {origin.id} is completed: nothing is left to resume.", hint="Give an input to go on.")
        return origin.thread_id

    async def _release_if_gone(self, thread: str, run: str) -> None:
        """A run that was terminated in Temporal could not close itself: do it for it, or leave it its thread."""
        holder = await self._threads.holder(thread)
        if holder not in (None, run) and await self._is_gone(holder):
            await self._runs.close_gone(holder)

    async def _is_gone(self, run: str) -> bool:
        try:
            description = await self._temporal.get_workflow_handle(run).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return True
            raise
        return description.status in ENDED

    # ---- what is owed

    async def _owed(self, run: str, request: RunRequest, agent: Agent, thread: str) -> _Owed:
        """Look at the end of the thread for calls that were asked for and have no answer yet.

        The run that resumes their run makes them, under their own keys. Any other run only answers them, because
        every provider insists that a call has an answer.
        """
        messages = await self._threads.read(thread)
        asked = _last_unanswered(messages)
        if asked is None or asked[0].run_id == run:  # its own call, written down by an attempt at this very opening
            return _Owed(procedure_done=await self._procedure_done(request, agent))
        turn_message, answered_ids = asked
        origin, number = turn_message.run_id or "", turn_message.step or 0
        callers = request.resume_from is not None and request.input is None
        callers = callers and await self._direct.is_callers(origin, number)
        steps = {step.call_id: step for step in await self._journal.of_run(origin) if step.kind in CALLS}
        resumes = request.resume_from is not None
        calls: list[Call] = []
        answered: list[str] = []
        for stored in stored_turn(turn_message.output or "{}").calls:
            if stored.problem is not None or stored.id in answered_ids:
                continue
            step = steps.get(stored.id)
            again = callers and step is not None and step.status == "completed"  # it is adopted, not made
            if step is not None and not again and _is_answered(step, resumes=resumes):
                answered.append(step_id(step.run_id, step.number))
            elif resumes:
                served = await self._catalog.tool_of_run(run, agent, stored.name)
                made = await self._call_again(origin, number, stored, step, served)
                calls.append(await self._gated(made, run, request, agent, thread, json.loads(stored.arguments)))
            else:
                answered.append(await self._never_made(origin, number, stored.id, stored.name, step))
        if callers and not calls:
            raise Conflict(
                f"The call of run {origin} is settled: nothing is left to resume.", hint="Make the call anew."
            )
        return _Owed(tuple(calls), tuple(answered), await self._procedure_done(request, agent), callers)

    async def _gated(
        self, call: Call, run: str, request: RunRequest, agent: Agent, thread: str, arguments: dict[str, Any]
    ) -> Call:
        if call.approved_in is not None:
            return call.model_copy(update={"gated": True})
        if call.function:
            return call
        spec = (await self._catalog.tool_of_run(run, agent, call.tool)).spec
        return await self._gatekeeper.gated(call, agent, spec, arguments, run=run, thread=thread, tenant=request.tenant)

    async def _call_again(
        self, origin: str, number: int, stored: StoredCall, step: StepRecord | None, served: ServedTool
    ) -> Call:
        digest = call_digest(stored.name, served.spec.schema_digest, json.loads(stored.arguments))
        key = step.key if step is not None and step.key else idempotency_key(origin, f"{stored.id}.{number}")
        approved_in, released = await self._standing_approval(origin, step, digest)
        return Call(
            id=stored.id,
            tool=stored.name,
            digest=released or digest,
            edited=released not in (None, digest),
            key=key,
            source=step_id(origin, number),
            effect=served.spec.effect,
            queue=self._catalog.queue_of(served),
            timeout=served.spec.timeout,
            approved_in=approved_in,
            agent=served.agent,
            function=served.function,
        )

    async def _standing_approval(
        self, origin: str, step: StepRecord | None, digest: str
    ) -> tuple[str | None, str | None]:
        """The approval that released this call in the run that is resumed, and the digest that it released."""
        if step is None:
            return None, None
        for approval in await self._approvals.of_run(origin):
            asked = approval.kind == "approval" and approval.guards == step.number and approval.digest == digest
            # What a plan or a grant released is looked up anew: it may have been revoked.
            by_person = approval.decided_via in ("update", "signal")
            if asked and by_person and approval.status == "approved":
                return approval.id, approval.decided_digest
        return None, None

    async def _never_made(self, origin: str, number: int, call_id: str, name: str, step: StepRecord | None) -> str:
        """Settle, for the model's eyes, a call of an ended run that nobody will make any more."""
        if step is None:
            steps = await self._journal.of_run(origin)
            free = max((item.number for item in steps), default=0) + 1
            claim = StepClaim(origin, free, "tool_call", name, Effect.READ, call_id=call_id)
            await self._journal.settle_unclaimed(claim, "cancelled", "Not done: that run ended before.")
            return step_id(origin, free)
        if step.status == "pending":
            claim = StepClaim(origin, step.number, "tool_call", name, Effect.READ, call_id=call_id)
            await self._journal.settle_unclaimed(claim, "cancelled", "Not done: that run ended before.")
        elif step.status in ("claimed", "unknown"):
            await self._journal.explain_unknown(origin, step.number, "It is not known whether this was done.")
        return step_id(origin, step.number)

    async def _procedure_done(self, request: RunRequest, agent: Agent) -> int:
        if request.resume_from is None or not agent.procedure:
            return 0
        done = 0
        for step in await self._journal.of_run(request.resume_from):
            made = step.kind in CALLS and step.status in ("completed", "skipped", "rejected")
            if made and done < len(agent.procedure) and agent.procedure[done] == step.name:
                done += 1
        return done


def _without_model(plan: RunPlan) -> RunPlan:
    """Of a run that makes its calls and ends: what is sent to it waits for the next run of its thread."""
    return plan.model_copy(update={"calls_only": True, "recalls": False, "remembers": False, "messages": ()})


def _is_answered(step: StepRecord, *, resumes: bool) -> bool:
    """Whether a settled step is the model's to read; one that broke is what a resumed run tries again."""
    if resumes and step.status == "failed" and step.code in ("tool_failed", FAILED):
        return False
    return step.status in ("completed", "failed", "rejected", "skipped")


def _last_unanswered(messages: Sequence[ThreadMessage]) -> tuple[ThreadMessage, set[str | None]] | None:
    """The last turn with calls, and the calls answered since; None when nothing is owed."""
    answered: set[str | None] = set()
    for message in reversed(messages):
        if message.role == "tool":
            answered.add(message.call_id)
        elif message.role == "assistant":
            calls = {call.id for call in stored_turn(message.output or "{}").calls}
            return (message, answered) if calls - answered else None
    return None
