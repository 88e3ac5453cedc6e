"""JSON to an agent and back; and one agent served by itself, as a hosted agent's container is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import httpx2
import openai
import pytest

from horarium.definitions import Agent
from horarium.ledger.agents import Agents
from tests.crash.rig import crash_stack
from tests.gateway.conftest import Serve
from tests.gateway.responses.conftest import STRICT, Desk, desk
from tests.support.engine import asks, call, says

__all__ = ["desk"]
PATH = "/v1/agents/clerk/invocations"
FORECASTER = Agent(
    "forecaster",
    model="scripted:test",
    input_schema={
        "type": "object",
        "properties": {"city": {"type": "string"}, "when": {"type": "string"}},
        "required": ["city"],
    },
    output_schema={"type": "object", "properties": {"degrees": {"type": "integer"}}, "required": ["degrees"]},
)


async def test_json_goes_in_and_json_comes_out(desk: Desk) -> None:
    http = await desk.http("operator")
    desk.says(says('{"degrees": 21}'), says("Sunny."))

    first = await http.post(PATH, json={"city": "Salzburg"})
    second = await http.post(PATH, json="How is it?")

    assert (first.status_code, first.json(), second.json()) == (200, {"degrees": 21}, "Sunny.")
    assert desk.engine.model.heard(0)[-1] == ("user", '{"city": "Salzburg"}')
    assert desk.engine.model.heard(1)[-1] == ("user", "How is it?")
    assert first.headers["x-agent-invocation-id"] == (await desk.engine.client.runs())[-1].id


async def test_a_session_is_one_conversation_of_one_agent_and_tenant(desk: Desk) -> None:
    http, stranger = await desk.http("operator"), await desk.http("stranger")
    session = {"x-agent-session-id": "ana-1"}

    for text in ("I am Ana.", "Who am I?"):
        assert (await http.post(PATH, json=text, headers=session)).headers["x-agent-session-id"] == "ana-1"
    heard = desk.engine.model.heard()
    await stranger.post(PATH, json="Who am I?", headers=session)

    assert [text for role, text in heard if role == "user"] == ["I am Ana.", "Who am I?"]
    assert [text for role, text in desk.engine.model.heard() if role == "user"] == ["Who am I?"]


async def test_an_invocation_that_waits_for_people_says_which_run_to_look_at(desk: Desk) -> None:
    http = await desk.http("operator")
    desk.says(asks(call("pay", amount=3)), says())

    answer = await http.post(PATH, json="Pay.", headers={"Idempotency-Key": "k-1"})
    again = await http.post(PATH, json="Pay.", headers={"Idempotency-Key": "k-1"})

    assert (answer.status_code, answer.json()["status"]) == (202, "requires_action")
    assert again.json() == answer.json()
    assert len(await desk.engine.client.runs()) == 1


async def test_what_is_no_invocation_is_refused(desk: Desk) -> None:
    http, viewer = await desk.http("operator"), await desk.http("viewer")

    answers = [
        await http.post(PATH, content=b"{no json"),
        await http.post(PATH, content=b'{"amount": NaN}'),
        await http.post("/v1/agents/nobody/invocations", json={}),
        await viewer.post(PATH, json={}),
    ]

    assert [answer.status_code for answer in answers] == [422, 422, 404, 403]
    assert await desk.engine.client.runs() == []


async def test_a_body_that_misses_the_input_schema_starts_nothing_and_is_told_where_and_why(
    desk: Desk, serve: Serve
) -> None:
    await Agents(desk.engine.ledger).register(FORECASTER)
    hosted = await serve(STRICT, agent="forecaster")
    http = await desk.http("operator")
    path = "/v1/agents/forecaster/invocations"
    desk.says(says('```\n{"degrees": 21}\n```'))

    wrong = await http.post(path, json={"city": 5, "when": ["now"]})
    right = await http.post(path, json={"city": "Salzburg"})
    shown = await http.get(f"{path}/schema")
    at_root = await http.get(f"{hosted.url}/invocations/schema")
    detail = (await http.get("/v1/agents/forecaster")).json()
    free = await http.get(f"{PATH}/schema")

    assert (wrong.status_code, wrong.json()["code"]) == (422, "bad_input")
    assert wrong.json()["errors"] == [
        {"where": "body.city", "why": "5 is not of type 'string'"},
        {"where": "body.when", "why": "['now'] is not of type 'string'"},
    ]
    assert (right.status_code, right.json()) == (200, {"degrees": 21})
    assert len(await desk.engine.client.runs()) == 1
    assert shown.json() == at_root.json() == {"input": FORECASTER.input_schema, "output": FORECASTER.output_schema}
    assert [detail["input_schema"], detail["output_schema"]] == [FORECASTER.input_schema, FORECASTER.output_schema]
    assert detail["definition"]["input_schema"] == FORECASTER.input_schema
    assert free.json() == {"input": None, "output": None}


async def test_a_hosted_agent_is_asked_at_the_root_and_nothing_else_is_there(desk: Desk, serve: Serve) -> None:
    await Agents(desk.engine.ledger).register(Agent("other", model="scripted:test"))
    hosted = await serve(STRICT, agent="clerk")
    headers = {"Authorization": f"Bearer {desk.keys['operator']}"}
    async with (
        httpx2.AsyncClient(base_url=hosted.url, timeout=30) as http,
        openai.AsyncOpenAI(api_key=desk.keys["operator"], base_url=hosted.url, max_retries=0) as client,
    ):
        response = await client.responses.create(input="Go.")
        invoked = await http.post("/invocations", json="Go.", headers=headers)
        probe = await http.get("/readiness", headers={"Host": "10.0.0.7:8088"})
        large = await http.post("/invocations", json="x" * 2_000_000, headers=headers)
        keyless = await http.post("/invocations", json="Go.")
        elsewhere = [await http.get(path, headers=headers) for path in ("/v1/runs", "/v1/models", "/v1/agents")]

    assert (response.output_text, response.model, invoked.json()) == ("Done.", "clerk", "Done.")
    assert (probe.status_code, probe.json()) == (200, {"status": "ready"})
    assert (keyless.status_code, large.status_code) == (401, 413)
    assert [answer.status_code for answer in elsewhere] == [404, 404, 404]


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_horarium_serve_serves_one_agent_until_it_is_told_to_stop(tmp_path: Path) -> None:
    async with crash_stack(tmp_path) as (stack, _book):
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "horarium", "serve", "look-after", "--port", "0", "--json"),
            cwd=stack.directory,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert program.stdout is not None
            said = json.loads(await asyncio.wait_for(program.stdout.readline(), 60))
            async with httpx2.AsyncClient(base_url=said["address"], timeout=60) as http:
                ready = await http.get("/readiness")
                stack.kill_server()
                away = await http.get("/readiness")
            program.send_signal(signal.SIGTERM)
            code = await asyncio.wait_for(program.wait(), 30)
        finally:
            if program.returncode is None:
                program.kill()

    assert (said["agent"], ready.status_code, away.status_code, code) == ("look-after", 200, 503, 0)
