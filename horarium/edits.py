"""Arguments as a person changes them: taken exactly as they were given, or not at all.

What a model writes is made storable in silence. A person's arguments are what is signed, shown and recorded, so a
change on the way would release something else than was decided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from horarium.content import canonical, clean_json, clean_text
from horarium.errors import ArgumentsRejected

_MOST_DEEP = 64  # a decision wraps them, and what reads JSON stops at 200
_MOST_NUMBER = 2**63


def check_edit(arguments: Mapping[str, Any]) -> None:
    """Refuse what no JSON can carry unchanged; the same in every process, so a workflow may ask.

    Raises:
        ArgumentsRejected: Says which argument it is, and what to do.
    """
    for name, value in arguments.items():
        problem = _problem(name, 1) or _problem(value, 1)
        if problem is not None:
            what, instead = problem
            raise ArgumentsRejected(f"The edited argument {_shown(name)} holds {what}.", hint=instead)


def check_secrets(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments with a secret that is known in this process; it is not said which.

    Raises:
        ArgumentsRejected: Says which argument it is, and what to do.
    """
    for name, value in arguments.items():
        if canonical({name: value}) != canonical(clean_json({name: value})):
            raise ArgumentsRejected(
                f"The edited argument {_shown(name)} holds a secret of this installation, which is never stored.",
                hint="Leave it out; let the tool read it from its own environment.",
            )


def _problem(value: Any, depth: int) -> tuple[str, str] | None:
    if depth > _MOST_DEEP:
        return f"values inside of values, more than {_MOST_DEEP} deep", "Send it in a flatter form."
    match value:
        case float() if not math.isfinite(value):
            return "a number that JSON does not have (NaN or an infinity)", "Give a finite number, or null."
        case int() if not -_MOST_NUMBER <= value < _MOST_NUMBER:
            return "a whole number of more than 64 bits", "Give it as a text, where the tool takes one."
        case str() if _unstorable(value):
            return "a character that cannot be stored (NUL, or half of a surrogate pair)", "Take it out."
        case Mapping():
            inside = [item for pair in value.items() for item in pair]
        case list() | tuple():
            inside = list(value)
        case _:
            return None
    return next((found for item in inside if (found := _problem(item, depth + 1)) is not None), None)


def _unstorable(text: str) -> bool:
    return "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text)


def _shown(name: str) -> str:
    return repr(clean_text(name)[0])
