"""Watchers of runs: however many watch one run, the ledger is looked at once for all of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated, Any

import structlog
from fastapi import Depends, Request
from sqlalchemy.exc import DBAPIError

from horarium.errors import HorariumError
from horarium.gateway.standing import Onlooker, Standing
from horarium.gateway.story import Story, Told
from horarium.ledger.api_keys import ApiKeys
from horarium.ledger.approvals import ApprovalRecord, Approvals
from horarium.ledger.database import Ledger
from horarium.ledger.journal import StepRecord
from horarium.ledger.looking import Look, Looking
from horarium.ledger.runs import RunRecord

log = structlog.get_logger()

LOOK_EVERY, LOOK_RARELY = 0.2, 0.5  # seconds
QUIET_LOOKS = 50  # without news, after which it is looked at rarely
MOST_WATCHERS, MOST_OF_ONE = 1_000, 500  # of the connections that the server takes, some are left for others
MOST_WAITING = 200  # looks that a slow watcher may be behind; then it reads the ledger by itself
MOST_AGAIN = 20  # steps that are looked at again: the latest that a person may have done again


class TooManyWatchers(HorariumError):
    """More streams at once than there may be; try again when others have ended."""

    code = "too_many_watchers"


@dataclass(frozen=True, slots=True)
class Seen:
    """A look at a run, and the questions that it has open."""

    look: Look
    questions: tuple[ApprovalRecord, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """What the model has written since the last look. `offset`: where in its text so far; smaller than before: anew."""

    step: StepRecord
    offset: int
    delta: str


@dataclass(frozen=True, slots=True)
class News:
    """What a watcher is told: an event of the story, or text. `run` and `questions`: as they are now."""

    run: RunRecord
    questions: tuple[ApprovalRecord, ...]
    what: Told | Text


@dataclass(slots=True, eq=False)
class _Watcher:
    waiting: deque[Seen] = field(default_factory=deque)
    behind: bool = False
    change: int = 0
    dismissed: bool = False
    bell: asyncio.Event = field(default_factory=asyncio.Event)

    def give(self, seen: Seen, change: int) -> None:
        self.change = change
        if len(self.waiting) >= MOST_WAITING:
            self.waiting.clear()
            self.behind = True
        self.waiting.append(seen)
        self.bell.set()

    def dismiss(self) -> None:
        self.dismissed = True
        self.bell.set()


class Watches:
    """All watchers of one process. `leaving`: says that it shuts down, and its streams end."""

    def __init__(self, ledger: Ledger, leaving: Callable[[], bool]) -> None:
        self._looking = Looking(ledger)
        self._approvals = Approvals(ledger)
        self._standing = Standing(ApiKeys(ledger))
        self._changes = count()
        self._leaving = leaving
        self._runs: dict[str, _Watched] = {}
        self._of: Counter[str] = Counter()

    def check_room(self, who: Onlooker) -> None:
        """Raises `TooManyWatchers`."""
        if self._of.total() >= MOST_WATCHERS or self._of[_one(who)] >= MOST_OF_ONE:
            raise TooManyWatchers("There are as many watchers as there may be.", hint="Try again later.")

    async def watch(self, run_id: str, story: Story, who: Onlooker, silence: float) -> AsyncGenerator[News | None]:
        """What happens to a run from a place of its story on, to its end; None when nothing did for `silence` seconds.

        Ends early when the process leaves, or who watches may not any more.

        Raises:
            RunNotFound: There is none.
            DBAPIError, OSError: The ledger does not answer.
        """
        texts: dict[int, str] = {}
        async with self._present(run_id, who) as watcher:
            watcher.behind = True
            while not story.ended and not self._over(watcher):
                if watcher.behind:
                    watcher.behind = False
                    watcher.waiting.clear()  # the ledger is read after they were
                    async for seen in self._catching_up(run_id, story):
                        for news in _news(seen, story, texts):
                            yield news
                    continue
                if not watcher.waiting and not await _rings(watcher, silence):
                    yield None
                while watcher.waiting and not watcher.behind:
                    for news in _news(watcher.waiting.popleft(), story, texts):
                        yield news

    async def changes(self, run_id: str, who: Onlooker, silence: float) -> AsyncGenerator[int | None]:
        """A number at once, and a greater one whenever a run has changed: the same for all who are told of a change.

        None, and the end, are as `watch` has them; when a run has ended, whoever listens has to know.
        """
        async with self._present(run_id, who) as watcher:
            yield self.next_change()
            while not self._over(watcher):
                rang = bool(watcher.waiting) or await _rings(watcher, silence)
                watcher.waiting.clear()
                if not self._over(watcher):
                    yield watcher.change if rang else None

    @asynccontextmanager
    async def _present(self, run_id: str, who: Onlooker) -> AsyncIterator[_Watcher]:
        """A watcher that hears of every change from here on, so that nothing falls between."""
        one = _one(who)
        self._of[one] += 1
        if run_id not in self._runs:
            self._runs[run_id] = _Watched(run_id, self)
        watched = self._runs[run_id]
        watcher = _Watcher()
        watched.watchers.add(watcher)
        try:
            await watched.begun()
            with self._standing.of(who, watcher.dismiss):
                yield watcher
        finally:
            self._of[one] -= 1
            if not self._of[one]:
                del self._of[one]
            watched.watchers.discard(watcher)
            if not watched.watchers:
                if self._runs.get(run_id) is watched:
                    del self._runs[run_id]
                watched.stop()

    def _over(self, watcher: _Watcher) -> bool:
        return watcher.dismissed or self._leaving()

    async def _catching_up(self, run_id: str, story: Story) -> AsyncIterator[Seen]:
        again = [n for n in await self._looking.unsettled_for_good(run_id) if n <= story.steps]
        after = story.steps
        while True:
            look = await self._looking.look(run_id, status=story.status, step=after, again=again)
            yield await self.seen(look)
            if look.is_whole:
                return
            after, again = look.steps[-1].number, []

    async def seen(self, look: Look) -> Seen:
        """A look, with the questions that are open where there may be some."""
        asks = look.run.status == "requires_action" or any(step.kind == "approval" for step in look.steps)
        if look.run.closed_at is not None or not asks:
            return Seen(look, ())
        open_ones = [item for item in await self._approvals.of_run(look.run.id) if item.status == "pending"]
        return Seen(look, tuple(open_ones))

    def next_change(self) -> int:
        """A number for a change of any run, greater than all before."""
        return next(self._changes)

    @property
    def looking(self) -> Looking:
        """How it looks."""
        return self._looking

    @property
    def is_leaving(self) -> bool:
        """Whether the process shuts down."""
        return self._leaving()


class _Watched:
    """One run that is watched."""

    def __init__(self, run_id: str, watches: Watches) -> None:
        self.watchers: set[_Watcher] = set()
        self._run = run_id
        self._watches = watches
        self._story = Story()
        self._again: list[int] = []
        self._last: Look | None = None
        self._beginning = asyncio.create_task(self._begin())
        self._task: asyncio.Task[None] | None = None

    async def begun(self) -> None:
        """Wait until changes are noticed."""
        await asyncio.shield(self._beginning)

    async def _begin(self) -> None:
        looking = self._watches.looking
        self._again = (await looking.unsettled_for_good(self._run))[-MOST_AGAIN:]
        after = 0
        while True:
            look = await self._look(after)
            for _ in self._story.goes_on(look):
                pass
            if look.is_whole:
                break
            after = look.steps[-1].number
        self._task = asyncio.create_task(self._keep_looking())

    def stop(self) -> None:
        """Nobody watches any more."""
        self._beginning.cancel()
        if self._task is not None:
            self._task.cancel()

    async def _look(self, after: int) -> Look:
        again = [number for number in self._again if number <= after]
        return await self._watches.looking.look(self._run, status=self._story.status, step=after, again=again)

    async def _keep_looking(self) -> None:
        quiet = 0
        while True:
            await asyncio.sleep(LOOK_EVERY if quiet < QUIET_LOOKS else LOOK_RARELY)
            if self._watches.is_leaving:
                for watcher in self.watchers:
                    watcher.bell.set()
            with contextlib.suppress(DBAPIError, OSError):  # it comes back; the watchers have their heartbeat
                look = await self._look(self._story.steps)
                if look == self._last:
                    quiet += 1
                    continue
                quiet, self._last = 0, look
                seen = await self._watches.seen(look)
                change = self._watches.next_change()
                for watcher in self.watchers:
                    watcher.give(seen, change)
                for _ in self._story.goes_on(look):
                    pass
                doubtful = {s.number for s in look.steps if s.permit or s.status in ("failed", "unknown")}
                self._again = sorted({*self._again, *doubtful})[-MOST_AGAIN:]


def _one(who: Onlooker) -> str:
    return who.key or who.tenant


async def _rings(watcher: _Watcher, silence: float) -> bool:
    watcher.bell.clear()
    try:
        await asyncio.wait_for(watcher.bell.wait(), silence)
    except TimeoutError:
        return False
    return True


def _news(seen: Seen, story: Story, texts: dict[int, str]) -> list[News]:
    told: list[Told | Text] = list(story.goes_on(seen.look))
    for step in seen.look.steps:
        if not step.partial:
            texts.pop(step.number, None)
            continue
        before = texts.get(step.number, "")
        if not before.startswith(step.partial):
            offset = len(before) if step.partial.startswith(before) else 0
            texts[step.number] = step.partial
            told.append(Text(step, offset, step.partial[offset:]))
    return [News(seen.look.run, seen.questions, what) for what in told]


def watches_of(request: Request) -> Watches:
    """One for the process, made when it is first needed."""
    state: Any = request.app.state
    if not hasattr(state, "watches"):
        state.watches = Watches(state.client.require_ledger(), lambda: bool(state.calls.leaving))
    watches: Watches = state.watches
    return watches


TheWatches = Annotated[Watches, Depends(watches_of)]
