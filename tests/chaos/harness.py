"""Runs in flight, and somebody who pulls plugs.

About twenty runs are kept going while processes are killed with SIGKILL at random points and started again at
once. An approver approves what is pending, from a connection of its own and sometimes twice; a resolver
settles unknown outcomes as a person would, by looking into the book. Every wait ends.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlalchemy.exc import SQLAlchemyError
from temporalio.client import WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError

from horarium.client import Client, Run
from horarium.contract import OPEN_STATUSES, SIGNAL_APPROVE, Approval, Decision
from horarium.errors import HorariumError, Unreachable
from horarium.ids import step_id
from horarium.ledger.approvals import ApprovalRecord
from tests.chaos.book import Book, Findings, audit
from tests.support.stack import Role, Stack, running_stack

Target = Literal["engine", "tools", "server"]

IN_FLIGHT = 20
# Seconds after what was killed last serves again; everybody comes back to a server a little later than to a worker.
KILL_WITHIN: dict[Target, float] = {"engine": 2.5, "tools": 2.5, "server": 5.0}
CALL_SECONDS = 8.0  # for one question to the stack, which may be dead just now
DRAIN_SECONDS = 120.0  # for what is in flight after the last kill
AWAY = (Unreachable, RPCError, WorkflowUpdateRPCTimeoutOrCancelledError, TimeoutError, OSError, SQLAlchemyError)

Effects = tuple[tuple[str, str], ...]
PLANS: dict[str, tuple[Effects, ...]] = {
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
    approvals: int = 0
    resolved: Counter[str] = field(default_factory=Counter)
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
            *(f"done before its approval: {words}" for words in found.unapproved),
            *(f"strange: {words}" for words in found.strange),
            *(f"neither ended nor waiting: {words}" for words in self.unfinished),
            *(f"ended badly: {count} runs {status}" for status, count in self.runs.items() if status != "completed"),
        ]


async def chaos(
    directory: Path, *, kills: int, seed: int, targets: tuple[Target, ...] = ("engine",), in_flight: int = IN_FLIGHT
) -> Outcome:
    """Kill `kills` times, each time one of `targets`, with `in_flight` runs going; then let them end, and count."""
    apart = "tools" in targets
    workers: tuple[Role, ...] = ("engine", "tools") if apart else ("engine",)
    async with running_stack(
        directory,
        agents={name: _agent(name, plan) for name, plan in PLANS.items()},
        tools_source=(Path(__file__).parent / "project_tools.py").read_text("utf-8"),
        scripts={f"{name}.yaml": _script(plan) for name, plan in PLANS.items()},
        settings=f'[tools]\nprocess = "{"own" if apart else "engine"}"\n',
        workers=workers,
    ) as stack:
        return await _Chaos(stack, seed, targets).go(kills, in_flight)


class _Chaos:
    def __init__(self, stack: Stack, seed: int, targets: tuple[Target, ...]) -> None:
        self._stack = stack
        self._random = random.Random(seed)
        self._targets = targets
        self._book = Book(stack.directory / "book.jsonl")
        self._outcome = Outcome(seed)
        self._started: dict[str, str] = {}
        self._last_kill = asyncio.Event()
        self._over = asyncio.Event()

    async def go(self, kills: int, in_flight: int) -> Outcome:
        began = time.monotonic()
        async with await Client.connect(self._stack.settings) as people, asyncio.TaskGroup() as group:
            helpers = [group.create_task(self._approve(people)), group.create_task(self._resolve(people))]
            seats = [group.create_task(self._seat(number)) for number in range(in_flight)]
            await self._kill(kills)
            self._last_kill.set()
            await asyncio.wait(seats, timeout=DRAIN_SECONDS)
            self._over.set()
            for task in (*seats, *helpers):
                task.cancel()
        await self._count()
        self._outcome.seconds = time.monotonic() - began
        return self._outcome

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
            run = await self._start(agent, f"{number}.{turn}")
            self._started[run.id] = agent
            while not self._over.is_set() and not await self._ended(run):
                await asyncio.sleep(0.1)

    async def _start(self, agent: str, key: str) -> Run:
        while True:
            with _patience(self._outcome):
                async with asyncio.timeout(CALL_SECONDS):
                    return await self._stack.client.start(agent, f"Do job {key}.", key=key)
            await asyncio.sleep(0.2)

    async def _ended(self, run: Run) -> bool:
        with _patience(self._outcome):
            return (await run.record()).status not in OPEN_STATUSES
        return False

    # ---- people

    async def _approve(self, people: Client) -> None:
        while not self._over.is_set():
            pending: list[ApprovalRecord] = []
            with _patience(self._outcome):
                pending = await people.approvals(limit=500)
            await _bounded(self._decide(people, record) for record in pending)
            await asyncio.sleep(0.1)

    async def _decide(self, people: Client, record: ApprovalRecord) -> None:
        """Approve: by update, by signal, or by two people at the same time."""
        guarded = step_id(record.run_id, record.guards)
        run = people.run(record.run_id)
        shown = Approval(
            id=record.id,
            run=record.run_id,
            step=guarded,
            tool=record.tool,
            effect=record.effect,
            digest=record.digest,
            preview=record.arguments,
            status="pending",
            requested_at=record.requested_at,
        )
        self._book.approving(guarded)
        way = self._random.random()
        if way < 0.25:
            decision = Decision(approval=record.id, digest=record.digest, by="signaller")
            await people.temporal.get_workflow_handle(record.run_id).signal(SIGNAL_APPROVE, decision)
        elif way < 0.5:
            await asyncio.gather(run.approve(shown, by="first"), run.approve(shown, by="second"))
        else:
            await run.approve(shown, by="approver")
        self._outcome.approvals += 1

    async def _resolve(self, people: Client) -> None:
        while not self._over.is_set():
            waiting: list[str] = []
            with _patience(self._outcome):
                waiting = [run.id for run in await people.runs(status=["requires_action"], limit=500)]
            await _bounded(self._look_and_say(people.run(run_id)) for run_id in waiting)
            await asyncio.sleep(0.1)

    async def _look_and_say(self, run: Run) -> None:
        for wait in (await run.status()).waiting_for:
            if wait.kind != "unknown_outcome":
                continue
            entry = self._book.happened(wait.id)
            if entry is None:
                await run.resolve(wait.id, "retry", by="resolver", comment="It is not in the book.")
            else:
                await run.resolve(wait.id, "supply", by="resolver", output=f"{entry.tool} {entry.ref}: done")
            self._outcome.resolved["retry" if entry is None else "supply"] += 1

    # ---- counting

    async def _count(self) -> None:
        client = self._stack.client
        steps, completed = [], []
        for run_id, agent in self._started.items():
            run = client.run(run_id)
            record = await run.record()
            steps += await run.steps()
            if record.status == "completed":
                completed.append((run_id, [effect for turn in PLANS[agent] for effect in turn if effect[0] != "look"]))
            self._outcome.runs[record.status] += 1
            if record.status in OPEN_STATUSES:
                self._outcome.unfinished.append(await self._says(run))
        self._outcome.findings = audit(self._book, steps, completed)

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


async def _bounded(work: Iterator[Coroutine[Any, Any, None]]) -> None:
    """Do all at once, each for a while; what fails now is met again in the next round."""

    async def one(item: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await item
        except (*AWAY, HorariumError, ExceptionGroup):
            return

    await asyncio.gather(*(one(item) for item in work))


def _agent(name: str, plan: tuple[Effects, ...]) -> str:
    tools = sorted({tool for turn in plan for tool, _ in turn})
    return f"name: {name}\nmodel: scripted:scripts/{name}.yaml\ntools: {json.dumps(tools)}\n"


def _script(plan: tuple[Effects, ...]) -> str:
    turns: list[dict[str, Any]] = [
        {"calls": [{"name": tool, "arguments": {"ref": ref}} for tool, ref in turn]} for turn in plan
    ]
    return json.dumps([*turns, {"text": "All is done."}])
