"""Threads over HTTP."""

from __future__ import annotations

from typing import Any

import httpx2

from horarium.definitions import Agent
from horarium.gateway.serving import Serving
from horarium.ledger.agents import Agents
from tests.engine.conftest import World
from tests.gateway.conftest import Serve
from tests.gateway.test_v1_runs import ROLES, keyed
from tests.support.engine import PATIENCE, Engine, asks, call, says

CLERK = Agent(name="clerk", model="scripted:none", instructions="Help.", tools=("look", "pay", "wait"))


async def talked(engine: Engine, *lines: Any, **more: Any) -> str:
    """A thread in which a run has ended."""
    run = await engine.start(CLERK, *(lines or (says("Good day."),)), input="Hello.", **more)
    return str((await run.result(PATIENCE)).thread)


def local(gateway: Serving) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=gateway.url, timeout=30)


async def test_a_thread_is_read_in_pages_with_who_said_what(engine: Engine, serve: Serve) -> None:
    thread = await talked(engine, asks(call("look", what="shelf")), says("All there."), requested_by="ann")
    async with local(await serve()) as http:
        shown = (await http.get(f"/v1/threads/{thread}")).json()
        said, cursor = list[dict[str, Any]](), None
        while True:
            params = {"limit": 2, **({"cursor": cursor} if cursor else {})}
            page = (await http.get(f"/v1/threads/{thread}/messages", params=params)).json()
            said += page["data"]
            cursor = page["next"]
            if cursor is None:
                break

    assert (shown["messages"], shown["open_run"]) == (4, None)
    assert [(one["place"], one["role"], one["text"]) for one in said] == [
        (0, "user", "Hello."),
        (1, "assistant", ""),
        (2, "tool", "looked"),
        (3, "assistant", "All there."),
    ]
    assert said[0]["author"] == "ann"
    assert [one["name"] for one in said[1]["calls"]] == ["look"]
    assert said[2]["call_id"] == "call_1"


async def test_threads_are_listed_newest_first_in_pages(engine: Engine, serve: Serve) -> None:
    made = [await talked(engine) for _ in range(3)]
    async with local(await serve()) as http:
        first = (await http.get("/v1/threads", params={"limit": 2})).json()
        second = (await http.get("/v1/threads", params={"limit": 2, "cursor": first["next"]})).json()

    assert [one["id"] for one in (*first["data"], *second["data"])] == made[::-1]
    assert second["next"] is None


async def test_a_message_is_appended_and_the_next_run_answers_it(engine: Engine, serve: Serve) -> None:
    thread = await talked(engine)
    await Agents(engine.ledger).register(CLERK)
    async with local(await serve()) as http:
        placed = await http.post(f"/v1/threads/{thread}/messages", json={"text": "What is the time?"})
        begun = await http.post("/v1/runs", json={"agent": "clerk", "thread": thread})
        await engine.client.run(begun.json()["id"]).result(PATIENCE)

    assert (placed.status_code, placed.json()) == (201, {"thread": thread, "place": 2})
    assert ("user", "What is the time?") in engine.model.heard()


async def test_a_thread_that_a_run_has_open_takes_no_message_and_is_not_deleted(
    engine: Engine, world: World, serve: Serve
) -> None:
    run = await engine.start(CLERK, asks(call("wait")), says())
    await engine.until(run, "in_progress")
    async with local(await serve()) as http:
        thread = (await run.record()).thread_id
        appended = await http.post(f"/v1/threads/{thread}/messages", json={"text": "Hi."})
        deleted = await http.delete(f"/v1/threads/{thread}")
    world.released.set()

    assert (appended.status_code, appended.json()["code"]) == (409, "thread_busy")
    assert deleted.status_code == 409


async def test_a_thread_is_forked_at_a_whole_turn_and_deleted(engine: Engine, serve: Serve) -> None:
    thread = await talked(engine, asks(call("look")), says())
    async with local(await serve()) as http:
        fork = await http.post(f"/v1/threads/{thread}/fork", json={"at": 1})
        nowhere = await http.post(f"/v1/threads/{thread}/fork", json={"at": 99})
        gone = await http.delete(f"/v1/threads/{thread}")
        after = await http.get(f"/v1/threads/{thread}")
        kept = (await http.get(f"/v1/threads/{fork.json()['id']}/messages")).json()["data"]

    assert (fork.status_code, fork.json()["forked_from"], fork.json()["forked_at"]) == (201, thread, 2)
    assert nowhere.status_code == 404
    assert (gone.status_code, after.status_code) == (204, 404)
    assert [one["text"] for one in kept] == ["Hello.", "", "looked"]


ROUTES = [
    ("GET", "", None, 0),
    ("GET", "/messages", None, 0),
    ("POST", "/messages", {"text": "Hi."}, 1),
    ("POST", "/fork", {}, 1),
    ("DELETE", "", None, 3),
]


async def test_another_tenants_thread_is_not_there_and_a_role_is_needed(engine: Engine, serve: Serve) -> None:
    thread = await talked(engine)
    gateway = await serve()
    async with await keyed(engine, gateway, "other", "role:admin") as stranger:
        for method, path, body, _ in ROUTES:
            answer = await stranger.request(method, f"/v1/threads/{thread}{path}", json=body)
            assert (answer.status_code, answer.json()["code"]) == (404, "thread_not_found"), path
        assert (await stranger.get("/v1/threads")).json()["data"] == []
    for rank, role in enumerate(ROLES):
        async with await keyed(engine, gateway, "default", f"role:{role}") as client:
            for method, path, body, needed in ROUTES:
                answer = await client.request(method, f"/v1/threads/thr_nobodys{path}", json=body)
                assert answer.status_code == (404 if rank >= needed else 403), (role, method, path)
    assert len(await engine.client.thread(thread)) == 2
