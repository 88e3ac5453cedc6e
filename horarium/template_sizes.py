"""How large a value of a template is, and how large it may get: checked before it is made, where making it hurts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LARGEST = 200_000  # characters of a text, elements of a list with all that is inside of it
WORK = 2_000_000  # about 0.3 s on a slow machine
MOST_BITS = 4_096
MOST_NUMBER = 1_000  # where a number says how often or how wide


class Refused(Exception):
    """What a template may not do; the message goes to a person."""


class TooMuch(Refused):
    """What would be too large or take too long."""


TOO_LARGE = f"it makes a text or a list of more than {LARGEST:,}"


def weight(value: Any) -> int:
    """How large a value is, with all that is inside of it.

    Raises:
        TooMuch: Larger than any may be; found without walking all of it.
    """
    total = 0
    left = [value]
    while left:
        item = left.pop()
        match item:
            case str() | bytes() | range():
                total += len(item)
            case bool():
                total += 1
            case int():
                if item.bit_length() > MOST_BITS:
                    raise TooMuch("it computes with a number that is too large")
                total += 1
            case dict():
                total += 1 + len(item)
                left += item.keys()
                left += item.values()
            case list() | tuple() | set() | frozenset():
                total += 1 + len(item)
                left += item
            case _:
                total += 1
        if total > LARGEST:
            raise TooMuch(TOO_LARGE)
    return total


def together(texts: list[str], between: str) -> str:
    if sum(map(len, texts)) + len(between) * len(texts) > LARGEST:
        raise TooMuch(TOO_LARGE)
    return between.join(texts)


def check_times(left: Any, right: Any) -> None:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, str | list | tuple) and isinstance(other, int) and weight(one) * max(other, 0) > LARGEST:
            raise TooMuch(TOO_LARGE)


def check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * max(right, 0) > MOST_BITS:
        raise TooMuch("it computes with a number that is too large")


def _check_number(_: Any, *args: Any, **kwargs: Any) -> None:
    """For filters that repeat something as often as one of their arguments says."""
    if any(isinstance(value, int) and abs(value) > MOST_NUMBER for value in (*args, *kwargs.values())):
        raise TooMuch(f"a filter takes numbers up to {MOST_NUMBER:,} to say how often or how wide")


def _check_sum(_: Any, __: Any, *args: Any, **kwargs: Any) -> None:
    if any(isinstance(value, list | tuple) for value in (*args, *kwargs.values())):
        raise Refused("`sum` is for numbers; put lists together with +")


def _check_indent(text: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    wide = len(width) if isinstance(width, str) else int(width)
    if isinstance(text, str) and (text.count("\n") + 1) * wide > LARGEST:
        raise TooMuch(TOO_LARGE)


CHECKS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(("batch", "slice", "round"), _check_number),
    "sum": _check_sum,
    "indent": _check_indent,
}
