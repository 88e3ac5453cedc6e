"""Many watch one response: the ledger is read once for all of them, and nobody watches whose key counts no more."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import openai
import pytest
from sqlalchemy import update

from horarium.gateway import watching
from horarium.gateway.oidc import LEEWAY
from horarium.gateway.responses.record import Reader
from horarium.gateway.serving import serving
from horarium.ledger.api_keys import ApiKeys
from horarium.ledger.schema import api_keys
from tests.engine.conftest import World
from tests.gateway.conftest import Serve, of_gateway
from tests.gateway.responses.conftest import STRICT, Desk
from tests.gateway.responses.test_streams import LONG, events_of
from tests.support.engine import asks, call, says
from tests.support.issuer import local_issuer

BODY = {"model": "clerk", "input": "Wait.", "background": True}


async def waiting(desk: Desk, world: World, *after: Any) -> tuple[str, str]:
    """A response whose run is in the middle of a call, and its path."""
    desk.says(asks(call("wait")), *(after or (says(LONG),)))
    http = await desk.http("admin")
    begun = (await http.post("/v1/responses", json=BODY)).json()
    await asyncio.wait_for(world.entered.wait(), 30)
    return begun["id"], f"/v1/responses/{begun['id']}"


async def test_many_streams_read_the_ledger_together_and_say_the_same(
    desk: Desk, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[object] = []
    read = Reader.read

    async def counted(self: Reader) -> Any:
        reads.append(self)
        return await read(self)

    monkeypatch.setattr(Reader, "read", counted)
    _, path = await waiting(desk, world)
    http = await desk.http("viewer")
    streams = 20
    began: list[int] = []

    async def watched(after: int) -> list[bytes]:
        lines = []
        params = {"stream": True, **({"starting_after": after} if after >= 0 else {})}
        async with http.stream("GET", path, params=params, timeout=60) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    lines.append(line.encode())
                if "mcp_call_arguments.done" in line:
                    began.append(after)
        return lines

    tasks = [asyncio.create_task(watched(after)) for after in (-1, 2) for _ in range(streams // 2)]
    async with asyncio.timeout(30):
        while len(began) < streams:
            await asyncio.sleep(0.05)
    before, at = len(reads), asyncio.get_running_loop().time()
    world.released.set()
    told = await asyncio.gather(*tasks)
    took = asyncio.get_running_loop().time() - at

    assert len(reads) - before <= took / watching.LOOK_EVERY + 5
    assert {tuple(lines) for lines in told[: streams // 2]} == {tuple(told[0])}
    assert {tuple(lines) for lines in told[streams // 2 :]} == {tuple(told[0][3:])}


async def test_there_are_no_more_streams_than_there_may_be(
    desk: Desk, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MOST_OF_ONE", 1)
    name, path = await waiting(desk, world)
    client, http = await desk.client("operator"), await desk.http("operator")
    async with http.stream("GET", path, params={"stream": True}) as answer:
        lines = answer.aiter_lines()
        await anext(lines)

        with pytest.raises(openai.RateLimitError) as refused:
            await client.responses.retrieve(name, stream=True)
        with pytest.raises(openai.RateLimitError):
            await client.responses.create(model="clerk", input="Go.", stream=True)

    assert (refused.value.code, refused.value.type) == ("too_many_watchers", "rate_limit_error")
    assert len(await desk.engine.client.runs()) == 1
    world.released.set()


async def test_streams_end_within_seconds_when_their_key_counts_no_more(desk: Desk, world: World) -> None:
    name, path = await waiting(desk, world)
    keys = ApiKeys(desk.engine.ledger)
    revoked, desk.keys["revoked"] = await keys.create("revoked", ("role:viewer",))
    expiring, desk.keys["expiring"] = await keys.create("expiring", ("role:viewer",))
    run = f"/v1/runs/run_{name.removeprefix('resp_')}/events"
    ended: dict[tuple[str, str], str] = {}

    async def watched(who: str, path: str) -> None:
        http = await desk.http(who)
        async with http.stream("GET", path, params={"stream": True} if "responses" in path else {}) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                ended[who, path] = line

    every = [(who, where) for who in ("revoked", "expiring", "viewer") for where in (path, run)]
    tasks = {each: asyncio.create_task(watched(*each)) for each in every}
    async with asyncio.timeout(30):
        while len(ended) < len(every):
            await asyncio.sleep(0.05)
    await keys.revoke(revoked.id)
    async with desk.engine.ledger.write() as connection:
        ends = update(api_keys).where(api_keys.c.id == expiring.id).values(expires_at=datetime.now(UTC))
        await connection.execute(ends)

    gone = [task for (who, _), task in tasks.items() if who != "viewer"]
    await asyncio.wait_for(asyncio.gather(*gone), 5)

    assert not any(tasks["viewer", where].done() for where in (path, run))
    world.released.set()
    async with asyncio.timeout(30):
        await asyncio.gather(*tasks.values())
    assert desk.engine.model.requests
    with pytest.raises(openai.AuthenticationError):
        await (await desk.client("revoked")).responses.retrieve(name, stream=True)


async def test_a_stream_ends_with_the_token_that_opened_it(desk: Desk, world: World, serve: Serve) -> None:
    _, path = await waiting(desk, world)
    leeway = int(LEEWAY.total_seconds())
    async with local_issuer() as issuer:
        gateway = await serve(STRICT.model_copy(update={"oidc": issuer.settings()}))
        token = issuer.token(roles=["viewer"], exp=int(time.time()) - leeway + 5)
        headers = {"Authorization": f"Bearer {token}"}
        began = time.monotonic()
        async with (
            httpx2.AsyncClient(base_url=gateway.url, headers=headers, timeout=30) as http,
            http.stream("GET", path, params={"stream": True}) as answer,
        ):
            assert answer.status_code == 200
            lines = [line async for line in answer.aiter_lines()]
        assert (await http_status(gateway.url + path, headers)) == 401

    assert time.monotonic() - began < 10
    assert any("mcp_call.in_progress" in line for line in lines)
    assert not any("response.completed" in line for line in lines)
    world.released.set()


async def http_status(url: str, headers: dict[str, str]) -> int:
    """Of an answer."""
    async with httpx2.AsyncClient(timeout=30) as http:
        return (await http.get(url, headers=headers)).status_code


async def test_a_gateway_restarted_in_mid_stream_loses_nothing_for_who_comes_back(desk: Desk, world: World) -> None:
    settings = of_gateway(desk.engine.settings, STRICT)
    desk.says(asks(call("wait")), asks(call("look", "c2")), says(LONG))
    before: list[Any] = []

    async with serving(desk.engine.client, settings, host="127.0.0.1", port=0) as first:
        port = first.port
        client = await desk.client("operator")
        client.base_url = f"{first.url}/v1"
        stream = await client.responses.create(model="clerk", input="Wait.", stream=True)
        async with asyncio.timeout(30):
            async for event in stream:
                before.append(event)
                if event.type == "response.mcp_call.in_progress":
                    break
        rest = asyncio.create_task(_rest(stream))
    before += await asyncio.wait_for(rest, 10)  # it was cut off
    world.released.set()  # all of this happens while no gateway is there
    await desk.engine.client.run((await desk.engine.client.runs())[0].id).result(timedelta(seconds=30))
    name, last = before[0].response.id, before[-1].sequence_number
    async with serving(desk.engine.client, settings, host="127.0.0.1", port=port):
        after = [event async for event in await client.responses.retrieve(name, stream=True, starting_after=last)]

    whole = await events_of(await desk.http(), "GET", f"/v1/responses/{name}", params={"stream": True})
    assert before[-1].type != "response.completed"
    assert [event.to_dict() for event in [*before, *after]] == whole


async def _rest(stream: openai.AsyncStream[Any]) -> list[Any]:
    return [event async for event in stream]
