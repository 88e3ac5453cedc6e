"""What would become of a routine's fires, with overlap, clock changes and an outage, before anything is saved.

The rules are those by which `horarium/ledger/ticks.py` lets ticks in; a test drives both through the same sequences.
Jitter is left out, and so are the ticks of other routines.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice
from typing import Literal

from horarium.contract import TickSource
from horarium.ledger.admission import ASKED_FOR, LEAST_CATCH_UP, MOST_WAITING
from horarium.routines import CronTrigger, Routine, tick_id
from schedules.cron import CronLine
from schedules.expected import expected
from schedules.explaining import noted
from schedules.specs import SHORTEST_CATCH_UP, fires, line_of

MOST_FIRES = 2_000  # of one trigger; croniter is asked for each

Fate = Literal["runs", "skipped", "missed", "cancelled"]
Ending = Literal["done", "timeout", "cancelled", "terminated"]
Because = Literal["not_done", "waits_already", "too_many", "too_late"]


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which nobody works: no server, no worker."""

    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        """How long it lasts."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Due:
    """One fire, of all triggers that fire at that second."""

    at: datetime
    triggers: tuple[str, ...]
    note: str = ""


@dataclass(slots=True, eq=False)
class Reckoned:
    """What becomes of one fire."""

    id: str
    due: Due
    source: TickSource = "schedule"
    status: Literal["queued", "running", "closed"] = "queued"
    fate: Fate = "runs"
    because: Because | None = None
    other: datetime | None = None  # the fire whose tick is in the way, or ended it
    narrow: bool = False  # jitter, and what was away, decide whether it is still in time
    asked: bool = False
    opens_at: datetime | None = None
    begins_at: datetime | None = None
    ends_at: datetime | None = None
    ending: Ending = "done"

    @property
    def at(self) -> datetime:
        """Its scheduled time."""
        return self.due.at

    @property
    def order(self) -> tuple[datetime, str]:
        """Who comes first."""
        return self.at, self.id


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a tick begins, waits, or is skipped, and which ones have to end first."""

    decision: Literal["run", "wait", "skip"]
    ends: tuple[Reckoned, ...] = ()


@dataclass(slots=True)
class Line:
    """The ticks of one routine that are not done, let in as the ledger does it."""

    routine: Routine
    open_ticks: list[Reckoned] = field(default_factory=list)

    def open(self, tick: Reckoned, now: datetime) -> Answer:
        """A tick comes."""
        tick.opens_at = now
        if tick.source == "schedule" and now - tick.at > latest(self.routine):
            tick.status, tick.fate, tick.because = "closed", "missed", "too_late"
            return Answer("skip")
        self.open_ticks.append(tick)
        return self.admit(tick, now)

    def admit(self, tick: Reckoned, now: datetime) -> Answer:
        """A tick asks whether it may begin."""
        others = sorted((other for other in self.open_ticks if other is not tick), key=lambda other: other.order)
        running = [other for other in others if other.status == "running"]
        waiting = [other for other in others if other.status == "queued"]
        ahead = [*running, *(other for other in waiting if other.order < tick.order)]
        overlap = "buffer_all" if tick.source in ASKED_FOR else self.routine.overlap
        if not ahead or overlap == "allow_all":
            tick.status, tick.begins_at = "running", now
            return Answer("run")
        fresh, tick.asked = not tick.asked, True
        if fresh and overlap == "skip":
            return self._skip(tick, "not_done", ahead[0])
        if fresh and overlap == "buffer_one" and waiting:
            return self._skip(tick, "waits_already", waiting[0])
        if fresh and overlap == "buffer_all" and len(waiting) >= MOST_WAITING:
            return self._skip(tick, "too_many", waiting[0])
        tick.because, tick.other = "not_done", ahead[0].at
        older = (other for other in others if other.order < tick.order and other.source not in ASKED_FOR)
        return Answer("wait", tuple(older) if overlap in ("cancel_other", "terminate_other") else ())

    def close(self, tick: Reckoned) -> list[Reckoned]:
        """A tick ends; the one that may begin now, if there is one."""
        tick.status = "closed"
        self.open_ticks.remove(tick)
        if any(other.status == "running" for other in self.open_ticks):
            return []
        return sorted((other for other in self.open_ticks if other.status == "queued"), key=lambda other: other.order)[
            :1
        ]

    def _skip(self, tick: Reckoned, because: Because, other: Reckoned) -> Answer:
        self.open_ticks.remove(tick)
        tick.status, tick.fate, tick.because, tick.other = "closed", "skipped", because, other.at
        return Answer("skip")


def latest(routine: Routine) -> timedelta:
    """How late a scheduled tick may come."""
    return max(routine.catch_up, LEAST_CATCH_UP) + routine.jitter


def reckon(routine: Routine, dues: Sequence[Due], takes: timedelta, outage: Outage | None = None) -> list[Reckoned]:
    """What becomes of these fires, if each tick takes so long, its retries and people's time included."""
    return _Course(routine, takes, outage).of(dues)


