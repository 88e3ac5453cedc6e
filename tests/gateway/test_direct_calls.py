"""A call that its caller asks for, and no model: gated, kept and resumed as a model's is."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.client import WorkflowHistory
from temporalio.testing import ActivityEnvironment

from activities.catalog import Catalog
from activities.discovery import Discovery
from activities.opening import Opening
from horarium.client import Client, Run
from horarium.contract import DirectCall, RunRequest, RunResult
from horarium.definitions import Agent, ApprovalRule
from horarium.errors import Conflict, RunExists
from horarium.ids import new_run_id, step_id
from horarium.ledger.agents import Agents
from horarium.protocol import OpenRun
from tests.engine.conftest import World
from tests.support.engine import PATIENCE, Engine, says

TOOLS = ["look", "pay", "ship", "wait", "slow_pay", "refuse"]
SECRET = "the-vault-is-behind-the-painting"


def clerk(**more: Any) -> Agent:
    return Agent("clerk", model="scripted:lines", tools=TOOLS, **more)


async def test_a_read_is_called_at_once_and_its_output_is_the_runs(engine: Engine, world: World) -> None:
    run = await engine.client.call(clerk(), "look", {"what": "sky"})

    result = await engine.finish(run)

    assert (result.status, result.output, result.turns, result.usage.input_tokens) == ("completed", "looked", 0, 0)
    assert engine.model.requests == []
    assert [(s.number, s.kind, s.name, s.model, s.status) for s in await run.steps()] == [
        (1, "model_call", "caller", "caller", "completed"),
        (2, "tool_call", "look", None, "completed"),
    ]
    assert (await run.steps())[1].arguments == '{"what":"sky"}'
    assert [step.id for step in await run.step_summaries()] == [step_id(run.id, 1), step_id(run.id, 2)]
    assert await run.output() == "looked"


async def test_the_arguments_are_in_the_ledger_and_not_in_temporals_history(engine: Engine, world: World) -> None:
    run = await engine.client.call(clerk(), "look", {"what": SECRET})
    await engine.finish(run)

    history: WorkflowHistory = await engine.env.client.get_workflow_handle(run.id).fetch_history()

    assert SECRET not in history.to_json()
    assert SECRET in ((await run.steps())[0].output or "")


async def test_a_call_that_needs_an_approval_waits_for_it(engine: Engine, world: World) -> None:
    run = await engine.client.call(clerk(), "pay", {"amount": 7})
    approval = await run.next_approval(PATIENCE)
    assert (world.effects, approval.preview) == ([], '{"amount":7}')

    await run.approve(approval, by="finance")

    assert (await engine.finish(run)).output == "paid 7"
    assert [amount for _, amount in world.effects] == ["7"]


async def test_a_rejected_call_ends_the_run_incomplete_and_is_not_made(engine: Engine, world: World) -> None:
    run = await engine.client.call(clerk(), "pay", {"amount": 7})

    await run.reject(await run.next_approval(PATIENCE), by="finance", comment="Too much.")

    result = await engine.finish(run)
    assert (result.status, result.reason, world.effects) == ("incomplete", "call_rejected", [])
    assert result.message == "pay was not done: rejected."


async def test_a_call_that_fails_on_purpose_ends_the_run_failed_with_its_words(engine: Engine) -> None:
    run = await engine.client.call(clerk(), "refuse", {"what": "x"})

    result = await engine.finish(run)

    assert (result.status, result.reason) == ("failed", "call_failed")
    assert "closed on Sundays" in (result.message or "")


@pytest.mark.parametrize("arguments", [{"amount": "a lot"}, {}, {"amount": 7, "to": "me"}])
async def test_arguments_that_do_not_fit_are_rejected_and_nothing_is_done(
    engine: Engine, world: World, arguments: dict[str, Any]
) -> None:
    run = await engine.client.call(clerk(), "pay", arguments)

    result = await engine.finish(run)

    assert (result.status, result.reason) == ("failed", "arguments_rejected")
    assert "pay" in (result.message or "")
    assert (await run.steps(), world.effects) == ([], [])
    assert (await run.record()).status == "failed"


async def test_a_tool_that_the_agent_has_not_is_named(engine: Engine) -> None:
    result = await engine.finish(await engine.client.call(clerk(), "lok", {}))

    assert (result.status, result.reason) == ("failed", "tool_unavailable")
    assert "look" in (result.message or "")


async def test_a_key_is_one_effect_and_one_result_however_often_it_is_used(engine: Engine, world: World) -> None:
    plan = (ApprovalRule(tools=("pay",), required=0),)
    runs = [await engine.client.call(clerk(approvals=plan), "pay", {"amount": 7}, key="invoice-7") for _ in range(3)]

    results = [await engine.finish(run) for run in runs]

    assert len({run.id for run in runs}) == 1
    assert [result.output for result in results] == ["paid 7"] * 3
    assert len(world.effects) == 1
    with pytest.raises(RunExists):
        await engine.client.call(clerk(approvals=plan), "pay", {"amount": 8}, key="invoice-7")


async def test_a_rule_of_the_plan_asks_even_for_a_read(engine: Engine, world: World) -> None:
    run = await engine.client.call(clerk(approvals=(ApprovalRule(tools=("look",)),)), "look", {})

    await run.approve(await run.next_approval(PATIENCE), by="finance")

    assert ((await engine.finish(run)).status, world.looks) == ("completed", 1)


async def test_a_message_to_such_a_run_asks_no_model(engine: Engine, world: World) -> None:
    run = await engine.client.call(clerk(), "pay", {"amount": 7})
    approval = await run.next_approval(PATIENCE)
    await run.message("And another thing.")

    await run.approve(approval, by="finance")

    assert (await engine.finish(run)).status == "completed"
    assert engine.model.requests == []


async def test_a_person_may_change_the_arguments(engine: Engine, world: World) -> None:
    run = await engine.client.call(clerk(), "pay", {"amount": 7})

    await run.approve(await run.next_approval(PATIENCE), by="finance", arguments={"amount": 5})

    assert (await engine.finish(run)).output == "paid 5"
    assert [amount for _, amount in world.effects] == ["5"]


async def test_a_cancelled_call_is_resumed_under_its_own_key_and_asks_anew(engine: Engine, world: World) -> None:
    first = await engine.client.call(clerk(), "pay", {"amount": 7})
    await first.next_approval(PATIENCE)
    await first.cancel()
    assert (await engine.finish(first)).status == "cancelled"

    second = await engine.client.start("clerk", resume_from=first.id)
    await second.approve(await second.next_approval(PATIENCE), by="finance")

    assert (await engine.finish(second)).output == "paid 7"
    assert [(first.id in key, amount) for key, amount in world.effects] == [(True, "7")]
    assert (await second.output(), engine.model.requests) == ("paid 7", [])


async def test_a_call_that_broke_is_made_again_by_the_run_that_resumes(engine: Engine, world: World) -> None:
    world.fail_next = [OSError("the telescope is wet")] * 3
    first = await engine.client.call(clerk(), "look", {"what": "sky"})
    assert (await engine.finish(first)).reason == "call_failed"

    second = await engine.client.start("clerk", resume_from=first.id)

    assert (await engine.finish(second)).output == "looked"


async def test_a_settled_refusal_is_not_resumed(engine: Engine, world: World) -> None:
    first = await engine.client.call(clerk(), "pay", {"amount": 7})
    await first.reject(await first.next_approval(PATIENCE), by="finance")
    await engine.finish(first)

    result = await engine.finish(await engine.client.start("clerk", resume_from=first.id))

    assert (result.status, result.reason, world.effects) == ("failed", Conflict.code, [])


async def test_a_model_goes_on_where_a_direct_call_ended(engine: Engine, world: World) -> None:
    first = await engine.client.call(clerk(), "look", {"what": "sky"})
    thread = (await engine.finish(first)).thread

    run = await engine.start(clerk(), says("As I saw."), input="What did you see?", thread=thread)

    assert (await engine.finish(run)).output == "As I saw."
    assert [role for role, _ in engine.model.heard()] == ["user", "assistant", "tool", "user"]
    assert engine.model.heard()[2] == ("tool", "looked")


async def test_an_opening_that_is_done_twice_writes_the_call_down_once(engine: Engine) -> None:
    await Agents(engine.ledger).register(clerk())
    run, request = new_run_id(), RunRequest(agent="clerk", call=DirectCall(tool="pay", arguments={"amount": 7}))
    catalog, discovery = Catalog(engine.ledger, []), Discovery(engine.ledger, [], None)
    opening = Opening(engine.ledger, catalog, engine.env.client, discovery, None, engine.settings)

    plans = [await ActivityEnvironment().run(opening.open_run, OpenRun(run=run, request=request)) for _ in range(2)]

    assert plans[0] == plans[1]
    assert [call.tool for call in plans[0].pending] == ["pay"]
    assert [(s.number, s.status) for s in await engine.client.run(run).steps()] == [(1, "completed")]


async def test_a_client_without_a_ledger_calls_too(engine: Engine, world: World) -> None:
    await engine.client.call(clerk(), "look", {})
    away = Client(engine.env.client, None, engine.settings)

    run: Run = await away.call("clerk", "look", {"what": "sky"})
    result: RunResult = await run.result(PATIENCE)

    assert (result.status, result.output) == ("completed", "looked")


async def test_a_lookup_makes_no_call(engine: Engine, world: World) -> None:
    await engine.client.call(clerk(), "look", {})
    looks = world.looks

    result = await engine.finish(await engine.client.look_up_tools("clerk"))

    assert (result.status, result.steps) == ("completed", 0)
    assert world.looks - looks <= 1
