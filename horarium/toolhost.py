"""Performing tool calls, by the step protocol, in whatever process serves the tools.

The engine worker and a tool worker run this same activity. A tool never runs on the loop that
keeps the worker alive: sync ones get a thread, async ones the tools' own loop, so one that blocks
does not stop the heartbeat and is not taken for dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import CancelledError as CancelledFuture
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from horarium.content import clean_text, shorten
from horarium.errors import ToolError, ToolNotReached, WorkspaceError
from horarium.ledger.journal import Held
from horarium.performing import FindPerformer, Performer
from horarium.protocol import CALL_TOOL, NOTE_CHARS, ToolOutcome, ToolStep
from horarium.routine_state import RoutineState
from horarium.stepping import Asked, Begun, CallSteps, Steps
from horarium.tools import Effect, NotPerformed, Performed, Tool, ToolContext, ToolSpec, no_workspace
from horarium.workspaces.host import CallFiles, WorkspaceHost

log = structlog.get_logger()

FIRST_RETRY = timedelta(seconds=1)
MOST_RETRY = timedelta(minutes=1)
STOP_PATIENCE = timedelta(seconds=15)  # for a tool that was asked to stop and goes on


@dataclass(slots=True)
class PartOfSegment:
    """What a step needs to know that is one of many in an activity; `stopped`: by its run; `leaving`: by its worker."""

    stopped: bool = False
    leaving: bool = False


PART: ContextVar[PartOfSegment | None] = ContextVar("part_of_segment", default=None)


def why_stopped() -> Literal["cancelled", "leaving"] | None:
    """Why a step was cancelled: its run wants it to end, or its worker does. None: it only took too long."""
    part, details = PART.get(), activity.cancellation_details()
    if part is not None:
        return "leaving" if part.leaving else "cancelled" if part.stopped else None
    if details is not None and details.cancel_requested:
        return "cancelled"
    return "leaving" if details is not None and details.worker_shutdown else None


@asynccontextmanager
async def heartbeating(times: float = 4) -> AsyncIterator[None]:
    """Tell Temporal that this attempt lives, a few times within each heartbeat timeout."""
    if PART.get() is not None:  # the segment does
        yield
        return
    timeout = activity.info().heartbeat_timeout
    every = (timeout / times).total_seconds() if timeout else 1.0

    async def beat() -> None:
        while True:
            await asyncio.sleep(
                every
            )  # first, because most steps are over before: a heartbeat costs the server a write
            activity.heartbeat()

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()


class ToolThreads:
    """Where tools run: a pool of threads, and one loop for the async ones."""

    def __init__(self, size: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=size, thread_name_prefix="tool")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tools", daemon=True)
        self._thread.start()

    async def run(self, timeout: timedelta, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function, sync or async, away from the caller's loop.

        Cancelled, it asks an async function to stop and waits a while for either kind: what the function then
        returns still counts.

        Raises:
            TimeoutError: No answer in time; a thread cannot be stopped and goes on by itself.
        """
        if inspect.iscoroutinefunction(function):
            return await self._on_loop(timeout, function(*args, **kwargs))
        future = asyncio.get_running_loop().run_in_executor(self._pool, lambda: _called(function, *args, **kwargs))
        result = await _wait(future, timeout)
        return await self._on_loop(timeout, result) if inspect.iscoroutine(result) else result

    async def _on_loop(self, timeout: timedelta, coroutine: Coroutine[Any, Any, Any]) -> Any:
        here = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = here.create_future()
        tasks: list[asyncio.Task[Any]] = []

        def begin() -> None:
            tasks.append(self._loop.create_task(_awaited(coroutine)))
            tasks[0].add_done_callback(ended)

        def ended(task: asyncio.Task[Any]) -> None:
            coroutine.close()  # of one that was stopped before its first step
            here.call_soon_threadsafe(_answered, answer, task)

        def stop() -> None:
            self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])

        self._loop.call_soon_threadsafe(begin)
        return await _wait(answer, timeout, stop)

    def close(self) -> None:
        """Stop the loop; threads that still run a tool are left to end with the process."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._pool.shutdown(wait=False, cancel_futures=True)


def _called(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except BaseException as error:
        if _ends_the_call_alone(error):
            raise
        raise RuntimeError(_words(error)) from error


async def _awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
    task = asyncio.current_task()
    try:
        return await coroutine
    except BaseException as error:
        asked_to_stop = isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling()
        if asked_to_stop or _ends_the_call_alone(error):
            raise
        raise RuntimeError(_words(error)) from error


def _ends_the_call_alone(error: BaseException) -> bool:
    """Whether what a tool raised can be passed on as it is.

    `sys.exit` would end the loop that all tools run on, an exhausted iterator never reaches whoever waits, and a
    cancellation of the tool's own would be taken for its run's.
    """
    return isinstance(error, Exception) and not isinstance(error, StopIteration | CancelledFuture)


def _answered(answer: asyncio.Future[Any], task: asyncio.Task[Any]) -> None:
    if answer.done():
        return
    if task.cancelled():
        answer.cancel()
    elif (error := task.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(task.result())


async def _wait(future: asyncio.Future[Any], timeout: timedelta, stop: Callable[[], None] = lambda: None) -> Any:
    try:
        await asyncio.wait({future}, timeout=timeout.total_seconds())
    except asyncio.CancelledError:
        stop()
        await asyncio.wait({future}, timeout=STOP_PATIENCE.total_seconds())
        if future.done() and not future.cancelled():
            return future.result()
        raise
    if not future.done():
        stop()
        raise TimeoutError
    return future.result()


class FunctionPerformer:
    """A Python function of this process."""

    def __init__(self, tool: Tool, threads: ToolThreads) -> None:
        self._tool = tool
        self._threads = threads

    @property
    def spec(self) -> ToolSpec:
        """As its decorator made it."""
        return self._tool.spec

    async def perform(self, arguments: Mapping[str, Any], context: ToolContext) -> Any:
        """Call the function, away from the loop that keeps the worker alive."""
        bound = self._tool.bind(arguments, context)
        return await self._threads.run(self.spec.timeout, self._tool.function, **bound)

    async def verify(self, arguments: Mapping[str, Any], context: ToolContext) -> Performed | NotPerformed | None:
        """Ask the tool's probe, when it has one."""
        if self._tool.verify is None:
            return None
        answer = await self._threads.run(self.spec.timeout, self._tool.verify, context, dict(arguments))
        return answer if isinstance(answer, Performed | NotPerformed) else None