class _Course:
    """One reckoning: what happens, moment by moment."""

    def __init__(self, routine: Routine, takes: timedelta, outage: Outage | None) -> None:
        self._routine, self._takes, self._outage = routine, takes, outage
        self._line = Line(routine)
        self._ends: list[tuple[datetime, int, Reckoned]] = []
        self._count = 0

    def of(self, dues: Sequence[Due]) -> list[Reckoned]:
        """In the order of their times."""
        found = [Reckoned(tick_id(self._routine.name, due.at), due) for due in sorted(dues, key=_time)]
        for tick in found:
            now = self._opens(tick)
            # One that ends at this very moment is not done yet: it began a little after its time.
            self._close_until(now)
            late = now - tick.at
            tick.narrow = max(self._routine.catch_up, SHORTEST_CATCH_UP) < late <= latest(self._routine)
            self._follow(tick, self._line.open(tick, now), now)
        self._close_until(datetime.max.replace(tzinfo=UTC))
        return found

    def _opens(self, tick: Reckoned) -> datetime:
        outage = self._outage
        return outage.end if outage is not None and outage.start <= tick.at < outage.end else tick.at

    def _close_until(self, now: datetime) -> None:
        while self._ends and self._ends[0][0] < now:
            at, _, tick = heapq.heappop(self._ends)
            if tick.status == "running":
                self._close(tick, at)

    def _close(self, tick: Reckoned, now: datetime) -> None:
        tick.ends_at = now
        for other in self._line.close(tick):
            if other.status == "queued":
                self._follow(other, self._line.admit(other, now), now)

    def _follow(self, tick: Reckoned, answer: Answer, now: datetime) -> None:
        if answer.decision == "run":
            at, tick.ending = self._end(now)
            self._count += 1
            heapq.heappush(self._ends, (at, self._count, tick))
        for other in answer.ends:
            if other.status == "closed":
                continue
            other.ending = "cancelled" if self._routine.overlap == "cancel_other" else "terminated"
            other.other = tick.at
            if other.status == "queued":
                other.fate = "cancelled"
            self._close(other, now)

    def _end(self, begins: datetime) -> tuple[datetime, Ending]:
        done, limit = begins + self._takes, begins + self._routine.timeout
        outage = self._outage
        if outage is not None and begins < outage.start < min(done, limit):
            # Its work stands still and goes on where it was; its time does not stand still.
            done, limit = done + outage.length, max(limit, outage.end)
        return (limit, "timeout") if done > limit else (done, "done")


# ---- fires


def dues_of(routine: Routine, start: datetime, end: datetime) -> tuple[list[Due], bool]:
    """The fires from `start` to before `end`, oldest first, with what clocks do; and whether there are more.

    Raises:
        ConfigError: A cron line cannot be used.
    """
    found: list[tuple[datetime, str, str]] = []
    more = False
    for name in routine.timed:
        trigger = routine.triggers[name]
        of_one = list(islice((at for at in fires(routine, trigger, start, end) if at < end), MOST_FIRES + 1))
        if len(of_one) > MOST_FIRES:
            # What comes later is left out of all of them: half of it would be told wrongly.
            of_one, more = of_one[:MOST_FIRES], True
            end = of_one[-1] + timedelta(microseconds=1)
        notes = [""] * len(of_one)
        if isinstance(trigger, CronTrigger):
            notes = [fire.note for fire in noted(line_of(routine, trigger), of_one, start)]
        found += [(at, name, note) for at, note in zip(of_one, notes, strict=True)]
    found = sorted(item for item in found if item[0] < end)
    return [_due(at, list(items)) for at, items in groupby(found, key=lambda item: item[0])], more


def gaps_of(routine: Routine, start: datetime, end: datetime) -> list[Due]:
    """Where a trigger has no fire, because clocks skip its time and it says `gap: skip`."""
    return sorted(_gaps(routine, start, end), key=_time)


def _gaps(routine: Routine, start: datetime, end: datetime) -> Iterator[Due]:
    for name, trigger in routine.triggers.items():
        if isinstance(trigger, CronTrigger) and trigger.gap == "skip":
            skips = line_of(routine, trigger)
            if not skips.clock.changes(int(start.timestamp()), int(end.timestamp())):
                continue
            every = CronLine.parse(
                trigger.cron, trigger.time_zone, repeat=trigger.repeat, gap="fire", hash_id=routine.name
            )
            for at in sorted({*every.between(start, end)} - {*skips.between(start, end)}):
                yield Due(at, (name,), "its time does not exist on this day (`gap: skip`)")


def _due(at: datetime, items: Sequence[tuple[datetime, str, str]]) -> Due:
    notes = dict.fromkeys(note for _, _, note in items if note)
    return Due(at, tuple(name for _, name, _ in items), "; ".join(notes))


def _time(due: Due) -> datetime:
    return due.at


def next_dues(routine: Routine, after: datetime, count: int) -> list[Due]:
    """The next fires after a moment.

    Raises:
        ConfigError: A cron line cannot be used.
    """
    coming = expected(routine, after, datetime.max.replace(tzinfo=UTC) - timedelta(days=2), count)
    if not coming:
        return []
    found, _ = dues_of(routine, after + timedelta(microseconds=1), coming[-1].at + timedelta(microseconds=1))
    return found[:count]
