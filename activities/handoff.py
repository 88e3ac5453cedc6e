"""The step `handoff`: a sub-agent does a call, in a run of its own.

Two activities, because the run between them may take days: one claims the parent's step and writes the sub-agent's
run down with its task, the other settles the step with what that run came to. Both are safe to repeat at any point;
what the sub-agent may use, and whose run it is, stands in the ledger before the run begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeVar

import structlog
from temporalio import activity
from temporalio.client import Client as TemporalClient
from temporalio.client import WorkflowExecutionStatus
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from activities.discovery import refresh
from activities.handoff_words import FAILED, Ended, ended_words, in_a_circle, outcome_told
from horarium.content import canonical, shorten
from horarium.contract import RunRequest, Usage
from horarium.definitions import Agent, Limits
from horarium.errors import HorariumError, NotApproved, ProofInvalid, StepCrashes, ToolUnavailable
from horarium.ids import step_id, sub_run_id
from horarium.ledger.agents import Agents, AgentVersion
from horarium.ledger.database import Ledger
from horarium.ledger.journal import SETTLED, ApprovalRecorded, Held, Journal, StepClaim, StepRecord
from horarium.ledger.runs import RunRecord, Runs
from horarium.ledger.threads import Threads
from horarium.ledger.toolsets import Toolsets
from horarium.project import AgentFiles
from horarium.proof import KeyRing
from horarium.protocol import (
    BEGIN_HANDOFF,
    NOTE_CHARS,
    SETTLE_HANDOFF,
    BeginHandoff,
    Handoff,
    SettleHandoff,
    ToolOutcome,
    ToolStep,
)
from horarium.release import Checks, Release
from horarium.settings import Settings
from horarium.toolhost import heartbeating
from horarium.tools import Effect, ToolSpec
from horarium.toolsets import AgentSource, PinnedTool
from horarium.turns import stored_turn

log = structlog.get_logger()

TASK = "task"
LOOK_AGAIN = timedelta(seconds=2)  # whether a run that should end has ended
OPEN_LOOKS = 60
OPEN = (WorkflowExecutionStatus.RUNNING, WorkflowExecutionStatus.CONTINUED_AS_NEW, None)

N = TypeVar("N", int, Decimal)


def agent_tool(version: AgentVersion) -> PinnedTool:
    """An agent as a tool of another one.

    It only reads, as far as the call goes: what the sub-agent does is gated in its own run. A rule of the caller's
    approval plan that names it still asks.
    """
    agent = version.agent
    about = agent.description or f"The agent {agent.name}."
    spec = ToolSpec(
        name=agent.name,
        description=(
            f"{about.rstrip()} It is an agent of its own: it works on the task by itself, knows nothing of this "
            "conversation, and answers with a text."
        ),
        parameters={
            "type": "object",
            "properties": {
                TASK: {
                    "type": "string",
                    "minLength": 1,
                    "description": "What it is to do, with all that it has to know for it.",
                }
            },
            "required": [TASK],
            "additionalProperties": False,
        },
        effect=Effect.READ,
    )
    return PinnedTool(spec=spec, source=AgentSource(agent=agent.name, version=version.version))


def lesser(handed: Limits, own: Limits) -> Limits:
    """What a sub-agent's run may use: what its parent has left for it, and not more than its own definition allows."""
    return own.model_copy(
        update={
            "max_tokens": _least(handed.max_tokens, own.max_tokens),
            "max_cost_usd": _least(handed.max_cost_usd, own.max_cost_usd),
            "wall_time": min(handed.wall_time, own.wall_time),
            "max_handoffs": min(handed.max_handoffs, own.max_handoffs),
            "max_depth": max(min(handed.max_depth, own.max_depth), 0),
        }
    )


def _least(one: N | None, other: N | None) -> N | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


