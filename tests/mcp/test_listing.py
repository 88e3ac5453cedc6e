"""From a server's words to a tool of a run: names, schemas, sizes."""

from __future__ import annotations

from typing import Any

import mcp_types as types
import pytest

from activities.mcp.listing import MOST_NAME, pinned, said_of
from horarium.errors import ConfigError
from horarium.mcpservers import McpServer
from horarium.tools import Effect

SERVER = McpServer(url="https://tickets.example.com/mcp", effects={"get_*": Effect.READ})


def _tool(name: str = "close", schema: Any = None, **more: Any) -> types.Tool:
    return types.Tool(name=name, input_schema=schema or {"type": "object"}, **more)


DOUBLED: dict[str, Any] = {"d0": {"type": "object"}} | {
    f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level - 1}"}] * 2} for level in range(1, 40)
}


def _spec(tool: types.Tool) -> Any:
    return pinned("tickets", SERVER, said_of(tool)).spec


def test_a_name_that_no_provider_accepts_is_made_one() -> None:
    assert _spec(_tool("close.ticket/now")).name == "tickets__close_ticket_now"


def test_names_too_long_are_cut_and_stay_different() -> None:
    first, second = (_spec(_tool("a" * 100 + end)).name for end in "xy")

    assert (len(first), len(second)) == (MOST_NAME, MOST_NAME)
    assert first != second


def test_the_effect_is_the_definitions_and_else_external() -> None:
    assert _spec(_tool("get_ticket")).effect is Effect.READ
    assert _spec(_tool("close", annotations=types.ToolAnnotations(read_only_hint=True))).effect is Effect.EXTERNAL


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"type": "string"}, "no object"),
        ({"type": "object", "properties": {"a": {"type": "no type"}}}, "not valid"),
        ({"type": "object", "properties": {"a": {"$ref": "https://evil.example/s.json"}}}, "outside of itself"),
        ({"type": "object", "allOf": [{"$ref": "#/nowhere"}]}, "cannot be used"),
        ({"type": "object", "allOf": [{"$ref": "#"}]}, "circles"),
        ({"type": "object", "$defs": DOUBLED, "allOf": [{"$ref": "#/$defs/d39"}]}, "too many steps"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_by_name(schema: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=r"'close' of 'tickets'") as refused:
        _spec(_tool(schema=schema))

    assert word in str(refused.value)


def test_words_that_would_fill_every_prompt_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most"):
        said_of(_tool(description="x" * 200_000))


@pytest.mark.parametrize(
    "other",
    [
        {"description": "Closes it!"},
        {"schema": {"type": "object", "properties": {"a": {}}}},
        {"output_schema": {"type": "object"}},
        {"annotations": types.ToolAnnotations(destructive_hint=False)},
        {"title": "Close"},
    ],
)
def test_whatever_a_server_says_otherwise_changes_the_digest(other: dict[str, Any]) -> None:
    assert said_of(_tool(**other)).digest != said_of(_tool()).digest


def test_a_url_with_a_password_is_refused_and_an_address_shows_no_query() -> None:
    with pytest.raises(ValueError, match="password"):
        McpServer(url="https://me:hunter2@tickets.example.com/mcp")

    assert McpServer(url="https://a.example/mcp?key=hunter2").address == "https://a.example/mcp"
