"""Reading an OpenAPI document (3.0 or 3.1) into operations, each with one JSON Schema for its arguments.

Only what a request needs is looked at, so a document with mistakes elsewhere is usable. What a document says is not
trusted: its size, its references and its depth are bounded, and secrets go to no host that it alone names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args
from urllib.parse import urljoin, urlsplit

from pydantic import Field

from horarium.content import clean_text, shorten
from horarium.definition import Definition
from horarium.errors import ConfigError
from horarium.mcpservers import SEPARATOR
from horarium.openapi_documents import Schemas
from horarium.problems import near_miss
from horarium.toolboxes import SENDERS_HEADERS, OpenApi
from horarium.tools import Effect

METHODS = ("get", "head", "post", "put", "patch", "delete")
MAX_OPERATIONS = 500
DESCRIPTION_CHARS = 2_000
BODY = "body"
FORM = "application/x-www-form-urlencoded"
_TOOL_NAME_CHARS = 64
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]+")
_NOT_IN_AN_ARGUMENT = re.compile(r"[^a-zA-Z0-9_.-]+")
_NEVER_ARGUMENTS = {"accept", "accept-encoding", "content-type", "authorization", "cookie"} | SENDERS_HEADERS

Place = Literal["path", "query", "header", "cookie"]
Style = Literal["simple", "label", "matrix", "form", "spaceDelimited", "pipeDelimited", "deepObject"]

_STYLES: dict[str, Style] = {"path": "simple", "header": "simple", "query": "form", "cookie": "form"}


class Argument(Definition):
    """Where one argument goes in the request."""

    name: str = Field(description="Among the tool's arguments.")
    wire: str = Field(description="In the request.")
    place: Place
    style: Style
    explode: bool
    as_json: bool = Field(default=False, description="The document gives it a media type: it is sent as JSON text.")


class Operation(Definition):
    """One operation of a document: all that its tool and its request need."""

    name: str = Field(description="Of its tool, after the label.")
    method: str
    path: str
    base_url: str
    said_openly: bool = Field(description="Whether whoever owns the project wrote `base_url`.")
    effect: Effect
    description: str = ""
    parameters: dict[str, Any] = Field(description="JSON Schema of the arguments, an object.")
    arguments: tuple[Argument, ...] = ()
    body: str | None = Field(default=None, description="Media type of the argument `body`. None: there is no body.")


class BoundOperation(Definition):
    """An operation with the settings it is called with: what a run's pinned tool holds."""

    operation: Operation
    api: OpenApi


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """What a document came to: its operations, and why others are left out, a sentence each."""

    operations: tuple[Operation, ...]
    left_out: tuple[str, ...]


def read_document(label: str, api: OpenApi, document: Mapping[str, Any]) -> ReadDocument:
    """The operations that a toolbox offers of a document.

    Raises:
        ConfigError: None can be used, a name or pattern of the definition fits none, or a reference leads nowhere.
    """
    return _Reading(label, api, document).read()


