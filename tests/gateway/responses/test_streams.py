"""Streams: every event in its order, and nothing lost when the reader, the gateway or the worker goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import openai
import pydantic
import pytest

from horarium.gateway.serving import serving
from horarium.settings import GatewaySettings
from tests.crash.rig import crash_stack
from tests.gateway.conftest import Serve, of_gateway
from tests.gateway.responses.conftest import STRICT, Desk, Speaking
from tests.gateway.responses.schema import check_event
from tests.support.engine import asks, call, says

LONG = "The quick brown fox jumps over the lazy dog. " * 5


async def events_of(http: httpx2.AsyncClient, method: str, path: str, **more: Any) -> list[dict[str, Any]]:
    """All events of a stream."""
    async with http.stream(method, path, **more) as answer:
        assert answer.status_code == 200, await answer.aread()
        return [json.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: ")]


async def test_the_events_come_in_the_order_of_the_protocol(desk: Desk) -> None:
    http = await desk.http()
    desk.says(asks(call("look")), says("There."))

    events = await events_of(http, "POST", "/v1/responses", json={"model": "clerk", "input": "Look.", "stream": True})

    for event in events:
        check_event(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "mcp_call.in_progress",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        "mcp_call.completed",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert events[-1]["response"]["output"] == done


async def test_a_stream_read_later_has_the_same_events_from_any_place_on(desk: Desk) -> None:
    http = await desk.http()
    desk.says(asks(call("look")), says(LONG))
    body = {"model": "clerk", "input": "Look.", "stream": True, "background": True}

    live = await events_of(http, "POST", "/v1/responses", json=body)
    path = f"/v1/responses/{live[0]['response']['id']}"
    again = await events_of(http, "GET", path, params={"stream": True})
    rest = await events_of(http, "GET", path, params={"stream": True, "starting_after": 9})

    assert [event["type"] for event in live[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert again == live
    assert rest == live[10:]
    past_the_end = await events_of(http, "GET", path, params={"stream": True, "starting_after": 900})
    assert [(event["type"], event["sequence_number"]) for event in past_the_end] == [("response.completed", 901)]


async def test_the_helper_of_the_official_client_puts_the_stream_together(desk: Desk) -> None:
    class Place(pydantic.BaseModel):
        shelf: str

    client = await desk.client("operator")
    desk.says(asks(call("look")), says('{"shelf": "A1"}'))

    async with client.responses.stream(model="clerk", input="Where is it?", text_format=Place) as stream:
        text = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
        final = await stream.get_final_response()

    assert text == '{"shelf": "A1"}'
    assert final.output_parsed == Place(shelf="A1")


async def test_text_is_seen_while_the_model_speaks(desk: Desk, speaking: Callable[[], Speaking]) -> None:
    speaker, client = speaking(), await desk.client("operator")
    stream = await client.responses.create(model="clerk", input="Tell me.", stream=True)
    seen = ""

    await speaker.said.put(LONG[:50])
    async with asyncio.timeout(30):
        async for event in stream:
            if event.type == "response.output_text.delta":
                seen += event.delta
                if speaker.said.empty() and len(seen) == 32:
                    await speaker.said.put(LONG[50:])
                    await speaker.said.put(None)
            if event.type == "response.completed":
                break

    assert seen == LONG
    assert event.response.output_text == LONG  # type: ignore[union-attr]


async def test_a_turn_that_begins_again_ends_with_what_it_said_at_last(
    desk: Desk, speaking: Callable[[], Speaking]
) -> None:
    speaker, client = speaking(), await desk.client("operator")
    first = asyncio.Event()
    generate = speaker.generate

    async def breaks_once(request: Any, on_text: Any = None) -> Any:
        if not first.is_set():
            await on_text("Let me tell you something quite different: " * 3)
            await asyncio.wait_for(first.wait(), 30)
            raise ConnectionError("The line was cut.")
        return await generate(request, on_text)

    speaker.generate = breaks_once  # type: ignore[method-assign]
    desk.engine.model.generate = breaks_once  # type: ignore[method-assign]
    await speaker.said.put("Yes.")
    await speaker.said.put(None)
    kinds: list[str] = []
    async with asyncio.timeout(60):
        async for event in await client.responses.create(model="clerk", input="Tell me.", stream=True):
            kinds.append(event.type)
            if event.type == "response.output_text.delta":
                first.set()
            if event.type == "response.output_text.done":
                assert event.text == "Yes."

    assert kinds[-1] == "response.completed"
    again = [event async for event in await client.responses.retrieve(event.response.id, stream=True)]  # type: ignore[union-attr]
    assert again[-1].response.output_text == "Yes."  # type: ignore[union-attr]


async def test_a_client_that_drops_its_stream_retrieves_the_rest_from_another_gateway(
    desk: Desk, speaking: Callable[[], Speaking], serve: Serve
) -> None:
    speaker, client = speaking(), await desk.client("operator")
    stream = await client.responses.create(model="clerk", input="Tell me.", stream=True)
    await speaker.said.put(LONG[:50])
    before: list[Any] = []
    async with asyncio.timeout(30):
        async for event in stream:
            before.append(event)
            if event.type == "response.output_text.delta":
                break
    await stream.close()

    other = await serve(STRICT)
    client.base_url = f"{other.url}/v1"
    await speaker.said.put(LONG[50:])
    await speaker.said.put(None)
    name, last = before[0].response.id, before[-1].sequence_number
    after = [event async for event in await client.responses.retrieve(name, stream=True, starting_after=last)]

    assert after[0].sequence_number == last + 1
    deltas = [event.delta for event in [*before, *after] if event.type == "response.output_text.delta"]
    assert "".join(deltas) == LONG
    assert after[-1].type == "response.completed"


async def test_a_cancelled_stream_ends(desk: Desk) -> None:
    client = await desk.client("operator")
    desk.says(asks(call("wait")), says())
    stream = await client.responses.create(model="clerk", input="Wait.", stream=True)
    async with asyncio.timeout(30):
        async for event in stream:
            if event.type == "response.created":
                name = event.response.id
            if event.type == "response.mcp_call.in_progress":
                break

        cancelled = await client.responses.cancel(name)
        rest = [event async for event in stream]

    assert cancelled.status == "cancelled"
    assert rest[-1].response.status == "cancelled"  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_stream_goes_on_over_a_kill_of_the_engine_worker(tmp_path: Path) -> None:
    patience = GatewaySettings(call_patience=timedelta(seconds=40))
    async with crash_stack(tmp_path) as (stack, book):
        settings = of_gateway(stack.settings, patience)
        async with (
            serving(stack.client, settings, host="127.0.0.1", port=0) as served,
            openai.AsyncOpenAI(api_key="none", base_url=f"{served.url}/v1", max_retries=0, timeout=60) as client,
            httpx2.AsyncClient(base_url=served.url, timeout=60) as http,
        ):
            asked = await client.responses.create(model="pay-inside", input="Pay.")
            run = stack.client.run((await stack.client.runs())[0].id)
            approved: Any = {
                "type": "mcp_approval_response",
                "approval_request_id": asked.output[-1].id,
                "approve": True,
            }
            stream = await client.responses.create(input=[approved], stream=True)
            events = []
            async with asyncio.timeout(90):
                async for event in stream:
                    events.append(event.to_dict())
                    if event.type == "response.mcp_call.in_progress":
                        await book.stands(run, "pay", "inside")
                        stack.kill_worker()
                        book.go()
                        stack.start_worker()

            again = await events_of(http, "GET", f"/v1/responses/{asked.id}_3", params={"stream": True})
            assert events[-1]["type"] == "response.completed"
            assert events == again
            assert len(book.effects(run, "pay")) == 1
