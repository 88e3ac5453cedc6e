"""One agent run: the driver of the machine.

Commands become activities, what they return becomes events; signals, updates and cancellation
become events too. Nothing is decided here. Bookkeeping that takes a millisecond is a local
activity; steps are ordinary ones, so that each stands by itself in Temporal's own UI.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

from temporalio import workflow
from temporalio.common import SearchAttributeKey, WorkflowIDReusePolicy
from temporalio.exceptions import (
    ApplicationError,
    CancelledError,
    FailureError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)

with workflow.unsafe.imports_passed_through():
    from pydantic import TypeAdapter, ValidationError

    from horarium import contract, protocol
    from horarium.content import digest_text, shorten
    from horarium.contract import (
        Approval,
        ApprovalState,
        Decision,
        Message,
        Reassignment,
        Resolution,
        ResolutionState,
        RunRequest,
        RunResult,
        RunStatus,
        Status,
        StepSummary,
        SubRun,
        ToolOutputs,
        Waiting,
    )
    from horarium.errors import Conflict, HorariumError
    from horarium.ids import STEP_ID, approval_id, split_step_id, step_id
    from horarium.people import same_person
    from horarium.protocol import AskedApprovals, Checked, RunPlan, SettledApprovals, TakenOutputs, ToolOutcome
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
    from workflows.desk import ApprovalDesk, Question
    from workflows.events import (
        Asked,
        CancelRequested,
        Decided,
        Escalated,
        Event,
        MessageQueued,
        ModelReplied,
        OutputSubmitted,
        Refused,
        Resolved,
        SubRunWaits,
        TimePassed,
        ToolSettled,
        next_event,
    )
    from workflows.failures import code_of, to_the_end, words_of
    from workflows.machine import (
        Machine,
    )
    from workflows.machine_state import (
        MachineState,
    )
    from workflows.packing import packed, unpacked
    from workflows.segment import in_done, is_step_of_ours
    from workflows.steps import NO_TIME, RETRY, Steps, local, written

AGENT = SearchAttributeKey.for_keyword(contract.SEARCH_AGENT)
STATUS = SearchAttributeKey.for_keyword(contract.SEARCH_STATUS)
THREAD = SearchAttributeKey.for_keyword(contract.SEARCH_THREAD)
TENANT = SearchAttributeKey.for_keyword(contract.SEARCH_TENANT)

DISCOVERY_TIMEOUT = timedelta(minutes=2)
KEPT_REFUSALS = 10
KEPT_RESOLUTIONS = 50
CARRIED_STEPS = 50
ASIDES = -1_000_000  # from here downwards: what runs beside the steps has numbers too
EVENTS_OF_A_STEP = 3  # of Temporal's history, at least, when each is an activity
STEPS_OF_A_SEGMENT = 2  # that leave as many events, when each is an activity
TOLD_WAITS = 20  # of a sub-agent's run, to its parent

T = TypeVar("T")
Closed: Any = protocol.ClosedRun | None


@workflow.defn(name=contract.RUN_WORKFLOW)
class AgentRun:
    """One run of one agent version against a thread."""

    @workflow.init
    def __init__(self, request: Any = None) -> None:
        self._request, self._bad_request = _read_request(request)
        self._run = workflow.info().workflow_id
        self._machine: Machine | None = None
        self._desk = ApprovalDesk()
        self._events: deque[Event] = deque()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._messages = 0
        self._arriving = 0
        self._taken: set[str] = set()
        self._refused: deque[str] = deque(maxlen=KEPT_REFUSALS)
        self._handed_over_at = 0
        self._segments = 0
        self._unshown = False
        self._asides: set[int] = set()
        self._aside_number = ASIDES
        self._timer: asyncio.Task[None] | None = None
        self._deadline: tuple[datetime, asyncio.Task[None]] | None = None
        self._resolved: dict[str, Resolution] = {}
        self._undecided: set[str] = set()
        self._late = 0
        self._voting: list[str] = []
        self._reassigning: set[str] = set()
        self._inquiring: set[str] = set()
        self._counted: set[str] = set()
        self._steps = Steps(self._run, self._request.tenant, lambda: self._opened, self._events.append, self._aside)
        self._told_parent: tuple[Waiting, ...] = ()
        self._telling_parent = False
        self._told_waits: tuple[int, tuple[str, ...]] = (0, ())
        self._status: Status = "queued"
        self._close: Close | None = None
        self._broken: Exception | None = None
        if self._request.carried is not None:
            try:
                if workflow.info().continued_run_id is None:
                    raise ValueError("nothing was continued: whoever started this made it up")
                self._take_over(self._request.carried)
            except (KeyError, TypeError, ValueError):
                self._bad_request = "The run request is wrong. carried: is the engine's own; leave it out."

    @workflow.run
    async def run(self, request: Any = None) -> RunResult:
        """Drive the machine until it closes.

        Raises:
            ApplicationError: The run failed; its type is the reason's code, its first detail the `RunResult`.
            CancelledError: The run was cancelled, after everything in flight had said what became of it.
        """
        if self._bad_request is not None:
            raise ApplicationError(self._bad_request, type="bad_request", non_retryable=True)
        try:
            machine, commands = await self._open(self._request)
            await self._drive(machine, commands)
        except asyncio.CancelledError:
            # Only while opening: from then on a cancellation is an event like any other.
            await self._close_run(Close("cancelled", "cancelled", "The run was cancelled."))
            raise
        return self._result()

    # ---- looking

    @workflow.query(name=contract.QUERY_STATUS)
    def status(self) -> RunStatus:
        """Where the run is and what it waits for."""
        machine = self._machine
        plan = machine.plan if machine else None
        return RunStatus(
            run=self._run,
            thread=plan.thread if plan else self._request.thread,
            agent=self._request.agent,
            version=plan.version if plan else self._request.version,
            status=self._status if machine is None else machine.status,
            reason=machine.state.ending.reason if machine and machine.state.ending else None,
            waiting_for=machine.waiting_for() if machine else (),
            turns=machine.state.turns if machine else 0,
            steps=machine.state.next_number - 1 if machine else 0,
            usage=machine.state.usage if machine else contract.Usage(),
            refused_signals=tuple(self._refused),
        )

    @workflow.query(name=contract.QUERY_APPROVALS)
    def approvals(self) -> list[Approval]:
        """Every approval of the run, oldest first; the pending ones wait for a decision."""
        return self._desk.all()

    @workflow.query(name=contract.QUERY_STEPS)
    def steps(self) -> list[StepSummary]:
        """The latest steps, oldest first."""
        return list(self._machine.state.steps) if self._machine else []

    # ---- deciding

    @workflow.update(name=contract.UPDATE_DECIDE)
    async def decide(self, decision: Any) -> ApprovalState:
        """Approve, reject or answer (`Decision`); answers with what then stands."""
        return await self._decide(Decision.model_validate(decision), "update")

    @decide.validator
    def may_decide(self, decision: Any) -> None:
        """Refuse before history is written."""
        with _as_application_error():
            self._desk.check(Decision.model_validate(decision), workflow.now())

    @workflow.update(name=contract.UPDATE_REASSIGN)
    async def reassign(self, reassignment: Any) -> ApprovalState:
        """Hand an approval to others (`Reassignment`), who decide instead; answers with what then stands."""
        return await self._reassign(Reassignment.model_validate(reassignment))

    @reassign.validator
    def may_reassign(self, reassignment: Any) -> None:
        """Refuse before history is written."""
        with _as_application_error():
            self._desk.check_reassignment(Reassignment.model_validate(reassignment), workflow.now())

    @workflow.signal(name=contract.SIGNAL_APPROVE)
    async def approve(self, decision: Any = None, *_more: Any) -> None:
        """Approve; a decision that does not count is noted in `status`."""
        await self._decided_by_signal(decision, "approve")

    @workflow.signal(name=contract.SIGNAL_REJECT)
    async def reject(self, decision: Any = None, *_more: Any) -> None:
        """Reject; a decision that does not count is noted in `status`."""
        await self._decided_by_signal(decision, "reject")

    @workflow.signal(name=contract.SIGNAL_MESSAGE)
    async def message(self, note: Any = None, *_more: Any) -> None:
        """More input, for the next turn."""
        read = self._read(contract.SIGNAL_MESSAGE, note, Message)
        if read is None:
            return
        self._messages += 1
        self._arriving += 1
        try:
            await self._write_message(f"{workflow.info().run_id}/{self._messages}", read)
        finally:
            self._arriving -= 1

    async def _write_message(self, ref: str, message: Message) -> None:
        await workflow.wait_condition(lambda: self._machine is not None)
        machine = self._machine
        if machine is None:
            return
        await local(
            protocol.WRITE_MESSAGE,
            protocol.WriteMessage(id=ref, run=self._run, thread=machine.plan.thread, text=message.text, by=message.by),
            type(None),
        )
        self._events.append(MessageQueued(ref))

    @workflow.signal(name=contract.SIGNAL_TOOL_OUTPUTS)
    async def submit_tool_outputs(self, outputs: Any = None, *_more: Any) -> None:
        """What came of calls that whoever started the run carries out; what does not count is noted in `status`."""
        read = self._read(contract.SIGNAL_TOOL_OUTPUTS, outputs, ToolOutputs)
        machine = self._machine
        if read is None or machine is None:
            return
        wanted = {call: machine.function_call(call) for call in read.outputs}
        for call, number in wanted.items():
            if number is None:
                self._refuse(contract.SIGNAL_TOOL_OUTPUTS, f"No call {shorten(call, 100)!r} waits for an output.")
        texts = {number: read.outputs[call] for call, number in wanted.items() if number is not None}
        if not texts:
            return
        taking = protocol.TakeOutputs(run=self._run, outputs=texts, by=read.by)
        taken = await local(protocol.TAKE_OUTPUTS, taking, TakenOutputs)
        for why in taken.refused.values():
            self._refuse(contract.SIGNAL_TOOL_OUTPUTS, why)
        self._events.extend(OutputSubmitted(number) for number in taken.taken)

    @workflow.update(name=contract.UPDATE_RESOLVE)
    async def settle(self, resolution: Any) -> ResolutionState:
        """Say how to go on with a held step or an unknown outcome (`Resolution`)."""
        return await self._resolve(Resolution.model_validate(resolution), "update")

    @settle.validator
    def may_settle(self, resolution: Any) -> None:
        """Refuse before history is written."""
        with _as_application_error():
            self._check_resolution(Resolution.model_validate(resolution))

    @workflow.signal(name=contract.SIGNAL_RESOLVE)
    async def resolve(self, resolution: Any = None, *_more: Any) -> None:
        """As the update; an answer that does not count is noted in `status`."""
        read = self._read(contract.SIGNAL_RESOLVE, resolution, Resolution)
        if read is None or self._machine is None:
            return
        try:
            await self._resolve(read, "signal")
        except ApplicationError as error:
            self._refuse(contract.SIGNAL_RESOLVE, error.message)

    @workflow.signal(name=contract.SIGNAL_SUB_RUN)
    async def sub_run(self, waits: Any = None, *_more: Any) -> None:
        """The engine's own: what the run of a sub-agent waits for."""
        read = self._read(contract.SIGNAL_SUB_RUN, waits, SubRun)
        if read is None or self._machine is None:
            return
        run, number = split_step_id(read.step) if STEP_ID.match(read.step) else ("", 0)
        if run == self._run and self._steps.sub_runs.get(number) == read.run:
            # Whoever answers does so at the run that asks, at whatever depth it is.
            waits = [
                item if item.kind == "sub_agent" else item.model_copy(update={"kind": "sub_agent", "id": read.run})
                for item in read.waiting_for
            ]
            self._events.append(SubRunWaits(number, tuple(waits)))

    async def _decide(self, decision: Decision, via: Literal["update", "signal"]) -> ApprovalState:
        with _as_application_error():
            approval = await self._settled_question(decision)
            if self._opened.closed and approval.status == "pending":
                self._desk.take_back(approval.id, workflow.now())
        checked = Checked()
        call = self._opened.call_of(approval.id)
        if approval.status == "pending" and call is not None and self._must_check(approval, decision):
            checked = await local(
                protocol.CHECK_DECISION,
                protocol.CheckDecision(
                    run=self._run,
                    approval=approval.id,
                    number=call.number,
                    call=call.call,
                    decision=decision,
                    at=workflow.now(),
                    via=via,
                ),
                Checked,
            )
            if checked.code is not None:
                raise ApplicationError(checked.message or checked.code, type=checked.code, non_retryable=True)
        await self._handed_over(approval.id)
        # Checked again: another decision, the deadline, or the run's end may have come in between.
        with _as_application_error():
            if self._opened.closed and approval.status == "pending":
                self._desk.take_back(approval.id, workflow.now())
            taken = self._desk.decide(decision, workflow.now(), via=via, key=checked.key, edited=checked.call)
        if taken.state.repeated:
            return taken.state
        if taken.ballots:
            await self._hand_in(Decided(approval.id, taken.ballots, taken.edited))
        else:
            vote = taken.state.approval.votes[-1]
            ballot = protocol.Ballot(
                decision=decision.model_copy(update={"arguments": None}), at=vote.at, via=via, key=vote.key
            )
            record = protocol.RecordVote(run=self._run, approval=approval.id, ballot=ballot, digest=vote.digest)
            self._voting.append(approval.id)
            try:
                recorded = await written(self._plan, protocol.RECORD_VOTE, record, Checked)
            finally:
                self._voting.remove(approval.id)
            if recorded is not None and recorded.code is not None:
                self._want_proof()
                self._desk.retract(approval.id, decision.by)
                raise ApplicationError(recorded.message or recorded.code, type=recorded.code, non_retryable=True)
        return taken.state

    async def _hand_in(self, decided: Decided) -> None:
        """Give a decision to the machine, and answer only when it was taken.

        Raises:
            ApplicationError: The run no longer waits for it; nothing was released.
        """
        self._events.append(decided)
        if self._plan.revision < 1:
            return
        self._undecided.add(decided.approval)
        await workflow.wait_condition(lambda: decided.approval not in self._undecided)
        if decided.approval in self._counted:
            self._counted.discard(decided.approval)
            return
        with _as_application_error():
            self._desk.take_back(decided.approval, workflow.now())

    async def _settled_question(self, decision: Decision) -> Approval:
        """The approval that a decision is about, once it is known whom it asks: while it is escalated, nobody is late.

        Raises:
            HorariumError: As `ApprovalDesk.check`.
        """
        approval = self._desk.check(decision, workflow.now())
        if not self._desk.is_escalating(approval.id, workflow.now()):
            return approval
        self._late += 1
        try:
            await workflow.wait_condition(
                lambda: self._opened.closed or not self._desk.is_escalating(approval.id, workflow.now())
            )
        finally:
            self._late -= 1
        return self._desk.check(decision, workflow.now())

    async def _reassign(self, said: Reassignment) -> ApprovalState:
        # One at a time, and not before every vote is in the ledger: whoever voted stays among those who decide.
        while said.approval in self._reassigning or said.approval in self._voting:
            await workflow.wait_condition(
                lambda: said.approval not in self._reassigning and said.approval not in self._voting
            )
        with _as_application_error():
            approval = self._desk.check_reassignment(said, workflow.now())
            if self._opened.closed:
                self._desk.take_back(approval.id, workflow.now())
        self._reassigning.add(approval.id)
        try:
            handing = protocol.Reassign(run=self._run, reassignment=said, at=workflow.now())
            done = await local(protocol.REASSIGN, handing, protocol.Reassigned)
            if done.code is not None:
                raise ApplicationError(done.message or done.code, type=done.code, non_retryable=True)
            with _as_application_error():
                state, changed = self._desk.reassign(said, done.people, done.times, more=done.more)
        finally:
            self._reassigning.discard(approval.id)
        if changed and self._plan.notifies:
            await self._tell(Tell("reassigned", approval.id, done.times))
        return state

    async def _handed_over(self, approval: str) -> None:
        """Once it is known who decides: a decision that comes in the middle of a reassignment waits for that."""
        while approval in self._reassigning:
            await workflow.wait_condition(lambda: approval not in self._reassigning)

    def _want_proof(self) -> None:
        """An activity did not take an unproven word: from now on it is asked before anybody is told yes."""
        machine = self._opened
        machine.plan = machine.plan.model_copy(update={"require_proof": True})

    def _must_check(self, approval: Approval, decision: Decision) -> bool:
        said_more = decision.proof, decision.arguments, decision.remember
        unknown = not self._desk.knows(approval.id, decision.by)
        return self._plan.require_proof or unknown or any(item is not None for item in said_more)

    async def _decided_by_signal(self, payload: Any, verdict: contract.Verdict) -> None:
        decision = self._read(verdict, payload, Decision)
        if decision is None:
            return
        try:
            await self._decide(decision.model_copy(update={"verdict": verdict}), "signal")
        except ApplicationError as error:
            self._refuse(verdict, error.message)

    def _check_resolution(self, resolution: Resolution) -> Resolution | None:
        """The same answer, when it was given before.

        Raises:
            Conflict: It does not count; says why, and names who was first.
            NotAnApprover: The plan of the call lets others decide.
        """
        problem = self._opened.may_resolve(resolution)
        before = self._settled_before(resolution)
        if before is not None and (resolution.question is not None or problem is not None):
            given = _kept(resolution)
            if same_person(before.by, given.by) and (before.verdict, before.output) == (given.verdict, given.output):
                return before
            other = ", with another output" if before.verdict == given.verdict == "supply" else ""
            raise Conflict(f"Step {resolution.step} was settled before by {before.by}: {before.verdict}{other}.")
        if problem is not None:
            raise Conflict(problem)
        self._desk.may_settle(approval_id(resolution.step), resolution.by)
        return None

    def _settled_before(self, resolution: Resolution) -> Resolution | None:
        if resolution.question is not None:
            return self._resolved.get(resolution.question)
        return next((said for said in reversed(self._resolved.values()) if said.step == resolution.step), None)

    async def _resolve(self, resolution: Resolution, via: Literal["update", "signal"]) -> ResolutionState:
        with _as_application_error():
            before = self._check_resolution(resolution)
        key = None
        # Always: what this worker requires now counts, whatever it was when the run was opened.
        if before is None and (self._plan.revision >= 1 or resolution.proof is not None):
            checking = protocol.CheckResolution(run=self._run, resolution=resolution, at=workflow.now(), via=via)
            checked = await local(protocol.CHECK_RESOLUTION, checking, Checked)
            if checked.code is not None:
                raise ApplicationError(checked.message or checked.code, type=checked.code, non_retryable=True)
            key = checked.key
            with _as_application_error():
                before = self._check_resolution(resolution)
        taken = before or resolution
        if before is None:
            question = resolution.question or resolution.step
            self._resolved.pop(question, None)
            self._resolved[question] = _kept(resolution)
            while len(self._resolved) > KEPT_RESOLUTIONS:
                del self._resolved[next(iter(self._resolved))]
            self._events.append(Resolved(resolution, via, key))
        return ResolutionState(step=taken.step, verdict=taken.verdict, by=taken.by, repeated=before is not None)

    def _read(self, signal: str, payload: Any, model: type[T]) -> T | None:
        """A signal cannot be refused, so its payload is checked here: a bad one must not stop the run."""
        try:
            return TypeAdapter(model).validate_python(payload)
        except ValidationError as error:
            self._refuse(signal, _first_problem(error))
            return None

    def _refuse(self, signal: str, why: str) -> None:
        self._refused.append(f"{signal}: {shorten(why, 300)}")
        workflow.logger.warning("signal.refused", extra={"signal": signal, "why": why})

    # ---- driving

    def _take_over(self, carried: dict[str, Any]) -> None:
        # Here and not in `run`: a decision in the first workflow task is handled before `run` begins.
        self._desk = ApprovalDesk([_question(item) for item in unpacked(carried["approvals"])])
        for item in carried.get("resolved", ()):
            resolution = Resolution.model_validate(item)
            self._resolved[resolution.question or resolution.step] = resolution
        self._messages = carried["messages"]
        self._refused.extend(carried["refused"])
        self._status = carried["status"]
        self._told_parent = tuple(Waiting.model_validate(item) for item in carried.get("told_parent", ()))
        times, waits = carried.get("told_waits", (0, ()))
        self._told_waits = (times, tuple(waits))
        self._machine = Machine(RunPlan.model_validate(carried["plan"]), MachineState.model_validate(carried["state"]))
        self._handed_over_at = self._machine.state.next_number

    async def _open(self, request: RunRequest) -> tuple[Machine, list[Command]]:
        if self._machine is not None:
            return self._machine, self._machine.resume(workflow.now())
        try:
            plan = await self._opened_plan(request)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise asyncio.CancelledError from error
            failure = self._opening_failed(error)
            await self._close_run(Close("failed", failure.type, failure.message))
            raise failure from error
        machine = Machine(plan)
        self._machine = machine
        self._unshown = True
        if plan.revision < 2:
            self._show_status(machine)
        return machine, machine.start(workflow.now())

    async def _opened_plan(self, request: RunRequest) -> RunPlan:
        opening = protocol.OpenRun(run=self._run, request=request)
        try:
            return await local(protocol.OPEN_RUN, opening, RunPlan)
        except FailureError as error:
            if code_of(error) != protocol.TOOLS_NOT_DISCOVERED:
                raise
        # Servers are asked what tools they have: that may take longer than a workflow task lasts.
        workflow.set_current_details("Looking up what tools its servers have.")
        await workflow.execute_activity(
            protocol.DISCOVER_TOOLS,
            protocol.DiscoverTools(run=self._run, request=request),
            start_to_close_timeout=DISCOVERY_TIMEOUT,
            heartbeat_timeout=timedelta(seconds=10),
            retry_policy=RETRY,
            summary="discover tools",
        )
        return await local(protocol.OPEN_RUN, opening, RunPlan)

    def _opening_failed(self, error: FailureError) -> ApplicationError:
        code, message = code_of(error), words_of(error)
        workflow.upsert_search_attributes([STATUS.value_set("failed")])
        result = RunResult(
            run=self._run,
            thread=self._request.thread or "",
            agent=self._request.agent,
            version=self._request.version or 0,
            status="failed",
            reason=code,
            message=message,
        )
        return ApplicationError(message, result, type=code, non_retryable=True)

    async def _drive(self, machine: Machine, commands: list[Command]) -> None:
        waits: dict[int, timedelta] = {}
        while True:
            if not (self._unshown and self._may_soon_be_over(machine, commands)):
                self._show_status(machine)
            # What runs beside the steps begins first: a hand-over commands only the steps again.
            commands = [command for command in commands if not self._begin_aside(command)]
            if not waits and self._should_hand_over(machine):
                await self._hand_over(machine)
            if not waits and self._fits_a_segment(machine, commands):
                commands, waits = await self._segment(machine, commands)
                continue
            for command in commands:
                self._begin(command, waits)
            waits = {}
            try:
                await asyncio.sleep(0)  # let each take its first step: a task that is stopped before it never says so
            except asyncio.CancelledError:
                self._events.append(CancelRequested())
            self._watch_the_clock(machine)
            if self._close is not None:
                if self._asides:
                    await to_the_end(workflow.wait_condition(lambda: not self._asides))
                await to_the_end(self._close_run(self._close))
                self._undecided.clear()  # too late: whoever waits for an answer is told so
                await to_the_end(workflow.wait_condition(workflow.all_handlers_finished))
                return
            try:
                await workflow.wait_condition(lambda: bool(self._events) or self._broken is not None)
            except asyncio.CancelledError:
                self._events.append(CancelRequested())
            if self._broken is not None:
                commands = self._break_off(machine, self._broken)
                continue
            event = await self._next_event(machine)
            commands = self._handled(machine, event)
            if isinstance(event, Decided):
                self._count(machine, event)

    async def _next_event(self, machine: Machine) -> Event:
        """The next to handle; a message that is on its way into the ledger comes before a turn that may be the last."""
        if self._arriving and machine.plan.revision >= 2 and isinstance(self._events[0], ModelReplied):
            try:
                await workflow.wait_condition(lambda: not self._arriving)
            except asyncio.CancelledError:
                self._events.append(CancelRequested())
            message = next((event for event in self._events if isinstance(event, MessageQueued)), None)
            if message is not None:
                self._events.remove(message)
                return message
        return next_event(self._events)

    def _handled(self, machine: Machine, event: Event) -> list[Command]:
        if isinstance(event, MessageQueued) and event.ref in self._taken:
            return []  # a segment has given it to the machine
        return machine.handle(event, workflow.now())

    def _fits_a_segment(self, machine: Machine, commands: list[Command]) -> bool:
        """Whether these commands, and what follows from them, can go on without the workflow for a while."""
        if machine.plan.execution != "segments" or not commands or not all(map(is_step_of_ours, commands)):
            return False
        busy = any(number > ASIDES for number in self._tasks) or bool(self._events)
        # Whoever is asked something is answered at once, also while other calls are being made.
        waiting = any(call.phase not in ("running", "settled") for call in machine.state.calls)
        return not (busy or waiting or machine.state.ending is not None or self._broken is not None)

    async def _segment(self, machine: Machine, commands: list[Command]) -> tuple[list[Command], dict[int, timedelta]]:
        """Have a segment of the run carried out; what it has not begun, and how long that has to wait.

        What happens meanwhile is handled afterwards; a cancellation ends it.
        """
        first = (
            machine.state.next_number == machine.plan.next_number + len(commands)
            and workflow.info().continued_run_id is None
        )
        self._segments += 1
        segment = asyncio.create_task(
            self._steps.segment(commands, first=first, goes_on=lambda: self._show_status(machine))
        )
        while not segment.done():
            try:
                await asyncio.shield(segment)
            except asyncio.CancelledError:
                self._events.append(CancelRequested())
                segment.cancel()
            except FailureError:
                break
        try:
            done = segment.result()
        except FailureError as error:
            return machine.broke(code_of(error), words_of(error)), {}
        machine.state, left = in_done(done, machine.state.steps)
        self._taken.update(done.messages)
        if done.final is not None:
            self._events.append(ModelReplied(machine.state.model_number, done.final))
        waits = {item.command.number: item.wait for item in left if is_step_of_ours(item.command) and item.wait}
        return [item.command for item in left], waits

    def _count(self, machine: Machine, event: Decided) -> None:
        """Let whoever decided know whether it counted: the run may have ended in the same moment."""
        call = machine.call_of(event.approval)
        if call is not None and call.ballots == event.ballots:
            self._counted.add(event.approval)
        self._undecided.discard(event.approval)

    def _break_off(self, machine: Machine, error: Exception) -> list[Command]:
        self._broken = None
        if not isinstance(error, FailureError):
            raise error  # a mistake of ours: the run stays as it is until the code is mended
        return machine.broke(code_of(error), words_of(error))

    def _begin_aside(self, command: Command) -> bool:
        match command:
            case AskAgain():
                self._desk.reopen(command.approval)
                self._refuse("decide", command.why)
                self._want_proof()
            case Escalate():
                self._aside(self._escalate(command))
            case Tell():
                self._aside(self._tell(command))
            case Inquire():
                self._aside(self._inquire(command))
            case SettleInquiry():
                self._aside(self._settle_inquiry(command))
            case _:
                return False
        return True

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        """What runs beside the steps, and is waited for at a hand-over and at the end."""
        self._aside_number -= 1
        number = self._aside_number

        async def until_done() -> None:
            try:
                await work
            finally:
                self._asides.discard(number)

        self._asides.add(number)
        self._spawn(number, until_done())

    def _begin(self, command: Command, waits: Mapping[int, timedelta]) -> None:
        match command:
            case CallModel():
                self._spawn(command.number, self._steps.call_model(command, waits.get(command.number, NO_TIME)))
            case CallTool():
                self._spawn(command.number, self._steps.call_tool(command, waits.get(command.number, NO_TIME)))
            case HandOff():
                self._spawn(command.number, self._steps.hand_off(command))
            case BeginFunction():
                self._spawn(command.number, self._steps.begin_function(command))
            case SettleFunction():
                self._spawn(command.number, self._steps.settle_function(command))
            case Recall():
                self._spawn(command.number, self._steps.recall(command))
            case Compact():
                self._spawn(command.number, self._steps.compact(command, waits.get(command.number, NO_TIME)))
            case AskPeople():
                self._spawn(-command.requests[0].number, self._ask(command))
            case SettleApprovals():
                self._spawn(-command.outcomes[0].number, self._settle_approvals(command))
            case SettleCall():
                self._spawn(command.number, self._settle_call(command))
            case Remember():
                self._spawn(command.number, self._steps.remember(command))
            case StopSteps():
                for number in command.numbers:
                    if number in self._tasks:
                        self._tasks[number].cancel()
            case Close():
                self._close = command

    def _spawn(self, number: int, work: Any) -> None:
        async def until_done() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self._broken = error
            finally:
                self._tasks.pop(number, None)

        self._tasks[number] = asyncio.create_task(until_done())

    async def _ask(self, command: AskPeople) -> None:
        now = workflow.now()
        plan = self._plan
        asked = await local(
            protocol.ASK_APPROVALS,
            protocol.AskApprovals(
                run=self._run,
                agent=plan.agent,
                tenant=self._request.tenant,
                thread=plan.thread,
                not_by=plan.not_by,
                requests=command.requests,
                requested_at=now,
            ),
            AskedApprovals,
        )
        found = {item.guards: item for item in (asked or AskedApprovals()).asked}
        released = tuple(number for number, item in found.items() if item.released)
        denied = tuple((number, item.denied) for number, item in found.items() if item.denied is not None)
        for request in command.requests:
            if request.guards not in (*released, *(number for number, _ in denied)):
                people = found.get(request.guards) or protocol.AskedApproval(guards=request.guards)
                self._open_approval(request, people, now)
        self._events.append(Asked(tuple(request.guards for request in command.requests), released, now, denied))

    def _open_approval(self, request: protocol.ApprovalRequest, asked: protocol.AskedApproval, now: datetime) -> None:
        call, gate = request.call, request.call.gate or protocol.Gate()
        approval = Approval(
            id=request.id,
            run=self._run,
            step=step_id(self._run, request.guards),
            tool=call.tool,
            effect=call.effect,
            digest=call.digest,
            preview=call.preview,
            status="pending",
            requested_at=now,
            rule=gate.rule,
            approvers=asked.people,
            more_approvers=asked.more,
            required=gate.required,
            not_by=self._plan.not_by if gate.four_eyes else (),
            expires_at=now + gate.expires_after if gate.expires_after else None,
        )
        self._desk.open(approval, gate.remember, escalates=gate.on_expiry == "escalate")

    async def _escalate(self, command: Escalate) -> None:
        await self._handed_over(command.approval)
        escalated = await local(
            protocol.ESCALATE,
            protocol.Escalate(
                run=self._run,
                approval=command.approval,
                at=workflow.now(),
                expires_at=command.expires_at,
            ),
            protocol.Escalated,
        )
        self._desk.escalate(command.approval, escalated.people, command.expires_at, more=escalated.more)
        self._events.append(Escalated(command.number))

    async def _tell(self, command: Tell) -> None:
        """In a workflow of its own, so that a mail server that is away keeps no run from ending."""
        notice = protocol.Notice(
            run=self._run,
            subject=command.subject,
            event=command.event,
            occurrence=command.occurrence,
            tool=command.tool,
            at=workflow.now() if command.subject == self._run else None,
        )
        with contextlib.suppress(WorkflowAlreadyStartedError):
            await workflow.start_child_workflow(
                contract.NOTICE_WORKFLOW,
                notice,
                id=f"{command.subject}:{command.event}:{command.occurrence}",
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                static_summary=f"{command.event} {command.subject}",
            )

    async def _inquire(self, command: Inquire) -> None:
        plan = self._plan
        question = protocol.OpenQuestion(
            id=command.question,
            kind=command.kind,
            run=self._run,
            agent=plan.agent,
            tenant=self._request.tenant,
            number=command.number,
            call=command.call,
            text=command.text,
            at=workflow.now(),
        )
        self._inquiring.add(command.question)
        try:
            await local(protocol.OPEN_QUESTION, question, type(None))
        finally:
            self._inquiring.discard(command.question)

    async def _settle_inquiry(self, command: SettleInquiry) -> None:
        settled = protocol.SettleQuestion(
            id=command.question,
            run=self._run,
            resolution=command.resolution,
            at=workflow.now(),
            via=command.via,
            key=command.key,
        )
        await workflow.wait_condition(lambda: command.question not in self._inquiring)
        checked = await written(self._plan, protocol.SETTLE_QUESTION, settled, Checked)
        if checked is not None and checked.code is not None:
            self._refuse("resolve", checked.message or checked.code)

    async def _settle_approvals(self, command: SettleApprovals) -> None:
        for outcome in command.outcomes:
            if outcome.status == "withdrawn":
                self._desk.withdraw(outcome.id, outcome.at)
            elif outcome.status == "expired":
                self._desk.expire(outcome.id, outcome.at)
        settled = await written(
            self._plan,
            protocol.SETTLE_APPROVALS,
            protocol.SettleApprovals(run=self._run, outcomes=command.outcomes),
            SettledApprovals,
        )
        again = tuple(settled.refused.items()) if settled is not None else ()
        self._events.append(Refused(tuple(outcome.guards for outcome in command.outcomes), again))

    async def _settle_call(self, command: SettleCall) -> None:
        outcome = await written(
            self._plan,
            protocol.SETTLE_STEP,
            protocol.SettleStep(
                run=self._run,
                number=command.number,
                call=command.call,
                status=command.status,
                output=command.output,
                by=command.by,
                comment=command.comment,
                resolution=command.resolution,
            ),
            ToolOutcome,
        )
        if outcome.status == "refused":  # the question is open again, for whoever can prove who they are
            step = step_id(self._run, command.number)
            self._resolved = {key: said for key, said in self._resolved.items() if said.step != step}
            self._refuse("resolve", outcome.message or "It was not taken.")
        self._events.append(ToolSettled(command.number, outcome))

    # ---- time, and handing over

    def _watch_the_clock(self, machine: Machine) -> None:
        """One timer for the whole run: it is set again only when it fires and time is left."""
        left = machine.time_left(workflow.now())
        if self._timer is None and left is not None:
            self._timer = asyncio.create_task(self._tick(max(left, timedelta(milliseconds=1))))
        self._watch_deadlines(machine)

    async def _tick(self, left: timedelta) -> None:
        await asyncio.sleep(left.total_seconds())
        self._timer = None
        self._events.append(TimePassed())

    def _watch_deadlines(self, machine: Machine) -> None:
        """One more, for the next reminder or expiry of an open question."""
        wanted = machine.next_deadline()
        if self._deadline is not None:
            if self._deadline[0] == wanted:
                return
            self._deadline[1].cancel()
            self._deadline = None
        if wanted is not None:
            left = max(wanted - workflow.now(), timedelta(milliseconds=1))
            self._deadline = (wanted, asyncio.create_task(self._deadline_tick(left)))

    async def _deadline_tick(self, left: timedelta) -> None:
        await asyncio.sleep(left.total_seconds())
        self._deadline = None
        self._events.append(TimePassed())

    def _should_hand_over(self, machine: Machine) -> bool:
        if machine.closed or self._tasks or self._events or not machine.may_hand_over:
            return False
        done = machine.state.next_number - self._handed_over_at
        wanted = machine.plan.continue_as_new_after
        due = wanted is not None and done >= wanted
        if due and wanted is not None and machine.plan.execution == "segments":  # many steps leave few events there
            # Around local activities the history is not as long in a replay as it was.
            if machine.plan.revision >= 2:
                due = self._segments * STEPS_OF_A_SEGMENT >= wanted
            else:
                due = workflow.info().get_current_history_length() >= EVENTS_OF_A_STEP * wanted
        return workflow.info().is_continue_as_new_suggested() or due

    async def _hand_over(self, machine: Machine) -> None:
        # A handler may still be in the middle; continuing as new now would drop what it brings.
        # One that waits for an escalation waits for this very loop.
        await workflow.wait_condition(
            lambda: workflow.all_handlers_finished() or bool(self._undecided) or self._late > 0
        )
        if self._late > 0:
            return
        while self._events:
            if not isinstance(self._events[0], MessageQueued):
                return  # what it leads to comes first; the next step hands over
            self._handled(machine, self._events.popleft())
        calls = [
            call.model_copy(update={"call": call.call.model_copy(update={"preview": ""})})  # the question has it
            for call in machine.state.calls
        ]
        state = machine.state.model_copy(update={"steps": machine.state.steps[-CARRIED_STEPS:], "calls": calls})
        plan = machine.plan.model_copy(update={"pending": (), "answered": (), "messages": ()})  # they are in the state
        carried = {
            "plan": plan.model_dump(mode="json", exclude_defaults=True),
            "state": state.model_dump(mode="json", exclude_defaults=True),
            "approvals": self._carried_questions(machine),
            "resolved": [
                resolution.model_dump(mode="json", include={"step", "question", "verdict", "by", "output"})
                for resolution in self._resolved.values()
            ],
            "messages": self._messages,
            "refused": list(self._refused),
            "status": self._status,
            "told_parent": [item.model_dump(mode="json") for item in self._told_parent],
            "told_waits": self._told_waits,
        }
        workflow.continue_as_new(
            self._request.model_copy(update={"input": None, "functions": (), "output_schema": None, "carried": carried})
        )

    def _carried_questions(self, machine: Machine) -> list[dict[str, Any]] | str:
        questions = self._desk.carried(also=machine.approvals_of_this_turn())
        return packed([question.model_dump(mode="json", exclude_defaults=True) for question in questions])

    # ---- the end, and what is shown

    async def _close_run(self, close: Close) -> None:
        machine = self._machine
        if self._timer is not None:
            self._timer.cancel()
        if self._deadline is not None:
            self._deadline[1].cancel()
        if machine is not None:
            self._show_status(machine)
        state = machine.state if machine else MachineState()
        closed = await local(
            protocol.CLOSE_RUN,
            protocol.CloseRun(
                wants_output=machine is not None and machine.plan.calls_only,
                run=self._run,
                status=close.status,
                reason=close.reason,
                message=close.message,
                turns=state.turns,
                steps=state.next_number - 1,
                usage=state.usage,
            ),
            Closed,
        )
        if closed is not None and closed.output is not None:
            state.output, state.output_truncated = closed.output, closed.output_truncated
        if closed is not None and closed.tells:
            await self._tell(Tell("run_ended", self._run))

    def _result(self) -> RunResult:
        close, plan, state = self._close, self._plan, self._state
        if close is None:
            raise ApplicationError("The run ended without an ending.", non_retryable=True)
        result = RunResult(
            run=self._run,
            thread=plan.thread,
            agent=plan.agent,
            version=plan.version,
            status=close.status,
            reason=close.reason,
            message=close.message,
            output=state.output,
            output_truncated=state.output_truncated,
            turns=state.turns,
            steps=state.next_number - 1,
            usage=state.usage,
        )
        if close.status == "failed":
            raise ApplicationError(close.message or "The run failed.", result, type=close.reason, non_retryable=True)
        if close.status == "cancelled":
            raise CancelledError("The run was cancelled.")
        return result

    def _may_soon_be_over(self, machine: Machine, commands: list[Command]) -> bool:
        """What a workflow task commands is seen once it is over: a run that ends in it is shown once, as it ended."""
        return bool(not commands and self._events) or self._fits_a_segment(machine, commands)

    def _show_status(self, machine: Machine) -> None:
        self._tell_parent(machine)
        self._tell_of_waiting(machine)
        status = machine.status
        first, self._unshown = self._unshown, False
        if status == self._status and not first:
            return
        waited = "requires_action" in (status, self._status)
        self._status = status
        plan = machine.plan
        known = [AGENT.value_set(plan.agent), THREAD.value_set(plan.thread), TENANT.value_set(self._request.tenant)]
        workflow.upsert_search_attributes([STATUS.value_set(status), *(known if first else [])])
        waiting = machine.waiting_for()
        workflow.set_current_details("\n".join(f"- {item.text}" for item in waiting) if waiting else f"{status}")
        if waited and (status == "in_progress" or status == "requires_action"):
            self._mark(status)

    def _tell_parent(self, machine: Machine) -> None:
        """Have the run that handed this one its task show what it waits for, and stop its clock meanwhile."""
        plan = machine.plan
        if plan.parent is None or plan.parent_step is None or machine.closed or self._telling_parent:
            return
        if self._waits_told(machine) != self._told_parent:
            self._telling_parent = True
            self._aside(self._parent_told(machine, plan.parent, step_id(plan.parent, plan.parent_step)))

    def _tell_of_waiting(self, machine: Machine) -> None:
        """Once for each set of questions: what is settled meanwhile makes no new one."""
        if not machine.plan.tells_runs or machine.closed:
            return
        asks = machine.status == "requires_action"
        waiting = machine.waiting_for() if asks or machine.plan.revision >= 2 else ()
        waits = tuple(f"{item.kind} {item.question or item.id}" for item in waiting)
        times, told = self._told_waits
        if not asks:  # what is still open when it asks again was told before
            waits = tuple(wait for wait in told if wait in waits)
        new = not set(waits) <= set(told)
        self._told_waits = (times + new, waits)
        if new:
            self._aside(self._tell(Tell("run_requires_action", self._run, times)))

    async def _parent_told(self, machine: Machine, parent: str, step: str) -> None:
        """One word at a time: two signals that are under way together may arrive in either order."""
        handle = workflow.get_external_workflow_handle(parent)
        try:
            while (waiting := self._waits_told(machine)) != self._told_parent and not machine.closed:
                self._told_parent = waiting
                with contextlib.suppress(FailureError):  # it has ended: nobody is left to be told
                    await handle.signal(contract.SIGNAL_SUB_RUN, SubRun(run=self._run, step=step, waiting_for=waiting))
        finally:
            self._telling_parent = False

    def _waits_told(self, machine: Machine) -> tuple[Waiting, ...]:
        return machine.waiting_for()[:TOLD_WAITS] if machine.status == "requires_action" else ()

    def _mark(self, status: Literal["in_progress", "requires_action"]) -> None:
        async def mark() -> None:
            await local(protocol.MARK_RUN, protocol.MarkRun(run=self._run, status=status), type(None))

        number = ASIDES
        previous = self._tasks.get(number)

        async def in_order() -> None:
            if previous is not None:
                await previous
            await mark()

        self._spawn(number, in_order())

    @property
    def _is_ending(self) -> bool:
        return self._state.ending is not None

    @property
    def _plan(self) -> RunPlan:
        return self._opened.plan

    @property
    def _state(self) -> MachineState:
        return self._opened.state

    @property
    def _opened(self) -> Machine:
        if self._machine is None:
            raise ApplicationError("The run is not open.", non_retryable=True)
        return self._machine


