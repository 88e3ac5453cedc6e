"""An OpenAPI document, read, and its schemas as plain JSON Schema: references in their place, all sizes bounded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import unquote

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from horarium.content import canonical, clean_json, clean_text
from horarium.errors import ConfigError

MAX_DOCUMENT_BYTES = 8 * 1024 * 1024
MAX_LEVELS = 200
MAX_VALUES = 2_000_000
MAX_SCHEMA_BYTES = 48 * 1024  # of one operation's arguments: a model has to read them
MAX_NODES = 20_000  # while one schema is put together: references to references grow without end
DEPTHS = (24, 10, 7, 5, 4, 3, 2)  # tried in turn until the whole is small enough; below is anything
MAX_REFERENCES = 20  # one after the other, before something is reached

_ONE = {"items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"}
_ONE |= {"unevaluatedItems", "unevaluatedProperties"}
_MANY = {"anyOf", "oneOf", "allOf", "prefixItems"}
_NAMED = {"properties", "patternProperties", "dependentSchemas"}
# What OpenAPI adds to JSON Schema, what is only for people who write documents, and what would need a base address.
_LEFT_OUT = {"nullable", "discriminator", "xml", "externalDocs", "example", "examples", "readOnly", "writeOnly"}
_LEFT_OUT |= {"$schema", "$id", "$anchor", "$dynamicAnchor", "$dynamicRef", "$defs", "$comment", "$vocabulary"}


def parse_document(data: bytes, name: str) -> dict[str, Any]:
    """The fields of a document in JSON or YAML; `name` is what it is called in errors.

    Raises:
        ConfigError: It is neither, is too large, or is of another version of OpenAPI.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ConfigError(f"{name}:1: is larger than {MAX_DOCUMENT_BYTES // 1024 // 1024} MiB")
    try:
        text = data.decode("utf-8-sig")
        document = json.loads(text) if text.lstrip()[:1] == "{" else _yaml(text, name)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{name}:{line}: {error.problem or 'is not valid YAML'}") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name}:{error.lineno}: is not valid JSON: {error.msg}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}:1: is neither JSON nor YAML in UTF-8, or is nested too deeply") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{name}:1: is no OpenAPI document: it has no fields")
    version = str(document.get("openapi", ""))
    if not version.startswith(("3.0", "3.1")):
        found = f"OpenAPI {version}" if version else "Swagger 2" if "swagger" in document else "no `openapi:` field"
        raise ConfigError(f"{name}:1: must be an OpenAPI document of version 3.0 or 3.1; found {found}")
    return document


def _yaml(text: str, name: str) -> Any:
    """Plain data of YAML text. Its depth and size are looked at first: building it is recursive, in C code without a
    limit, and aliases of aliases multiply.
    """
    sizes: dict[str, int] = {}  # with every alias followed
    within: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, Loader=_DocumentLoader):
        size = 1
        if isinstance(event, yaml.CollectionStartEvent):
            within.append((event.anchor, 0))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = within.pop()
            sizes |= {anchor: size} if anchor is not None else {}
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in within):
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise ConfigError(f"{name}:{line}: *{event.anchor} stands inside of itself")
            size = sizes.get(str(event.anchor), 1)
        anchor, before = within[-1]
        within[-1] = anchor, before + size
        if len(within) > MAX_LEVELS:
            raise ConfigError(f"{name}:1: is nested more than {MAX_LEVELS} levels deep")
        if before + size > MAX_VALUES:
            raise ConfigError(f"{name}:1: holds more than {MAX_VALUES:,} values with its aliases followed")
    return yaml.load(text, Loader=_DocumentLoader)  # noqa: S506 - a SafeLoader, only stricter


class _TooLarge(Exception):
    """The schema has more parts than are put together."""


