"""The run as a pure state machine: events in, commands out.

No clock, no I/O, no Temporal: the driver brings the time with each event and carries out each
command, and each command comes back as one event. Its whole state is one small model, so a run can be
handed over between any two events; a second driver can drive it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, Field

from horarium.contract import Decision, Resolution, Status, StepStatus, StepSummary, Usage, Waiting
from horarium.ids import approval_id, step_id
from horarium.protocol import ApprovalOutcome, ApprovalRequest, Call, ModelReply, RunPlan, ToolOutcome

_NEVER = datetime.min.replace(tzinfo=UTC)
MAX_MALFORMED = 3  # told back to the model this many times in a row
SHOWN_STEPS = 200

# ---- events


@dataclass(frozen=True, slots=True)
class ModelReplied:
    """`CallModel` came back."""

    number: int
    reply: ModelReply


@dataclass(frozen=True, slots=True)
class ToolSettled:
    """`CallTool` or `SettleCall` came back."""

    number: int
    outcome: ToolOutcome


@dataclass(frozen=True, slots=True)
class Asked:
    """`AskPeople` came back: decisions may arrive now."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision that counts."""

    approval: str
    decision: Decision
    via: Literal["signal", "update"]


@dataclass(frozen=True, slots=True)
class Refused:
    """`SettleApprovals` came back: these tool steps are settled, unmade."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A person says how to go on with a held step or an unknown outcome; checked by `may_resolve`."""

    resolution: Resolution


@dataclass(frozen=True, slots=True)
class MessageQueued:
    """Somebody sent a message; the ledger has it under `ref`."""

    ref: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """`Remember` came back."""

    number: int
    ok: bool


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The run is to end now."""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing happened but time."""


Event = (
    ModelReplied
    | ToolSettled
    | Asked
    | Decided
    | Refused
    | Resolved
    | MessageQueued
    | Remembered
    | CancelRequested
    | TimePassed
)

# ---- commands


@dataclass(frozen=True, slots=True)
class CallModel:
    """Ask the model for its next turn."""

    number: int
    answered: tuple[str, ...]
    messages: tuple[str, ...]
    note: str | None
    offer: str | None
    closing: bool
    permit: int


@dataclass(frozen=True, slots=True)
class CallTool:
    """Perform one call, under the decision that released it."""

    number: int
    call: Call
    approval: str | None
    decision: Decision | None
    decided_at: datetime | None
    decided_via: str | None
    permit: int


@dataclass(frozen=True, slots=True)
class AskPeople:
    """Put questions to people."""

    requests: tuple[ApprovalRequest, ...]


@dataclass(frozen=True, slots=True)
class SettleApprovals:
    """Write down rejections and withdrawals, and settle the calls they were about."""

    outcomes: tuple[ApprovalOutcome, ...]


@dataclass(frozen=True, slots=True)
class SettleCall:
    """Write down how a person settled a call."""

    number: int
    call: Call
    status: Literal["completed", "skipped"]
    output: str
    by: str
    comment: str | None


