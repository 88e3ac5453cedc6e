"""What may be stored: canonical JSON, digests, and the cleaning of what tools and models return.

Anything can come out of a tool: NaN, NUL, half a surrogate pair, bytes, 300 MB. Temporal's
JSON converter lets most of it pass and PostgreSQL or an HTTP client breaks on it later, so it
is made harmless here, once, where it enters.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

from pydantic import BaseModel

from horarium.secrets import redact

INLINE_BYTES = 16 * 1024  # more than this goes to the blob store; the model gets a cut
HEAD_CHARS = 6 * 1024
TAIL_CHARS = 2 * 1024
_PIECE = 1 << 20
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class Cleaned(NamedTuple):
    """A value that can be stored and sent anywhere."""

    text: str
    binary: bytes | None
    changes: tuple[str, ...]


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text.

    Raises:
        ValueError: The value holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """`sha256:` of the canonical JSON, in hex."""
    return digest_text(canonical(value))


def digest_text(text: str) -> str:
    """`sha256:` of the UTF-8 text, in hex."""
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()}"


def call_digest(tool: str, schema_digest: str, arguments: Mapping[str, Any]) -> str:
    """What an approval is bound to: the tool, its schema, and the exact arguments."""
    return digest({"tool": tool, "schema": schema_digest, "arguments": arguments})


def clean_text(text: str) -> tuple[str, bool]:
    """Replace NUL and lone surrogates by U+FFFD and take secrets out; say whether any character was replaced."""
    if len(text) <= _PIECE:
        cleaned, count = _UNSTORABLE.subn("\ufffd", text)
        return redact(cleaned), count > 0
    # In pieces, because one pass over hundreds of megabytes would hold the interpreter for seconds.
    pieces = [_UNSTORABLE.subn("\ufffd", text[start : start + _PIECE]) for start in range(0, len(text), _PIECE)]
    return redact("".join(piece for piece, _ in pieces)), any(count for _, count in pieces)


def clean(value: Any) -> Cleaned:
    """Turn a tool's return value into text, or into bytes that are kept as they are.

    Strings stay as they are; everything else becomes JSON. NaN and infinities become the strings "NaN",
    "Infinity" and "-Infinity"; models, dataclasses, sets and tuples become plain JSON; what JSON
    does not know becomes its `str`. `changes` names what was altered.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            return Cleaned("", data, ("binary",))
        if "\x00" in text:
            return Cleaned("", data, ("binary",))
        return Cleaned(redact(text), None, ())
    changes: list[str] = []
    if isinstance(value, str):
        text, changed = clean_text(value)
        return Cleaned(text, None, ("unstorable_characters",) if changed else ())
    plain = _plain(value, changes, 0)
    text, changed = clean_text(json.dumps(plain, ensure_ascii=False, allow_nan=False))
    if changed:
        changes.append("unstorable_characters")
    return Cleaned(text, None, tuple(dict.fromkeys(changes)))


def clean_json(value: Any) -> Any:
    """JSON-like data with every string storable and every number finite."""
    return _plain(value, [], 0)


def cut(text: str, size_bytes: int) -> str:
    """Head and tail of a long text, with a note of what is missing between them."""
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    missing = len(text) - HEAD_CHARS - TAIL_CHARS
    return (
        f"{text[:HEAD_CHARS]}\n[… {missing:,} characters left out here; "
        f"the whole output is {size_bytes:,} bytes and is kept …]\n{text[-TAIL_CHARS:]}"
    )


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, with an ellipsis where something was left out."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _plain(value: Any, changes: list[str], depth: int) -> Any:
    if depth > 200:
        changes.append("nested_too_deep")
        return "…"
    match value:
        case None | bool():
            return value
        case int():
            if -(2**63) <= value < 2**63:
                return value
            changes.append("number_too_large")
            return str(value) if abs(value) < 10**4000 else hex(value)
        case float():
            if math.isfinite(value):
                return value
            changes.append("not_a_number")
            return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
        case str():
            text, changed = clean_text(value)
            if changed:
                changes.append("unstorable_characters")
            return text
        case bytes() | bytearray() | memoryview():
            changes.append("binary")
            data = bytes(value)
            return f"<{len(data)} bytes, sha256:{hashlib.sha256(data).hexdigest()}>"
        case BaseModel():
            return _plain(value.model_dump(mode="python"), changes, depth + 1)
        case Mapping():
            return {
                clean_text(key if isinstance(key, str) else str(key))[0]: _plain(item, changes, depth + 1)
                for key, item in value.items()
            }
        case Sequence():
            return [_plain(item, changes, depth + 1) for item in value]
        case Set():
            return sorted((_plain(item, changes, depth + 1) for item in value), key=str)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return _plain(dataclasses.asdict(value), changes, depth + 1)
        case _:
            return clean_text(str(value))[0]
