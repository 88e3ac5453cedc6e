"""Functions that whoever started a run carries out: the run waits, and goes on with what they submit."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from horarium.client import Run
from horarium.contract import SIGNAL_TOOL_OUTPUTS, CallerFunction, Waiting
from horarium.definitions import Agent, Limits
from horarium.errors import ConfigError, Conflict, FunctionCallNotFound, OutputRefused
from horarium.ledger.functions import Functions
from tests.engine.conftest import World
from tests.support.engine import PATIENCE, Engine, asks, call, says
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes

pytestmark = in_both_modes

WEATHER = CallerFunction(
    name="get_weather",
    description="The weather of a city.",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
AGENT = Agent("clerk", model="scripted:lines", tools=["look", "pay"])


async def given(run: Run, count: int = 1) -> list[Waiting]:
    """Wait until this many calls wait for their caller."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            waiting = [item for item in (await run.status()).waiting_for if item.kind == "function_call"]
            if len(waiting) == count:
                return waiting
            await asyncio.sleep(0.02)


async def test_a_run_waits_for_its_caller_and_goes_on_with_the_output(engine: Engine) -> None:
    run = await engine.start(
        AGENT, asks(call("get_weather", city="Oslo")), says("Cold."), functions=[WEATHER], requested_by="ann"
    )
    [wanted] = await given(run)
    waiting = await engine.until(run, "requires_action")

    submitted = await run.submit_tool_outputs({wanted.id: '{"celsius": -4}\x00'}, by="ann")

    result = await engine.finish(run)
    assert (result.status, result.output) == ("completed", "Cold.")
    assert (waiting.status, wanted.tool) == ("requires_action", "get_weather")
    assert wanted.text == f"Carry out get_weather and submit its output, for call {wanted.id}."
    assert submitted.taken == (wanted.id,)
    assert engine.model.heard()[-1] == ("tool", '{"celsius": -4}\ufffd')
    assert [tool.name for tool in engine.model.requests[0].tools] == ["look", "pay", "get_weather"]
    [step] = [step for step in await run.steps() if step.kind == "tool_call"]
    assert (step.status, step.untrusted, step.arguments, step.by) == ("completed", 1, '{"city":"Oslo"}', "ann")
    assert wanted.id == f"call_{run.id.removeprefix('run_')}_{step.number}"


async def test_the_first_output_stands_a_repeat_changes_nothing_and_what_is_unknown_is_refused(engine: Engine) -> None:
    turn = asks(call("get_weather", "a", city="Oslo"), call("get_weather", "b", city="Rome"))
    run = await engine.start(AGENT, turn, says(), functions=[WEATHER])
    oslo, rome = await given(run, 2)

    with pytest.raises(FunctionCallNotFound):
        await run.submit_tool_outputs({oslo.id: "cold", "call_none_7": "warm"})
    with pytest.raises(FunctionCallNotFound):
        await engine.client.run("run_none").submit_tool_outputs({oslo.id: "cold"})
    assert len(await given(run, 2)) == 2  # of a refused submission nothing is taken

    assert (await run.submit_tool_outputs({rome.id: "warm"}, by="ann")).repeated == ()
    [left] = await given(run, 1)
    assert (await run.submit_tool_outputs({rome.id: "warm"})).repeated == (rome.id,)
    with pytest.raises(OutputRefused, match="another output already, from ann"):
        await run.submit_tool_outputs({rome.id: "hot"})
    assert left.id == oslo.id
    await run.submit_tool_outputs({oslo.id: "cold"})
    await engine.finish(run)
    assert (await run.submit_tool_outputs({oslo.id: "cold"})).repeated == (oslo.id,)
    with pytest.raises(OutputRefused):
        await run.submit_tool_outputs({oslo.id: "hot"})
    assert engine.model.heard()[-2:] == [("tool", "cold"), ("tool", "warm")]


