"""Streamable HTTP: every request is answered, if need be by us, with a word on whether it can have been done.

Without this the SDK closes a whole connection, with all calls on it, when one request cannot be sent.
"""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx2
import mcp_types as types
from mcp.client.streamable_http import streamable_http_client

from activities.mcp.faults import MOST_BYTES, fault
from horarium.content import shorten
from horarium.egress import Guard, GuardedTransport
from horarium.errors import AddressRefused, ToolNotReached

CONNECT_SECONDS = 10.0
_BUSY = 429


def http_client(url: str, headers: dict[str, str], *, private_network: bool) -> httpx2.AsyncClient:
    """A client for one server, and for no other host.

    Raises:
        AddressRefused: It is no URL of a server.
    """
    return httpx2.AsyncClient(
        transport=AnsweringTransport(GuardedTransport(Guard(url, private_network=private_network))),
        headers={"accept-encoding": "identity"} | headers,
        # How long an answer may take is the call's own matter.
        timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS, write=CONNECT_SECONDS * 6),
        follow_redirects=False,
        trust_env=False,
    )


def http_transport(url: str, client: httpx2.AsyncClient) -> AbstractAsyncContextManager[Any]:
    """The SDK's transport on this client."""
    return streamable_http_client(url, http_client=client, max_sse_event_size=MOST_BYTES)


class AnsweringTransport(httpx2.AsyncBaseTransport):
    """Answers a request itself where the network, a proxy or a login page did."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def aclose(self) -> None:
        """Close all its connections."""
        await self._inner.aclose()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it. What is no POST carries no call, and is the SDK's to handle."""
        if request.method != "POST":
            return await self._inner.handle_async_request(request)
        try:
            response = await self._inner.handle_async_request(request)
        except ToolNotReached as error:
            return _answer(request, fault("not_reached", str(error)))
        except AddressRefused as error:
            return _answer(request, fault("refused", str(error)))
        except httpx2.TransportError as error:
            return _answer(request, _lost(error))
        problem = _problem(request, response)
        if problem is not None:
            await response.aclose()
            return _answer(request, problem)
        return await _whole(request, response) if _kind(response) == "application/json" else response


def _problem(request: httpx2.Request, response: httpx2.Response) -> types.ErrorData | None:
    status = response.status_code
    if status in (401, 403):
        return fault(
            "refused",
            f"The server did not accept the credential (HTTP {status}). Look at the `headers` of this server, "
            "and at the environment variables that they name.",
        )
    if status == 404 and "mcp-session-id" in request.headers:
        return fault("session_gone", "The server has forgotten the session.")
    if status == _BUSY:
        return fault("not_reached", "The server asks for fewer requests (HTTP 429).")
    if status >= 400 and _kind(response) != "application/json":
        done = status >= 500 or status == 408
        return fault("lost" if done else "refused", f"The server answered with HTTP {status}.")
    spoken = _kind(response) in ("application/json", "text/event-stream")
    if 200 <= status < 300 and not spoken and _asks(request):
        return fault("lost", f"The server answered with HTTP {status} and {_kind(response) or 'nothing'}, not MCP.")
    return None


async def _whole(request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
    """The response with its body read, as far as anybody would keep it."""
    body = bytearray()
    try:
        async for part in response.aiter_bytes():
            body += part
            if len(body) > MOST_BYTES:
                return _answer(request, fault("too_large", f"Its answer has more than {MOST_BYTES:,} bytes."))
    except httpx2.HTTPError as error:
        return _answer(request, _lost(error))
    finally:
        await response.aclose()
    if 400 <= response.status_code < 500 and response.status_code != 408:
        problem = _rejection(request, response.status_code, bytes(body))
        if problem is not None:
            return _answer(request, problem)
    headers = {name: value for name, value in response.headers.items() if name not in _OF_THE_BODY}
    return httpx2.Response(response.status_code, headers=headers, content=bytes(body), request=request)


def _rejection(request: httpx2.Request, status: int, body: bytes) -> types.ErrorData | None:
    """What a server says that did not take the request; None: an error that the protocol knows."""
    try:
        said: Any = json.loads(body)
    except ValueError:
        said = None
    error = said.get("error") if isinstance(said, dict) else None
    code, message = (error.get("code"), error.get("message")) if isinstance(error, dict) else (None, None)
    if code in _KNOWN:
        return None
    if status == 400 and "mcp-session-id" in request.headers and "session" in str(message).lower():
        # So answer the many servers that were made after the TypeScript SDK's example.
        return fault("session_gone", "The server has forgotten the session.")
    return fault("refused", f"The server answered with HTTP {status}: {shorten(str(message or said), 300)}")


_KNOWN = (
    types.INVALID_REQUEST,
    types.INVALID_PARAMS,
    types.METHOD_NOT_FOUND,
    types.HEADER_MISMATCH,
    types.MISSING_REQUIRED_CLIENT_CAPABILITY,
    types.UNSUPPORTED_PROTOCOL_VERSION,
    types.URL_ELICITATION_REQUIRED,
)
_OF_THE_BODY = ("content-length", "content-encoding", "transfer-encoding")


def _lost(error: Exception) -> types.ErrorData:
    why = str(error) or type(error).__name__
    return fault("lost", f"The connection was lost before an answer came ({why}).")


def _answer(request: httpx2.Request, error: types.ErrorData) -> httpx2.Response:
    # With a null id: the SDK puts in the id of the request that this answers.
    body = {"jsonrpc": "2.0", "id": None, "error": error.model_dump(mode="json", exclude_none=True)}
    return httpx2.Response(503, json=body, request=request)


def _kind(response: httpx2.Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


def _asks(request: httpx2.Request) -> bool:
    """Whether it is a request, that needs an answer, and no notification."""
    try:
        message: Any = json.loads(request.content)
    except (ValueError, httpx2.RequestNotRead):
        return True
    return isinstance(message, dict) and "id" in message and "method" in message
