"""Answers that have to fit a schema: the model is told, asked again, and taken at its word only when they fit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from horarium.contract import RunRequest
from horarium.definitions import Agent, Limits
from horarium.errors import ConfigError
from horarium.ids import new_run_id
from horarium.structured import MAX_SCHEMA_BYTES
from tests.engine.conftest import World
from tests.support.engine import Engine, asks, call, says
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes

pytestmark = in_both_modes

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
GOOD = '{"city": "Salzburg", "degrees": 21}'


def reporter(**more: Any) -> Agent:
    return Agent("reporter", model="scripted:lines", tools=["look"], **{"output_schema": WEATHER, **more})


async def test_an_answer_that_misses_the_schema_goes_back_with_the_reason_until_it_fits(
    engine: Engine, world: World
) -> None:
    run = await engine.start(
        reporter(),
        asks(call("look")),
        says("It is warm."),
        says('{"city": "Salzburg", "degrees": "warm"}'),
        says(f"```json\n{GOOD}\n```"),
    )

    result = await engine.finish(run)

    assert (result.status, result.output, result.turns) == ("completed", GOOD, 4)
    assert await run.output() == GOOD
    heard = [text for role, text in engine.model.heard() if role == "user"]
    assert "has to be JSON and nothing else" in heard[1]
    assert "'warm' is not of type 'integer' (at 'degrees')" in heard[2]
    assert json.dumps(WEATHER, sort_keys=True, separators=(",", ":")) in engine.model.requests[0].instructions
    assert engine.model.requests[0].answer_schema == WEATHER


async def test_a_model_that_never_fits_the_schema_fails_the_run(engine: Engine) -> None:
    run = await engine.start(reporter(), says("Warm."))

    result = await engine.finish(run)

    assert (result.status, result.reason, result.turns) == ("failed", "malformed_turns", 4)


async def test_a_schema_of_the_run_counts_instead_of_the_agents_for_it_and_for_whoever_resumes_it(
    engine: Engine, world: World
) -> None:
    # A limit of turns ends the first run before its answer; it continued as new at each step.
    wanted = {"type": "array", "items": {"$ref": "#/$defs/day"}, "$defs": {"day": {"type": "string"}}}
    options: dict[str, Any] = {"output_schema": wanted, "limits": Limits(max_turns=1), "continue_as_new_after": 1}
    first = await engine.start(reporter(), asks(call("look")), says(GOOD), says('["Monday"]'), **options)

    assert (await engine.finish(first)).status == "incomplete"
    second = await engine.client.start("reporter", resume_from=first.id)
    assert (await engine.finish(second)).output == '["Monday"]'
    assert "does not fit" in [text for role, text in engine.model.heard(2) if role == "user"][-1]
    other = await engine.client.start("reporter", "Go.")
    assert (await engine.finish(other)).reason == "malformed_turns"  # an array, where its agent promises an object


async def test_a_run_started_by_a_plain_temporal_client_brings_its_schema_in_the_request(engine: Engine) -> None:
    await engine.start(Agent("plain", model="scripted:lines"), says("Hello."))
    engine.model.lines[:] = [says("[]"), says('{"a": 1}')]
    request = RunRequest(agent="plain", input="Go.", output_schema={"type": "object"})

    handle = await engine.env.client.start_workflow(
        "AgentRun", request.model_dump(mode="json"), id=new_run_id(), task_queue="horarium"
    )

    assert (await handle.result())["output"] == '{"a": 1}'


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"$ref": "https://example.com/schema.json"}, "nothing is looked up elsewhere"),
        ({"$ref": "#/$defs/gone"}, "which is not in it"),
        ({"type": "thing"}, "is no JSON Schema"),
        ({"description": "x" * MAX_SCHEMA_BYTES}, "a schema may have 16,384"),
        ({"$ref": "#"}, "goes round in circles"),
    ],
)
async def test_a_schema_that_nothing_can_be_checked_by_is_refused_before_anything_runs(
    engine: Engine, schema: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValidationError, match=why):
        reporter(output_schema=schema)
    with pytest.raises(ConfigError, match=why):
        await engine.client.start(reporter(), "Go.", output_schema=schema)

    assert await engine.client.runs() == []


def test_agents_without_schemas_are_the_versions_that_they_were() -> None:
    plain = Agent("plain", model="scripted:lines")

    assert {"input_schema", "output_schema"}.isdisjoint(plain.model_dump())
    assert plain.digest == "sha256:84c7939c9b1bd6c2c9fa46dfbd23ada56f6e4b873c582b723b33ba0682422366"
