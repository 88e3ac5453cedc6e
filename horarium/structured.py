"""Structured answers: what a schema of an agent may be, how a model is told, and whether an answer fits.

The schema that a run's answer has to fit is kept with the run, among its metadata: the agent's own, or that of whoever
started the run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import BaseModel, ConfigDict, ValidationError

from horarium.content import canonical
from horarium.schemas import nothing_checked_by, problems

KEPT = "horarium.answer"  # in a run's metadata
MAX_SCHEMA_BYTES = 16 * 1024
ANY_OBJECT: dict[str, Any] = {"type": "object"}
_MOST_PROBLEMS = 3
_FENCED = re.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL | re.IGNORECASE)


class AnswerSchema(BaseModel):
    """What a run's answer has to fit. `own`: whoever started the run said so, and not its agent."""

    model_config = ConfigDict(frozen=True)

    json_schema: dict[str, Any]
    own: bool = False

    def as_metadata(self) -> dict[str, str]:
        """To be kept with the run."""
        return {KEPT: self.model_dump_json(exclude_defaults=True)}

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> AnswerSchema | None:
        """Of a run's metadata; None where there is none that could be kept to."""
        try:
            found = cls.model_validate_json(metadata[KEPT])
        except (KeyError, ValidationError):
            return None
        return found if schema_flaw(found.json_schema) is None else None


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer, and why it does not count; as JSON and nothing else where it does."""

    text: str
    problem: str | None = None


def a_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that answers and inputs can be checked by.

    Raises:
        ValueError: It is none.
    """
    flaw = schema_flaw(schema)
    if flaw is not None:
        raise ValueError(flaw)
    return schema


def schema_flaw(schema: Mapping[str, Any]) -> str | None:
    """Why nothing can be checked by a schema; None when it can."""
    try:
        size = len(canonical(schema).encode())
        if size > MAX_SCHEMA_BYTES:
            return f"has {size:,} bytes of JSON; a schema may have {MAX_SCHEMA_BYTES:,}"
        Draft202012Validator.check_schema(schema)
        lost = next((reference for reference in _references(schema) if not _leads_somewhere(schema, reference)), None)
    except SchemaError as error:
        return f"is no JSON Schema: {error.message[:200]}"
    except (ValueError, TypeError, RecursionError) as error:
        return f"is no JSON: {error}"
    if lost is not None:
        return f"refers to {lost[:100]!r}, which is not in it; nothing is looked up elsewhere"
    return nothing_checked_by(schema)


def _references(node: Any) -> Iterator[str]:
    match node:
        case dict():
            yield from (node[name] for name in ("$ref", "$dynamicRef") if isinstance(node.get(name), str))
            for inner in node.values():
                yield from _references(inner)
        case list():
            for inner in node:
                yield from _references(inner)


def _leads_somewhere(schema: Mapping[str, Any], reference: str) -> bool:
    if not reference.startswith("#/"):
        return reference.startswith("#")  # all of it, or an anchor
    place: Any = schema
    for part in reference[2:].split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        match place:
            case dict() if name in place:
                place = place[name]
            case list() if name.isdecimal() and int(name) < len(place):
                place = place[int(name)]
            case _:
                return False
    return True


def told(instructions: str, schema: Mapping[str, Any]) -> str:
    """The instructions, with what the answer has to be."""
    words = "Your final answer has to be one JSON value that fits this JSON Schema, with nothing before or after it:"
    return "\n\n".join(part for part in (instructions, f"{words}\n{canonical(schema)}") if part)


def judged(schema: Mapping[str, Any], text: str) -> Judged:
    """A model's final answer, out of the fence that models like to put around JSON."""
    fenced = _FENCED.fullmatch(text)
    bare = (fenced.group(1) if fenced else text).strip()
    try:
        value = json.loads(bare, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        words = f"Your last turn did not count: the answer has to be JSON and nothing else, and is none ({error})."
        return Judged(text, words)
    found = problems(schema, value, _MOST_PROBLEMS)
    if not found:
        return Judged(bare)
    return Judged(
        text, f"Your last turn did not count: the answer does not fit its JSON Schema. {'; '.join(map(str, found))}"
    )


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
