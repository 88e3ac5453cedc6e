"""Everything there is to say about a cron line, for people: what it means, when, and what becomes of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from temporalio.client import ScheduleCalendarSpec, ScheduleRange, ScheduleSpec

from schedules.boxes import DAYS, MONTHS, WEEKDAYS
from schedules.civil import moments
from schedules.clock import DAY, Change
from schedules.cron import CronLine
from schedules.matcher import Matcher, values
from schedules.raw import RawReading, raw_reading
from schedules.translation import Translation, translate

AROUND = 3 * 3600  # seconds before and after a clock change in which fires are compared
AHEAD = 400 * DAY
MOST_RANGES = 5  # of one field that are worth reading
SIXTY, HOURS = frozenset(range(60)), frozenset(range(24))


@dataclass(frozen=True)
class Fire:
    """One fire, in UTC and on the wall, with what the clock did."""

    utc: datetime
    local: datetime
    note: str


@dataclass(frozen=True)
class Explanation:
    """What `horarium cron explain` shows."""

    line: CronLine
    words: str
    fires: tuple[Fire, ...]
    raw: RawReading
    differs: Fire | None  # the first fire that Temporal alone would leave out or add, where it takes the text
    added: bool  # whether it would add it
    made: Translation


def explain(line: CronLine, start: datetime, count: int) -> Explanation:
    """Put it together.

    Raises:
        CronRefused: The line cannot be translated.
    """
    made = translate(line, start)
    fires = line.fires(start, count)
    raw = raw_reading(line.text, line.zone, start, count)
    differs, added = (None, False) if raw.spec is None else _difference(line, start, fires, raw)
    return Explanation(line, line.words(), tuple(noted(line, fires, start)), raw, differs, added, made)


def noted(line: CronLine, fires: Sequence[datetime], start: datetime) -> list[Fire]:
    """Fires on the wall, and what there is to say of each."""
    found: list[Fire] = []
    before = start
    for utc in fires:
        changes = line.clock.changes(int(before.timestamp()) + 1, int(utc.timestamp()) + 1)
        found.append(_fire(line, utc, "; ".join([*map(_moved, changes), *_said(line, utc)])))
        before = utc
    return found


def _fire(line: CronLine, utc: datetime, note: str = "") -> Fire:
    return Fire(utc, utc.astimezone(line.clock.zone), note)


def _moved(change: Change) -> str:
    minutes = abs(change.after - change.before) // 60
    size = f"{minutes // 60}h" if minutes % 60 == 0 else f"{minutes}m"
    way = "forward" if change.gap else "back"
    return f"clocks went {way} {size} on {datetime.fromtimestamp(change.at + change.before - 1, UTC):%Y-%m-%d}"


def _said(line: CronLine, utc: datetime) -> list[str]:
    local = utc.astimezone(line.clock.zone)
    if not (line.fields.at(local.hour, local.minute, local.second) and line.fields.on(local.date())):
        return ["its time does not exist on this day"]
    if local.fold:
        return ["the second time of two"]
    if local.replace(fold=1).utcoffset() != local.utcoffset():
        twice = line.fields.every_hour or line.rule.repeat == "both"
        return ["the first time of two" if twice else "the first time of two; not again"]
    return []


def _difference(
    line: CronLine, start: datetime, fires: Sequence[datetime], raw: RawReading
) -> tuple[Fire | None, bool]:
    """The first fire that one has and the other has not: among the next ones, then around the next clock changes."""
    first = _first(fires, raw.fires)
    if first is None and raw.spec is not None:
        begin = int(start.timestamp())
        matcher = Matcher(raw.spec, line.clock)
        for change in line.clock.changes(begin, begin + AHEAD):
            low, high = max(begin, change.at - AROUND), change.at + AROUND
            ours = moments(line.fields, line.rule, line.clock, low, high)
            first = _first(_times(ours), _times(matcher.between(low, high)))
            if first is not None:
                break
    if first is None:
        return None, False
    utc, added = first
    near = line.clock.near(int(line.clock.offset(int(utc.timestamp())) + utc.timestamp()))
    day = datetime.fromtimestamp(near.at + near.before - 1, UTC) if near is not None else None
    return _fire(line, utc, f"around the clock change of {day:%Y-%m-%d}" if day else ""), added


def _times(these: Collection[int]) -> list[datetime]:
    return [datetime.fromtimestamp(moment, UTC) for moment in these]


def _first(ours: Sequence[datetime], theirs: Sequence[datetime]) -> tuple[datetime, bool] | None:
    mine, other = set(ours), set(theirs)
    apart = mine ^ other
    if not apart:
        return None
    return min(apart), min(apart) in other


# ---- specs


def calendar_text(calendar: ScheduleCalendarSpec) -> str:
    """A calendar on one line: `06:00, day 8-14, weekday 5`; what is not named is any."""
    said = [_time_text(calendar)]
    for name, ranges, every in (
        ("day", calendar.day_of_month, DAYS),
        ("month", calendar.month, MONTHS),
        ("weekday", calendar.day_of_week, WEEKDAYS),
        ("year", calendar.year, None),
    ):
        if ranges and values(ranges) != every:
            said.append(f"{name} {_ranges_text(ranges)}")
    return ", ".join(said)


def _time_text(calendar: ScheduleCalendarSpec) -> str:
    hour, minute, second = (values(part) for part in (calendar.hour, calendar.minute, calendar.second))
    if len(hour) == len(minute) == len(second) == 1:
        seconds = f":{min(second):02}" if second != {0} else ""
        return f"{min(hour):02}:{min(minute):02}{seconds}"
    parts = [
        f"hour {_ranges_text(calendar.hour) if hour != HOURS else '*'}",
        f"minute {_ranges_text(calendar.minute) if minute != SIXTY else '*'}",
    ]
    if second != {0}:
        parts.append(f"second {_ranges_text(calendar.second) if second != SIXTY else '*'}")
    return ", ".join(parts)


def _ranges_text(ranges: Sequence[ScheduleRange]) -> str:
    said = [_range_text(item) for item in ranges]
    return ",".join(said if len(said) <= MOST_RANGES else [*said[: MOST_RANGES - 1], "…", said[-1]])


def _range_text(item: ScheduleRange) -> str:
    if item.end <= item.start:
        return f"{item.start}"
    return f"{item.start}-{item.end}/{item.step}" if item.step > 1 else f"{item.start}-{item.end}"


def spec_json(spec: ScheduleSpec) -> dict[str, Any]:
    """A spec with the names of Temporal's own JSON, as `temporal schedule describe` has them."""
    return {
        "structuredCalendar": [
            {
                "second": _ranges_json(item.second),
                "minute": _ranges_json(item.minute),
                "hour": _ranges_json(item.hour),
                "dayOfMonth": _ranges_json(item.day_of_month),
                "month": _ranges_json(item.month),
                "year": _ranges_json(item.year),
                "dayOfWeek": _ranges_json(item.day_of_week),
            }
            for item in spec.calendars
        ],
        "interval": [
            {
                "interval": f"{int(item.every.total_seconds())}s",
                "phase": f"{int(item.offset.total_seconds()) if item.offset else 0}s",
            }
            for item in spec.intervals
        ],
        "timezoneName": spec.time_zone_name,
    }


def _ranges_json(ranges: Sequence[ScheduleRange]) -> list[dict[str, int]]:
    return [{"start": item.start, "end": item.end, "step": item.step} for item in ranges]