class Handoffs:
    """The activities `begin_handoff` and `settle_handoff`, and the finder of sub-agents."""

    def __init__(self, ledger: Ledger, temporal: TemporalClient, files: AgentFiles | None, settings: Settings) -> None:
        self._agents = Agents(ledger)
        self._runs = Runs(ledger)
        self._journal = Journal(ledger)
        self._threads = Threads(ledger)
        self._toolsets = Toolsets(ledger)
        self._temporal = temporal
        self._files = files
        keys, required = KeyRing.of(settings).public_only(), settings.approvals.require_proof
        self._checks = Checks(ledger, keys, require_proof=required)

    async def needs_network(self, agent: Agent) -> bool:
        """The ledger has all agents."""
        return False

    async def find(self, agent: Agent, tenant: str) -> list[PinnedTool]:
        """A tool for each of its sub-agents, with the version that is newest now."""
        found = []
        for name in agent.agents:
            await refresh(self._agents, self._files, name)
            found.append(agent_tool(await self._agents.get(name)))
        return found

    # ---- beginning

    @activity.defn(name=BEGIN_HANDOFF)
    async def begin_handoff(self, beginning: BeginHandoff) -> Handoff:
        """Claim the step and put the task down for the sub-agent's run."""
        async with heartbeating():
            step = _as_tool_step(beginning)
            with structlog.contextvars.bound_contextvars(run=step.run, step=step.number, agent=step.call.agent):
                return await self._begin(beginning, step)

    async def _begin(self, beginning: BeginHandoff, step: ToolStep) -> Handoff:
        call = step.call
        release = Release(self._checks, step, activity.info().workflow_id or "")
        pinned, source = await self._pinned(step)
        arguments = await release.arguments()
        claim = StepClaim(
            run_id=step.run,
            number=step.number,
            kind="handoff",
            name=call.tool,
            effect=pinned.spec.effect,
            key=call.key,
            call_id=call.id,
            input_digest=call.digest,
            arguments=canonical(arguments),
            permit=step.permit,
            note=release.note(arguments),
        )
        sub_run = sub_run_id(step_id(step.run, step.number), step.permit)
        try:
            approval = await release.approval(pinned.spec, arguments)
            earlier = await self._runs.earlier_below(call.key, sub_run)
            if earlier is not None and activity.info().attempt < OPEN_LOOKS:
                # Whoever waited for it has ended; it is asked to end too, and this one goes on from there.
                earlier = await self._ended(earlier, stop=True)
            held = await self._claim(claim, step, approval)
        except ProofInvalid as error:
            log.warning("handoff.not_released", why=str(error))
            return Handoff(outcome=_refused(error))
        except (StepCrashes, NotApproved) as error:
            log.error("handoff.not_begun", code=error.code, why=str(error))
            if isinstance(error, NotApproved):
                await release.refused(error)
                if not release.is_the_runs_own:  # the step waits for its own run, as it was
                    return Handoff(outcome=_refused(error))
            record = await self._journal.settle_unclaimed(
                claim, "failed", str(error), code=error.code, message=str(error)
            )
            return Handoff(outcome=outcome_told(record))
        if isinstance(held, StepRecord):
            return Handoff(outcome=await self._known(held, sub_run))
        if earlier is not None and earlier.closed_at is None:
            words = f"Not done: the run {earlier.id}, where {source.agent} began this, does not end."
            record = await self._journal.settle(held, "failed", words, code=FAILED, message=words)
            return Handoff(outcome=outcome_told(record))
        if earlier is not None and earlier.status == "completed":
            log.info("handoff.adopted", sub_run=earlier.id)
            return Handoff(outcome=await self._settled(held, earlier, spent=None))
        return await self._handed(beginning, held, source, arguments, earlier)

    async def _handed(
        self,
        beginning: BeginHandoff,
        held: Held,
        source: AgentSource,
        arguments: Mapping[str, Any],
        earlier: RunRecord | None,
    ) -> Handoff:
        """The sub-agent's run, written down; one that goes on where an earlier one of this call ended too soon."""
        parent = await self._runs.get(beginning.run)
        path = parent.path or [parent.agent]
        if source.agent in path:
            words = in_a_circle(source.agent, path)
            record = await self._journal.settle(held, "failed", words, code="handoff_refused", message=words)
            return Handoff(outcome=outcome_told(record))
        own = (await self._agents.get(source.agent, source.version)).agent
        step = step_id(beginning.run, beginning.number)
        sub_run = sub_run_id(step, beginning.permit)
        request = RunRequest(
            agent=source.agent,
            version=source.version,
            tenant=parent.tenant,
            requested_by=parent.requested_by,
            resume_from=earlier.id if earlier is not None else None,
            limits=lesser(beginning.limits, own.limits),
            parent=step,
        )
        task = None if earlier is not None else str(arguments[TASK])
        await self._runs.create_below(sub_run, request, task, parent=parent, step=beginning.number)
        return Handoff(run=sub_run, request=request)

    async def _pinned(self, step: ToolStep) -> tuple[PinnedTool, AgentSource]:
        pinned = await self._toolsets.tool(step.run, step.call.tool)
        if pinned is None or not isinstance(pinned.source, AgentSource):
            raise ToolUnavailable(f"Run {step.run} has no sub-agent {step.call.tool!r}.")
        return pinned, pinned.source

    async def _claim(self, claim: StepClaim, step: ToolStep, approval: ApprovalRecorded | None) -> Held | StepRecord:
        if step.permit == 0 and not step.call.key.startswith(f"horarium/{step.run}/"):
            before = await self._journal.earlier(step.call.key, step.run)
            if before is not None and before.status in ("completed", "skipped", "rejected"):
                return await self._journal.adopt(claim, before)
        return await self._journal.claim(claim, approval=approval)

    async def _known(self, record: StepRecord, sub_run: str) -> ToolOutcome:
        """The outcome of a step that was settled before; what it used counts for this run if it was its own."""
        return outcome_told(record, handoffs=await self._runs.below(sub_run) if record.attempts else 0)

    # ---- settling

    @activity.defn(name=SETTLE_HANDOFF)
    async def settle_handoff(self, settling: SettleHandoff) -> ToolOutcome:
        """Settle the step with what the sub-agent's run came to, once that has ended.

        Raises:
            ApplicationError: It has not ended yet; worth another look.
        """
        async with heartbeating():
            record = await self._journal.get(settling.run, settling.number)
            if record.status in SETTLED:
                return await self._known(record, settling.sub_run)
            if activity.info().workflow_id != settling.run or settling.sub_run != sub_run_id(
                step_id(settling.run, settling.number), record.permit
            ):
                words = f"Run {settling.sub_run} does not settle step {step_id(settling.run, settling.number)}."
                return _refused(NotApproved(words))
            child = await self._ended(await self._runs.get(settling.sub_run), stop=settling.cancelled)
            claim = StepClaim(settling.run, settling.number, "handoff", record.name, Effect.READ)
            held = Held(claim, record.token or "", record.attempts, record.failures)
            spent = await self._spent(child)
            return await self._settled(held, child, spent, cancelled=settling.cancelled)

    async def _settled(
        self, held: Held, child: RunRecord, spent: Usage | None, *, cancelled: bool = False
    ) -> ToolOutcome:
        run, number = held.claim.run_id, held.claim.number
        if await self._runs.read_strangers(child.thread_id):
            await self._journal.mark_untrusted(run, number)
        ended = Ended(child, await self._last_said(child), cancelled=cancelled)
        told = ended_words(ended)
        record = await self._journal.settle(
            held, told.status, told.output, code=told.code, message=told.message, usage=spent
        )
        below = await self._runs.below(child.id) if spent is not None else 0
        return outcome_told(record, handoffs=below)

    async def _ended(self, child: RunRecord, *, stop: bool = False) -> RunRecord:
        """The run as it ended; for one that was ended from outside, or never began, it is written down here.

        Raises:
            ApplicationError: It is still open.
        """
        if child.closed_at is not None:
            return child
        handle = self._temporal.get_workflow_handle(child.id)
        try:
            status = (await handle.describe()).status
            if status in OPEN:
                if stop:
                    await handle.cancel()
                words = f"The run {child.id} of the sub-agent is still open."
                raise ApplicationError(words, type="sub_agent_open", next_retry_delay=LOOK_AGAIN)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            await self._runs.close(
                child.id,
                "cancelled",
                reason="cancelled",
                message="The run was not begun.",
                turns=0,
                steps=0,
                usage=Usage(),
            )
        else:
            await self._runs.close_gone(child.id)
        return await self._runs.get(child.id)

    async def _spent(self, child: RunRecord) -> Usage:
        """With all that its own sub-agents used. One that was ended from outside did not say: its steps are counted."""
        if child.reason == "terminated":
            return await self._runs.spent(child.id)
        return Usage(
            input_tokens=child.input_tokens, output_tokens=child.output_tokens, cost_micro_usd=child.cost_micro_usd
        )

    async def _last_said(self, child: RunRecord) -> str:
        for said in reversed(await self._threads.read(child.thread_id)):
            if said.role == "assistant" and said.run_id == child.id:
                return stored_turn(said.output or "{}").text
        return ""


def _as_tool_step(beginning: BeginHandoff) -> ToolStep:
    return ToolStep.model_validate(beginning.model_dump(exclude={"limits"}))


def _refused(error: HorariumError) -> ToolOutcome:
    return ToolOutcome(status="refused", code=error.code, message=shorten(str(error), NOTE_CHARS))
