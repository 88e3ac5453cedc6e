"""How a model of a hundred million parameters fills in a form: by quoting.

Left to write freely it repeats the question or counts to a million. Given the words and lines of the
conversation to choose from (as an `enum` in the schema its output is held to), it chooses well. So for such
weights every free string of a tool's parameters becomes a choice among quotations; larger ones write freely.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MAX_STRING_CHARS = 400
MAX_ITEMS = 8
MAX_CHOICES = 12
MAX_WORDS = 40
MAX_WORDS_EACH = 20  # of one message, so that a long log does not crowd out what a person said
PASSAGE_LINES = 3
QUOTE_CHARS = 300
_NAMED = ("properties", "$defs")

_WORD_NAMES = re.compile(
    r"(^|_)(path|file|filename|folder|dir|url|uri|id|key|name|number|version|branch|email|user|city|date|to|code)$",
    re.I,
)
_LINE_NAMES = re.compile(r"(^|_)(title|subject|summary|headline|reason|query|question)$", re.I)
_TELLING = re.compile(r"[/\\_@:.\d-]")
_ERROR = re.compile(
    r"(?i:\berror\b|\bfatal\b|\bpanic|err!|unable to|cannot )|\bFAILED\b|[a-z](Error|Exception)\b|^E[: ]"
)
_TROUBLE = re.compile(r"(?i:error|fail|warn|exception|conflict|undefined|denied|refused|timed? ?out|missing|not found)")
# What build tools say after the fact: true, but not what went wrong.
_AFTERMATH = re.compile(
    r"(?i:\bError \d+$|could not compile|exit(ed)?( with)?( status| code)|non-zero|elifecycle|errno|aborting due|"
    r"npm err!|for help|help visit|: assertionerror$|\d+ (failed|errors?)\b)"
)


def telling_lines(text: str) -> list[str]:
    """The lines of a text that say what is wrong with it, in their order; all lines when nothing seems wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.search(line) and not line.endswith(":")]
    causes = [line for line in errors if not _AFTERMATH.search(line)]
    return causes or errors or [line for line in lines if _TROUBLE.search(line)] or lines


def excerpt(text: str, limit: int) -> str:
    """At most about `limit` characters of a long text: its head, its tail, and between them the telling lines."""
    if len(text) <= limit:
        return text
    head, tail = text[: limit // 4], text[-limit // 4 :]
    left = limit // 2
    kept: list[str] = []
    for line in telling_lines(text[len(head) : -len(tail)]):
        if left < len(line) + 1:
            break
        kept.append(line[:QUOTE_CHARS])
        left -= len(kept[-1]) + 1
    return "\n".join([head, "[…]", *kept, "[…]", tail]) if kept else f"{head}\n[…]\n{tail}"


def bounded(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with an end to everything: output that is held to it cannot run on for ever."""

    def walk(node: Any, *, names: bool = False) -> Any:
        if isinstance(node, list):
            return [walk(item) for item in node]
        if not isinstance(node, Mapping):
            return node
        walked = {
            key: value if key in ("enum", "const", "default", "examples") else walk(value, names=key in _NAMED)
            for key, value in node.items()
        }
        if not names:
            match walked.get("type"):
                case "string" if "enum" not in walked and "const" not in walked:
                    walked["maxLength"] = min(walked.get("maxLength", MAX_STRING_CHARS), MAX_STRING_CHARS)
                case "array":
                    walked["maxItems"] = min(walked.get("maxItems", MAX_ITEMS), MAX_ITEMS)
                case "object" if "properties" in walked:
                    walked.setdefault("additionalProperties", False)
        return walked

    result: dict[str, Any] = walk(schema)
    return result


def quoted(schema: Mapping[str, Any], sources: Sequence[str]) -> dict[str, Any]:
    """The bounded schema in which free strings must be quotations from `sources`, newest first.

    Optional arguments are left out: each is one more chance to invent something.
    """

    def walk(node: Any, name: str) -> Any:
        if not isinstance(node, Mapping):
            return node
        walked = dict(node)
        if "properties" in walked:
            required = walked.get("required", [])
            walked["properties"] = {key: walk(walked["properties"][key], key) for key in required}
        for key in ("items", "additionalProperties"):
            if key in walked:
                walked[key] = walk(walked[key], name)
        for key in ("anyOf", "oneOf", "allOf"):
            if key in walked:
                walked[key] = [walk(item, name) for item in walked[key]]
        if "$defs" in walked:
            walked["$defs"] = {key: walk(value, key) for key, value in walked["$defs"].items()}
        if walked.get("type") == "string" and not {"enum", "const", "pattern", "format"} & walked.keys():
            choices = [
                choice
                for choice in quotations(name, sources)
                if walked.get("minLength", 0) <= len(choice) <= walked.get("maxLength", QUOTE_CHARS * PASSAGE_LINES)
            ]
            if choices:
                return {"enum": choices}
        return walked

    return bounded(walk(schema, ""))


def quotations(name: str, sources: Sequence[str]) -> list[str]:
    """What an argument of this name may quote: words for a path or an id, one line for a title, else some lines."""
    if _WORD_NAMES.search(name):
        words = [list(dict.fromkeys(_words(source))) for source in sources]
        telling = [[word for word in each if _TELLING.search(word.strip("-.:"))] for each in words]
        chosen = telling if any(telling) else words
        return list(dict.fromkeys(word for each in chosen for word in each[:MAX_WORDS_EACH]))[:MAX_WORDS]
    for source in sources:
        lines = list(dict.fromkeys(telling_lines(source)))[:MAX_CHOICES]
        if lines and _LINE_NAMES.search(name):
            return [line[:QUOTE_CHARS] for line in lines]
        if lines:
            return list(dict.fromkeys(_passages(source, lines)))
    return []


def reports(tool: str, output: str) -> list[str]:
    """Sentences that say what a tool did, in its own words."""
    lines = [line.strip()[:QUOTE_CHARS] for line in output.splitlines() if line.strip()]
    return [sentence for line in lines[:3] for sentence in (f"{tool}: {line}", f"Done. {line}")] or [f"{tool} is done."]


def _words(text: str) -> Iterator[str]:
    for word in text.split():
        stripped = word.strip(",;:!?\"'`()[]{}<>*").rstrip(".")
        if stripped:
            yield stripped[:QUOTE_CHARS]


def _passages(source: str, starts: Sequence[str]) -> Iterator[str]:
    """Each of these lines, with those right below it."""
    lines = source.splitlines()
    stripped = [line.strip() for line in lines]
    for start in starts:
        first = stripped.index(start)
        last = first + 1
        while last < min(len(lines), first + PASSAGE_LINES) and stripped[last]:
            last += 1
        yield "\n".join(line.rstrip()[:QUOTE_CHARS] for line in lines[first:last]).strip()
