"""What there is to tell of a run, each thing once, and the place up to which it was told.

Derived from the ledger alone: a place is a short text that says which statuses and which steps were told, so any
process can go on from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple

from horarium.ledger.journal import SETTLED, StepRecord
from horarium.ledger.looking import Look
from horarium.ledger.run_statuses import StatusChange

EventKind = Literal["status", "step.begun", "step.unknown", "step.settled", "end"]
_PHASES: dict[str, EventKind] = {"c": "step.begun", "u": "step.unknown", "s": "step.settled"}
_ORDER = "cus"
_ONE = r"\d{1,9}[cus]\d{1,6}"
_PLACE = re.compile(rf"(\d{{1,9}})-(\d{{1,9}})-((?:{_ONE}(?:\.{_ONE}){{0,2000}})?)(-end)?")
_ENTRY = re.compile(r"(\d+)([cus])(\d+)")


@dataclass(frozen=True, slots=True)
class Told:
    """One event. `place`: up to and with it."""

    kind: EventKind
    at: datetime
    place: str
    status: StatusChange | None = None
    step: StepRecord | None = None


class _New(NamedTuple):
    """What was not told. `rank`: at the same time, what comes first."""

    at: datetime
    rank: int
    number: int
    phase: str = ""
    step: StepRecord | None = None
    status: StatusChange | None = None


@dataclass(slots=True)
class Story:
    """A place in the story of a run.

    `steps`: all steps up to this number were told to their end; `more` has those that are not so simple, with the phase
    that was told last (begun, unknown, settled) and how often a person had them done again.
    """

    status: int = 0
    steps: int = 0
    more: dict[int, tuple[str, int]] = field(default_factory=dict)
    ended: bool = False

    @classmethod
    def at(cls, place: str) -> Story | None:
        """The place that an event named; None when it is none of ours."""
        match = _PLACE.fullmatch(place)
        if match is None:
            return None
        more = {int(n): (phase, int(permit)) for n, phase, permit in _ENTRY.findall(match.group(3))}
        return cls(int(match.group(1)), int(match.group(2)), more, match.group(4) is not None)

    @property
    def place(self) -> str:
        """As the id of an event."""
        more = ".".join(f"{number}{phase}{permit}" for number, (phase, permit) in sorted(self.more.items()))
        return f"{self.status}-{self.steps}-{more}{'-end' if self.ended else ''}"

    def goes_on(self, look: Look) -> Iterator[Told]:
        """What a look has that was not told; from then on it was."""
        news = [*self._statuses(look.statuses), *self._steps(look.steps)]
        for new in sorted(news, key=lambda one: (one.at, one.rank, one.number)):
            if new.status is not None:
                self.status = new.status.seq
                yield Told("status", new.at, self.place, status=new.status)
            elif new.step is not None:
                self._tell(new.number, new.phase, new.step.permit)
                yield Told(_PHASES[new.phase], new.at, self.place, step=new.step)
        if look.run.closed_at is not None and look.is_whole and not self.ended:
            self.ended = True
            yield Told("end", look.run.closed_at, self.place)

    def _statuses(self, found: Iterable[StatusChange]) -> Iterator[_New]:
        at: datetime | None = None
        for change in found:
            if change.seq > self.status:
                at = max(change.at, at or change.at)  # in their order, whatever the clocks of two hosts say
                yield _New(at, 1, change.seq, status=change)

    def _steps(self, found: Iterable[StepRecord]) -> Iterator[_New]:
        for row in found:
            told, permit = self._told(row.number)
            begun = row.claimed_at or row.settled_at
            if begun is None:
                continue
            if row.claimed_at is not None and (told is None or row.permit > permit):
                yield _New(begun, 0, row.number, "c", row)
            phase = "s" if row.status in SETTLED else "u" if row.status == "unknown" else None
            if phase is None:
                continue
            if told is None or row.permit > permit or _ORDER.index(phase) > _ORDER.index(told):
                yield _New(max(row.settled_at or begun, begun), 2, row.number, phase, row)

    def _told(self, number: int) -> tuple[str | None, int]:
        if number in self.more:
            return self.more[number]
        return ("s", 0) if number <= self.steps else (None, 0)

    def _tell(self, number: int, phase: str, permit: int) -> None:
        self.more[number] = (phase, permit)
        if number <= self.steps and self.more[number] == ("s", 0):
            del self.more[number]
        while (after := self.more.get(self.steps + 1)) is not None and after[0] != "c":
            self.steps += 1
            if after == ("s", 0):
                del self.more[self.steps]
