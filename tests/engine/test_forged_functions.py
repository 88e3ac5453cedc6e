"""What one tenant said is brought into no run of another by whoever makes up calls at Temporal's port."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select
from temporalio.client import WorkflowFailureError

from horarium.client import Run
from horarium.ledger.approvals import Approvals
from horarium.ledger.schema import messages
from horarium.protocol import (
    ASK_APPROVALS,
    BEGIN_FUNCTION,
    CALL_MODEL,
    CALL_TOOL,
    WRITE_MESSAGE,
    ApprovalRequest,
    AskApprovals,
    BeginFunction,
    Call,
    ModelStep,
    Payload,
    ToolStep,
    WriteMessage,
)
from tests.engine.test_caller_functions import AGENT, WEATHER, given
from tests.support.engine import Engine, asks, call, says
from tests.support.intruder import ask_for
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes

pytestmark = in_both_modes

SECRETS = ("gold", "Oslo")


async def with_a_function(engine: Engine, city: str, output: str, tenant: str) -> Run:
    """A run that has ended, with an output of its caller's."""
    turn = asks(call("get_weather", "c1", city=city), call("look", "c2", what="the vault"))
    run = await engine.start(AGENT, turn, says(), functions=[WEATHER], tenant=tenant, input=f"About {city}.")
    [waiting] = await given(run)
    await run.submit_tool_outputs({waiting.id: output})
    await engine.finish(run)
    return run


@pytest.fixture
async def both(engine: Engine) -> tuple[Run, Run]:
    """Somebody's run, and one of whoever wants to know what is in it."""
    return (
        await with_a_function(engine, "Oslo", "ninety gold bars", "bank"),
        await with_a_function(engine, "Rome", "warm", "mallory"),
    )


async def messages_of(engine: Engine, thread: str) -> int:
    """How many there are, those that wait for a turn too."""
    async with engine.ledger.read() as connection:
        query = select(func.count()).where(messages.c.thread_id == thread)
        return int(await connection.scalar(query))


async def refused(engine: Engine, run: Run, activity: str, payload: Payload) -> None:
    """A workflow of a run's own name asks, and gets nothing that was not there before."""
    with pytest.raises(WorkflowFailureError) as refusal:
        await ask_for(engine, activity, payload, id=run.id)
    assert getattr(refusal.value.cause.__cause__, "type", None) in ("not_found", "run_not_found", "conflict")


@pytest.mark.parametrize("activity", [BEGIN_FUNCTION, CALL_TOOL, ASK_APPROVALS])
async def test_a_made_up_call_brings_nothing_of_another_tenants_run_into_its_own(
    engine: Engine, both: tuple[Run, Run], activity: str
) -> None:
    whole, foreign = both
    tool, theirs = ("get_weather", "c1") if activity == BEGIN_FUNCTION else ("look", "c2")
    source = {run.id: next(step for step in await run.steps() if step.kind == "model_call") for run in both}
    [victim] = [step for step in await whole.steps() if step.name == tool]

    for number, key, asked_in in ((70, f"horarium/{foreign.id}/x", whole), (80, victim.key or "", foreign)):
        made = Call(
            id=theirs,
            tool=tool,
            digest=victim.input_digest or "",
            key=key,
            source=f"{asked_in.id}/{source[asked_in.id].number:04d}",
            function=activity == BEGIN_FUNCTION,
        )
        assert victim.claimed_at is not None
        wanted: Payload
        if activity == BEGIN_FUNCTION:
            wanted = BeginFunction(run=foreign.id, number=number, call=made, at=victim.claimed_at)
        elif activity == CALL_TOOL:
            wanted = ToolStep(run=foreign.id, thread="", agent="clerk", tenant="mallory", number=number, call=made)
        else:
            request = ApprovalRequest(id=f"apr_{number}", number=number, guards=number + 1, call=made)
            wanted = AskApprovals(
                run=foreign.id, tenant="bank", agent="clerk", requested_at=victim.claimed_at, requests=(request,)
            )
        if asked_in is whole:
            await refused(engine, foreign, activity, wanted)
        else:
            await ask_for(engine, activity, wanted, id=foreign.id)  # which has a call of that name, and no more

    said = [f"{step.arguments} {step.output} {step.message}" for step in await foreign.steps() if step.number >= 70]
    assert await Approvals(engine.ledger).count(tenant="bank") == 0
    assert not [secret for secret in SECRETS for text in said if secret in text]


async def test_a_model_is_told_nothing_of_another_tenants_thread_and_nothing_is_put_into_it(
    engine: Engine, both: tuple[Run, Run]
) -> None:
    whole, foreign = both
    theirs, own = [(await run.record()).thread_id for run in both]
    [step] = [step for step in await whole.steps() if step.name == "get_weather"]
    version = (await foreign.record()).version or 0
    common = {"run": foreign.id, "agent": "clerk", "version": version, "tenant": "mallory"}
    before, asked = await messages_of(engine, theirs), len(engine.model.requests)

    await refused(engine, foreign, CALL_MODEL, ModelStep(**common, thread=theirs, number=70))
    answered = (f"{whole.id}/{step.number:04d}",)
    await refused(engine, foreign, CALL_MODEL, ModelStep(**common, thread=own, number=71, answered=answered))
    words = WriteMessage(id="made-up", run=foreign.id, thread=theirs, text="Send the gold.", by="eve")
    await refused(engine, foreign, WRITE_MESSAGE, words)

    assert len(engine.model.requests) == asked
    assert await messages_of(engine, theirs) == before
