"""The slow way: walk each second or minute of real time, look at the clock, and ask whether the line fits.

Knows nothing of the code that it checks but croniter's expansion of the fields.
"""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from croniter import croniter


class Brute:
    """One line in one zone, by looking."""

    def __init__(self, text: str, zone: str, *, hash_id: str | None = None) -> None:
        hashed = any(part[0] in "hH" for part in text.split())
        reader = croniter(text, 0, hash_id=hash_id if hashed else None)
        self.expanded, self.nth, self.nearest = reader.expanded, reader.nth_weekday_of_month, reader.nearest_weekday
        self.hour_text = reader.expressions[1]
        self.zone = ZoneInfo(zone)
        self.step = 1 if len(self.expanded) > 5 else 60

    def fires(self, start: datetime, end: datetime, *, repeat: str = "once", gap: str = "fire") -> list[datetime]:
        """All fires after `start` and up to `end`."""
        found: list[datetime] = []
        first = int(start.timestamp()) // self.step * self.step + self.step
        last_offset = self._local(first - self.step).utcoffset()
        for moment in range(first, int(end.timestamp()) + 1, self.step):
            local = self._local(moment)
            offset = local.utcoffset()
            assert offset is not None
            assert last_offset is not None
            if offset > last_offset and gap == "fire" and self._in_gap(local, offset - last_offset):
                found.append(datetime.fromtimestamp(moment + self._first_second(), UTC))
            last_offset = offset
            if self.fits(local) and not (local.fold and repeat == "once" and not self._every_hour()):
                found.append(datetime.fromtimestamp(moment, UTC))
        return sorted({moment for moment in found if moment <= end})

    def fits(self, local: datetime) -> bool:
        """Whether croniter's numbers fit this time on the wall."""
        minute, hour, *_ = self.expanded
        return (
            _has(minute, local.minute)
            and _has(hour, local.hour)
            and (self.step == 60 or _has(self.expanded[5], local.second))
            and self.on(local.date())
        )

    def on(self, day: date) -> bool:
        """Whether croniter's numbers fit this date."""
        return (
            _has(self.expanded[3], day.month)
            and (len(self.expanded) < 7 or _has(self.expanded[6], day.year))
            and self._day(day)
        )

    def _day(self, day: date) -> bool:
        days, weekdays = self.expanded[2], self.expanded[4]
        by_day = self._nearest(day) if self.nearest else self._numbered(day, days)
        by_weekday = self._nth(day) if self.nth else _has(weekdays, day.isoweekday() % 7)
        if days[0] != "*" and weekdays[0] != "*":
            first = by_day and (by_weekday if self.nth else True)
            second = by_weekday and (by_day if self.nearest else True)
            return first or second
        return by_day and by_weekday

    def _numbered(self, day: date, days: list[int | str]) -> bool:
        last = calendar.monthrange(day.year, day.month)[1]
        return _has(days, day.day) or ("l" in days and day.day == last)

    def _nearest(self, day: date) -> bool:
        return any(croniter._get_nearest_weekday(day.year, day.month, number) == day.day for number in self.nearest)

    def _nth(self, day: date) -> bool:
        for weekday, numbers in self.nth.items():
            on = croniter._get_nth_weekday_of_month(day.year, day.month, weekday)
            for number in numbers:
                index = -1 if number == "l" else int(number) - 1
                if index < len(on) and on[index] == day.day:
                    return True
        return False

    def _every_hour(self) -> bool:
        return "*" in self.expanded[1] or all("/" in part or part == "*" for part in self.hour_text.split(","))

    def _in_gap(self, after: datetime, length: timedelta) -> bool:
        """Whether the line names a time that the gap before `after` has swallowed, and has its hours fixed."""
        if "*" in self.expanded[1]:
            return False
        wall = after.replace(tzinfo=None)
        missing = (wall - length + timedelta(minutes=number) for number in range(int(length.total_seconds()) // 60))
        return any(self.fits(moment.replace(second=self._first_second())) for moment in missing)

    def _first_second(self) -> int:
        seconds = self.expanded[5] if self.step == 1 else [0]
        return 0 if "*" in seconds else min(seconds)

    def _local(self, moment: int) -> datetime:
        return datetime.fromtimestamp(moment, self.zone)


def _has(values: list[int | str], value: int) -> bool:
    return "*" in values or value in values
