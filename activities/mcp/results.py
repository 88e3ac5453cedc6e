"""What a tool of an MCP server answered, as the journal keeps it and the model reads it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import mcp_types as types

from horarium.errors import ToolError

NO_WORDS = "The tool says that it failed, and not why."


def value_of(result: types.CallToolResult) -> Any:
    """Text where there is text, data where there is data, and bytes for the journal to keep: never base64.

    Raises:
        ToolError: The server says that the call failed.
    """
    blocks = result.content
    text = "\n".join(block.text for block in blocks if isinstance(block, types.TextContent))
    if result.is_error:
        raise ToolError(text or NO_WORDS)
    if not text and not _others(blocks) and result.structured_content is not None:
        return result.structured_content
    if all(isinstance(block, types.TextContent) for block in blocks):
        return text
    if len(blocks) == 1:
        only = _plain(blocks[0])
        return only["data"] if isinstance(only.get("data"), bytes) else only
    return [_plain(block) for block in blocks]


def _others(blocks: Sequence[types.ContentBlock]) -> bool:
    return any(not isinstance(block, types.TextContent) for block in blocks)


def _plain(block: types.ContentBlock) -> dict[str, Any]:
    """One block; bytes in it become size and digest when they are made into JSON (horarium/content.py)."""
    match block:
        case types.TextContent(text=text):
            return {"type": "text", "text": text}
        case types.ImageContent(data=data, mime_type=kind) | types.AudioContent(data=data, mime_type=kind):
            return {"type": block.type, "mime_type": kind, "data": _bytes(data)}
        case types.ResourceLink(uri=uri, name=name, description=description):
            return {"type": "resource_link", "uri": str(uri), "name": name, "description": description}
        case types.EmbeddedResource(resource=types.TextResourceContents(uri=uri, text=text)):
            return {"type": "resource", "uri": str(uri), "text": text}
        case types.EmbeddedResource(resource=types.BlobResourceContents(uri=uri, blob=blob, mime_type=kind)):
            return {"type": "resource", "uri": str(uri), "mime_type": kind, "data": _bytes(blob)}
        case _:
            return {"type": block.type}


def _bytes(data: str) -> bytes | str:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return f"<{len(data)} characters that are no base64>"
