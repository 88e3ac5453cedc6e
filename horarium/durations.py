"""Durations as people write them: `30s`, `15m`, `1h30m`, `2d`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_UNIT = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def duration(value: Any) -> Any:
    """Read `1h30m` and the like; anything that is no string is handed on for pydantic to judge.

    Raises:
        ValueError: A string that is neither of this form nor ISO 8601 (`PT15M`).
    """
    if isinstance(value, (bool, int | float)):
        raise ValueError(f"a duration needs a unit: '{value}s'?")
    if not isinstance(value, str) or value.startswith(("P", "-P")):
        return value
    text = value.strip()
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{value!r} is no duration; write e.g. 30s, 15m, 1h30m or 2d")
    try:
        return timedelta(seconds=sum(float(number) * _UNIT[unit] for number, unit in parts))
    except OverflowError as error:
        raise ValueError(f"{value!r} is no duration; it is longer than can be counted") from error


def words(value: timedelta) -> str:
    """The same, for people: `1h 30m`, `15m`, `2.5s`, `80ms`."""
    seconds = value.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    named = ((days, "d"), (hours, "h"), (minutes, "m"), (rest, "s"))
    return " ".join(f"{number}{unit}" for number, unit in named if number)
