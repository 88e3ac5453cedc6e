"""A run's steps: each command that performs something becomes activities, or a sub-agent's run, and then one event.

Nothing is decided here, and no failure escapes: what went wrong is in the event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Literal, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ActivityError, FailureError, WorkflowAlreadyStartedError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from horarium import contract, protocol
    from horarium.contract import RunRequest
    from horarium.protocol import ModelReply, RunPlan, ToolOutcome
    from workflows.commands import (
        BeginFunction,
        CallModel,
        CallTool,
        Compact,
        HandOff,
        Recall,
        Remember,
        SettleFunction,
    )
    from workflows.events import (
        Compacted,
        Event,
        FunctionBegun,
        ModelReplied,
        Recalled,
        Remembered,
        ToolSettled,
        ToolUnserved,
    )
    from workflows.failures import ask_to_end, code_of, nobody_took_it, to_the_end, words_of
    from workflows.machine import Machine

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
RECALL_PATIENCE = timedelta(minutes=1)  # a store that is away keeps no run from beginning
# What is asked of models one after the other inside of one activity; each has the time of a turn.
MOST_PIECES = 12  # of a conversation that is summarised
FINDING_AND_JUDGING = 2
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

    async def call_model(self, command: CallModel) -> None:
        """Ask the model for its next turn."""
        plan = self._plan
        step = protocol.ModelStep(
            run=self._run,
            thread=plan.thread,
            agent=plan.agent,
            version=plan.version,
            tenant=self._tenant,
            number=command.number,
            answered=command.answered,
            messages=command.messages,
            note=command.note,
            offer=command.offer,
            closing=command.closing,
            required=command.required,
            max_calls=plan.limits.max_calls_per_turn,
            permit=command.permit,
            recalled=command.recalled,
            compacted=command.compacted,
            structured=plan.structured,
        )
        try:
            reply: ModelReply = await workflow.execute_activity(
                protocol.CALL_MODEL,
                step,
                result_type=ModelReply,
                start_to_close_timeout=plan.model_timeout,
                heartbeat_timeout=plan.heartbeat_timeout,
                retry_policy=RETRY,
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                summary=f"turn {self._opened().state.turns + 1}",
            )
        except ActivityError as error:
            reply = ModelReply(status="failed", code=code_of(error), message=words_of(error))
        except asyncio.CancelledError:  # stopped in the moment it was begun: the activity was never sent
            reply = ModelReply(status="failed", code="cancelled", message="The model was not asked.")
        self._happened(ModelReplied(command.number, reply))

    async def call_tool(self, command: CallTool) -> None:
        """Perform one call."""
        plan, call = self._plan, command.call
        step = protocol.ToolStep(
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
        )
        try:
            outcome = await self._called(command.number, step)
        except ActivityError as error:
            cancelled = is_cancelled_exception(error)
            outcome = ToolOutcome(
                status="cancelled" if cancelled else "failed", code=code_of(error), message=words_of(error)
            )
        except asyncio.CancelledError:
            outcome = ToolOutcome(status="cancelled", code="cancelled", message="The call was not begun.")
        self._happened(ToolSettled(command.number, outcome))

    async def _called(self, number: int, step: protocol.ToolStep) -> ToolOutcome:
        """Perform a call on the queue of whoever serves it, and say so while nobody does."""
        plan, call = self._plan, step.call
        queue = call.queue
        patience = plan.unserved_after if queue is not None else None
        while True:
            try:
                outcome: ToolOutcome = await workflow.execute_activity(
                    protocol.CALL_TOOL,
                    step,
                    result_type=ToolOutcome,
                    task_queue=queue,
                    # The tool's own timeout is kept by the activity, which can say what became of the call.
                    start_to_close_timeout=call.timeout + timedelta(seconds=30),
                    schedule_to_start_timeout=patience,
                    heartbeat_timeout=plan.heartbeat_timeout,
                    retry_policy=RETRY,
                    cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                    summary=call.tool,
                )
                return outcome
            except ActivityError as error:
                if patience is None or not nobody_took_it(error):
                    raise
                self._happened(ToolUnserved(number))
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
        plan = self._plan
        recalling = protocol.Recall(
            run=self._run,
            thread=plan.thread,
            agent=plan.agent,
            version=plan.version,
            tenant=self._tenant,
            number=command.number,
        )
        try:
            recalled: protocol.Recalled = await workflow.execute_activity(
                protocol.RECALL_MEMORY,
                recalling,
                result_type=protocol.Recalled,
                start_to_close_timeout=RECALL_PATIENCE,
                schedule_to_close_timeout=RECALL_PATIENCE,
                heartbeat_timeout=plan.heartbeat_timeout,
                retry_policy=RETRY,
                summary="recall",
            )
            ok = recalled.status == "completed"
        except (ActivityError, asyncio.CancelledError):
            ok = False
        self._happened(Recalled(command.number, ok))

    async def compact(self, command: Compact) -> None:
        """Have the older part of the conversation summarised."""
        plan = self._plan
        compacting = protocol.CompactThread(
            run=self._run,
            thread=plan.thread,
            agent=plan.agent,
            version=plan.version,
            tenant=self._tenant,
            number=command.number,
        )
        try:
            result: protocol.Compacted = await workflow.execute_activity(
                protocol.COMPACT_THREAD,
                compacting,
                result_type=protocol.Compacted,
                start_to_close_timeout=MOST_PIECES * plan.model_timeout,
                heartbeat_timeout=plan.heartbeat_timeout,
                retry_policy=RETRY,
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                summary="summary",
            )
        except ActivityError as error:
            result = protocol.Compacted(status="failed", code=code_of(error), message=words_of(error))
        except asyncio.CancelledError:
            result = protocol.Compacted(status="failed", code="cancelled", message="The model was not asked.")
        self._happened(Compacted(command.number, result))

    async def remember(self, command: Remember) -> None:
        """Leave what the run taught."""
        plan = self._plan
        ok = True
        written: protocol.WrittenMemory | None = None
        try:
            written = await workflow.execute_activity(
                protocol.WRITE_MEMORY,
                protocol.WriteMemory(
                    run=self._run,
                    agent=plan.agent,
                    version=plan.version,
                    tenant=self._tenant,
                    number=command.number,
                ),
                result_type=protocol.WrittenMemory,
                start_to_close_timeout=FINDING_AND_JUDGING * plan.model_timeout,
                heartbeat_timeout=plan.heartbeat_timeout,
                retry_policy=RETRY,
                summary="memory",
            )
        except ActivityError:
            ok = False
        if written is not None and written.deliver:
            self._aside(self.deliver())
        used = written.usage if written is not None else contract.Usage()
        self._happened(Remembered(command.number, ok, used))

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


def _failed(error: ActivityError) -> ToolOutcome:
    return ToolOutcome(status="failed", code=code_of(error), message=words_of(error))


def _not_begun(error: ActivityError) -> protocol.Handoff:
    """What a handoff came to whose beginning could not even be written down."""
    status: Literal["failed", "cancelled"] = "cancelled" if is_cancelled_exception(error) else "failed"
    return protocol.Handoff(outcome=ToolOutcome(status=status, code=code_of(error), message=words_of(error)))
