"""The tools that the engine itself has: their specs, by name."""

from __future__ import annotations

from horarium.tools import Effect, ToolSpec

FIND_TOOLS = ToolSpec(
    name="find_tools",
    description=(
        "Look for tools by what they do. Only some of the tools are shown at a time; what this finds is shown from "
        "the next turn on and can be called then."
    ),
    parameters={
        "type": "object",
        "properties": {"query": {"type": "string", "description": "What the tool should do, in a few words."}},
        "required": ["query"],
        "additionalProperties": False,
    },
    effect=Effect.READ,
)
