"""Following a run until its end: steps as they happen, the model's words as they stream, and whom it waits for.

A run outlives its workers, so following does too: when nobody answers for a while it says so and goes on looking.
"""

from __future__ import annotations

import asyncio
import getpass
import shlex
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from horarium.cli import evidence, talk, words
from horarium.contract import RunResult, Waiting
from horarium.errors import ApprovalNotFound, Unreachable
from horarium.ids import step_id
from horarium.ledger.approvals import Approvals
from horarium.ledger.database import Ledger
from horarium.ledger.journal import StepRecord
from horarium.people import is_among

if TYPE_CHECKING:
    from horarium.client import Run, RunEvent

PATIENCE = 120.0  # seconds that nobody may answer before following gives up; the run does not
LAST_LOOK = 2.0  # seconds for what there is still to see of a run that has ended
ASK_AGAIN = 1.0  # seconds
TAIL_LINES = 6  # of the model's text while it streams


class Follower(Protocol):
    """What is done with the events of a run."""

    async def event(self, event: RunEvent) -> None:
        """Something is to be seen; each thing comes once."""
        ...

    def silent(self, error: Unreachable) -> None:
        """Nobody answers for now."""
        ...


async def follow(run: Run, follower: Follower) -> RunResult:
    """Show a run from its first step to its end, and return how it ended.

    Raises:
        RunNotFound: There is none.
        Unreachable: Nobody has answered for `PATIENCE`.
    """
    seen: dict[object, object] = {}
    silent_since: float | None = None
    while True:
        ended = asyncio.ensure_future(run.result())
        try:
            async for event in _events(run, ended):
                silent_since = None
                if _is_new(event, seen):
                    await follower.event(event)
            return await ended
        except Unreachable as error:
            if silent_since is None:
                silent_since = time.monotonic()
                follower.silent(error)
            elif time.monotonic() - silent_since > PATIENCE:
                raise
            await asyncio.sleep(ASK_AGAIN)
        finally:
            ended.cancel()


