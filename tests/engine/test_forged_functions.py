"""Functions of a caller, asked for and answered by whoever reaches Temporal's port."""

from __future__ import annotations

import pytest

from horarium.client import Run
from horarium.definitions import Agent
from horarium.protocol import BEGIN_FUNCTION, CALL_TOOL, BeginFunction, Call, Payload, ToolStep
from tests.engine.test_caller_functions import AGENT, WEATHER, given
from tests.support.engine import Engine, asks, call, says
from tests.support.intruder import ask_for

LOOKER = Agent("looker", model="scripted:lines", tools=["look"])


async def own_words(engine: Engine, run: Run, activity: str, payload: Payload) -> str:
    """All that stands in a run after a workflow of its name has asked for an activity."""
    try:
        await ask_for(engine, activity, payload, id=run.id)
    except Exception:  # a refusal will do as well
        pass
    return "\n".join(f"{step.arguments} {step.output} {step.message}" for step in await run.steps())


@pytest.mark.parametrize("activity", [BEGIN_FUNCTION, CALL_TOOL])
async def test_a_made_up_call_brings_nothing_of_another_tenants_run_into_its_own(engine: Engine, activity: str) -> None:
    turn = asks(call("get_weather", "c1", city="Oslo"), call("look", "c2", what="the vault"))
    whole = await engine.start(AGENT, turn, says(), functions=[WEATHER])
    [waiting] = await given(whole)
    await whole.submit_tool_outputs({waiting.id: "ninety gold bars"})
    await engine.finish(whole)
    foreign = await engine.start(
        AGENT, asks(call("get_weather", "c1", city="Rome")), says(), functions=[WEATHER], tenant="mallory"
    )
    [waiting] = await given(foreign)
    await foreign.submit_tool_outputs({waiting.id: "warm"})
    await engine.finish(foreign)
    tool, theirs = ("get_weather", "c1") if activity == BEGIN_FUNCTION else ("look", "c2")
    source = next(step for step in await whole.steps() if step.kind == "model_call")
    [victim] = [step for step in await whole.steps() if step.name == tool]

    for number, key in ((70, f"horarium/{foreign.id}/x"), (71, victim.key)):
        made = Call(
            id=theirs,
            tool=tool,
            digest=victim.input_digest or "",
            key=key or "",
            source=f"{whole.id}/{source.number:04d}",
            function=True,
        )
        wanted: Payload = (
            BeginFunction(run=foreign.id, number=number, call=made, at=victim.claimed_at)
            if activity == BEGIN_FUNCTION
            else ToolStep(run=foreign.id, thread="", agent="clerk", tenant="mallory", number=number, call=made)
        )
        words = await own_words(engine, foreign, activity, wanted)
        assert "gold" not in words
        assert "Oslo" not in words
        assert "vault" not in words
