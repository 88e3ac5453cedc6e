"""Settings for people to see: every value but no secret; of a reference its name, and whether there is something."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel

from horarium.durations import words as length
from horarium.secrets import HIDDEN, REFERENCE, redact
from horarium.settings import Settings, Webhook

MOST_CHARS = 500
_PASSWORD = re.compile(r"(//[^/:@\s]*):\S*@")
_BEHIND = re.compile(r"([?#]).*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Shown:
    """One setting. `there`: of a reference, whether its variable has a value; None: it is no reference."""

    name: str
    value: str
    variable: str
    is_default: bool
    about: str
    there: bool | None = None


@dataclass(frozen=True, slots=True)
class ShownSection:
    """One section of horarium.toml."""

    name: str
    about: str
    rows: tuple[Shown, ...]


def shown_settings(settings: Settings, environment: Mapping[str, str]) -> list[ShownSection]:
    """Every section and its settings.

    Args:
        settings: Of the project.
        environment: In which references are looked up; no value of it is shown.
    """
    alone: list[Shown] = []
    sections: list[ShownSection] = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            about = " ".join((type(value).__doc__ or "").split()).partition(": ")[2]
            sections.append(
                ShownSection(f"[{name}]", about[:1].upper() + about[1:], tuple(_rows(value, name, environment)))
            )
        else:
            row = _row(name, value, value == field.default, field.description or "", environment)
            alone.append(row)
    return [ShownSection("The project", "", tuple(alone)), *sections]


def _rows(section: BaseModel, path: str, environment: Mapping[str, str]) -> Iterator[Shown]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(section, Webhook) and name == "url":
            value = _origin(value)  # its path may be what lets one in
        is_default = value == field.get_default(call_default_factory=True)
        yield from _expanded(f"{path}.{name}", value, is_default, field.description or "", environment)


def _expanded(path: str, value: Any, is_default: bool, about: str, environment: Mapping[str, str]) -> Iterator[Shown]:
    match value:
        case BaseModel():
            yield from _rows(value, path, environment)
        case Mapping() if value:
            for key, one in value.items():
                yield from _expanded(f"{path}.{key}", one, is_default, about, environment)
        case tuple() if any(isinstance(one, BaseModel) or _is_reference(one) for one in value):
            for number, one in enumerate(value):
                yield from _expanded(f"{path}.{number}", one, is_default, about, environment)
        case _:
            yield _row(path, value, is_default, about, environment)


def _row(path: str, value: Any, is_default: bool, about: str, environment: Mapping[str, str]) -> Shown:
    found = REFERENCE.match(value) if isinstance(value, str) else None
    there = bool(environment.get(found.group(1))) if found else None
    variable = f"HORARIUM_{path.upper().replace('.', '__')}"
    return Shown(path, redact(_text(value))[:MOST_CHARS], variable, is_default, about, there)


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and REFERENCE.match(value) is not None


def _text(value: Any) -> str:
    match value:
        case None | () | {}:
            return "–"
        case bool():
            return "yes" if value else "no"
        case timedelta():
            return length(value) or "0s"
        case tuple():
            return ", ".join(_text(one) for one in value)
        case int():
            return f"{value:,}"
        case str() if "://" in value:
            return _address(value)
        case _:
            return str(value)


def _address(url: str) -> str:
    """A URL without what may let one in: its password, its query, its fragment. Rather too little than too much."""
    return _BEHIND.sub(rf"\g<1>{HIDDEN}", _PASSWORD.sub(rf"\g<1>:{HIDDEN}@", url))


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" + (
        "/…" if parts.path.strip("/") or parts.query else ""
    )
