"""The run as a pure state machine: events in, commands out.

No clock, no I/O, no Temporal: the driver brings the time with each event and carries out each
command, and each command comes back as one event. Its whole state is one small model, so a run can be
handed over between any two events; a second driver can drive it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

from horarium.content import shorten
from horarium.contract import Resolution, Status, StepKind, StepStatus, StepSummary, Waiting
from horarium.definitions import Limits
from horarium.ids import approval_id, function_call_id, question_id, step_id
from horarium.protocol import (
    ApprovalOutcome,
    ApprovalRequest,
    Call,
    Gate,
    ModelReply,
    NoticeEvent,
    RunPlan,
    ToolOutcome,
)
from workflows.commands import (
    AskAgain,
    AskPeople,
    BeginFunction,
    CallModel,
    CallTool,
    Close,
    Command,
    Compact,
    Escalate,
    HandOff,
    Inquire,
    Recall,
    Remember,
    SettleApprovals,
    SettleCall,
    SettleFunction,
    SettleInquiry,
    StopSteps,
    Tell,
)
from workflows.events import (
    Asked,
    CancelRequested,
    Compacted,
    Decided,
    Escalated,
    Event,
    FunctionBegun,
    MessageQueued,
    ModelReplied,
    OutputSubmitted,
    Recalled,
    Refused,
    Remembered,
    Resolved,
    SubRunWaits,
    TimePassed,
    ToolSettled,
    ToolUnserved,
)
from workflows.machine_state import (
    CallPhase,
    CallState,
    Ending,
    MachineState,
)

_NEVER = datetime.min.replace(tzinfo=UTC)
MAX_MALFORMED = 3  # told back to the model this many times in a row
SHOWN_STEPS = 200
SMALLEST_COST = Decimal("0.000001")
KEPT_REFUSALS = 50  # each is carried when the run continues as new
EXPIRED_AGAIN = (
    "Not done: people were asked for exactly this before, and nobody decided in time. They are not asked again in this "
    "run. Go on without it, or say what you could not do."
)


class Machine:
    """One run. `start` or `resume` once, then `handle` each event; both give the commands to carry out."""

    def __init__(self, plan: RunPlan, state: MachineState | None = None) -> None:
        self.plan = plan
        self.state = state or MachineState(
            next_number=plan.next_number,
            procedure_done=plan.procedure_done,
            answered=list(plan.answered),
            messages=list(plan.messages),
            steps=[
                StepSummary(id=step_id(plan.run, number), kind="model_call", name="caller", status="completed")
                for number in range(1, plan.next_number)
            ],
        )
        self._now = _NEVER  # of the event in hand

    # ---- looking

    @property
    def closed(self) -> bool:
        """`Close` has been commanded; nothing follows."""
        return self.state.closed

    @property
    def in_flight(self) -> bool:
        """Some command has not come back yet."""
        state = self.state
        beside = state.remembering or state.recalling is not None or state.compacting is not None
        return state.model == "running" or beside or any(call.in_flight for call in state.calls)

    @property
    def may_hand_over(self) -> bool:
        """Whether all that is in flight can be commanded again by `resume`, if it was not begun."""
        return not self.closed and not any(
            call.phase in ("asking", "refusing", "settling") for call in self.state.calls
        )

    @property
    def status(self) -> Status:
        """The run's status, as everybody is shown it."""
        state = self.state
        if state.closed and state.ending is not None:
            return state.ending.status
        return "requires_action" if self._waits_for_people() else "in_progress"

    def waiting_for(self) -> tuple[Waiting, ...]:
        """What people have to do, in words."""
        return tuple(self._waiting())

    def time_left(self, now: datetime) -> timedelta | None:
        """Until the wall-time limit; None while the clock stands because people are being waited for."""
        state = self.state
        if state.active_since is None or state.ending is not None:
            return None
        return self.plan.limits.wall_time - state.active - (now - state.active_since)

    def next_deadline(self) -> datetime | None:
        """When `TimePassed` is wanted because of people: the next reminder or expiry of what is open."""
        asked = [call for call in self.state.calls if call.phase in ("asked", "given")]
        return min((at for call in asked for at in (call.expires_at, call.remind_at) if at is not None), default=None)

    def may_resolve(self, resolution: Resolution) -> str | None:
        """Why a resolution cannot be taken; None when it can."""
        state = self.state
        call = self._by_id(resolution.step)
        held_model = state.model == "held" and resolution.step == self._id(state.model_number)
        if not held_model and (call is None or call.phase not in ("held", "unknown")):
            return f"Step {resolution.step} does not wait to be resolved."
        question = self._model_question() if held_model or call is None else self._question(call)
        if resolution.question not in (None, question):
            return f"This answers an earlier question about step {resolution.step}; the one that waits is {question}."
        if held_model:
            return None if resolution.verdict in ("retry", "fail") else "A model call can only be retried or failed."
        if state.ending is not None and resolution.verdict in ("retry", "fail"):
            return f"The run is ending: say of step {resolution.step} that it happened, or skip it."
        if resolution.verdict == "supply" and resolution.output is None:
            return "To supply a result, give its output."
        return None

    def call_of(self, approval: str) -> CallState | None:
        """The call that an approval guards, while its turn lasts."""
        return next((call for call in self.state.calls if self._approval(call) == approval), None)

    def function_call(self, call_id: str) -> int | None:
        """The step of a call that whoever started the run carries out, by its id; None: nothing waits for that one."""
        waiting = (call for call in self.state.calls if call.call.function and call.phase in ("running", "given"))
        return next((one.number for one in waiting if function_call_id(self.plan.run, one.number) == call_id), None)

    def approvals_of_this_turn(self) -> set[str]:
        """Ids, those of calls that are made already too."""
        return {self._approval(call) for call in self.state.calls if call.question is not None}

    # ---- moving

    def start(self, now: datetime) -> list[Command]:
        """Begin: with the calls a resumed run still owes, else with the model."""
        self._count_time(now)
        return self._timed(self._recall() if self.plan.recalls else self._first())

    def _first(self) -> list[Command]:
        if self.plan.pending:
            return self._begin_calls(self.plan.pending)
        return self._end("completed") if self.plan.calls_only else self._next_turn()

    def _recall(self) -> list[Command]:
        number = self.state.recalling = self._number()
        self._add(number, "tool_call", "recall")
        return [Recall(number)]

    def resume(self, now: datetime) -> list[Command]:
        """Begin again where a hand-over left: command again what had not been begun."""
        self._count_time(now)
        state = self.state
        commands: list[Command] = []
        if state.model == "running":
            commands.append(self._model_command())
        if state.recalling is not None:
            commands.append(Recall(state.recalling))
        if state.compacting is not None:
            commands.append(Compact(state.compacting))
        if state.remembering:
            commands.append(Remember(state.next_number - 1))
        # Not timed: what begins here can only be stopped by a later event, and the driver's timer brings one at once.
        return commands + [self._tool_command(call) for call in state.calls if call.phase == "running"]

    def handle(self, event: Event, now: datetime) -> list[Command]:
        """Take one event; give what follows from it."""
        if self.state.closed:
            return []
        self._count_time(now)
        match event:
            case ModelReplied():
                commands = self._on_reply(event.number, event.reply)
            case ToolSettled():
                commands = self._on_settled(event.number, event.outcome)
            case ToolUnserved():
                commands = self._on_unserved(event.number)
            case SubRunWaits():
                commands = self._on_sub_run_waits(event)
            case FunctionBegun():
                commands = self._on_function_begun(event)
            case OutputSubmitted():
                commands = self._on_submitted(event.number)
            case Recalled():
                commands = self._on_recalled(event)
            case Compacted():
                commands = self._on_compacted(event)
            case Asked():
                commands = self._on_asked(event)
            case Decided():
                commands = self._on_decided(event)
            case Escalated():
                commands = self._on_escalated(event.number)
            case Refused():
                commands = self._on_refused(event)
            case Resolved():
                commands = self._on_resolved(event)
            case MessageQueued():
                self.state.messages.append(event.ref)
                return []  # never more: a driver that hands over takes the last messages in without looking
            case Remembered():
                self.state.remembering = False
                self.state.remembered = True
                self.state.usage = self.state.usage + event.usage
                self._show(event.number, status="completed" if event.ok else "failed")
                commands = self._finish()
            case CancelRequested():
                commands = self._end("cancelled", "cancelled", "The run was cancelled.")
            case TimePassed():
                commands = self._on_deadlines()
        return self._timed(commands)

    def broke(self, code: str, message: str) -> list[Command]:
        """Something that must work did not, for good: end now, whatever is in flight."""
        running = tuple(call.number for call in self.state.calls if call.phase == "running")
        self.state.ending = Ending(status="failed", reason=code, message=message)
        self.state.closed = True
        return [StopSteps(running), Close("failed", code, message)]

    # ---- turns

    def _next_turn(self) -> list[Command]:
        state = self.state
        if state.turns >= self.plan.limits.max_turns:
            return self._limit("max_turns", f"The limit of {self.plan.limits.max_turns} turns is reached.")
        if state.wants_compaction:
            return self._compact()
        over = self._over_budget()
        if over is not None:
            return over
        state.model = "running"
        state.model_permit = 0
        state.model_number = self._number()
        # Messages that arrive while the model is being asked wait for its next turn.
        state.model_sent = (len(state.answered), len(state.messages))
        self._add(state.model_number, "model_call", f"turn {state.turns + 1}")
        return [self._model_command()]

    def _compact(self) -> list[Command]:
        state = self.state
        over = self._over_budget()
        if over is not None:
            return over
        state.wants_compaction, state.compacted = False, True
        number = state.compacting = self._number()
        self._add(number, "model_call", "summary")
        return [Compact(number)]

    def _on_compacted(self, event: Compacted) -> list[Command]:
        state, result = self.state, event.result
        if state.compacting != event.number:
            return []
        state.compacting = None
        state.usage = state.usage + result.usage
        self._show(event.number, status=result.status, note=result.message)
        if state.ending is not None:
            return self._finish()
        # A summary that failed is no reason to end: the turn may fit all the same, and says so when it does not.
        return self._next_turn()

    def _on_recalled(self, event: Recalled) -> list[Command]:
        state = self.state
        if state.recalling != event.number:
            return []
        state.recalling = None
        state.recalled = event.number if event.ok else None
        note = None if event.ok else "gone on without what is remembered"
        self._show(event.number, status="completed" if event.ok else "failed", note=note)
        if state.ending is not None:
            return self._finish()
        return self._out_of_time() if self._time_is_up else self._first()

    def _model_command(self) -> CallModel:
        state = self.state
        answered, messages = state.model_sent
        procedure = self.plan.procedure
        offer = procedure[state.procedure_done] if state.procedure_done < len(procedure) else None
        choice = self.plan.choice if state.tool_calls == 0 and not procedure else None
        if choice not in (None, "*"):
            offer = choice
        return CallModel(
            number=state.model_number,
            answered=tuple(state.answered[:answered]),
            messages=tuple(state.messages[:messages]),
            note=state.note,
            offer=offer,
            closing=bool(procedure) and offer is None,
            permit=state.model_permit,
            required=choice == "*",
            recalled=state.recalled,
            compacted=state.compacted,
        )

    def _on_reply(self, number: int, reply: ModelReply) -> list[Command]:
        state = self.state
        if state.model != "running" or number != state.model_number:
            return []
        state.model = "none"
        state.usage = state.usage + reply.usage
        if reply.status == "failed":
            self._show(number, status="failed", note=reply.message)
            if state.ending is not None:
                return self._finish()
            if reply.compact and not state.compacted:
                self._was_sent()
                state.note = None
                state.wants_compaction = True
                return self._next_turn()
            if self.plan.on_step_failure == "hold":
                state.model = "held"
                text = f"The model call failed: {reply.message}. Retry it, or fail the run."
                return self._inquire(self._model_question(), "held_step", number, None, text)
            return self._end("failed", reply.code or "model_error", reply.message)
        self._was_sent()
        state.note = None
        state.turns += 1
        state.wants_compaction, state.compacted = reply.compact, False
        self._show(number, status="completed", note=reply.malformed)
        if state.ending is not None:
            return self._finish()
        return self._on_turn(reply)

    def _was_sent(self) -> None:
        """What the turn was asked with is in the thread from now on."""
        answered, messages = self.state.model_sent
        del self.state.answered[:answered], self.state.messages[:messages]

    def _on_turn(self, reply: ModelReply) -> list[Command]:
        state = self.state
        state.malformed = state.malformed + 1 if reply.malformed else 0
        if state.malformed > MAX_MALFORMED:
            return self._end(
                "failed",
                "malformed_turns",
                f"{state.malformed} turns in a row did not count. The last: {reply.malformed}",
            )
        if reply.finish == "final" and not state.messages:
            state.output, state.output_truncated = reply.output, reply.output_truncated
            return self._complete()
        if reply.finish == "length":
            state.output, state.output_truncated = reply.output, reply.output_truncated
            return self._limit("max_output_tokens", "The model's turn was cut at its output limit.")
        if reply.finish == "filtered":
            return self._limit("content_filter", "The provider withheld the model's turn.")
        state.note = reply.note
        if not reply.calls:
            return self._next_turn()
        over = self._over_budget()
        return over if over is not None else self._begin_calls(reply.calls)

    def _over_budget(self) -> list[Command] | None:
        limits, usage = self.plan.limits, self.state.usage
        tokens = usage.input_tokens + usage.output_tokens
        if limits.max_tokens is not None and tokens >= limits.max_tokens:
            return self._limit("max_tokens", f"{tokens:,} of {limits.max_tokens:,} tokens are used.")
        if limits.max_output_tokens is not None and usage.output_tokens >= limits.max_output_tokens:
            return self._limit("max_output_tokens", f"The limit of {limits.max_output_tokens:,} tokens is reached.")
        if limits.max_cost_usd is not None and usage.cost_micro_usd >= limits.max_cost_usd * 1_000_000:
            return self._limit("max_cost_usd", f"The cost limit of ${limits.max_cost_usd} is reached.")
        return self._out_of_time() if self._time_is_up else None

    # ---- calls

    def _begin_calls(self, calls: tuple[Call, ...]) -> list[Command]:
        state = self.state
        most = self.plan.limits.max_tool_calls
        state.tool_calls += len(calls)
        if most is not None and state.tool_calls > most:
            return self._limit("max_tool_calls", f"The limit of {most} tool calls is reached.")
        for call in calls:
            state.repeats = state.repeats + 1 if call.digest == state.last_digest else 1
            state.last_digest = call.digest
            if state.repeats > self.plan.limits.max_repeats:
                return self._limit(
                    "max_repeats", f"{call.tool!r} was called {state.repeats} times in a row with the same arguments."
                )
        state.calls = []
        commands: list[Command] = []
        requests: list[ApprovalRequest] = []
        refusals = {call.id: state.refusals.get(call.digest) or self._beyond(call) for call in calls}
        shares = self._shares(sum(call.agent is not None and refusals[call.id] is None for call in calls))
        for call in calls:
            refusal = refusals[call.id]
            asks = call.gated and call.approved_in is None and refusal is None
            question = self._number() if asks else None
            number = self._number()
            phase: CallPhase = "asking" if asks else "running" if refusal is None else "settling"
            begun = CallState(
                number=number,
                call=call,
                phase=phase,
                question=question,
                limits=shares if call.agent and refusal is None else None,
            )
            state.calls.append(begun)
            if question is not None:
                self._add(question, "approval", call.tool, "pending")
                requests.append(ApprovalRequest(id=self._approval(begun), number=question, guards=number, call=call))
            kind: StepKind = "tool_call" if call.agent is None else "handoff"
            self._add(number, kind, call.tool, "pending" if asks else "claimed")
            if refusal is not None:
                commands.append(
                    SettleCall(number=number, call=call, status="rejected", output=refusal, by=None, comment=None)
                )
        commands += [self._tool_command(call) for call in state.calls if call.phase == "running"]
        if requests:
            commands.append(AskPeople(tuple(requests)))
        return commands

    def _beyond(self, call: Call) -> str | None:
        """Why a call cannot be handed to a sub-agent any more, in words for the model."""
        if call.agent is None:
            return None
        limits, state = self.plan.limits, self.state
        if limits.max_depth == 0:
            return f"Not done: {call.agent} would be a sub-agent too deep down. Do the work without handing it on."
        if state.handoffs >= limits.max_handoffs:
            return f"Not done: the limit of {limits.max_handoffs} runs of sub-agents is reached. Go on without more."
        state.handoffs += 1
        return None

    def _shares(self, sub_agents: int) -> Limits | None:
        """What each sub-agent of a turn may use: an equal part of what is left, so that all of them keep to it.

        Their time runs while the parent's does, so it is not divided. Turns are each run's own.
        """
        if sub_agents == 0:
            return None
        limits, state = self.plan.limits, self.state
        used = state.usage.input_tokens + state.usage.output_tokens
        tokens = None if limits.max_tokens is None else max((limits.max_tokens - used) // sub_agents, 1)
        cost = None
        if limits.max_cost_usd is not None:
            left = limits.max_cost_usd - Decimal(state.usage.cost_micro_usd) / 1_000_000
            cost = max(left / sub_agents, SMALLEST_COST)
        return limits.model_copy(
            update={
                "max_tokens": tokens,
                "max_cost_usd": cost,
                "wall_time": self._time_for_sub_agents(),
                "max_handoffs": max(limits.max_handoffs - state.handoffs, 0) // sub_agents,
                "max_depth": limits.max_depth - 1,
            }
        )

    def _time_for_sub_agents(self) -> timedelta:
        return max(self.plan.limits.wall_time - self.state.active, timedelta(seconds=1))

    def _tool_command(self, call: CallState) -> CallTool | HandOff | BeginFunction:
        if call.call.function:
            return BeginFunction(number=call.number, call=call.call)
        approval = call.call.approved_in
        if approval is None and call.question is not None:
            approval = self._approval(call)
        if call.limits is not None:
            return HandOff(
                number=call.number,
                call=call.call,
                approval=approval,
                ballots=call.ballots,
                permit=call.permit,
                again=call.again,
                limits=call.limits,
            )
        return CallTool(
            number=call.number,
            call=call.call,
            approval=approval,
            ballots=call.ballots,
            permit=call.permit,
            again=call.again,
        )

    # ---- approvals

    def _on_asked(self, event: Asked) -> list[Command]:
        commands: list[Command] = []
        denied = dict(event.denied)
        for call in self.state.calls:
            if call.number not in event.numbers or call.phase != "asking":
                continue
            if call.number in denied:
                commands.append(self._deny(call, denied[call.number]))
            elif call.number in event.released and self.state.ending is None and not self._time_is_up:
                commands += self._release(call, f"released by {call.call.released_by or 'a standing grant'}")
            else:
                commands += self._wait_for_people(call, event.at or self._now)
        return commands + self._withdraw() if self.state.ending is not None else commands

    def _deny(self, call: CallState, words: str) -> SettleCall:
        """Nobody is there to ask."""
        call.phase = "settling"
        if call.question is not None:
            self._show(call.question, status="cancelled", note="nobody was asked")
        self._refuse_from_now_on(call, words)
        return SettleCall(number=call.number, call=call.call, status="rejected", output=words, by=None, comment=None)

    def _wait_for_people(self, call: CallState, asked_at: datetime) -> list[Command]:
        call.phase = "asked"
        gate = call.call.gate
        if gate is not None:
            call.expires_at = asked_at + gate.expires_after if gate.expires_after else None
            call.remind_at = asked_at + gate.remind_every if gate.remind_every else None
        return self._tell_of(call, "requested")

    def _release(self, call: CallState, note: str) -> list[Command]:
        call.phase = "running"
        if call.question is not None:
            self._show(call.question, status="completed", note=note)
        self._show(call.number, status="claimed")
        return [self._tool_command(call)]

    def _on_decided(self, event: Decided) -> list[Command]:
        call = self.call_of(event.approval)
        if call is None or call.phase != "asked" or call.question is None or self._time_is_up:
            return []
        call.ballots = event.ballots
        last = event.ballots[-1].decision
        told = self._tell_of(call, "decided")
        if last.verdict == "approve":
            call.call = event.edited or call.call
            people = ", ".join(ballot.decision.by for ballot in event.ballots)
            return [*self._release(call, f"approve by {people}"), *told]
        self._show(call.question, status="completed", note=f"{last.verdict} by {last.by}")
        call.phase = "refusing"
        if last.verdict == "answer":
            return [SettleApprovals((self._outcome(call, "answered"),)), *told]
        self._refuse_from_now_on(call, refusal_again(last.by, last.comment))
        return [SettleApprovals((self._outcome(call, "rejected"),)), *told]

    def _refuse_from_now_on(self, call: CallState, words: str) -> None:
        if self.plan.revision < 1:
            return
        refusals = self.state.refusals
        refusals[call.call.digest] = words
        while len(refusals) > KEPT_REFUSALS:
            del refusals[next(iter(refusals))]

    def _on_deadlines(self) -> list[Command]:
        """What is due of reminders and expiries; expiry comes first."""
        commands: list[Command] = []
        for call in self.state.calls:
            if call.phase == "given" and call.expires_at is not None and call.expires_at <= self._now:
                commands.append(self._settle_function(call, "expired"))
            if call.phase != "asked" or self.state.ending is not None:
                continue
            if call.expires_at is not None and call.expires_at <= self._now:
                commands += self._expire(call)
            elif call.remind_at is not None and call.remind_at <= self._now:
                commands += self._remind(call)
        return commands

    def _remind(self, call: CallState) -> list[Command]:
        gate = call.call.gate
        every = gate.remind_every if gate else None
        call.remind_at = self._now + every if every else None
        return self._tell_of(call, "reminder")

    def _expire(self, call: CallState) -> list[Command]:
        gate = call.call.gate or Gate()
        if gate.on_expiry == "escalate" and not call.escalated and gate.expires_after:
            call.escalated = True
            call.expires_at = self._now + gate.expires_after
            return [Escalate(call.number, self._approval(call), call.expires_at)]
        outcome = gate.on_escalation_expiry if call.escalated else gate.on_expiry
        call.expires_at = call.remind_at = None
        call.expired = True
        told = self._tell_of(call, "expired")
        if outcome == "fail":
            message = f"Nobody decided on {call.call.tool} in time."
            return [*told, *self._end("failed", "approval_expired", message)]
        call.phase = "refusing"
        if call.question is not None:
            self._show(call.question, status="completed", note="expired")
        self._refuse_from_now_on(call, EXPIRED_AGAIN)
        return [*told, SettleApprovals((self._outcome(call, "expired"),))]

    def _on_escalated(self, number: int) -> list[Command]:
        call = next((c for c in self.state.calls if c.number == number), None)
        return self._tell_of(call, "escalated") if call is not None and call.phase == "asked" else []

    def _ask_again(self, call: CallState, why: str) -> list[Command]:
        """The worker that performs did not accept the decision; nothing was begun."""
        if call.again is not None or call.phase == "settling":
            call.again, call.phase, call.message = None, call.was, why
            return self._finish() if self.state.ending is not None else self._inquire_about(call)
        call.phase = "asked"
        call.ballots = ()
        if call.question is not None:
            self._show(call.question, status="pending", note=why)
        self._show(call.number, status="pending", note=why)
        again = AskAgain(self._approval(call), why)
        return [again, *self._withdraw()] if self.state.ending is not None else [again]

    def _outcome(
        self, call: CallState, status: Literal["rejected", "answered", "expired", "withdrawn"]
    ) -> ApprovalOutcome:
        return ApprovalOutcome(
            id=self._approval(call),
            number=call.question or 0,
            guards=call.number,
            call=call.call,
            status=status,
            ballot=call.ballots[-1] if call.ballots and status in ("rejected", "answered") else None,
            at=self._now,
        )

    def _approval(self, call: CallState) -> str:
        return approval_id(self._id(call.number))

    def _tell_of(self, call: CallState, event: NoticeEvent) -> list[Command]:
        call.told += 1
        return self._tell(event, self._approval(call), call.told)

    def _tell(self, event: NoticeEvent, subject: str, occurrence: int = 0, tool: str = "") -> list[Command]:
        return [Tell(event, subject, occurrence, tool)] if self.plan.notifies else []

    # ---- calls that whoever started the run carries out

    def _on_function_begun(self, event: FunctionBegun) -> list[Command]:
        call = next((c for c in self.state.calls if c.number == event.number), None)
        if call is None or call.phase != "running" or not call.call.function:
            return []
        call.phase, call.expires_at = "given", event.expires_at
        if call.submitted or self.state.ending is not None:
            return [self._settle_function(call, None if call.submitted else "withdrawn")]
        return []

    def _on_submitted(self, number: int) -> list[Command]:
        call = next((c for c in self.state.calls if c.number == number), None)
        if call is None or not call.call.function:
            return []
        call.submitted = True  # it may have come before the run knows that the call was given
        return [self._settle_function(call, None)] if call.phase == "given" else []

    def _settle_function(self, call: CallState, ended: Literal["expired", "withdrawn"] | None) -> SettleFunction:
        call.phase, call.expires_at = "settling", None
        return SettleFunction(number=call.number, call=call.call, ended=ended)

    # ---- what became of a call

    def _on_refused(self, event: Refused) -> list[Command]:
        commands: list[Command] = []
        again = dict(event.again)
        for call in self.state.calls:
            if call.number in event.numbers and call.phase == "refusing":
                if call.number in again:
                    self.state.refusals.pop(call.call.digest, None)
                    commands += self._ask_again(call, again[call.number])
                    continue
                said = call.ballots[-1].decision.verdict if call.ballots else None
                call.phase = "settled"
                call.ballots = ()  # written down; an answer may be long
                self._show(
                    call.number,
                    status="skipped" if said == "answer" else "rejected" if said == "reject" else "cancelled",
                )
                if said is not None or call.expired:
                    self._advance(call)
        return [*commands, *self._after_call()]

    def _on_settled(self, number: int, outcome: ToolOutcome) -> list[Command]:
        call = next((c for c in self.state.calls if c.number == number), None)
        if call is None or call.phase not in ("running", "settling"):
            return []
        if outcome.status == "refused":
            return self._ask_again(call, outcome.message or "The decision was not accepted.")
        call.message = outcome.message
        call.unserved, call.sub_waits = False, ()
        self._count_sub_run(call, outcome)
        self._show(number, status=outcome.status, note=outcome.message)
        if outcome.status == "unknown":
            call.phase = "unknown"
            return self._finish() if self.state.ending is not None else self._inquire_about(call)
        if outcome.status == "failed" and not outcome.told and self.state.ending is None:
            if self.plan.on_step_failure == "hold":
                call.phase = "held"
                return self._inquire_about(call)
            if self.plan.on_step_failure == "fail":
                call.phase = "settled"
                return self._end("failed", outcome.code or "tool_failed", f"{call.call.tool}: {outcome.message}")
        call.phase = "settled"
        if outcome.status in ("completed", "skipped"):
            self._advance(call)
        return self._after_call()

    def _count_sub_run(self, call: CallState, outcome: ToolOutcome) -> None:
        """What a sub-agent used is used here too, and is gone for whoever tries its task again."""
        state, usage, limits = self.state, outcome.usage, call.limits
        state.handoffs += outcome.handoffs
        if usage is None:
            return
        state.usage = state.usage + usage
        if limits is not None:
            tokens, cost = limits.max_tokens, limits.max_cost_usd
            used = usage.input_tokens + usage.output_tokens
            spent = Decimal(usage.cost_micro_usd) / 1_000_000
            call.limits = limits.model_copy(
                update={
                    "max_tokens": None if tokens is None else max(tokens - used, 1),
                    "max_cost_usd": None if cost is None else max(cost - spent, SMALLEST_COST),
                    "max_handoffs": max(limits.max_handoffs - outcome.handoffs - 1, 0),
                }
            )

    def _on_unserved(self, number: int) -> list[Command]:
        call = next((c for c in self.state.calls if c.number == number), None)
        if call is None or call.phase != "running" or call.unserved:
            return []
        call.unserved = True
        self._show(number, status="claimed", note="no worker serves it so far")
        return self._tell("tool_unserved", self._id(number), call.permit, call.call.tool)

    def _on_sub_run_waits(self, event: SubRunWaits) -> list[Command]:
        call = next((c for c in self.state.calls if c.number == event.number), None)
        if call is not None and call.phase == "running" and call.limits is not None and self.state.ending is None:
            call.sub_waits = event.waiting_for
        return []

    def _advance(self, call: CallState) -> None:
        """In a procedure, a call that was made or that a person refused is behind us; a failed one is tried again."""
        procedure, done = self.plan.procedure, self.state.procedure_done
        if done < len(procedure) and procedure[done] == call.call.tool:
            self.state.procedure_done += 1

    def _after_call(self) -> list[Command]:
        state = self.state
        if state.ending is not None:
            return self._finish()
        if any(call.phase != "settled" for call in state.calls):
            return []
        if self.plan.calls_only:
            return self._end_of_calls()
        state.answered += [self._id(call.number) for call in state.calls]
        state.calls = []
        return self._next_turn()

    def _end_of_calls(self) -> list[Command]:
        """A run without a model ends as its calls did."""
        steps = {step.id: step for step in self.state.steps}
        for call in self.state.calls:
            step = steps.get(self._id(call.number))
            if step is not None and step.status != "completed":
                status: Literal["incomplete", "failed"] = "failed" if step.status == "failed" else "incomplete"
                message = call.message or step.note or f"{call.call.tool} was not done: {step.status}."
                return self._end(status, f"call_{step.status}", message)
        return self._end("completed")

    def _inquire_about(self, call: CallState) -> list[Command]:
        kind: Literal["unknown_outcome", "held_step"] = "unknown_outcome" if call.phase == "unknown" else "held_step"
        return self._inquire(self._question(call), kind, call.number, call.call, _in_words(call))

    def _inquire(
        self,
        question: str,
        kind: Literal["unknown_outcome", "held_step"],
        number: int,
        call: Call | None,
        text: str,
    ) -> list[Command]:
        if self.plan.revision < 1:
            return []
        return [
            Inquire(question=question, kind=kind, number=number, call=call, text=text),
            *self._tell(kind, question),
        ]

    def _question(self, call: CallState) -> str:
        """One for each time that it has to be asked, so that an answer never meets a later question."""
        return question_id(self._id(call.number), call.phase, call.permit)

    def _model_question(self) -> str:
        return question_id(self._id(self.state.model_number), "held", self.state.model_permit)

    def _on_resolved(self, event: Resolved) -> list[Command]:
        resolution = event.resolution
        if self.may_resolve(resolution) is not None or self._time_is_up:
            return []
        call = self._by_id(resolution.step)
        question = self._question(call) if call is not None else self._model_question()
        settled: list[Command] = (
            [SettleInquiry(question, resolution, event.via, event.key)] if self.plan.revision >= 1 else []
        )
        if resolution.verdict == "fail":
            words = f"{resolution.by}: {resolution.comment or 'failed by hand'}"
            return [*settled, *self._end("failed", "failed_by_person", words)]
        if call is None:
            self.state.model = "running"
            self.state.model_permit += 1
            self._show(self.state.model_number, status="claimed")
            return [*settled, self._model_command()]
        call.was = "unknown" if call.phase == "unknown" else "held"
        if resolution.verdict == "retry":
            call.phase = "running"
            call.permit += 1
            if call.limits is not None:
                self.state.handoffs += 1
                call.limits = call.limits.model_copy(update={"wall_time": self._time_for_sub_agents()})
            call.again = resolution.model_copy(update={"question": question})  # all of it: it may be signed
            self._show(call.number, status="claimed")
            return [*settled, self._tool_command(call)]
        call.phase = "settling"
        skipped = resolution.verdict == "skip"
        settle = SettleCall(
            number=call.number,
            call=call.call,
            status="skipped" if skipped else "completed",
            output=resolution.output or "",
            by=resolution.by,
            comment=resolution.comment,
            resolution=resolution.model_copy(update={"question": question}),
        )
        return [*settled, settle]

    # ---- the end

    def _complete(self) -> list[Command]:
        state = self.state
        if self.plan.remembers and not state.remembered:
            state.remembering = True
            number = self._number()
            self._add(number, "memory_write", "memory")
            return [Remember(number)]
        return self._end("completed")

    def _limit(self, reason: str, message: str) -> list[Command]:
        return self._end("incomplete", reason, message)

    def _end(
        self,
        status: Literal["completed", "incomplete", "failed", "cancelled"],
        reason: str | None = None,
        message: str | None = None,
    ) -> list[Command]:
        state = self.state
        if state.ending is not None:
            return []
        state.ending = Ending(status=status, reason=reason, message=message)
        if state.model == "held":
            state.model = "none"
        for call in state.calls:
            call.sub_waits = ()  # a sub-agent's run withdraws its questions when it is stopped
        running = tuple(call.number for call in state.calls if call.phase == "running")
        if state.model == "running":
            running = (*running, state.model_number)
        running = (*running, *(number for number in (state.recalling, state.compacting) if number is not None))
        commands: list[Command] = [StopSteps(running)] if running else []
        return commands + self._withdraw() + self._finish()

    def _withdraw(self) -> list[Command]:
        asked = [call for call in self.state.calls if call.phase == "asked"]
        for call in asked:
            call.phase = "refusing"
            call.expires_at = call.remind_at = None
            if call.question is not None:
                self._show(call.question, status="cancelled", note="expired" if call.expired else "withdrawn")
        outcomes = tuple(self._outcome(call, "expired" if call.expired else "withdrawn") for call in asked)
        given = [call for call in self.state.calls if call.phase == "given"]
        functions: list[Command] = [self._settle_function(call, "withdrawn") for call in given]
        return [*([SettleApprovals(outcomes)] if asked else []), *functions]

    def _finish(self) -> list[Command]:
        """Close as soon as nothing is in flight; unless a message came in before a completed run's end."""
        state = self.state
        if self.in_flight:
            return []
        if state.ending is None or state.ending.status == "completed":
            if state.messages and not self.plan.calls_only:
                state.ending = None
                return self._next_turn()
            if state.ending is None:
                return self._end("completed")
        state.closed = True
        unknown = [call.call.tool for call in state.calls if call.phase == "unknown"]
        message = state.ending.message
        if unknown:
            message = f"{message or ''} Nobody knows whether this was done: {', '.join(unknown)}.".lstrip()
        state.ending.message = message
        return [Close(state.ending.status, state.ending.reason, message)]

    # ---- time

    def _count_time(self, now: datetime) -> None:
        state = self.state
        if state.active_since is not None:
            state.active += now - state.active_since
            state.active_since = now
        self._now = now

    @property
    def _time_is_up(self) -> bool:
        """Asked before anything is begun: what is begun and stopped in one breath could not say that it was stopped."""
        return self.state.active >= self.plan.limits.wall_time

    def _out_of_time(self) -> list[Command]:
        return self._limit("wall_time", f"The time limit of {self.plan.limits.wall_time} is reached.")

    def _timed(self, commands: list[Command]) -> list[Command]:
        state = self.state
        state.active_since = None if state.closed or self._waits_for_people() else self._now
        if self._time_is_up and state.ending is None and not state.closed and not state.remembering:
            commands = commands + self._out_of_time()
        return commands

    def _waits_for_people(self) -> bool:
        state = self.state
        if state.model == "held":
            return True
        unsettled = [call for call in state.calls if call.phase != "settled"]
        return bool(unsettled) and all(call.waits_for_people for call in unsettled)

    # ---- small things

    def _number(self) -> int:
        number = self.state.next_number
        self.state.next_number += 1
        return number

    def _id(self, number: int) -> str:
        return step_id(self.plan.run, number)

    def _by_id(self, step: str) -> CallState | None:
        return next((call for call in self.state.calls if self._id(call.number) == step), None)

    def _waiting(self) -> Iterator[Waiting]:
        state = self.state
        if state.model == "held":
            yield Waiting(
                kind="held_step",
                id=self._id(state.model_number),
                question=self._model_question(),
                text="The model call failed; retry it or fail the run.",
            )
        for call in state.calls:
            tool = call.call.tool
            match call.phase:
                case "asked":
                    yield Waiting(
                        kind="approval",
                        id=self._approval(call),
                        question=self._approval(call),
                        tool=tool,
                        text=f"Approve or reject {tool}.",
                    )
                case "given":
                    call_id = function_call_id(self.plan.run, call.number)
                    yield Waiting(
                        kind="function_call",
                        id=call_id,
                        tool=tool,
                        text=f"Carry out {tool} and submit its output, for call {call_id}.",
                    )
                case "unknown" | "held":
                    yield Waiting(
                        kind="unknown_outcome" if call.phase == "unknown" else "held_step",
                        id=self._id(call.number),
                        question=self._question(call),
                        tool=tool,
                        text=_in_words(call),
                    )
                case "running" if call.unserved:
                    yield Waiting(
                        kind="tool_worker",
                        id=self._id(call.number),
                        tool=tool,
                        text=f"No worker serves {tool}: start the one of queue {call.call.queue}.",
                    )
                case "running" if call.sub_waits:
                    for waiting in call.sub_waits:
                        yield waiting.model_copy(update={"tool": tool, "text": f"{tool}: {waiting.text}"})
                case _:
                    pass

    def _add(
        self,
        number: int,
        kind: StepKind,
        name: str,
        status: StepStatus = "claimed",
    ) -> None:
        self.state.steps.append(StepSummary(id=self._id(number), kind=kind, name=name, status=status))
        del self.state.steps[:-SHOWN_STEPS]

    def _show(self, number: int, *, status: StepStatus, note: str | None = None) -> None:
        wanted = self._id(number)
        for index in range(len(self.state.steps) - 1, -1, -1):
            step = self.state.steps[index]
            if step.id == wanted:
                self.state.steps[index] = step.model_copy(update={"status": status, "note": note or step.note})
                return


def refusal_again(by: str, comment: str | None) -> str:
    """What the model is told when it asks again for what a person refused."""
    because = f" The reason given was: {shorten(comment, 200)}." if comment else ""
    return (
        f"Not done: {by} has already rejected exactly this call in this run.{because} Nobody was asked again. "
        "Do not make the call again; go on without it, or say what you could not do."
    )


def _in_words(call: CallState) -> str:
    tool = call.call.tool
    if call.phase == "unknown":
        return f"Nobody knows whether {tool} was done: find out, then retry, supply, skip or fail it."
    return f"{tool} failed: {call.message}. Retry, supply, skip or fail it."
