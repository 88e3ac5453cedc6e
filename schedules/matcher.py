"""What Temporal's server makes of a schedule spec: its matcher, clock-change faults included.

It behaves as server 1.32 does, so that `cron explain` and the tests of the translation need no server; a test holds it
against a real one. Times are Unix seconds; `moment_of` is the way in which Go reads a time on the wall, from which
the faults come: of two moments with the same wall time it takes the first west of Greenwich and the second east of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

from temporalio.client import ScheduleCalendarSpec, ScheduleRange, ScheduleSpec

from schedules.boxes import DAYS, MONTHS, WEEKDAYS
from schedules.civil import wall_of
from schedules.clock import HOUR, Clock

LAST_YEAR = 2100


def moment_of(wall: int, clock: Clock) -> int:
    """The moment that Go gives to a wall time that exists twice or not at all, and to any other."""
    return wall - clock.offset(wall - clock.offset(wall))


@dataclass(frozen=True)
class Calendar:
    """A calendar as the server compiles it: the values of each field. `years` None: all."""

    seconds: frozenset[int]
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    years: frozenset[int] | None
    weekdays: frozenset[int]

    @classmethod
    def of(cls, spec: ScheduleCalendarSpec) -> Calendar:
        """Read the SDK's form."""
        return cls(
            seconds=values(spec.second),
            minutes=values(spec.minute),
            hours=values(spec.hour),
            days=values(spec.day_of_month) & DAYS,
            months=values(spec.month) & MONTHS,
            years=values(spec.year) or None,
            weekdays=frozenset(day % 7 for day in values(spec.day_of_week)) & WEEKDAYS,
        )

    def next(self, moment: int, clock: Clock) -> int | None:
        """The first match after a moment, as the server finds it."""
        local = clock.local(moment)
        walk = _Walk(self, clock, local.date(), local.hour, local.minute, local.second)
        walk.again = clock.local(moment - HOUR).hour == local.hour
        walk.tick()
        return walk.found()

    def matches(self, moment: int, clock: Clock) -> bool:
        """Whether the server lets this calendar skip the moment: by the time on the wall, the right one."""
        local = clock.local(moment)
        return (
            self._dated(local.date())
            and local.isoweekday() % 7 in self.weekdays
            and local.hour in self.hours
            and local.minute in self.minutes
            and local.second in self.seconds
        )

    def _dated(self, day: date) -> bool:
        return day.day in self.days and day.month in self.months and (self.years is None or day.year in self.years)


