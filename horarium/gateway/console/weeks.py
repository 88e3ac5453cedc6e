"""A week of all routines: which fires come on which day, at which hour, and where too many meet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from zoneinfo import ZoneInfo

from horarium.errors import HorariumError
from horarium.ledger.routines import RoutineRecord
from horarium.previews import Asked, Preview, Previewer

DAYS = 7
OFTEN = 42  # fires in a week, of one routine, from which on they are said in a line and not one by one
CROWD = 4  # routines at the same minute, from which on that is marked


@dataclass(frozen=True, slots=True)
class Entry:
    """One fire of one routine."""

    at: datetime  # on the clock of the calendar
    routine: str
    paused: bool
    note: str | None = None
    fires: bool = True  # False: the clock skips its time


@dataclass(frozen=True, slots=True)
class Moment:
    """All that fires at one minute."""

    at: datetime
    entries: tuple[Entry, ...]

    @property
    def is_crowd(self) -> bool:
        """Whether so many begin at once that they may wait for each other."""
        return sum(entry.fires and not entry.paused for entry in self.entries) >= CROWD


@dataclass(frozen=True, slots=True)
class Hour:
    """One hour of a day; `row`: its place among the hours of the week that have anything."""

    row: int
    moments: tuple[Moment, ...]


@dataclass(frozen=True, slots=True)
class Day:
    """One day."""

    date: date
    hours: tuple[Hour, ...]
    change: str | None  # what clocks do on it
    is_today: bool


@dataclass(frozen=True, slots=True)
class Frequent:
    """A routine that fires too often for a calendar."""

    routine: str
    words: tuple[str, ...]
    paused: bool


@dataclass(frozen=True, slots=True)
class Week:
    """What a calendar shows."""

    zone: ZoneInfo
    days: tuple[Day, ...]
    rows: tuple[int, ...]  # the hours that have anything
    frequent: tuple[Frequent, ...]
    broken: Mapping[str, str]  # routines whose fires cannot be worked out, and why
    crowds: tuple[Moment, ...]
    fires: int


@dataclass(slots=True)
class _Found:
    entries: list[Entry] = field(default_factory=list)
    frequent: list[Frequent] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)


def monday(day: date) -> date:
    """The first day of its week."""
    return day - timedelta(days=day.weekday())


def bounds(first: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The moments at which a week begins and ends."""
    start, end = (datetime.combine(day, time(), zone) for day in (first, first + timedelta(days=DAYS)))
    return start.astimezone(UTC), end.astimezone(UTC)


def week_of(records: Sequence[RoutineRecord], first: date, zone: ZoneInfo, today: date, calendar: Previewer) -> Week:
    """The week of these routines that begins on this day. It computes and blocks: call it in a thread."""
    start, end = bounds(first, zone)
    found = _Found()
    for record in records:
        _look(record, start, end, zone, calendar, found)
    found.entries.sort(key=lambda entry: (entry.at.astimezone(UTC), entry.routine))
    moments = [
        Moment(entries[0].at, tuple(entries))
        for entries in (list(some) for _, some in groupby(found.entries, key=_minute))
    ]
    rows = tuple(sorted({moment.at.hour for moment in moments}))
    return Week(
        zone=zone,
        days=tuple(_days(first, zone, today, moments, rows)),
        rows=rows,
        frequent=tuple(found.frequent),
        broken=found.broken,
        crowds=tuple(moment for moment in moments if moment.is_crowd),
        fires=sum(entry.fires and not entry.paused for entry in found.entries),
    )


def _look(
    record: RoutineRecord, start: datetime, end: datetime, zone: ZoneInfo, calendar: Previewer, found: _Found
) -> None:
    asked = Asked(start, end - start, timedelta(seconds=1), most=OFTEN)
    try:
        coming: Preview = calendar(record.routine, asked)
    except HorariumError as error:
        found.broken[record.name] = error.message
        return
    if not coming.whole:
        words = tuple(trigger.words for trigger in coming.triggers if not trigger.words.startswith("On the event"))
        found.frequent.append(Frequent(record.name, words, bool(record.paused)))
        return
    for fire in coming.fires:
        found.entries.append(
            Entry(fire.at.astimezone(zone), record.name, _is_paused(record, fire.at), _of_its_own(fire.note))
        )
    for gap in coming.no_fires:
        found.entries.append(
            Entry(gap.at.astimezone(zone), record.name, _is_paused(record, gap.at), gap.note, fires=False)
        )


def _of_its_own(note: str | None) -> str | None:
    """A note without what the day says already: that clocks went."""
    said = [part for part in (note or "").split("; ") if part and not part.startswith("clocks went")]
    return "; ".join(said) or None


def _is_paused(record: RoutineRecord, at: datetime) -> bool:
    return bool(record.paused) and (record.paused_until is None or at < record.paused_until)


def _minute(entry: Entry) -> datetime:
    return entry.at.astimezone(UTC).replace(second=0, microsecond=0)


def _days(first: date, zone: ZoneInfo, today: date, moments: Sequence[Moment], rows: Sequence[int]) -> Iterator[Day]:
    for number in range(DAYS):
        day = first + timedelta(days=number)
        of_day = [moment for moment in moments if moment.at.date() == day]
        hours = [Hour(rows.index(hour) + 1, tuple(some)) for hour, some in groupby(of_day, key=lambda it: it.at.hour)]
        yield Day(day, tuple(hours), clock_change(day, zone), day == today)


def clock_change(day: date, zone: ZoneInfo) -> str | None:
    """What the clocks of a zone do on a day; None: nothing."""
    start, end = (datetime.combine(one, time(), zone) for one in (day, day + timedelta(days=1)))
    before, after = start.utcoffset(), end.utcoffset()
    if before is None or after is None or before == after:
        return None
    minutes = round(abs((after - before).total_seconds()) / 60)
    size = f"{minutes // 60} h" if minutes % 60 == 0 else f"{minutes} min"
    return f"Clocks go {'forward' if after > before else 'back'} {size}."
