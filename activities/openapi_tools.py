"""Operations of HTTP APIs as tools: one request for each call, and what its answer means for the step.

Only an answer that says so means "not done"; a server that broke, or a connection that was lost after the request
went out, leaves an external call unknown.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import httpx2

from activities.openapi_requests import ApiRequest, request_of
from horarium.content import clean_text, shorten
from horarium.egress import guarded_client
from horarium.errors import ConfigError, HorariumError, ToolError, ToolNotReached
from horarium.openapi import BoundOperation
from horarium.performing import Performer
from horarium.settings import Settings
from horarium.tools import Effect, NotPerformed, Performed, ToolContext, ToolSpec
from horarium.toolsets import OpenApiSource, PinnedTool

MAX_ANSWER_BYTES = 16 * 1024 * 1024
TOLD_CHARS = 2_000  # of an error's body, to the model
CONNECT_SECONDS = 10.0
MOST_RETRY_AFTER = timedelta(hours=1)
_NOT_TAKEN_UP = (408, 425, 429)  # the server says that it did not begin
_MOVED = (301, 307, 308)  # the request is to be made elsewhere, so it was not done here


class ApiBroke(HorariumError):
    """An API gave an answer that does not tell whether the call was done."""

    code = "api_broke"


class OpenApiTools:
    """The HTTP APIs of this process's runs; one object for each process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clients: dict[tuple[str, bool, bool], httpx2.AsyncClient] = {}

    def performer(self, pinned: PinnedTool, source: OpenApiSource) -> Performer:
        """What makes the request of one operation."""
        return _OperationPerformer(self, pinned.spec, BoundOperation.model_validate(source.operation))

    def client(self, bound: BoundOperation) -> httpx2.AsyncClient:
        """The client for an operation's server; it keeps no cookies, which would tie one run to another.

        Raises:
            AddressRefused: The server's address is none.
        """
        operation = bound.operation
        key = (operation.base_url, bound.api.private_network, operation.said_openly)
        client = self._clients.get(key)
        if client is None:
            url, private_network, said_openly = key
            client = self._clients[key] = guarded_client(
                url, private_network=private_network, said_openly=said_openly, timeout=CONNECT_SECONDS
            )
            client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        return client

    async def close(self) -> None:
        """Close every connection."""
        clients, self._clients = list(self._clients.values()), {}
        await asyncio.gather(*(client.aclose() for client in clients))


class _OperationPerformer:
    """One operation, for one run."""

    def __init__(self, tools: OpenApiTools, spec: ToolSpec, bound: BoundOperation) -> None:
        self._tools = tools
        self._spec = spec
        self._bound = bound

    @property
    def spec(self) -> ToolSpec:
        """As it was pinned."""
        return self._spec

    async def perform(self, arguments: Mapping[str, Any], context: ToolContext) -> Any:
        """Make the request, once, and say what the answer means."""
        try:
            request = request_of(self._bound, arguments, context.idempotency_key)
        except ConfigError as error:  # nothing was sent, so there is nothing that nobody knows
            raise ToolError(str(error)) from error
        client = self._tools.client(self._bound)
        seconds = self._spec.timeout.total_seconds()
        # Connecting ends first: what never got through is known not to be done.
        patience = httpx2.Timeout(None, connect=min(CONNECT_SECONDS, seconds / 3), pool=seconds / 3)
        async with asyncio.timeout(seconds):
            try:
                async with client.stream(
                    request.method, request.url, headers=request.headers, content=request.content, timeout=patience
                ) as response:
                    body, whole = await _read(response)
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError) as error:
                raise ToolError(f"The request cannot be made: {error}.") from error
            except httpx2.HTTPError as error:
                what = str(error) or type(error).__name__
                raise ApiBroke(f"{_where(request, response=None)}: the connection was lost: {what}") from error
        return self._meaning(request, response, body, whole, context.attempt)

    async def verify(self, arguments: Mapping[str, Any], context: ToolContext) -> Performed | NotPerformed | None:
        """A document does not say how to ask."""
        return None

    def _meaning(self, request: ApiRequest, response: httpx2.Response, body: bytes, whole: bool, attempt: int) -> Any:
        status = response.status_code
        if response.is_success:
            return _result(request, response, body, whole)
        told = f"{_where(request, response)}{_told(response, body)}"
        if status in _NOT_TAKEN_UP or (status == 503 and "retry-after" in response.headers):
            raise ToolNotReached(told, retry_after=_retry_after(response))
        if response.is_redirect or status in _MOVED:
            told = f"{_where(request, response)}, a redirect, which is not followed."
            if self._spec.effect is Effect.READ or status in _MOVED:
                raise ToolError(told, hint="Its new address belongs into `base_url`.")
            raise ApiBroke(told)
        # A key that is in use: the attempt before this one is still at it, or its answer was lost.
        in_use = status == 409 and attempt > 1 and self._spec.effect is Effect.IDEMPOTENT
        if response.is_client_error and not in_use:
            raise ToolError(told)
        raise ApiBroke(told)


async def _read(response: httpx2.Response) -> tuple[bytes, bool]:
    """The answer's body, and whether that is all of it."""
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            return bytes(body[:MAX_ANSWER_BYTES]), False
    return bytes(body), True


def _result(request: ApiRequest, response: httpx2.Response, body: bytes, whole: bool) -> Any:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not body:
        seen = {
            name: response.headers[name] for name in ("location", "etag", "last-modified") if name in response.headers
        }
        more = "".join(f" {name.title()}: {value}" for name, value in seen.items())
        return f"{request.method} was answered with HTTP {response.status_code} and no content.{more}"
    if not whole:
        note = f"\n[… cut: the answer is larger than {MAX_ANSWER_BYTES // 1024 // 1024} MiB …]"
        return body if _is_binary(kind) else body.decode(_charset(response), "replace") + note
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            return body.decode("utf-8", "replace")
    return body if _is_binary(kind) else body.decode(_charset(response), "replace")


def _is_binary(kind: str) -> bool:
    readable = ("json", "xml", "yaml", "javascript", "x-www-form-urlencoded", "x-ndjson", "csv")
    return not kind.startswith("text/") and not kind.endswith(readable)


def _charset(response: httpx2.Response) -> str:
    named = response.charset_encoding or "utf-8"
    try:
        "".encode(named)
    except LookupError:
        return "utf-8"
    return named


def _where(request: ApiRequest, response: httpx2.Response | None) -> str:
    """The request without its query, where keys may stand."""
    answered = f" was answered with HTTP {response.status_code}" if response is not None else ""
    return f"{request.method} {request.url.partition('?')[0]}{answered}"


def _told(response: httpx2.Response, body: bytes) -> str:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not body:
        return "."
    if _is_binary(kind):
        return f" and {len(body)} bytes of {kind or 'something'}."
    said, _ = clean_text(body.decode(_charset(response), "replace").strip())  # before a secret in it is cut in two
    return f": {shorten(said, TOLD_CHARS)}"


def _retry_after(response: httpx2.Response) -> timedelta | None:
    said = response.headers.get("retry-after", "").strip()
    if said.isascii() and said.isdecimal():
        return min(timedelta(seconds=int(said[:9])), MOST_RETRY_AFTER)
    try:
        wait = email.utils.parsedate_to_datetime(said) - datetime.now(UTC)
    except (ValueError, TypeError):
        return None
    return min(max(wait, timedelta(0)), MOST_RETRY_AFTER)
