"""`python -m bench load`: two hundred people watch while a hundred runs a second are started over HTTP.

On a stack of its own, with a gateway of its own process. What is judged is what must hold on any machine: every run
that was accepted completes, every watcher was told everything of the runs that it watched, and the gateway's memory
does not grow with what passed through it. How fast that goes is only shown; it is the machine's, and this client runs
beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import random
import shutil
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from typing import Any

import httpx2
from rich.console import Console
from sqlalchemy import func, select

from bench.report import Report, Row, table
from horarium.ledger.schema import runs, steps
from tests.support.stack import Stack, running_stack, scratch, until
from workers.server import free_port

WATCHERS, RATE, SECONDS = 200, 100.0, 30.0
LONGEST = 900.0  # seconds, until every run has ended
ANSWER = 30.0  # seconds, for one answer
AT_ONCE = 200  # starts that are on their way
EVERY = 0.5  # seconds between two looks at the memory
PAGE_KIB = 4

AGENT = "name: clerk\nmodel: scripted:scripts/clerk.yaml\n"
SCRIPT = json.dumps([{"text": "Done."}])


@dataclass
class Load:
    """What happened. Times are seconds."""

    accepted: list[str] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    watched: dict[str, set[tuple[str, Any]]] = field(default_factory=dict)
    memory: list[tuple[float, float]] = field(default_factory=list)  # seconds since the start, MiB
    lost: int = 0
    untold: int = 0
    drained: float = 0.0

    def rows(self, seconds: float) -> list[Row]:
        """For the table."""
        rows = [
            _row("starts that were accepted", "runs", len(self.accepted)),
            _row("starts a second", "runs/s", len(self.accepted) / seconds),
            _row("starts that were refused", "of them", len(self.refused), bar=0),
            _row("accepted runs that did not complete", "of them", self.lost, bar=0),
            _row("runs that were watched to their end", "runs", len(self.watched)),
            _row("watched runs of which something was not told", "of them", self.untold, bar=0),
            _row("first start → all runs have ended", "s", self.drained),
        ]
        for what, figures in (("start → accepted", self.answers), ("event → watcher", self.delays)):
            if figures:
                ordered = sorted(figures)
                rows.append(_row(f"{what}, median", "ms", 1000 * median(ordered)))
                rows.append(_row(f"{what}, p99", "ms", 1000 * ordered[math.ceil(len(ordered) * 0.99) - 1]))
        third = len(self.memory) // 3
        if third:
            first, last = (
                mean(mib for _, mib in part) for part in (self.memory[third : 2 * third], self.memory[-third:])
            )
            rows.append(_row("gateway's memory, middle third", "MiB", first))
            rows.append(
                Row(
                    part="load",
                    measure="gateway's memory, last third",
                    unit="MiB",
                    horarium=last,
                    against="middle third",
                    other=first,
                    bar=1.1,
                )
            )
        return rows


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 when a run or an event was lost, a start was refused, or the memory grew."""
    parser = argparse.ArgumentParser(prog="python -m bench load", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--watchers", type=int, default=WATCHERS, metavar="N", help="Default: 200.")
    parser.add_argument("--rate", type=float, default=RATE, metavar="N", help="Starts a second. Default: 100.")
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="N", help="Default: 30.")
    parser.add_argument("--out", type=Path, help="JSON file. Default: none.")
    chosen = parser.parse_args(arguments)
    console, directory = Console(), scratch()
    try:
        with console.status("starting runs, watching them, letting them end"):
            measured = asyncio.run(load(directory, chosen.watchers, chosen.rate, chosen.seconds))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    report = Report.of(measured.rows(chosen.seconds), quick=False)
    if chosen.out:
        report.write(chosen.out)
    console.print(table(report))
    for reason in sorted(set(measured.refused))[:5]:
        console.print(f"refused: {reason}", markup=False)
    return 1 if any(row.met is False for row in report.rows) else 0


async def load(directory: Path, watchers: int, rate: float, seconds: float) -> Load:
    """Start runs at this rate for so long, with so many watchers; then let all of them end."""
    async with (
        running_stack(directory, agents={"clerk": AGENT}, scripts={"clerk.yaml": SCRIPT}) as stack,
        served(stack) as (process, http),
    ):
        told = Load()
        began = time.monotonic()
        over = asyncio.Event()
        watching = [asyncio.create_task(_watch(http, told, over, number)) for number in range(watchers)]
        looking = asyncio.create_task(_look_at_memory(process, told, began, over))
        await _start(http, told, rate, seconds)
        await _until_all_ended(stack, told, began)
        over.set()
        await asyncio.gather(*watching)
        await looking
        await _count(stack, told)
        return told