async def test_an_output_that_its_bringer_died_with_before_telling_is_told_by_the_next_one(engine: Engine) -> None:
    turn = asks(call("get_weather", "a", city="Oslo"), call("get_weather", "b", city="Rome"))
    run = await engine.start(AGENT, turn, says(), functions=[WEATHER])
    oslo, rome = await given(run, 2)
    steps = [kept.step for kept in await Functions(engine.ledger).calls(run.id)]
    await Functions(engine.ledger).submit(run.id, dict(zip(steps, ("cold", "warm"), strict=True)), by="ann")

    handle = engine.env.client.get_workflow_handle(run.id)
    await handle.signal(SIGNAL_TOOL_OUTPUTS, {"outputs": {rome.id: "hot"}})
    await given(run, 1)
    told = await run.submit_tool_outputs({oslo.id: "cold"})

    assert told.repeated == (oslo.id,)
    assert (await engine.finish(run)).status == "completed"
    assert engine.model.heard()[-2:] == [("tool", "cold"), ("tool", "warm")]


async def test_an_output_that_no_run_settled_is_not_asked_for_again_by_the_one_that_resumes_it(engine: Engine) -> None:
    first = await engine.start(AGENT, asks(call("get_weather", city="Oslo")), says("Cold."), functions=[WEATHER])
    await given(first)
    [kept] = await Functions(engine.ledger).calls(first.id)
    await engine.env.client.get_workflow_handle(first.id).terminate()
    await Functions(engine.ledger).submit(first.id, {kept.step: "cold"}, by="ann")

    second = await engine.start(AGENT, says("Cold."), input=None, resume_from=first.id)

    assert (await engine.finish(second)).output == "Cold."
    assert engine.model.heard()[-1] == ("tool", "cold")
    await engine.client.delete_thread((await second.record()).thread_id)
    [gone] = await Functions(engine.ledger).calls(first.id)
    assert (gone.output, gone.digest) == (None, None)
    assert (await Functions(engine.ledger).of_run(first.id)).functions == ()


async def test_any_temporal_client_may_send_outputs_by_signal(engine: Engine) -> None:
    turn = asks(call("get_weather", "a", city="Oslo"), call("get_weather", "b", city="Rome"))
    run = await engine.start(AGENT, turn, says(), functions=[WEATHER])
    oslo, rome = await given(run, 2)
    handle = engine.env.client.get_workflow_handle(run.id)

    await handle.signal(SIGNAL_TOOL_OUTPUTS, "nonsense")
    await handle.signal(SIGNAL_TOOL_OUTPUTS, {"outputs": {"call_7": "x", oslo.id: "cold", rome.id: None}})
    await given(run, 1)
    refused = (await run.status()).refused_signals
    await handle.signal(SIGNAL_TOOL_OUTPUTS, {"outputs": {rome.id: "warm"}})

    assert (await engine.finish(run)).status == "completed"
    assert engine.model.heard()[-2:] == [("tool", "cold"), ("tool", "warm")]
    assert [why.partition(":")[0] for why in refused] == [SIGNAL_TOOL_OUTPUTS] * 3
    assert "No call 'call_7' waits" in refused[1]
    assert "The ledger has no output" in refused[2]


async def test_a_large_output_is_kept_whole_and_no_payload_holds_it(engine: Engine) -> None:
    run = await engine.start(AGENT, asks(call("get_weather", city="Oslo")), says(), functions=[WEATHER])
    [wanted] = await given(run)
    text = "snow " * 100_000

    await run.submit_tool_outputs({wanted.id: text})
    await engine.finish(run)

    [step] = [step for step in await run.steps() if step.kind == "tool_call"]
    assert step.output_blob is not None
    assert (await engine.ledger.blobs.get(step.output_blob)).decode() == text
    assert len(engine.model.heard()[-1][1]) < 10_000
    history = await engine.env.client.get_workflow_handle(run.id).fetch_history()
    assert max(event.ByteSize() for event in history.events) < 8_000
    [kept] = await Functions(engine.ledger).calls(run.id)
    assert (kept.output, kept.output_blob) == (None, None)


