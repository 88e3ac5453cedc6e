"""Asking an agent with the official client, and coming back for the answer."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import openai
import pydantic
import pytest
from openai.types.responses import ResponseOutputMessage

from horarium.ids import new_run_id
from tests.gateway.responses.conftest import Desk
from tests.gateway.responses.schema import check_response
from tests.support.engine import asks, call, says


async def test_a_text_is_answered(desk: Desk) -> None:
    client = await desk.client("operator")
    desk.says(says("It is sunny."))

    response = await client.responses.create(model="clerk", input="How is the weather?", metadata={"ticket": "7"})

    assert (response.status, response.output_text, response.model) == ("completed", "It is sunny.", "clerk")
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (10, 5, 15)
    assert response.metadata == {"ticket": "7"}
    assert desk.engine.model.heard()[-1] == ("user", "How is the weather?")
    assert isinstance(response.output[0], ResponseOutputMessage)


async def test_the_blocking_client_is_answered_too(desk: Desk) -> None:
    def ask() -> str:
        with openai.OpenAI(api_key=desk.keys["operator"], base_url=f"{desk.serving.url}/v1", max_retries=0) as client:
            return client.responses.create(model="clerk", input="How is the weather?").output_text

    desk.says(says("It is sunny."))

    assert await asyncio.to_thread(ask) == "It is sunny."


async def test_a_response_is_a_run_and_is_retrieved_with_its_id_and_what_it_was_asked(desk: Desk) -> None:
    client = await desk.client("operator")
    created = await client.responses.create(model="clerk", input="How is the weather?")

    found = await client.responses.retrieve(created.id)
    asked = await client.responses.input_items.list(created.id)

    assert found.to_dict() == created.to_dict()
    assert created.id == "resp_" + (await desk.engine.client.runs())[0].id.removeprefix("run_")
    assert [item.content[0].text for item in asked.data] == ["How is the weather?"]  # type: ignore[union-attr, index]


async def test_what_is_answered_fits_the_public_schema(desk: Desk) -> None:
    http = await desk.http()
    desk.says(asks(call("look", what="shelf")), says("There it is."))

    body = {"model": "clerk", "input": "Look."}
    answer = (await http.post("/v1/responses", json=body)).json()

    check_response(answer)
    assert [item["type"] for item in answer["output"]] == ["mcp_call", "message"]
    looked = answer["output"][0]
    assert (looked["name"], looked["arguments"], looked["output"]) == ("look", '{"what":"shelf"}', "looked")


async def test_items_become_one_text_with_the_requests_own_instructions_before_it(desk: Desk) -> None:
    client = await desk.client("operator")

    await client.responses.create(
        model="clerk",
        instructions="Be brief.",
        input=[
            {"role": "user", "content": "I am Ana."},
            {"role": "assistant", "content": "Hello, Ana."},
            {"role": "user", "content": [{"type": "input_text", "text": "Who am I?"}]},
        ],
    )

    role, heard = desk.engine.model.heard()[-1]
    assert role == "user"
    places = [heard.index(words) for words in ("Be brief.", "User: I am Ana.", "Assistant: Hello, Ana.", "Who am I?")]
    assert places == sorted(places)


async def test_a_structured_answer_is_parsed(desk: Desk) -> None:
    class Weather(pydantic.BaseModel):
        city: str
        degrees: int

    client = await desk.client("operator")
    desk.says(says('{"city": "Salzburg", "degrees": 21}'))

    response = await client.responses.parse(model="clerk", input="How is the weather?", text_format=Weather)

    assert response.output_parsed == Weather(city="Salzburg", degrees=21)
    assert "degrees" in desk.engine.model.requests[-1].instructions


async def test_a_response_in_the_background_is_polled(desk: Desk) -> None:
    client = await desk.client("operator")

    begun = await client.responses.create(model="clerk", input="Go.", background=True)
    done = await desk.until(client, begun.id, "completed")

    assert begun.status in ("queued", "in_progress")
    assert begun.background
    assert done.output_text == "Done."


async def test_the_next_response_goes_on_with_the_conversation(desk: Desk) -> None:
    client = await desk.client("operator")
    desk.says(says("Hello, Ana."), says("Ana."))

    first = await client.responses.create(model="clerk", input="I am Ana.")
    second = await client.responses.create(model="clerk", input="Who am I?", previous_response_id=first.id)

    assert second.previous_response_id == first.id
    assert [text for _, text in desk.engine.model.heard()[-3:]] == ["I am Ana.", "Hello, Ana.", "Who am I?"]


async def test_going_on_with_an_earlier_response_leaves_out_what_came_after_it(desk: Desk) -> None:
    client = await desk.client("operator")
    desk.says(says("One."), says("Two."), says("Another two."))
    first = await client.responses.create(model="clerk", input="First.")
    second = await client.responses.create(model="clerk", input="Second.", previous_response_id=first.id)

    other = await client.responses.create(model="clerk", input="Otherwise.", previous_response_id=first.id)
    heard = [text for _, text in desk.engine.model.heard()[-3:]]

    assert heard == ["First.", "One.", "Otherwise."]
    assert other.output_text == "Another two."
    assert (await client.responses.retrieve(second.id)).output_text == "Two."


async def test_a_conversation_is_made_gone_on_with_looked_at_and_deleted(desk: Desk) -> None:
    client = await desk.client("admin")
    desk.says(says("Hello, Ana."), says("Ana."))

    conversation = await client.conversations.create(
        items=[{"type": "message", "role": "user", "content": "I am Ana."}]
    )
    first = await client.responses.create(model="clerk", input="Greet me.", conversation=conversation.id)
    await client.responses.create(model="clerk", input="Who am I?", conversation={"id": conversation.id})
    more: Any = [{"type": "message", "role": "user", "content": "Thank you."}]
    added = await client.conversations.items.create(conversation.id, items=more)
    items = [item async for item in client.conversations.items.list(conversation.id, order="asc", limit=2)]
    last = await client.conversations.items.retrieve(added.last_id, conversation_id=conversation.id)
    with pytest.raises(openai.NotFoundError):
        await client.conversations.items.retrieve("msg_none", conversation_id=conversation.id)
    gone = await client.conversations.delete(conversation.id)

    assert first.conversation is not None
    assert first.conversation.id == conversation.id
    said = [item.content[0].text for item in items]  # type: ignore[union-attr, index]
    assert said == ["I am Ana.", "Greet me.", "Hello, Ana.", "Who am I?", "Ana.", "Thank you."]
    assert last.to_dict() == items[-1].to_dict() == added.data[0].to_dict()
    assert gone.deleted
    with pytest.raises(openai.NotFoundError):
        await client.conversations.retrieve(conversation.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)


async def test_the_same_key_is_the_same_response_also_where_it_goes_on_with_another(desk: Desk) -> None:
    client = await desk.client("operator")
    first = await client.responses.create(model="clerk", input="First.")
    once = {"Idempotency-Key": new_run_id()}

    answers = [
        await client.responses.create(model="clerk", input="Second.", previous_response_id=first.id, extra_headers=once)
        for _ in range(2)
    ]

    assert answers[0].id == answers[1].id
    with pytest.raises(openai.ConflictError):
        await client.responses.create(model="clerk", input="Third.", extra_headers=once)
    assert len(await desk.engine.client.runs()) == 2


async def test_a_response_is_cancelled(desk: Desk) -> None:
    client = await desk.client("operator")
    desk.says(asks(call("pay", amount=3)))
    begun = await client.responses.create(model="clerk", input="Pay.", background=True)
    await desk.until(client, begun.id, "completed")

    cancelled = await client.responses.cancel(begun.id)

    assert cancelled.status == "cancelled"
    assert (await client.responses.cancel(begun.id)).status == "cancelled"
    assert (await desk.engine.client.runs())[0].status == "cancelled"


async def test_a_deleted_response_is_gone_and_what_was_said_with_it(desk: Desk) -> None:
    client = await desk.client("admin")
    first = await client.responses.create(model="clerk", input="First.")
    second = await client.responses.create(model="clerk", input="Second.", previous_response_id=first.id)
    thread = (await desk.engine.client.runs())[0].thread_id

    await client.responses.delete(first.id)
    left = len(await desk.engine.client.thread(thread))
    await client.responses.delete(second.id)

    assert left == 4
    assert await desk.engine.client.thread(thread) == []
    for response in (first, second):
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)


async def test_a_response_that_is_not_stored_is_not_retrieved(desk: Desk) -> None:
    client = await desk.client("operator")

    response = await client.responses.create(model="clerk", input="Go.", store=False)

    assert response.output_text == "Done."
    assert not response.store  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)


@pytest.mark.parametrize(
    ("limit", "lines"),
    [
        ({"max_output_tokens": 12}, [asks(call("look"), tokens=(10, 8)), asks(call("look", "c2"), tokens=(10, 8))]),
        ({"max_tool_calls": 1}, [asks(call("look")), asks(call("look", "c2", what="again"))]),
    ],
)
async def test_the_limits_of_a_request_end_its_run(desk: Desk, limit: dict[str, int], lines: list[object]) -> None:
    client = await desk.client("operator")
    desk.says(*lines, says())  # type: ignore[arg-type]

    response = await client.responses.create(model="clerk", input="Look.", **limit)  # type: ignore[call-overload]

    assert response.status == "incomplete"
    assert response.incomplete_details.reason == next(iter(limit))
    assert (await client.responses.retrieve(response.id)).to_dict()[next(iter(limit))] == next(iter(limit.values()))


async def test_an_agent_is_asked_at_its_own_path_without_a_model(desk: Desk) -> None:
    client = await desk.client("operator", at="/v1/agents/clerk")
    other = await desk.client("operator", at="/v1/agents/other")

    response = await client.responses.create(input="Go.")

    assert (await client.responses.retrieve(response.id)).output_text == "Done."
    with pytest.raises(openai.NotFoundError):
        await other.responses.retrieve(response.id)


async def test_the_document_declares_the_parameters_of_every_path(desk: Desk) -> None:
    http = await desk.http()

    document = (await http.get("/v1/openapi.json")).json()

    undeclared = [
        f"{method} {path}"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if set(re.findall(r"{(\w+)", path))
        != {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
    ]
    assert undeclared == []


async def test_the_models_are_the_agents(desk: Desk) -> None:
    client = await desk.client("viewer")

    listed = [model.id async for model in client.models.list()]

    assert listed == ["clerk"]
    assert (await client.models.retrieve("clerk")).id == "clerk"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nobody")
