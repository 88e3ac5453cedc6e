"""The request of one operation: where each argument goes, escaped so that it cannot lead elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from horarium.errors import ToolError
from horarium.openapi import BODY, FORM, Argument, BoundOperation
from horarium.secrets import conceal, reveal_inside
from horarium.tools import Effect

_BETWEEN = {"spaceDelimited": " ", "pipeDelimited": "|"}


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """What is sent; it holds secrets, so it is made just before and kept nowhere."""

    method: str
    url: str
    headers: dict[str, str]
    content: bytes | None


def request_of(bound: BoundOperation, arguments: Mapping[str, Any], key: str) -> ApiRequest:
    """The request of a call; `key` goes along where the call is more than `read`.

    Raises:
        ToolError: An argument cannot be sent: it would lead to another place.
        ConfigError: A secret that it needs is not set.
    """
    operation, api = bound.operation, bound.api
    headers = {"accept": "application/json, */*;q=0.5", "accept-encoding": "identity", "connection": "close"}
    path, cookies = operation.path, list[str]()
    query: list[tuple[str, str]] = []
    for argument in operation.arguments:
        value = arguments.get(argument.name)
        if value is None and argument.place != "path":
            continue
        match argument.place:
            case "path":
                path = path.replace(f"{{{argument.wire}}}", _in_path(argument, value))
            case "query":
                query += _in_query(argument, value)
            case "header":
                headers[argument.wire.lower()] = _in_header(argument, value)
            case "cookie":
                cookies.append(f"{argument.wire}={quote(_simple(argument, value), safe='')}")
    _stays_in_place(operation.path, path)
    fixed = {name: reveal_inside(value) for name, value in api.query.items()}
    if any(name in fixed for name, _ in query):
        raise ToolError("An argument would replace what is always sent in the address.")
    for value in fixed.values():
        conceal(quote(value, safe=""))  # servers like to say the address that they were asked for
    query += fixed.items()
    if cookies:
        headers["cookie"] = "; ".join(cookies)
    content = None
    if operation.body is not None and arguments.get(BODY) is not None:
        headers["content-type"] = operation.body
        content = _content(operation.body, arguments[BODY])
    if api.idempotency_header and operation.effect is not Effect.READ:
        headers[api.idempotency_header.lower()] = key
    headers |= {name.lower(): reveal_inside(value) for name, value in api.headers.items()}
    return ApiRequest(operation.method.upper(), _address(operation.base_url, path, query), headers, content)


def _address(base: str, path: str, query: list[tuple[str, str]]) -> str:
    return base.rstrip("/") + path + (f"?{urlencode(query, quote_via=quote)}" if query else "")


def _content(media: str, body: Any) -> bytes:
    if media.partition(";")[0].strip().lower() == FORM and isinstance(body, Mapping):
        pairs = [(str(name), item) for name, value in body.items() for item in _items(value)]
        return urlencode([(name, _text(item)) for name, item in pairs if item is not None]).encode()
    if media.startswith("text/"):
        return _text(body).encode()
    return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()


def _stays_in_place(template: str, path: str) -> None:
    """No value makes a part of the path empty, or a step up."""
    for before, after in zip(template.split("/"), path.split("/"), strict=True):
        if before != after and after in ("", ".", ".."):
            raise ToolError(f"An argument makes a part of the path {after!r}, which would lead to another place.")


def _in_path(argument: Argument, value: Any) -> str:
    text = _simple(argument, value)
    # Many servers undo the escaping of these before they look for the operation.
    if value is None or not text or any(sign in text for sign in "/\\"):
        raise ToolError(f"{argument.name!r} is a part of a path: it cannot be empty, and has no '/' or '\\'.")
    escaped = quote(text, safe=",")
    prefix = {"label": ".", "matrix": f";{quote(argument.wire, safe='')}="}.get(argument.style, "")
    return prefix + escaped


def _in_header(argument: Argument, value: Any) -> str:
    text = _simple(argument, value)
    if not text.isprintable() or not text.isascii():
        raise ToolError(f"{argument.name!r} is sent in a header: it has printable ASCII only, and no line ends.")
    return text


def _in_query(argument: Argument, value: Any) -> Iterator[tuple[str, str]]:
    wire = argument.wire
    match value:
        case _ if argument.as_json:
            yield wire, json.dumps(value, ensure_ascii=False)
        case list() if argument.explode and argument.style == "form":
            yield from ((wire, _text(item)) for item in value)
        case list():
            yield wire, _BETWEEN.get(argument.style, ",").join(map(_text, value))
        case dict() if argument.style == "deepObject":
            yield from ((f"{wire}[{key}]", _text(item)) for key, item in value.items())
        case dict() if argument.explode:
            yield from ((str(key), _text(item)) for key, item in value.items())
        case _:
            yield wire, _simple(argument, value)


def _simple(argument: Argument, value: Any) -> str:
    """One text for a value, as the styles of paths and headers have it."""
    match value:
        case _ if argument.as_json:
            return json.dumps(value, ensure_ascii=False)
        case list():
            return ",".join(map(_text, value))
        case dict():
            sign = "=" if argument.explode else ","
            return ",".join(f"{key}{sign}{_text(item)}" for key, item in value.items())
        case _:
            return _text(value)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
