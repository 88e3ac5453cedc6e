"""What HTTP says between us and a server, and what it means for a call: done, not done, or unknown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError

from activities.mcp.connections import Connections
from activities.mcp.faults import AnswerLost, SessionGone, meaning
from activities.mcp.http import AnsweringTransport
from horarium.errors import AddressRefused, ToolError, ToolNotReached
from horarium.mcpservers import McpServer

CALL = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "pay"}}
SESSION = {"mcp-session-id": "s1"}


def _failing(error: Exception) -> Callable[[httpx2.Request], httpx2.Response]:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise error

    return fail


async def _meaning(
    answer: Callable[[httpx2.Request], httpx2.Response] | httpx2.Response,
    headers: dict[str, str] | None = None,
    message: dict[str, Any] = CALL,
) -> Exception | None:
    """What the answer to a call means; None: it is the SDK's to read."""
    inner = httpx2.MockTransport((lambda _: answer) if isinstance(answer, httpx2.Response) else answer)
    async with httpx2.AsyncClient(transport=AnsweringTransport(inner)) as client:
        response = await client.post("https://bank.example/mcp", json=message, headers=headers)
    body = json.loads(response.content) if response.headers.get("content-type") == "application/json" else {}
    if "error" not in body:
        return None
    return meaning(MCPError.from_error_data(types.ErrorData.model_validate(body["error"])), "pay")


def _error(code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}


@pytest.mark.parametrize(
    ("answer", "headers", "means"),
    [
        (httpx2.Response(401), None, ToolError),
        (httpx2.Response(403, json={"detail": "no"}), None, ToolError),
        (httpx2.Response(404), SESSION, SessionGone),
        (httpx2.Response(400, json=_error(-32000, "Bad Request: No valid session ID provided")), SESSION, SessionGone),
        (httpx2.Response(400, json=_error(-32000, "Bad Request: Server not initialized")), None, ToolError),
        (httpx2.Response(404, text="<h1>Not here</h1>"), None, ToolError),
        (httpx2.Response(413), None, ToolError),
        (httpx2.Response(429), None, ToolNotReached),
        (httpx2.Response(500), None, AnswerLost),
        (httpx2.Response(502, text="bad gateway"), None, AnswerLost),
        (httpx2.Response(503, json=_error(-32603, "overloaded")), None, AnswerLost),
        (httpx2.Response(200, html="<h1>Log in</h1>"), None, AnswerLost),
        (httpx2.Response(202), None, AnswerLost),
        (_failing(httpx2.ReadError("reset")), None, AnswerLost),
        (_failing(httpx2.WriteError("reset")), None, AnswerLost),
        (_failing(httpx2.RemoteProtocolError("gone")), None, AnswerLost),
        (_failing(ToolNotReached("no connection")), None, ToolNotReached),
        (_failing(AddressRefused("a private address")), None, ToolError),
    ],
)
async def test_every_answer_says_whether_the_call_can_have_been_made(
    answer: Any, headers: dict[str, str] | None, means: type[Exception]
) -> None:
    found = await _meaning(answer, headers)

    assert type(found) is means
    assert str(found)


async def test_an_answer_that_breaks_off_is_lost() -> None:
    async def body() -> Any:
        yield b'{"jsonrpc": "2.0", '
        raise httpx2.ReadError("reset")

    broken = httpx2.Response(200, headers={"content-type": "application/json"}, content=body())

    assert type(await _meaning(broken)) is AnswerLost


async def test_an_accepted_notification_is_no_error() -> None:
    notification = {"jsonrpc": "2.0", "method": "notifications/initialized"}

    assert await _meaning(httpx2.Response(202), message=notification) is None


@pytest.mark.parametrize("code", [types.INVALID_PARAMS, types.METHOD_NOT_FOUND, types.HEADER_MISMATCH])
async def test_a_rejection_in_the_protocols_own_words_stays_the_servers(code: int) -> None:
    found = await _meaning(httpx2.Response(400, json=_error(code, "no such tool")))

    assert isinstance(found, ToolNotReached if code == types.HEADER_MISMATCH else ToolError)
    assert "no such tool" in str(found)


async def test_a_server_cannot_write_our_own_errors() -> None:
    ours = {"code": -31_000, "message": "try again", "data": {"not_reached": "not_reached"}}

    assert type(meaning(MCPError.from_error_data(types.ErrorData.model_validate(ours)), "pay")) is AnswerLost


async def test_a_name_that_leads_into_a_private_network_is_not_connected_to(tmp_path: Path) -> None:
    connections = Connections(tmp_path)

    with pytest.raises(ToolError, match="not connected to"):
        await connections.to("inside", McpServer(url="http://169.254.169.254/latest/mcp"))
    await connections.close()
