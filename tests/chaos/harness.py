"""Runs in flight, and somebody who pulls plugs.

About twenty runs are kept going while processes are killed with SIGKILL at random points and started again at
once, and people work through the inbox from a connection of their own. Every wait ends.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from horarium.client import Client, Run
from horarium.contract import OPEN_STATUSES
from horarium.definition import Execution
from horarium.errors import HorariumError
from tests.chaos.book import Book
from tests.chaos.counting import Evidence, Findings, count
from tests.chaos.people import AWAY, CALL_SECONDS, People
from tests.support.stack import Role, Stack, running_stack
from workers.server import free_port

Target = Literal["engine", "tools", "server"]

IN_FLIGHT = 20
# Seconds after what was killed last serves again; everybody comes back to a server a little later than to a worker.
KILL_WITHIN: dict[Target, float] = {"engine": 2.5, "tools": 2.5, "server": 5.0}
DRAIN_SECONDS = 120.0  # for what is in flight after the last kill

MCP_PREFIX = "book__"
Effects = tuple[tuple[str, str], ...]
Plans = dict[str, tuple[Effects, ...]]
PLANS: Plans = {
    "parallel": ((("post", "a"), ("pay", "b"), ("put", "c")), (("look", "d"), ("post", "e")), (("pay", "f"),)),
    "one-by-one": ((("look", "a"),), (("post", "b"),), (("put", "c"),), (("pay", "d"),), (("post", "e"),)),
    "posts": ((("post", "a"), ("post", "b")), (("post", "c"), ("look", "d")), (("put", "e"), ("post", "f"))),
    "pays": ((("pay", "a"), ("pay", "b")), (("put", "c"), ("put", "d")), (("pay", "e"), ("look", "f"))),
}


@dataclass(slots=True)
class Outcome:
    """What came of it all."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    ways: Counter[str] = field(default_factory=Counter)
    unfinished: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    findings: Findings = field(default_factory=Findings)
    seconds: float = 0.0

    @property
    def problems(self) -> list[str]:
        """Everything that breaks a promise, in words; empty when all is well."""
        found = self.findings
        return [
            *(f"done twice: {words}" for words in found.twice),
            *(f"lost: {words}" for words in found.lost),
            *(f"not released: {words}" for words in found.unapproved),
            *(f"guessed: {words}" for words in found.guessed),
            *(f"unknown: {words}" for words in found.unseen),
            *(f"left over: {words}" for words in found.left),
            *(f"decided twice: {words}" for words in found.divided),
            *(f"audit: {words}" for words in found.trail),
            *(f"neither ended nor waiting: {words}" for words in self.unfinished),
            *(f"ended badly: {count} runs {status}" for status, count in self.runs.items() if status != "completed"),
        ]


async def chaos(
    directory: Path,
    *,
    kills: int,
    seed: int,
    targets: tuple[Target, ...] = ("engine",),
    in_flight: int = IN_FLIGHT,
    mcp: bool = False,
    execution: Execution = "steps",
) -> Outcome:
    """Kill `kills` times, each time one of `targets`, with `in_flight` runs going; then let them end, and count.

    `mcp`: the tools are behind an MCP server, which lives on. One of them honours the key, one does not.
    """
    apart = "tools" in targets
    workers: tuple[Role, ...] = ("engine", "tools") if apart else ("engine",)
    port = free_port()
    plans = {name: _behind_mcp(plan) if mcp else plan for name, plan in PLANS.items()}
    async with running_stack(
        directory,
        agents={name: _mcp_agent(name, port) if mcp else _agent(name, plan) for name, plan in plans.items()},
        tools_source=(Path(__file__).parent / "project_tools.py").read_text("utf-8"),
        scripts={f"{name}.yaml": _script(plan, MCP_PREFIX if mcp else "") for name, plan in plans.items()},
        settings=f'[tools]\nprocess = "{"own" if apart else "engine"}"\n[worker]\nexecution = "{execution}"\n',
        workers=workers,
    ) as stack:
        with _mcp_server(stack, port) if mcp else nullcontext():
            return await _Chaos(stack, seed, targets, plans).go(kills, in_flight)


@contextmanager
def _mcp_server(stack: Stack, port: int) -> Iterator[None]:
    server = stack.spawn([sys.executable, "-m", "tests.chaos.mcp_server", str(stack.directory), str(port)], "mcp")
    try:
        yield
    finally:
        server.kill()
        server.wait()


