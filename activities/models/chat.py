"""Chat completions, for servers without the Responses API: our messages to theirs, their stream to our turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from openai.types.chat import ChatCompletionChunk

from activities.models.base import ModelRequest, OnText, RequestedCall, Turn, TurnMessage
from activities.models.families import Family, parameters
from activities.models.formats import answer_format
from horarium.errors import ModelUnavailable


def body_of(request: ModelRequest, family: Family) -> dict[str, Any]:
    """The arguments of `chat.completions.create`, without `stream`."""
    messages = [_message(message, family) for message in request.messages]
    if request.instructions:
        messages.insert(0, {"role": family.instructions_role, "content": request.instructions})
    body: dict[str, Any] = {
        "model": request.model,
        "messages": messages,
        "stream_options": {"include_usage": True},
        **parameters(family, request.settings, "chat", tools=bool(request.tools)),
    }
    if (answer := answer_format(request.answer_schema, "chat")) is not None:
        body["response_format"] = answer
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
            }
            for tool in request.tools
        ]
        body["tool_choice"] = request.tool_choice
    return body


def _message(message: TurnMessage, family: Family) -> dict[str, Any]:
    match message.role:
        case "tool":
            return {"role": "tool", "tool_call_id": message.call_id, "content": message.text}
        case "assistant" if message.calls:
            calls = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in message.calls
            ]
            return {"role": "assistant", "content": message.text or None, "tool_calls": calls}
        case "system":
            return {"role": family.instructions_role, "content": message.text}
        case role:
            return {"role": role, "content": message.text}


@dataclass(slots=True)
class _Asked:
    id: str = ""
    name: str = ""
    arguments: str = ""


async def read(chunks: AsyncIterator[ChatCompletionChunk], on_text: OnText | None) -> Turn:
    """The turn that a stream of chunks amounts to.

    Raises:
        ModelUnavailable: The stream ended without saying why it finished.
    """
    text, finish, model, response_id = "", None, "", None
    usage = (0, 0)
    asked: dict[int, _Asked] = {}
    async for chunk in chunks:
        model, response_id = chunk.model or model, chunk.id or response_id
        if chunk.usage is not None:
            usage = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
        for choice in chunk.choices[:1]:
            finish = choice.finish_reason or finish
            for part in choice.delta.tool_calls or ():
                call = asked.setdefault(part.index, _Asked())
                call.id = part.id or call.id
                if part.function is not None:
                    call.name = part.function.name or call.name
                    call.arguments += part.function.arguments or ""
            said = (choice.delta.content or "") + (choice.delta.refusal or "")
            if said:
                text += said
                if on_text is not None:
                    await on_text(text)
    if finish is None:
        raise ModelUnavailable("The model's answer broke off before its end.")
    cut = finish in ("length", "content_filter")
    return Turn(
        text=text,
        calls=() if cut else tuple(RequestedCall(call.id, call.name, call.arguments) for call in asked.values()),
        finish="stop" if not cut else ("length" if finish == "length" else "filtered"),
        input_tokens=usage[0],
        output_tokens=usage[1],
        model=model,
        response_id=response_id,
    )
