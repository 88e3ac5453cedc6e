"""One tick of a routine: attempts, each a run, until one completes or the ladder is used up.

What may begin, what an attempt goes on with and what a tick leaves behind is decided in the ledger, in one
transaction each; here are the waits between: for other ticks, for the run, for the next attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Any, Literal, TypeVar

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import (
    RawValue,
    RetryPolicy,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import (
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    FailureError,
    TerminatedError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)

with workflow.unsafe.imports_passed_through():
    from horarium import contract, tick_protocol
    from horarium.content import shorten
    from horarium.contract import MAX_OUTPUT_CHARS, RunResult, TickRequest, TickResult
    from horarium.durations import words
    from horarium.tick_protocol import Attempt, AttemptNow, ClosedTick, TickPlan
    from workflows.failures import ask_to_end, to_the_end

SCHEDULED_AT = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")
ROUTINE = SearchAttributeKey.for_keyword(contract.SEARCH_ROUTINE)
LOCAL_RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_interval=timedelta(seconds=30))
LOCAL_TIMEOUT = timedelta(seconds=20)
LOCAL_RETRY_THRESHOLD = timedelta(seconds=5)  # longer waits are timers; a task held open writes events all the time
OPEN_PATIENCE = timedelta(days=1)  # for a ledger that is away; a request that it will never take ends then
RUN_TASK_TIMEOUT = timedelta(seconds=2)
ASK_FIRST = timedelta(minutes=1)  # whether a waiting tick may begin, should nobody have told it; doubles each time
ASK_MOST = timedelta(hours=1)
MOST_ASKED = 100  # times, before it continues as new
LOOK_FIRST = timedelta(seconds=1)  # at a run that waits for people: what it asks may come later; doubles each time
LOOK_MOST = timedelta(hours=1)
# For each look so far, between two: whoever sends signals all day does not fill the history.
LOOK_SLOWER = timedelta(milliseconds=20)
LOOK_SLOWEST = timedelta(minutes=1)
NOTE_CHARS = 500
_NOTHING = RawValue(Payload())

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of one attempt."""

    status: Literal["completed", "failed", "cancelled"]
    code: str | None = None
    message: str | None = None
    output: str = ""
    final: bool = False  # another attempt would come to the same


