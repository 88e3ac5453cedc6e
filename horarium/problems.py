"""Validation errors as a colleague would say them: file, line, field, and the near miss."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, model: type[BaseModel], file: Path, text: str) -> str:
    """One line for each mistake: `agents/hello.yaml:4: limits.max_turn: unknown field; did you mean 'max_turns'?`."""
    return "\n".join(
        f"{file}:{line_of(text, problem['loc'])}: {_field(problem['loc'])}: {_sentence(problem, model)}"
        for problem in error.errors(include_url=False)
    )


def sentences(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """As `explain`, for what stands in no file: `retry.attempts: must be …`."""
    return [f"{_field(problem['loc'])}: {_sentence(problem, model)}" for problem in error.errors(include_url=False)]


def near_miss(word: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?` when something known is close, else an empty string."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def line_of(text: str, path: Sequence[str | int]) -> int:
    """The line (from 1) of YAML or TOML text where the innermost part of `path` that can be found stands."""
    exact = _line_in_yaml(text, path)
    if exact is not None:
        return exact
    lines = text.splitlines()
    at, found = 0, 1
    for key in (part for part in path if isinstance(part, str)):
        word = re.escape(key)
        first = rf"^\s*(?:-\s*)?[\[\"'.\w{{]*?\b{word}\b[\"']?\s*[\]:=.]"
        pattern = re.compile(rf"{first}|[{{,]\s*[\"']?{word}[\"']?\s*[:=]")
        for number in range(at, len(lines)):
            if pattern.search(lines[number]):
                at, found = number, number + 1
                break
    return found


def _line_in_yaml(text: str, path: Sequence[str | int]) -> int | None:
    """None where the text is no YAML mapping that has the path's first key."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
    found: int | None = None
    for part in path:
        match node:
            case yaml.MappingNode():
                entry = next((item for item in node.value if item[0].value == str(part)), None)
                if entry is None:
                    break
                found, node = entry[0].start_mark.line + 1, entry[1]
            case yaml.SequenceNode() if isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                found = node.start_mark.line + 1
            case _:
                break
    return found


def _field(location: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in location) or "(the whole)"


def _sentence(problem: Any, model: type[BaseModel]) -> str:
    match problem["type"]:
        case "extra_forbidden":
            owner = _model_at(model, problem["loc"][:-1])
            known = list(owner.model_fields) if owner else []
            return f"unknown field{near_miss(str(problem['loc'][-1]), known)}"
        case "missing":
            return "is required"
        case "literal_error":
            allowed = problem["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            given = problem["input"]
            return f"must be one of {problem['ctx']['expected']}, not {given!r}{near_miss(str(given), allowed)}"
        case "value_error":
            return str(problem["msg"]).removeprefix("Value error, ")
        case _:
            message = str(problem["msg"])
            return message[:1].lower() + message[1:]


def _model_at(model: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel] | None:
    here: Any = model
    for part in (part for part in path if isinstance(part, str)):
        if isinstance(here, type) and issubclass(here, BaseModel):
            if part not in here.model_fields:
                return None
            here = here.model_fields[part].annotation
        candidates = [here, *get_args(here)]
        here = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), here)
    return here if isinstance(here, type) and issubclass(here, BaseModel) else None
