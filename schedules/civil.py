"""From times on the wall to moments: which fires a line has around a clock change.

The rule, in one place: a time that exists fires when it comes; one that does not exist fires at the first moment after
the gap, unless the hour is `*`; one that comes twice fires twice if the line is meant for every hour, else the first
time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from typing import Literal

from schedules.clock import DAY, HOUR, Change, Clock
from schedules.fields import Fields

EPOCH = date(1970, 1, 1).toordinal()

Repeat = Literal["once", "both"]
Gap = Literal["fire", "skip"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to times that come twice, and to times that do not come."""

    repeat: Repeat = "once"
    gap: Gap = "fire"


def wall_of(day: date) -> int:
    """Midnight of a date, as a wall time."""
    return (day.toordinal() - EPOCH) * DAY


def date_of(wall: int) -> date:
    """The date of a wall time."""
    return date.fromordinal(wall // DAY + EPOCH)


def moments_of_hour(fields: Fields, rule: Rule, change: Change, wall: int) -> Iterator[int]:
    """The fires that belong to one hour on the wall, within a day of a change; in order but for what falls into a gap.

    `wall` is the beginning of an hour in which the line fires.
    """
    gap, twice = change.gap, fields.every_hour or rule.repeat == "both"
    for second in fields.in_an_hour:
        at = wall + second
        if at in gap:
            if rule.gap == "fire" and not fields.any_hour:
                yield after_gap(fields, change)
            continue
        first, later = at - change.before, at - change.after
        if first < change.at:
            yield first
        if later >= change.at and (twice or first >= change.at):
            yield later


def after_gap(fields: Fields, change: Change) -> int:
    """Where croniter puts a time that does not exist: the first minute after the gap, at the line's first second."""
    return change.at + fields.seconds[0]


def moments(fields: Fields, rule: Rule, clock: Clock, start: int, end: int) -> list[int]:
    """All fires after `start` and up to `end`, in order. For short stretches: each fire is made."""
    found: set[int] = set()
    for day in dates(start + clock.offset(start) - 2 * HOUR, end + clock.offset(end) + 2 * HOUR):
        if not fields.on(day):
            continue
        midnight = wall_of(day)
        # Without a change nearby, any moment does for one that changes nothing.
        change = clock.near(midnight + DAY // 2) or Change(midnight, *(clock.offset(midnight),) * 2)
        for hour in fields.hours:
            found.update(moments_of_hour(fields, rule, change, midnight + hour * HOUR))
    return sorted(moment for moment in found if start < moment <= end)


def dates(first_wall: int, last_wall: int) -> Iterator[date]:
    """The dates from one wall time to another."""
    day, last = date_of(first_wall), date_of(last_wall)
    while day <= last:
        yield day
        day += timedelta(days=1)


def least_in_a_day(fields: Fields) -> int | None:
    """Seconds between the two fires of one day that are nearest to each other; None when it has only one."""
    closest = [
        _closest(fields.seconds),
        _between(_steps(fields.minutes), fields.seconds, 60),
        _between(_steps(fields.hours), fields.in_an_hour, HOUR),
    ]
    known = [value for value in closest if value is not None]
    return min(known) if known else None


def ends_of_day(fields: Fields) -> tuple[int, int]:
    """The first and the last fire of a day, in seconds since midnight."""
    inside = fields.in_an_hour
    return fields.hours[0] * HOUR + inside[0], fields.hours[-1] * HOUR + inside[-1]


def _steps(values: tuple[int, ...]) -> set[int]:
    return {later - earlier for earlier, later in pairwise(values)}


def _closest(values: tuple[int, ...]) -> int | None:
    return min(_steps(values), default=None)


def _between(steps: Iterable[int], inside: tuple[int, ...], size: int) -> int | None:
    return min((step * size + inside[0] - inside[-1] for step in steps), default=None)