class _Walk:
    """A time on the wall that is moved forward until all fields fit."""

    def __init__(self, calendar: Calendar, clock: Clock, day: date, hour: int, minute: int, second: int) -> None:
        self.calendar, self.clock = calendar, clock
        self.day, self.hour, self.minute, self.second = day, hour, minute, second
        self.again = False  # in an hour that it believes to be the second of its name

    def tick(self) -> None:
        """One second on."""
        self.second += 1
        if self.second == 60:
            self.minute, self.second = self.minute + 1, 0
        if self.minute == 60:
            self._next_hour()

    def found(self) -> int | None:
        """Move to the first match, and say its moment."""
        calendar = self.calendar
        while self._on_a_day():
            if self.hour not in calendar.hours:
                self.hour = min((hour for hour in calendar.hours if hour > self.hour), default=24)
                self.minute = self.second = 0
                self.again = False
            if self.hour == 24:
                self._next_day()
                continue
            if not self._on_a_minute():
                self._next_hour()
                continue
            moment = self._moment()
            if self.clock.local(moment).hour == self.hour:
                return moment + (HOUR if self.again else 0)
            self.hour, self.minute, self.second = self.hour + 1, 0, 0  # it does not exist
        return None

    def _on_a_day(self) -> bool:
        """Move to a day that fits, by the weekday of the moment that it takes for this time."""
        calendar = self.calendar
        while True:
            if self.hour >= 24:
                self._next_day(keep=True)
            if self.day.year > LAST_YEAR:
                return False
            if calendar.years is not None and self.day.year not in calendar.years:
                self._begin(date(self.day.year + 1, 1, 1))
            elif self.day.month not in calendar.months:
                self._begin((self.day.replace(day=1) + timedelta(days=31)).replace(day=1))
            elif self.day.day not in calendar.days or self._weekday() not in calendar.weekdays:
                self._begin(self.day + timedelta(days=1))
            else:
                return True

    def _on_a_minute(self) -> bool:
        """Move to a minute and second of this hour that fit; False when there is none left."""
        calendar = self.calendar
        if self.minute in calendar.minutes:
            left = [second for second in calendar.seconds if second >= self.second]
            if left:
                self.second = min(left)
                return True
            self.minute += 1
        later = [minute for minute in calendar.minutes if minute >= self.minute]
        if not later:
            return False
        self.minute, self.second = min(later), min(calendar.seconds)
        return True

    def _next_hour(self) -> None:
        """To the next hour, or into the same again when the next seems to be two hours away."""
        ahead = moment_of(self._wall(self.hour + 1), self.clock) - moment_of(self._wall(self.hour), self.clock)
        if not self.again and ahead > HOUR:
            self.again = True
        else:
            self.hour, self.again = self.hour + 1, False
        self.minute = self.second = 0

    def _next_day(self, *, keep: bool = False) -> None:
        again = self.again
        self._begin(self.day + timedelta(days=1))
        self.again = again and keep

    def _begin(self, day: date) -> None:
        self.day, self.hour, self.minute, self.second, self.again = day, 0, 0, 0, False

    def _weekday(self) -> int:
        return self.clock.local(self._moment()).isoweekday() % 7

    def _moment(self) -> int:
        return moment_of(self._wall(self.hour) + 60 * self.minute + self.second, self.clock)

    def _wall(self, hour: int) -> int:
        return wall_of(self.day) + HOUR * hour


class Matcher:
    """A whole spec: calendars and intervals less what is skipped."""

    def __init__(self, spec: ScheduleSpec, clock: Clock) -> None:
        self.clock = clock
        self.calendars = [Calendar.of(item) for item in spec.calendars]
        self.skip = [Calendar.of(item) for item in spec.skip]
        self.intervals = [
            (int(item.every.total_seconds()), int(item.offset.total_seconds()) if item.offset else 0)
            for item in spec.intervals
        ]

    def next(self, moment: int) -> int | None:
        """The first fire after a moment."""
        while True:
            found = [fire for item in self.calendars if (fire := item.next(moment, self.clock)) is not None]
            found += [((moment - phase) // every + 1) * every + phase for every, phase in self.intervals]
            if not found or self.clock.local(min(found)).year > LAST_YEAR:
                return None
            moment = min(found)
            if not any(item.matches(moment, self.clock) for item in self.skip):
                return moment

    def between(self, start: int, end: int, most: int = 1_000_000) -> list[int]:
        """The fires after `start` and up to `end`; each source is asked again only when it had its turn."""
        heads = [self._head(number, start) for number in range(len(self.calendars) + len(self.intervals))]
        fires: list[int] = []
        while len(fires) < most:
            left = [head for head in heads if head is not None]
            if not left or min(left) > end:
                break
            moment = min(left)
            heads = [self._head(number, moment) if head == moment else head for number, head in enumerate(heads)]
            if not any(item.matches(moment, self.clock) for item in self.skip):
                fires.append(moment)
        return fires

    def _head(self, number: int, moment: int) -> int | None:
        if number < len(self.calendars):
            return self.calendars[number].next(moment, self.clock)
        every, phase = self.intervals[number - len(self.calendars)]
        return ((moment - phase) // every + 1) * every + phase


def values(ranges: Iterable[ScheduleRange]) -> frozenset[int]:
    """What ranges stand for."""
    return frozenset(
        value for item in ranges for value in range(item.start, max(item.end, item.start) + 1, max(item.step, 1))
    )
