"""What a small local model is shown: plain text in its own chat format, cut to its window.

Tool calls and outputs become sentences and excerpts, the tool to be called becomes a form to fill in. What does
not fit is left out in this order: old turns, then the middle of long outputs; never the instructions or the task.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from activities.models.base import ModelRequest, TurnMessage
from activities.models.quoting import bounded, excerpt, quoted, reports
from horarium.tools import ToolSpec

ANSWER_CHARS = 400
MIN_MESSAGE_CHARS = 200
_ENGINES_WORDS = ("[From the system", "Error: ")


@dataclass(frozen=True, slots=True)
class Form:
    """What the output is held to: the arguments of `only`, or a choice among tools and an answer.

    `structured`: the answer is JSON; without tools it is all there is.
    """

    tools: tuple[ToolSpec, ...]
    schema: dict[str, Any]
    only: str | None
    structured: bool = False

    def read(self, output: str) -> tuple[str, str | None, Any]:
        """The text, the tool's name and its arguments, of what the model filled in."""
        if self.structured and not self.tools:
            return output, None, None
        filled = json.loads(output)
        if self.only is not None:
            return "", self.only, filled
        if "answer" in filled:
            answer = filled["answer"]
            return json.dumps(answer, ensure_ascii=False) if self.structured else str(answer), None, None
        return "", str(filled["tool"]), filled.get("arguments", {})


def form_of(request: ModelRequest, *, quoting: bool) -> Form | None:
    """The form for this turn; None when the model is free to speak."""
    structured = _answer_form(request.answer_schema) if request.answer_schema is not None else None
    if structured is not None and (not request.tools or request.tool_choice == "none"):
        return Form((), structured, None, structured=True)
    definitions = structured.pop("$defs", None) if structured is not None else None
    answer = structured if structured is not None else _answer(request.messages, quoting)
    if not request.tools or request.tool_choice == "none":
        return Form((), _exactly(answer=answer), None) if "enum" in answer else None
    sources = _sources(request.messages)
    fit = [(tool, quoted(tool.parameters, sources) if quoting else bounded(tool.parameters)) for tool in request.tools]
    if request.tool_choice == "required" and len(fit) == 1:
        return Form(request.tools, fit[0][1], fit[0][0].name)
    choices = [_exactly(tool={"const": tool.name}, arguments=schema) for tool, schema in fit]
    if request.tool_choice == "auto":
        choices.append(_exactly(answer=answer))
    # At the root, as that is where references look for them.
    held = {"anyOf": choices, **({"$defs": definitions} if definitions else {})}
    return Form(request.tools, held, None, structured=structured is not None)


def _answer_form(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as llama.cpp can hold an output to it: without patterns, many of which it refuses."""

    def walk(node: Any, *, names: bool = False) -> Any:
        if isinstance(node, list):
            return [walk(item) for item in node]
        if not isinstance(node, dict):
            return node
        return {
            key: value if key in ("enum", "const") else walk(value, names=key in ("properties", "$defs") and not names)
            for key, value in node.items()
            if names or key not in ("pattern", "patternProperties")
        }

    return bounded(walk(dict(schema)))


def _answer(messages: Sequence[TurnMessage], quoting: bool) -> dict[str, Any]:
    """After a tool, small weights report in the tool's own words: their own are about something else."""
    if quoting and messages and messages[-1].role == "tool":
        newest = messages[-1]
        name = _names(messages).get(newest.call_id or "", "The tool")
        return {"enum": list(dict.fromkeys(reports(name, newest.text)))}
    return {"type": "string", "minLength": 1, "maxLength": ANSWER_CHARS}


def _names(messages: Sequence[TurnMessage]) -> dict[str, str]:
    return {call.id: call.name for message in messages for call in message.calls}


def rendered(request: ModelRequest, form: Form | None, limit: int) -> list[dict[str, str]]:
    """The messages for llama.cpp, with about `limit` characters in all."""
    system = excerpt(request.instructions.strip(), limit // 3)
    ask = _ask(request, form)
    left = max(limit - len(system) - len(ask), MIN_MESSAGE_CHARS)
    kept = _kept(request.messages, left)
    messages: list[dict[str, str]] = []
    names = _names(request.messages)
    for message, share in kept:
        role, text = _words(message, names, share)
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += f"\n\n{text}"
        elif text:
            messages.append({"role": role, "content": text})
    if ask:
        if messages and messages[-1]["role"] == "user":
            messages[-1]["content"] += f"\n\n{ask}"
        else:
            messages.append({"role": "user", "content": ask})
    return ([{"role": "system", "content": system}] if system else []) + messages


def _kept(messages: Sequence[TurnMessage], limit: int) -> list[tuple[TurnMessage, int]]:
    """The task and the newest messages, each with the characters it may take."""
    task = next((index for index, message in enumerate(messages) if message.role == "user"), None)
    chosen: dict[int, int] = {}
    left = limit
    if task is not None:
        chosen[task] = min(len(messages[task].text), limit // 3)
        left -= chosen[task]
    for index in range(len(messages) - 1, -1, -1):
        if index in chosen:
            continue
        size = min(_size(messages[index]), max(limit // 2, MIN_MESSAGE_CHARS))
        if size > left:
            if left >= MIN_MESSAGE_CHARS:
                chosen[index] = left
            break
        chosen[index] = size
        left -= size
    return [(messages[index], chosen[index]) for index in sorted(chosen)]


def _size(message: TurnMessage) -> int:
    return len(message.text) + sum(len(call.name) + len(call.arguments) + 20 for call in message.calls) + 40


def _words(message: TurnMessage, names: dict[str, str], share: int) -> tuple[str, str]:
    match message.role:
        case "assistant":
            said = [message.text, *(f"I call {call.name} with {call.arguments}" for call in message.calls)]
            return "assistant", excerpt("\n".join(part for part in said if part), share)
        case "tool":
            return "user", f"{names.get(message.call_id or '', 'The tool')} says:\n{excerpt(message.text, share)}"
        case "system":
            return "system", excerpt(message.text, share)
        case _:
            return "user", excerpt(message.text, share)


def _ask(request: ModelRequest, form: Form | None) -> str:
    """The question the newest message ends with."""
    if form is None or not form.tools:
        if form is not None and form.structured:
            return f"Give the answer now, as JSON with these fields:\n{_named(request.answer_schema or {})}"
        done = bool(request.messages) and request.messages[-1].role == "tool"
        return "All tools are done. Say in one short sentence what was done." if done else ""
    if form.only is not None:
        return f"Now call {form.only}, with these arguments as JSON:\n{_fields(form.tools[0])}"
    offered = "\n".join(f"{tool.name}: {_first_line(tool.description)}\n{_fields(tool)}" for tool in form.tools)
    return f"Answer as JSON. Call one of these tools, or give an answer:\n{offered}"


def _fields(tool: ToolSpec) -> str:
    return _named(tool.parameters)


def _named(schema: Mapping[str, Any]) -> str:
    properties: dict[str, Any] = schema.get("properties", {})
    return "\n".join(f"- {name}: {schema.get('description', '')}".rstrip(": ") for name, schema in properties.items())


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""


def _sources(messages: Sequence[TurnMessage]) -> list[str]:
    """What may be quoted, newest first: what people and tools said, but not what the engine said about a turn."""
    said = [message.text for message in reversed(messages) if message.role in ("user", "tool") and message.text.strip()]
    return [text for text in said if not text.startswith(_ENGINES_WORDS)] or said


def _exactly(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
