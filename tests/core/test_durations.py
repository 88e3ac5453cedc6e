"""Durations as people write them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from horarium.definition import Duration
from horarium.durations import duration, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", timedelta(seconds=30)),
        ("80ms", timedelta(milliseconds=80)),
        ("1.5m", timedelta(seconds=90)),
        ("1h30m", timedelta(minutes=90)),
        (" 2d ", timedelta(days=2)),
        ("1w", timedelta(weeks=1)),
        ("PT15M", timedelta(minutes=15)),
    ],
)
def test_a_duration_reads_as_it_is_written(text: str, expected: timedelta) -> None:
    assert TypeAdapter(Duration).validate_python(text) == expected


@pytest.mark.parametrize("wrong", ["", "s", "30", "30 s", "1h 30", "m5", "-5s", "5 minutes", "1h30", "1e3s"])
def test_what_is_no_duration_is_refused_with_examples(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"write e\.g\. 30s, 15m, 1h30m or 2d"):
        duration(wrong)


@pytest.mark.parametrize("number", [30, 1.5, True])
def test_a_bare_number_has_no_unit(number: Any) -> None:
    with pytest.raises(ValueError, match="needs a unit"):
        duration(number)


@given(st.integers(60, 10**7))
def test_what_is_said_in_words_reads_back_the_same(seconds: int) -> None:
    value = timedelta(seconds=seconds)

    assert duration(words(value).replace(" ", "")) == value


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    try:
        assert isinstance(duration(text), timedelta | str)
    except ValueError:
        pass
    except OverflowError:
        pytest.fail(f"{text!r} is not refused in words")


def test_a_duration_that_no_clock_can_count_is_refused() -> None:
    with pytest.raises(ValueError, match="no duration"):
        duration("9999999999999d")
