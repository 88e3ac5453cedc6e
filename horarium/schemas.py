"""Whether arguments fit a schema that strangers may have written: what the check costs is bounded.

Patterns go to an engine that never searches in circles, steps are counted, and no reference is looked up elsewhere.
Whoever serves the tool checks its arguments as well; what cannot be checked here is left to them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.validators import extend
from pydantic_core import SchemaError, SchemaValidator, core_schema
from referencing import Registry
from referencing.exceptions import Unresolvable

from horarium.content import canonical

MOST_STEPS = 50_000  # keywords looked at in one check, about a second; an honest one needs some thousand
MOST_CHARS = 200  # of one message
ITEMS_IN_A_STEP = 10  # that are compared with each other
Check = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]

_steps: ContextVar[list[int]] = ContextVar("steps")
_shared: ContextVar[list[int] | None] = ContextVar("shared", default=None)


class _TooMuch(Exception):
    """The check needs more steps than any honest schema."""


@dataclass(frozen=True, slots=True)
class Miss:
    """One place in which a value misses a schema: where, as a path, and why."""

    where: tuple[str | int, ...]
    why: str

    def __str__(self) -> str:
        path = "/".join(map(str, self.where))
        return f"{self.why}" + (f" (at {path!r})" if path else "")


def schema_problem(parameters: Mapping[str, Any], arguments: Any) -> str | None:
    """Say in one sentence where the arguments miss the schema; None when they fit."""
    try:
        error = _first_error(parameters, arguments)
    except (_TooMuch, Unresolvable, RecursionError) as problem:
        return f"they cannot be checked, because the tool's schema {_words(problem)}"
    if error is None:
        return None
    where = "/".join(str(part) for part in error.absolute_path)
    return f"{error.message}" + (f" (at {where!r})" if where else "")


def problems(schema: Mapping[str, Any], value: Any, most: int) -> tuple[Miss, ...]:
    """The first places in which a value misses a schema; none when it fits."""
    token = _steps.set([MOST_STEPS])
    try:
        errors = list(islice(_validator(canonical(schema)).iter_errors(value), most))
        found = [best_match([error]) or error for error in errors]
    except (_TooMuch, Unresolvable, RecursionError) as problem:
        return (Miss((), f"It cannot be checked: the schema {_words(problem)}"),)
    finally:
        _steps.reset(token)
    return tuple(Miss(tuple(error.absolute_path), _shortened(error.message)) for error in found)


def _shortened(message: str) -> str:
    """The value that is wrong stands in front, whole; what is wrong with it, at the end."""
    return message if len(message) <= MOST_CHARS else f"{message[:60]}… {message[-(MOST_CHARS - 62) :]}"


@contextmanager
def in_one_check() -> Iterator[None]:
    """Whatever is checked meanwhile has the steps of one check together."""
    token = _shared.set([MOST_STEPS])
    try:
        yield
    finally:
        _shared.reset(token)


def nothing_checked_by(parameters: Mapping[str, Any]) -> str | None:
    """Why nothing can be checked by a schema; None when it can. A reference shows its end only when it is followed."""
    try:
        _first_error(parameters, {})
    except (_TooMuch, Unresolvable, RecursionError) as problem:
        return _words(problem)
    return None


def _first_error(parameters: Mapping[str, Any], arguments: Any) -> ValidationError | None:
    token = _steps.set(_shared.get() or [MOST_STEPS])
    try:
        found: ValidationError | None = best_match(_validator(canonical(parameters)).iter_errors(arguments))
    finally:
        _steps.reset(token)
    return found


def _words(problem: Exception) -> str:
    match problem:
        case _TooMuch():
            return "needs too many steps"
        case RecursionError():
            return "goes round in circles"
        case _:
            return f"has a reference that leads nowhere: {str(problem).splitlines()[0][:200]}"


@lru_cache(maxsize=512)
def _validator(schema: str) -> Draft202012Validator:
    # Which names other keywords have looked at is found out with Python's own patterns.
    kind = _WITHOUT_UNEVALUATED if '"patternProperties"' in schema else _BOUNDED
    made: Draft202012Validator = kind(json.loads(schema), registry=Registry())
    return made


@lru_cache(maxsize=2_048)
def _pattern(text: str) -> SchemaValidator | None:
    """A pattern for an engine whose time grows with the text and no faster; None: it does not know such patterns."""
    try:
        return SchemaValidator(core_schema.str_schema(pattern=text, regex_engine="rust-regex", strict=True))
    except SchemaError:
        return None


def _fits(pattern: Any, text: str) -> bool | None:
    """Whether a pattern is in a text; None when nobody here can tell."""
    engine = _pattern(pattern) if isinstance(pattern, str) else None
    return engine.isinstance_python(text) if engine is not None else None


def _pattern_keyword(validator: Any, pattern: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(value, str) and _fits(pattern, value) is False:
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    for pattern, inner in patterns.items() if isinstance(value, dict) else ():
        for name, item in value.items():
            if _fits(pattern, name):
                yield from validator.descend(item, inner, path=name, schema_path=pattern)


def _additional_properties(validator: Any, inner: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    patterns = schema.get("patternProperties", {})
    for name, item in value.items() if isinstance(value, dict) else ():
        if name in schema.get("properties", {}) or any(_fits(pattern, name) is not False for pattern in patterns):
            continue
        if inner is False:
            yield ValidationError(f"Additional properties are not allowed ({name!r} was unexpected)")
        elif isinstance(inner, dict):
            yield from validator.descend(item, inner, path=name)


def _multiple_of(validator: Any, unit: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    """By the decimals that stand there: binary ones overflow, and make 4.02 no multiple of 0.01."""
    if not validator.is_type(value, "number"):
        return
    finite = isinstance(value, int) or math.isfinite(value)
    if not finite or (_decimals(value) / _decimals(unit)).denominator != 1:
        yield ValidationError(f"{value!r} is not a multiple of {unit!r}")


def _decimals(number: float) -> Fraction:
    return Fraction(number) if isinstance(number, int) else Fraction(repr(number))


def _unique_items(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    """In time that grows with the items, and not with their pairs."""
    if wanted is not True or not isinstance(value, list):
        return
    _steps.get()[0] -= len(value) // ITEMS_IN_A_STEP
    if len({_same(item) for item in value}) < len(value):
        yield ValidationError(f"{value!r} has non-unique elements")


def _same(value: Any) -> Any:
    """Equal for what JSON Schema calls equal: 1 and 1.0 are, and 1 and true are not. Hashed as texts alone."""
    match value:
        case dict():
            return frozenset((name, _same(inner)) for name, inner in value.items())
        case list():
            return tuple(_same(inner) for inner in value)
        case str():
            return f"s{value}"
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return repr(value)


def _counted(check: Check) -> Check:
    def counted(validator: Any, said: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
        left = _steps.get()
        left[0] -= 1
        if left[0] < 0:
            raise _TooMuch
        yield from check(validator, said, value, schema) or ()

    return counted


_CHECKS: dict[str, Check] = {
    **Draft202012Validator.VALIDATORS,
    "multipleOf": _multiple_of,
    "uniqueItems": _unique_items,
    "pattern": _pattern_keyword,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
}
_BOUNDED: Any = extend(Draft202012Validator, {name: _counted(check) for name, check in _CHECKS.items()})  # type: ignore[no-untyped-call]
_WITHOUT_UNEVALUATED: Any = extend(_BOUNDED, {"unevaluatedProperties": lambda *_said: None})  # type: ignore[no-untyped-call]