@contextlib.asynccontextmanager
async def served(stack: Stack) -> AsyncIterator[tuple[int, httpx2.AsyncClient]]:
    """The gateway as a process of its own: its id, and a client that reaches it."""
    port = free_port()
    process = stack.spawn([sys.executable, "-m", "horarium", "gateway", "--port", str(port)], "gateway")
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=ANSWER, limits=limits) as http:

        async def answers() -> bool:
            with contextlib.suppress(httpx2.HTTPError):
                return (await http.get("/v1/agents")).is_success
            return False

        try:
            await until(answers, "the gateway answers", process)
            yield process.pid, http
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, ANSWER)


async def _start(http: httpx2.AsyncClient, told: Load, rate: float, seconds: float) -> None:
    """Open loop: the next start does not wait for the answer to the last."""
    room = asyncio.Semaphore(AT_ONCE)
    began = time.monotonic()

    async def one(number: int) -> None:
        async with room:
            asked = time.monotonic()
            try:
                answer = await http.post(
                    "/v1/runs",
                    json={"agent": "clerk", "input": f"Number {number}."},
                    headers={"Idempotency-Key": f"load-{number}"},
                )
            except httpx2.HTTPError as error:
                told.refused.append(type(error).__name__)
                return
            if answer.status_code != 201:
                told.refused.append(f"{answer.status_code} {answer.text[:200]}")
                return
            told.answers.append(time.monotonic() - asked)
            told.accepted.append(answer.json()["id"])

    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            group.create_task(one(number))


async def _watch(http: httpx2.AsyncClient, told: Load, over: asyncio.Event, number: int) -> None:
    """Follow one run after the other to its end, each time one that was accepted just now."""
    dice = random.Random(number)
    while not over.is_set():
        fresh = [run for run in told.accepted[-2 * WATCHERS :] if run not in told.watched]
        if not fresh:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.2)
            continue
        run = dice.choice(fresh)
        told.watched[run] = set()
        await _follow(http, told, run)


async def _follow(http: httpx2.AsyncClient, told: Load, run: str) -> None:
    """To the end, over as many connections as it takes."""
    last: str | None = None
    while True:
        since = datetime.now(UTC)
        headers = {"Last-Event-ID": last} if last is not None else {}
        with contextlib.suppress(httpx2.HTTPError):
            async with http.stream("GET", f"/v1/runs/{run}/events", headers=headers, timeout=LONGEST) as stream:
                async for kind, identity, data in _events(stream):
                    last = identity or last
                    told.watched[run].add((kind, data["step"]["number"] if "step" in data else data.get("status")))
                    at = _at(kind, data)
                    if at is not None and at > since:
                        told.delays.append((datetime.now(UTC) - at).total_seconds())
                    if kind == "end":
                        return


async def _events(stream: httpx2.Response) -> AsyncIterator[tuple[str, str | None, dict[str, Any]]]:
    fields: dict[str, str] = {}
    async for line in stream.aiter_lines():
        name, _, value = line.partition(": ")
        if line and name:
            fields[name] = value
        elif not line:
            if fields.get("event", "text") != "text":
                yield fields["event"], fields.get("id"), json.loads(fields["data"])
            fields = {}


def _at(kind: str, data: dict[str, Any]) -> datetime | None:
    """When what an event tells happened, by the ledger."""
    said = {
        "status": data.get("at"),
        "step.begun": data.get("step", {}).get("claimed_at"),
        "step.settled": data.get("step", {}).get("settled_at"),
        "end": data.get("closed_at"),
    }.get(kind)
    return datetime.fromisoformat(said) if said else None


async def _look_at_memory(process: int, told: Load, began: float, over: asyncio.Event) -> None:
    file = Path(f"/proc/{process}/statm")
    while not over.is_set():
        pages = int(file.read_text("ascii").split()[1])
        told.memory.append((time.monotonic() - began, pages * PAGE_KIB / 1024))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), EVERY)


async def _until_all_ended(stack: Stack, told: Load, began: float) -> None:
    query = select(func.count()).where(runs.c.closed_at.is_not(None))
    while time.monotonic() - began < LONGEST:
        async with stack.client.require_ledger().read() as connection:
            if (await connection.scalar(query) or 0) >= len(told.accepted):
                break
        await asyncio.sleep(EVERY)
    told.drained = time.monotonic() - began


async def _count(stack: Stack, told: Load) -> None:
    """Compare with the ledger: nothing else knows what there was to tell."""
    async with stack.client.require_ledger().read() as connection:
        done = set(await connection.scalars(select(runs.c.id).where(runs.c.status == "completed")))
        settled: dict[str, set[int]] = {}
        for run, number in await connection.execute(select(steps.c.run_id, steps.c.number)):
            settled.setdefault(run, set()).add(number)
    told.lost = len(set(told.accepted) - done)
    told.untold = sum(
        1
        for run, events in told.watched.items()
        if ("end", "completed") not in events
        or not {("step.settled", number) for number in settled.get(run, ())} <= events
    )


def _row(measure: str, unit: str, figure: float, bar: float | None = None) -> Row:
    return Row(part="load", measure=measure, unit=unit, horarium=figure, judged="value", bar=bar)
