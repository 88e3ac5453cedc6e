"""The line that somebody probably meant, for a line that cannot be used.

Each entry is a habit from another scheduler; the first whose result croniter takes is proposed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime

from croniter import croniter

from schedules.fields import EndsEarly, NeverFires, fields_of

_DAYS = "sunday|monday|tuesday|wednesday|thursday|friday|saturday"
_MONTHS = "january|february|march|april|june|july|august|september|october|november|december"
_EVERY = re.compile(r"(?i)@every (\d+)([smh])")


def _short_names(text: str) -> str:
    return re.sub(rf"(?i)\b({_DAYS}|{_MONTHS})\b", lambda found: found[0][:3].lower(), text)


def _short_days(text: str) -> str:
    return re.sub(
        r"(?i)\b(mon|tues?|wednes|thur?s?|thurs|fri|satur|sun|sept)\b", lambda found: found[0][:3].lower(), text
    )


def _last_weekday(text: str) -> str:
    turned = re.sub(r"(?i)\b([0-7])l\b", r"L\1", text)
    names = {name[:3]: number for number, name in enumerate(_DAYS.split("|"))}
    return re.sub(
        r"(?i)\b(?:l(sun|mon|tue|wed|thu|fri|sat)|(sun|mon|tue|wed|thu|fri|sat)l)\b",
        lambda found: f"L{names[(found[1] or found[2]).lower()]}",
        turned,
    )


def _seconds_last(text: str) -> str:
    fields = text.split()
    return " ".join([*fields[1:6], fields[0], *fields[6:]]) if len(fields) > 5 else text


def _no_midnight_24(text: str) -> str:
    fields = text.split()
    return " ".join(["0" if at < 2 and field in ("24", "60") else field for at, field in enumerate(fields)])


def _interval(text: str) -> str:
    found = _EVERY.fullmatch(text)
    if not found:
        return text
    number, unit = int(found[1]), found[2].lower()
    if number == 0 or (24 if unit == "h" else 60) % number:
        return text
    return {"s": f"* * * * * */{number}", "m": f"*/{number} * * * *", "h": f"0 */{number} * * *"}[unit]


def _last_for_too_late(text: str) -> str:
    fields = text.split()
    late = len(fields) >= 5 and fields[2] in ("29", "30", "31")
    return " ".join([*fields[:2], "L", *fields[3:]]) if late else text


HABITS: tuple[Callable[[str], str], ...] = (
    lambda text: re.sub(r"^(CRON_)?TZ=\S+\s+", "", text),
    lambda text: re.sub(r"\s+#.*$", "", text),
    _interval,
    lambda text: _short_days(_short_names(text)),
    _last_weekday,
    _no_midnight_24,
    _seconds_last,
    lambda text: re.sub(r"(?i)\br(?=[(/\s]|$)", "H", text),
    _last_for_too_late,
)


def nearest_line(text: str) -> str | None:
    """A line that can be used, by one habit or by all of them up to there; None when none helps."""
    so_far = text
    for habit in HABITS:
        so_far = habit(so_far)
        for line in (habit(text), so_far):
            if line != text and _works(line):
                return line
    return None


def _works(line: str) -> bool:
    try:
        fields_of(croniter(line, 0, ret_type=datetime, hash_id="x" if re.search(r"(?i)\bh", line) else None))
    except (ValueError, TypeError, LookupError, OverflowError, AttributeError, NeverFires, EndsEarly):
        return False
    return True
