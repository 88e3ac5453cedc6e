"""What a template is handed, and how each value becomes text: times as ISO 8601, lists and mappings as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Any

from jinja2.runtime import Undefined

from horarium.durations import words
from horarium.template_sizes import MOST_NUMBER, Refused


class Moment(datetime):
    """A time that is written as ISO 8601, with `Z` for UTC, wherever it becomes text."""

    @classmethod
    def of(cls, at: datetime, zone: tzinfo | None = None) -> Moment:
        """The same instant, shown in a zone."""
        shown = at.astimezone(zone) if zone is not None else at
        return cls.combine(shown.date(), shown.timetz())

    def __str__(self) -> str:
        text = self.isoformat(timespec="seconds")
        return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text

    def strftime(self, format: str) -> str:
        """As in Python, without widths: the C library would fill them up, however wide."""
        if len(format) > MOST_NUMBER or re.search(r"%[^A-Za-z%]*\d", format):
            raise Refused("`strftime` takes a short format without widths, like '%d %B %Y'")
        return super().strftime(format)


@dataclass(frozen=True, slots=True, repr=False)
class Facts:
    """Base of what a template is handed: fields to read, and nothing to write as a whole."""

    def __repr__(self) -> str:
        raise whole(self)


def text_of(value: Any) -> str:
    """A value as text: times as ISO 8601, lists and mappings as JSON."""
    match value:
        case str() | None | bool() | int() | float() | date() | time():
            return str(value)
        case timedelta():
            return _span(value)
        case Undefined():
            return str(value)  # which says what is not there
        case Mapping() | list() | tuple() | range():
            return json_of(value)
    raise whole(value)


def json_of(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    match value:
        case date() | time():
            return str(value)
        case timedelta():
            return _span(value)
        case range():
            return list(value)
        case None | str() | bool() | int() | float() | dict() | list() | tuple():
            return value
    raise whole(value)


def whole(value: Any) -> Refused:
    what = f"it writes a whole {type(value).__name__.strip('_').lower()}, which has no text"
    if not is_dataclass(value):
        return Refused(what)
    return Refused(f"{what}; say which field: {', '.join(field.name for field in fields(value))}")


def _span(value: timedelta) -> str:
    return f"-{words(-value)}" if value < timedelta(0) else words(value)
