"""What the OpenAPI document says of the parts of a request that are read piece by piece (`inputs`, `requests`).

They are plain JSON to FastAPI, so that what is wrong with one is told by its name and its place.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import WithJsonSchema

_NAME = {"type": "string", "pattern": r"^[a-zA-Z_][a-zA-Z0-9_\-]{0,63}$"}


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _text(*kinds: str, **more: Any) -> dict[str, Any]:
    return _object(("type", "text"), type={"enum": list(kinds)}, text={"type": "string", **more})


def _message(*roles: str, content: dict[str, Any]) -> dict[str, Any]:
    kind = {"const": "message", "description": "May be left out."}
    return {"title": "Message", **_object(("role", "content"), type=kind, role={"enum": list(roles)}, content=content)}


def _list(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": part}


_PARTS = {
    "anyOf": [
        _text("input_text", "output_text", "text"),
        _object(("type", "refusal"), type={"const": "refusal"}, refusal={"type": "string"}),
    ]
}
_SAID = _message(*("user", "assistant", "system", "developer"), content={"anyOf": [{"type": "string"}, _list(_PARTS)]})
_WORDS = {"pattern": r"\S"}
_ADDED = _message(
    *("user", "system", "developer"),
    content={"anyOf": [{"type": "string", **_WORDS}, {**_list(_text("input_text", **_WORDS)), "minItems": 1}]},
)
_ANSWER = _object(
    ("type", "approval_request_id", "approve"),
    type={"const": "mcp_approval_response"},
    approval_request_id={"type": "string"},
    approve={"type": "boolean"},
    reason={"anyOf": [{"type": "string", "maxLength": 2_000}, {"type": "null"}]},
)
_OUTPUT = _object(
    ("type", "call_id", "output"),
    type={"const": "function_call_output"},
    call_id={"type": "string"},
    output={"anyOf": [{"type": "string"}, _list(_text("input_text"))]},
)
_EARLIER = ("mcp_call", "function_call", "reasoning", "mcp_list_tools", "mcp_approval_request")
_ECHO = {"title": "Item of an earlier response", **_object(("type",), type={"enum": list(_EARLIER)})}
_FUNCTION = {
    **_object(
        ("type", "name"),
        type={"const": "function"},
        name=_NAME,
        description={"anyOf": [{"type": "string", "maxLength": 20_000}, {"type": "null"}]},
        parameters={"anyOf": [{"type": "object", "properties": {"type": {"const": "object"}}}, {"type": "null"}]},
        strict={"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    ),
    "additionalProperties": False,
}
_NAMED = _object(("type", "name"), type={"const": "function"}, name=_NAME)
_ALLOWED = _object(
    ("type", "mode", "tools"),
    type={"const": "allowed_tools"},
    mode={"enum": ["auto", "required"]},
    tools={**_list(_NAMED), "minItems": 1},
)

InputItem = Annotated[dict[str, Any], WithJsonSchema({"anyOf": [_SAID, _ANSWER, _OUTPUT, _ECHO]})]
"""An item of a request's input."""

AddedMessage = Annotated[dict[str, Any], WithJsonSchema(_ADDED)]
"""A message that is put into a conversation."""

Function = Annotated[dict[str, Any], WithJsonSchema(_FUNCTION)]
"""A function that the client carries out."""

Choice = Annotated[
    str | dict[str, Any], WithJsonSchema({"anyOf": [{"enum": ["auto", "none", "required"]}, _NAMED, _ALLOWED]})
]
"""Which function has to be called, or which may be."""
