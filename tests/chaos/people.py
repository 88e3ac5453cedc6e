"""The people of the chaos: they decide what is in the inbox, in every way that people do.

By update and by signal, two at once, two at once who want the opposite, with changed arguments, late, and once
more when it is long decided. An outcome that nobody knows they settle by looking into the book. Whatever they are
answered is kept: two people may never be told that each of them won.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Literal

from sqlalchemy.exc import SQLAlchemyError
from temporalio.client import WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError

from horarium.client import Client
from horarium.contract import SIGNAL_APPROVE, SIGNAL_RESOLVE, Decision, Resolution, ResolutionVerdict
from horarium.errors import Conflict, HorariumError, Unreachable
from horarium.ids import step_id
from horarium.ledger.approvals import ApprovalRecord
from tests.chaos.book import EDITED, Book

CALL_SECONDS = 8.0  # for one question to the stack, which may be dead just now
LOOK_EVERY = 0.1
SAID_AND_DONE = 1.0  # seconds until a person who looks again wonders why it still waits
AWAY = (Unreachable, RPCError, WorkflowUpdateRPCTimeoutOrCancelledError, TimeoutError, OSError, SQLAlchemyError)

Verdict = Literal["approve", "reject"]
Work = Callable[[], Coroutine[Any, Any, None]]
OPPOSITE: dict[str, Verdict] = {"approved": "reject", "rejected": "approve"}
SAME: dict[str, Verdict] = {"approved": "approve", "rejected": "reject"}


class People:
    """Everybody who works through the inbox. `kills`: how many there were; None when there are no more."""

    def __init__(self, client: Client, book: Book, seed: int, kills: Callable[[], int | None]) -> None:
        self._client = client
        self._book = book
        self._dice = random.Random(seed)
        self._kills = kills
        self._due: dict[str, int] = {}
        self._busy: set[str] = set()
        self._later: list[tuple[int, Work]] = []
        self.ways: Counter[str] = Counter()
        self.answers: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        self.wrong: list[str] = []

    async def work(self, over: asyncio.Event) -> None:
        """Until it is over."""
        async with asyncio.TaskGroup() as tasks:
            while not over.is_set():
                for row in await self._inbox():
                    self._busy.add(row.id)
                    tasks.create_task(self._answer(row))
                for work in self._now_late():
                    tasks.create_task(self._bounded(work))
                await asyncio.sleep(LOOK_EVERY)

    async def _inbox(self) -> list[ApprovalRecord]:
        try:
            pending = await self._client.approvals(limit=500)
        except AWAY:
            return []
        return [row for row in pending if row.id not in self._busy and self._is_due(row.id)]

    def _is_due(self, question: str) -> bool:
        """Some questions lie there until one more worker was killed."""
        kills = self._kills()
        if kills is None:
            return True
        if question not in self._due:
            late = self._dice.random() < 0.2
            self._due[question] = kills + late
            self.ways["later than a kill"] += late
        return kills >= self._due[question]

    def _now_late(self) -> list[Work]:
        kills = self._kills()
        due = [at for at, _ in self._later if kills is None or kills >= at]
        now, self._later = self._later[: len(due)], self._later[len(due) :]  # in order: kills are only added
        return [work for _, work in now]

    async def _answer(self, row: ApprovalRecord) -> None:
        await self._bounded(partial(self._decide if row.kind == "approval" else self._settle, row))
        await asyncio.sleep(SAID_AND_DONE)
        self._busy.discard(row.id)

    async def _bounded(self, work: Work) -> None:
        """For a while; what fails now is met again when the inbox is looked at next."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await work()
        except AWAY:
            self.ways["nobody there"] += 1
        except HorariumError as error:
            self.ways[f"refused: {error.code}"] += 1

    # ---- approvals

    async def _decide(self, row: ApprovalRecord) -> None:
        way = self._dice.random()
        if way < 0.2:
            await self._signal(row, "signaller")
        elif way < 0.35:
            await _at_once(self._say(row, "approve", "first"), self._say(row, "approve", "second"))
        elif way < 0.5:
            await _at_once(self._say(row, "reject", "no-sayer"), self._say(row, "approve", "yes-sayer"))
        elif way < 0.6:
            await self._say(row, "approve", "editor", edit=True)
        elif way < 0.65:
            await _at_once(self._say(row, "approve", "editor", edit=True), self._say(row, "approve", "other"))
        elif way < 0.7:
            await self._signal(row, "editor", edit=True)
        else:
            await self._say(row, "approve", "approver")

    async def _say(self, row: ApprovalRecord, verdict: Verdict, by: str, *, edit: bool = False) -> None:
        decision = self._decision(row, verdict, by, edit=edit)
        self.ways[f"{verdict} by update" + (", edited" if edit else "")] += 1
        try:
            state = await self._client.decide(row.run_id, decision)
        except Conflict as error:
            self.ways[f"refused: {error.code}"] += 1
            return
        self.answers[row.id].add((state.approval.status, state.approval.digest))
        if self._dice.random() < 0.3:
            self._in_a_kill(partial(self._say_late, row, state.approval.status))

    async def _signal(self, row: ApprovalRecord, by: str, *, edit: bool = False) -> None:
        decision = self._decision(row, "approve", by, edit=edit)
        self.ways["approve by signal" + (", edited" if edit else "")] += 1
        await self._client.temporal.get_workflow_handle(row.run_id).signal(SIGNAL_APPROVE, decision)

    async def _say_late(self, row: ApprovalRecord, status: str) -> None:
        """What is decided stays decided: the same again changes nothing, the opposite is refused."""
        contradicts = self._dice.random() < 0.5
        verdict = OPPOSITE[status] if contradicts else SAME[status]
        self.ways["once more, " + ("the opposite" if contradicts else "the same")] += 1
        decision = Decision(approval=row.id, digest=row.digest, by="latecomer", verdict=verdict)
        try:
            state = await self._client.decide(row.run_id, decision)
        except Conflict:
            return  # names who decided, or the run has ended
        if contradicts or not state.repeated or state.approval.status != status:
            self.wrong.append(f"{row.id} was {status}; a late {verdict} made it {state.approval.status}")

    def _decision(self, row: ApprovalRecord, verdict: Verdict, by: str, *, edit: bool) -> Decision:
        ref = json.loads(row.arguments)["ref"]
        if edit:
            ref += f"{EDITED}{by}"
        if verdict == "approve":
            self._book.approving(step_id(row.run_id, row.guards), ref)
        arguments = {"ref": ref} if edit else None
        return Decision(approval=row.id, digest=row.digest, by=by, verdict=verdict, arguments=arguments)

    # ---- what nobody knows

    async def _settle(self, row: ApprovalRecord) -> None:
        step = step_id(row.run_id, row.guards)
        receipt = self._book.happened(step)
        verdict: ResolutionVerdict = "retry" if receipt is None else "supply"
        way = self._dice.random()
        if way < 0.3:
            said = Resolution(step=step, question=row.id, verdict=verdict, by="signaller", output=receipt)
            await self._client.temporal.get_workflow_handle(row.run_id).signal(SIGNAL_RESOLVE, said)
        elif way < 0.6:
            await _at_once(*(self._resolve(row, verdict, by, receipt) for by in ("first", "second")))
        else:
            await self._resolve(row, verdict, "resolver", receipt)

    async def _resolve(self, row: ApprovalRecord, verdict: ResolutionVerdict, by: str, receipt: str | None) -> None:
        run, step = self._client.run(row.run_id), step_id(row.run_id, row.guards)
        try:
            await run.resolve(step, verdict, by=by, output=receipt, question=row.id)
        except Conflict as error:
            self.ways[f"refused: {error.code}"] += 1  # settled before, by a word whose answer was lost
            return
        if self._dice.random() < 0.5:
            self._in_a_kill(partial(self._resolve_late, row, verdict, receipt))

    async def _resolve_late(self, row: ApprovalRecord, verdict: ResolutionVerdict, receipt: str | None) -> None:
        """A word on a question that is settled does nothing, whatever the step does meanwhile."""
        self.ways["resolved once more"] += 1
        run, step = self._client.run(row.run_id), step_id(row.run_id, row.guards)
        try:
            state = await run.resolve(step, verdict, by="latecomer", output=receipt, question=row.id)
        except Conflict:
            return
        if not state.repeated:
            self.wrong.append(f"{row.id} was settled; a late {verdict} was taken once more")

    def _in_a_kill(self, work: Work) -> None:
        self._later.append(((self._kills() or 0) + 1, work))


async def _at_once(*works: Coroutine[Any, Any, None]) -> None:
    for problem in await asyncio.gather(*works, return_exceptions=True):
        if problem is not None:
            raise problem
