"""What a failed request to an MCP server means: was it done, was it not, or can nobody know?

The transports of the SDK turn most trouble into JSON-RPC errors without saying whether the request had left. So ours
write errors of their own, marked with a word that no server knows, and this module reads both.
"""

from __future__ import annotations

import secrets
from typing import Any, Literal, get_args

import mcp_types as types
from mcp.shared.exceptions import MCPError

from horarium.errors import HorariumError, ToolError, ToolNotReached

MOST_BYTES = 64 * 1024 * 1024  # of one message from a server; what is larger is not read

Fault = Literal["not_reached", "refused", "session_gone", "lost", "too_large"]

_CODE = -31_000  # outside of what JSON-RPC and MCP reserve
_OURS = secrets.token_hex(8)
_NOT_DONE = (
    types.INVALID_REQUEST,
    types.INVALID_PARAMS,
    types.METHOD_NOT_FOUND,
    types.MISSING_REQUIRED_CLIENT_CAPABILITY,
    types.UNSUPPORTED_PROTOCOL_VERSION,
)


class SessionGone(ToolNotReached):
    """The server has forgotten the session, and did nothing."""


class AnswerTooLarge(HorariumError):
    """The server did what was asked, and its answer is larger than anybody would keep."""


class AnswerLost(HorariumError):
    """The request was on its way, and no answer came."""


def fault(kind: Fault, message: str) -> types.ErrorData:
    """An error as our transports answer with, in the server's place."""
    return types.ErrorData(code=_CODE, message=message, data={_OURS: kind})


def kind_of(error: MCPError) -> Fault | None:
    """Which of our transports' errors this is; None: it is the server's, or the SDK's."""
    said: Any = error.data.get(_OURS) if isinstance(error.data, dict) else None
    return said if error.code == _CODE and said in get_args(Fault) else None


def meaning(error: MCPError, tool: str) -> Exception:
    """The error as the step protocol understands it; see horarium/performing.py."""
    match kind_of(error):
        case "not_reached":
            return ToolNotReached(error.message)
        case "refused":
            return ToolError(error.message)
        case "session_gone":
            return SessionGone(error.message)
        case "too_large":
            return AnswerTooLarge(error.message)
        case "lost":
            return AnswerLost(error.message)
    if error.code == types.REQUEST_TIMEOUT:
        return TimeoutError(error.message)
    if error.code == types.CONNECTION_CLOSED:
        if "byte limit" in error.message:  # the SDK's own word for an event that is too large
            return AnswerTooLarge(error.message)
        return AnswerLost(f"No answer came: {error.message}")  # a server may use this code for errors of its own
    if error.code == types.HEADER_MISMATCH:  # the schema that the request was made with is old; it is fetched again
        return ToolNotReached(error.message)
    if error.code == types.URL_ELICITATION_REQUIRED:
        return ToolError(f"{tool!r} wants somebody to open a page first, which is not supported here.")
    if error.code in _NOT_DONE:
        return ToolError(f"The server refused the call: {error.message}")
    return AnswerLost(f"The server broke: {error.message} (code {error.code})")
