"""What may be stored: whatever comes in, what goes out is text that every database and client takes."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from horarium.content import (
    HEAD_CHARS,
    TAIL_CHARS,
    call_digest,
    canonical,
    clean,
    clean_json,
    clean_text,
    cut,
    digest,
    digest_text,
    shorten,
)

any_text = st.text(st.characters(codec=None, categories=None, exclude_categories=()))  # lone surrogates and NUL too
scalars = st.none() | st.booleans() | st.integers() | st.floats() | any_text | st.binary() | st.dates()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.dictionaries(any_text | st.integers(), inner)
        | st.frozensets(st.integers())
    ),
    max_leaves=20,
)
plain_text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | plain_text,
    lambda inner: st.lists(inner) | st.dictionaries(plain_text, inner),
    max_leaves=20,
)


def storable(text: str) -> bool:
    return "\x00" not in text and text.encode("utf-8").decode("utf-8") == text


@given(values)
def test_whatever_a_tool_returns_becomes_storable(value: Any) -> None:
    cleaned = clean(value)

    assert storable(cleaned.text)
    if not isinstance(value, str | bytes):
        json.loads(cleaned.text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@given(values)
def test_what_was_cleaned_stays_as_it_is(value: Any) -> None:
    once = clean_json(value)

    assert clean_json(once) == once
    canonical(once)


@given(json_values)
def test_what_is_plain_json_is_not_altered(value: Any) -> None:
    assert clean_json(value) == value
    assert clean([value]).changes == ()


@given(json_values)
def test_equal_values_have_equal_digests_whatever_the_order_of_their_keys(value: Any) -> None:
    assert digest(value) == digest(json.loads(canonical(value)))
    if isinstance(value, dict):
        assert digest(dict(reversed(value.items()))) == digest(value)


@given(any_text)
def test_cleaned_text_has_the_same_length_and_says_whether_it_changed(text: str) -> None:
    cleaned, changed = clean_text(text)

    assert storable(cleaned)
    assert len(cleaned) == len(text)
    assert changed == (cleaned != text)


def test_bytes_that_are_text_become_text_and_others_stay_bytes() -> None:
    assert clean("grün".encode()) == ("grün", None, ())
    assert clean(b"\xff\xfe") == ("", b"\xff\xfe", ("binary",))
    assert clean(bytearray(b"a\x00b")).binary == b"a\x00b"


def test_numbers_that_json_does_not_know_become_words() -> None:
    cleaned = clean([math.nan, -math.inf, 2**64, 10**5000])

    assert json.loads(cleaned.text)[:3] == ["NaN", "-Infinity", str(2**64)]
    assert cleaned.changes == ("not_a_number", "number_too_large")


def test_models_dataclasses_and_other_objects_become_plain_json() -> None:
    class Point(BaseModel):
        x: int

    @dataclasses.dataclass
    class Line:
        ends: tuple[int, int]

    assert clean_json([Point(x=1), Line((1, 2)), {3, 1}, date(2026, 11, 21)]) == [
        {"x": 1},
        {"ends": [1, 2]},
        [1, 3],
        "2026-11-21",
    ]


def test_an_approval_binds_to_tool_schema_and_arguments() -> None:
    base = call_digest("pay", "sha256:s", {"amount": 7, "to": "x"})

    assert call_digest("pay", "sha256:s", {"to": "x", "amount": 7}) == base
    others = [("ship", "sha256:s", {"amount": 7, "to": "x"}), ("pay", "sha256:t", {"amount": 7, "to": "x"})]
    others += [("pay", "sha256:s", {"amount": 7.5, "to": "x"}), ("pay", "sha256:s", {"amount": 7})]
    assert base not in {call_digest(*other) for other in others}


def test_nan_has_no_digest() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest(math.nan)
    assert digest_text("\ud800").startswith("sha256:")


@given(st.integers(0, 40_000))
def test_a_cut_keeps_head_and_tail_and_counts_what_is_missing(length: int) -> None:
    text = "".join(chr(97 + n % 26) for n in range(length))

    shown = cut(text, 12_345)

    if length <= HEAD_CHARS + TAIL_CHARS:
        assert shown == text
    else:
        assert shown.startswith(text[:HEAD_CHARS])
        assert shown.endswith(text[-TAIL_CHARS:])
        assert f"{length - HEAD_CHARS - TAIL_CHARS:,} characters left out" in shown
        assert "12,345 bytes" in shown


@given(st.text(), st.integers(1, 30))
def test_shortened_text_fits(text: str, limit: int) -> None:
    assert len(shorten(text, limit)) <= limit
    assert shorten(text, len(text)) == text
