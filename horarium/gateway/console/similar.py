"""What is different between a call and the last one like it: pure, so that it is tested without a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from horarium.visible import visible

MOST = 40  # changes that are listed; the rest is counted
_AROUND = 30  # characters that are the same, shown before and after what differs
_LONGEST = 600
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Change:
    """One value that is not as it was. None: it was not there, or is not any more."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """All changes, the first of them listed."""

    changes: tuple[Change, ...]
    more: int


def difference(before: str, after: str) -> Difference | None:
    """What changed between two calls' arguments, as JSON; None when one of them cannot be read."""
    try:
        was, now = json.loads(before), json.loads(after)
        found = list(_changes("", was, now))
    except (ValueError, RecursionError):
        return None
    return Difference(tuple(found[:MOST]), max(0, len(found) - MOST))


def _changes(name: str, was: Any, now: Any) -> Iterator[Change]:
    if isinstance(was, dict) and isinstance(now, dict):
        for key in (*was, *(key for key in now if key not in was)):
            inner = f"{name}.{key}" if name else key
            yield from _changes(inner, was.get(key, _ABSENT), now.get(key, _ABSENT))
    elif isinstance(was, list) and isinstance(now, list):
        for place in range(max(len(was), len(now))):
            yield from _changes(f"{name}[{place}]", _at(was, place), _at(now, place))
    elif type(was) is not type(now) or was != now:
        yield _change(name, was, now)


def _at(items: list[Any], place: int) -> Any:
    return items[place] if place < len(items) else _ABSENT


def _change(name: str, was: Any, now: Any) -> Change:
    before, after = _text(was), _text(now)
    if before is not None and after is not None and max(len(before), len(after)) > 4 * _AROUND:
        before, after = _narrowed(before, after)
    return Change(visible(name) or "(all)", _short(before), _short(after))


def _text(value: Any) -> str | None:
    return None if value is _ABSENT else visible(json.dumps(value, ensure_ascii=False))


def _narrowed(before: str, after: str) -> tuple[str, str]:
    """Two long texts without most of what both begin and end with."""
    start = next((i for i, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), None)
    if start is None:
        start = min(len(before), len(after))
    same = zip(reversed(before[start:]), reversed(after[start:]), strict=False)
    end = next((i for i, pair in enumerate(same) if pair[0] != pair[1]), min(len(before), len(after)) - start)
    return _cut(before, start, end), _cut(after, start, end)


def _cut(text: str, start: int, end: int) -> str:
    first, last = max(0, start - _AROUND), min(len(text), len(text) - end + _AROUND)
    return ("…" if first else "") + text[first:last] + ("…" if last < len(text) else "")


def _short(text: str | None) -> str | None:
    if text is None or len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}… ({len(text):,} characters)"
