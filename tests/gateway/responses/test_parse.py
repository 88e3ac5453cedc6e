"""Answers that the official client reads as an object: the engine sees to it that they are one."""

from __future__ import annotations

import json
from typing import Any

import openai
import pydantic
import pytest

from tests.gateway.responses.conftest import Desk
from tests.gateway.responses.schema import check_event
from tests.support.engine import asks, call, says


class Weather(pydantic.BaseModel):
    """What is asked for."""

    city: str
    degrees: int


FINE = '{"city": "Salzburg", "degrees": 21}'


async def test_only_an_answer_that_fits_is_shown_and_parsed(desk: Desk) -> None:
    client = await desk.client("operator")
    desk.says(asks(call("look")), says("Warm."), says('{"city": "Salzburg"}'), says(f"```json\n{FINE}\n```"))

    response = await client.responses.parse(model="clerk", input="How is the weather?", text_format=Weather)
    again = await client.responses.retrieve(response.id)

    assert response.output_parsed == Weather(city="Salzburg", degrees=21)
    assert again.output_text == FINE
    assert again.text is not None
    assert again.text.format is not None
    assert again.text.format.type == "json_schema"
    assert (again.text.format.name, again.text.format.strict) == ("Weather", True)
    assert set(again.text.format.model_dump(by_alias=True)["schema"]["properties"]) == {"city", "degrees"}
    assert again.metadata == {}
    native = desk.engine.model.requests[0].answer_schema
    assert native is not None
    assert set(native["properties"]) == {"city", "degrees"}


async def test_a_stream_has_no_text_before_it_fits(desk: Desk) -> None:
    client = await desk.client("operator")
    desk.says(says("Warm."), asks(call("look")), says(FINE))
    kinds, text = list[str](), ""

    async with client.responses.stream(model="clerk", input="How is the weather?", text_format=Weather) as stream:
        async for event in stream:
            kinds.append(event.type)
            text += event.delta if event.type == "response.output_text.delta" else ""
        final = await stream.get_final_response()

    assert (text, final.output_parsed) == (FINE, Weather(city="Salzburg", degrees=21))
    assert kinds.count("response.output_text.done") == 1


async def test_an_answer_that_never_fits_fails_the_response(desk: Desk) -> None:
    client = await desk.client("operator")
    desk.says(says("[1]"))

    response = await client.responses.create(
        model="clerk", input="Go.", text={"format": {"type": "json_object"}}, background=False
    )

    assert (response.status, response.output, response.output_text) == ("failed", [], "")
    assert response.error is not None
    assert str(response.error.code) == "malformed_turns"
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "json_object"


@pytest.mark.parametrize(
    "schema", [{"$ref": "https://example.com/x"}, {"type": "object", "description": "x" * 20_000}, {"type": 7}]
)
async def test_a_schema_that_nothing_can_be_checked_by_is_refused_by_its_name(
    desk: Desk, schema: dict[str, Any]
) -> None:
    client = await desk.client("operator")

    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(
            model="clerk", input="Go.", text={"format": {"type": "json_schema", "name": "x", "schema": schema}}
        )

    assert (caught.value.param, caught.value.code) == ("text.format.schema", "invalid_json_schema")
    assert await desk.engine.client.runs() == []


async def test_a_stream_of_an_answer_with_a_schema_is_as_the_protocol_has_it(desk: Desk) -> None:
    http = await desk.http("operator")
    desk.says(says("Warm."), says(FINE))
    body = {
        "model": "clerk",
        "input": "Go.",
        "stream": True,
        "text": {"format": {"type": "json_schema", "name": "weather", "schema": Weather.model_json_schema()}},
    }

    lines = (await http.post("/v1/responses", json=body)).text.splitlines()

    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    for event in events:
        check_event(event)
    formats = [event["response"]["text"]["format"] for event in events if "response" in event]
    assert formats
    assert all(one == formats[0] and one["schema"]["properties"] for one in formats)
