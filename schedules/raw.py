"""What Temporal itself would do with a cron line, when it were given the text: for showing, never for firing.

The server's reading of cron text, as 1.32 has it: another order of fields, AND between the days, `#` a comment.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from temporalio.client import ScheduleCalendarSpec, ScheduleIntervalSpec, ScheduleRange, ScheduleSpec

from schedules.clock import ZoneRefused, clock_of
from schedules.matcher import Matcher, values

MONTHS: tuple[str, ...] = ("january", "february", "march", "april", "may", "june")
MONTHS += ("july", "august", "september", "october", "november", "december")
WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
LONGEST_COMMENT = 200
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h|d)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Field:
    """A field of the server's: its name, its values, and the words that it knows for them."""

    name: str
    low: int
    high: int
    words: tuple[str, ...] = ()
    shortest: int = 0


MINUTE = Field("minute", 0, 59)
HOUR = Field("hour", 0, 23)
DAY = Field("day of month", 1, 31)
MONTH = Field("month", 1, 12, MONTHS, 3)
WEEKDAY = Field("day of week", 0, 7, WEEKDAYS, 2)
SECOND = Field("second", 0, 59)
YEAR = Field("year", 2000, 2100)
ORDERS: dict[int, tuple[Field, ...]] = {
    5: (MINUTE, HOUR, DAY, MONTH, WEEKDAY),
    6: (MINUTE, HOUR, DAY, MONTH, WEEKDAY, YEAR),
    7: (SECOND, MINUTE, HOUR, DAY, MONTH, WEEKDAY, YEAR),
}


class ServerRefuses(ValueError):
    """The server answers with an error to this text."""


@dataclass(frozen=True)
class RawReading:
    """Refused with a reason, or the fires in UTC: fewer than asked for when the server finds no more before 2101."""

    refused: str | None
    fires: tuple[datetime, ...] = ()
    spec: ScheduleSpec | None = None


def raw_reading(text: str, zone: str, after: datetime, count: int) -> RawReading:
    """What the server would do with the text in this zone."""
    try:
        spec = raw_spec(text, zone)
        clock = clock_of(spec.time_zone_name or "UTC")
    except (ServerRefuses, ZoneRefused) as error:
        return RawReading(refused=str(error))
    matcher, moment = Matcher(spec, clock), int(after.timestamp())
    fires: list[datetime] = []
    while len(fires) < count and (found := matcher.next(moment)) is not None:
        moment = found
        fires.append(datetime.fromtimestamp(moment, UTC))
    return RawReading(refused=None, fires=tuple(fires), spec=spec)


def raw_spec(text: str, zone: str) -> ScheduleSpec:
    """The spec that the server makes of the text.

    Raises:
        ServerRefuses: It makes none.
    """
    named = re.match(r"(?:CRON_)?TZ=(\S*) ", text)
    if named:
        text = text[named.end() :]
        if named[1] and zone and named[1] != zone:
            raise ServerRefuses(f"the line's zone {named[1]!r} is not the schedule's")
    elif text.startswith(("TZ=", "CRON_TZ=")):
        raise ServerRefuses("there is nothing after the zone")
    text, _, comment = text.partition("#")
    if len(comment.strip().encode()) > LONGEST_COMMENT:
        raise ServerRefuses("'#' begins a comment, and it is too long")
    text = text.strip()
    if text.startswith("@every"):
        return ScheduleSpec(intervals=[_every(text)], time_zone_name=zone)
    parts = MACROS.get(text, text).split()
    order = ORDERS.get(len(parts))
    if order is None:
        raise ServerRefuses(f"it has {len(parts)} fields where 5, 6 or 7 are read")
    read = {field.name: _read(part, field) for field, part in zip(order, parts, strict=True)}
    calendar = ScheduleCalendarSpec(
        second=read.get("second", [ScheduleRange(0)]),
        minute=read["minute"],
        hour=read["hour"],
        day_of_month=read["day of month"],
        month=read["month"],
        year=read.get("year", ()),
        day_of_week=[ScheduleRange(day) for day in sorted({day % 7 for day in values(read["day of week"])})],
    )
    return ScheduleSpec(calendars=[calendar], time_zone_name=zone)


def _every(text: str) -> ScheduleIntervalSpec:
    _, found, said = text.partition(" ")
    size, _, phase = said.partition("/")
    every, offset = _duration(size), _duration(phase) if phase else timedelta(0)
    if not found or every < timedelta(seconds=1) or offset >= every:
        raise ServerRefuses("an interval is at least a second, and its phase is less")
    return ScheduleIntervalSpec(every=every, offset=offset)


def _duration(said: str) -> timedelta:
    parts = _DURATION.findall(said)
    if not parts or "".join(parts) != said:
        raise ServerRefuses(f"{said!r} is no duration to it")
    units = (re.split(r"(?<=[\d.])(?=[a-zµ])", part) for part in parts)
    return timedelta(seconds=sum(float(number) * _SECONDS[unit] for number, unit in units))


def _read(text: str, field: Field) -> Sequence[ScheduleRange]:
    return [_range(part, field) for part in text.split(",")]


def _range(text: str, field: Field) -> ScheduleRange:
    part, stepped, said = text.partition("/")
    step = _number(said, field) if stepped else 1
    if step < 1:
        raise ServerRefuses(f"{field.name}: a step of {said!r}")
    if part == "*":
        return ScheduleRange(field.low, field.high, step)
    first, between, last = part.partition("-")
    start = _value(first, field, field.low)
    if between:
        return ScheduleRange(start, _value(last, field, start), step)
    return ScheduleRange(start, field.high if stepped else start, step)


def _value(said: str, field: Field, low: int) -> int:
    value = None
    if field.words and len(said) >= field.shortest:
        value = next((number for number, word in enumerate(field.words) if word.startswith(said.lower())), None)
        value = None if value is None else value + (field.low if field is MONTH else 0)
    if value is None:
        value = _number(said, field)
    if not low <= value <= field.high:
        raise ServerRefuses(
            f"{field.name}: {said!r} is out of range" + (", it does not wrap" if low > field.low else "")
        )
    return value


def _number(said: str, field: Field) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", said):
        raise ServerRefuses(f"{field.name}: {said!r} is nothing that it knows")
    return int(said)
