"""What a caller is told when something was not done: OpenAI's shape, and so the official client's exceptions."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from horarium.errors import ModelRejected
from tests.gateway.responses.conftest import Desk
from tests.support.engine import asks, call, says

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
IMAGE = {"type": "input_image", "image_url": "https://example.com/cat.png"}
WRONG: list[tuple[dict[str, Any], str | None, str]] = [
    ({"tools": [TOOL]}, "tools", "unsupported_parameter"),
    ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt", "unknown_parameter"),
    ({"nonsense": 1}, "nonsense", "unknown_parameter"),
    ({"input": ""}, "input", "invalid_value"),
    ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0]", "unsupported_item"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input[0]", "unsupported_item"),
    ({"input": None}, "input.str", "invalid_value"),
    ({"background": True, "store": False}, "background", "invalid_value"),
    ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "previous_response_id", "invalid_value"),
    ({"previous_response_id": "resp_none"}, "previous_response_id", "previous_response_not_found"),
    ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
    ({"metadata": {str(n): "x" for n in range(16)}}, "metadata", "invalid_value"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "param", "code"), WRONG, ids=[f"{code}-{param}" for _, param, code in WRONG])
async def test_what_cannot_be_honoured_is_refused_by_its_name(
    desk: Desk, wrong: dict[str, Any], param: str | None, code: str
) -> None:
    client = await desk.client("operator")

    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="clerk", input="Go.", extra_body=wrong)

    assert (refused.value.param, refused.value.code) == (param, code)
    assert refused.value.type == "invalid_request_error"
    assert await desk.engine.client.runs() == []


async def test_what_does_no_harm_is_accepted(desk: Desk) -> None:
    client = await desk.client("operator")

    response = await client.responses.create(
        model="clerk",
        input="Go.",
        temperature=0.2,
        top_p=0.9,
        user="ana",
        tools=[],
        tool_choice="auto",
        parallel_tool_calls=False,
        reasoning={"effort": "low"},
        include=["reasoning.encrypted_content"],
        truncation="auto",
    )

    assert response.status == "completed"


async def test_each_refusal_is_its_own_exception(desk: Desk) -> None:
    operator, viewer, nobody = [await desk.client(who) for who in ("operator", "viewer", "hk_nobody")]

    with pytest.raises(openai.NotFoundError) as unknown:
        await operator.responses.create(model="nobody", input="Go.")
    with pytest.raises(openai.PermissionDeniedError):
        await viewer.responses.create(model="clerk", input="Go.")
    with pytest.raises(openai.AuthenticationError):
        await nobody.responses.create(model="clerk", input="Go.")
    with pytest.raises(openai.NotFoundError):
        await viewer.responses.retrieve("resp_01JD8")
    with pytest.raises(openai.NotFoundError):
        await operator.responses.create(model="clerk", input="Go.", conversation="conv_none")
    with pytest.raises(openai.APIStatusError) as large:
        await operator.responses.create(model="clerk", input="x" * 2_000_000)

    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert large.value.status_code == 413


async def test_a_run_that_fails_is_a_failed_response(desk: Desk) -> None:
    client = await desk.client("operator")
    desk.says(ModelRejected("The model is in the workshop."))

    response = await client.responses.create(model="clerk", input="Go.")

    assert response.status == "failed"
    assert response.error is not None
    assert "workshop" in response.error.message


async def test_another_tenants_response_is_not_there(desk: Desk) -> None:
    mine, stranger = await desk.client("admin"), await desk.client("stranger")
    desk.says(asks(call("pay", amount=3)), says())
    response = await mine.responses.create(model="clerk", input="Pay.")
    conversation = await mine.conversations.create()
    question = response.output[-1]

    with pytest.raises(openai.NotFoundError):
        await stranger.responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError):
        await stranger.responses.retrieve(response.id, stream=True)
    with pytest.raises(openai.NotFoundError):
        await stranger.responses.cancel(response.id)
    with pytest.raises(openai.NotFoundError):
        await stranger.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        await stranger.responses.input_items.list(response.id)
    with pytest.raises(openai.BadRequestError):
        await stranger.responses.create(model="clerk", input="Go.", previous_response_id=response.id)
    with pytest.raises(openai.NotFoundError):
        await stranger.responses.create(model="clerk", input="Go.", conversation=conversation.id)
    with pytest.raises(openai.NotFoundError):
        await stranger.responses.create(
            model="clerk",
            input=[{"type": "mcp_approval_response", "approval_request_id": question.id, "approve": True}],  # type: ignore[typeddict-item]
        )
    for ask in (stranger.conversations.retrieve, stranger.conversations.delete, stranger.conversations.items.list):
        with pytest.raises(openai.NotFoundError):
            await ask(conversation.id)
