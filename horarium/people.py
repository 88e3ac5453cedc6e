"""Names of people, compared as people mean them: `Ana` and ` ana ` are one approver, never two."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def same_person(one: str, other: str) -> bool:
    """Whether two names are of one person."""
    return _plain(one) == _plain(other)


def is_among(name: str, people: Iterable[str]) -> bool:
    """Whether one of these is that person."""
    return any(same_person(name, person) for person in people)


def _plain(name: str) -> str:
    seen = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) not in ("Cf", "Cc"))
    return " ".join(seen.split()).casefold()
