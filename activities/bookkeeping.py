"""The run's own bookkeeping in the ledger: opening, messages, approvals, closing.

Each is short and safe to repeat, so the workflow runs them as local activities: a few rows, no
trip over a task queue.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from temporalio import activity
from temporalio.client import Client as TemporalClient
from temporalio.client import WorkflowExecutionStatus
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from activities.catalog import Catalog
from horarium.content import call_digest, canonical, shorten
from horarium.contract import RunRequest
from horarium.definitions import Agent
from horarium.errors import Conflict, RunNotFound, ToolUnavailable
from horarium.ids import RUN_ID, idempotency_key, split_step_id, step_id, thread_id_for_run
from horarium.ledger.agents import Agents
from horarium.ledger.approvals import Approvals
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Journal, StepClaim, StepRecord
from horarium.ledger.runs import Runs
from horarium.ledger.threads import ThreadMessage, Threads
from horarium.project import AgentFiles
from horarium.protocol import (
    ASK_APPROVALS,
    CLOSE_RUN,
    MARK_RUN,
    OPEN_RUN,
    PREVIEW_CHARS,
    SETTLE_APPROVALS,
    SETTLE_STEP,
    WRITE_MESSAGE,
    ApprovalOutcome,
    AskApprovals,
    Call,
    CloseRun,
    MarkRun,
    OpenRun,
    RunPlan,
    SettleApprovals,
    SettleStep,
    ToolOutcome,
    WriteMessage,
)
from horarium.settings import WorkerSettings
from horarium.toolhost import outcome_of
from horarium.tools import Effect
from horarium.turns import stored_turn

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


class Bookkeeping:
    """The bookkeeping activities and what they need."""

    def __init__(
        self,
        ledger: Ledger,
        catalog: Catalog,
        temporal: TemporalClient,
        agents: AgentFiles | None,
        worker: WorkerSettings,
    ) -> None:
        self._runs = Runs(ledger)
        self._threads = Threads(ledger)
        self._agents = Agents(ledger)
        self._approvals = Approvals(ledger)
        self._journal = Journal(ledger)
        self._catalog = catalog
        self._temporal = temporal
        self._files = agents
        self._worker = worker

    @activity.defn(name=OPEN_RUN)
    async def open_run(self, opening: OpenRun) -> RunPlan:
        """Settle everything a run needs before its first step: agent version, thread, limits, what it resumes.

        Raises:
            AgentNotFound, ThreadNotFound, ThreadBusy, ToolUnavailable, Conflict: It cannot begin.
        """
        run, request = opening.run, opening.request
        if not RUN_ID.match(run):
            raise Conflict(
                f"{run!r} cannot be a run's id.", hint="Use at most 200 letters, digits, '-', '_', '.' or ':'."
            )
        await self._refresh(request.agent)
        version = await self._agents.get(request.agent, request.version)
        agent = version.agent
        await self._tools_are_served(agent)
        thread = await self._thread_of(run, request)
        owed = await self._owed(request, agent, thread)
        await self._release_if_gone(thread, run)
        messages = await self._runs.open(
            run, thread, request, version.version, answered=owed.answered, owes_calls=bool(owed.calls)
        )
        return RunPlan(
            run=run,
            thread=thread,
            agent=agent.name,
            version=version.version,
            limits=request.limits or agent.limits,
            on_step_failure=agent.on_step_failure,
            procedure=agent.procedure,
            remembers=agent.memory is not None,
            model_timeout=agent.settings.timeout + timedelta(seconds=30),
            heartbeat_timeout=self._worker.heartbeat_timeout,
            continue_as_new_after=request.continue_as_new_after or self._worker.continue_as_new_after,
            pending=owed.calls,
            answered=owed.answered if owed.calls else (),
            messages=messages,
            procedure_done=owed.procedure_done,
        )

    async def _refresh(self, name: str) -> None:
        """An edited definition counts from the next run on, without a restart."""
        if self._files is not None:
            agent = self._files.current().get(name)
            if agent is not None:
                await self._agents.register(agent)

    async def _tools_are_served(self, agent: Agent) -> None:
        try:
            await self._catalog.tools(agent.tools)
        except ToolUnavailable as error:
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

    async def _owed(self, request: RunRequest, agent: Agent, thread: str) -> _Owed:
        """Look at the end of the thread for calls that were asked for and have no answer yet.

        The run that resumes their run makes them, under their own keys. Any other run only answers them, because
        every provider insists that a call has an answer.
        """
        messages = await self._threads.read(thread)
        asked = _last_unanswered(messages)
        if asked is None:
            return _Owed(procedure_done=await self._procedure_done(request, agent))
        turn_message, answered_ids = asked
        origin, number = turn_message.run_id or "", turn_message.step or 0
        steps = {step.call_id: step for step in await self._journal.of_run(origin) if step.kind == "tool_call"}
        resumes = request.resume_from is not None
        calls: list[Call] = []
        answered: list[str] = []
        for stored in stored_turn(turn_message.output or "{}").calls:
            if stored.problem is not None or stored.id in answered_ids:
                continue
            step = steps.get(stored.id)
            if step is not None and step.status in ("completed", "failed", "rejected", "skipped"):
                answered.append(step_id(step.run_id, step.number))
            elif resumes:
                calls.append(await self._call_again(origin, number, stored.id, stored.name, stored.arguments, step))
            else:
                answered.append(await self._never_made(origin, number, stored.id, stored.name, step))
        return _Owed(tuple(calls), tuple(answered), await self._procedure_done(request, agent))

    async def _call_again(
        self, origin: str, number: int, call_id: str, name: str, arguments_json: str, step: StepRecord | None
    ) -> Call:
        served = (await self._catalog.tools([name]))[name]
        arguments = json.loads(arguments_json)
        digest = call_digest(name, served.spec.schema_digest, arguments)
        key = step.key if step is not None and step.key else idempotency_key(origin, f"{call_id}.{number}")
        gated = served.spec.effect is not Effect.READ
        return Call(
            id=call_id,
            tool=name,
            digest=digest,
            key=key,
            source=step_id(origin, number),
            effect=served.spec.effect,
            gated=gated,
            queue=self._catalog.queue_of(served),
            timeout=served.spec.timeout,
            preview=shorten(canonical(arguments), PREVIEW_CHARS) if gated else "",
            approved_in=await self._standing_approval(origin, step, digest) if gated else None,
        )

    async def _standing_approval(self, origin: str, step: StepRecord | None, digest: str) -> str | None:
        """The approval that released exactly this call in the run that is resumed, if a person gave one."""
        if step is None:
            return None
        for approval in await self._approvals.of_run(origin):
            if approval.guards == step.number and approval.status == "approved" and approval.digest == digest:
                return approval.id
        return None

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
            made = step.kind == "tool_call" and step.status in ("completed", "skipped", "rejected")
            if made and done < len(agent.procedure) and agent.procedure[done] == step.name:
                done += 1
        return done

    # ---- the rest

    @activity.defn(name=WRITE_MESSAGE)
    async def write_message(self, message: WriteMessage) -> None:
        """Keep a message that was sent to a run, for its next turn."""
        await self._threads.queue(message.thread, message.id, message.text, message.run, message.by)

    @activity.defn(name=ASK_APPROVALS)
    async def ask_approvals(self, asking: AskApprovals) -> None:
        """Write questions down with their exact arguments, before anybody can answer them."""
        questions = [(request, await self._arguments(request.call)) for request in asking.requests]
        await self._approvals.ask(asking.run, questions, asking.requested_at)

    @activity.defn(name=SETTLE_APPROVALS)
    async def settle_approvals(self, settling: SettleApprovals) -> None:
        """Write down rejections and withdrawals, and settle the calls they were about: they are not made."""
        for outcome in settling.outcomes:
            await self._approvals.settle(settling.run, outcome)
            await self._journal.settle_unclaimed(
                await self._claim_of(settling.run, outcome.guards, outcome.call),
                "rejected" if outcome.status == "rejected" else "cancelled",
                refusal(outcome),
                by=outcome.by,
            )

    @activity.defn(name=SETTLE_STEP)
    async def settle_step(self, settling: SettleStep) -> ToolOutcome:
        """Write down how a person settled a call."""
        output = settling.output
        if settling.status == "skipped":
            because = f" because: {settling.comment}" if settling.comment else ""
            output = f"Not done: {settling.by} skipped this call{because}. Go on without it; do not call it again."
        claim = await self._claim_of(settling.run, settling.number, settling.call)
        return outcome_of(await self._journal.settle_unclaimed(claim, settling.status, output, by=settling.by))

    @activity.defn(name=MARK_RUN)
    async def mark_run(self, marking: MarkRun) -> None:
        """Show an open run's status in lists."""
        await self._runs.mark(marking.run, marking.status)

    @activity.defn(name=CLOSE_RUN)
    async def close_run(self, closing: CloseRun) -> None:
        """Write down how the run ended, and give its thread back."""
        await self._runs.close(
            closing.run,
            closing.status,
            reason=closing.reason,
            message=closing.message,
            turns=closing.turns,
            steps=closing.steps,
            usage=closing.usage,
        )

    async def _arguments(self, call: Call) -> str:
        run_id, number = split_step_id(call.source)
        turn = stored_turn((await self._journal.get(run_id, number)).output or "{}")
        return next(item.arguments for item in turn.calls if item.id == call.id)

    async def _claim_of(self, run: str, number: int, call: Call) -> StepClaim:
        return StepClaim(
            run_id=run,
            number=number,
            kind="tool_call",
            name=call.tool,
            effect=call.effect,
            key=call.key,
            call_id=call.id,
            input_digest=call.digest,
            arguments=await self._arguments(call),
        )


def refusal(outcome: ApprovalOutcome) -> str:
    """What the model is told of a call that people did not release, in words that keep it from asking again."""
    if outcome.status == "withdrawn":
        return "Not done: the run ended before anybody decided."
    because = f" The reason given: {outcome.comment}" if outcome.comment else ""
    return (
        f"Not done: {outcome.by} rejected this call.{because}\n"
        "This decision is final for this run. Do not make the call again, neither in the same nor in another form; "
        "go on without it, or say what you could not do."
    )


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
