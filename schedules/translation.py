"""A cron line as a Temporal schedule spec that fires at exactly the line's times, until a horizon.

The date part becomes calendars. Around each clock change the server's matcher is not trusted, right or wrong: the
hours in which it could differ from the line are cut out of the calendars, and what the line fires there is put back as
one-shots, intervals of as many seconds as 1970 is away, which fire then and next time in sixty years. So the spec says
the same to this version of the matcher and to one that has been repaired.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from temporalio.client import ScheduleCalendarSpec, ScheduleIntervalSpec, ScheduleRange, ScheduleSpec

from schedules.boxes import Box
from schedules.civil import date_of, moments_of_hour, wall_of
from schedules.clock import DAY as DAY_SECONDS
from schedules.clock import HOUR, Change
from schedules.cron import CronLine, CronRefused
from schedules.fields import DAY, WEEKDAY
from schedules.matcher import moment_of

HORIZON = timedelta(days=5 * 365 + 1)
MOST_ONE_SHOTS = 2_000
MOST_INTERVALS = 60
FIRST_YEAR = 2000  # the server knows no earlier one

SKIP_PAST = DAY_SECONDS  # seconds; a change longer ago than this is of no interest
EVERY_HOUR = frozenset(range(24))


@dataclass(frozen=True)
class Translation:
    """What to give Temporal for a line. Fires after `until` are not guaranteed right: translate again before."""

    spec: ScheduleSpec
    until: datetime
    one_shots: int
    notes: tuple[str, ...]


@dataclass
class Patches:
    """What is done about clock changes: hours cut out of dates, whole dates made anew, and moments put back."""

    hours: dict[date, set[int]] = field(default_factory=dict)
    days: set[date] = field(default_factory=set)
    moments: set[int] = field(default_factory=set)
    back: set[date] = field(default_factory=set)
    forward: set[date] = field(default_factory=set)


def translate(line: CronLine, start: datetime, horizon: timedelta = HORIZON) -> Translation:
    """Write the line as a spec, right for all fires after `start` and up to the horizon.

    Raises:
        CronRefused: Clock changes would need more than 2,000 one-shots.
    """
    begin, until = int(start.timestamp()), start.astimezone(UTC) + horizon
    changes = line.clock.changes(begin - SKIP_PAST, int(until.timestamp()) + DAY_SECONDS)
    intervals = _every_hour_alike(line, begin, changes)
    if intervals:
        spec = ScheduleSpec(intervals=intervals, time_zone_name=line.zone)
        return Translation(
            spec, until, 0, ("It fires in every hour alike, so clock changes do not matter: intervals.",)
        )
    patches = _patched(line, begin, changes)
    if len(patches.moments) > MOST_ONE_SHOTS:
        raise _too_many(line, horizon)
    spec = ScheduleSpec(
        calendars=_calendars(line, patches),
        intervals=[ScheduleIntervalSpec(every=timedelta(seconds=moment)) for moment in sorted(patches.moments)],
        time_zone_name=line.zone,
    )
    return Translation(spec, until, len(patches.moments), tuple(_notes(line, patches, start)))


# ---- the same in every hour


def _every_hour_alike(line: CronLine, begin: int, changes: Sequence[Change]) -> list[ScheduleIntervalSpec]:
    """Intervals, where the line fires alike in each hour and the zone only ever shifts by whole hours; else none."""
    fields = line.fields
    if len(fields.hours) < 24 or not any(box.everything for box in fields.boxes):
        return []
    offset = line.clock.offset(begin)
    if any((change.after - offset) % HOUR or (change.before - offset) % HOUR for change in changes):
        return []
    size, inside = HOUR, fields.in_an_hour
    if len(fields.minutes) == 60 and offset % 60 == 0:
        size, inside = 60, fields.seconds
    if size % len(inside) == 0:
        step = size // len(inside)
        if all(moment == inside[0] + step * number for number, moment in enumerate(inside)):
            return [_interval(step, (inside[0] - offset) % step)]
    if len(inside) > MOST_INTERVALS:
        return []
    return [_interval(size, phase) for phase in sorted((moment - offset) % size for moment in inside)]


def _interval(every: int, phase: int) -> ScheduleIntervalSpec:
    return ScheduleIntervalSpec(every=timedelta(seconds=every), offset=timedelta(seconds=phase) if phase else None)


# ---- clock changes


def _patched(line: CronLine, begin: int, changes: Iterable[Change]) -> Patches:
    patches = Patches()
    for change in changes:
        if change.gap:
            _for_gap(line, change, begin, patches)
        else:
            _for_repeat(line, change, begin, patches)
        if len(patches.moments) > MOST_ONE_SHOTS:
            break
    return patches


def _for_gap(line: CronLine, change: Change, begin: int, patches: Patches) -> None:
    """Whole hours that do not exist are left out by the server: only what the line fires after the gap is missing."""
    gap = change.gap
    whole = gap.start % HOUR == 0 and gap.stop % HOUR == 0
    _put_back(line, change, _walls(gap.start, gap.stop), begin, patches, patches.forward, cut=not whole)
    day = date_of(gap.stop - 1)
    if wall_of(day) in gap and any(len(box.weekdays) < 7 and box.fits_but_weekday(day) for box in line.fields.boxes):
        # Without its midnight the server takes the date's weekday from the day before.
        patches.days.add(day)
        patches.forward.add(day)


def _for_repeat(line: CronLine, change: Change, begin: int, patches: Patches) -> None:
    """The server repeats whole hours rightly where Go takes the first of two times, which is west of Greenwich."""
    twice = change.repeat
    takes_first = moment_of(twice.start, line.clock) < change.at
    right = takes_first and len(twice) == HOUR and twice.start % HOUR == 0
    if right and (line.fields.every_hour or line.rule.repeat == "both"):
        return
    first = twice.start if right else twice.start - HOUR  # east, the hour before goes wrong as well
    _put_back(line, change, _walls(first, twice.stop), begin, patches, patches.back, cut=True)


def _walls(first: int, stop: int) -> range:
    return range(first // HOUR * HOUR, -(-stop // HOUR) * HOUR, HOUR)


def _put_back(
    line: CronLine, change: Change, walls: Iterable[int], begin: int, patches: Patches, days: set[date], *, cut: bool
) -> None:
    fields = line.fields
    for wall in walls:
        day, hour = date_of(wall), wall % DAY_SECONDS // HOUR
        if hour not in fields.hours or not fields.on(day):
            continue
        if cut:
            patches.hours.setdefault(day, set()).add(hour)
        moments = {moment for moment in moments_of_hour(fields, line.rule, change, wall) if moment > begin}
        if cut or moments:
            days.add(date_of(change.at + change.before - 1))
        patches.moments |= moments


# ---- calendars


def _calendars(line: CronLine, patches: Patches) -> list[ScheduleCalendarSpec]:
    found: list[ScheduleCalendarSpec] = []
    for box in line.fields.boxes:
        if box.years is not None:
            box = Box(frozenset(year for year in box.years if year >= FIRST_YEAR), box.months, box.days, box.weekdays)
            if not box.years:
                continue
        found += _without(line, box, _cuts(line, box, patches))
    return found


def _cuts(line: CronLine, box: Box, patches: Patches) -> dict[date, Collection[int]]:
    """The hours that this box may not fire in, by date."""
    cuts: dict[date, Collection[int]] = {day: hours for day, hours in patches.hours.items() if box.fits(day)}
    if len(box.weekdays) < 7:
        cuts |= {day: EVERY_HOUR for day in patches.days if box.fits_but_weekday(day)}
    return cuts


def _without(line: CronLine, box: Box, cuts: dict[date, Collection[int]]) -> list[ScheduleCalendarSpec]:
    """The box as calendars: hours that are never cut for all its dates, the others for all dates but those cut."""
    hours = frozenset(line.fields.hours)
    touched = hours.intersection(*(frozenset().union(*cuts.values()),)) if cuts else frozenset()
    found = [_calendar(line, box, hours - touched)] if hours - touched else []
    if not touched:
        return found
    found += [_calendar(line, part, touched) for part in _but(box, cuts)]
    for day, cut in sorted(cuts.items()):
        kept = hours if cut is EVERY_HOUR else touched - frozenset(cut)
        # One date needs no weekday, and without it the server cannot take the wrong one.
        alone = Box(frozenset({day.year}), frozenset({day.month}), frozenset({day.day}))
        if kept and box.fits(day):
            found.append(_calendar(line, alone, kept))
    return found


def _but(box: Box, days: Iterable[date]) -> list[Box]:
    """The box without these dates: other years, in their years other months, in their months other days."""
    by_year: dict[int, dict[int, set[int]]] = {}
    for day in days:
        by_year.setdefault(day.year, {}).setdefault(day.month, set()).add(day.day)
    years = (box.years if box.years is not None else frozenset(range(FIRST_YEAR, 2101))) - by_year.keys()
    parts = [Box(years, box.months, box.days, box.weekdays)] if years else []
    for year, months in by_year.items():
        if box.months - months.keys():
            parts.append(Box(frozenset({year}), box.months - months.keys(), box.days, box.weekdays))
        for month, numbers in months.items():
            if box.days - numbers:
                parts.append(Box(frozenset({year}), frozenset({month}), box.days - numbers, box.weekdays))
    return parts


def _calendar(line: CronLine, box: Box, hours: Collection[int]) -> ScheduleCalendarSpec:
    return ScheduleCalendarSpec(
        second=ranges(line.fields.seconds),
        minute=ranges(line.fields.minutes),
        hour=ranges(hours),
        day_of_month=ranges(box.days),
        month=ranges(box.months),
        year=ranges(box.years) if box.years is not None else (),
        day_of_week=ranges(box.weekdays),
    )


def ranges(values: Collection[int]) -> list[ScheduleRange]:
    """The fewest ranges that are easy to find: one with a step, else runs."""
    ordered = sorted(values)
    if len(ordered) > 2:
        step = ordered[1] - ordered[0]
        if ordered == list(range(ordered[0], ordered[-1] + 1, step)):
            return [ScheduleRange(ordered[0], ordered[-1], step)]
    found: list[ScheduleRange] = []
    first = last = ordered[0]
    for value in [*ordered[1:], None]:
        if value is not None and value == last + 1:
            last = value
            continue
        found.append(ScheduleRange(first, last, 1))
        if value is not None:
            first = last = value
    return found


# ---- words


def _notes(line: CronLine, patches: Patches, start: datetime) -> Iterable[str]:
    texts = line.fields.texts
    if line.fields.either_day:
        yield "Day of month or day of week, whichever fits: calendars of their own."
    if "l" in texts[DAY] or "w" in texts[DAY] or re.search(r"l\d", texts[WEEKDAY]):
        yield "Months end on different days: a calendar for each case."
    if patches.forward:
        yield (
            f"Clocks go forward on {_listed(patches.forward)}: what the line says for the time that is missing is a "
            "one-shot after the gap."
            if line.rule.gap == "fire"
            else f"Clocks go forward on {_listed(patches.forward)}: these hours are written out."
        )
    if patches.back:
        yield (
            f"Clocks go back on {_listed(patches.back)}: the hours around it are taken out of the calendars, and what "
            "the line fires in them is put back as one-shots."
        )
    if not line.fires(start, 1):
        yield f"No fire is left after {start.astimezone(UTC):%Y-%m-%d}."


def _listed(days: Collection[date]) -> str:
    first, *more = sorted(days)
    return f"{first}" + (f" and {len(more)} more {'day' if len(more) == 1 else 'days'}" if more else "")


def _too_many(line: CronLine, horizon: timedelta) -> CronRefused:
    return CronRefused(
        line.text,
        f"in {line.zone} it would need more than {MOST_ONE_SHOTS:,} one-shots for the clock changes of the next "
        f"{horizon.days} days",
        kind="too_many",
        hint="Fire less often in the hours around a clock change, or use a zone without one, as UTC.",
    )
