"""Structured output, as servers of OpenAI's protocols are asked for it.

Only a help: the instructions say what is wanted, and the engine checks what comes. So what a server does not have is
left out, and schemas that it would refuse are not sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from activities.models.families import Api
from horarium.structured import ANY_OBJECT

NAME = "answer"
_HELD_SCHEMAS = ("$defs", "definitions", "properties")


def answer_format(schema: Mapping[str, Any] | None, api: Api) -> dict[str, Any] | None:
    """The value of `text.format`, or of `response_format`; None where there is nothing to ask for."""
    if schema is None or schema.get("type") != "object":
        return None  # they know objects alone
    if schema == ANY_OBJECT:
        return {"type": "json_object"}
    said = {"name": NAME, "schema": dict(schema), "strict": is_strict(schema)}
    return {"type": "json_schema", **said} if api == "responses" else {"type": "json_schema", "json_schema": said}


def is_strict(schema: Any) -> bool:
    """Whether every object in it has all its fields and no others: only such a schema is held to, token by token.

    Source: the guide to structured outputs of OpenAI and Azure OpenAI, read 2026-11.
    """
    match schema:
        case dict():
            fields = schema.get("properties")
            if schema.get("type") == "object" or fields is not None:
                whole = set(schema.get("required", ())) == set(fields or {})
                if not whole or schema.get("additionalProperties") is not False:
                    return False
            return all(_are_strict(name, value) for name, value in schema.items())
        case list():
            return all(map(is_strict, schema))
        case _:
            return True


def _are_strict(keyword: str, value: Any) -> bool:
    if keyword in _HELD_SCHEMAS and isinstance(value, dict):
        return all(map(is_strict, value.values()))
    return keyword in ("enum", "const", "default", "examples") or is_strict(value)