@workflow.defn(name=contract.TICK_WORKFLOW)
class RoutineTick:
    """One tick of a routine."""

    @workflow.init
    def __init__(self, request: RawValue = _NOTHING) -> None:
        self._id = workflow.info().workflow_id
        self._told = False
        self._news = False
        self._parked = False
        self._looks = 0
        self._look_next = workflow.now()
        self._look_again = LOOK_FIRST
        self._left = timedelta(0)
        self._attempts = 0
        self._run: str | None = None
        self._request = _read(request) if _can_be_kept(self._id) else None

    @workflow.run
    async def run(self, request: RawValue = _NOTHING) -> TickResult:
        """Open, try until it is done or given up, close.

        Raises:
            ApplicationError: The request cannot be read.
            CancelledError: The tick was cancelled, after its run had ended and all was written down.
        """
        if self._request is None:
            raise ApplicationError("The tick's request is wrong.", type="bad_request", non_retryable=True)
        asked = self._request
        try:
            plan = await self._opened(asked)
            if plan.decision == "end":
                return self._result(asked, plan.status, plan.reason, plan.message)
            ended = await self._attempts_of(plan)
        except asyncio.CancelledError:
            await to_the_end(self._close(Ended("cancelled", "cancelled", "The tick was cancelled.")))
            raise
        await to_the_end(self._close(ended))
        return self._result(asked, ended.status, ended.code, ended.message)

    @workflow.signal(name=tick_protocol.SIGNAL_ADMITTED)
    def admitted(self, *_said: Any) -> None:
        """Another tick has ended: ask again."""
        self._told = True

    @workflow.signal(name=tick_protocol.SIGNAL_ATTEMPT)
    def attempt(self, *_said: Any) -> None:
        """The attempt waits for people, or goes on: look at it."""
        self._news = True

    # ---- opening

    async def _opened(self, request: TickRequest) -> TickPlan:
        info = workflow.info()
        scheduled_at = request.at or info.typed_search_attributes.get(SCHEDULED_AT) or info.start_time
        opening = tick_protocol.OpenTick(
            tick=self._id,
            execution=info.first_execution_run_id,
            request=request,
            scheduled_at=scheduled_at.astimezone(UTC).replace(microsecond=0),
            at=workflow.now(),
        )
        patience = OPEN_PATIENCE if info.continued_run_id is None else None  # it was taken before
        plan = await self._local(tick_protocol.OPEN_TICK, opening, TickPlan, patience=patience)
        wait, asked = ASK_FIRST, 0
        while plan.decision == "wait":
            workflow.set_current_details(plan.message or "Waits.")
            if not self._told and (asked >= MOST_ASKED or info.is_continue_as_new_suggested()):
                workflow.continue_as_new(args=[request])
            if not await _within(wait, lambda: self._told):
                wait = min(2 * wait, ASK_MOST)
            # Before asking: whoever tells it from now on may know more than the answer.
            self._told = False
            asking = tick_protocol.AdmitTick(tick=self._id, at=workflow.now())
            plan = await self._local(tick_protocol.ADMIT_TICK, asking, TickPlan)
            asked += 1
        self._left = plan.timeout
        return plan

    # ---- attempts

    async def _attempts_of(self, plan: TickPlan) -> Ended:
        while True:
            self._attempts += 1
            ended = await self._attempt_of(plan)
            most = plan.retry.attempts if plan.retry is not None else 1
            if ended.status != "failed" or ended.final or plan.retry is None or self._attempts >= most:
                return ended
            wait = plan.retry.wait(self._attempts)
            if wait >= self._left:
                left = f" No time is left for another attempt: the tick has {words(plan.timeout)}."
                return Ended("failed", ended.code, f"{ended.message or ''}{left}".strip())
            await self._wait_for_the_next(ended, wait, most)

    async def _wait_for_the_next(self, ended: Ended, wait: timedelta, most: int) -> None:
        now = workflow.now()
        ending = tick_protocol.EndAttempt(
            tick=self._id,
            number=self._attempts,
            code=ended.code or "failed",
            message=ended.message or "",
            next_try_at=now + wait,
            at=now,
        )
        await self._local(tick_protocol.END_ATTEMPT, ending, type(None))
        follows = f"The next one is at {now + wait:%H:%M:%S} UTC."
        workflow.set_current_details(f"Attempt {self._attempts} of {most} failed: {ended.message}\n\n{follows}")
        await workflow.sleep(wait, summary=f"before attempt {self._attempts + 1}")
        self._left -= workflow.now() - now

    async def _attempt_of(self, plan: TickPlan) -> Ended:
        opening = tick_protocol.OpenAttempt(tick=self._id, number=self._attempts, at=workflow.now())
        attempt = await self._local(tick_protocol.OPEN_ATTEMPT, opening, Attempt)
        if attempt.run is None or attempt.request is None:
            return Ended("failed", attempt.code, attempt.message, final=True)
        self._run, self._parked, self._news = attempt.run, False, False
        workflow.set_current_details(f"Attempt {self._attempts}: {attempt.run}")
        try:
            with _cancelled_as_such():
                run = await workflow.start_child_workflow(
                    contract.RUN_WORKFLOW,
                    attempt.request,
                    id=attempt.run,
                    result_type=RunResult,
                    task_timeout=RUN_TASK_TIMEOUT,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                    parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
                    cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                    search_attributes=TypedSearchAttributes([SearchAttributePair(ROUTINE, self._routine)]),
                    static_summary=f"{plan.agent}, attempt {self._attempts} of {self._id}",
                )
        except WorkflowAlreadyStartedError:
            return Ended("failed", "run_exists", f"There is a run {attempt.run} that is not this tick's.", final=True)
        try:
            return await self._end_of(run, plan)
        except asyncio.CancelledError:
            await to_the_end(_stopped(run))
            raise

    async def _end_of(self, run: workflow.ChildWorkflowHandle[Any, RunResult], plan: TickPlan) -> Ended:
        """Wait for a run; while it waits for people, the clocks stand still."""
        left = plan.attempt_timeout or plan.timeout
        while not run.done():
            began, parked = workflow.now(), self._parked
            most = self._look_again if parked else min(self._left, left)
            if most <= timedelta(0):
                return await self._too_late(run, plan)
            told = await _within(most, lambda: run.done() or self._news)
            if not run.done() and (parked or told):
                await self._look(run, told, most)
            if not parked:
                passed = workflow.now() - began
                self._left -= passed
                left -= passed
        return await _outcome(run, plan)

    async def _look(self, run: workflow.ChildWorkflowHandle[Any, RunResult], told: bool, most: timedelta) -> None:
        """Ask the ledger whether the run waits for people; whoever signals says only that there is news."""
        early = self._look_next - workflow.now()
        if early > timedelta(0) and await _within(min(early, most), run.done):
            return
        if workflow.now() < self._look_next:
            return  # the time is over, and the news stays
        self._news = False
        self._look_again = LOOK_FIRST if told else min(2 * self._look_again, LOOK_MOST)
        looking = tick_protocol.LookAtAttempt(tick=self._id, number=self._attempts, at=workflow.now())
        self._parked = (await self._local(tick_protocol.LOOK_AT_ATTEMPT, looking, AttemptNow)).parked
        self._looks += 1
        self._look_next = workflow.now() + min(self._looks * LOOK_SLOWER, LOOK_SLOWEST)

    async def _too_late(self, run: workflow.ChildWorkflowHandle[Any, RunResult], plan: TickPlan) -> Ended:
        await _stopped(run)
        outcome = await _outcome(run, plan)
        if outcome.status == "completed":
            return outcome  # it was faster than the word to stop
        whole = self._left <= timedelta(0)
        most = plan.timeout if whole else plan.attempt_timeout or plan.timeout
        what = "The tick" if whole else "The attempt"
        return Ended("failed", "timeout", f"{what} took longer than its timeout, {words(most)}.", final=whole)

    # ---- closing

    async def _close(self, ended: Ended) -> None:
        closing = tick_protocol.CloseTick(
            tick=self._id,
            status=ended.status,
            code=ended.code,
            message=shorten(ended.message, NOTE_CHARS) if ended.message else None,
            output=shorten(ended.output, MAX_OUTPUT_CHARS),
            at=workflow.now(),
        )
        await self._local(tick_protocol.CLOSE_TICK, closing, ClosedTick)

    def _result(
        self, request: TickRequest, status: contract.TickStatus, reason: str | None, message: str | None
    ) -> TickResult:
        return TickResult(
            tick=self._id,
            routine=request.routine,
            status=status,
            reason=reason,
            message=shorten(message, NOTE_CHARS) if message else None,
            attempts=self._attempts,
            run=self._run,
        )

    @property
    def _routine(self) -> str:
        return self._request.routine if self._request is not None else ""

    async def _local(self, name: str, argument: Any, result: type[T], patience: timedelta | None = None) -> T:
        with _cancelled_as_such():
            found: T = await workflow.execute_local_activity(
                name,
                argument,
                result_type=result,
                start_to_close_timeout=LOCAL_TIMEOUT,
                schedule_to_close_timeout=patience,
                local_retry_threshold=LOCAL_RETRY_THRESHOLD,
                retry_policy=LOCAL_RETRY,
            )
        return found


