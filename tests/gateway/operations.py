"""The operations of the OpenAPI document, as requests that can be sent to a furnished gateway."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tests.gateway.furnished import Furnished

Schema = dict[str, Any]
OF_THE_PROJECT = {"agent", "toolbox", "hook"}  # what no tenant has for itself
NOUNS = {"response_id": "response", "conversation_id": "conversation", "item_id": "item", "agent_name": "agent"}
NAMED = {"agents": "agent", "routines": "routine", "toolboxes": "toolbox", "hooks": "hook", "threads": "file"}


@dataclass(frozen=True)
class Operation:
    """One of them."""

    id: str
    method: str
    path: str
    said: dict[str, Any]

    @property
    def role(self) -> str:
        """The smallest that may."""
        return str(self.said["x-horarium-role"])

    @property
    def speaks_openai(self) -> bool:
        """Whether its errors are of OpenAI's shape."""
        return "responses" in self.said["tags"]

    @property
    def nouns(self) -> dict[str, str]:
        """What each parameter of the path is the id of."""
        names = [part[1:-1] for part in self.path.split("/") if part.startswith("{")]
        return {name: noun for name in names if (noun := self._noun(name)) is not None}

    def _noun(self, name: str) -> str | None:
        if name == "name":
            return NAMED[self.path.split("/")[2]]
        return None if name in ("number", "version") else "agent" if name == "model" else NOUNS.get(name, name)

    def address(self, house: Furnished, *, last: bool = False) -> str:
        """With the first of what is there, or the last."""
        path = self.path.replace("{number}", "1").replace("{version}", "1")
        for name, noun in self.nouns.items():
            path = path.replace(f"{{{name}}}", quote(house.one(noun, last=last), safe=""))
        return path

    @property
    def body(self) -> Schema | None:
        """Schema of the JSON that it takes."""
        found: Schema | None = self.said.get("requestBody", {}).get("content", {}).get("application/json")
        return found


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    """All of them."""
    for path, methods in document["paths"].items():
        for method, said in methods.items():
            yield Operation(said["operationId"], method.upper(), path, said)


def resolved(document: dict[str, Any], schema: Schema) -> Schema:
    """What a reference stands for."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def examples_of(document: dict[str, Any], media: Schema) -> list[Any]:
    """The examples of a body."""
    said = [example["value"] for example in media.get("examples", {}).values()]
    said += [media["example"]] if "example" in media else []
    return said or _of_schema(document, media["schema"])


def _of_schema(document: dict[str, Any], schema: Schema) -> list[Any]:
    schema = resolved(document, schema)
    if "examples" in schema:
        return list(schema["examples"])
    return [found for part in schema.get("anyOf", ()) for found in _of_schema(document, part)]


def request_of(document: dict[str, Any], operation: Operation, house: Furnished) -> dict[str, Any]:
    """What else is sent with it: the first example of its body, and the parameters that it needs."""
    more: dict[str, Any] = {}
    needed = {one["name"] for one in operation.said.get("parameters", ()) if one["in"] == "query" and one["required"]}
    if needed:
        assert needed == {"other"}, operation.id
        more["params"] = {"other": house.ids["run"][1]}
    if operation.body is not None:
        more["json"] = next(iter(examples_of(document, operation.body)), None)
    elif operation.method == "PUT":
        more["content"] = b"Something."
    return more
