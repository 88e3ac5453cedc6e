"""What a run hands over to its next execution, packed when there is much of it: a payload of Temporal's is small."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from typing import Any

PLAIN_CHARS = 8_000  # up to here it stays readable in Temporal's own UI
MOST_BYTES = 16 * 1024 * 1024  # of what was packed: a request that somebody made up must not fill the memory


def packed(items: list[dict[str, Any]]) -> list[dict[str, Any]] | str:
    """The items as they are, or when they are many, as one short text."""
    text = json.dumps(items, separators=(",", ":"), ensure_ascii=False)
    return items if len(text) <= PLAIN_CHARS else b64encode(zlib.compress(text.encode())).decode()


def unpacked(value: list[dict[str, Any]] | str) -> list[dict[str, Any]]:
    """What was packed.

    Raises:
        ValueError: It is nothing that `packed` makes.
    """
    if not isinstance(value, str):
        return value
    opened = zlib.decompressobj()
    try:
        text = opened.decompress(b64decode(value, validate=True), MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"cannot be unpacked: {error}") from error
    if not opened.eof:
        raise ValueError("is cut, or longer than anything that is handed over")
    items: list[dict[str, Any]] = json.loads(text)
    return items