async def _events(run: Run, ended: asyncio.Future[RunResult]) -> AsyncIterator[RunEvent]:
    """The run's events until its end, also of a run that ended before it could write so into the ledger."""
    watching = run.watch()
    while True:
        coming = asyncio.ensure_future(anext(watching, None))
        try:
            await asyncio.wait((coming, ended), return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                ended.result()
                await asyncio.wait((coming,), timeout=LAST_LOOK)
            if not coming.done():
                return
            event = coming.result()
        finally:
            coming.cancel()
        if event is None:
            return
        yield event


def _is_new(event: RunEvent, seen: dict[object, object]) -> bool:
    """Whether this was not shown before; after a silence the run's whole story comes again."""
    key: object = event.type
    what: object = event.status and (event.status.status, event.status.waiting_for)
    if event.step is not None:
        key = (event.type, event.step.number)
        what = (event.step.status, event.step.attempts) if event.type == "step" else event.text
    if seen.get(key) == what:
        return False
    seen[key] = what
    return True


class JsonLines:
    """One JSON object a line."""

    def __init__(self, run: str) -> None:
        self._run = run

    async def event(self, event: RunEvent) -> None:
        """Print it."""
        said: dict[str, Any] = {"type": event.type, "run": self._run}
        if event.status is not None:
            said |= {"status": event.status.status, "waiting_for": _dumped(event.status.waiting_for)}
        if event.type == "step" and event.step is not None:
            said["step"] = evidence.step_json(event.step)
        elif event.step is not None:
            said |= {"step": step_id(event.step.run_id, event.step.number), "text": event.text}
        talk.emit(said)

    def silent(self, error: Unreachable) -> None:
        """Say so on stderr."""
        talk.say(f"{error.message} Still looking.")


class WaitingOnly:
    """Says only whom the run waits for."""

    def __init__(self, ledger: Ledger, console: Console) -> None:
        self._ledger = ledger
        self.console = console
        self._asked: set[str] = set()

    async def event(self, event: RunEvent) -> None:
        """Print what is asked of people, once each."""
        if event.status is not None:
            # A step that was retried and failed again asks again.
            self._asked &= {waiting.question or waiting.id for waiting in event.status.waiting_for}
            for waiting in event.status.waiting_for:
                if (question := waiting.question or waiting.id) not in self._asked:
                    self._asked.add(question)
                    for line in await asking(self._ledger, event.status.run, waiting):
                        self.console.print(line, soft_wrap=True)

    def silent(self, error: Unreachable) -> None:
        """Say so."""
        self.console.print(Text(f"{error.message} Still looking; the run is safe."))


class Screen(WaitingOnly):
    """Steps as lines; on a terminal, what is going on at this moment stays below them."""

    def __init__(self, ledger: Ledger, console: Console) -> None:
        super().__init__(ledger, console)
        self._going: dict[int, StepRecord] = {}
        self._text = ""
        self._live = Live(
            console=console, get_renderable=self._now, transient=True, refresh_per_second=8, redirect_stdout=False,
            redirect_stderr=False,
        )  # fmt: skip

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._going.clear()
        self._live.stop()

    async def event(self, event: RunEvent) -> None:
        """Print a step that began (when there is no place to show it live) or settled, and who is asked."""
        if event.type == "text":
            self._text = event.text or ""
        elif event.step is not None:
            self._step(event.step)
        await super().event(event)

    def _step(self, step: StepRecord) -> None:
        if step.status != "claimed":
            self._going.pop(step.number, None)
        else:
            self._going[step.number] = step
        if step.kind == "model_call":
            self._text = ""
        if self._live.is_started:
            self._live.refresh()  # else what is printed above it brings back what it showed before
        if step.status != "claimed" or not self.console.is_terminal:
            self.console.print(step_line(step), soft_wrap=True)

    def _now(self) -> RenderableType:
        lines: list[Text] = []
        for step in self._going.values():
            for_long = words.span(step.claimed_at, datetime.now(UTC))
            lines.append(Text(f"{step.number:>4}  {step.kind.split('_')[0]:<8}  {step.name}  {for_long}", style="dim"))
        if self._text:
            width = max(self.console.width - 6, 20)
            wrapped = Text(words.harmless(self._text)).wrap(self.console, width)
            lines += [Text(f"      {line.plain}", style="italic") for line in wrapped[-TAIL_LINES:]]
        return Group(*lines)


def step_line(step: StepRecord) -> Text:
    """One step on one line: number, kind, name, status, attempts, duration, tokens, note."""
    said = [
        f"{step.number:>4}",
        f"{words.STEP_KIND.get(step.kind, step.kind):<8}",
        f"{words.one_line(step.name):<20}",
        f"{words.step_status(step):<9}",
        f"{words.span(step.claimed_at, step.settled_at):>7}",
    ]
    if step.input_tokens or step.output_tokens:
        said.append(f"{words.tokens(step.input_tokens, step.output_tokens)} tokens")
    if step.attempts > 1:
        said.append(f"attempt {step.attempts}")
    if noted := words.note(step):
        said.append(noted)
    return Text("  ".join(said).rstrip(), style=evidence.STYLES.get(step.status, ""))


async def asking(ledger: Ledger, run: str, waiting: Waiting) -> list[Text]:
    """What a run asks of people, with the exact arguments and the exact commands that answer."""
    me = you()
    lines = [
        Text(""),
        Text(f"The run waits for {_whom(waiting)}: {words.one_line(waiting.text)}", style="bold yellow"),
    ]
    if waiting.kind in ("approval", "sub_agent"):
        try:
            approval = await Approvals(ledger).get(waiting.question or waiting.id)
        except ApprovalNotFound:
            pass
        else:
            waiting = waiting.model_copy(update={"kind": approval.kind, "id": approval.id})
            lines.append(Text(f"  {approval.tool} ({approval.effect}), with exactly these arguments:"))
            lines += [Text(f"    {line}") for line in words.exact_json(approval.arguments).splitlines()]
            if approval.approvers and not is_among(me, approval.approvers):
                lines.append(Text(f"  These may decide: {words.one_line(', '.join(approval.approvers))}."))
                me = "NAME"
    return [*lines, *(Text(f"  {command}", no_wrap=True) for command in answers(run, waiting, me)), Text("")]


def _whom(waiting: Waiting) -> str:
    return "whoever started it" if waiting.kind == "function_call" else "a person"


def answers(run: str, waiting: Waiting, by: str) -> list[str]:
    """The commands that answer, ready to be pasted."""
    me = shlex.quote(by)
    if waiting.kind == "approval":
        return [
            f"horarium approvals approve {waiting.id} --by {me}",
            f"horarium approvals reject {waiting.id} --by {me} --comment 'why'",
        ]
    if waiting.id == waiting.question:  # of a sub-agent's run
        return [f"horarium approvals resolve {waiting.id} {verdict} --by {me}" for verdict in ("retry", "skip", "fail")]
    if waiting.kind in ("sub_agent", "tool_worker", "function_call"):
        return []  # nothing to decide: somebody has to start what serves it, or to carry it out
    number = waiting.id.rpartition("/")[2].lstrip("0")
    resolve = f"horarium runs resolve {run} {number}"
    verdicts = ["retry", "supply --output 'its result'", "skip", "fail"]
    if waiting.tool is None:
        verdicts = ["retry", "fail"]
    return [f"{resolve} {verdict} --by {me}" for verdict in verdicts]


def you() -> str:
    """The name of whoever sits here, as the system knows it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "me"


def _dumped(waiting: tuple[Waiting, ...]) -> list[dict[str, Any]]:
    return [item.model_dump(mode="json") for item in waiting]
