"""How a preview is said: what becomes of each fire, and what there is to know besides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from rich.text import Text

from horarium import previews
from horarium.cli import routine_words, talk, times, words
from horarium.cli.routine_words import length
from horarium.cli.rows import Row, print_rows
from horarium.ledger.routines import RoutineRecord
from horarium.ledger.ticks import TickRecord
from horarium.routines import Routine

if TYPE_CHECKING:
    from schedules.preview import Due, Fate, Outage, Reckoned

ALIKE = 4  # fires in a row with nothing to say, before they are said in one line
STYLES: dict[Fate, str] = {"runs": "", "skipped": "yellow", "missed": "red", "cancelled": "yellow"}
FATES: dict[Fate, str] = {"runs": "run", "skipped": "skipped", "missed": "missed", "cancelled": "never begin"}


@dataclass(frozen=True, slots=True)
class Subject:
    """What is previewed: a file, or what is deployed, and how long its ticks took."""

    routine: Routine
    origin: str
    record: RoutineRecord | None
    took: tuple[timedelta, ...]
    open_tick: TickRecord | None


def head(subject: Subject, each: timedelta, why: str) -> Iterator[str]:
    """What the reckoning takes for granted."""
    routine, record = subject.routine, subject.record
    for name, trigger in routine.triggers.items():
        yield f"{name}: {routine_words.when(routine, trigger)}"
    yield f"Each tick is taken to take {length(each)}{why}."
    yield routine_words.OVERLAP[routine.overlap]
    if routine.jitter:
        yield f"Each begins somewhere within {length(routine.jitter)} after its time; that is left out below."
    if record is not None and record.paused:
        until = f" until {record.paused_until:%Y-%m-%d %H:%M} UTC" if record.paused_until else ""
        yield f"It is paused{until}; below is what it would do if it were not."
    if record is not None and record.held_by:
        yield f"Tick {record.held_by} holds it: until its approval is decided, none of this begins."
    elif subject.open_tick is not None:
        yield f"A tick is {subject.open_tick.status} now ({subject.open_tick.id}); that is left out below."


@dataclass(frozen=True, slots=True)
class Clock:
    """How moments of a routine are shown: each in its trigger's zone, unless another one was asked for."""

    routine: Routine
    named: str | None

    def zone(self, trigger: str | None = None) -> ZoneInfo | None:
        """The zone of a trigger, or of the whole routine."""
        return times.zone_of(self.named or routine_words.zone_name(self.routine, trigger))

    def fire(self, due: Due) -> str:
        """When it fires."""
        return times.shown(due.at, self.zone(due.triggers[0]))

    def near(self, at: datetime | None, due: Due) -> str:
        """A time that belongs to a fire; with its date and its zone where they are others."""
        if at is None:
            return "?"
        zone = self.zone(due.triggers[0])
        local, other = at.astimezone(zone), due.at.astimezone(zone)
        text = f"{local:%H:%M}" + (f":{local:%S}" if local.second else "")
        text += f" {local:%Z}" if local.utcoffset() != other.utcoffset() else ""
        return text if local.date() == other.date() else f"{local:%a %m-%d} {text}"


def outage_words(clock: Clock, away: Outage) -> str:
    """The outage, from when to when."""
    start, end = (times.shown(moment, clock.zone()) for moment in (away.start, away.end))
    return f"Everything is down for {length(away.length)}: {start} to {end}."


def what_happens(clock: Clock, tick: Reckoned) -> str:
    """What becomes of a fire, and why."""
    from schedules.previews import previewed

    return previews.what_happens(clock.routine, previewed(tick), lambda at: clock.near(at, tick.due))


def print_fires(clock: Clock, reckoned: Sequence[Reckoned], gaps: Sequence[Due], limit: int) -> None:
    """A line for each fire; where there are many, those with nothing to say are said together."""
    several = len(clock.routine.timed) > 1
    lines = [(tick.at, *_line(clock, tick, several)) for tick in reckoned]
    lines += [(gap.at, _gap_line(clock, gap, several), False) for gap in gaps]
    lines.sort(key=lambda line: line[0])
    rows = [row for _, row, _ in lines]
    if len(lines) > limit:
        rows = list(_folded([(row, quiet) for _, row, quiet in lines]))
    if not rows:
        talk.out().print(Text("No fire in this time. Look further ahead with --days 60."))
        return
    print_rows(("fire", *(["trigger"] if several else []), "what happens"), rows[:limit])
    if len(rows) > limit:
        talk.out().print(Text(f"… {words.plural(len(rows) - limit, 'more line')}; see them with --limit {len(rows)}"))
    talk.out().print()


def _folded(lines: Sequence[tuple[Row, bool]]) -> Iterator[Row]:
    alike: list[Row] = []
    for row, quiet in [*lines, ((("",), ()), False)]:
        if quiet:
            alike.append(row)
            continue
        if len(alike) > ALIKE:
            cells = ["…", *[""] * (len(alike[0][0]) - 2), f"{len(alike) - 2:,} more like these"]
            alike = [alike[0], (cells, ()), alike[-1]]
        yield from alike
        alike = []
        if row[0] != ("",):
            yield row


def _line(clock: Clock, tick: Reckoned, several: bool) -> tuple[Row, bool]:
    """A line, and whether there is nothing in it that one would want to know."""
    cells = [clock.fire(tick.due), *([", ".join(tick.due.triggers)] if several else [])]
    quiet = not tick.due.note and tick.begins_at == tick.at and tick.ending in ("done", "timeout")
    what = Text(what_happens(clock, tick), style=STYLES[tick.fate])
    return ((*cells, what), (tick.due.note,) if tick.due.note else ()), quiet


def _gap_line(clock: Clock, gap: Due, several: bool) -> Row:
    cells = [clock.fire(gap), *([", ".join(gap.triggers)] if several else [])]
    return (*cells, Text("no fire", style="yellow")), (gap.note,)


def summary(reckoned: Sequence[Reckoned]) -> str:
    """`7 fires: 5 run (1 of them late), 2 skipped`."""
    counts = {fate: sum(tick.fate == fate for tick in reckoned) for fate in FATES}
    late = sum(tick.begins_at is not None and tick.begins_at > tick.at for tick in reckoned)
    said = [f"{number:,} {FATES[fate]}" for fate, number in counts.items() if number]
    if late:
        said[0] += f" ({late:,} of them late)"
    return f"{words.plural(len(reckoned), 'fire')}{': ' if said else ''}{', '.join(said)}"


def remarks(routine: Routine, reckoned: Sequence[Reckoned]) -> Iterator[str]:
    """What the reckoning leaves out."""
    events = [name for name in routine.triggers if name not in routine.timed]
    if events:
        yield f"Not reckoned: ticks that events set off ({', '.join(events)})."
    close = sum(
        later.fate == "runs" and earlier.ends_at is not None and later.at - earlier.ends_at <= routine.jitter
        for earlier, later in pairwise(reckoned)
    )
    if routine.jitter and close:
        yield f"{words.plural(close, 'fire')} come so soon after the tick before that jitter may let the two meet."
