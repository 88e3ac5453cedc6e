"""Functions that whoever starts a run over HTTP carries out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from horarium.definitions import Agent
from horarium.ledger.agents import Agents
from tests.gateway.conftest import Serve
from tests.gateway.rest import Rest, rest_of
from tests.support.engine import PATIENCE, Engine, asks, call, says

FUNCTION: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}


@pytest.fixture
async def rest(engine: Engine, serve: Serve) -> Any:
    await Agents(engine.ledger).register(Agent("clerk", model="scripted:none", tools=["look"]))
    async with rest_of(engine, serve) as rest:
        yield rest


async def waiting(rest: Rest, run: str) -> dict[str, Any]:
    """The run, once it waits for its caller."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            found: dict[str, Any] = await rest.ok("GET", f"/v1/runs/{run}")
            if found["waiting_for"]:
                return found
            await asyncio.sleep(0.05)


async def test_a_run_says_what_it_has_carried_out_and_goes_on_with_the_output(rest: Rest) -> None:
    rest.engine.model.lines[:] = [asks(call("get_weather", city="Oslo")), says("Cold.")]
    body = {"agent": "clerk", "input": "How is Oslo?", "functions": [FUNCTION]}
    key = {"Idempotency-Key": "k1"}
    run = (await rest.ok("POST", "/v1/runs", "operator", json=body, headers=key))["id"]
    same = (await rest.ok("POST", "/v1/runs", "operator", json=body, headers=key))["id"]
    other = await rest("POST", "/v1/runs", "operator", json={**body, "functions": []}, headers=key)
    [wanted] = (found := await waiting(rest, run))["waiting_for"]
    path, outputs = f"/v1/runs/{run}/tool-outputs", {"outputs": {wanted["id"]: "cold"}}

    assert (same, other.status_code, other.json()["code"]) == (run, 409, "run_exists")
    assert (wanted["kind"], wanted["tool"], wanted["run"]) == ("function_call", "get_weather", run)
    assert (found["status"], found["in_words"]) == ("requires_action", wanted["text"])
    assert wanted["expires_at"] is not None
    assert (await rest.ok("GET", "/v1/approvals", "viewer"))["data"] == []
    for who, status in (("viewer", 403), ("stranger", 404)):
        assert (await rest("POST", path, who, json=outputs)).status_code == status
    nothing = await rest("POST", path, "operator", json={"outputs": {"call_none_3": "cold"}})
    assert (nothing.status_code, nothing.json()["code"]) == (404, "function_call_not_found")

    assert (await rest.ok("POST", path, "operator", json=outputs))["repeated"] == []
    assert (await rest.engine.client.run(run).result(PATIENCE)).output == "Cold."
    assert (await rest.ok("POST", path, "operator", json=outputs))["repeated"] == [wanted["id"]]
    late = await rest("POST", path, "operator", json={"outputs": {wanted["id"]: "warm"}})
    assert (late.status_code, late.json()["code"]) == (409, "output_refused")


async def test_functions_that_cannot_be_used_are_refused(rest: Rest) -> None:
    for functions in (
        [{**FUNCTION, "name": "no spaces"}],
        [FUNCTION, FUNCTION],
        [{**FUNCTION, "parameters": {"type": "array"}}],
        [{**FUNCTION, "type": "web_search"}],
    ):
        answer = await rest(
            "POST", "/v1/runs", "operator", json={"agent": "clerk", "input": ".", "functions": functions}
        )
        assert answer.status_code in (400, 422), answer.text
    mixed = {"agent": "clerk", "call": {"tool": "look"}, "functions": [FUNCTION]}
    assert (await rest("POST", "/v1/runs", "operator", json=mixed)).status_code in (400, 422)
