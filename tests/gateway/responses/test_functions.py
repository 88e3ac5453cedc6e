"""Functions that the client carries out, through the official client: the loop that its documentation shows."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.gateway.responses.conftest import Desk
from tests.gateway.responses.schema import check_event, check_response
from tests.gateway.responses.test_streams import events_of
from tests.support.engine import asks, call, says

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": PARAMETERS,
    "strict": True,
}


def oslo(id: str = "c0") -> Any:
    """The model asks for the weather of Oslo."""
    return call("get_weather", id, city="Oslo")


def output(item: Any, text: str = "cold") -> Any:
    """What came of a call."""
    return {"type": "function_call_output", "call_id": item.call_id, "output": text}


async def test_the_same_run_goes_on_with_what_the_client_carried_out(desk: Desk) -> None:
    client, http = await desk.client("operator"), await desk.http()
    desk.says(asks(oslo()), asks(oslo()), says("Cold."))

    first = await client.responses.create(model="clerk", input="How is Oslo?", tools=[WEATHER])
    [item] = first.output
    assert item.type == "function_call"
    assert (first.status, item.name, json.loads(item.arguments)) == ("completed", "get_weather", {"city": "Oslo"})
    with pytest.raises(openai.BadRequestError, match=f"No tool output found for function call {item.call_id}"):
        await client.responses.create(model="clerk", input="Well?", previous_response_id=first.id)
    # The model's own id of the call is the same again; ours is not.
    second = await client.responses.create(
        model="clerk", input=[output(item)], previous_response_id=first.id, tools=[WEATHER]
    )
    last = await client.responses.create(
        model="clerk", input=[output(second.output[0], "warm")], previous_response_id=second.id
    )

    assert (last.status, last.output_text, last.previous_response_id) == ("completed", "Cold.", second.id)
    assert [text for role, text in desk.engine.model.heard() if role == "tool"] == ["cold", "warm"]
    [run] = await desk.engine.client.runs()
    assert run.status == "completed"
    for response in (first, second, last):
        found = (await http.get(f"/v1/responses/{response.id}")).json()
        check_response(found)
        assert found["output"] == response.to_dict()["output"]


async def test_the_loop_of_the_documentation_sends_the_whole_conversation_each_time(desk: Desk) -> None:
    client = await desk.client("operator")
    desk.says(asks(oslo("a"), call("get_weather", "b", city="Rome")), asks(oslo("c")), says("Cold."))
    items: list[Any] = [{"role": "user", "content": "How is Oslo?"}]
    carried_out = 0

    while True:
        response = await client.responses.create(model="clerk", input=items, tools=[WEATHER], store=False)
        items += response.output
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            break
        for item in calls:
            carried_out += 1
            items.append(output(item, f"{json.loads(item.arguments)['city']}: {carried_out}"))

    assert response.output_text == "Cold."
    assert [text for role, text in desk.engine.model.heard() if role == "tool"] == ["Oslo: 1", "Rome: 2", "Oslo: 3"]
    assert len(await desk.engine.client.runs()) == 1
    desk.says(says("As I said."))
    items.append({"role": "user", "content": "And now?"})
    again = await client.responses.create(model="clerk", input=items, tools=[WEATHER])
    assert again.output_text == "As I said."
    assert "Assistant: [Called get_weather; it returned: Rome: 2]" in desk.engine.model.heard()[-1][1]


async def test_a_stream_tells_of_the_call_and_the_next_one_goes_on(desk: Desk) -> None:
    client, http = await desk.client("operator"), await desk.http("operator")
    desk.says(asks(oslo()), says("Cold."))

    async with client.responses.stream(model="clerk", input="How is Oslo?", tools=[WEATHER]) as stream:
        kinds = [event.type async for event in stream]
        first = await stream.get_final_response()
    body = {"model": "clerk", "input": [output(first.output[0])], "stream": True}
    later = await events_of(http, "POST", "/v1/responses", json=body)

    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert json.loads(str(first.output[0].to_dict()["arguments"])) == {"city": "Oslo"}
    assert [item["type"] for item in later[-1]["response"]["output"]] == ["message"]
    for event in (await events_of(http, "GET", f"/v1/responses/{first.id}", params={"stream": True}), later):
        for one in event:
            check_event(one)


async def test_outputs_may_come_one_by_one_beside_an_approval(desk: Desk, world: Any) -> None:
    client = await desk.client("approver")
    desk.says(asks(oslo("a"), call("pay", "b", amount=30), call("get_weather", "c", city="Rome")), says("Done."))

    first = await client.responses.create(model="clerk", input="Go.", tools=[WEATHER])
    one, other, request = first.output
    assert [item.type for item in first.output] == ["function_call", "function_call", "mcp_approval_request"]
    part = await client.responses.create(
        model="clerk", input=[output(other, "warm")], previous_response_id=first.id, background=True
    )
    answer = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True}
    last = await client.responses.create(model="clerk", input=[answer, output(one)], previous_response_id=first.id)  # type: ignore[list-item]

    assert part.status == "in_progress"
    assert (last.id, last.status, last.output_text) == (part.id, "completed", "Done.")
    assert [item.type for item in last.output] == ["mcp_call", "message"]
    assert [text for role, text in desk.engine.model.heard() if role == "tool"] == ["cold", "paid 30", "warm"]


async def test_outputs_that_are_for_nothing_are_refused_with_the_reason(desk: Desk) -> None:
    client, stranger = await desk.client("operator"), await desk.client("stranger")
    desk.says(asks(oslo()), says("Cold."))
    first = await client.responses.create(model="clerk", input="How is Oslo?", tools=[WEATHER])
    item: Any = first.output[0]
    unknown = {"type": "function_call_output", "call_id": "call_1", "output": "cold"}
    fourth = {**WEATHER, "name": "get_time"}

    for who, body, words in (
        (client, {"input": [unknown]}, "No tool call found for function call output with call_id call_1"),
        (client, {"input": [{**unknown, "call_id": f"{item.call_id}9"}]}, "No tool call found"),
        (stranger, {"input": [output(item)]}, "No tool call found"),
        (client, {"input": [output(item)], "tools": [fourth]}, "'get_time' is new"),
        (client, {"input": [output(item), output(item, "warm")]}, "two outputs"),
    ):
        with pytest.raises(openai.BadRequestError, match=words):
            await who.responses.create(model="clerk", **body)
    for tools, choice, words in (
        ([{"type": "web_search"}], "auto", "'web_search' are not supported"),
        ([{**WEATHER, "name": "pay"}], "auto", "a tool 'pay' of its own"),
        ([WEATHER], {"type": "function", "name": "get_time"}, "no function 'get_time'"),
        ([], "required", "'tools' has none"),
    ):
        with pytest.raises(openai.BadRequestError, match=words):
            await client.responses.create(model="clerk", input="Go.", tools=tools, tool_choice=choice)  # type: ignore[call-overload]

    assert (await client.responses.create(model="clerk", input=[output(item)])).output_text == "Cold."
    again = await client.responses.create(model="clerk", input=[output(item)])
    assert again.output_text == "Cold."
    with pytest.raises(openai.ConflictError, match="another output already, from operator"):
        await client.responses.create(model="clerk", input=[output(item, "warm")])


async def test_a_choice_is_kept_and_a_cancelled_response_says_that_its_call_is_not_wanted(desk: Desk) -> None:
    client = await desk.client("operator")
    desk.says(asks(oslo()))
    choice: Any = {"type": "function", "name": "get_weather"}

    asked = await client.responses.create(model="clerk", input="How is Oslo?", tools=[WEATHER], tool_choice=choice)
    gone = await client.responses.cancel(asked.id)

    assert desk.engine.model.requests[0].tool_choice == "required"
    assert (asked.tool_choice.to_dict(), asked.tools[0].to_dict()) == (choice, WEATHER)  # type: ignore[union-attr]
    assert (gone.status, gone.output[0].status) == ("cancelled", "incomplete")  # type: ignore[union-attr]