class _Chaos:
    def __init__(self, stack: Stack, seed: int, targets: tuple[Target, ...], plans: Plans) -> None:
        self._stack = stack
        self._plans = plans
        self._random = random.Random(seed)
        self._targets = targets
        self._book = Book(stack.directory / "book.jsonl")
        self._outcome = Outcome(seed)
        self._people: People
        self._started: dict[str, str] = {}
        self._last_kill = asyncio.Event()
        self._over = asyncio.Event()

    async def go(self, kills: int, in_flight: int) -> Outcome:
        began = time.monotonic()
        async with await Client.connect(self._stack.settings) as client, asyncio.TaskGroup() as group:
            self._people = People(client, self._book, self._outcome.seed, self._killed)
            people = group.create_task(self._people.work(self._over))
            seats = [group.create_task(self._seat(number)) for number in range(in_flight)]
            await self._kill(kills)
            self._last_kill.set()
            await asyncio.wait(seats, timeout=DRAIN_SECONDS)
            self._over.set()
            await asyncio.wait([people], timeout=2 * CALL_SECONDS)
            for task in (*seats, people):
                task.cancel()
        await self._count()
        self._outcome.seconds = time.monotonic() - began
        return self._outcome

    def _killed(self) -> int | None:
        """How many times so far; None after the last."""
        return None if self._last_kill.is_set() else self._outcome.kills.total()

    async def _kill(self, kills: int) -> None:
        for _ in range(kills):
            target = self._random.choice(self._targets)
            await asyncio.sleep(self._random.uniform(0, KILL_WITHIN[target]))
            if target == "server":
                self._stack.kill_server()
                await self._stack.start_server()
            else:
                self._stack.kill_worker(target)
                self._stack.start_worker(target)
                await self._stack.worker_ready(target)
            self._outcome.kills[target] += 1

    # ---- runs

    async def _seat(self, number: int) -> None:
        """Keep one run going until the last kill."""
        agents = sorted(PLANS)
        turn = 0
        while not self._last_kill.is_set():
            turn += 1
            agent = agents[(number + turn) % len(agents)]
            run = await self._start(agent, number, turn)
            self._started[run.id] = agent
            while not self._over.is_set() and not await self._ended(run):
                await asyncio.sleep(0.1)

    async def _start(self, agent: str, number: int, turn: int) -> Run:
        key = f"{number}.{turn}"
        hands_over = 4 if number % 3 == 0 else None  # some runs continue as new every few steps
        while True:
            with _patience(self._outcome):
                async with asyncio.timeout(CALL_SECONDS):
                    return await self._stack.client.start(
                        agent, f"Do job {key}.", key=key, continue_as_new_after=hands_over
                    )
            await asyncio.sleep(0.2)

    async def _ended(self, run: Run) -> bool:
        with _patience(self._outcome):
            return (await run.record()).status not in OPEN_STATUSES
        return False

    # ---- counting

    async def _count(self) -> None:
        client, outcome = self._stack.client, self._outcome
        wanted: dict[str, set[tuple[str, str]]] = {}
        for run_id, agent in self._started.items():
            run = client.run(run_id)
            record = await run.record()
            if record.status == "completed":
                wanted[run_id] = {effect for turn in self._plans[agent] for effect in turn if effect[0] != "look"}
            outcome.runs[record.status] += 1
            if record.status in OPEN_STATUSES:
                outcome.unfinished.append(await self._says(run))
        evidence = await Evidence.of(client, list(self._started), self._stack.directory / "logs", MCP_PREFIX)
        outcome.findings = count(self._book.read(), evidence, wanted, self._people.answers)
        outcome.findings.divided += self._people.wrong
        outcome.ways = self._people.ways

    async def _says(self, run: Run) -> str:
        try:
            status = await run.status()
        except HorariumError as error:
            return f"{run.id} does not answer: {error}"
        return f"{run.id} is {status.status}, {[wait.text for wait in status.waiting_for] or 'and waits for nothing'}"


@contextmanager
def _patience(outcome: Outcome) -> Iterator[None]:
    """What is dead just now is asked again later; what refuses for another reason is counted."""
    try:
        yield
    except AWAY:
        outcome.refused["away"] += 1
    except HorariumError as error:
        outcome.refused[error.code] += 1


def _agent(name: str, plan: tuple[Effects, ...]) -> str:
    tools = sorted({tool for turn in plan for tool, _ in turn})
    return f"name: {name}\nmodel: scripted:scripts/{name}.yaml\ntools: {json.dumps(tools)}\n"


def _behind_mcp(plan: tuple[Effects, ...]) -> tuple[Effects, ...]:
    """A server can offer no probe, so what has one is posted."""
    return tuple(tuple(("post" if tool == "pay" else tool, ref) for tool, ref in turn) for turn in plan)


def _mcp_agent(name: str, port: int) -> str:
    server = {"url": f"http://127.0.0.1:{port}/mcp", "effects": {"put": "idempotent", "look": "read"}}
    mcp = json.dumps({MCP_PREFIX.removesuffix("__"): server})
    return f"name: {name}\nmodel: scripted:scripts/{name}.yaml\nmcp: {mcp}\n"


def _script(plan: tuple[Effects, ...], prefix: str) -> str:
    turns: list[dict[str, Any]] = [
        {"calls": [{"name": f"{prefix}{tool}", "arguments": {"ref": ref}} for tool, ref in turn]} for turn in plan
    ]
    return json.dumps([*turns, {"text": "All is done."}])
