"""The activity that carries out many steps of a run: a second driver of the same machine, over the same step protocol.

Each step is claimed and settled by the very function that is an activity of its own elsewhere; so a segment that died
is given again from where it began, and goes through what it had settled without doing any of it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from horarium import protocol
from horarium.errors import Conflict, StepTaken
from horarium.ledger.database import Ledger
from horarium.ledger.journal import SETTLED, Journal, StepRecord
from horarium.ledger.summaries import SUMMARY_STEP
from horarium.ledger.threads import Threads
from horarium.protocol import Call, ModelReply, Segment, SegmentDone, SegmentStarted
from horarium.serving import translated
from horarium.settings import WorkerSettings
from horarium.toolhost import PART, PartOfSegment, heartbeating
from horarium.tools import Effect
from workflows.commands import Command, HandOff, StopSteps
from workflows.events import CancelRequested, Event, MessageQueued, ModelReplied, TimePassed
from workflows.failures import code_of, words_of
from workflows.machine import Machine
from workflows.payloads import Step, errand, failed, not_begun, returned
from workflows.segment import Left, in_segment, is_step_of_ours, to_done
from workflows.steps import RETRY

log = structlog.get_logger()

MOST_WAIT = timedelta(seconds=5)  # what has to wait longer is left to a timer of the workflow's
A_MOMENT = timedelta(milliseconds=1)
IN_A_WORKFLOW_TASK = timedelta(seconds=1)  # half of what it may last: queries, signals and updates wait for its end
LONGEST_START = timedelta(seconds=12)  # while its worker shuts down; well within a local activity's own time
AHEAD = 4  # segments that begin side by side
HEAD_START = timedelta(milliseconds=20)  # most of what computes is over by then, and what waits needs no head start
LEFT_ALONE = timedelta(seconds=5)  # until a segment that no attempt waits for is given up here
HEARTBEATS = 2.5  # within the timeout: each costs the server a write, and here fifty runs may beat side by side

Perform = Callable[[Any], Awaitable[Any]]


class Segments:
    """The activities `start_segment` and `run_segment`, and what they need; one object for each process.

    A segment is driven by a task of its own, which attempts wait for: one whose heartbeat was late, and the first
    segment of a run that took longer than its workflow task may, go on under the attempt that comes next.
    """

    def __init__(self, ledger: Ledger, perform: Mapping[str, Perform], settings: WorkerSettings) -> None:
        """`perform`: the activities of single steps, by their names."""
        self.journal = Journal(ledger)
        self.threads = Threads(ledger)
        self.perform = perform
        self.settings = settings
        self._driven: dict[str, _Running] = {}
        self._ahead = asyncio.Semaphore(AHEAD)

    @activity.defn(name=protocol.START_SEGMENT)
    async def start_segment(self, segment: Segment) -> SegmentStarted:
        """The first segment of a run, inside of its first workflow task: all of it, if that takes but a moment.

        Safe to repeat, as `run_segment` is, which is given the same segment where this one takes longer.

        Raises:
            StepTaken, Conflict: As `run_segment`.
        """
        grace = min(self.settings.grace, LONGEST_START) - IN_A_WORKFLOW_TASK
        driver = await self._driver(segment)
        return SegmentStarted(done=await driver.done(within=IN_A_WORKFLOW_TASK, longer=max(grace, timedelta(0))))

    @activity.defn(name=protocol.RUN_SEGMENT)
    async def run_segment(self, segment: Segment) -> SegmentDone:
        """Drive a run until it needs its workflow, or for as long as a segment lasts.

        Safe to repeat: the journal knows what was done. Heartbeats. Cancelled, it stops what is in flight, and its
        result says what became of that.

        Raises:
            StepTaken: Another attempt at this segment is under way.
            Conflict: It is no segment of the run that asks for it.
        """
        async with heartbeating(HEARTBEATS):
            done = await (await self._driver(segment)).done()
        if done is None:
            raise StepTaken(f"The segment of run {segment.run} was left by its worker.")
        return done

    async def let_ahead(self) -> Callable[[], None]:
        """Wait to be among the few that begin; what comes back lets the next one, which happens by itself soon.

        Side by side, many short segments would all take longer than a workflow task may.
        """
        await self._ahead.acquire()
        waiting = asyncio.get_running_loop().call_later(HEAD_START.total_seconds(), self._ahead.release)

        def let_go() -> None:
            if not waiting.cancelled() and waiting.when() > asyncio.get_running_loop().time():
                waiting.cancel()
                self._ahead.release()

        return let_go

    async def close(self) -> None:
        """Stop what nobody waits for any more."""
        await asyncio.gather(*(running.stop() for running in list(self._driven.values())))

    async def _driver(self, segment: Segment) -> _Running:
        """Who drives this segment: since an attempt before, when that one still does."""
        plan, state, commands = in_segment(segment)
        if plan.run != segment.run:
            raise Conflict(f"A segment of run {plan.run} is not run {segment.run}'s.")
        execution = activity.info().workflow_run_id or ""
        while (driven := self._driven.get(segment.run)) is not None:
            if driven.drives(segment, execution):
                driven.tell(segment)
                return driven
            await driven.stop()
        running = self._driven[segment.run] = _Running(self, Machine(plan, state), segment, execution)
        running.begin(commands, lambda: self._forget(segment.run, running))
        return running

    def _forget(self, run: str, running: _Running) -> None:
        running.failure()  # known, also where nobody waits for it any more
        if self._driven.get(run) is running:
            del self._driven[run]


class _Flight:
    """A step that was begun."""

    def __init__(self, command: Step) -> None:
        self.command = command
        self.part = PartOfSegment()
        self.begun = False
        self.task: asyncio.Task[None]


class _Running:
    """One segment, as this process drives it."""

    def __init__(self, segments: Segments, machine: Machine, segment: Segment, execution: str) -> None:
        self._segments = segments
        self._machine = machine
        self._segment = segment
        self._before: Sequence[StepRecord] = ()
        self._settled_before = 0
        self._taken: list[str] = []
        self._execution = execution
        self._happened: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
        self._flights: dict[int, _Flight] = {}
        self._left: list[Left] = []
        self._begun = 0
        self._over = False
        self._final: ModelReply | None = None
        self._stopping = segment.stop
        self._waiting = 0
        self._waited_for = asyncio.Event()
        self._alone: asyncio.TimerHandle | None = None
        plan, settings = machine.plan, segments.settings
        self._most_steps = min(settings.segment_steps, plan.continue_as_new_after or settings.segment_steps)
        self._clock = time.monotonic()
        self._began = activity.info().started_time
        self._task: asyncio.Task[SegmentDone]

    # ---- attempts

    def begin(self, commands: Sequence[Command], ended: Callable[[], None]) -> None:
        """Begin with these commands, and go on with what follows from them."""
        self._task = asyncio.create_task(self._drive(commands))
        self._task.add_done_callback(lambda _done: ended())

    def drives(self, segment: Segment, execution: str) -> bool:
        """Whether it is this segment, which may have been told since to stop what is in flight."""
        same = (segment.carried, execution) == (self._segment.carried, self._execution)
        return same and segment.stop >= self._segment.stop and not self._task.done()

    def tell(self, segment: Segment) -> None:
        """The same segment was asked for again."""
        if segment.stop and not self._segment.stop:
            self._happened.put_nowait(CancelRequested())

    async def done(self, *, within: timedelta | None = None, longer: timedelta | None = None) -> SegmentDone | None:
        """What it came to; None: it takes longer than `within`, or its worker left. A cancellation is an event.

        `longer`: so much more is waited while the worker shuts down; it begins nothing then, and finishes what it has.
        """
        until = None if within is None else time.monotonic() + within.total_seconds()
        self._attended(1)
        try:
            while not self._task.done():
                left = None if until is None else max(until - time.monotonic(), 0)
                try:
                    if not (await asyncio.wait({self._task}, timeout=left))[0]:
                        if longer is None or not activity.is_worker_shutdown():
                            return None
                        until, longer = time.monotonic() + longer.total_seconds(), None
                except asyncio.CancelledError:
                    details = activity.cancellation_details()
                    if details is not None and details.cancel_requested:
                        self._happened.put_nowait(CancelRequested())
                        continue
                    if details is not None and details.worker_shutdown:
                        await self.stop()
                    raise
            return None if self._task.cancelled() else self._task.result()
        finally:
            self._attended(-1)

    def failure(self) -> BaseException | None:
        """What it broke with."""
        return None if self._task.cancelled() else self._task.exception()

    async def stop(self) -> None:
        """Hand back what is in flight, and end."""
        self._task.cancel()
        await asyncio.wait({self._task})

    def _attended(self, change: int) -> None:
        """While no attempt waits nothing is begun: another worker may have been given the segment."""
        self._waiting += change
        if self._alone is not None:
            self._alone.cancel()
            self._alone = None
        if self._waiting:
            self._waited_for.set()
        elif not self._task.done():
            self._waited_for.clear()
            self._alone = asyncio.get_running_loop().call_later(LEFT_ALONE.total_seconds(), self._task.cancel)

    # ---- driving

    async def _drive(self, commands: Sequence[Command]) -> SegmentDone:
        let_go = await self._segments.let_ahead()
        alarm = None
        try:
            await self._look_back()
            alarm = self._set_alarm()
            self._take(commands, first=True)
            while self._flights or not self._happened.empty():
                happened = await self._happened.get()
                await self._waited_for.wait()
                if isinstance(happened, BaseException):
                    raise happened
                if happened is None:
                    continue
                await self._take_messages(happened)
                if isinstance(happened, ModelReplied) and self._would_end(happened.reply):
                    self._final = happened.reply
                else:
                    self._take(self._machine.handle(happened, self._now()))
        finally:
            if alarm is not None:
                alarm.cancel()
            await self._abandon()
            let_go()
        return to_done(self._machine.state, self._left, messages=self._taken, final=self._final)

    async def _look_back(self) -> None:
        """At what attempts before this one have done; they may have been another worker's."""
        plan, state = self._machine.plan, self._machine.state
        self._before = before = await self._segments.journal.of_run(plan.run, after=state.next_number - 1)
        if before:
            self._taken += await self._segments.threads.sent(plan.thread, self._execution, placed=True)
        # Once the run was cancelled, what an earlier attempt may have done still has to be said, and no more.
        stop = self._segment.stop
        told = [one for one in before if not stop or one.status in SETTLED or one.effect == Effect.EXTERNAL]
        self._settled_before = max((record.number for record in told), default=0)

    def _would_end(self, reply: ModelReply) -> bool:
        state = self._machine.state
        answers = reply.status == "completed" and reply.finish == "final"
        return answers and not state.messages and state.ending is None

    async def _take_messages(self, happened: Event) -> None:
        """What the run was sent meanwhile, before what happened leads to a turn; the workflow is told what was taken.

        Not where an earlier attempt has had its turn already: that one was asked without them.
        """
        machine = self._machine
        calls = isinstance(happened, ModelReplied) and happened.reply.calls
        if self._flights or calls or machine.plan.calls_only or machine.state.next_number <= self._settled_before:
            return
        for ref in await self._segments.threads.sent(machine.plan.thread, self._execution):
            if ref not in self._taken and ref not in machine.state.messages:
                machine.handle(MessageQueued(ref), self._now())
                self._taken.append(ref)

    # ---- time

    def _now(self) -> datetime:
        """By the server's clock, which the workflow counts with."""
        return self._began + timedelta(seconds=time.monotonic() - self._clock)

    def _set_alarm(self) -> asyncio.TimerHandle | None:
        """For the run's limit of time: nobody is waited for in here, so one is enough."""
        left = self._machine.time_left(self._now())
        if left is None:
            return None
        due = max(left, timedelta(0)) + A_MOMENT
        return asyncio.get_running_loop().call_later(due.total_seconds(), self._happened.put_nowait, TimePassed())

    # ---- commands

    def _take(self, commands: Sequence[Command], *, first: bool = False) -> None:
        for command in commands:
            if isinstance(command, StopSteps):
                self._stop(command.numbers)
        steps = [command for command in commands if not isinstance(command, StopSteps)]
        if not steps:
            return
        ours = [command for command in steps if is_step_of_ours(command)]
        self._over = self._over or len(ours) < len(steps) or self._should_end(ours, first=first)
        if self._over:
            self._left += [Left(command) for command in steps]
        else:
            for command in ours:
                self._begin(command)
        if self._over and self._stopping:
            self._stopping = False
            self._happened.put_nowait(CancelRequested())

    def _should_end(self, commands: Sequence[Step], *, first: bool) -> bool:
        """Whether what comes next is left to the workflow.

        Never before all that an earlier attempt has settled: the workflow would not know of those steps.
        """
        if min(command.number for command in commands) <= self._settled_before:
            return False
        if self._stopping or first:
            return self._stopping
        if self._begun >= self._most_steps or activity.is_worker_shutdown():
            return True
        return time.monotonic() - self._clock >= self._segments.settings.segment_time.total_seconds()

    def _stop(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            flight = self._flights.get(number)
            if flight is None:
                continue
            flight.part.stopped = True
            flight.task.cancel()
            if not flight.begun:  # a task that is cancelled before its first step never says so
                del self._flights[number]
                self._happened.put_nowait(not_begun(flight.command))
        for item in list(self._left):
            if isinstance(item.command, Step | HandOff) and item.command.number in numbers:
                self._left.remove(item)
                self._happened.put_nowait(not_begun(item.command))

    def _begin(self, command: Step) -> None:
        self._begun += 1
        flight = self._flights[command.number] = _Flight(command)
        flight.task = asyncio.create_task(self._fly(flight))

    # ---- one step

    async def _fly(self, flight: _Flight) -> None:
        flight.begun = True
        PART.set(flight.part)
        command = flight.command
        try:
            self._happened.put_nowait(await self._performed(command))
        except asyncio.CancelledError:
            if flight.part.stopped and not flight.part.leaving:
                self._happened.put_nowait(failed(command, "cancelled", "Cancelled", cancelled=True))
        except BaseException as error:
            self._happened.put_nowait(error)
        finally:
            del self._flights[command.number]

    async def _performed(self, command: Step) -> Event | None:
        """Try until it comes to something; None: its next attempt has to wait longer than a segment does."""
        work = errand(self._machine.plan, self._segment.tenant, command)
        perform, attempt = self._segments.perform[work.activity], 0
        until = None if work.within is None else time.monotonic() + work.within.total_seconds()
        while True:
            attempt += 1
            try:
                async with asyncio.timeout(work.timeout.total_seconds()):
                    return self._returned(command, await perform(work.argument))
            except StepTaken:
                raise
            except Exception as error:
                failure = translated(error, work.activity)
            except asyncio.CancelledError:
                if _is_stopped():
                    raise
                failure = ApplicationError("It was cancelled, and nobody had asked for that.", type="internal")
            if failure.non_retryable:
                return failed(command, code_of(failure), words_of(failure))
            delay = failure.next_retry_delay or _backoff(attempt)
            if until is not None and time.monotonic() + delay.total_seconds() >= until:
                return not_begun(command)
            if delay > MOST_WAIT:
                self._over = True
                self._left.append(Left(command, delay))
                return None
            log.info("step.tried_again", step=command.number, delay_s=delay.total_seconds(), why=failure.message)
            await asyncio.sleep(delay.total_seconds())

    def _returned(self, command: Step, result: Any) -> Event:
        if isinstance(result, ModelReply) and self._before:
            result = as_it_was(result, command.number, self._before)
        return returned(command, result)

    async def _abandon(self) -> None:
        """Of what is still in flight, when this attempt ends without it."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.part.leaving = True
            flight.task.cancel()
        await asyncio.gather(*(flight.task for flight in flights), return_exceptions=True)


def _is_stopped() -> bool:
    """Whether this task was told to end; a library may raise the same exception of its own accord."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _backoff(attempt: int) -> timedelta:
    """As Temporal waits between the attempts at a step of its own."""
    delay = RETRY.initial_interval * RETRY.backoff_coefficient ** min(attempt - 1, 20)
    return min(delay, RETRY.maximum_interval or delay)


def as_it_was(reply: ModelReply, number: int, before: Sequence[StepRecord]) -> ModelReply:
    """A turn that is read again must lead to the steps that it led to before, under the same numbers.

    A tool's effect may be another one since, and so may the size of the conversation; what was begun says how it was.
    """
    later = [record for record in before if record.number > number]
    kinds = {record.number: record.kind for record in later}
    ungated = {record.key for record in later if kinds.get(record.number - 1) != "approval"}

    def begun(call: Call) -> Call:
        return call.model_copy(update={"gated": False, "gate": None}) if call.key in ungated else call

    asked = next((record for record in later if record.kind == "model_call"), None)
    compact = reply.compact if asked is None else asked.name == SUMMARY_STEP
    return reply.model_copy(update={"calls": tuple(map(begun, reply.calls)), "compact": compact})
