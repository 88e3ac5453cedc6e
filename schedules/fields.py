"""A cron line taken apart: what croniter read, in a form that can be reasoned about.

croniter parses; this keeps the numbers, joins the two day fields as croniter does, and answers the one question that
croniter has no word for: whether a line is meant for fixed hours or for every real hour.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from croniter import croniter

from schedules.boxes import Box, both, by_day, by_nearest, by_nth, by_weekday, possible

MINUTE, HOUR, DAY, MONTH, WEEKDAY, SECOND, YEAR = range(7)
NAMES = ("minute", "hour", "day of month", "month", "day of week", "second", "year")

HASHED = re.compile(r"(?i)^h(\(|/|$)")
RANDOM = re.compile(r"(?i)^r(\(|/|$)")


class NeverFires(ValueError):
    """croniter accepts the line and finds no date for it; the text says why, `better` is a line that has dates."""

    def __init__(self, message: str, better: str | None = None) -> None:
        super().__init__(message)
        self.better = better


class EndsEarly(ValueError):
    """croniter stops before the line's last date; `better` is the line without the field that it ignores."""

    def __init__(self, message: str, better: str) -> None:
        super().__init__(message)
        self.better = better


@dataclass(frozen=True, slots=True)
class Fields:
    """Ascending numbers for each field of time, boxes for the date."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    boxes: tuple[Box, ...]
    any_hour: bool  # croniter's `*`: times that do not exist are left out, not moved
    every_hour: bool  # `*` or a step: each real hour counts, also one that repeats
    either_day: bool  # day of month OR day of week
    with_seconds: bool
    texts: tuple[str, ...]  # the fields as written, in lower case, macros expanded

    @property
    def in_an_hour(self) -> tuple[int, ...]:
        """The seconds of an hour at which it fires, in any hour in which it does."""
        return tuple(60 * minute + second for minute in self.minutes for second in self.seconds)

    def on(self, day: date) -> bool:
        """Whether it fires on this date at all."""
        return any(box.fits(day) for box in self.boxes)

    def at(self, hour: int, minute: int, second: int) -> bool:
        """Whether it fires at this time of a day on which it fires."""
        return hour in self.hours and minute in self.minutes and second in self.seconds


def fields_of(reader: croniter) -> Fields:
    """What croniter read.

    Raises:
        NeverFires: No date fits, or croniter gives up on one side of the day fields.
        EndsEarly: croniter would leave out dates at the end.
    """
    expanded = [list(part) for part in reader.expanded]
    texts = tuple(str(text) for text in reader.expressions)
    boxes, either = _boxes(reader, expanded, texts)
    return Fields(
        seconds=_numbers(expanded[SECOND], 0, 59) if len(expanded) > SECOND else (0,),
        minutes=_numbers(expanded[MINUTE], 0, 59),
        hours=_numbers(expanded[HOUR], 0, 23),
        boxes=tuple(boxes),
        any_hour="*" in expanded[HOUR],
        every_hour="*" in expanded[HOUR] or all("/" in part or part == "*" for part in texts[HOUR].split(",")),
        either_day=either,
        with_seconds=len(expanded) > SECOND,
        texts=texts,
    )


def _numbers(parts: list[int | str], low: int, high: int) -> tuple[int, ...]:
    return (
        tuple(range(low, high + 1)) if "*" in parts else tuple(sorted(part for part in parts if isinstance(part, int)))
    )


def _boxes(reader: croniter, expanded: list[list[int | str]], texts: tuple[str, ...]) -> tuple[list[Box], bool]:
    months = frozenset(_numbers(expanded[MONTH], 1, 12))
    years = None
    if len(expanded) > YEAR and "*" not in expanded[YEAR]:
        years = frozenset(_numbers(expanded[YEAR], 1970, 2099))
    frame = [Box(years=years, months=months)]
    nearest, nth = reader.nearest_weekday, reader.nth_weekday_of_month
    days = by_nearest(next(iter(nearest))) if nearest else by_day(expanded[DAY])
    weekdays = by_nth(sorted(nth.items())) if nth else by_weekday(expanded[WEEKDAY])
    if "*" in expanded[DAY] or "*" in expanded[WEEKDAY]:
        found = possible(both(frame, both(days, weekdays)))
        if not found:
            raise NeverFires("no date fits it")
        return found, False
    # Both day fields are given. croniter asks twice, each time with one of the two blanked out, and takes the earlier
    # answer. `#` and `W` are kept beside the fields and stay in force in both questions, which is why the other
    # field is without effect then, and why the line fails as soon as one question has no answer.
    by_month_day = possible(both(frame, both(days, weekdays) if nth else days))
    by_week_day = possible(both(frame, both(days, weekdays) if nearest else weekdays))
    if not by_month_day and not by_week_day:
        raise NeverFires("no date fits it")
    if nth or nearest:
        without = list(texts)
        without[DAY if nth else WEEKDAY] = "*"
        better = " ".join(without)
        if not by_month_day or not by_week_day:
            why = "no date fits the day of month and the day of week at once, and croniter then gives up"
            raise NeverFires(why, better)
        if years is not None and not (nth and nearest):
            sign, name = ("#", NAMES[DAY]) if nth else ("W", NAMES[WEEKDAY])
            why = f"with {sign!r} the {name} is without effect, but lets croniter stop before the last year is over"
            raise EndsEarly(why, better)
    return possible([*by_month_day, *by_week_day]), not nth and not nearest
