"""Names of people, compared as people mean them: `Ana` and ` ana ` are one approver, never two."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache


def same_person(one: str, other: str) -> bool:
    """Whether two names are of one person."""
    return plain(one) == plain(other)


def in_words(by: str) -> str:
    """Who settled something, as it is said to people: a rule of the plan is named by its place in it, from 1."""
    rule = re.fullmatch(r"plan:approvals\.(\d+)", by)
    if rule is not None:
        return f"rule {int(rule[1]) + 1} of the approval plan"
    return f"grant {by}" if by.startswith("gra_") else by


def is_among(name: str, people: Iterable[str]) -> bool:
    """Whether one of these is that person."""
    wanted = plain(name)
    return any(plain(person) == wanted for person in people)


@lru_cache(maxsize=16_384)
def plain(name: str) -> str:
    """What all spellings of one person's name have in common."""
    seen = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) not in ("Cf", "Cc"))
    return " ".join(seen.split()).casefold()