@dataclass(frozen=True, slots=True)
class StopSteps:
    """Ask these steps, in flight, to stop; each still comes back."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Remember:
    """Leave a memory of the run."""

    number: int


@dataclass(frozen=True, slots=True)
class Close:
    """End the run."""

    status: Literal["completed", "incomplete", "failed", "cancelled"]
    reason: str | None
    message: str | None


Command = CallModel | CallTool | AskPeople | SettleApprovals | SettleCall | StopSteps | Remember | Close

# ---- state

CallPhase = Literal["asking", "asked", "running", "refusing", "held", "unknown", "settling", "settled"]


class CallState(BaseModel):
    """One call of the current turn."""

    number: int
    call: Call
    phase: CallPhase
    question: int | None = Field(default=None, description="Number of the approval step.")
    decision: Decision | None = None
    decided_at: datetime | None = None
    decided_via: str | None = None
    permit: int = 0
    message: str | None = None

    @property
    def waits_for_people(self) -> bool:
        return self.phase in ("asked", "held", "unknown")

    @property
    def in_flight(self) -> bool:
        return self.phase in ("asking", "running", "refusing", "settling")


class Ending(BaseModel):
    """How the run will end once nothing is in flight."""

    status: Literal["completed", "incomplete", "failed", "cancelled"]
    reason: str | None = None
    message: str | None = None


class MachineState(BaseModel):
    """Everything a run is between two events."""

    next_number: int = 1
    turns: int = 0
    usage: Usage = Usage()
    malformed: int = 0
    note: str | None = None
    last_digest: str | None = None
    repeats: int = 0
    procedure_done: int = 0
    answered: list[str] = []
    messages: list[str] = []
    calls: list[CallState] = []
    model: Literal["none", "running", "held"] = "none"
    model_number: int = 0
    model_permit: int = 0
    model_sent: tuple[int, int] = (0, 0)
    remembering: bool = False
    remembered: bool = False
    ending: Ending | None = None
    closed: bool = False
    output: str = ""
    output_truncated: bool = False
    steps: list[StepSummary] = []
    active: timedelta = timedelta(0)
    active_since: datetime | None = None


class Machine:
    """One run. `start` or `resume` once, then `handle` each event; both give the commands to carry out."""

    def __init__(self, plan: RunPlan, state: MachineState | None = None) -> None:
        self.plan = plan
        self.state = state or MachineState(
            procedure_done=plan.procedure_done, answered=list(plan.answered), messages=list(plan.messages)
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
        return state.model == "running" or state.remembering or any(call.in_flight for call in state.calls)

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

    def may_resolve(self, resolution: Resolution) -> str | None:
        """Why a resolution cannot be taken; None when it can."""
        state = self.state
        if state.model == "held" and resolution.step == self._id(state.model_number):
            return None if resolution.verdict in ("retry", "fail") else "A model call can only be retried or failed."
        call = self._by_id(resolution.step)
        if call is None or call.phase not in ("held", "unknown"):
            return f"Step {resolution.step} does not wait to be resolved."
        if state.ending is not None and resolution.verdict == "retry":
            return f"The run is ending: step {resolution.step} is not done any more."
        if resolution.verdict == "supply" and resolution.output is None:
            return "To supply a result, give its output."
        return None

    # ---- moving

    def start(self, now: datetime) -> list[Command]:
        """Begin: with the calls a resumed run still owes, else with the model."""
        self._count_time(now)
        return self._timed(self._begin_calls(self.plan.pending) if self.plan.pending else self._next_turn())

    def resume(self, now: datetime) -> list[Command]:
        """Begin again where a hand-over left: command again what had not been begun."""
        self._count_time(now)
        state = self.state
        commands: list[Command] = []
        if state.model == "running":
            commands.append(self._model_command())
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
            case Asked():
                commands = self._on_asked(event.numbers)
            case Decided():
                commands = self._on_decided(event)
            case Refused():
                commands = self._on_refused(event.numbers)
            case Resolved():
                commands = self._on_resolved(event.resolution)
            case MessageQueued():
                self.state.messages.append(event.ref)
                return []  # never more: a driver that hands over takes the last messages in without looking
            case Remembered():
                self.state.remembering = False
                self.state.remembered = True
                self._show(event.number, status="completed" if event.ok else "failed")
                commands = self._finish()
            case CancelRequested():
                commands = self._end("cancelled", "cancelled", "The run was cancelled.")
            case TimePassed():
                commands = []
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

    def _model_command(self) -> CallModel:
        state = self.state
        answered, messages = state.model_sent
        procedure = self.plan.procedure
        offer = procedure[state.procedure_done] if state.procedure_done < len(procedure) else None
        return CallModel(
            number=state.model_number,
            answered=tuple(state.answered[:answered]),
            messages=tuple(state.messages[:messages]),
            note=state.note,
            offer=offer,
            closing=bool(procedure) and offer is None,
            permit=state.model_permit,
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
            if self.plan.on_step_failure == "hold":
                state.model = "held"
                return []
            return self._end("failed", reply.code or "model_error", reply.message)
        answered, messages = state.model_sent
        del state.answered[:answered], state.messages[:messages]
        state.note = None
        state.turns += 1
        self._show(number, status="completed", note=reply.malformed)
        if state.ending is not None:
            return self._finish()
        return self._on_turn(reply)

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
        if limits.max_cost_usd is not None and usage.cost_micro_usd >= limits.max_cost_usd * 1_000_000:
            return self._limit("max_cost_usd", f"The cost limit of ${limits.max_cost_usd} is reached.")
        return self._out_of_time() if self._time_is_up else None

    # ---- calls

    def _begin_calls(self, calls: tuple[Call, ...]) -> list[Command]:
        state = self.state
        for call in calls:
            state.repeats = state.repeats + 1 if call.digest == state.last_digest else 1
            state.last_digest = call.digest
            if state.repeats > self.plan.limits.max_repeats:
                return self._limit(
                    "max_repeats", f"{call.tool!r} was called {state.repeats} times in a row with the same arguments."
                )
        state.calls = []
        requests: list[ApprovalRequest] = []
        for call in calls:
            asks = call.gated and call.approved_in is None
            question = self._number() if asks else None
            number = self._number()
            state.calls.append(
                CallState(number=number, call=call, phase="asking" if asks else "running", question=question)
            )
            if question is not None:
                self._add(question, "approval", call.tool, "pending")
                requests.append(
                    ApprovalRequest(id=approval_id(self._id(number)), number=question, guards=number, call=call)
                )
            self._add(number, "tool_call", call.tool, "pending" if asks else "claimed")
        commands: list[Command] = [self._tool_command(call) for call in state.calls if call.phase == "running"]
        if requests:
            commands.append(AskPeople(tuple(requests)))
        return commands

    def _tool_command(self, call: CallState) -> CallTool:
        approval = call.call.approved_in
        if approval is None and call.question is not None:
            approval = approval_id(self._id(call.number))
        return CallTool(
            number=call.number,
            call=call.call,
            approval=approval,
            decision=call.decision,
            decided_at=call.decided_at,
            decided_via=call.decided_via,
            permit=call.permit,
        )

    def _on_asked(self, numbers: tuple[int, ...]) -> list[Command]:
        for call in self.state.calls:
            if call.number in numbers and call.phase == "asking":
                call.phase = "asked"
        return self._withdraw() if self.state.ending is not None else []

    def _on_decided(self, event: Decided) -> list[Command]:
        call = next((c for c in self.state.calls if approval_id(self._id(c.number)) == event.approval), None)
        if call is None or call.phase != "asked" or call.question is None or self._time_is_up:
            return []
        call.decision, call.decided_at, call.decided_via = event.decision, self._now, event.via
        self._show(call.question, status="completed", note=f"{event.decision.verdict} by {event.decision.by}")
        if event.decision.verdict == "approve":
            call.phase = "running"
            self._show(call.number, status="claimed")
            return [self._tool_command(call)]
        call.phase = "refusing"
        return [SettleApprovals((self._outcome(call, "rejected"),))]

    def _outcome(self, call: CallState, status: Literal["rejected", "withdrawn"]) -> ApprovalOutcome:
        return ApprovalOutcome(
            id=approval_id(self._id(call.number)),
            number=call.question or 0,
            guards=call.number,
            call=call.call,
            status=status,
            by=call.decision.by if call.decision else None,
            via=call.decided_via,
            comment=call.decision.comment if call.decision else None,
            at=self._now,
        )

    def _on_refused(self, numbers: tuple[int, ...]) -> list[Command]:
        for call in self.state.calls:
            if call.number in numbers and call.phase == "refusing":
                rejected = call.decision is not None
                call.phase = "settled"
                self._show(call.number, status="rejected" if rejected else "cancelled")
                if rejected:
                    self._advance(call)
        return self._after_call()

    def _on_settled(self, number: int, outcome: ToolOutcome) -> list[Command]:
        call = next((c for c in self.state.calls if c.number == number), None)
        if call is None or call.phase not in ("running", "settling"):
            return []
        call.message = outcome.message
        self._show(number, status=outcome.status, note=outcome.message)
        if outcome.status == "unknown":
            call.phase = "unknown"
            return self._finish() if self.state.ending is not None else []
        if outcome.status == "failed" and not outcome.told and self.state.ending is None:
            if self.plan.on_step_failure == "hold":
                call.phase = "held"
                return []
            if self.plan.on_step_failure == "fail":
                call.phase = "settled"
                return self._end("failed", outcome.code or "tool_failed", f"{call.call.tool}: {outcome.message}")
        call.phase = "settled"
        if outcome.status in ("completed", "skipped"):
            self._advance(call)
        return self._after_call()

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
        state.answered += [self._id(call.number) for call in state.calls]
        state.calls = []
        return self._next_turn()

    def _on_resolved(self, resolution: Resolution) -> list[Command]:
        if self.may_resolve(resolution) is not None or self._time_is_up:
            return []
        if resolution.verdict == "fail":
            return self._end("failed", "failed_by_person", f"{resolution.by}: {resolution.comment or 'failed by hand'}")
        call = self._by_id(resolution.step)
        if call is None:
            self.state.model = "running"
            self.state.model_permit += 1
            self._show(self.state.model_number, status="claimed")
            return [self._model_command()]
        if resolution.verdict == "retry":
            call.phase = "running"
            call.permit += 1
            self._show(call.number, status="claimed")
            return [self._tool_command(call)]
        call.phase = "settling"
        skipped = resolution.verdict == "skip"
        return [
            SettleCall(
                number=call.number,
                call=call.call,
                status="skipped" if skipped else "completed",
                output=resolution.output or "",
                by=resolution.by,
                comment=resolution.comment,
            )
        ]

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
        running = tuple(call.number for call in state.calls if call.phase == "running")
        if state.model == "running":
            running = (*running, state.model_number)
        commands: list[Command] = [StopSteps(running)] if running else []
        return commands + self._withdraw() + self._finish()

    def _withdraw(self) -> list[Command]:
        asked = [call for call in self.state.calls if call.phase == "asked"]
        for call in asked:
            call.phase = "refusing"
            if call.question is not None:
                self._show(call.question, status="cancelled", note="withdrawn")
        return [SettleApprovals(tuple(self._outcome(call, "withdrawn") for call in asked))] if asked else []

    def _finish(self) -> list[Command]:
        """Close as soon as nothing is in flight; unless a message came in before a completed run's end."""
        state = self.state
        if self.in_flight:
            return []
        if state.ending is None or state.ending.status == "completed":
            if state.messages:
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
                text="The model call failed; retry it or fail the run.",
            )
        for call in state.calls:
            tool = call.call.tool
            match call.phase:
                case "asked":
                    yield Waiting(
                        kind="approval",
                        id=approval_id(self._id(call.number)),
                        tool=tool,
                        text=f"Approve or reject {tool}.",
                    )
                case "unknown":
                    yield Waiting(
                        kind="unknown_outcome",
                        id=self._id(call.number),
                        tool=tool,
                        text=f"Nobody knows whether {tool} was done: find out, then retry, supply, skip or fail it.",
                    )
                case "held":
                    yield Waiting(
                        kind="held_step",
                        id=self._id(call.number),
                        tool=tool,
                        text=f"{tool} failed: {call.message}. Retry, supply, skip or fail it.",
                    )
                case _:
                    pass

    def _add(
        self,
        number: int,
        kind: Literal["model_call", "tool_call", "memory_write", "approval"],
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
