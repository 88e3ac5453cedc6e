"""What became of a call, in MCP's words: its output, or why there is none (yet) and what to do."""

from __future__ import annotations

import base64
import json
from typing import Any

import mcp_types as types

from horarium.contract import RunResult
from horarium.errors import BY_CODE, ToolError
from horarium.ledger.approvals import ApprovalRecord
from horarium.ledger.database import Ledger
from horarium.ledger.journal import StepRecord

KEY = "horarium/idempotency-key"
RUN = "horarium/run"
MOST_BYTES = 1_000_000  # of an output that is sent whole
_IMAGES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
_OUR_WORDS = {
    "call_rejected": "Not done: a person refused it.",
    "call_skipped": "Not done: a person said to leave it.",
    "call_cancelled": "Not done.",
    "call_unknown": "It is not known whether this was done. Do not call it again before somebody has found out.",
    "cancelled": "The run was cancelled.",
    "terminated": "The run was ended from outside.",
    "approval_expired": "Not done: nobody decided in time.",
    "wall_time": "The run took longer than it may.",
}


async def of_end(ledger: Ledger, result: RunResult, step: StepRecord | None) -> types.CallToolResult:
    """The result of a call whose run has ended."""
    if result.status == "completed" and step is not None:
        content, structured = await _output(ledger, step)
        return types.CallToolResult(content=content, structured_content=structured, _meta={RUN: result.run})
    return error(_why(result, step), run=result.run)


def waiting(run: str, key: str, questions: list[ApprovalRecord], *, taken: bool) -> types.CallToolResult:
    """The answer when the patience is over before the run is."""
    question = questions[0].id if questions else None
    if not taken:
        why = "Nothing was done so far: no engine worker has taken it up. It will be done when one runs."
    elif questions:
        why = f"Not done yet: {in_words(questions[0])}"
    else:
        why = "Not done yet: it is still being worked on."
    later = f'To get the result, call again with the same arguments and "{KEY}": "{key}" in `_meta`; it is done once.'
    about = {"status": "waiting", "run": run, "approval": question, "idempotency_key": key}
    return types.CallToolResult(
        content=[types.TextContent(text=f"{why} Run {run}. {later}")],
        structured_content=about,
        is_error=True,
        _meta={RUN: run, KEY: key},
    )


def in_words(question: ApprovalRecord) -> str:
    """What a run waits for people to say."""
    if question.kind != "approval":
        return f"{question.tool} waits for a person to settle it ({question.id})."
    people = f" ({', '.join(question.approvers[:5])})" if question.approvers else ""
    until = f" until {question.expires_at:%Y-%m-%d %H:%M} UTC" if question.expires_at else ""
    return f"{question.tool} waits for an approver{people}{until}: approval {question.id}."


def error(message: str, *, run: str | None = None) -> types.CallToolResult:
    """A call that was not made, or failed, in words for whoever made it."""
    meta = {RUN: run} if run is not None else None
    return types.CallToolResult(content=[types.TextContent(text=message)], is_error=True, _meta=meta)


def _why(result: RunResult, step: StepRecord | None) -> str:
    """Our own words, or those that a tool or a person chose; never what an unexpected exception said."""
    chosen = step is not None and (step.status in ("rejected", "skipped") or step.code == ToolError.code)
    if step is not None and chosen and step.output:
        return step.output
    if result.reason in _OUR_WORDS:
        return _OUR_WORDS[result.reason]
    if result.reason in BY_CODE and result.message:
        return result.message
    return f"The call was not completed. Run {result.run} has the reason: horarium runs show {result.run}"


async def _output(ledger: Ledger, step: StepRecord) -> tuple[list[types.ContentBlock], dict[str, Any] | None]:
    text, blob = step.output or "", step.output_blob
    if blob is None:
        return [types.TextContent(text=text)], _object(text)
    if (step.output_bytes or 0) > MOST_BYTES:
        return [types.TextContent(text=text)], None  # the cut, or the note, that a model is given
    data = await ledger.blobs.get(blob)
    if "binary" in (step.changes or "").split(",") and not _is_text(data):
        return [_binary(data, step)], None
    whole = data.decode("utf-8", "replace")
    return [types.TextContent(text=whole)], _object(whole)


def _binary(data: bytes, step: StepRecord) -> types.ContentBlock:
    encoded = base64.b64encode(data).decode()
    kind = next((kind for magic, kind in _IMAGES.items() if data.startswith(magic)), None)
    if kind is not None:
        return types.ImageContent(data=encoded, mime_type=kind)
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return types.AudioContent(data=encoded, mime_type="audio/wav")
    uri = f"horarium://runs/{step.run_id}/steps/{step.number}"
    contents = types.BlobResourceContents(uri=uri, mime_type="application/octet-stream", blob=encoded)
    return types.EmbeddedResource(resource=contents)


def _is_text(data: bytes) -> bool:
    """JSON that held bytes is marked as they are, and is text all the same."""
    try:
        return "\x00" not in data.decode("utf-8")
    except UnicodeDecodeError:
        return False


def _object(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None
