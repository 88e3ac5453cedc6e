"""A response in the protocol's words: its object, and the items of its output."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from horarium.contract import CallerFunction
from horarium.gateway.responses.names import conversation_of, request_of
from horarium.gateway.responses.record import OURS, Part
from horarium.ledger.approvals import ApprovalRecord
from horarium.ledger.functions import RunFunctions
from horarium.ledger.journal import StepRecord
from horarium.structured import KEPT
from horarium.turns import stored_turn

Item = dict[str, Any]


def said(part: Part, step: StepRecord) -> str:
    """The text of a turn as it is so far; empty where there is none.

    Of a structured answer there is none before it is whole and fits: a client reads each text as JSON.
    """
    if not part.is_settled(step):
        return "" if part.schema is not None else (step.partial or "")
    if step.status != "completed":
        return ""
    turn = stored_turn(step.output or "{}")
    return "" if part.schema is not None and (turn.calls or step.message is not None) else turn.text


def message(part: Part, step: StepRecord, text: str | None, status: str = "completed") -> Item:
    """A turn's text as an item. `text` None: it has just begun."""
    return {
        "type": "message",
        "id": part.name.item("msg", step.number),
        "status": status if text is not None else "in_progress",
        "role": "assistant",
        "content": [text_part(text)] if text is not None else [],
    }


def text_part(text: str) -> Item:
    """The one part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def call(part: Part, step: StepRecord, *, done: bool) -> Item:
    """A call as an item: the agent is the server whose tools are called."""
    approval = part.guards.get(step.number)
    went_well = step.status == "completed"
    return {
        "type": "mcp_call",
        "id": part.name.item("mcp", step.number),
        "server_label": part.run.agent,
        "name": step.name,
        "arguments": (step.arguments or "{}") if done else "",
        "approval_request_id": request_of(approval) if approval is not None else None,
        "output": step.output if done and went_well else None,
        "error": _execution_error(step) if done and not went_well else None,
        "status": ("completed" if went_well else "failed") if done else "in_progress",
    }


def function_call(part: Part, step: StepRecord) -> Item:
    """A call that the client carries out."""
    given = part.given[step.number]
    return {
        "type": "function_call",
        "id": part.name.item("fc", step.number),
        "call_id": given.call_id,
        "name": step.name,
        "arguments": step.arguments or "{}",
        "status": "incomplete" if part.is_taken_back(given) else "completed",
    }


def approval_request(part: Part, approval: ApprovalRecord) -> Item:
    """What people are asked, with the exact arguments."""
    return {
        "type": "mcp_approval_request",
        "id": request_of(approval.id),
        "server_label": part.run.agent,
        "name": approval.tool,
        "arguments": approval.arguments,
    }


def resource(part: Part, output: Sequence[Item], *, begun: str | None = None) -> Item:
    """The response's object. `begun`: as it was at its begin, with this status and nothing said so far."""
    ended = begun is None and part.ended
    status = begun or part.status
    asked_for = part.asked_for
    return {
        "id": str(part.name),
        "object": "response",
        "created_at": _seconds(part.created_at),
        "completed_at": _seconds(part.completed_at) if ended and part.completed_at else None,
        "status": status,
        "background": asked_for.background,
        "error": _error(part) if status == "failed" else None,
        "incomplete_details": {"reason": part.run.reason or "unknown"} if status == "incomplete" else None,
        "instructions": None,
        "max_output_tokens": asked_for.max_output_tokens,
        "max_tool_calls": asked_for.max_tool_calls,
        "model": part.run.agent,
        "output": list(output) if begun is None else [],
        "parallel_tool_calls": True,
        "previous_response_id": part.previous,
        "conversation": {"id": conversation_of(part.run.thread_id)} if asked_for.in_conversation else None,
        "reasoning": None,
        "store": asked_for.store,
        "temperature": 1.0,
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "top_logprobs": 0,
        "text": {"format": _format(part)},
        "tool_choice": _choice(part.functions),
        "tools": [_tool(function) for function in part.functions.functions],
        "truncation": "disabled",
        "service_tier": "default",
        "usage": _usage(part) if ended else None,
        "user": None,
        "safety_identifier": None,
        "prompt_cache_key": None,
        "metadata": {name: value for name, value in part.run.metadata.items() if name not in (OURS, KEPT)},
    }


def _format(part: Part) -> Item:
    wanted = part.asked_for.format or {"type": "text"}
    if wanted["type"] != "json_schema":
        return wanted
    return {"description": None, "strict": False, **wanted, "schema": part.schema or {}}


def _tool(function: CallerFunction) -> Item:
    # Strict: a model whose arguments do not fit is told so, and the client never sees such a call.
    return {"type": "function", **function.model_dump(mode="json"), "strict": True}


def _choice(functions: RunFunctions) -> str | Item:
    match functions.choice:
        case None:
            return "auto"
        case "*":
            return "required"
        case name:
            return {"type": "function", "name": name}


def _usage(part: Part) -> Item:
    turns = [step for step in part.shown if step.kind == "model_call"]
    tokens_in, tokens_out = sum(s.input_tokens for s in turns), sum(s.output_tokens for s in turns)
    return {
        "input_tokens": tokens_in,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": tokens_out,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens_in + tokens_out,
    }


def _error(part: Part) -> Item:
    return {"code": part.run.reason or "server_error", "message": part.run.message or "The run failed."}


def _execution_error(step: StepRecord) -> Item:
    why = step.output or step.message or f"Not done: {step.status}."
    return {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": why}]}


def _seconds(at: datetime) -> int:
    return int(at.timestamp())
