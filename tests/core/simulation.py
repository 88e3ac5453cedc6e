"""A driver of the machine without a server: what `workflows/agent_run.py` does, with dice instead of a world.

After every event it checks what a run promises. It keeps its own books from what was commanded and what came back, and
looks at the machine's state only to ask how the run stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from horarium.contract import Approval, Decision, Resolution, Usage, Waiting
from horarium.definitions import Limits
from horarium.errors import HorariumError
from horarium.ids import approval_id, function_call_id, step_id
from horarium.protocol import Call, Compacted, Gate, ModelReply, RunPlan, ToolOutcome
from horarium.tools import Effect
from workflows import commands as cmd
from workflows import events as ev
from workflows import machine as m
from workflows import machine_state as st
from workflows.desk import ApprovalDesk, Question

ENDING = (
    cmd.SettleApprovals | cmd.Close | cmd.SettleCall | cmd.SettleFunction | cmd.AskAgain | cmd.SettleInquiry | cmd.Tell
)
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
RUN = "run_1"
TOOLS = ("look", "find", "pay", "ship")
AGENTS = ("scout", "clerk")
FUNCTIONS = ("beep", "snap")
GATED = ("pay", "ship")
UNFAIR_ACTS = 20  # then something that leads to an event is done, however the dice fall
FAIR_EVENTS = 600  # in a fair world a run must have ended after this many

T = TypeVar("T")
Dice = Callable[[int], int]
"""`dice(n)`: a number below n."""


def make_plan(dice: Dice) -> RunPlan:
    """Any plan that opening a run can settle."""

    def maybe(value: T, one_in: int = 4) -> T | None:
        return value if dice(one_in) == 0 else None

    procedure = tuple(TOOLS[dice(4)] for _ in range(dice(4))) if dice(3) == 0 else ()
    calls = dice(3) if dice(4) == 0 else 0
    pending = tuple(make_call(dice, f"old_{n}", "run_0/0004") for n in range(calls))
    pending = tuple(
        call.model_copy(update={"approved_in": "apr_old"}) if call.gated and dice(2) else call for call in pending
    )
    return RunPlan(
        run=RUN,
        thread="thr_1",
        agent="clerk",
        version=1,
        limits=Limits(
            max_turns=1 + dice(12),
            max_tokens=maybe(1 + dice(400)),
            max_cost_usd=maybe(Decimal(1 + dice(300)) / 1_000_000),
            wall_time=timedelta(seconds=1 + dice(120)) if dice(3) == 0 else timedelta(hours=1000),
            max_repeats=1 + dice(4),
            max_handoffs=dice(30),
            max_depth=dice(4),
        ),
        on_step_failure=("tell", "fail", "hold")[dice(3)],
        procedure=procedure,
        choice=("*", *TOOLS, *FUNCTIONS)[dice(7)] if dice(6) == 0 else None,
        remembers=dice(3) == 0,
        recalls=dice(4) == 0,
        model_timeout=timedelta(minutes=1),
        heartbeat_timeout=timedelta(seconds=1),
        pending=pending,
        answered=tuple(f"run_0/{n:04d}" for n in range(2, 2 + dice(3))) if pending else (),
        messages=("run_1/input",) if pending and dice(2) else (),
        procedure_done=dice(len(procedure) + 1),
        revision=dice(2),
        notifies=dice(2) == 0,
    )


def make_gate(dice: Dice) -> Gate | None:
    """Any rule that a valid plan can come to."""
    if dice(2):
        return None
    expires = timedelta(seconds=5 + dice(200)) if dice(2) else None
    return Gate(
        rule="approvals.0",
        required=1 + dice(2),
        expires_after=expires,
        on_expiry=("reject", "fail", "escalate")[dice(3)] if expires else None,
        on_escalation_expiry=("reject", "fail")[dice(2)],
        remind_every=timedelta(seconds=1 + dice(60)) if dice(2) else None,
    )


def make_call(dice: Dice, id: str, source: str, tool: str | None = None) -> Call:
    """A call of one of a few tools, functions or sub-agents with one of a few arguments, so that calls repeat."""
    names = TOOLS if dice(3) else (AGENTS, FUNCTIONS)[dice(2)]
    name = tool or names[dice(len(names))]
    gated = name in GATED or (name in AGENTS and dice(4) == 0)
    return Call(
        id=id,
        tool=name,
        digest=f"sha256:{name}{dice(3)}",
        key=f"horarium/run_1/{id}",
        source=source,
        effect=Effect.EXTERNAL if name in GATED else Effect.READ,
        gated=gated,
        gate=make_gate(dice) if gated else None,
        released_by="gra_1" if gated and dice(8) == 0 else None,
        agent=name if name in AGENTS else None,
        function=name in FUNCTIONS,
    )


@dataclass
class Made:
    """What the books say of one call of the current turn."""

    call: Call
    settled: int = 0
    failures_held: int = 0


@dataclass
class Task:
    """Something begun that has not come back."""

    command: Any
    stopped: bool = False


@dataclass
class Books:
    """What happened, as seen from outside of the machine."""

    numbers: set[int] = field(default_factory=set)
    permits: set[tuple[int, int]] = field(default_factory=set)
    calls: dict[int, Made] = field(default_factory=dict)
    expected: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    asked_of_model: cmd.CallModel | None = None
    asked_of_people: set[str] = field(default_factory=set)
    counted: dict[str, tuple[Decision, ...]] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)
    expired: set[str] = field(default_factory=set)
    questions: dict[str, bool] = field(default_factory=dict)
    told: set[tuple[str, str, int]] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    withdrawn: set[str] = field(default_factory=set)
    usage: Usage = field(default_factory=Usage)
    turns: int = 0
    malformed: int = 0
    repeats: int = 0
    most_repeats: int = 0
    last_digest: str | None = None
    last_finish: str | None = None
    procedure_done: int = 0
    memories: int = 0
    recalled: int | None = None
    compacted: bool = False
    handoffs: int = 0
    shares: dict[int, Limits] = field(default_factory=dict)
    sub_waits: set[int] = field(default_factory=set)
    given: dict[int, datetime | None] = field(default_factory=dict)
    submitted: set[int] = field(default_factory=set)
    called: int = 0
    active: timedelta = timedelta(0)
    closes: list[cmd.Close] = field(default_factory=list)


class Simulation:
    """One run, from its plan to its end."""

    def __init__(self, plan: RunPlan, dice: Dice, *, patience: int = 60) -> None:
        self.plan = plan
        self.dice = dice
        self.patience = patience
        self.now = NOON
        self.machine = m.Machine(plan)
        self.desk = ApprovalDesk()
        self.events: deque[ev.Event] = deque()
        self.tasks: dict[int, Task] = {}
        self.books = Books(answered=list(plan.answered), unread=list(plan.messages), procedure_done=plan.procedure_done)
        self.log: list[Any] = []
        self.fair = False
        self._named = 0
        self._stale_events: list[ev.Event] = []

    # ---- the driver

    def run(self) -> cmd.Close:
        """Drive until the run is closed."""
        self.books.expected = [call.id for call in self.plan.pending]
        if not self.plan.recalls:
            self._count_repeats(self.plan.pending)
        commands = self.machine.start(self.now)
        self._check(None, commands, ended_before=False)
        handled = 0
        while True:
            commands = [command for command in commands if not self._begin_aside(command)]
            if not self.tasks and not self.events and self.machine.may_hand_over and self.dice(4) == 0:
                commands = self._hand_over(commands)
            for command in commands:
                self._begin(command)
            if self.books.closes:
                return self._ended()
            self._world()
            handled += 1
            self.fair = handled > self.patience
            assert handled < self.patience + FAIR_EVENTS, "the run does not end"
            commands = self._handle(ev.next_event(self.events))
            if not self.machine.closed and self.dice(400) == 0:
                return self._break()

    def _handle(self, event: ev.Event) -> list[cmd.Command]:
        step = timedelta(seconds=self.dice(20))
        if self._busy():
            self.books.active += step
        self.now += step
        ended_before = self.machine.state.ending is not None
        commands = self.machine.handle(event, self.now)
        self.log.append((event, commands))
        if not any(event is stale for stale in self._stale_events):
            self._account(event, ended_before)
        self._check(event, commands, ended_before=ended_before)
        return commands

    def _hand_over(self, commands: list[cmd.Command]) -> list[cmd.Command]:
        """Continue as new before anything of the last batch was begun."""
        if self.dice(3) == 0:  # a message that was being written
            assert self._handle(self._message()) == [], "the driver would drop what follows from a message here"
        state = self.machine.state.model_dump(mode="json")
        plan = RunPlan.model_validate(self.plan.model_dump(mode="json"))
        carried = [question.model_dump(mode="json", exclude_defaults=True) for question in self.desk.carried(keep=500)]
        self.desk = ApprovalDesk([Question.model_validate(item) for item in carried])
        self.machine = m.Machine(plan, st.MachineState.model_validate(state))
        again = self.machine.resume(self.now)
        self.log.append(("handed over", again))
        assert _by_number(again) == _by_number(commands), "what was not begun is commanded again, the same"
        self._check_standing()
        return again

    def _begin(self, command: cmd.Command) -> None:
        match command:
            case (
                cmd.CallModel()
                | cmd.CallTool()
                | cmd.HandOff()
                | cmd.BeginFunction()
                | cmd.SettleFunction()
                | cmd.SettleCall()
                | cmd.Remember()
                | cmd.Recall()
                | cmd.Compact()
            ):
                self._spawn(command.number, command)
                if isinstance(command, cmd.CallTool | cmd.HandOff):
                    self._begin_call(command)
                if isinstance(command, cmd.SettleFunction):
                    self._check_settle_function(command)
            case cmd.AskPeople():
                self._spawn(-command.requests[0].number, command)
            case cmd.SettleApprovals():
                self._spawn(-command.outcomes[0].number, command)
                for outcome in command.outcomes:
                    if outcome.status == "withdrawn":
                        self.desk.withdraw(outcome.id, outcome.at)
                        self.books.withdrawn.add(outcome.id)
                    if outcome.status == "expired":
                        self._expire(outcome)
            case cmd.StopSteps():
                for number in command.numbers:
                    if number in self.tasks:
                        self.tasks[number].stopped = True
            case cmd.Close():
                self.books.closes.append(command)

    def _begin_aside(self, command: cmd.Command) -> bool:
        """What a hand-over would not command again begins before it."""
        match command:
            case cmd.AskAgain(approval=approval):
                self.desk.reopen(approval)
                del self.books.counted[approval]
            case cmd.Escalate():
                self._spawn(-command.number, command)
            case cmd.Tell(event=event, subject=subject, occurrence=occurrence):
                assert self.plan.notifies
                assert (event, subject, occurrence) not in self.books.told, "each notice is sent once"
                self.books.told.add((event, subject, occurrence))
            case cmd.Inquire(question=question):
                assert question not in self.books.questions, "each question of the inbox is a new one"
                self.books.questions[question] = False
            case cmd.SettleInquiry(question=question):
                # While a run ends, what really happened may still be said; the first word stands in the inbox.
                if self.machine.state.ending is None:
                    assert self.books.questions[question] is False, "a question is settled once"
                self.books.questions[question] = True
            case _:
                return False
        return True

    def _check_settle_function(self, command: cmd.SettleFunction) -> None:
        until = self.books.given[command.number]
        match command.ended:
            case None:
                assert command.number in self.books.submitted, "a call is settled without its output"
            case "expired":
                assert until is not None
                assert until <= self.now, "no call expires before its time"
            case "withdrawn":
                assert self.machine.state.ending is not None, "only an ending run takes a call back"

    def _expire(self, outcome: Any) -> None:
        assert outcome.ballot is None, "an expiry is nobody's word"
        approval = self.desk.get(outcome.id)
        assert approval is not None
        assert approval.expires_at is not None
        assert approval.expires_at <= outcome.at, "nothing expires before its time"
        assert outcome.id not in self.books.counted, "what was decided does not expire"
        self.desk.expire(outcome.id, outcome.at)
        self.books.expired.add(outcome.id)

    def _spawn(self, number: int, command: cmd.Command) -> None:
        assert number not in self.tasks, "one thing at a time is in flight for a step"
        self.tasks[number] = Task(command)

    def _begin_call(self, command: cmd.CallTool | cmd.HandOff) -> None:
        """At the moment the effect may happen, all that releases it must be there."""
        assert isinstance(command, cmd.HandOff) == (command.call.agent is not None)
        assert not command.call.function, "what is the caller's to do is done by nobody else"
        if isinstance(command, cmd.HandOff):
            self._check_share(command)
        permit = (command.number, command.permit)
        assert permit not in self.books.permits, "a call is made at most once for each permit"
        self.books.permits.add(permit)
        if not command.call.gated:
            return
        if command.call.approved_in is not None:
            assert command.approval == command.call.approved_in
            return
        asked = approval_id(step_id(RUN, command.number))
        assert command.approval == asked
        if asked in self.books.released:
            assert command.call.released_by is not None
            return
        decisions = self.books.counted.get(asked)
        assert decisions, "a gated call is made without a decision"
        assert all(decision.verdict == "approve" for decision in decisions)
        assert all(decision.digest == command.call.digest for decision in decisions)
        assert tuple(ballot.decision for ballot in command.ballots) == decisions
        people = {decision.by for decision in decisions}
        gate = command.call.gate or Gate()
        assert len(people) == len(decisions) == gate.required, "as many different people as the plan wants"
        assert asked not in self.books.expired

    def _check_share(self, command: cmd.HandOff) -> None:
        """A sub-agent is given no more than was left for it, and less when it is tried again."""
        own, given = self.plan.limits, command.limits
        assert given.max_depth == own.max_depth - 1 >= 0
        assert timedelta(0) < given.wall_time <= own.wall_time
        assert (given.max_tokens is None, given.max_cost_usd is None) == (
            own.max_tokens is None,
            own.max_cost_usd is None,
        )
        before = self.books.shares.get(command.number)
        if before is not None and before.max_tokens is not None and given.max_tokens is not None:
            assert given.max_tokens <= before.max_tokens
        if before is not None:
            assert given.max_handoffs <= before.max_handoffs
        self.books.shares[command.number] = given

    # ---- the world

    def _world(self) -> None:
        """Let things happen until there is an event."""
        acts = 0
        while not self.events or (not self.fair and acts < UNFAIR_ACTS and self.dice(4) == 0):
            acts += 1
            assert acts < FAIR_EVENTS, "whatever is done, nothing happens"
            if self.fair or acts > UNFAIR_ACTS:
                self._fair_act()
                continue
            match self.dice(20):
                case 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 if self.tasks:
                    self._come_back(list(self.tasks)[self.dice(len(self.tasks))])
                case 10 | 11 | 12 | 13:
                    self._decide()
                case 14 | 15:
                    self._resolve() if self.dice(2) else self._submit()
                case 16:
                    self.events.append(self._message())
                case 17 if self.dice(8) == 0:
                    self.events.append(ev.CancelRequested())
                case 18:
                    self.events.append(ev.TimePassed())
                case 19:
                    self.events.append(self._sub_run_waits() if self.dice(2) else self._stale())
                case _:
                    pass

    def _fair_act(self) -> None:
        if self.tasks:
            self._come_back(next(iter(self.tasks)))
            return
        waiting = self.machine.waiting_for()
        assert waiting, "nothing is in flight, and the run does not say what it waits for"
        first = waiting[0]
        if first.kind == "approval":
            deadline = self.machine.next_deadline()
            if deadline is not None and self.now >= deadline:
                self.events.append(ev.TimePassed())
                return
            verdict = ("approve", "reject")[self.dice(2)]
            for by in ("ann", "bob"):
                self._take(self._decision(first.id, verdict, by))
            if not self.events:
                self.now += timedelta(seconds=300)
                self.events.append(ev.TimePassed())
        elif first.kind == "function_call":
            self._submit(first.id)
        else:
            may = [v for v in ("retry", "supply", "skip", "fail") if self._may(first.id, v)]
            self.events.append(ev.Resolved(self._resolution(first.id, may[self.dice(len(may))])))

    def _submit(self, call_id: str | None = None) -> None:
        """Whoever started the run brings an output: of a call that waits, or before the run knows that it does."""
        known = [call.number for call in self.machine.state.calls if call.call.function]
        wanted = call_id or (function_call_id(RUN, known[self.dice(len(known))]) if known else "call_1_9999")
        number = self.machine.function_call(wanted)
        if number is not None:
            self.books.submitted.add(number)
            self.events.append(ev.OutputSubmitted(number))

    def _begun(self, number: int, stopped: bool) -> ev.Event:
        if not self.fair and self.dice(8) == 0:  # adopted, or its worker did not get it done
            return ev.ToolSettled(number, self._outcome(stopped, refusable=False))
        until = self.now + timedelta(seconds=5 + self.dice(200)) if self.dice(2) else None
        self.books.given[number] = until
        return ev.FunctionBegun(number, until)

    def _may(self, step: str, verdict: str) -> bool:
        return self.machine.may_resolve(self._resolution(step, verdict)) is None

    def _come_back(self, number: int) -> None:
        task = self.tasks.pop(number)
        match task.command:
            case cmd.CallModel() as command:
                self.events.append(ev.ModelReplied(number, self._reply(command, task.stopped)))
            case cmd.CallTool() as call:
                outcome = self._outcome(task.stopped, refusable=bool(call.ballots))
                if outcome.status == "refused":  # nothing was begun
                    self.books.permits.discard((number, call.permit))
                self.events.append(ev.ToolSettled(number, outcome))
            case cmd.HandOff() as handed:
                outcome = self._outcome(task.stopped, refusable=bool(handed.ballots))
                if outcome.status == "refused":
                    self.books.permits.discard((number, handed.permit))
                elif outcome.status == "unknown":  # what its run does not know is asked there
                    outcome = ToolOutcome(status="failed", code="sub_agent_failed", message="it failed")
                if outcome.status != "refused":
                    outcome = outcome.model_copy(update=self._spent(handed.limits))
                self.events.append(ev.ToolSettled(number, outcome))
            case cmd.BeginFunction():
                self.events.append(self._begun(number, task.stopped))
            case cmd.SettleFunction():
                # An output that was there first stands, also when the wait has ended meanwhile.
                there = number in self.books.submitted or self.dice(5) == 0
                self.events.append(ev.ToolSettled(number, ToolOutcome(status="completed" if there else "cancelled")))
            case cmd.Recall():
                self.events.append(ev.Recalled(number, ok=self.dice(3) > 0))
            case cmd.Compact():
                status = "failed" if task.stopped or self.dice(3) == 0 else "completed"
                used = Usage(input_tokens=self.dice(30), output_tokens=self.dice(10))
                self.events.append(ev.Compacted(number, Compacted(status=status, usage=used)))  # type: ignore[arg-type]
            case cmd.Escalate() as escalation:
                approval = self.desk.get(escalation.approval)
                people = tuple(dict.fromkeys((*approval.approvers, "cem"))) if approval and approval.approvers else ()
                self.desk.escalate(escalation.approval, people, escalation.expires_at)
                self.events.append(ev.Escalated(escalation.number))
            case cmd.SettleCall(status=status):
                # A zombie attempt may have settled it first: then that one's outcome stands.
                stands = status if self.fair or self.dice(5) else "completed"
                self.events.append(ev.ToolSettled(number, ToolOutcome(status=stands)))
            case cmd.Remember():
                self.events.append(ev.Remembered(number, ok=self.dice(4) > 0))
            case cmd.AskPeople(requests=requests):
                released = []
                for request in requests:
                    self.books.asked_of_people.add(request.id)
                    if request.call.released_by is not None and self.dice(4):
                        released.append(request.guards)
                        self.books.released.add(request.id)
                    else:
                        self.desk.open(_question(request.id, request.call, step_id(RUN, request.guards), self.now))
                numbers = tuple(request.guards for request in requests)
                self.events.append(ev.Asked(numbers, tuple(released), self.now))
            case cmd.SettleApprovals(outcomes=outcomes):
                self.events.append(ev.Refused(tuple(outcome.guards for outcome in outcomes)))

    def _spent(self, limits: Limits) -> dict[str, Any]:
        """What a sub-agent's run may have used: its share, and one turn more."""
        tokens = self.dice(60) if limits.max_tokens is None else self.dice(limits.max_tokens + 20)
        usage = Usage(input_tokens=tokens, cost_micro_usd=self.dice(40))
        return {"usage": usage, "handoffs": self.dice(limits.max_handoffs + 1)}

    def _sub_run_waits(self) -> ev.Event:
        """A sub-agent's run begins to wait for people, or goes on; or it is one that is long over."""
        flying = [number for number, task in self.tasks.items() if isinstance(task.command, cmd.HandOff)]
        number = flying[self.dice(len(flying))] if flying else 9_999
        waits = [Waiting(kind="sub_agent", id=f"run_{number}", question=f"apr_{n}", text="?") for n in range(2)]
        return ev.SubRunWaits(number, tuple(waits[: self.dice(3)]))

    def _busy(self) -> bool:
        """Something is in flight that waits for nobody."""
        state, waits = self.machine.state, self.books.sub_waits
        beside = state.remembering or state.recalling is not None or state.compacting is not None
        flying = [call for call in state.calls if call.in_flight and call.number not in waits]
        return state.model == "running" or beside or bool(flying)

    def _reply(self, command: cmd.CallModel, stopped: bool) -> ModelReply:
        dice = self.dice
        if stopped and dice(2):
            return ModelReply(status="failed", code="cancelled", message="The model was not asked.")
        usage = Usage(input_tokens=dice(60), output_tokens=dice(20), cost_micro_usd=dice(40))
        if not self.fair:
            match dice(14):
                case 0:
                    return ModelReply(
                        status="failed", code="model_rejected", message="no", usage=usage, compact=dice(2) == 0
                    )
                case 1 | 2 | 3:
                    return ModelReply(finish="malformed", malformed="empty", note="Say something.", usage=usage)
                case 4:
                    return ModelReply(finish=("length", "filtered")[dice(2)], output="half", usage=usage)
                case _:
                    pass
        source = step_id(RUN, command.number)
        if command.offer is not None:
            calls: tuple[Call, ...] = (self._call(source, command.offer),)
        elif command.closing or dice(3) == 0 or (self.fair and dice(2)):
            return ModelReply(finish="final", output=f"answer {self._name()}", usage=usage)
        else:
            calls = tuple(self._call(source) for _ in range(1 + dice(4)))
        wrong = "bad JSON in one call" if dice(10) == 0 and not self.fair else None
        return ModelReply(finish="calls", calls=calls, malformed=wrong, usage=usage, compact=dice(6) == 0)

    def _call(self, source: str, tool: str | None = None) -> Call:
        return make_call(self.dice, f"call_{self._name()}", source, tool)

    def _outcome(self, stopped: bool, *, refusable: bool) -> ToolOutcome:
        if refusable and not self.fair and self.dice(10) == 0:
            return ToolOutcome(status="refused", code="proof_invalid", message="The signature is too old.")
        if stopped and self.dice(2):
            return ToolOutcome(status=("cancelled", "unknown")[self.dice(2)])
        if self.fair:
            return ToolOutcome(status="completed")
        match self.dice(10):
            case 0 | 1:
                return ToolOutcome(status="failed", code="tool_failed", message="no route", told=self.dice(2) == 0)
            case 2 | 3:
                return ToolOutcome(status="unknown", message="the worker died")
            case 4:
                return ToolOutcome(status=("skipped", "rejected", "cancelled")[self.dice(3)])
            case _:
                return ToolOutcome(status="completed")

    def _decide(self) -> None:
        """Anybody decides anything: pending, decided, withdrawn, never asked, on other arguments."""
        known = self.desk.all()
        if not known:
            return
        approval = known[-1 - self.dice(min(len(known), 6))]
        decision = self._decision(approval.id, ("approve", "approve", "reject", "answer")[self.dice(4)])
        if self.dice(12) == 0:
            decision = decision.model_copy(update={"digest": "sha256:other"})
        self._take(decision)

    def _decision(self, approval: str, verdict: Any, by: str | None = None) -> Decision:
        digest = next(a.digest for a in self.desk.all() if a.id == approval)
        person = by or ("ann", "bob", "cem")[self.dice(3)]
        answer = "it is 7" if verdict == "answer" else None
        return Decision(approval=approval, digest=digest, by=person, verdict=verdict, answer=answer)

    def _take(self, decision: Decision) -> None:
        """As the driver: the desk says whether it counts."""
        try:
            taken = self.desk.decide(decision, self.now, via=("signal", "update")[self.dice(2)])  # type: ignore[arg-type]
        except HorariumError:
            return
        if taken.ballots:
            assert decision.approval not in self.books.counted
            self.books.counted[decision.approval] = tuple(ballot.decision for ballot in taken.ballots)
            self.events.append(ev.Decided(decision.approval, taken.ballots, taken.edited))

    def _resolve(self) -> None:
        waiting = [w.id for w in self.machine.waiting_for() if w.kind not in ("approval", "function_call")]
        step = waiting[self.dice(len(waiting))] if waiting else step_id(RUN, 1 + self.dice(9))
        resolution = self._resolution(step, ("retry", "supply", "skip", "fail")[self.dice(4)])
        if self.machine.may_resolve(resolution) is None:
            self.events.append(ev.Resolved(resolution))

    def _resolution(self, step: str, verdict: Any) -> Resolution:
        output = "it went well" if verdict == "supply" else None
        return Resolution(step=step, verdict=verdict, by="ann", output=output)

    def _message(self) -> ev.MessageQueued:
        return ev.MessageQueued(f"message/{self._name()}")

    def _stale(self) -> ev.Event:
        """Something that came back before comes back once more, or comes from nowhere."""
        first = self.books.calls.get(1)
        number = 1 if first is not None and first.settled else 9_999
        event: ev.Event = ev.ModelReplied(number, ModelReply())
        if self.dice(2):
            event = ev.ToolSettled(number, ToolOutcome(status="completed"))
        self._stale_events.append(event)
        return event

    def _name(self) -> int:
        self._named += 1
        return self._named

    # ---- the books

    def _account(self, event: ev.Event, ended_before: bool) -> None:
        books = self.books
        match event:
            case ev.ModelReplied(number, reply) if books.asked_of_model and number == books.asked_of_model.number:
                self._account_turn(books.asked_of_model, reply, ended_before)
            case ev.ToolSettled(number, outcome) if number in books.calls:
                books.sub_waits.discard(number)
                self._account_call(books.calls[number], outcome, ended_before)
            case ev.Refused(numbers):
                for number in numbers:
                    made = books.calls[number]
                    made.settled += 1
                    asked = approval_id(step_id(RUN, number))
                    if asked not in books.withdrawn:
                        self._advance(made)
                    rejected = asked in books.counted and books.counted[asked][-1].verdict == "reject"
                    if asked not in books.withdrawn and (rejected or asked in books.expired):
                        books.refused.add(made.call.digest)
            case ev.SubRunWaits(number, waits) if number in books.calls:
                flies = any(call.number == number and call.phase == "running" for call in self.machine.state.calls)
                books.sub_waits.discard(number)
                if waits and flies and self.machine.state.ending is None:
                    books.sub_waits.add(number)
            case ev.Recalled(number, ok):
                books.recalled = number if ok else None
                if not ended_before and books.active < self.plan.limits.wall_time:
                    self._count_repeats(self.plan.pending)
            case ev.Compacted(_, result):
                books.usage = books.usage + result.usage
            case ev.MessageQueued(ref):
                books.unread.append(ref)
            case ev.Remembered():
                books.memories += 1
            case _:
                pass
        if self.machine.state.ending is not None:
            books.sub_waits.clear()

    def _account_turn(self, command: cmd.CallModel, reply: ModelReply, ended_before: bool) -> None:
        books = self.books
        books.usage = books.usage + reply.usage
        if reply.status == "failed":
            if reply.compact and not books.compacted and not ended_before:
                # It was asked with these all the same: they are in the thread, and the next turn is another one.
                books.unread = [ref for ref in books.unread if ref not in command.messages]
                books.answered, books.asked_of_model, books.expected = [], None, []
            return
        books.compacted = False
        books.turns += 1
        books.last_finish = reply.finish
        books.malformed = books.malformed + 1 if reply.malformed else 0
        books.unread = [ref for ref in books.unread if ref not in command.messages]
        books.answered = []
        books.asked_of_model = None
        books.expected = [call.id for call in reply.calls]
        if not ended_before:
            self._count_repeats(reply.calls)

    def _account_call(self, made: Made, outcome: ToolOutcome, ended_before: bool) -> None:
        if outcome.usage is not None:
            self.books.usage = self.books.usage + outcome.usage
        self.books.handoffs += outcome.handoffs
        held = outcome.status == "failed" and not outcome.told and self.plan.on_step_failure == "hold"
        if outcome.status in ("unknown", "refused") or (held and not ended_before):
            return
        made.settled += 1
        if outcome.status in ("completed", "skipped"):
            self._advance(made)

    def _advance(self, made: Made) -> None:
        done = self.books.procedure_done
        if self.plan.procedure[done : done + 1] == (made.call.tool,):
            self.books.procedure_done += 1

    def _count_repeats(self, calls: Sequence[Call]) -> None:
        self.books.called += len(calls)
        for call in calls:
            self.books.repeats = self.books.repeats + 1 if call.digest == self.books.last_digest else 1
            self.books.most_repeats = max(self.books.most_repeats, self.books.repeats)
            self.books.last_digest = call.digest

    # ---- the promises

    def _check(self, event: ev.Event | None, commands: list[cmd.Command], *, ended_before: bool) -> None:
        fresh: set[int] = set()
        begun: set[int] = set()
        for command in commands:
            match command:
                case cmd.CallModel():
                    self._check_call_model(command, fresh)
                    begun.add(command.number)
                case cmd.BeginFunction():
                    assert command.call.function
                    self._enter(command.number, command.call, fresh)
                    begun.add(command.number)
                case cmd.CallTool() | cmd.HandOff():
                    self._enter(command.number, command.call, fresh)
                    if isinstance(command, cmd.HandOff) and isinstance(event, ev.Resolved):
                        self.books.handoffs += 1  # a person wants one more
                    begun.add(command.number)
                case cmd.Recall(number):
                    assert (event, number) == (None, 1), "what is remembered is looked up first of all"
                    fresh.add(number)
                case cmd.Compact(number):
                    assert number not in self.books.numbers | fresh
                    assert not self.books.compacted, "a summary is made once between two turns"
                    self.books.compacted = True
                    fresh.add(number)
                case cmd.AskPeople(requests):
                    for request in requests:
                        assert request.call.gated
                        again = self.plan.revision >= 1 and request.call.digest in self.books.refused
                        assert not again, "people are not asked again for what they refused"
                        assert request.number not in self.books.numbers | fresh
                        fresh.add(request.number)
                        self._enter(request.guards, request.call, fresh)
                case cmd.SettleCall(number=number, call=call) if number not in self.books.calls:
                    beyond = call.agent is not None and self._no_more_handoffs()
                    assert beyond or self.plan.revision >= 1
                    assert beyond or call.digest in self.books.refused, "only what people refused is refused unasked"
                    self._enter(number, call, fresh)
                case cmd.Remember(number):
                    assert number not in self.books.numbers | fresh
                    fresh.add(number)
                case cmd.StopSteps(numbers):
                    assert not begun & set(numbers), "what is stopped in the batch that begins it never comes back"
                case cmd.Close():
                    assert commands[-1] is command, "nothing follows the close"
                case _:
                    pass
            if ended_before:
                assert isinstance(command, ENDING), "an ending run begins nothing"
        assert all(number > max(self.books.numbers, default=0) for number in fresh), "numbers only grow"
        self.books.numbers |= fresh
        assert len([c for c in commands if isinstance(c, cmd.CallModel | cmd.Close)]) <= 1
        self._check_standing()

    def _enter(self, number: int, call: Call, fresh: set[int]) -> None:
        books = self.books
        if number in books.calls:
            assert books.calls[number].settled == 0, "a settled call is made again"
            return
        assert number not in books.numbers | fresh, "a number is used twice"
        fresh.add(number)
        assert self.machine.state.ending is None
        books.calls[number] = Made(call)
        if call.agent is not None and not self._is_refused(number):
            books.handoffs += 1
            assert books.handoffs <= self.plan.limits.max_handoffs, "no more runs of sub-agents than the limit says"

    def _no_more_handoffs(self) -> bool:
        known, limits = self.books.calls, self.plan.limits
        of_this_turn = [call for call in self.machine.state.calls if call.limits and call.number not in known]
        return limits.max_depth == 0 or self.books.handoffs + len(of_this_turn) >= limits.max_handoffs

    def _is_refused(self, number: int) -> bool:
        return any(call.number == number and call.phase == "settling" for call in self.machine.state.calls)

    def _check_call_model(self, command: cmd.CallModel, fresh: set[int]) -> None:
        books, limits = self.books, self.plan.limits
        before = books.asked_of_model
        if before is not None:
            assert (command.number, command.answered, command.messages) == (
                before.number,
                before.answered,
                before.messages,
            ), "a retry asks the same"
            assert command.permit > before.permit
        else:
            assert command.number not in books.numbers
            fresh.add(command.number)
            made = [books.calls[number] for number in sorted(books.calls)]
            assert [one.call.id for one in made] == books.expected, "every call of the turn, in the model's order"
            assert all(one.settled == 1 for one in made), "every call is settled once before the model is asked"
            books.answered += [step_id(RUN, number) for number in sorted(books.calls)]
            books.calls, books.expected = {}, []
            assert list(command.answered) == books.answered
            assert list(command.messages) == books.unread
            assert books.turns < limits.max_turns
            assert books.malformed <= m.MAX_MALFORMED
        if self.plan.procedure:
            done = books.procedure_done
            assert command.offer == (self.plan.procedure[done] if done < len(self.plan.procedure) else None)
            assert command.closing == (done >= len(self.plan.procedure))
        else:
            choice = self.plan.choice if books.called == 0 else None
            assert (command.offer, command.closing) == (None if choice == "*" else choice, False)
            assert command.required == (choice == "*")
        assert command.recalled == books.recalled
        tokens = books.usage.input_tokens + books.usage.output_tokens
        if before is None and books.turns:
            assert limits.max_tokens is None or tokens < limits.max_tokens
            assert limits.max_cost_usd is None or books.usage.cost_micro_usd < limits.max_cost_usd * 1_000_000
            assert books.active < limits.wall_time
        books.asked_of_model = command

    def _check_standing(self) -> None:
        """Something is in flight, or people are waited for by name, or the run is closed."""
        machine, books = self.machine, self.books
        waiting = machine.waiting_for()
        if machine.closed:
            assert machine.state.ending is not None
            assert machine.status == machine.state.ending.status
        else:
            assert machine.in_flight or waiting, "the run waits for nothing"
            assert (machine.status == "requires_action") == (not self._busy())
        assert machine.state.usage == books.usage
        assert machine.state.turns == books.turns
        assert machine.state.procedure_done == books.procedure_done
        assert len({(w.id, w.question) for w in waiting}) == len(waiting)
        for one in waiting:
            if one.kind == "approval":
                assert one.id in books.asked_of_people, "nobody was asked this"
        if books.most_repeats > self.plan.limits.max_repeats:
            assert machine.state.ending is not None
        left = machine.time_left(self.now)
        if not machine.closed and machine.state.ending is None:
            assert (left is None) == (not self._busy()), "the clock stands while only people are waited for"
            assert left is None or left == self.plan.limits.wall_time - books.active

    def _ended(self) -> cmd.Close:
        """What must be true of every end."""
        books, machine, limits = self.books, self.machine, self.plan.limits
        assert len(books.closes) == 1
        close = books.closes[0]
        aside = [task for task in self.tasks.values() if isinstance(task.command, cmd.Escalate)]
        assert len(aside) == len(self.tasks), "the run closes when nothing is in flight"
        assert not machine.in_flight
        for event in (ev.TimePassed(), self._message(), ev.CancelRequested(), ev.ModelReplied(1, ModelReply())):
            assert machine.handle(event, self.now + timedelta(days=1)) == []
        for asked in books.asked_of_people:
            assert any(asked in ends for ends in (books.counted, books.withdrawn, books.expired, books.released)), (
                "an open question outlives the run"
            )
        assert all(made.settled == 1 for number, made in books.calls.items() if number in books.given), (
            "a call that was given to the caller outlives the run"
        )
        assert books.memories <= 1
        tokens = books.usage.input_tokens + books.usage.output_tokens
        match close.status, close.reason:
            case "completed", None:
                assert not books.unread, "a message is lost"
                assert books.last_finish == "final"
                assert all(made.settled == 1 for made in books.calls.values())
                assert books.memories == int(self.plan.remembers)
            case "incomplete", "max_turns":
                assert books.turns == limits.max_turns
            case "incomplete", "max_tokens":
                assert limits.max_tokens is not None
                assert tokens >= limits.max_tokens
            case "incomplete", "max_cost_usd":
                assert limits.max_cost_usd is not None
                assert books.usage.cost_micro_usd >= limits.max_cost_usd * 1_000_000
            case "incomplete", "max_repeats":
                assert books.most_repeats > limits.max_repeats
            case "incomplete", "wall_time":
                assert books.active >= limits.wall_time
            case "incomplete", "max_output_tokens":
                assert books.last_finish == "length"
            case "incomplete", "content_filter":
                assert books.last_finish == "filtered"
            case "failed", "malformed_turns":
                assert books.malformed == m.MAX_MALFORMED + 1
            case "failed", "tool_failed" | "sub_agent_failed":
                assert self.plan.on_step_failure == "fail"
            case "failed", "model_rejected":
                assert self.plan.on_step_failure != "hold"
            case "failed", "cancelled":
                raise AssertionError("a stopped model call is no failure")
            case "failed", "failed_by_person":
                assert any(isinstance(event, ev.Resolved) for event, _ in self.log)
            case "failed", "approval_expired":
                assert books.expired
            case "cancelled", "cancelled":
                assert any(isinstance(event, ev.CancelRequested) for event, _ in self.log)
            case other:
                raise AssertionError(f"a run ended {other}")
        return close

    def _break(self) -> cmd.Close:
        """Something that must work did not: the run ends at once, and asks what is in flight to stop."""
        flying = {
            n
            for n, made in self.books.calls.items()
            if n in self.tasks and isinstance(self.tasks[n].command, cmd.CallTool | cmd.HandOff | cmd.BeginFunction)
        }
        stop, close = self.machine.broke("ledger_gone", "The ledger is gone.")
        assert isinstance(stop, cmd.StopSteps)
        assert isinstance(close, cmd.Close)
        assert flying <= set(stop.numbers)
        assert (close.status, close.reason, self.machine.closed) == ("failed", "ledger_gone", True)
        assert self.machine.handle(ev.TimePassed(), self.now) == []
        return close


def _by_number(commands: list[cmd.Command]) -> list[cmd.Command]:
    return sorted(commands, key=lambda command: getattr(command, "number", 0))


def _question(id: str, call: Call, step: str, at: datetime) -> Approval:
    gate = call.gate or Gate()
    return Approval(
        id=id,
        run=RUN,
        step=step,
        tool=call.tool,
        effect=call.effect,
        digest=call.digest,
        preview="{}",
        status="pending",
        requested_at=at,
        required=gate.required,
        approvers=() if gate.remind_every else ("ann", "bob"),
        expires_at=at + gate.expires_after if gate.expires_after else None,
    )
