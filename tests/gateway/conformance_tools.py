"""The tools that MCP's conformance suite calls, as Python tools."""

from __future__ import annotations

import time

from horarium.tools import Effect, Tool, ToolError, tool

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c4944415408d763f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


@tool(effect=Effect.READ)
def test_simple_text() -> str:
    """Return simple text."""
    return "This is a simple text response for testing."


@tool(effect=Effect.READ)
def test_image_content() -> bytes:
    """Return a picture."""
    return PNG


@tool(effect=Effect.READ)
def test_audio_content() -> bytes:
    """Return a sound."""
    return (
        b"RIFF\x24\x00\x00\x00WAVEfmt "
        + b"\x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00data"
    )


@tool(effect=Effect.READ)
def test_embedded_resource() -> bytes:
    """Return bytes of no kind that we know: they come as an embedded resource."""
    return b"\xfe\xed\xfa\xce\x00\x01"


@tool(effect=Effect.READ)
def test_error_handling() -> str:
    """Fail on purpose."""
    raise ToolError("This tool intentionally returns an error for testing")


@tool(effect=Effect.READ)
def test_tool_with_progress() -> str:
    """Take longer than one look at how far it is."""
    time.sleep(1.2)
    return "done"


TOOLS: list[Tool] = [
    test_simple_text,
    test_image_content,
    test_audio_content,
    test_embedded_resource,
    test_error_handling,
    test_tool_with_progress,
]