class ToolHost:
    """The tools of one process, and the activity that calls them."""

    def __init__(
        self,
        steps: Steps,
        tools: Iterable[Tool],
        *,
        threads: int = 64,
        elsewhere: FindPerformer | None = None,
        workspaces: WorkspaceHost | None = None,
    ) -> None:
        """`elsewhere` finds who performs what was pinned for a run and is no function of this process.

        Without `workspaces` a tool has no files.
        """
        self.tools = {tool.name: tool for tool in tools}
        self.elsewhere = elsewhere
        self.workspaces = workspaces
        self.steps = steps
        self.threads = ToolThreads(threads)
        self._attempts: dict[str, _Attempt] = {}

    def close(self) -> None:
        """Stop the tools' loop."""
        self.threads.close()

    async def performer(self, run: str, name: str) -> Performer | None:
        """Who performs the tool of this name in a run; None: nobody here does."""
        if self.elsewhere is not None:
            found = await self.elsewhere(run, name)
            if found is not None:
                return found
        tool = self.tools.get(name)
        return FunctionPerformer(tool, self.threads) if tool is not None else None

    @activity.defn(name=CALL_TOOL)
    async def call_tool(self, step: ToolStep) -> ToolOutcome:
        """Perform one tool call, once.

        Safe to repeat: the journal knows what was done. A second attempt in the process where the first still
        runs (its heartbeat was late) waits for that one instead of starting another.

        Raises:
            ApplicationError: The attempt failed, is known to have done nothing lasting, and is worth another.
        """
        async with heartbeating():
            # Of its own workflow: what another one asks for is no attempt at this step, and is not waited for.
            label = f"{activity.info().workflow_id}/{step.run}/{step.number}/{step.permit}"
            attempt = self._attempts.get(label)
            if attempt is None:
                attempt = self._attempts[label] = _Attempt(self, step)
                attempt.task.add_done_callback(lambda _done: self._attempts.pop(label, None))
            try:
                return await asyncio.shield(attempt.task)
            except asyncio.CancelledError:
                why = why_stopped()
                if why is None:
                    raise  # timed out: the next attempt joins this one, or claims again
                return await attempt.stop(leaving=why == "leaving")


