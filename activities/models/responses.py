"""The Responses API: our messages to its items, its stream to our turn.

Stateless: nothing is stored at the provider, every request carries all items, and encrypted reasoning travels with
them. A stream that does not end with a terminal event is no turn.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent

from activities.models.base import ModelRequest, OnText, RequestedCall, Turn, TurnMessage
from activities.models.families import Family, parameters
from activities.models.formats import answer_format
from horarium.errors import ContextLengthExceeded, ModelError, ModelRejected, ModelUnavailable

_PASSING = ("server_error", "rate_limit_exceeded", "vector_store_timeout", "timeout", "overloaded")


def body_of(request: ModelRequest, family: Family) -> dict[str, Any]:
    """The arguments of `responses.create`, without `stream`."""
    body: dict[str, Any] = {
        "model": request.model,
        "input": [item for message in request.messages for item in _items(message, family)],
        "store": False,
        "metadata": {**request.metadata, "horarium_key": request.key[:512]},
        **parameters(family, request.settings, "responses", tools=bool(request.tools)),
    }
    if request.instructions:
        body["instructions"] = request.instructions
    if (answer := answer_format(request.answer_schema, "responses")) is not None:
        body["text"] = {**body.get("text", {}), "format": answer}
    if family.name == "reasoning":
        body["include"] = ["reasoning.encrypted_content"]
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                "strict": False,
            }
            for tool in request.tools
        ]
        body["tool_choice"] = request.tool_choice
    return body


def _items(message: TurnMessage, family: Family) -> Iterator[dict[str, Any]]:
    match message.role:
        case "tool":
            yield {"type": "function_call_output", "call_id": message.call_id, "output": message.text}
        case "assistant":
            yield from _assistant_items(message)
        case "system":
            yield {"role": family.instructions_role, "content": message.text}
        case _:
            yield {"role": "user", "content": message.text}


def _assistant_items(message: TurnMessage) -> Iterator[dict[str, Any]]:
    calls = [
        {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}
        for call in message.calls
    ]
    asked = [item for item in message.items if item.get("type") == "function_call"]
    if not message.items or len(asked) != len(calls):
        if message.text:
            yield {"role": "assistant", "content": message.text}
        yield from calls
        return
    # The engine made ids unique and arguments valid; what it says of a call is what the answers refer to.
    told = iter(calls)
    for item in message.items:
        yield {**item, **next(told)} if item.get("type") == "function_call" else item


async def read(events: AsyncIterator[ResponseStreamEvent], on_text: OnText | None) -> Turn:
    """The turn that a stream of events amounts to.

    Raises:
        ModelUnavailable: The stream ended early, or the provider failed for now.
        ModelRejected: The provider failed for good.
    """
    text = ""
    async for event in events:
        match event.type:
            case "response.output_text.delta" | "response.refusal.delta":
                text += event.delta
                if on_text is not None:
                    await on_text(text)
            case "response.completed" | "response.failed" | "response.incomplete":
                return turn_of(event.response)
            case "error":
                raise failure(event.code)
    raise ModelUnavailable("The model's answer broke off before its end.")


def turn_of(response: Response) -> Turn:
    """The turn of a response that ended."""
    reason = response.incomplete_details.reason if response.incomplete_details else None
    if response.status == "failed" or response.error is not None:
        raise failure(response.error.code if response.error else None)
    if response.status == "incomplete" and reason not in ("max_output_tokens", "content_filter"):
        raise ModelUnavailable(f"The model ended its answer early: {reason or 'no reason given'}.")
    cut = response.status == "incomplete"
    calls = tuple(
        RequestedCall(item.call_id, item.name, item.arguments)
        for item in response.output
        if item.type == "function_call"
    )
    parts = [part for item in response.output if item.type == "message" for part in item.content]
    usage = response.usage
    return Turn(
        text="".join(part.text if part.type == "output_text" else part.refusal for part in parts),
        calls=() if cut else calls,  # a call that was cut is not to be made
        finish="stop" if not cut else ("filtered" if reason == "content_filter" else "length"),
        input_tokens=usage.input_tokens if usage else 0,
        output_tokens=usage.output_tokens if usage else 0,
        model=response.model,
        response_id=response.id,
        items=() if cut else tuple(item.to_dict() for item in response.output),
    )


def failure(code: str | None) -> ModelError:
    """The error of a response that failed; only its code is told, as its message may quote the prompt."""
    if code is None or code in _PASSING or (code.isdigit() and int(code) >= 500):
        return ModelUnavailable(
            f"The model failed: {code or 'no code given'}.", throttled=code == "rate_limit_exceeded"
        )
    if code == ContextLengthExceeded.code:
        return ContextLengthExceeded("The conversation does not fit the model's window.")
    return ModelRejected(f"The model refused the request: {code}.")
