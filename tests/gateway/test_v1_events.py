"""Watching a run over HTTP: nothing is lost and nothing comes twice, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from activities.models.base import ModelRequest, OnText, Turn
from horarium.contract import Decision
from horarium.definitions import Agent
from horarium.gateway import watching
from horarium.gateway.serving import serving
from horarium.gateway.v1 import events as events_module
from horarium.ledger.looking import Looking
from horarium.settings import GatewaySettings
from tests.crash.rig import crash_stack
from tests.engine.conftest import World
from tests.gateway.conftest import Serve, of_gateway
from tests.gateway.streams import Event, events, told
from tests.support.engine import PATIENCE, Engine, asks, call, says

CLERK = Agent(name="clerk", model="scripted:none", instructions="Help.", tools=("look", "pay", "ship", "wait"))


async def started(engine: Engine, *lines: Any, **more: Any) -> str:
    """A run of the clerk."""
    return (await engine.start(CLERK, *lines, **more)).id


async def approve(engine: Engine, run: str) -> None:
    """Approve what it waits for."""
    handle = engine.client.run(run)
    approval = await handle.next_approval(PATIENCE)
    await handle.approve(approval, by="ann")


def once(seen: list[Event]) -> list[tuple[str, Any]]:
    """What was told, each with its id; fails when something came twice."""
    ids = [event.id for event in seen]
    assert None not in ids
    assert len(set(ids)) == len(ids)
    what = [event.what for event in seen if event.kind != "status"]
    assert len(set(what)) == len(what), what
    return [event.what for event in seen]


def statuses(seen: list[Event]) -> list[str]:
    return [event.data["status"] for event in seen if event.kind == "status"]


async def test_a_watcher_sees_every_status_and_step_and_then_the_end(engine: Engine, serve: Serve) -> None:
    gateway = await serve()
    run = await started(engine, asks(call("pay", amount=5)), says("Paid."))
    async with httpx2.AsyncClient(base_url=gateway.url, timeout=30) as http:
        watched = asyncio.create_task(told(http, run))
        await approve(engine, run)
        seen = await watched

    assert statuses(seen) == ["queued", "in_progress", "requires_action", "in_progress", "completed"]
    begun = [what for kind, what in once(seen) if kind == "step.begun"]
    settled = [what for kind, what in once(seen) if kind == "step.settled"]
    assert sorted(begun) == sorted(settled) == [step.number for step in await engine.client.run(run).steps()]
    assert seen[-1].kind == "end"
    assert seen[-1].data["status"] == "completed"


async def test_who_comes_late_is_told_the_same_story(engine: Engine, serve: Serve) -> None:
    gateway = await serve()
    run = await started(engine, asks(call("look")), asks(call("pay", amount=5)), says("Paid."))
    async with httpx2.AsyncClient(base_url=gateway.url, timeout=30) as http:
        watched = asyncio.create_task(told(http, run))
        await approve(engine, run)
        live = await watched
        late = await told(http, run)

        assert sorted(once(late)) == sorted(once(live))
        assert statuses(late) == statuses(live)
        assert late[-1] == live[-1]
        over = await http.get(f"/v1/runs/{run}/events", headers={"Last-Event-ID": str(live[-1].id)})
        assert over.status_code == 204


async def test_from_every_event_on_the_rest_follows_and_no_more(engine: Engine, serve: Serve) -> None:
    first, second = await serve(), await serve()
    run = await started(
        engine, asks(call("look"), call("pay", "call_2", amount=5)), asks(call("look", what="b")), says()
    )
    await approve(engine, run)
    await engine.client.run(run).result(PATIENCE)
    async with (
        httpx2.AsyncClient(base_url=first.url, timeout=30) as http,
        httpx2.AsyncClient(base_url=second.url, timeout=30) as elsewhere,
    ):
        whole = await told(http, run)

        for place, event in enumerate(whole[:-1]):
            rest = await told(elsewhere, run, event.id)
            assert [one.what for one in rest] == [one.what for one in whole[place + 1 :]]
        by_query = [one async for one in events(elsewhere, run, whole[2].id, by_query=True)]
        assert [one.what for one in by_query] == [one.what for one in whole[3:]]
        wrong = await http.get(f"/v1/runs/{run}/events", headers={"Last-Event-ID": "x"})
        assert (wrong.status_code, wrong.json()["code"]) == (400, "bad_cursor")


async def test_a_gateway_that_is_restarted_in_mid_stream_loses_nothing_for_who_comes_back(
    engine: Engine, world: World
) -> None:
    settings = of_gateway(engine.settings, GatewaySettings())
    run = await started(engine, asks(call("wait")), asks(call("pay", amount=5)), says("Paid."))
    seen = list[Event]()

    async with serving(engine.client, settings, host="127.0.0.1", port=0) as gateway:
        port = gateway.port
        async with httpx2.AsyncClient(base_url=gateway.url, timeout=30) as http:
            async for event in events(http, run):
                if event.kind != "text":
                    seen.append(event)
                if event.what == ("step.begun", 2):
                    break
    world.released.set()  # all of this happens while no gateway is there
    await approve(engine, run)
    async with (
        serving(engine.client, settings, host="127.0.0.1", port=port) as gateway,
        httpx2.AsyncClient(base_url=gateway.url, timeout=30) as http,
    ):
        seen += await told(http, run, seen[-1].id)
        whole = await told(http, run)

    assert sorted(once(seen)) == sorted(once(whole))
    assert statuses(seen) == ["queued", "in_progress", "requires_action", "in_progress", "completed"]


async def test_the_models_words_come_as_they_are_written(engine: Engine, serve: Serve) -> None:
    gateway = await serve()
    go = asyncio.Event()

    async def generate(request: ModelRequest, on_text: OnText | None = None) -> Turn:
        assert on_text is not None
        written = ""
        while not go.is_set():  # until its watcher has seen two pieces; shown are some of them
            written += "word "
            await on_text(written)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(go.wait(), 0.05)
        return says(written)

    engine.model.generate = generate  # type: ignore[method-assign]
    run = await started(engine)
    pieces, text, settled = 0, "", ""
    async with httpx2.AsyncClient(base_url=gateway.url, timeout=30) as http:
        async for event in events(http, run):
            if event.kind == "text":
                assert (event.id, event.data["offset"]) == (None, len(text))
                text += event.data["delta"]
                pieces += 1
                if pieces == 2:
                    go.set()
            if event.kind == "step.settled" and event.data["step"]["kind"] == "model_call":
                settled = event.data["step"]["output"]

    assert settled.startswith(text)


async def test_an_open_question_is_in_the_event_that_says_so(engine: Engine, serve: Serve) -> None:
    gateway = await serve()
    run = await started(engine, asks(call("pay", amount=5)), says("Paid."))
    async with httpx2.AsyncClient(base_url=gateway.url, timeout=30) as http:
        async for event in events(http, run):
            if event.kind == "status" and event.data["status"] == "requires_action":
                [question] = event.data["waiting_for"]
                found = (await http.get(f"/v1/approvals/{question['id']}")).json()
                body = {"verdict": "approve", "digest": found["digest"]}
                assert (await http.post(f"/v1/approvals/{question['id']}/decide", json=body)).status_code == 200

    assert (await engine.client.run(run).status()).status == "completed"


async def test_a_step_that_a_person_has_done_again_is_told_again(engine: Engine, world: World, serve: Serve) -> None:
    gateway = await serve()
    holding = CLERK.model_copy(update={"on_step_failure": "hold"})
    world.fail_next = [RuntimeError("away")] * 4
    run = (await engine.start(holding, asks(call("pay", amount=5)), says("Done."))).id
    await approve(engine, run)
    await engine.until(engine.client.run(run), "requires_action")
    async with httpx2.AsyncClient(base_url=gateway.url, timeout=30) as http:
        kinds = list[str]()
        async for event in events(http, run):
            if event.kind.startswith("step.") and event.data["step"]["name"] == "pay":
                kinds.append(event.kind)
            if event.kind == "status" and event.data["waiting_for"]:
                world.fail_next = []
                asked = event.data["waiting_for"][0]["id"]
                answer = await http.post(f"/v1/approvals/{asked}/resolve", json={"verdict": "retry"})
                assert answer.status_code == 200, answer.text

    assert kinds.count("step.begun") >= 2
    assert kinds[-1] == "step.settled"
    assert len(world.effects) == 1


async def test_many_watchers_look_at_the_ledger_together_and_are_bounded(
    engine: Engine, world: World, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    look = Looking.look

    async def counted(self: Looking, *args: Any, **more: Any) -> Any:
        nonlocal looks
        looks += 1
        return await look(self, *args, **more)

    monkeypatch.setattr(Looking, "look", counted)
    monkeypatch.setattr(watching, "MOST_OF_ONE", 30)
    gateway = await serve()
    run = await started(engine, asks(call("wait")), says())
    limits = httpx2.Limits(max_connections=100)
    async with httpx2.AsyncClient(base_url=gateway.url, timeout=30, limits=limits) as http:
        streams = [events(http, run) for _ in range(30)]
        stories = [[await anext(stream)] for stream in streams]
        full = await http.get(f"/v1/runs/{run}/events")
        assert (full.status_code, full.json()["code"]) == (429, "too_many_watchers")
        before, at = looks, asyncio.get_running_loop().time()
        world.released.set()
        await asyncio.gather(*(rest(stream, story) for stream, story in zip(streams, stories, strict=True)))
        took = asyncio.get_running_loop().time() - at

        assert looks - before <= took / watching.LOOK_EVERY + 5
    assert {tuple(event.what for event in story) for story in stories} == {tuple(event.what for event in stories[0])}


async def rest(stream: AsyncIterator[Event], story: list[Event]) -> None:
    """The rest of a stream, added to what it began with."""
    async for event in stream:
        story.append(event)


async def test_a_silent_line_is_kept_open(
    engine: Engine, world: World, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "SILENCE", 0.1)
    gateway = await serve()
    run = await started(engine, asks(call("wait")), says())
    async with (
        httpx2.AsyncClient(base_url=gateway.url, timeout=30) as http,
        asyncio.timeout(20),
        http.stream("GET", f"/v1/runs/{run}/events") as stream,
    ):
        async for line in stream.aiter_lines():
            if line == ": still here":
                break
    world.released.set()


async def test_a_worker_killed_under_a_watcher_is_a_pause_and_no_more(tmp_path: Path) -> None:
    async with crash_stack(tmp_path) as (stack, book):
        settings = of_gateway(stack.settings, GatewaySettings())
        run = await stack.client.start("put-inside", "Go.")
        async with (
            serving(stack.client, settings, host="127.0.0.1", port=0) as gateway,
            httpx2.AsyncClient(base_url=gateway.url, timeout=60) as http,
        ):
            watched = asyncio.create_task(told(http, run.id))
            approval = await run.next_approval(PATIENCE)
            await stack.client.decide(
                run.id, Decision(approval=approval.id, digest=approval.digest, by="ann", verdict="approve")
            )
            await book.stands(run, "put", "inside")
            stack.kill_worker()
            book.go()
            stack.start_worker()
            seen = await watched
            whole = await told(http, run.id)

    assert statuses(seen)[-1] == "completed"
    assert sorted(once(seen)) == sorted(once(whole))
    assert len(book.effects(run, "put")) >= 1
