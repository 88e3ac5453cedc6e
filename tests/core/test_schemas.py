"""Checking arguments against schemas that strangers wrote: the check ends soon, and asks nobody else."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from horarium.contract import CallerFunction
from horarium.errors import ConfigError
from horarium.functions import check_functions
from horarium.schemas import nothing_checked_by, schema_problem
from horarium.structured import judged


def obj(**more: Any) -> dict[str, Any]:
    return {"type": "object", **more}


def laughing() -> dict[str, Any]:
    """Forty levels, each of which needs the one below twice."""
    levels: dict[str, Any] = {"d0": {"type": "object"}}
    for level in range(1, 40):
        levels[f"d{level}"] = {"allOf": [{"$ref": f"#/$defs/d{level - 1}"}] * 2}
    return obj(**{"$defs": levels, "allOf": [{"$ref": "#/$defs/d39"}]})


def branching() -> dict[str, Any]:
    """Each level of the arguments is looked at twice as often as the one above."""
    return obj(properties={"x": {"anyOf": [{"$ref": "#", "minProperties": 9}] * 2}})


def nested(levels: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for _ in range(levels):
        made = {"x": made}
    return made


SLOW = "a" * 40 + "!"


@pytest.mark.parametrize(
    ("schema", "arguments", "says"),
    [
        (obj(properties={"q": {"pattern": "^(a+)+$"}}), {"q": SLOW}, "does not match"),
        (obj(patternProperties={"^(a+)+$": {"type": "string"}}), {SLOW: 1}, None),
        (obj(patternProperties={"^(a+)+$": {}}, additionalProperties=False), {SLOW: 1}, "not allowed"),
        (obj(patternProperties={"^(a+)+$": {}}, unevaluatedProperties=False), {SLOW: 1}, None),
        (obj(propertyNames={"pattern": "^(a+)+$"}), {SLOW: 1}, "does not match"),
        (laughing(), {}, "too many steps"),
        (branching(), nested(40), "too many steps"),
        (obj(allOf=[{"$ref": "#"}]), {}, "goes round in circles"),
        (obj(properties={"x": {"$ref": "#/nope"}}), {"x": 1}, "leads nowhere"),
        (obj(properties={"x": {"$ref": "http://127.0.0.1:9/x.json"}}), {"x": 1}, "leads nowhere"),
    ],
)
def test_no_schema_keeps_the_worker_busy_or_leads_elsewhere(schema: Any, arguments: Any, says: str | None) -> None:
    began = time.monotonic()

    problem = schema_problem(schema, arguments)

    assert problem is None if says is None else says in (problem or "")
    assert time.monotonic() - began < 10


def test_patterns_hold_and_those_that_nobody_here_knows_are_left_to_whoever_serves_the_tool() -> None:
    schema = obj(
        properties={"id": {"type": "string", "pattern": r"^\d{3}$"}, "ahead": {"pattern": r"^(?!x)"}},
        patternProperties={"^n_": {"type": "integer"}},
        additionalProperties={"type": "boolean"},
    )

    assert schema_problem(schema, {"id": "123", "ahead": "x", "n_a": 1, "other": True}) is None
    assert "does not match" in (schema_problem(schema, {"id": "12a"}) or "")
    assert "at 'n_a'" in (schema_problem(schema, {"n_a": "1"}) or "")
    assert "at 'other'" in (schema_problem(schema, {"other": 1}) or "")


def test_a_schema_that_nothing_can_be_checked_by_is_known_before_it_is_used() -> None:
    assert nothing_checked_by(obj(required=["a"])) is None
    assert nothing_checked_by(laughing()) == "needs too many steps"
    assert nothing_checked_by(obj(allOf=[{"$ref": "#"}])) == "goes round in circles"


@pytest.mark.parametrize(
    ("schema", "text", "fits"),
    [
        ({"multipleOf": 0.5}, "1" + "0" * 400, True),
        ({"multipleOf": 0.5}, "1e999", False),
        ({"multipleOf": 10**400}, "1.5", False),
        ({"multipleOf": 10**400}, "2" + "0" * 400, True),
        ({"multipleOf": 0.01}, "4.02", True),
        ({"multipleOf": 3}, "7", False),
        ({"uniqueItems": True}, "[1, true, 0, false, null, [], {}, [1], [true]]", True),
        ({"uniqueItems": True}, '[{"a": [1]}, {"a": [1.0]}]', False),
        ({"uniqueItems": True}, '["1", 1, "null", null]', True),
        ({"uniqueItems": False}, "[1, 1]", True),
    ],
)
def test_numbers_of_any_size_and_equal_items_are_judged_and_nothing_breaks(schema: Any, text: str, fits: bool) -> None:
    assert (judged(schema, text).problem is None) is fits


def test_many_items_and_many_schemas_take_no_longer_than_one_check() -> None:
    items = json.dumps([{"a": number} for number in range(20_000)])
    levels = {f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(12)}
    costly = obj(**{"$defs": {**levels, "d12": {}}, "allOf": [{"$ref": "#/$defs/d0"}]})
    functions = [CallerFunction(name=f"f{number}", parameters={**costly, "title": f"{number}"}) for number in range(9)]
    started = time.process_time()

    assert judged({"uniqueItems": True}, items).problem is None
    check_functions(functions[:1])
    with pytest.raises(ConfigError, match="too many steps"):
        check_functions(functions)

    assert time.process_time() - started < 5
