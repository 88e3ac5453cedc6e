"""The bodies of requests below `/v1`: of bounded size, and strict JSON where they are JSON.

Read before the routes are reached, so that none of them meets a body that Python takes for JSON and others do not:
NaN, a number that no database keeps, half a surrogate pair, nesting without end.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from horarium.gateway.answering import refusal

UPLOAD = re.compile(r"^/v1/(threads/[^/]+/files|steps/outputs)/")  # streamed, and bounded where they are read
UNKEPT = re.compile("[\\x00\\ud800-\\udfff]")
BODY_WITHIN = 60.0  # seconds, for the whole of it
LONGEST_INTEGER = 18  # digits
DEEPEST = 64


class NotStrict(ValueError):
    """A text that is no JSON as everybody reads it."""


class Bodies:
    """ASGI middleware: hands a request on with its whole body, or answers it."""

    def __init__(self, app: ASGIApp, *, most_bytes: int, below: str = "/v1/") -> None:
        """`most_bytes`: of one body. `below`: the paths that it is about."""
        self._app = app
        self._most = most_bytes
        self._below = below

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        if scope["type"] != "http" or not scope["path"].startswith(self._below):
            await self._app(scope, receive, send)
            return
        if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
            words = "A name in the address has a character that no name has."
            refused = refusal(scope["path"], 422, "bad_request", words)
            await refused(scope, receive, send)
            return
        uploads = scope["method"] == "PUT" and UPLOAD.match(scope["path"])
        if scope["method"] in ("GET", "HEAD", "OPTIONS") or uploads:
            await self._app(scope, receive, send)
            return
        await self._checked(scope, receive, send)

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        told = headers.get("content-length", "0")
        try:
            async with asyncio.timeout(BODY_WITHIN):
                body = None if told.isdecimal() and int(told) > self._most else await self._read(receive)
        except TimeoutError:
            late = refusal(scope["path"], 408, "too_slow", f"The body did not come within {BODY_WITHIN:.0f} seconds.")
            await late(scope, receive, send)
            return
        if body is None:
            words = f"The body has more than the {self._most:,} bytes that it may have."
            refused = refusal(scope["path"], 413, "too_large", words)
            await refused(scope, receive, send)
            return
        if body and "json" in headers.get("content-type", "json").lower():
            try:
                strict_json(body)
            except NotStrict as error:
                refused = refusal(scope["path"], 422, "bad_request", f"The body is no JSON: {error}.")
                await refused(scope, receive, send)
                return
        await self._app(scope, _replayed(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return bytes(body)  # the caller went; whoever is asked for the rest sees it
            body += message.get("body", b"")
            if len(body) > self._most:
                return None
            if not message.get("more_body"):
                return bytes(body)


def strict_json(body: bytes) -> Any:
    """What a body says.

    Raises:
        NotStrict: It is no JSON, or none that can be kept and sent on.
    """
    try:
        read = json.loads(body.decode("utf-8"), parse_constant=_no_constant, parse_int=_an_integer, parse_float=_finite)
    except NotStrict:
        raise
    except RecursionError as error:
        raise NotStrict("it is nested too deeply") from error
    except ValueError as error:
        raise NotStrict(str(error)) from error
    check_depth(read)
    for text, _ in _texts(read):
        if UNKEPT.search(text):
            raise NotStrict("a text has a character that cannot be kept (U+0000, or half a surrogate pair)")
    return read


def check_depth(read: Any) -> None:
    """Raises `NotStrict`: it is nested more deeply than everybody who gets it can read."""
    if any(depth > DEEPEST for _, depth in _texts(read)):
        raise NotStrict(f"it is nested deeper than {DEEPEST}")


def _texts(value: Any) -> Iterator[tuple[str, int]]:
    waiting = [(value, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            yield value, depth
        elif isinstance(value, dict):
            yield "", depth
            waiting += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, list):
            yield "", depth
            waiting += [(item, depth + 1) for item in value]


def _no_constant(constant: str) -> Any:
    raise NotStrict(f"{constant} is no JSON number")


def _an_integer(digits: str) -> int:
    if len(digits.lstrip("-")) > LONGEST_INTEGER:
        raise NotStrict(f"an integer has more than {LONGEST_INTEGER} digits")
    return int(digits)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise NotStrict("a number is too large")
    return value


def _replayed(body: bytes, receive: Receive) -> Receive:
    told = False

    async def replay() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