class _Reading:
    """One document, read for one label of a toolbox."""

    def __init__(self, label: str, api: OpenApi, document: Mapping[str, Any]) -> None:
        self._label = label
        self._api = api
        self._document = document
        self._schemas = Schemas(document, api.document)
        self._names: set[str] = set()

    def read(self) -> ReadDocument:
        every = list(self._all())
        known = [known for known, _, _, _, _ in every]
        self._patterns_fit(known)
        wanted = [item for item in every if any(map(self._api.offers, item[0]))]
        if len(wanted) > MAX_OPERATIONS:
            raise ConfigError(
                f"{self._api.document}: offers {len(wanted)} operations; {MAX_OPERATIONS} are the most.",
                hint=f"Name those you need in `openapi.{self._label}.operations`.",
            )
        operations: list[Operation] = []
        left_out: list[str] = []
        for known_as, method, path, item, node in wanted:
            where = self._base_url(item, node)
            try:
                made = self._operation(known_as, method, path, item, node, where)
            except ConfigError as error:
                made = error.message.removeprefix(f"{self._api.document}: ").removesuffix(".")
            if isinstance(made, Operation):
                operations.append(made)
            else:
                left_out.append(f"{method.upper()} {path}: {made}")
        if not operations:
            why = f": {left_out[0]}" if left_out else ": it has none"
            raise ConfigError(f"{self._api.document}: no operation of it can be used{why}.")
        return ReadDocument(tuple(operations), tuple(left_out))

    def _all(self) -> Iterator[tuple[tuple[str, ...], str, str, dict[str, Any], dict[str, Any]]]:
        """Every operation: what it is known as, its method and path, its path's fields and its own."""
        paths = self._document.get("paths")
        for path, found in paths.items() if isinstance(paths, Mapping) else ():
            item = self._schemas.resolved(found)
            for method in METHODS:
                node = item.get(method)
                if isinstance(node, Mapping) and str(path).startswith("/"):
                    written = node.get("operationId")
                    raw = written if isinstance(written, str) and written else f"{method}_{str(path).strip('/')}"
                    name = _NOT_IN_A_NAME.sub("_", raw).strip("_") or method
                    yield (raw, name), method, str(path), item, dict(node)

    def _patterns_fit(self, known: list[tuple[str, ...]]) -> None:
        """A pattern that fits nothing is a mistake, and in `effects` a dangerous one."""
        names = [name for names in known for name in names]
        for field, patterns in (("operations", self._api.operations), ("effects", tuple(self._api.effects))):
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in names):
                    raise ConfigError(
                        f"{self._api.document} has no operation {pattern!r}, which `openapi.{self._label}.{field}` "
                        f"names{near_miss(pattern, names) or '.'}"
                    )

    def _operation(
        self,
        known: tuple[str, ...],
        method: str,
        path: str,
        item: Mapping[str, Any],
        node: Mapping[str, Any],
        where: tuple[str, bool],
    ) -> Operation | str:
        """An operation; or why it is left out.

        Raises:
            ConfigError: It is left out as well, because of a schema or a reference.
        """
        arguments: list[Argument] = []
        properties: dict[str, tuple[Any, str]] = {}
        required: list[str] = []
        media = None
        body = self._schemas.resolved(node.get("requestBody")) if method not in ("get", "head") else {}
        if body:
            chosen = _media_type(body.get("content"))
            if chosen is None:
                return "its body has a media type that is not supported"
            media, schema = chosen
            properties[BODY] = (schema, _words(body.get("description")))
            required += [BODY] if body.get("required") is True else []
        for parameter in self._parameters(item, node):
            argument = _argument(parameter, properties)
            properties[argument.name] = (_schema_of(parameter), _words(parameter.get("description")))
            arguments.append(argument)
            if parameter.get("required") is True or argument.place == "path":
                required.append(argument.name)
        there = set(re.findall(r"\{([^{}]+)\}", path))
        missing = there - {argument.wire for argument in arguments if argument.place == "path"}
        if missing:
            return f"its path has {sorted(missing)[0]!r}, which is none of its parameters"
        if not all(text.isprintable() for text in (path, media or "", *(argument.wire for argument in arguments))):
            return "its path or a name in it has characters that cannot be sent"
        return Operation(
            name=self._unique(known[1]),
            method=method,
            path=path,
            base_url=where[0],
            said_openly=where[1],
            effect=self._effect(known, method),
            description=_description(node, method, path),
            parameters=self._schemas.together(properties, required),
            arguments=tuple(arguments),
            body=media,
        )

    def _parameters(self, item: Mapping[str, Any], node: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The parameters that are arguments: not what the definition itself sets, nor what the engine sends."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for where in (item, node):
            listed = where.get("parameters")
            for parameter in map(self._schemas.resolved, listed if isinstance(listed, list) else ()):
                name, place = parameter.get("name"), parameter.get("in")
                if isinstance(name, str) and name and place in _STYLES:
                    found[name, str(place)] = parameter
        fixed = {name.lower() for name in self._api.headers} | {(self._api.idempotency_header or "").lower()}
        for (name, place), parameter in found.items():
            if place == "header" and name.lower() in _NEVER_ARGUMENTS | fixed:
                continue
            if place == "query" and name in self._api.query:
                continue
            yield parameter

    def _effect(self, known: tuple[str, ...], method: str) -> Effect:
        """By the first pattern that fits either of its names."""
        for pattern, effect in self._api.effects.items():
            if any(fnmatchcase(name, pattern) for name in known):
                return effect
        return self._api.effect_of("", method)

    def _base_url(self, item: Mapping[str, Any], node: Mapping[str, Any]) -> tuple[str, bool]:
        """Where requests go, and whether whoever owns the project said so."""
        api = self._api
        if api.base_url is not None:
            return api.base_url, True
        where = next((level["servers"] for level in (node, item, self._document) if level.get("servers")), None)
        url = _server(where[0] if isinstance(where, list) else None)
        if api.is_remote:
            url = urljoin(api.document, url or "/")
        if url is None or not url.startswith(("http://", "https://")) or not url.isprintable():
            raise ConfigError(
                f"{api.document} does not say where its API is.",
                hint=f"Say it: `openapi.{self._label}.base_url`.",
            )
        sends = api.headers or api.query or api.private_network
        if api.is_remote and sends and urlsplit(url)[:2] != urlsplit(api.document)[:2]:
            other = "another host" if urlsplit(url).netloc != urlsplit(api.document).netloc else "without TLS"
            raise ConfigError(
                f"{api.document} says that its API is at {url}, {other}, which would be given your `headers`.",
                hint=f"If that is right, say so: `openapi.{self._label}.base_url: {url}`.",
            )
        return url, not api.is_remote

    def _unique(self, name: str) -> str:
        room = _TOOL_NAME_CHARS - len(self._label) - len(SEPARATOR)
        if len(name) > room:
            name = f"{name[: room - 7]}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"
        made, number = name, 2
        while made in self._names:
            made, number = f"{name[: room - 3]}_{number}", number + 1
        self._names.add(made)
        return made


def _media_type(content: Any) -> tuple[str, Any] | None:
    """The media type that a body is sent as, and its schema."""
    offered = {str(key): value for key, value in content.items()} if isinstance(content, Mapping) else {}

    def rank(media: str) -> int:
        kind = media.partition(";")[0].strip().lower()
        order = (kind == "application/json", kind.endswith("+json"), kind == "*/*", kind == FORM)
        return next((place for place, fits in enumerate((*order, kind.startswith("text/"))) if fits), 99)

    best = min(offered, key=rank, default=None)
    if best is None or rank(best) == 99:
        return None
    schema = offered[best].get("schema", {}) if isinstance(offered[best], Mapping) else {}
    return ("application/json" if best.startswith("*/*") else best), schema


def _argument(parameter: Mapping[str, Any], taken: Mapping[str, Any]) -> Argument:
    wire, place = str(parameter["name"]), str(parameter["in"])
    name = _NOT_IN_AN_ARGUMENT.sub("_", wire).strip("_")[:60] or place
    if name in taken:
        name = f"{place}_{name}"[:60]
    made, number = name, 2
    while made in taken:
        made, number = f"{name}_{number}", number + 1
    style = parameter.get("style", _STYLES[place])
    explode = parameter.get("explode", style == "form")
    has_media = isinstance(parameter.get("content"), Mapping)
    return Argument(
        name=made,
        wire=wire,
        place=place,
        style=style if style in get_args(Style) else _STYLES[place],
        explode=explode is True,
        as_json=has_media,
    )


def _schema_of(parameter: Mapping[str, Any]) -> Any:
    content = parameter.get("content")
    if isinstance(content, Mapping):
        first: Any = next(iter(content.values()), {})
        return first.get("schema", {}) if isinstance(first, Mapping) else {}
    return parameter.get("schema", {"type": "string"})


def _server(server: Any) -> str | None:
    if not isinstance(server, Mapping) or not isinstance(server.get("url"), str):
        return None
    url: str = server["url"]
    variables = server.get("variables")
    for name, variable in variables.items() if isinstance(variables, Mapping) else ():
        if isinstance(variable, Mapping):
            url = url.replace(f"{{{name}}}", str(variable.get("default", "")))
    return url


def _description(node: Mapping[str, Any], method: str, path: str) -> str:
    parts = [text for text in (_words(node.get("summary")), _words(node.get("description"))) if text]
    if len(parts) == 2 and parts[1].startswith(parts[0]):
        parts = parts[1:]
    return shorten("\n\n".join(parts) or f"{method.upper()} {path}", DESCRIPTION_CHARS)


def _words(value: Any) -> str:
    return shorten(clean_text(value.strip())[0], DESCRIPTION_CHARS) if isinstance(value, str) else ""
