"""The activity that carries out many steps of a run: a second driver of the same machine, over the same step protocol.

Each step is claimed and settled by the very function that is an activity of its own elsewhere; so a segment that died
is given again from where it began, and goes through what it had settled without doing any of it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

import structlog
from temporalio import activity

from horarium import protocol
from horarium.errors import Conflict, StepTaken
from horarium.ledger.database import Ledger
from horarium.ledger.journal import SETTLED, Journal, StepRecord
from horarium.ledger.summaries import SUMMARY_STEP
from horarium.ledger.threads import Threads
from horarium.protocol import Call, ModelReply, Segment, SegmentDone
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
HEARTBEATS = 2.5  # within the timeout: each costs the server a write, and here fifty runs may beat side by side

Perform = Callable[[Any], Awaitable[Any]]


class Segments:
    """The activity `run_segment` and what it needs; one object for each process."""

    def __init__(self, ledger: Ledger, perform: Mapping[str, Perform], settings: WorkerSettings) -> None:
        """`perform`: the activities of single steps, by their names."""
        self.journal = Journal(ledger)
        self.threads = Threads(ledger)
        self.perform = perform
        self.settings = settings
        self._running: dict[str, asyncio.Task[Any]] = {}

    @activity.defn(name=protocol.RUN_SEGMENT)
    async def run_segment(self, segment: Segment) -> SegmentDone:
        """Drive a run until it needs its workflow, or for as long as a segment lasts.

        Safe to repeat: the journal knows what was done. Heartbeats. Cancelled, it stops what is in flight, and its
        result says what became of that.

        Raises:
            StepTaken: Another attempt at this segment is under way.
            Conflict: It is no segment of the run that asks for it.
        """
        plan, state, commands = in_segment(segment)
        if plan.run != segment.run:
            raise Conflict(f"A segment of run {plan.run} is not run {segment.run}'s.")
        async with heartbeating(HEARTBEATS), self._alone(segment.run):
            machine = Machine(plan, state)
            before = await self.journal.of_run(plan.run, after=state.next_number - 1)
            execution = activity.info().workflow_run_id or ""
            taken = await self.threads.sent(plan.thread, execution, placed=True) if before else ()
            return await _Running(self, machine, segment, before, taken).to_its_end(commands)

    @contextlib.asynccontextmanager
    async def _alone(self, run: str) -> Any:
        """An attempt whose heartbeat was late may still run here: it is ended before the next one begins."""
        earlier, mine = self._running.get(run), cast("asyncio.Task[Any]", asyncio.current_task())
        self._running[run] = mine
        try:
            if earlier is not None and not earlier.done():
                earlier.cancel()
                await asyncio.wait({earlier})
            yield
        finally:
            if self._running.get(run) is mine:
                del self._running[run]


class _Flight:
    """A step that was begun."""

    def __init__(self, command: Step) -> None:
        self.command = command
        self.part = PartOfSegment()
        self.begun = False
        self.task: asyncio.Task[None]


class _Running:
    """One attempt at one segment."""

    def __init__(
        self,
        segments: Segments,
        machine: Machine,
        segment: Segment,
        before: Sequence[StepRecord],
        taken: Sequence[str],
    ) -> None:
        self._segments = segments
        self._machine = machine
        self._segment = segment
        self._before = before
        self._taken = list(taken)
        self._execution = activity.info().workflow_run_id or ""
        self._happened: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
        self._flights: dict[int, _Flight] = {}
        self._left: list[Left] = []
        self._begun = 0
        self._over = False
        self._final: ModelReply | None = None
        self._stopping = segment.stop
        # Once the run was cancelled, what an earlier attempt may have done still has to be said, and no more.
        told = [one for one in before if not segment.stop or one.status in SETTLED or one.effect == Effect.EXTERNAL]
        self._settled_before = max((record.number for record in told), default=0)
        plan, settings = machine.plan, segments.settings
        self._most_steps = min(settings.segment_steps, plan.continue_as_new_after or settings.segment_steps)
        self._clock = time.monotonic()
        self._began = activity.info().started_time

    async def to_its_end(self, commands: Sequence[Command]) -> SegmentDone:
        """Begin with these commands, and go on with what follows from them; a cancellation is an event like others."""
        driving = asyncio.create_task(self._drive(commands))
        while True:
            try:
                return await asyncio.shield(driving)
            except asyncio.CancelledError:
                details = activity.cancellation_details()
                if details is None or not details.cancel_requested:  # the worker leaves, or another attempt is given
                    driving.cancel()
                    await asyncio.wait({driving})
                    raise
                self._happened.put_nowait(CancelRequested())

    async def _drive(self, commands: Sequence[Command]) -> SegmentDone:
        alarm = self._set_alarm()
        try:
            self._take(commands, first=True)
            while self._flights or not self._happened.empty():
                happened = await self._happened.get()
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
        return to_done(self._machine.state, self._left, messages=self._taken, final=self._final)

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
            if flight.part.stopped:
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
            flight.task.cancel()
        await asyncio.gather(*(flight.task for flight in flights), return_exceptions=True)


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
