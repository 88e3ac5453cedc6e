"""A cron line in English.

cron-descriptor has the words. It reads some things otherwise than croniter (seconds come first, both days together mean
AND, a step that does not divide the hour), so it is asked for one part at a time, in a form that both read alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cron_descriptor import FormatError, MissingFieldError, Options, WrongArgumentError, get_description

from schedules.fields import DAY, HASHED, HOUR, MINUTE, MONTH, SECOND, WEEKDAY, YEAR, Fields

_NAMES = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_ORDINALS = {"1": "first", "2": "second", "3": "third", "4": "fourth", "5": "fifth", "l": "last"}
_STEP = re.compile(r"\*/(\d+)")
_RANGE = re.compile(r"(\d+)-(\d+)")
_NTH = re.compile(r"(?:l(?P<last>\d)|(?P<day>\w+?)(?:-(?P<to>\w+))?#(?P<nth>\d))")


def describe(fields: Fields) -> str:
    """A sentence without a full stop."""
    texts = fields.texts
    times = [
        _time(texts[SECOND], fields.seconds, 60) if fields.with_seconds else "0",
        _time(texts[MINUTE], fields.minutes, 60),
        _time(texts[HOUR], fields.hours, 24),
    ]
    said = _said(times)
    if said is None:
        return " ".join(texts)
    parts = [said, *_days(fields, times, said)]
    if (month := _date_text(fields, MONTH)) != "*":
        parts.append(_part(times, said, month=month))
    if len(texts) > YEAR and texts[YEAR] != "*":
        parts.append(_part(times, said, year=texts[YEAR]))
    return ", ".join(part for part in parts if part)


def _days(fields: Fields, times: Sequence[str], said: str) -> list[str]:
    day, weekday = _date_text(fields, DAY), _date_text(fields, WEEKDAY)
    nth, nearest = bool(re.search(r"#|l\d", weekday)), "w" in day
    if day != "*" and weekday != "*":
        # Beside `#` a plain day of month is without effect, and beside `W` a plain day of week.
        day = "*" if nth and not nearest else day
        weekday = "*" if nearest and not nth else weekday
    step = _STEP.fullmatch(day)
    by_day = _part(times, said, day=f"1-31/{step[1]}" if step else day.upper()) if day != "*" else ""
    by_weekday = _nth(weekday) if nth else _part(times, said, weekday=weekday) if weekday != "*" else ""
    if by_day and by_weekday:
        joined = "and also" if fields.either_day else "if that is also"
        return [f"{by_day}, {joined} {by_weekday.removeprefix('only ')}"]
    return [by_day, by_weekday]


def _nth(text: str) -> str:
    said: list[str] = []
    for part in text.split(","):
        found = _NTH.fullmatch(part)
        if found is None:
            return f"on {text.upper()} of the month"
        name = _weekday(found["last"] or found["day"])
        name = f"{name} through {_weekday(found['to'])}" if found["to"] else name
        said.append(f"the {_ORDINALS[found['nth'] or 'l']} {name}")
    return f"on {_joined(said)} of the month"


def _weekday(text: str) -> str:
    if text.isdecimal():
        return _NAMES[int(text) % 7]
    return next((name for name in _NAMES if name.lower().startswith(text)), text)


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _part(
    times: Sequence[str], said: str, *, day: str = "*", month: str = "*", weekday: str = "*", year: str | None = None
) -> str:
    """What one field adds to the sentence; the field itself where cron-descriptor has no words for it."""
    found = _said([*times, day, month, weekday, *([year] if year else [])])
    if found is None or not found.startswith(said):
        return next(value for value in (day, month, weekday, year) if value not in (None, "*")) or ""
    return found.removeprefix(said).lstrip(", ")


def _said(parts: Sequence[str]) -> str | None:
    line = " ".join([*parts, *"***"[len(parts) - 3 :]] if len(parts) < 6 else parts)
    options = Options()
    options.use_24hour_time_format = True
    options.locale_code = "en_US"
    try:
        return str(get_description(line, options))
    except (FormatError, MissingFieldError, WrongArgumentError, ValueError, LookupError):
        return None


def _time(text: str, values: tuple[int, ...], size: int) -> str:
    """A field of time as both read it alike: what croniter made of it, where the text is not plain."""
    if len(values) == size:
        return "*"
    step, run = _STEP.fullmatch(text), _RANGE.fullmatch(text)
    if step and len(values) > 1 and size % int(step[1]) == 0:
        return text
    if run and int(run[1]) < int(run[2]):
        return text
    return ",".join(map(str, values))


def _date_text(fields: Fields, which: int) -> str:
    """A field of the date; `?` and ranges like `5-5` are the whole field to croniter, and `H` is what was drawn."""
    text = fields.texts[which]
    if HASHED.match(text):
        box = fields.boxes[0]
        drawn = {DAY: box.days, MONTH: box.months, WEEKDAY: box.weekdays}[which]
        return ",".join(map(str, sorted(drawn)))
    same = re.fullmatch(r"(\w+)-(\w+)", text)
    return "*" if text == "?" or (same and same[1] == same[2]) else text