class _Attempt:
    """One attempt at one tool step; it outlives the activity that began it when that one is late."""

    def __init__(self, host: ToolHost, step: ToolStep) -> None:
        self._step = step
        self._call = step.call
        self._host = host
        self._info = activity.info()
        self._stopped = threading.Event()
        self._leaving = False
        self._tool: Performer
        self._spec: ToolSpec
        self._steps: CallSteps
        self.task = asyncio.create_task(self.outcome())

    async def stop(self, *, leaving: bool) -> ToolOutcome:
        """Stop the tool and say what became of it; `leaving` lets another worker try."""
        self._leaving = leaving
        self._stopped.set()
        self.task.cancel()
        return await self.task

    async def outcome(self) -> ToolOutcome:
        step, call = self._step, self._call
        with structlog.contextvars.bound_contextvars(run=step.run, step=step.number, tool=call.tool):
            performer = await self._host.performer(step.run, call.tool)
            if performer is None:
                raise ApplicationError(
                    f"This worker does not serve the tool {call.tool!r}.",
                    type="tool_unavailable",
                    next_retry_delay=MOST_RETRY,
                )
            self._tool, self._spec = performer, performer.spec
            self._steps = self._host.steps.of(self._asked())
            try:
                begun = await self._steps.begin()
            except ToolNotReached as error:
                delay = max(FIRST_RETRY, error.retry_after or FIRST_RETRY)
                words = shorten(str(error), NOTE_CHARS)
                raise ApplicationError(words, type=error.code, next_retry_delay=delay) from None
            if begun.outcome is not None:
                return begun.outcome
            if begun.held is None:
                return await self._unknown(begun, begun.unclear)
            return await self._perform(begun, begun.held)

    def _asked(self) -> Asked:
        tool, info = self._host.tools.get(self._call.tool), self._info
        return Asked(
            self._step,
            self._spec,
            workflow=info.workflow_id or "",
            execution=info.workflow_run_id or "",
            activity=info.activity_id,
            wants_state=tool is not None and tool.context_parameter is not None,
        )

    async def _perform(self, begun: Begun, held: Held) -> ToolOutcome:
        log.debug("tool.started", attempt=held.attempt)
        with contextlib.closing(self._files()) as files:
            return await self._performed(begun, held, files)

    async def _performed(self, begun: Begun, held: Held, files: CallFiles) -> ToolOutcome:
        try:
            result = await self._result(begun.arguments, self._context(held.attempt, begun.state, files), files)
        except ToolError as error:
            said = clean_text(str(error))[0]
            return await self._steps.settle(
                held, "failed", f"Error: {said}", code=error.code, message=shorten(said, NOTE_CHARS)
            )
        except ToolNotReached as error:
            return await self._try_again(held, clean_text(str(error))[0], not_before=error.retry_after)
        except asyncio.CancelledError:
            return await self._interrupted(begun, held)
        except Exception as error:
            words = f"no answer within {self._spec.timeout}" if isinstance(error, TimeoutError) else _words(error)
            return await self._failed(begun, held, words)
        log.debug("tool.finished")
        return await _to_the_end(self._kept(held, result, begun.state, files))

    async def _result(self, arguments: Mapping[str, Any], context: ToolContext, files: CallFiles) -> Any:
        """Perform it. A name that leads out of the workspace is the model's to mend, as long as nothing happened."""
        try:
            result = await self._tool.perform(arguments, context)
        except (TimeoutError, asyncio.CancelledError):
            raise  # its thread may go on by itself
        except WorkspaceError as error:
            files.ended()
            if self._spec.effect is Effect.EXTERNAL:
                raise
            raise ToolError(str(error)) from error
        except BaseException:
            files.ended()
            raise
        files.ended()
        return result

    async def _kept(self, held: Held, result: Any, state: RoutineState, files: CallFiles) -> ToolOutcome:
        """Settle what was performed, together with what it changed in the workspace."""
        try:
            change = await files.change()
        except WorkspaceError as error:
            log.warning("workspace.not_kept", why=str(error))
            if self._spec.effect is not Effect.EXTERNAL:
                said = f"{error} Nothing of what this call changed in the workspace was kept."
                return await self._steps.settle(
                    held, "failed", f"Error: {said}", code=ToolError.code, message=shorten(said, NOTE_CHARS)
                )
            change = files.refused(error)
        outcome = await self._steps.settle(held, "completed", result, state=state, change=change)
        await files.settled(change)
        return outcome

    def _files(self) -> CallFiles:
        thread = self._step.thread
        return CallFiles(self._host.workspaces if thread else None, thread, self._step.run)

    async def _failed(self, begun: Begun, held: Held, words: str) -> ToolOutcome:
        """An unexpected exception. What it means depends on what the tool may do to the world."""
        log.warning("tool.failed", attempt=held.attempt, error=words)
        if self._spec.effect is Effect.EXTERNAL:
            return await self._unknown(begun, f"{self._spec.name!r} broke: {words}", failed=held)
        return await self._try_again(held, words)

    async def _try_again(self, held: Held, words: str, not_before: timedelta | None = None) -> ToolOutcome:
        if held.failures + 1 >= self._spec.attempts:
            message = f"{words} (after {held.failures + 1} attempts)" if held.failures else words
            return await self._steps.settle(
                held, "failed", f"Error: {message}", code="tool_failed", message=shorten(message, NOTE_CHARS)
            )
        failures = await self._steps.attempt_failed(held, shorten(words, NOTE_CHARS))
        delay = min(max(FIRST_RETRY * 2 ** (failures - 1), not_before or FIRST_RETRY), MOST_RETRY)
        raise ApplicationError(shorten(words, NOTE_CHARS), type="tool_failed", next_retry_delay=delay) from None

    async def _unknown(self, begun: Begun, why: str, failed: Held | None = None) -> ToolOutcome:
        """Ask the tool's probe whether the call happened; when nobody knows, say so."""
        answer = await self._probe(begun.arguments)
        match answer:
            case Performed(result):
                held = failed or await self._steps.take_over()
                log.info("tool.verified", happened=True)
                return await self._steps.settle(held, "completed", result, message="Verified afterwards.")
            case NotPerformed():
                log.info("tool.verified", happened=False)
                if failed is not None:
                    return await self._try_again(failed, why)
                return await self._perform(begun, await self._steps.take_over())
            case _:
                log.warning("tool.outcome_unknown", why=why)
                return await self._steps.mark_unknown(shorten(why, NOTE_CHARS))

    async def _probe(self, arguments: Mapping[str, Any]) -> Performed | NotPerformed | None:
        try:
            return await self._tool.verify(arguments, self._context(0))
        except Exception as error:
            log.warning("tool.verify_failed", error=_words(error))
            return None

    async def _interrupted(self, begun: Begun, held: Held) -> ToolOutcome:
        """The run was cancelled, or the worker shuts down, with the tool in flight."""
        leaving = self._leaving
        if self._spec.effect is Effect.READ:
            if leaving:
                await self._steps.hand_back(held)
                raise asyncio.CancelledError
            return await self._not_done(held)
        if leaving:
            if self._spec.effect is Effect.IDEMPOTENT:
                await self._steps.hand_back(held)
            raise asyncio.CancelledError  # an external one stays claimed: the next attempt verifies, or asks
        match await self._probe(begun.arguments):
            case Performed(result):
                return await self._steps.settle(held, "completed", result, message="Verified afterwards.")
            case NotPerformed():
                return await self._not_done(held)
            case _:
                return await self._steps.mark_unknown("The run was cancelled while it was being done.")

    async def _not_done(self, held: Held) -> ToolOutcome:
        return await self._steps.settle(held, "cancelled", "Not done: the run was cancelled.", code="cancelled")

    def _context(self, attempt: int, state: RoutineState | None = None, files: CallFiles | None = None) -> ToolContext:
        step = self._step
        return ToolContext(
            run_id=step.run,
            step_id=f"{step.run}/{step.number:04d}",
            idempotency_key=self._call.key,
            attempt=attempt,
            agent=step.agent,
            tenant=step.tenant,
            state=RoutineState() if state is None else state,
            cancelled=self._stopped.is_set,
            open_workspace=no_workspace if files is None else files.open,
        )


async def _to_the_end(work: Coroutine[Any, Any, ToolOutcome]) -> ToolOutcome:
    """What a tool did is written down also when the run is cancelled, or the worker stops, meanwhile."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        return await task


def _words(error: BaseException) -> str:
    with contextlib.suppress(Exception):
        return clean_text(f"{type(error).__name__}: {error}")[0]
    return type(error).__name__