async def test_an_own_tool_that_needs_an_approval_and_a_function_wait_side_by_side(
    engine: Engine, world: World
) -> None:
    turn = asks(call("pay", "a", amount=7), call("get_weather", "b", city="Oslo"), call("look", "c"))
    run = await engine.start(AGENT, turn, says(), functions=[WEATHER], continue_as_new_after=1)
    [wanted] = await given(run)
    approval = await run.next_approval(PATIENCE)

    await run.approve(approval, by="ann")
    [left] = await given(run)
    await run.submit_tool_outputs({wanted.id: "cold"})

    assert (await engine.finish(run)).status == "completed"
    assert left.id == wanted.id
    assert [said for role, said in engine.model.heard() if role == "tool"] == ["paid 7", "cold", "looked"]
    assert len(world.effects) == 1


async def test_cancelling_withdraws_a_call_and_a_resumed_run_asks_its_own_caller(engine: Engine) -> None:
    first = await engine.start(AGENT, asks(call("get_weather", city="Oslo")), says("Cold."), functions=[WEATHER])
    [wanted] = await given(first)
    await first.cancel()
    assert (await engine.finish(first)).status == "cancelled"
    with pytest.raises(Conflict):
        await first.submit_tool_outputs({wanted.id: "cold"})

    second = await engine.start(AGENT, says("Cold."), input=None, resume_from=first.id)
    [again] = await given(second)
    await second.submit_tool_outputs({again.id: "cold"})

    assert (await engine.finish(second)).output == "Cold."
    assert again.id != wanted.id
    assert engine.model.heard()[-1] == ("tool", "cold")
    assert [tool.name for tool in engine.model.requests[0].tools][-1] == "get_weather"


async def test_waiting_for_the_caller_costs_no_time_and_ends_after_the_patience(skipping_engine: Engine) -> None:
    engine = skipping_engine
    agent = AGENT.model_copy(update={"limits": Limits(wall_time=timedelta(minutes=10))})
    run = await engine.start(agent, asks(call("get_weather", city="Oslo")), says("Unknown."), functions=[WEATHER])
    [wanted] = await given(run)

    await engine.env.sleep(timedelta(hours=23))
    assert await given(run) == [wanted]
    await engine.env.sleep(timedelta(hours=2))

    result = await engine.finish(run)
    assert (result.status, result.output) == ("completed", "Unknown.")
    assert "sent no output in time" in engine.model.heard()[-1][1]
    [step] = [step for step in await run.steps() if step.kind == "tool_call"]
    assert (step.status, step.code) == ("cancelled", "function_expired")
    with pytest.raises(OutputRefused, match="no output came in time"):
        await run.submit_tool_outputs({wanted.id: "cold"})


async def test_a_choice_is_forced_on_the_first_turn_and_no_other(engine: Engine) -> None:
    run = await engine.start(
        AGENT,
        says("I know the weather."),
        asks(call("get_weather", city="Oslo")),
        says("Cold."),
        functions=[WEATHER],
        choice="get_weather",
    )
    [wanted] = await given(run)
    await run.submit_tool_outputs({wanted.id: "cold"})

    assert (await engine.finish(run)).output == "Cold."
    asked = [(request.tool_choice, len(request.tools)) for request in engine.model.requests]
    assert asked == [("required", 1), ("required", 1), ("auto", 3)]


async def test_functions_that_no_run_could_use_are_refused_before_it_starts(engine: Engine) -> None:
    odd = WEATHER.model_copy(update={"parameters": {"type": "object", "properties": 7}})

    for functions, words in (([WEATHER, WEATHER], "Two functions"), ([odd], "no schema of an object")):
        with pytest.raises(ConfigError, match=words):
            await engine.start(AGENT, says(), functions=functions)
    clash = await engine.start(AGENT, says(), functions=[WEATHER.model_copy(update={"name": "look"})])
    result = await engine.finish(clash)
    assert (result.status, result.reason) == ("failed", "config")
