"""What a caller is told when something was not done: OpenAI's shape, and so the official client's exceptions."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import openresponses_types.types as schema
import pytest
from sqlalchemy import text

from horarium.errors import ModelRejected
from tests.gateway.conftest import Serve
from tests.gateway.responses.conftest import STRICT, Desk
from tests.support.engine import asks, call, says

FILE = {"type": "input_file", "file_id": "file-1"}
IMAGE = {"type": "input_image", "image_url": "https://example.com/cat.png"}
WRONG: list[tuple[dict[str, Any], str | None, str]] = [
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt", "unknown_parameter"),
    ({"nonsense": 1}, "nonsense", "unknown_parameter"),
    ({"input": ""}, "input", "invalid_value"),
    ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0]", "unsupported_item"),
    ({"input": [{"role": "user", "content": [FILE]}]}, "input[0].content[0]", "unsupported_item"),
    ({"input": [{"role": {}, "content": "Go."}]}, "input[0].role", "invalid_value"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]", "unsupported_item"),
    ({"input": [{"type": "computer_call_output", "call_id": "c"}]}, "input[0]", "unsupported_item"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input[0]", "invalid_value"),
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
    assert str(refused.value.body["message"]).endswith(".")  # type: ignore[index]
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
    item: Any = {"type": "message", "role": "user", "content": "Hello."}
    with pytest.raises(openai.NotFoundError):
        await stranger.conversations.items.create(conversation.id, items=[item])
    for ask in (stranger.conversations.retrieve, stranger.conversations.delete, stranger.conversations.items.list):
        with pytest.raises(openai.NotFoundError):
            await ask(conversation.id)


HERE = ("/v1/responses", "/v1/agents/clerk/responses", "/v1/conversations", "/v1/models")


async def shapes(http: httpx2.AsyncClient, path: str, key: str, most_bytes: int) -> dict[int, Any]:
    """What is refused before a route is reached, or has none: by status, the body of the answer."""
    allowed = {"Authorization": f"Bearer {key}"}
    tried = [
        await http.post(path, json={}),
        await http.post(path, json={}, headers={**allowed, "Origin": "http://evil.example"}),
        await http.get(f"{path}/a/b/c/d", headers=allowed),
        await http.put(path, json={}, headers=allowed),
        await http.post(path, content=b"x" * (most_bytes + 1), headers=allowed),
        await http.get(path, headers={**allowed, "Host": "evil.example"}),
        await http.post(path, content=b'{"input": NaN}', headers={**allowed, "Content-Type": "application/json"}),
    ]
    assert tried[3].headers["allow"]
    return {answer.status_code: answer.json() for answer in tried}


async def test_what_is_refused_before_a_route_has_the_shape_of_its_protocol(desk: Desk, serve: Serve) -> None:
    key, most = desk.keys["admin"], STRICT.max_body_bytes
    hosted = await serve(STRICT, agent="clerk")
    async with (
        httpx2.AsyncClient(base_url=desk.serving.url, timeout=30) as http,
        httpx2.AsyncClient(base_url=hosted.url, timeout=30) as of_one,
    ):
        found = [await shapes(http, path, key, most) for path in HERE]
        found.append(await shapes(of_one, "/responses", key, most))
        elsewhere = await shapes(http, "/v1/runs", key, most)

    for answers in found:
        assert set(answers) == {400, 401, 403, 404, 405, 413, 421}
        for body in answers.values():
            assert set(body) == {"error"}
            error = schema.Error.model_validate(body["error"])
            assert error.message.endswith(".")
            assert error.type != "server_error"
    assert set(elsewhere) == {401, 403, 404, 405, 413, 421, 422}
    assert {body["status"] for body in elsewhere.values()} == set(elsewhere)


@pytest.mark.parametrize("away", ["api_keys", "agent_versions"], ids=["at-the-gate", "behind-it"])
async def test_a_ledger_that_is_away_is_a_server_error_that_is_tried_again(desk: Desk, away: str) -> None:
    client = await desk.client("viewer")
    async with desk.engine.ledger.write() as connection:
        await connection.execute(text(f"ALTER TABLE {away} RENAME TO elsewhere"))
    try:
        with pytest.raises(openai.InternalServerError) as refused:
            await client.models.list()
    finally:
        async with desk.engine.ledger.write() as connection:
            await connection.execute(text(f"ALTER TABLE elsewhere RENAME TO {away}"))

    assert (refused.value.status_code, refused.value.code, refused.value.type) == (503, "unreachable", "server_error")
    assert refused.value.response.headers["retry-after"] == "1"
    assert [model.id async for model in client.models.list()] == ["clerk"]
