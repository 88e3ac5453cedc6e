"""Responses and streams as Foundry sends them: the objects, and the events in their full order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Item = dict[str, Any]


def message(text: str, *, refusal: bool = False) -> Item:
    """An output item with text, or with a refusal."""
    part: Item = (
        {"type": "refusal", "refusal": text}
        if refusal
        else {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    )
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}


def call(name: str, arguments: str, call_id: str = "call_1") -> Item:
    """An output item that calls a function."""
    return {
        "id": f"fc_{call_id}",
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": "completed",
    }


def reasoning(encrypted: str) -> Item:
    """An output item with reasoning that only the provider can read."""
    return {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": encrypted}


def response(
    request: Item,
    model: str,
    output: list[Item],
    *,
    status: str = "completed",
    error: str | None = None,
    incomplete: str | None = None,
) -> Item:
    """A response object."""
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1795240000,
        "status": status,
        "background": False,
        "error": {"code": error, "message": "secret prompt text"} if error else None,
        "incomplete_details": {"reason": incomplete} if incomplete else None,
        "instructions": request.get("instructions"),
        "model": model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "store": request.get("store", True),
        "tool_choice": request.get("tool_choice", "auto"),
        "tools": request.get("tools", []),
        "truncation": "disabled",
        "metadata": request.get("metadata", {}),
        "usage": {
            "input_tokens": 11,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 18,
        },
    }


def response_events(whole: Item) -> Iterator[str]:
    """The server-sent events of a response, in order and numbered."""
    for number, event in enumerate(_events(whole)):
        yield f"event: {event['type']}\ndata: {json.dumps(event | {'sequence_number': number})}\n\n"


def _events(whole: Item) -> Iterator[Item]:
    begun = whole | {"status": "in_progress", "output": [], "error": None, "incomplete_details": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(whole["output"]):
        at = {"output_index": index, "item_id": item["id"]}
        match item["type"]:
            case "message":
                yield {"type": "response.output_item.added", "output_index": index, "item": item | {"content": []}}
                yield from _part_events(item["content"][0], at | {"content_index": 0})
            case "function_call":
                yield {"type": "response.output_item.added", "output_index": index, "item": item | {"arguments": ""}}
                for piece in _pieces(item["arguments"]):
                    yield {"type": "response.function_call_arguments.delta", "delta": piece, **at}
                done = {"name": item["name"], "arguments": item["arguments"]}
                yield {"type": "response.function_call_arguments.done", **done, **at}
            case _:
                yield {"type": "response.output_item.added", "output_index": index, "item": item}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": f"response.{whole['status']}", "response": whole}


def _part_events(part: Item, at: Item) -> Iterator[Item]:
    kind, field = ("refusal", "refusal") if part["type"] == "refusal" else ("output_text", "text")
    yield {"type": "response.content_part.added", "part": part | {field: ""}, **at}
    for piece in _pieces(part[field]):
        yield {"type": f"response.{kind}.delta", "delta": piece, "logprobs": [], **at}
    yield {"type": f"response.{kind}.done", field: part[field], "logprobs": [], **at}
    yield {"type": "response.content_part.done", "part": part, **at}


def chat_chunks(model: str, output: list[Item], finish: str | None = None) -> Iterator[str]:
    """The chunks of a streamed chat completion that says the same as these output items."""
    head: Item = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1795240000, "model": model}

    def chunk(delta: Item, reason: str | None = None) -> str:
        return f"data: {json.dumps(head | {'choices': [{'index': 0, 'delta': delta, 'finish_reason': reason}]})}\n\n"

    yield chunk({"role": "assistant", "content": ""})
    calls = [item for item in output if item["type"] == "function_call"]
    for item in output:
        if item["type"] == "message":
            part = item["content"][0]
            field = "refusal" if part["type"] == "refusal" else "text"
            for piece in _pieces(part[field]):
                yield chunk({"refusal" if field == "refusal" else "content": piece})
    for index, item in enumerate(calls):
        function = {"name": item["name"], "arguments": ""}
        first = {"index": index, "id": item["call_id"], "type": "function", "function": function}
        yield chunk({"tool_calls": [first]})
        for piece in _pieces(item["arguments"]):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield chunk({}, finish or ("tool_calls" if calls else "stop"))
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    yield f"data: {json.dumps(head | {'choices': [], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"


def _pieces(text: str) -> list[str]:
    return [text[start : start + 5] for start in range(0, len(text), 5)]