def _read_request(request: Any) -> tuple[RunRequest, str | None]:
    """Read the argument here and not in the converter: a bad one must end the run, not stop its workflow task."""
    try:
        return RunRequest.model_validate(request), None
    except ValidationError as error:
        return RunRequest(agent=""), f"The run request is wrong. {_first_problem(error)}"


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in problem['loc']) or 'payload'}: {problem['msg']}"


@contextlib.contextmanager
def _as_application_error() -> Iterator[None]:
    """What a caller of ours is told, with the error's code as its type."""
    try:
        yield
    except ValidationError as error:
        raise ApplicationError(_first_problem(error), type="bad_request", non_retryable=True) from error
    except HorariumError as error:
        raise _application_error(error) from error


def _kept(resolution: Resolution) -> Resolution:
    """What tells the same answer from another one later; the output, which may be long, by its digest."""
    output = None if resolution.output is None else digest_text(resolution.output)
    return resolution.model_copy(update={"output": output, "comment": None, "proof": None})


def _question(item: dict[str, Any]) -> Question:
    if "approval" in item:
        return Question.model_validate(item)
    approval = Approval.model_validate(item)  # carried by a version that had no plans
    return Question(approval=approval, asked_digest=approval.digest)


def _application_error(error: HorariumError) -> ApplicationError:
    return ApplicationError(str(error), type=error.code, non_retryable=True)