def _read(request: RawValue) -> TickRequest | None:
    """Read the argument here and not in the converter: what cannot be read must end the tick, not stop its task."""
    try:
        read = workflow.payload_converter().from_payload(request.payload, TickRequest)
        return TickRequest.model_validate(read)
    except Exception:
        return None


def _can_be_kept(tick: str) -> bool:
    return len(tick) <= contract.MAX_TICK_ID_CHARS and tick.isprintable()


async def _within(most: timedelta, that: Callable[[], bool]) -> bool:
    """Wait until something is so; whether it became so in time."""
    with contextlib.suppress(TimeoutError):
        await workflow.wait_condition(that, timeout=most)
    return that()


async def _stopped(run: workflow.ChildWorkflowHandle[Any, RunResult]) -> None:
    await ask_to_end(run.id)
    await workflow.wait_condition(run.done)


async def _outcome(run: workflow.ChildWorkflowHandle[Any, RunResult], plan: TickPlan) -> Ended:
    try:
        result = await run
    except ChildWorkflowError as error:
        match error.cause:
            case CancelledError():
                return Ended("cancelled", "cancelled", "The run was cancelled.")
            case TerminatedError():
                return Ended("failed", "terminated", "The run was ended from outside, in Temporal.")
            case ApplicationError() as cause:
                return Ended("failed", cause.type or "failed", cause.message)
            case cause:
                return Ended("failed", "failed", f"The run failed: {cause}")
    if result.status == "completed":
        return Ended("completed", output=result.output)
    said = result.message or f"The run ended {result.status}."
    if plan.retry is not None:
        said += " It is not tried again: another attempt would have the same limits anew."
    return Ended("failed", result.reason or result.status, said, final=True)


@contextlib.contextmanager
def _cancelled_as_such() -> Iterator[None]:
    """A cancellation that comes while something is waited for arrives as that thing's failure; make it one again."""
    try:
        yield
    except FailureError as error:
        if is_cancelled_exception(error):
            raise asyncio.CancelledError from error
        raise
