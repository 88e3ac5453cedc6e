"""What a request says, as an agent is given it: one text, or answers: to approval requests, and to function calls.

A thread keeps what an agent said as evidence of a run, so nothing said elsewhere is put into an agent's mouth: words of
an assistant that a client sends along become part of the text, marked as what was said before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from horarium.content import clean_text
from horarium.gateway.responses.errors import BadParameter
from horarium.gateway.responses.requests import CreateResponse

_PASSED_OVER = ("reasoning", "mcp_list_tools", "mcp_approval_request")
_ASKING = ("mcp_approval_request", "function_call")
_ANSWERING = ("mcp_approval_response", "function_call_output")
MOST_COMMENT = 2_000  # characters, as a decision has them


@dataclass(frozen=True, slots=True)
class ApprovalAnswer:
    """One item `mcp_approval_response`."""

    request: str
    approve: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class FunctionOutput:
    """One item `function_call_output`."""

    call_id: str
    output: str
    where: str


@dataclass(frozen=True, slots=True)
class Said:
    """Either a text, or answers."""

    text: str
    answers: tuple[ApprovalAnswer, ...] = ()
    outputs: tuple[FunctionOutput, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """What one of them said: User, Assistant or System."""

    who: str
    text: str


def read_input(body: CreateResponse) -> Said:
    """Take a request's input apart.

    Raises:
        BadParameter: It holds something that an agent cannot be given, or nothing at all.
    """
    if isinstance(body.input, str):
        return Said(_composed(body, [], [Line("User", body.input)]))
    lines: list[Line] = []
    rules: list[str] = []
    answers: list[ApprovalAnswer] = []
    outputs: list[FunctionOutput] = []
    called: dict[str, str] = {}
    told_before = _told_before(body)
    for place, item in enumerate(body.input):
        where = f"input[{place}]"
        match item.get("type", "message"):
            case "message":
                line = read_message(item, where)
                (rules.append(line.text) if line.who == "System" else lines.append(line))
            case "mcp_approval_response":
                answers.append(_answer(item, where))
            case "mcp_call":
                lines.append(Line("Assistant", f"[Called {item.get('name')}; it returned: {item.get('output')}]"))
            case "function_call":
                called[str(item.get("call_id"))] = str(item.get("name"))
            case "function_call_output":
                output = _output(item, where)
                if place < told_before:
                    name = called.get(output.call_id, "a function")
                    lines.append(Line("Assistant", f"[Called {name}; it returned: {output.output}]"))
                else:
                    outputs.append(output)
            case kind if kind in _PASSED_OVER:
                continue
            case kind:
                raise BadParameter(where, f"Items of type {kind!r} are not supported.", "unsupported_item")
    if not answers and not outputs:
        return Said(_composed(body, rules, lines))
    if any(line.who == "User" for line in _new(lines)) and not _echoed(body.input):
        raise BadParameter(
            "input", "Answer approval requests and function calls by themselves; say more in the next request."
        )
    return Said("", tuple(answers), tuple(outputs))


def _told_before(body: CreateResponse) -> int:
    """The place from which on outputs of functions are new.

    A client that sends the whole conversation along repeats earlier ones; those were followed by what somebody said.
    """
    if isinstance(body.input, str) or body.previous_response_id is not None or body.conversation_id is not None:
        return 0
    said = (
        place
        for place, item in enumerate(body.input)
        if item.get("type", "message") == "message" and item.get("role") in ("user", "assistant")
    )
    return max(said, default=0)


def _echoed(items: Sequence[dict[str, Any]]) -> bool:
    """Whether the client sends the whole conversation each time: then its last words came before the request."""
    kinds = [item.get("type", "message") for item in items]
    asked = max((place for place, kind in enumerate(kinds) if kind in _ASKING), default=None)
    return asked is not None and all(kind in _ANSWERING for kind in kinds[asked + 1 :])


def _composed(body: CreateResponse, rules: list[str], lines: list[Line]) -> str:
    new = _new(lines)
    before = lines[: len(lines) - len(new)]
    text = "\n\n".join(line.text for line in new if line.text.strip())
    if not text:
        raise BadParameter("input", "There is nothing to answer: the input ends without a user's text.")
    parts = [rule for rule in (body.instructions or "", *rules) if rule.strip()]
    if parts:
        parts.insert(0, "How this request is to be answered:")
    if before:
        parts += ["What was said before:", *(f"{line.who}: {line.text}" for line in before), "Now:"]
    elif parts:
        parts.append("The request:")
    return clean_text("\n\n".join([*parts, text]))[0]


def _new(lines: list[Line]) -> list[Line]:
    """What comes after the assistant's last words."""
    said = [place for place, line in enumerate(lines) if line.who == "Assistant"]
    return lines[said[-1] + 1 :] if said else lines


def read_message(item: dict[str, Any], where: str) -> Line:
    """One message item.

    Raises:
        BadParameter: It is not one, or has something else than text.
    """
    roles = {"user": "User", "assistant": "Assistant", "system": "System", "developer": "System"}
    role = item.get("role")
    if not isinstance(role, str) or role not in roles:
        raise BadParameter(f"{where}.role", f"There is no role {role!r}: user, assistant, system or developer.")
    content = item.get("content")
    if isinstance(content, str):
        return Line(roles[role], content)
    if not isinstance(content, list):
        raise BadParameter(f"{where}.content", "A message has text, or a list of parts.")
    texts: list[str] = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, dict) else None
        if kind not in ("input_text", "output_text", "text", "refusal") or not isinstance(text, str):
            raise BadParameter(
                f"{where}.content[{place}]", f"Parts of type {kind!r} are not supported: only text.", "unsupported_item"
            )
        texts.append(text)
    return Line(roles[role], "\n\n".join(texts))


def _output(item: dict[str, Any], where: str) -> FunctionOutput:
    call_id, output = item.get("call_id"), item.get("output")
    if not isinstance(call_id, str):
        raise BadParameter(f"{where}.call_id", "Name the function call.")
    if isinstance(output, str):
        return FunctionOutput(call_id, output, where)
    if not isinstance(output, list):
        raise BadParameter(f"{where}.output", "A text, or a list of parts with text.")
    texts: list[str] = []
    for place, part in enumerate(output):
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "input_text" else None
        if not isinstance(text, str):
            raise BadParameter(f"{where}.output[{place}]", "Only parts with text are supported.", "unsupported_item")
        texts.append(text)
    return FunctionOutput(call_id, "\n\n".join(texts), where)


def _answer(item: dict[str, Any], where: str) -> ApprovalAnswer:
    request, approve, reason = item.get("approval_request_id"), item.get("approve"), item.get("reason")
    if not isinstance(request, str):
        raise BadParameter(f"{where}.approval_request_id", "Name the approval request.")
    if not isinstance(approve, bool):
        raise BadParameter(f"{where}.approve", "Say true or false.")
    if reason is not None and (not isinstance(reason, str) or len(reason) > MOST_COMMENT):
        raise BadParameter(f"{where}.reason", f"A text of at most {MOST_COMMENT:,} characters.")
    return ApprovalAnswer(request, approve, clean_text(reason)[0] if reason else None)
