"""The demonstration: a run that outlives its worker, and a ticket that is opened once.

It starts the embedded stack in a copy of this project, starts a run, kills the worker with SIGKILL in the middle
of it, approves the ticket as another service would, and then checks what was promised. It exits with 1 when
anything is not as promised.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from horarium import Client, HorariumError, Run, RunResult
from horarium.leaving import leave
from horarium.ledger.journal import StepRecord

PROJECT = Path(__file__).resolve().parent
AGENTS = {"local": "log-triage", "scripted": "log-triage-scripted"}
TASK = "The nightly build stopped. Read build.log and open a ticket for what broke."
START_SECONDS = 60
RUN_SECONDS = 150
STOP_SECONDS = 30
LOOK_SECONDS = 0.05

console = Console(highlight=False)


class BrokenPromise(Exception):
    """Something is not as the README says."""


@dataclass
class Seen:
    """What the demonstration has to show in the end."""

    killed: int = 0
    killed_at: float = 0.0
    restarted: int = 0
    restart_seconds: float = 0.0
    lines: set[tuple[int, str, int]] = field(default_factory=set)


def main() -> int:
    """Run it; the exit code says whether all was as promised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(AGENTS), default="local", help="scripted: a file of turns instead")
    parser.add_argument("--keep", action="store_true", help="keep the project's copy, to look at it afterwards")
    options = parser.parse_args()
    began = time.monotonic()
    with project_copy(keep=options.keep) as project:
        try:
            asyncio.run(demonstrate(project, AGENTS[options.model]))
        except (BrokenPromise, HorariumError, TimeoutError) as error:
            console.print(f"\n[red]Not as promised:[/] {escape(str(error) or type(error).__name__)}")
            show_log(project)
            return 1
    console.print(f"\n[green]As promised.[/] {time.monotonic() - began:.0f} s, the stack's start and stop included.")
    return 0


async def demonstrate(project: Path, agent: str) -> None:
    """The whole story, from an empty state directory to the proof."""
    seen = Seen()
    async with stack(project), await Client.connect(directory=project) as client:
        run = await client.start(agent, TASK, key="nightly-build", requested_by="build-bot")
        say(f"started [bold]{run.id}[/]: {TASK}")
        async with asyncio.timeout(RUN_SECONDS):
            await follow(run, project, seen)
            result = await run.result()
        steps = await run.steps()
        show_evidence(steps, result)
        check(project, steps, result, seen)


async def follow(run: Run, project: Path, seen: Seen) -> None:
    """Show the run as it goes; kill its worker after the first tool, approve its ticket."""
    with console.status("the agent works …") as spinner:
        async for event in run.watch():
            if event.type == "step" and event.step is not None:
                show_step(event.step, seen)
                if event.step.name == "read_log" and event.step.status == "completed" and not seen.killed:
                    kill_worker(project, seen)
            elif event.type == "status" and event.status is not None:
                spinner.update(f"{event.status.status.replace('_', ' ')} …")
                if any(waiting.kind == "approval" for waiting in event.status.waiting_for):
                    await approve_as_another_service(project, run.id)
            notice_restart(project, seen)


def kill_worker(project: Path, seen: Seen) -> None:
    """The worker dies as in a power cut: no handler runs, nothing is flushed, nobody is told."""
    seen.killed = worker_pid(project)
    seen.killed_at = time.monotonic()
    os.kill(seen.killed, signal.SIGKILL)
    say(f"[red]kill -9[/] of the worker, process {seen.killed}")


def notice_restart(project: Path, seen: Seen) -> None:
    """The supervisor started another worker, and it has taken the run over, as something new was just seen."""
    pid = worker_pid(project)
    if seen.killed and not seen.restarted and pid not in (0, seen.killed):
        seen.restarted, seen.restart_seconds = pid, time.monotonic() - seen.killed_at
        say(f"a new worker, process {pid}, goes on with the run {seen.restart_seconds:.1f} s after the kill")


async def approve_as_another_service(project: Path, run_id: str) -> None:
    """A connection of its own, as from another program: it looks at what is asked, and approves exactly that."""
    async with await Client.connect(directory=project) as service:
        run = service.run(run_id)
        approval = await run.next_approval(timeout=timedelta(seconds=30))
        say(f"asks: may it call [bold]{approval.tool}[/] ({approval.effect}) with {escape(approval.preview)}")
        state = await run.approve(approval, by="maria@ops", comment="Yes, that is what broke.")
        say(f"{state.approval.status} by {state.approval.decided_by}, bound to {approval.digest[:16]}…")


def check(project: Path, steps: list[StepRecord], result: RunResult, seen: Seen) -> None:
    """Compare what happened with what was promised.

    Raises:
        BrokenPromise: Names the promise.
    """
    call = next((step for step in steps if step.name == "open_ticket" and step.kind == "tool_call"), None)
    read = next((step for step in steps if step.name == "read_log"), None)
    if result.status != "completed":
        raise BrokenPromise(f"the run ended {result.status}: {result.reason} {result.message or ''}")
    if not seen.restarted:
        raise BrokenPromise("the worker that was killed was not replaced")
    if read is None or read.attempts != 1:
        raise BrokenPromise("the log was read again, though that step was settled before the kill")
    if call is None or call.key is None or call.status != "completed":
        raise BrokenPromise("the ticket was not opened")
    show_ticket(project, call.key)


