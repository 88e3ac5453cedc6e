"""A run's steps: each command that performs something becomes activities, or a sub-agent's run, and then one event.

Nothing is decided here, and no failure escapes: what went wrong is in the event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ActivityError, FailureError, WorkflowAlreadyStartedError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from horarium import contract, protocol
    from horarium.contract import RunRequest
    from horarium.protocol import RunPlan, ToolOutcome
    from workflows.commands import (
        BeginFunction,
        CallModel,
        CallTool,
        Command,
        Compact,
        HandOff,
        Recall,
        Remember,
        SettleFunction,
    )
    from workflows.events import Event, FunctionBegun, ToolSettled, ToolUnserved
    from workflows.failures import ask_to_end, code_of, nobody_took_it, to_the_end, words_of
    from workflows.machine import Machine
    from workflows.payloads import Step, errand, failed, not_begun, returned
    from workflows.segment import to_segment

# Steps count their own failures in the ledger; what Temporal retries here are dead workers and
# away databases, so the first retry comes at once and they never give up.
RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=50), backoff_coefficient=3, maximum_interval=timedelta(seconds=30)
)
LOCAL_RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_interval=timedelta(seconds=10))
LOCAL_TIMEOUT = timedelta(seconds=20)
WRITE_TIMEOUT = timedelta(minutes=5)
TASK_TIMEOUT = timedelta(seconds=2)  # of a sub-agent's run: when its worker dies, this is how long nobody else gets it
STOP_PATIENCE = timedelta(seconds=10)  # with a sub-agent's run that was asked to end, before it is asked again
SEGMENT_MOST = timedelta(days=1)  # each step in it has its own time, and a dead worker is noticed by its silence
NO_TIME = timedelta(0)
UNSERVED_MOST = timedelta(hours=1)  # between two looks whether a tool worker has taken a call

T = TypeVar("T")


async def written(plan: RunPlan, activity: str, argument: Any, result_type: type[T]) -> T:
    """Write down what a person said, only once history has it.

    A local activity runs inside of the workflow task that takes an update; were the server lost then, the update
    would be gone and the ledger would keep it. An ordinary activity begins after its task is recorded.
    """
    if plan.revision < 1:
        return await local(activity, argument, result_type)
    result: T = await workflow.execute_activity(
        activity,
        argument,
        result_type=result_type,
        start_to_close_timeout=WRITE_TIMEOUT,
        heartbeat_timeout=plan.heartbeat_timeout,
        retry_policy=RETRY,
        summary=activity.replace("_", " "),
    )
    return result


async def local(activity: str, argument: Any, result_type: type[T]) -> T:
    """A millisecond of bookkeeping that is safe to repeat, inside of the workflow task."""
    result: T = await workflow.execute_local_activity(
        activity,
        argument,
        result_type=result_type,
        start_to_close_timeout=LOCAL_TIMEOUT,
        retry_policy=LOCAL_RETRY,
    )
    return result


class Steps:
    """The steps of one run; `happened` takes the event that each of them leads to."""

    def __init__(
        self,
        run: str,
        tenant: str,
        opened: Callable[[], Machine],
        happened: Callable[[Event], None],
        aside: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._run = run
        self._tenant = tenant
        self._opened = opened
        self._happened = happened
        self._aside = aside
        self.sub_runs: dict[int, str] = {}

    @property
    def _plan(self) -> RunPlan:
        return self._opened().plan

    async def call_model(self, command: CallModel, wait: timedelta = NO_TIME) -> None:
        """Ask the model for its next turn; `wait`: not before so long, as its provider wants it."""
        await self._stoppable(command, wait, turn=self._opened().state.turns + 1)

    async def call_tool(self, command: CallTool, wait: timedelta = NO_TIME) -> None:
        """Perform one call."""
        try:
            await _later(wait)
            event = returned(command, await self._called(command))
        except ActivityError as error:
            event = _came_to(command, error)
        except asyncio.CancelledError:  # stopped in the moment it was begun: the activity was never sent
            event = not_begun(command)
        self._happened(event)

    async def _stoppable(self, command: CallModel | Compact, wait: timedelta, *, turn: int = 0) -> None:
        work = errand(self._plan, self._tenant, command, turn=turn)
        try:
            await _later(wait)
            result = await workflow.execute_activity(
                work.activity,
                work.argument,
                result_type=work.result_type,
                start_to_close_timeout=work.timeout,
                heartbeat_timeout=self._plan.heartbeat_timeout,
                retry_policy=RETRY,
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                summary=work.summary,
            )
            event = returned(command, result)
        except ActivityError as error:
            event = _came_to(command, error)
        except asyncio.CancelledError:
            event = not_begun(command)
        self._happened(event)

    async def _called(self, command: CallTool) -> ToolOutcome:
        """Perform a call on the queue of whoever serves it, and say so while nobody does."""
        plan, call = self._plan, command.call
        work = errand(plan, self._tenant, command)
        queue = call.queue
        patience = plan.unserved_after if queue is not None else None
        while True:
            try:
                outcome: ToolOutcome = await workflow.execute_activity(
                    work.activity,
                    work.argument,
                    result_type=ToolOutcome,
                    task_queue=queue,
                    start_to_close_timeout=work.timeout,
                    schedule_to_start_timeout=patience,
                    heartbeat_timeout=plan.heartbeat_timeout,
                    retry_policy=RETRY,
                    cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                    summary=work.summary,
                )
                return outcome
            except ActivityError as error:
                if patience is None or not nobody_took_it(error):
                    raise
                self._happened(ToolUnserved(command.number))
                patience = min(patience * 2, UNSERVED_MOST)
                # Its workers may have gone for good, and those of another group serve it by now.
                asked = protocol.FindWorker(run=self._run, tool=call.tool)
                queue = (await written(plan, protocol.FIND_WORKER, asked, protocol.WorkerFound)).queue

    async def begin_function(self, command: BeginFunction) -> None:
        """Claim the step of a call that whoever started the run carries out, and let them see it."""
        beginning = protocol.BeginFunction(run=self._run, number=command.number, call=command.call, at=workflow.now())
        try:
            begun, _ = await to_the_end(written(self._plan, protocol.BEGIN_FUNCTION, beginning, protocol.FunctionBegun))
        except ActivityError as error:
            self._happened(ToolSettled(command.number, _failed(error)))
            return
        if begun.outcome is not None:
            self._happened(ToolSettled(command.number, begun.outcome))
        else:
            self._happened(FunctionBegun(command.number, begun.expires_at))

    async def settle_function(self, command: SettleFunction) -> None:
        """Settle such a step, with the output when there is one."""
        settling = protocol.SettleFunction(run=self._run, number=command.number, call=command.call, ended=command.ended)
        try:
            outcome, _ = await to_the_end(written(self._plan, protocol.SETTLE_FUNCTION, settling, ToolOutcome))
        except ActivityError as error:
            outcome = _failed(error)
        self._happened(ToolSettled(command.number, outcome))

    async def hand_off(self, command: HandOff) -> None:
        """Have a sub-agent's run do a call: the step is claimed before it starts and settled after it ends."""
        plan, call = self._plan, command.call
        beginning = protocol.BeginHandoff(
            run=self._run,
            thread=plan.thread,
            agent=plan.agent,
            tenant=self._tenant,
            number=command.number,
            call=call,
            approval=command.approval,
            ballots=command.ballots,
            permit=command.permit,
            again=command.again,
            limits=command.limits,
        )
        try:
            begun, cancelled = await to_the_end(written(plan, protocol.BEGIN_HANDOFF, beginning, protocol.Handoff))
        except ActivityError as error:
            begun, cancelled = _not_begun(error), False
        if begun.outcome is not None or begun.run is None:
            self._happened(ToolSettled(command.number, begun.outcome or ToolOutcome(status="failed")))
            return
        self.sub_runs[command.number] = begun.run
        try:
            if not cancelled:
                cancelled = await self._sub_run_ends(command, begun.run, begun.request)
            outcome = await self._handoff_settled(command, begun.run, cancelled=cancelled)
        finally:
            self.sub_runs.pop(command.number, None)
        self._happened(ToolSettled(command.number, outcome))

    async def _sub_run_ends(self, command: HandOff, run: str, request: RunRequest | None) -> bool:
        """Start a sub-agent's run and wait until it has ended, however it does; whether it was stopped."""
        try:
            child, cancelled = await to_the_end(
                workflow.start_child_workflow(
                    contract.RUN_WORKFLOW,
                    request,
                    id=run,
                    task_timeout=TASK_TIMEOUT,
                    # The ledger has its result; what matters here is that it has ended.
                    result_type=dict,
                    parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
                    # What has begun under this id is the same run; settling waits for its end.
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                    static_summary=command.call.agent,
                )
            )
            if not cancelled:
                await asyncio.shield(child)
        except FailureError:
            return self._opened().state.ending is not None
        except asyncio.CancelledError:
            cancelled = True
        if cancelled:
            await to_the_end(self._stopped(run, child))
        return cancelled

    async def _stopped(self, run: str, child: asyncio.Future[Any]) -> None:
        """Ask a sub-agent's run to end, and give it some time; settling asks again."""
        await ask_to_end(run)
        with contextlib.suppress(asyncio.TimeoutError):
            await workflow.wait_condition(child.done, timeout=STOP_PATIENCE)

    async def _handoff_settled(self, command: HandOff, run: str, *, cancelled: bool) -> ToolOutcome:
        """Settle the step once the sub-agent's run has ended.

        One that had begun under this id already is no child of this execution, as after a reset: what stops this run
        reaches it by way of settling.
        """
        while True:
            settled = protocol.SettleHandoff(
                run=self._run, number=command.number, call=command.call, sub_run=run, cancelled=cancelled
            )
            settling = written(self._plan, protocol.SETTLE_HANDOFF, settled, ToolOutcome)
            try:
                return (await to_the_end(settling))[0] if cancelled else await settling
            except asyncio.CancelledError:
                cancelled = True
            except ActivityError as error:
                if cancelled or not is_cancelled_exception(error):
                    return ToolOutcome(status="failed", code=code_of(error), message=words_of(error))
                cancelled = True

    async def recall(self, command: Recall) -> None:
        """Look up what is remembered; a store that is away is done without."""
        work = errand(self._plan, self._tenant, command)
        try:
            recalled: protocol.Recalled = await workflow.execute_activity(
                work.activity,
                work.argument,
                result_type=protocol.Recalled,
                start_to_close_timeout=work.timeout,
                schedule_to_close_timeout=work.within,
                heartbeat_timeout=self._plan.heartbeat_timeout,
                retry_policy=RETRY,
                summary=work.summary,
            )
            event = returned(command, recalled)
        except (ActivityError, asyncio.CancelledError):
            event = not_begun(command)
        self._happened(event)

    async def compact(self, command: Compact, wait: timedelta = NO_TIME) -> None:
        """Have the older part of the conversation summarised."""
        await self._stoppable(command, wait)

    async def remember(self, command: Remember) -> None:
        """Leave what the run taught."""
        work = errand(self._plan, self._tenant, command)
        try:
            written: protocol.WrittenMemory | None = await workflow.execute_activity(
                work.activity,
                work.argument,
                result_type=protocol.WrittenMemory,
                start_to_close_timeout=work.timeout,
                heartbeat_timeout=self._plan.heartbeat_timeout,
                retry_policy=RETRY,
                summary=work.summary,
            )
            event = returned(command, written or protocol.WrittenMemory())  # an earlier version said nothing
            if written is not None and written.deliver:
                self._aside(self.deliver())
        except ActivityError as error:
            event = _came_to(command, error)
        self._happened(event)

    async def segment(
        self, commands: Sequence[Command], *, first: bool, goes_on: Callable[[], None]
    ) -> protocol.SegmentDone:
        """Have one activity carry out these commands and what follows from them, for as long as it needs nobody else.

        The first of a run begins inside of the workflow task that opened it; of one that takes longer it is said that
        it `goes_on`, outside.
        Cancelled, it has what is in flight stopped, and brings what became of that.

        Raises:
            ActivityError: It cannot be carried out.
        """
        machine, stop = self._opened(), False
        if first and machine.plan.revision >= 2:
            at_once, stop = await self._started(to_segment(machine.plan, machine.state, commands, tenant=self._tenant))
            if at_once is not None:
                return at_once
        goes_on()
        while True:
            try:
                done: protocol.SegmentDone = await workflow.execute_activity(
                    protocol.RUN_SEGMENT,
                    to_segment(machine.plan, machine.state, commands, tenant=self._tenant, stop=stop),
                    result_type=protocol.SegmentDone,
                    start_to_close_timeout=SEGMENT_MOST,
                    heartbeat_timeout=self._plan.heartbeat_timeout,
                    retry_policy=RETRY,
                    cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                    summary=f"from turn {machine.state.turns + 1}",
                )
                break
            except asyncio.CancelledError:
                pass
            except ActivityError as error:
                if not is_cancelled_exception(error):
                    raise
            stop = True  # no attempt was alive that could say what an earlier one had begun
        return done

    async def _started(self, segment: protocol.Segment) -> tuple[protocol.SegmentDone | None, bool]:
        """What a run's first segment came to, when that took but a moment; and whether the run was cancelled."""
        try:
            started: protocol.SegmentStarted = await workflow.execute_local_activity(
                protocol.START_SEGMENT,
                segment,
                result_type=protocol.SegmentStarted,
                start_to_close_timeout=LOCAL_TIMEOUT,
                retry_policy=RetryPolicy(maximum_attempts=1),
            )
        except asyncio.CancelledError:
            return None, True
        except FailureError as error:  # of a local activity, it is not always wrapped, and not alike in a replay
            return None, is_cancelled_exception(error)
        return started.done, False

    async def deliver(self) -> None:
        """In a workflow of its own, so that a store that is away keeps no run from ending, and nothing is lost."""
        with contextlib.suppress(WorkflowAlreadyStartedError):
            await workflow.start_child_workflow(
                contract.MEMORY_WORKFLOW,
                protocol.DeliverMemories(run=self._run),
                id=f"{self._run}:memories",
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            )


async def _later(wait: timedelta) -> None:
    if wait:
        await asyncio.sleep(wait.total_seconds())


def _came_to(command: Step, error: ActivityError) -> Event:
    return failed(command, code_of(error), words_of(error), cancelled=is_cancelled_exception(error))


def _failed(error: ActivityError) -> ToolOutcome:
    return ToolOutcome(status="failed", code=code_of(error), message=words_of(error))


def _not_begun(error: ActivityError) -> protocol.Handoff:
    """What a handoff came to whose beginning could not even be written down."""
    status: Literal["failed", "cancelled"] = "cancelled" if is_cancelled_exception(error) else "failed"
    return protocol.Handoff(outcome=ToolOutcome(status=status, code=code_of(error), message=words_of(error)))
