"""A person's arguments are taken exactly as they were given, or refused with a sentence that helps."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horarium.content import canonical, clean_json
from horarium.edits import check_edit, check_secrets
from horarium.errors import ArgumentsRejected
from horarium.secrets import conceal

SECRET = "hunter2-of-the-edits-test"


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.nan, "NaN"),
        ([1, {"deep": -math.inf}], "NaN or an infinity"),
        ("a\x00b", "NUL"),
        ("\ud83d", "half of a surrogate pair"),
        ({"\x00": 1}, "NUL"),
        (2**63, "more than 64 bits"),
        (nested(300), "64 deep"),
    ],
    ids=str,
)
def test_what_could_not_be_kept_as_it_is_is_refused_and_the_argument_named(value: Any, reason: str) -> None:
    with pytest.raises(ArgumentsRejected, match=rf"edited argument 'to' holds .*{reason}"):
        check_edit({"amount": 7, "to": value})


def test_a_secret_is_refused_and_not_repeated() -> None:
    conceal(SECRET)

    with pytest.raises(ArgumentsRejected, match="edited argument 'note' holds a secret") as refused:
        check_secrets({"amount": 7, "note": [f"the password is {SECRET}"]})

    assert SECRET not in str(refused.value)
    with pytest.raises(ArgumentsRejected) as refused:
        check_secrets({SECRET: 1})
    assert SECRET not in str(refused.value)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), _json, max_size=4))
def test_what_is_not_refused_is_kept_to_the_letter(arguments: dict[str, Any]) -> None:
    try:
        check_edit(arguments)
        check_secrets(arguments)
    except ArgumentsRejected:
        return
    assert canonical(clean_json(arguments)) == canonical(arguments)
