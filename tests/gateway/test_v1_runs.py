"""Runs over HTTP, as any program reaches them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from horarium.definitions import Agent
from horarium.gateway.serving import Serving
from horarium.ledger.agents import Agents
from horarium.ledger.api_keys import ApiKeys
from horarium.ledger.journal import Journal
from horarium.settings import GatewaySettings
from tests.engine.conftest import World
from tests.gateway.conftest import Serve
from tests.support.engine import PATIENCE, Engine, asks, call, says

CLERK = Agent(name="clerk", model="scripted:none", instructions="Help.", tools=("look", "pay", "ship", "wait"))
MOST = 20_000


@pytest.fixture
async def served(engine: Engine, serve: Serve) -> Serving:
    """The gateway, and an agent."""
    await Agents(engine.ledger).register(CLERK)
    return await serve(GatewaySettings(max_body_bytes=MOST))


@pytest.fixture
async def http(served: Serving) -> AsyncIterator[httpx2.AsyncClient]:
    """Somebody on this machine, without a key."""
    async with httpx2.AsyncClient(base_url=served.url, timeout=30) as client:
        yield client


def script(engine: Engine, *lines: Any) -> None:
    """What the model will say."""
    engine.model.lines[:] = list(lines)
    engine.model.requests.clear()


async def started(http: httpx2.AsyncClient, **body: Any) -> dict[str, Any]:
    """A run, started."""
    answer = await http.post("/v1/runs", json={"agent": "clerk", "input": "Go.", **body})
    assert answer.status_code == 201, answer.text
    run: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/runs/{run['id']}"
    return run


async def ended(engine: Engine, run: str) -> str:
    """The status that a run ends with."""
    return str((await engine.client.run(run).result(PATIENCE)).status)


async def test_a_run_is_started_and_looked_at_with_its_steps_and_answer(
    engine: Engine, http: httpx2.AsyncClient
) -> None:
    script(engine, asks(call("look", what="the shelf")), says("All there."))

    run = (await started(http, metadata={"build": "7"}))["id"]
    assert await ended(engine, run) == "completed"

    found = (await http.get(f"/v1/runs/{run}")).json()
    assert (found["status"], found["output"], found["metadata"]) == ("completed", "All there.", {"build": "7"})
    assert (found["turns"], found["requested_by"], found["in_words"]) == (2, "anonymous", "It is done.")
    assert found["created_at"].endswith("Z")
    steps = (await http.get(f"/v1/runs/{run}/steps")).json()["data"]
    named = [(step["number"], step["kind"], step["name"]) for step in steps if step["kind"] != "memory_write"]
    assert [kind for _, kind, _ in named] == ["model_call", "tool_call", "model_call"]
    assert [one["name"] for one in steps[0]["calls"]] == ["look"]
    assert json.loads(steps[1]["arguments"]) == {"what": "the shelf"}


async def test_the_same_key_is_the_same_run_and_for_another_request_a_conflict(
    engine: Engine, http: httpx2.AsyncClient
) -> None:
    script(engine, says())
    body = {"agent": "clerk", "input": "Go."}

    first = await http.post("/v1/runs", json=body, headers={"Idempotency-Key": "order 7"})
    again = await http.post("/v1/runs", json=body, headers={"Idempotency-Key": "order 7"})
    other = await http.post("/v1/runs", json={**body, "input": "Stop."}, headers={"Idempotency-Key": "order 7"})

    assert first.json()["id"] == again.json()["id"]
    assert (first.status_code, again.status_code, other.status_code) == (201, 201, 409)
    assert other.headers["content-type"] == "application/problem+json"
    assert other.json()["code"] == "run_exists"


async def test_the_list_goes_page_by_page_newest_first_and_by_status_agent_and_thread(
    engine: Engine, http: httpx2.AsyncClient
) -> None:
    script(engine, says())
    made = [(await started(http))["id"] for _ in range(5)]
    for run in made:
        await ended(engine, run)

    pages, cursor = list[list[str]](), None
    while True:
        page = (await http.get("/v1/runs", params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json()
        pages.append([run["id"] for run in page["data"]])
        cursor = page["next"]
        if cursor is None:
            break

    assert [len(page) for page in pages] == [2, 2, 1]
    assert [run for page in pages for run in page] == made[::-1]
    thread = (await http.get(f"/v1/runs/{made[0]}")).json()["thread"]
    for params, expected in (
        ({"thread": thread}, [made[0]]),
        ({"status": ["queued", "failed"]}, []),
        ({"status": "completed", "agent": "clerk"}, made[::-1]),
        ({"agent": "nobody"}, []),
        ({"routine": "nightly"}, []),
    ):
        assert [run["id"] for run in (await http.get("/v1/runs", params=params)).json()["data"]] == expected, params
    assert (await http.get("/v1/runs", params={"cursor": "bm8"})).json()["code"] == "bad_cursor"


async def test_a_waiting_run_says_in_words_for_what_and_is_cancelled(engine: Engine, http: httpx2.AsyncClient) -> None:
    script(engine, asks(call("pay", amount=5)), says())
    run = (await started(http))["id"]
    await engine.until(engine.client.run(run), "requires_action")

    found = (await http.get(f"/v1/runs/{run}")).json()
    cancelled = await http.post(f"/v1/runs/{run}/cancel")

    waits = found["waiting_for"][0]
    assert (waits["kind"], waits["tool"]) == ("approval", "pay")
    assert waits["id"] in found["in_words"]
    assert cancelled.status_code == 202
    assert await ended(engine, run) == "cancelled"
    late = await http.post(f"/v1/runs/{run}/cancel")
    assert (late.status_code, late.json()["code"]) == (409, "conflict")


async def test_a_message_reaches_the_run_under_the_callers_name(
    engine: Engine, world: World, http: httpx2.AsyncClient
) -> None:
    script(engine, asks(call("wait")), says())
    run = (await started(http))["id"]
    await engine.until(engine.client.run(run), "in_progress")

    sent = await http.post(f"/v1/runs/{run}/message", json={"text": "And be quick."})
    world.released.set()
    await ended(engine, run)

    assert sent.status_code == 202
    assert ("user", "And be quick.") in engine.model.heard()
    thread = (await http.get(f"/v1/runs/{run}")).json()["thread"]
    said = (await http.get(f"/v1/threads/{thread}/messages")).json()["data"]
    assert [one["author"] for one in said if one["text"] == "And be quick."] == ["anonymous"]
    assert (await http.post(f"/v1/runs/{run}/message", json={"text": "Late."})).status_code == 409


async def test_one_call_is_made_without_a_model_and_its_output_is_there_whole(
    engine: Engine, world: World, http: httpx2.AsyncClient
) -> None:
    world.result = "é" * 60_000

    run = (await started(http, input=None, call={"tool": "look", "arguments": {"what": "x"}}))["id"]
    assert await ended(engine, run) == "completed"

    step = next(one for one in (await http.get(f"/v1/runs/{run}/steps")).json()["data"] if one["kind"] == "tool_call")
    assert step["cut"]
    whole = (await http.get(f"/v1/runs/{run}/steps/{step['number']}")).json()
    assert (whole["output"], whole["cut"]) == (world.result, False)
    file = await http.get(f"/v1/runs/{run}/steps/{step['number']}/output")
    assert file.content.decode() == world.result
    assert file.headers["content-disposition"].startswith("attachment")
    assert file.headers["x-content-type-options"] == "nosniff"
    assert (await http.get(f"/v1/runs/{run}/steps/999")).status_code == 404


async def test_a_binary_output_is_downloaded_as_it_was(engine: Engine, world: World, http: httpx2.AsyncClient) -> None:
    world.result = b"\x89PNG\r\n\x1a\n" + bytes(range(256))

    run = (await started(http, input=None, call={"tool": "look"}))["id"]
    await ended(engine, run)

    step = next(one for one in (await http.get(f"/v1/runs/{run}/steps")).json()["data"] if one["kind"] == "tool_call")
    assert (await http.get(f"/v1/runs/{run}/steps/{step['number']}")).json()["is_binary"]
    assert (await http.get(f"/v1/runs/{run}/steps/{step['number']}/output")).content == world.result


async def test_feedback_counts_when_a_run_has_ended_and_a_run_is_resumed(
    engine: Engine, world: World, http: httpx2.AsyncClient
) -> None:
    script(engine, asks(call("look")), says("Cut off."))
    limits = {"max_turns": 1}
    run = (await started(http, limits=limits))["id"]
    assert await ended(engine, run) == "incomplete"

    fed = await http.post(f"/v1/runs/{run}/feedback", json={"verdict": "negative", "note": "Too short."})
    script(engine, says("Whole."))
    resumed = await http.post(f"/v1/runs/{run}/resume", json={}, headers={"Idempotency-Key": "go on"})

    assert fed.json() == {"run": run, "verdict": "negative", "changed": []}
    assert (resumed.status_code, resumed.json()["resume_from"]) == (201, run)
    assert await ended(engine, resumed.json()["id"]) == "completed"
    assert world.looks == 1


async def test_a_held_step_is_resolved_by_its_number(engine: Engine, world: World, http: httpx2.AsyncClient) -> None:
    await Agents(engine.ledger).register(CLERK.model_copy(update={"on_step_failure": "hold"}))
    world.fail_next = [RuntimeError("away")] * 20
    script(engine, asks(call("look")), says("Done without."))
    run = (await started(http))["id"]
    await engine.until(engine.client.run(run), "requires_action")
    step = next(one for one in await Journal(engine.ledger).of_run(run) if one.kind == "tool_call").number

    answer = await http.post(
        f"/v1/runs/{run}/resolve", json={"step": step, "verdict": "supply", "output": "Nothing there."}
    )

    assert (answer.status_code, answer.json()["by"]) == (200, "anonymous"), answer.text
    assert await ended(engine, run) == "completed"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"agent": "nobody", "input": "Go."}, 404),
        ({"agent": "clerk"}, 422),
        ({"agent": "clerk", "input": "Go.", "by": "me"}, 422),
        ({"agent": "clerk", "input": "Go.", "tenant": "other"}, 422),
        ({"agent": "clerk", "input": "Go.", "call": {"tool": "look"}}, 422),
        ({"agent": "clerk", "input": "Go.", "resume_from": "run_1"}, 422),
        ({"agent": "clerk", "version": 99, "input": "Go."}, 404),
        ({"agent": "toolbox:shop", "call": {"tool": "look"}}, 404),
        ({"agent": "clerk", "input": "x" * (MOST + 1)}, 413),
    ],
)
async def test_a_wrong_request_is_told_what_is_wrong(
    http: httpx2.AsyncClient, body: dict[str, Any], status: int
) -> None:
    answer = await http.post("/v1/runs", json=body)

    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def test_what_is_no_json_of_everybodys_is_refused(http: httpx2.AsyncClient) -> None:
    for text in (
        '{"agent": "clerk", "call": {"tool": "look", "arguments": {"a": NaN}}}',
        "[" * 100_00,
        '"\\ud800"',
        "{",
    ):
        answer = await http.post("/v1/runs", content=text, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, text[:40]


RUN_ROUTES = [
    ("GET", "", None, 0),
    ("GET", "/steps", None, 0),
    ("GET", "/steps/1", None, 0),
    ("GET", "/steps/1/output", None, 0),
    ("GET", "/events", None, 0),
    ("POST", "/cancel", None, 1),
    ("POST", "/message", {"text": "Hi."}, 1),
    ("POST", "/feedback", {"verdict": "positive"}, 1),
    ("POST", "/resume", {}, 1),
    ("POST", "/resolve", {"step": 1, "verdict": "fail"}, 2),
]
ROLES = ("viewer", "operator", "approver", "admin")


async def keyed(engine: Engine, served: Serving, tenant: str, *scopes: str) -> httpx2.AsyncClient:
    """A client with a key."""
    _, key = await ApiKeys(engine.ledger).create("somebody", scopes, tenant=tenant)
    return httpx2.AsyncClient(base_url=served.url, timeout=30, headers={"Authorization": f"Bearer {key}"})


async def test_another_tenants_run_is_not_there_on_any_route(
    engine: Engine, served: Serving, http: httpx2.AsyncClient
) -> None:
    script(engine, asks(call("pay", amount=5)), says())
    run = (await started(http))["id"]
    await engine.until(engine.client.run(run), "requires_action")

    async with await keyed(engine, served, "other", "role:admin") as stranger:
        for method, path, body, _ in RUN_ROUTES:
            theirs = await stranger.request(method, f"/v1/runs/{run}{path}", json=body)
            nobodys = await stranger.request(method, f"/v1/runs/run_nobodys{path}", json=body)
            assert (theirs.status_code, nobodys.status_code) == (404, 404), path
            assert theirs.json()["code"] == nobodys.json()["code"] == "run_not_found", path
        assert (await stranger.get("/v1/runs")).json()["data"] == []
        thread = (await http.get(f"/v1/runs/{run}")).json()["thread"]
        on_it = await stranger.post("/v1/runs", json={"agent": "clerk", "input": "Hi.", "thread": thread})
        assert (on_it.status_code, on_it.json()["code"]) == (404, "thread_not_found")
    assert (await engine.client.run(run).status()).status == "requires_action"


async def test_a_role_is_needed_for_what_a_route_does(engine: Engine, served: Serving) -> None:
    script(engine, says())
    for rank, role in enumerate(ROLES):
        async with await keyed(engine, served, "default", f"role:{role}") as client:
            begun = await client.post("/v1/runs", json={"agent": "clerk", "input": "Go."})
            assert begun.status_code == (201 if rank >= 1 else 403)
            for method, path, body, needed in RUN_ROUTES:
                answer = await client.request(method, f"/v1/runs/run_nobodys{path}", json=body)
                assert answer.status_code == (404 if rank >= needed else 403), (role, path)
    async with await keyed(engine, served, "default", "toolbox:shop") as client:
        assert (await client.get("/v1/runs")).status_code == 403
        run = await client.post("/v1/runs", json={"agent": "clerk", "input": "Go."})
        assert run.json()["code"] == "not_allowed"


async def test_who_has_a_key_is_named_by_it_and_who_has_none_is_let_in_on_loopback_only(
    engine: Engine, served: Serving, serve: Serve
) -> None:
    script(engine, says())
    async with await keyed(engine, served, "acme", "role:operator") as client:
        run = (await client.post("/v1/runs", json={"agent": "clerk", "input": "Go."})).json()
    assert run["requested_by"] == "somebody"
    assert (await engine.client.run(run["id"]).record()).tenant == "acme"

    everywhere = await serve(
        GatewaySettings(hosts=("127.0.0.1:1",), call_patience=timedelta(seconds=5)), host="0.0.0.0"
    )
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{everywhere.port}") as client:
        assert (await client.get("/v1/runs")).status_code == 401
