"""One zone's clock: its offsets, and the moments at which they change.

All moments are Unix seconds; a *wall* time is the seconds since 1970 that a clock on the wall of that zone would
count, so that `wall = moment + offset`. Offsets come from `zoneinfo`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from horarium.errors import ConfigError
from horarium.problems import near_miss

DAY = 86_400
HOUR = 3_600
_NAME = re.compile(r"(?!posix/|right/)[A-Za-z][\w+-]*(/[A-Za-z][\w+-]*)*", re.ASCII)


class ZoneRefused(ConfigError):
    """No time zone has this name."""


@dataclass(frozen=True, slots=True)
class Change:
    """At `at` the offset goes from `before` to `after`, all in seconds."""

    at: int
    before: int
    after: int

    @property
    def gap(self) -> range:
        """Wall times that do not exist; empty when the clock goes back."""
        return range(self.at + self.before, self.at + self.after)

    @property
    def repeat(self) -> range:
        """Wall times that exist twice; empty when the clock goes forward."""
        return range(self.at + self.after, self.at + self.before)


class Clock:
    """The clock of one zone. Get it with `clock_of`: what was looked up is kept."""

    def __init__(self, zone: ZoneInfo) -> None:
        self.zone = zone
        self._years: dict[int, tuple[Change, ...]] = {}

    def offset(self, moment: int) -> int:
        """Seconds to add to get the wall time."""
        found = datetime.fromtimestamp(moment, self.zone).utcoffset()
        return int(found.total_seconds()) if found is not None else 0

    def local(self, moment: int) -> datetime:
        """The moment on this clock, `fold` included."""
        return datetime.fromtimestamp(moment, self.zone)

    def changes(self, start: int, end: int) -> list[Change]:
        """All changes at or after `start` and before `end`, in order."""
        first, last = (datetime.fromtimestamp(moment, UTC).year for moment in (start, end))
        return [item for year in range(first, last + 1) for item in self._of(year) if start <= item.at < end]

    def repeats(self, start: int) -> Iterator[Change]:
        """Changes from about `start` on, for fifty years, in which a time comes again."""
        year = datetime.fromtimestamp(start, UTC).year
        for which in range(year, year + 50):
            yield from (change for change in self._of(which) if change.repeat and change.at > start - DAY)

    def near(self, wall: int) -> Change | None:
        """The change within a day of this wall time; no zone has two so close."""
        found = self.changes(wall - DAY, wall + DAY)
        return found[0] if found else None

    def _of(self, year: int) -> tuple[Change, ...]:
        if year not in self._years:
            start, end = (int(datetime(which, 1, 1, tzinfo=UTC).timestamp()) for which in (year, year + 1))
            self._years[year] = tuple(self._search(start, end))
        return self._years[year]

    def _search(self, start: int, end: int) -> list[Change]:
        # By halves from one day to the next: a change and its opposite within one day do not occur.
        found: list[Change] = []
        before = self.offset(start - 1)
        for day in range(start, end, DAY):
            last = min(day + DAY, end) - 1
            after = self.offset(last)
            if after != before:
                moments = range(day, last + 1)
                at = moments[bisect_right(moments, 0, key=lambda moment: int(self.offset(moment) == after)) :][0]
                found.append(Change(at, before, after))
                before = after
        return found


@lru_cache(maxsize=256)
def clock_of(zone: str) -> Clock:
    """The clock of the zone with this IANA name.

    Raises:
        ZoneRefused: There is none; with the nearest name.
    """
    if _NAME.fullmatch(zone):
        try:
            return Clock(ZoneInfo(zone))
        except (OSError, ValueError, LookupError):
            pass
    known = sorted(available_timezones())
    same = next((name for name in known if name.lower() == zone.lower()), None)
    miss = f"; did you mean {same!r}?" if same else near_miss(zone, known)
    raise ZoneRefused(
        f"There is no time zone {zone!r}{miss}.".replace("?.", "?"), hint="Use an IANA name, as in Europe/London."
    )
