"""What is different between two calls: no value is taken for another, and what nobody would see is seen."""

from __future__ import annotations

import json

import pytest

from horarium.gateway.console.similar import MOST, Change, difference
from horarium.visible import editable_json


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": True}, [Change("a", "1", "true")]),
        ({"a": "1"}, {"a": 1}, [Change("a", '"1"', "1")]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1]}}, [Change("a.b[1]", "2", None)]),
        ({}, {"to": "eve\u202e"}, [Change("to", None, '"eve<U+202E>"')]),
        ({"a": None}, {}, [Change("a", "null", None)]),
    ],
)
def test_each_value_that_changed_is_named(before: object, after: object, changes: list[Change]) -> None:
    found = difference(json.dumps(before), json.dumps(after))

    assert found is not None
    assert list(found.changes) == changes


def test_a_long_text_is_shown_around_what_differs_and_many_changes_are_counted() -> None:
    same = "word " * 200
    found = difference(json.dumps({"text": f"{same}yes{same}"}), json.dumps({"text": f"{same}no{same}"}))
    many = difference(json.dumps({"items": []}), json.dumps({"items": list(range(MOST + 3))}))

    assert found is not None
    assert many is not None
    [change] = found.changes
    assert "yes" in str(change.before)
    assert "no" in str(change.after)
    assert len(str(change.before)) < 100
    assert (len(many.changes), many.more) == (MOST, 3)


def test_what_cannot_be_read_is_not_compared() -> None:
    assert difference("", "{}") is None


def test_arguments_to_change_are_the_same_and_hide_nothing() -> None:
    arguments = {"to": "a\u202eb\u200b\U000e0041", "keep": "é 漢"}
    text = editable_json(json.dumps(arguments))

    assert json.loads(text) == arguments
    assert r"a\u202eb\u200b\udb40\udc41" in text
    assert "é 漢" in text