def show_ticket(project: Path, key: str) -> None:
    """Ask the ticket book itself, past the engine."""
    with closing(sqlite3.connect(f"file:{project / 'tickets.db'}?mode=ro", uri=True)) as book:
        rows = book.execute("SELECT number, title, evidence, severity FROM tickets").fetchall()
        same_key = book.execute("SELECT count(*) FROM tickets WHERE key = ?", (key,)).fetchone()[0]
    for number, title, evidence, severity in rows:
        console.print(f"\n[bold]Ticket {number}[/] ({severity}): {escape(title)}")
        console.print(escape("\n".join(f"    {line}" for line in evidence.splitlines())))
    console.print(f"\nThe key of the call is {key}.")
    console.print(f"Tickets with this key: [bold]{same_key}[/]; tickets in the book: [bold]{len(rows)}[/].")
    if (same_key, len(rows)) != (1, 1):
        raise BrokenPromise("there is not exactly one ticket")


# ---- showing


def say(text: str) -> None:
    """One line of the story."""
    console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {text}", soft_wrap=True)


def show_step(step: StepRecord, seen: Seen) -> None:
    """One line for a step that began or settled; the same news only once."""
    news = (step.number, step.status, step.attempts)
    if news not in seen.lines:
        seen.lines.add(news)
        again = f", attempt {step.attempts}" if step.attempts > 1 else ""
        say(f"step {step.number}: {step.kind.replace('_', ' ')} [bold]{escape(short(step))}[/] {step.status}{again}")


def show_evidence(steps: list[StepRecord], result: RunResult) -> None:
    """Every step, as the ledger has it."""
    console.print(f"\n[bold]Evidence of {result.run}: {result.status}[/]")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "kind", "name", "status"):
        table.add_column(column, no_wrap=True)
    for column in ("attempts", "duration", "tokens"):
        table.add_column(column, justify="right", no_wrap=True)
    for step in steps:
        tokens = f"{step.input_tokens} + {step.output_tokens}" if step.kind == "model_call" else ""
        table.add_row(
            str(step.number), step.kind, short(step), step.status, str(step.attempts or ""), duration(step), tokens
        )
    console.print(table)


def short(step: StepRecord) -> str:
    """A tool's name, or the model's without the file that it reads."""
    return step.name.partition(":")[0]


def duration(step: StepRecord) -> str:
    """How long a step took; of an approval, how long it waited."""
    if step.claimed_at is None or step.settled_at is None:
        return ""
    return f"{(step.settled_at - step.claimed_at).total_seconds():.2f} s"


def show_log(project: Path) -> None:
    """The ends of the stack's logs, where the reason is."""
    for log in (project / "stack.log", *sorted((project / ".horarium" / "logs").glob("*.log"))):
        if log.exists():
            console.print(f"[dim]The end of {log.name}:[/]")
            console.print(escape("\n".join(log.read_text("utf-8", errors="replace").splitlines()[-12:])))


# ---- the stack


@contextmanager
def project_copy(*, keep: bool) -> Iterator[Path]:
    """A copy of this project with nothing in it of an earlier time."""
    directory = Path(tempfile.mkdtemp(prefix="horarium-demo-"))
    project = directory / PROJECT.name
    shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns(".horarium", "__pycache__", "*.db*", "*.log.*"))
    try:
        yield project
    finally:
        if keep:
            console.print(f"Kept: {project} (look at it with: cd {project} && horarium up)")
        else:
            shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def stack(project: Path) -> AsyncIterator[None]:
    """`horarium up` as a child process, ready when the block begins and gone when it ends."""
    began = time.monotonic()
    up = start_stack(project)
    try:
        with console.status("the stack starts …"):
            await until_ready(project, up)
        say(f"the stack is up after {time.monotonic() - began:.1f} s: server, worker and health, all on loopback")
        yield
    finally:
        up.send_signal(signal.SIGINT)
        try:
            await asyncio.to_thread(up.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(up.pid, signal.SIGKILL)
            up.wait()
    if up.returncode != 0:
        raise BrokenPromise(f"`horarium up` ended with {up.returncode} after Ctrl-C")


def start_stack(project: Path) -> subprocess.Popen[bytes]:
    """Start it, with what it says in a file."""
    with (project / "stack.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "horarium", "up"],
            cwd=project,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


async def until_ready(project: Path, up: subprocess.Popen[bytes]) -> None:
    """Wait until the stack's health endpoint says that all of it serves."""
    async with asyncio.timeout(START_SECONDS):
        while not await asyncio.to_thread(is_ready, project):
            if up.poll() is not None:
                raise BrokenPromise(f"`horarium up` ended at once, with {up.returncode}")
            await asyncio.sleep(LOOK_SECONDS)


def is_ready(project: Path) -> bool:
    """Ask once."""
    try:
        with urlopen(f"{stack_facts(project)['health']}/readyz", timeout=5) as answer:  # noqa: S310 - our own, on loopback
            return bool(answer.status == 200)
    except (OSError, ValueError, KeyError):
        return False


def worker_pid(project: Path) -> int:
    """The worker's process id; 0 while there is none."""
    try:
        return int(stack_facts(project)["worker"]["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def stack_facts(project: Path) -> dict[str, Any]:
    """What `horarium up` has written down of itself."""
    facts: dict[str, Any] = json.loads((project / ".horarium" / "stack.json").read_text("utf-8"))
    return facts


if __name__ == "__main__":
    leave(main())
