"""What a run hands over to its next execution comes out as it went in, and a forged one harms nobody."""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.packing import MOST_BYTES, PLAIN_CHARS, packed, unpacked

_items = st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none(), max_size=3), max_size=5)


@given(_items, st.integers(0, 20_000))
def test_what_was_packed_comes_out_the_same(items: list[dict[str, Any]], more: int) -> None:
    items = [*items, {"text": "long " * (more // 5)}]

    assert unpacked(packed(items)) == items


def test_little_stays_readable_and_much_becomes_short() -> None:
    little, much = [{"text": "x"}], [{"text": f"person {n}"} for n in range(5_000)]

    assert packed(little) == little
    assert isinstance(packed(much), str)
    assert PLAIN_CHARS < len(packed(much)) < len(json.dumps(much)) / 3


@pytest.mark.parametrize(
    "forged",
    [
        "no base64!",
        b64encode(b"not packed").decode(),
        b64encode(zlib.compress(b"[{}]")[:-3]).decode(),
        b64encode(zlib.compress(b"no json")).decode(),
        b64encode(zlib.compress(b" " * (MOST_BYTES + 1) + b"[]")).decode(),
    ],
    ids=["no base64", "not packed", "cut", "no JSON", "too long when opened"],
)
def test_what_nobody_packed_is_refused(forged: str) -> None:
    with pytest.raises(ValueError):  # whichever of its kinds: the run is told one sentence
        unpacked(forged)
