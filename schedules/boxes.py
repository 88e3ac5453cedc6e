"""The date part of a cron line as boxes: years, months, days and weekdays that all have to fit.

A date fits a line when it fits one of its boxes; that is also how Temporal's calendars work, so each box becomes a
calendar. What croniter does with `L`, `#` and `W`, and with both day fields given, is decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

Part = int | str  # as croniter expands a field: numbers, '*', 'l'

MONTHS = frozenset(range(1, 13))
DAYS = frozenset(range(1, 32))
WEEKDAYS = frozenset(range(7))
WORKDAYS = frozenset({1, 2, 3, 4, 5})
YEARS = frozenset(range(2000, 2100))  # the server's first, croniter's last
LEAP_YEARS = frozenset(year for year in YEARS if year % 4 == 0)

# Months of one length: its days, the months, and the years in which they have it (None: all).
LENGTHS: tuple[tuple[int, frozenset[int], frozenset[int] | None], ...] = (
    (31, frozenset({1, 3, 5, 7, 8, 10, 12}), None),
    (30, frozenset({4, 6, 9, 11}), None),
    (28, frozenset({2}), YEARS - LEAP_YEARS),
    (29, frozenset({2}), LEAP_YEARS),
)


@dataclass(frozen=True, slots=True)
class Box:
    """Dates that fit all four. `years` None: every year. Weekdays count from Sunday, 0."""

    years: frozenset[int] | None = None
    months: frozenset[int] = MONTHS
    days: frozenset[int] = DAYS
    weekdays: frozenset[int] = WEEKDAYS

    def fits(self, day: date) -> bool:
        """Whether the date is in the box."""
        return day.isoweekday() % 7 in self.weekdays and self.fits_but_weekday(day)

    def fits_but_weekday(self, day: date) -> bool:
        """The same, whatever the weekday."""
        return day.day in self.days and day.month in self.months and (self.years is None or day.year in self.years)

    def __and__(self, other: Box) -> Box:
        years = other.years if self.years is None else self.years if other.years is None else self.years & other.years
        return Box(years, self.months & other.months, self.days & other.days, self.weekdays & other.weekdays)

    @property
    def everything(self) -> bool:
        """Whether each date is in it."""
        return self == Box()

    def possible(self) -> bool:
        """Whether any date fits. Within 28 years each weekday has met each day of the year."""
        return any(
            self.fits(date(year, month, day))
            for year in (range(2000, 2029) if self.years is None else self.years)
            for month in self.months
            for day in self.days
            if day <= days_of(year, month)
        )


def days_of(year: int, month: int) -> int:
    """The length of a month."""
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return next(days for days, months, _ in LENGTHS if month in months and (month != 2 or leap == (days == 29)))


def by_day(parts: Sequence[Part]) -> list[Box]:
    """A day-of-month field: `*`, numbers, and `l` for the last."""
    if "*" in parts:
        return [Box()]
    days = frozenset(part for part in parts if isinstance(part, int))
    found = [Box(days=days)] if days else []
    if "l" in parts:
        found += [Box(years, months, frozenset({length})) for length, months, years in LENGTHS]
    return found


def by_weekday(parts: Sequence[Part]) -> list[Box]:
    """A plain day-of-week field."""
    return [Box()] if "*" in parts else [Box(weekdays=frozenset(part for part in parts if isinstance(part, int)))]


def by_nth(nth: Iterable[tuple[int, Iterable[int | Literal["l"]]]]) -> list[Box]:
    """`5#2` and `L5`: weekdays, each with which ones of the month (`l`: the last)."""
    found: list[Box] = []
    for weekday, numbers in nth:
        weekdays = frozenset({weekday})
        for number in sorted(numbers, key=str):
            if number == "l":
                found += [
                    Box(years, months, frozenset(range(length - 6, length + 1)), weekdays)
                    for length, months, years in LENGTHS
                ]
            else:
                last = 7 * int(number)
                found.append(Box(days=frozenset(range(last - 6, min(last, 31) + 1)), weekdays=weekdays))
    return found


def by_nearest(day: int) -> list[Box]:
    """`15W`: the working day nearest to a day of the month, within that month."""
    found: list[Box] = []
    for length, months, years in LENGTHS:
        target = min(day, length)
        saturday = target - 1 if target > 1 else target + 2  # the Friday, or the Monday after the 1st
        sunday = target + 1 if target < length else target - 2  # the Monday, or the last Friday
        found.append(Box(years, months, frozenset({target}), WORKDAYS))
        for on in (saturday, sunday):
            found.append(Box(years, months, frozenset({on}), frozenset({5 if on < target else 1})))
    return _joined(found)


def _joined(boxes: list[Box]) -> list[Box]:
    """Boxes that differ in their months alone, made one: most days are the same in all of them."""
    found: dict[tuple[frozenset[int], frozenset[int]], list[Box]] = {}
    for box in boxes:
        found.setdefault((box.days, box.weekdays), []).append(box)
    joined: list[Box] = []
    for (days, weekdays), same in found.items():
        months = frozenset().union(*(box.months for box in same))
        if months == MONTHS and len(same) == len(LENGTHS):
            joined.append(Box(days=days, weekdays=weekdays))
        else:
            joined += same
    return joined


def both(left: list[Box], right: list[Box]) -> list[Box]:
    """Dates that fit a box of each."""
    return [one & other for one in left for other in right]


def possible(boxes: Iterable[Box]) -> list[Box]:
    """Without repetitions, and without boxes that no date fits."""
    return [box for box in dict.fromkeys(boxes) if box.possible()]