class Schemas:
    """References and schemas of one document."""

    def __init__(self, document: Mapping[str, Any], name: str) -> None:
        self._document = document
        self._name = name

    def resolved(self, node: Any) -> dict[str, Any]:
        """What stands at the end of a node's references; an empty mapping for what is none.

        Raises:
            ConfigError: A reference leads out of the document, nowhere, or round in a circle.
        """
        for _ in range(MAX_REFERENCES):
            if not isinstance(node, Mapping):
                return {}
            if not isinstance(node.get("$ref"), str):
                return dict(node)
            node = self._at(node["$ref"])
        raise ConfigError(f"{self._name}: references lead round in a circle, or are more than {MAX_REFERENCES} long.")

    def together(self, properties: Mapping[str, tuple[Any, str]], required: list[str]) -> dict[str, Any]:
        """One object schema of these properties, each a schema and what else is to be said of it.

        Where the whole is too large, its deepest levels are left open: any value fits there, and the API judges it.

        Raises:
            ConfigError: It is too large even so, or is no JSON Schema.
        """
        for depth in DEPTHS:
            try:
                whole = self._together(properties, required, depth)
            except _TooLarge:
                continue
            if len(canonical(whole).encode()) > MAX_SCHEMA_BYTES:
                continue
            try:
                Draft202012Validator.check_schema(whole)
            except SchemaError as error:
                where = ".".join(str(part) for part in error.absolute_path)
                raise ConfigError(f"{self._name}: {where}: is no JSON Schema: {error.message}") from error
            return whole
        raise ConfigError(f"{self._name}: its arguments need more than {MAX_SCHEMA_BYTES // 1024} KiB to describe.")

    def _together(self, properties: Mapping[str, tuple[Any, str]], required: list[str], depth: int) -> dict[str, Any]:
        walk = _Walk(self, depth)
        made: dict[str, Any] = {}
        for name, (schema, said) in properties.items():
            plain = walk.schema(schema, 0, ())
            made[name] = ({"description": said} | plain if said else plain) if isinstance(plain, dict) else plain
        whole = {"type": "object", "properties": made, "additionalProperties": False}
        return whole | ({"required": required} if required else {})

    def _at(self, reference: str) -> Any:
        head, pointer = reference[:2], reference[2:]
        if head != "#/":
            raise ConfigError(f"{self._name}: {reference!r} leads out of the document; bundle it into one file.")
        node: Any = self._document
        for part in pointer.split("/"):
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
                node = node[int(key)]
            elif isinstance(node, Mapping) and key in node:
                node = node[key]
            else:
                raise ConfigError(f"{self._name}: {reference!r} is not in the document.")
        return node


class _Walk:
    """Putting one schema together."""

    def __init__(self, schemas: Schemas, depth: int) -> None:
        self._schemas = schemas
        self._depth = depth
        self._nodes = 0

    def schema(self, node: Any, depth: int, inside: tuple[str, ...]) -> Any:
        """A schema without references; what goes round in a circle is left open there."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _TooLarge
        if isinstance(node, bool):
            return node
        if not isinstance(node, Mapping) or depth > self._depth:
            return {}
        reference = node.get("$ref")
        if isinstance(reference, str):
            if reference in inside:
                return {}
            beside = {key: value for key, value in node.items() if key != "$ref"}
            there = self._schemas.resolved({"$ref": reference})
            return self.schema({**there, **beside}, depth, (*inside, reference))
        made = {
            _key(key): self._keyword(str(key), value, depth, inside)
            for key, value in node.items()
            if key not in _LEFT_OUT and (key != "pattern" or _is_pattern(value))
        }
        _as_of_now(made, node)
        if isinstance(made.get("properties"), dict):
            self._without_read_only(made, node["properties"])
        return made

    def _keyword(self, key: str, value: Any, depth: int, inside: tuple[str, ...]) -> Any:
        if key in _ONE:
            return self.schema(value, depth + 1, inside)
        if key in _MANY and isinstance(value, list):
            return [self.schema(item, depth + 1, inside) for item in value]
        if key in _NAMED and isinstance(value, Mapping):
            kept = [name for name in value if key != "patternProperties" or _is_pattern(name)]
            return {_key(name): self.schema(value[name], depth + 1, inside) for name in kept}
        return clean_json(value)

    def _without_read_only(self, made: dict[str, Any], properties: Mapping[Any, Any]) -> None:
        """What only answers have is no argument."""
        for name, item in properties.items():
            if self._schemas.resolved(item).get("readOnly") is True:
                made["properties"].pop(_key(name), None)
                if isinstance(made.get("required"), list):
                    made["required"] = [other for other in made["required"] if other != name]


def _key(key: Any) -> str:
    return clean_text(str(key))[0]


def _is_pattern(value: Any) -> bool:
    """Whether Python can check it: documents are written for other dialects too, and the API checks it anyway."""
    try:
        re.compile(value)
    except (re.error, TypeError, ValueError, OverflowError, RecursionError):
        return False
    return True


def _as_of_now(made: dict[str, Any], node: Mapping[str, Any]) -> None:
    """Say in today's words what OpenAPI 3.0 says in its own."""
    if node.get("nullable") is True:
        if isinstance(made.get("type"), str):
            made["type"] = [made["type"], "null"]
        if isinstance(made.get("enum"), list) and None not in made["enum"]:
            made["enum"] = [*made["enum"], None]
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(made.get(exclusive), bool) and made.pop(exclusive) and bound in made:
            made[exclusive] = made.pop(bound)


class _DocumentLoader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
    """YAML as OpenAPI allows it: no dates, no yes and no, and no merge keys, whose effect multiplies."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, Any]]]] = {
        first: [
            (tag, pattern)
            for tag, pattern in found
            if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:merge")
        ]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_DocumentLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$", re.I), list("tTfF"))
