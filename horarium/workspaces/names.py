"""Names of files in a workspace: which there can be, and which of them a pattern means.

A name is relative, its parts divided by `/`. What a model writes as a name is taken as it is: `%2e%2e` is three odd
characters twice and no way up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from fnmatch import translate
from functools import lru_cache

from horarium.errors import WorkspaceError

MAX_DEPTH = 40
MAX_PART_BYTES = 255
MAX_NAME_BYTES = 1_000
MAX_PATTERN_CHARS = 300
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"^[A-Za-z]:")
_DEVICE = re.compile(r"^(con|prn|aux|nul|com[0-9]|lpt[0-9])$", re.IGNORECASE)
_HINT = "Name it relative to the workspace, like reports/june.csv."


def parts_of(name: str | os.PathLike[str]) -> tuple[str, ...]:
    """The parts of a name.

    Raises:
        WorkspaceError: It is empty, absolute, leads up, is too long or too deep, or means something else elsewhere.
    """
    text = os.fspath(name)
    if not isinstance(text, str):
        raise WorkspaceError("A name in a workspace is text.", hint=_HINT)
    if text.startswith("/"):
        raise WorkspaceError(f"{_shown(text)} is absolute.", hint=_HINT)
    parts = tuple(part for part in text.split("/") if part not in ("", "."))
    if not parts:
        raise WorkspaceError(f"{_shown(text)} names no file.", hint=_HINT)
    problem = name_problem(parts)
    if problem is not None:
        raise WorkspaceError(f"{_shown(text)} {problem}.", hint=_HINT)
    return parts


def name_problem(parts: tuple[str, ...]) -> str | None:
    """Why there can be no file of this name; None: there can."""
    if len(parts) > MAX_DEPTH:
        return f"is more than {MAX_DEPTH} directories deep"
    for part in parts:
        problem = _part_problem(part)
        if problem is not None:
            return problem
    if len("/".join(parts).encode()) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES:,} bytes"
    return None


def _part_problem(part: str) -> str | None:
    if part == "..":
        return "leads up"
    if _CONTROL.search(part):
        return "has a control character"
    if "\\" in part:
        return "has a backslash"
    if _DRIVE.match(part):
        return "begins like a drive"
    if _DEVICE.match(part):
        return "is a device on some systems"
    try:
        size = len(part.encode("utf-8"))
    except UnicodeEncodeError:
        return "is not UTF-8"
    return f"has a part of more than {MAX_PART_BYTES} bytes" if size > MAX_PART_BYTES else None


def matching(names: Iterable[str], pattern: str) -> Iterator[str]:
    """The names that a pattern means: `*` and `?` within a part, `**` for any number of parts.

    Raises:
        WorkspaceError: It is too long to try.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise WorkspaceError(f"A pattern has at most {MAX_PATTERN_CHARS} characters.")
    wanted = tuple(part for part in pattern.split("/") if part)
    return (name for name in names if _fits(name.split("/"), wanted))


def _fits(parts: list[str], wanted: tuple[str, ...]) -> bool:
    # Place by place instead of one regular expression: a model's pattern must not take for ever.
    reached = {0}
    for pattern in wanted:
        if pattern == "**":
            reached = set(range(min(reached), len(parts) + 1))
        else:
            fits = _pattern(pattern).match
            reached = {at + 1 for at in reached if at < len(parts) and fits(parts[at])}
        if not reached:
            return False
    return len(parts) in reached


@lru_cache(maxsize=256)
def _pattern(part: str) -> re.Pattern[str]:
    return re.compile(translate(part))


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else f"{text[:119]}…")
