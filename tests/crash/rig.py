"""What the crash tests share: one project, one agent for each call to be killed in, and the book to count from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from horarium.client import Client, Run
from horarium.contract import RunResult
from horarium.ledger.journal import StepRecord
from tests.support.stack import Role, Stack, running_stack, until

PATIENCE = timedelta(seconds=30)
TOOLS = Path(__file__).with_name("project_tools.py").read_text("utf-8")
TOOL_NAMES = ("look", "put", "post", "pay", "browse")
REFS = ("inside", "after", "through")
# A settled step comes first, so that each test sees that it is not done again; then the call, then the answer.
AGENTS = {
    f"{tool}-{ref}": f"model: scripted:scripts/{tool}-{ref}.yaml\ntools: [{', '.join(TOOL_NAMES)}]\n"
    for tool in TOOL_NAMES
    for ref in REFS
}
SCRIPTS = {
    f"{tool}-{ref}.yaml": json.dumps(
        [
            {"calls": [{"name": "look", "arguments": {"ref": "first"}}], "input_tokens": 7, "output_tokens": 3},
            {"calls": [{"name": tool, "arguments": {"ref": ref}}], "input_tokens": 7, "output_tokens": 3},
            {"text": "All done.", "input_tokens": 7, "output_tokens": 3},
        ]
    )
    for tool in TOOL_NAMES
    for ref in REFS
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the book."""

    event: str
    tool: str
    ref: str
    run: str
    key: str
    attempt: int
    pid: int
    at: float


class Book:
    """What the tools did, told by themselves, outside the engine."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "book.jsonl"
        self._go = directory / "go"

    def lines(self, run: Run | None = None, *, event: str | None = None, tool: str | None = None) -> list[Line]:
        """All of it, or a run's, an event's, a tool's part; in the order in which it happened."""
        text = self._file.read_text("utf-8") if self._file.exists() else ""
        lines = [Line(**json.loads(line)) for line in text.splitlines()]
        return [
            line
            for line in lines
            if (run is None or line.run == run.id) and event in (None, line.event) and tool in (None, line.tool)
        ]

    def effects(self, run: Run, tool: str) -> list[str]:
        """The key of each time that the tool acted."""
        return [line.key for line in self.lines(run, event="done", tool=tool)]

    async def says(self, run: Run, event: str, tool: str, ref: str) -> None:
        """Wait until a tool has said how far it is."""
        await until(
            lambda: any(line.ref == ref for line in self.lines(run, event=event, tool=tool)),
            f"{tool} {ref} of {run.id} is {event}",
            timeout=PATIENCE.total_seconds(),
        )

    async def stands(self, run: Run, tool: str, ref: str) -> None:
        """Wait until the call stands where its `ref` says."""
        await self.says(run, "done" if ref == "after" else "entered", tool, ref)

    def go(self) -> None:
        """From now on nothing stands still."""
        self._go.touch()


@asynccontextmanager
async def crash_stack(
    directory: Path,
    *,
    settings: str = "",
    environment: dict[str, str] | None = None,
    workers: tuple[Role, ...] = ("engine",),
) -> AsyncIterator[tuple[Stack, Book]]:
    """The crash project, running."""
    async with running_stack(
        directory,
        agents=AGENTS,
        tools_source=TOOLS,
        scripts=SCRIPTS,
        settings=settings,
        environment=environment,
        workers=workers,
    ) as stack:
        yield stack, Book(directory)


async def begin(client: Client, tool: str, ref: str, **options: Any) -> Run:
    """Start a run that makes this call, and approve it when it has to be."""
    run = await client.start(f"{tool}-{ref}", "Go.", **options)
    if tool in ("put", "post", "pay"):
        await run.approve(await run.next_approval(PATIENCE), by="ann")
    return run


async def begin_all(client: Client, *calls: tuple[str, str]) -> dict[tuple[str, str], Run]:
    """Start one run for each call."""
    runs = await asyncio.gather(*(begin(client, tool, ref) for tool, ref in calls))
    return dict(zip(calls, runs, strict=True))


async def wait_for(run: Run, kind: str) -> str:
    """Wait until the run waits for this kind of thing: the id of what it waits for."""
    found: list[str] = []

    async def waits() -> bool:
        found[:] = [item.id for item in (await run.status()).waiting_for if item.kind == kind]
        return bool(found)

    await until(waits, f"{run.id} waits for {kind}", timeout=PATIENCE.total_seconds())
    return found[0]


async def completed(run: Run) -> RunResult:
    """Wait for the end, which has to be a good one."""
    result = await run.result(PATIENCE)
    assert (result.status, result.output) == ("completed", "All done."), result
    return result


def of_kind(steps: list[StepRecord], kind: str) -> list[StepRecord]:
    """The steps of one kind."""
    return [step for step in steps if step.kind == kind]


def settled_before(steps: list[StepRecord]) -> None:
    """Nothing but the killed call was done more than once, and every model call was paid for once."""
    models = of_kind(steps, "model_call")
    assert [(step.status, step.attempts, step.input_tokens) for step in models] == [("completed", 1, 7)] * 3
    first = of_kind(steps, "tool_call")[0]
    assert (first.name, first.status, first.attempts) == ("look", "completed", 1)
