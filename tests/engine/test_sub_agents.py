"""Agents that hand tasks to other agents: what adds up, what is asked where, what stops, and what is done again."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.testing import WorkflowEnvironment

from activities.models.base import ModelRequest, Turn
from horarium.client import Run
from horarium.contract import RUN_WORKFLOW, RunRequest
from horarium.definitions import Agent, ApprovalRule, Limits
from horarium.errors import ModelRejected, ThreadNotFound
from horarium.ids import step_id, sub_run_id
from horarium.ledger.runs import RunRecord, Runs
from horarium.settings import Settings, WorkerSettings
from tests.engine.conftest import World
from tests.engine.test_routines import Ticking, routine
from tests.support.cast import Cast, approve, hands, until_asked
from tests.support.engine import PATIENCE, Engine, asks, call, running_engine, says
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes

pytestmark = in_both_modes

CANCEL_REQUESTED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED


@pytest.fixture
def cast(engine: Engine) -> Cast:
    return Cast(engine)


async def below(engine: Engine, run: Run | RunRecord) -> list[RunRecord]:
    return await Runs(engine.ledger).children(run.id)


async def three_levels(cast: Cast, **of_clerk: Any) -> Agent:
    await cast.agent("clerk", asks(call("pay", "p1", amount=7)), says("Paid 7."), tools=["pay"], **of_clerk)
    await cast.agent("researcher", asks(hands("clerk", "Pay 7.")), says("The clerk paid."), agents=["clerk"])
    return await cast.agent("chief", asks(hands("researcher", "Find out.")), says("All done."), agents=["researcher"])


async def test_three_levels_work_with_one_inbox_that_shows_the_path_and_usage_that_adds_up(
    engine: Engine, cast: Cast, world: World
) -> None:
    run = await engine.client.start(await three_levels(cast), "Go.", requested_by="ann")
    (asked,) = await until_asked(engine)

    assert asked.path == "chief > researcher > clerk"
    assert (asked.tool, asked.agent, asked.requested_by) == ("pay", "clerk", "ann")
    waiting = (await engine.until(run, "requires_action")).waiting_for
    assert [(item.kind, item.id, item.question) for item in waiting] == [("sub_agent", asked.run_id, asked.id)]
    assert waiting[0].text == "researcher: clerk: Approve or reject pay."
    await approve(engine, asked)
    result = await engine.finish(run)

    assert (result.status, result.output) == ("completed", "All done.")
    assert [amount for _, amount in world.effects] == ["7"]
    assert (result.usage.input_tokens, result.usage.output_tokens) == (60, 30)
    (researcher,) = await below(engine, run)
    (clerk,) = await below(engine, researcher)
    assert clerk.id == asked.run_id
    assert (researcher.input_tokens, clerk.input_tokens) == (40, 20)
    assert (clerk.path, clerk.requested_by) == (["chief", "researcher", "clerk"], "ann")
    step = (await run.steps())[1]
    assert (step.kind, step.name, step.status, step.output) == ("handoff", "researcher", "completed", "The clerk paid.")
    assert cast.heard("clerk")[0] == ("user", "Pay 7.")
    assert cast.heard("chief")[-1] == ("tool", "The clerk paid.")


async def test_twenty_sub_agents_of_one_turn_work_side_by_side_and_answer_in_the_order_asked(
    engine: Engine, cast: Cast
) -> None:
    at_work, gate = set[str](), asyncio.Event()

    async def together(request: ModelRequest) -> Turn:
        at_work.add(request.messages[0].text)
        if len(at_work) == 20:
            gate.set()
        await asyncio.wait_for(gate.wait(), 30)
        return says(f"Found {request.messages[0].text}")

    await cast.agent("scout", together)
    chief = await cast.agent(
        "chief", asks(*(hands("scout", f"corner {n}", f"h{n}") for n in range(20))), says(), agents=["scout"]
    )

    result = await engine.finish(await engine.client.start(chief, "Go."))

    assert result.status == "completed"
    assert [text for role, text in cast.heard("chief") if role == "tool"] == [f"Found corner {n}" for n in range(20)]
    assert result.usage.input_tokens == 10 * 22


async def test_what_is_left_is_shared_out_so_that_a_whole_tree_keeps_to_the_budget_of_its_root(
    engine: Engine, cast: Cast
) -> None:
    def more(request: ModelRequest) -> Turn:
        return asks(call("look", f"l{len(request.messages)}", what=str(len(request.messages))), tokens=(40, 10))

    await cast.agent("digger", more, tools=["look"])
    two = asks(*(hands("digger", id=f"d{n}") for n in range(2)))
    await cast.agent("foreman", lambda asked: two if len(asked.messages) == 1 else says(), agents=["digger"])
    chief = await cast.agent(
        "chief",
        asks(*(hands("foreman", id=f"f{n}") for n in range(2))),
        says(),
        agents=["foreman"],
        limits=Limits(max_tokens=1_000),
    )

    run = await engine.client.start(chief, "Go.")
    result = await engine.finish(run)

    used = result.usage.input_tokens + result.usage.output_tokens
    assert 900 < used <= 1_000 + 4 * 50, "one turn of each digger may be under way when its share is used up"
    foremen = await below(engine, run)
    diggers = [digger for foreman in foremen for digger in await below(engine, foreman)]
    assert [digger.reason for digger in diggers] == ["max_tokens"] * 4
    own = 15 * (result.turns + sum(foreman.turns for foreman in foremen))
    assert used == own + sum(digger.input_tokens + digger.output_tokens for digger in diggers)


async def test_a_sub_agent_that_stops_at_a_limit_tells_the_model_what_it_had_and_the_run_goes_on(
    engine: Engine, cast: Cast
) -> None:
    await cast.agent("scout", asks(call("look")), says("never"), tools=["look"], limits=Limits(max_turns=1))
    chief = await cast.agent(
        "chief", asks(hands("scout")), says("Half of it."), agents=["scout"], on_step_failure="fail"
    )

    run = await engine.client.start(chief, "Go.")

    assert (await engine.finish(run)).output == "Half of it."
    step = (await run.steps())[1]
    assert (step.status, step.code) == ("failed", "sub_agent_incomplete")
    assert "stopped at a limit" in (step.output or "")
    assert "left undone" in cast.heard("chief")[-1][1]


async def test_a_sub_agent_that_failed_fails_the_run_where_the_parent_says_so(engine: Engine, cast: Cast) -> None:
    await cast.agent("scout", ModelRejected("too long"))
    chief = await cast.agent("chief", asks(hands("scout")), says(), agents=["scout"], on_step_failure="fail")

    result = await engine.finish(await engine.client.start(chief, "Go."))

    assert (result.status, result.reason) == ("failed", "sub_agent_failed")
    assert "too long" in (result.message or "")


async def test_a_held_handoff_that_a_person_has_done_again_goes_on_where_the_first_sub_agent_was(
    engine: Engine, cast: Cast, world: World
) -> None:
    await cast.agent("scout", asks(call("look")), ModelRejected("broken"), says("Found."), tools=["look"])
    chief = await cast.agent("chief", asks(hands("scout")), says(), agents=["scout"], on_step_failure="hold")
    run = await engine.client.start(chief, "Go.")
    waiting = (await engine.until(run, "requires_action")).waiting_for[0]

    await run.resolve(waiting.id, "retry", by="ann", question=waiting.question)

    assert (await engine.finish(run)).status == "completed"
    first, second = await below(engine, run)
    assert (first.status, second.status, second.resume_from) == ("failed", "completed", first.id)
    assert (world.looks, cast.heard("chief")[-1]) == (1, ("tool", "Found."))


async def test_a_cycle_and_a_level_too_deep_are_refused_in_words_for_the_model(engine: Engine, cast: Cast) -> None:
    await cast.agent("ping", asks(hands("pong")), says("I am ping."), agents=["pong"])
    await cast.agent("pong", asks(hands("ping")), says("I am pong."), agents=["ping"])
    await cast.agent("deep", asks(hands("deeper")), says(), agents=["deeper"])
    await cast.agent("deeper", says("Deeper."))
    top = await cast.agent("top", asks(hands("deep")), says(), agents=["deep"], limits=Limits(max_depth=1))
    ping = Agent("ping", model="scripted:ping", agents=["pong"])

    round_trip = await engine.client.start(ping, "Go.")
    down = await engine.client.start(top, "Go.")
    await asyncio.gather(engine.finish(round_trip), engine.finish(down))

    (pong,) = await below(engine, round_trip)
    assert await below(engine, pong) == []
    step = (await engine.client.run(pong.id).steps())[1]
    assert (step.status, step.code) == ("failed", "handoff_refused")
    assert "ping > pong > ping" in (step.output or "")
    (deep,) = await below(engine, down)
    refused = (await engine.client.run(deep.id).steps())[1]
    assert (refused.kind, refused.status, deep.status) == ("handoff", "rejected", "completed")
    assert "too deep" in (refused.output or "")


async def test_the_runs_below_are_counted_at_any_depth(engine: Engine, cast: Cast) -> None:
    await cast.agent("leaf", says("Leaf."))
    await cast.agent("branch", asks(hands("leaf")), says("Branch."), agents=["leaf"])
    chief = await cast.agent(
        "chief",
        asks(hands("branch")),
        asks(hands("branch", "Again.", "h2")),
        says(),
        agents=["branch"],
        limits=Limits(max_handoffs=2),
    )

    run = await engine.client.start(chief, "Go.")
    await engine.finish(run)

    assert await Runs(engine.ledger).below(run.id) == 2
    assert "limit of 2 runs" in cast.heard("chief")[-1][1]


async def test_a_rule_of_the_parent_that_names_a_sub_agent_asks_before_it_begins(engine: Engine, cast: Cast) -> None:
    await cast.agent("scout", says("Found."))
    chief = await cast.agent(
        "chief", asks(hands("scout")), says(), agents=["scout"], approvals=[ApprovalRule(tools=("scout",))]
    )
    run = await engine.client.start(chief, "Go.")
    approval = await run.next_approval(PATIENCE)
    assert await below(engine, run) == []

    await run.approve(approval, by="ann", arguments={"task": "Only the north."})

    assert (await engine.finish(run)).status == "completed"
    assert cast.heard("scout") == [("user", "Only the north.")]
    assert "Only the north." in cast.heard("chief")[-1][1]


async def test_who_started_the_topmost_run_cannot_approve_under_four_eyes_far_below(
    engine: Engine, cast: Cast, world: World
) -> None:
    rule = ApprovalRule(tools=("pay",), four_eyes=True)
    run = await engine.client.start(await three_levels(cast, approvals=[rule]), "Go.", requested_by="ann")
    (asked,) = await until_asked(engine)

    with pytest.raises(Exception, match="second pair of eyes"):
        await approve(engine, asked, by="ann")
    await approve(engine, asked, by="bob")

    assert (await engine.finish(run)).status == "completed"
    assert asked.not_by == ["ann"]


async def test_cancelling_the_topmost_run_stops_a_tool_two_levels_down_and_withdraws_what_is_asked(
    engine: Engine, cast: Cast, world: World
) -> None:
    await cast.agent("clerk", asks(call("slow_pay", "p1", amount=7)), says(), tools=["slow_pay"])
    await cast.agent("asker", asks(call("pay", "p2", amount=8)), says(), tools=["pay"])
    await cast.agent(
        "researcher", asks(hands("clerk", id="a"), hands("asker", id="b")), says(), agents=["clerk", "asker"]
    )
    chief = await cast.agent("chief", asks(hands("researcher")), says(), agents=["researcher"])
    run = await engine.client.start(chief, "Go.")
    asked = {question.tool: question for question in await until_asked(engine, 2)}
    await approve(engine, asked["slow_pay"])
    assert await asyncio.to_thread(world.entered_thread.wait, 20)

    await run.cancel()

    assert (await engine.finish(run)).status == "cancelled"
    (researcher,) = await below(engine, run)
    clerk, asker = await below(engine, researcher)
    assert {researcher.status, clerk.status, asker.status} == {"cancelled"}
    assert {question.status for question in await engine.client.approvals(status=None)} == {"approved", "withdrawn"}
    in_flight = (await engine.client.run(clerk.id).steps())[-1]
    assert (in_flight.name, in_flight.status) == ("slow_pay", "unknown")
    assert world.effects == []
    assert [step.status for step in await run.steps() if step.kind == "handoff"] == ["cancelled"]


async def test_cancelling_reaches_sub_agents_that_have_continued_as_new(
    env: WorkflowEnvironment, tmp_path: Path, world: World
) -> None:
    settings = Settings(root=tmp_path, worker=WorkerSettings(continue_as_new_after=1))
    async with running_engine(env, tmp_path, world.tools(), settings=settings) as engine:  # type: ignore[arg-type]
        run = await engine.client.start(await three_levels(Cast(engine)), "Go.")
        await until_asked(engine)

        await run.cancel()

        assert (await engine.finish(run)).status == "cancelled"
        (researcher,) = await below(engine, run)
        (clerk,) = await below(engine, researcher)
        assert {researcher.status, clerk.status} == {"cancelled"}
        assert await engine.client.approvals() == []


async def test_cancelling_reaches_a_run_that_had_begun_under_the_sub_agents_id_before(
    engine: Engine, cast: Cast
) -> None:
    async def begun_before(request: ModelRequest) -> Turn:
        await engine.env.client.start_workflow("Before", id=sub_run_id(step_id(run.id, 2), 0), task_queue="nobody")
        return asks(hands("scout"))

    await cast.agent("scout", says("Found."))
    chief = await cast.agent("chief", begun_before, says(), agents=["scout"])
    run = await engine.client.start(chief, "Go.")
    async with asyncio.timeout(30):
        while [step.kind for step in await run.steps()] != ["model_call", "handoff"]:
            await asyncio.sleep(0.02)

    await run.cancel()

    before = engine.env.client.get_workflow_handle(sub_run_id(step_id(run.id, 2), 0))
    async with asyncio.timeout(30):
        while not [event async for event in before.fetch_history_events() if event.event_type == CANCEL_REQUESTED]:
            await asyncio.sleep(0.1)
    await before.terminate()
    assert (await engine.finish(run)).status == "cancelled"


async def test_a_parent_that_is_terminated_takes_its_sub_agents_along(engine: Engine, cast: Cast) -> None:
    run = await engine.client.start(await three_levels(cast), "Go.")
    (asked,) = await until_asked(engine)

    await engine.env.client.get_workflow_handle(run.id).terminate()

    clerk = engine.client.run(asked.run_id)
    assert (await engine.finish(clerk)).status == "cancelled"
    assert await engine.client.approvals() == []


async def test_a_sub_agents_run_that_is_terminated_is_told_to_the_model_and_what_it_used_counts(
    engine: Engine, cast: Cast
) -> None:
    await cast.agent("clerk", asks(call("pay", amount=7)), says(), tools=["pay"])
    chief = await cast.agent("chief", asks(hands("clerk")), says("Went on."), agents=["clerk"])
    run = await engine.client.start(chief, "Go.")
    (asked,) = await until_asked(engine)

    await engine.env.client.get_workflow_handle(asked.run_id).terminate()

    result = await engine.finish(run)
    assert (result.status, result.output, result.usage.input_tokens) == ("completed", "Went on.", 30)
    assert "ended from outside" in cast.heard("chief")[-1][1]


async def test_a_cancelled_run_that_is_resumed_has_its_sub_agent_go_on_where_that_was(
    engine: Engine, cast: Cast, world: World
) -> None:
    await cast.agent(
        "clerk", asks(call("look")), asks(call("pay", "p", amount=7)), says("Paid."), tools=["look", "pay"]
    )
    chief = await cast.agent("chief", asks(hands("clerk")), says("All done."), agents=["clerk"])
    first = await engine.client.start(chief, "Go.")
    await until_asked(engine)
    await first.cancel()
    await engine.finish(first)

    again = await engine.client.start(chief, None, resume_from=first.id)
    (asked,) = await until_asked(engine)
    await approve(engine, asked)

    assert (await engine.finish(again)).output == "All done."
    (before,), (after,) = await below(engine, first), await below(engine, again)
    assert (before.status, after.status, after.resume_from) == ("cancelled", "completed", before.id)
    assert (world.looks, len(world.effects)) == (1, 1)
    assert cast.heard("chief")[-1] == ("tool", "Paid.")


async def test_a_run_that_its_sub_agent_failed_is_resumed_by_trying_that_one_again(
    engine: Engine, cast: Cast, world: World
) -> None:
    await cast.agent("scout", asks(call("look")), ModelRejected("broken"), says("Found."), tools=["look"])
    chief = await cast.agent("chief", asks(hands("scout")), says("Fine."), agents=["scout"], on_step_failure="fail")
    first = await engine.client.start(chief, "Go.")
    assert (await engine.finish(first)).reason == "sub_agent_failed"

    again = await engine.client.start(chief, None, resume_from=first.id)

    assert (await engine.finish(again)).output == "Fine."
    assert (world.looks, cast.heard("chief")[-1]) == (1, ("tool", "Found."))


async def test_a_resumed_run_takes_the_answer_of_a_sub_agent_that_had_finished_without_its_parent(
    engine: Engine, cast: Cast
) -> None:
    gate = asyncio.Event()

    async def late(request: ModelRequest) -> Turn:
        await asyncio.wait_for(gate.wait(), 30)
        return says("Found.")

    await cast.agent("quick", says("Quick."))
    await cast.agent("slow", late)
    chief = await cast.agent(
        "chief", asks(hands("quick", id="a"), hands("slow", id="b")), says("Both."), agents=["quick", "slow"]
    )
    first = await engine.client.start(chief, "Go.")
    async with asyncio.timeout(30):
        while len([step for step in await first.steps() if step.status == "completed"]) < 2:
            await asyncio.sleep(0.02)
    await first.cancel()
    gate.set()
    await engine.finish(first)

    again = await engine.client.start(chief, None, resume_from=first.id)

    assert (await engine.finish(again)).output == "Both."
    assert len(cast.requests["quick"]) == 1
    assert [child.agent for child in await below(engine, again)] in ([], ["slow"])
    assert [text for role, text in cast.heard("chief") if role == "tool"] == ["Quick.", "Found."]


async def test_deleting_a_thread_takes_what_its_sub_agents_were_told_and_said(
    engine: Engine, cast: Cast, world: World
) -> None:
    run = await engine.client.start(await three_levels(cast), "Go.")
    (asked,) = await until_asked(engine)
    await approve(engine, asked)
    thread = (await engine.finish(run)).thread
    (researcher,) = await below(engine, run)
    (clerk,) = await below(engine, researcher)
    other = await engine.client.fork_thread(clerk.thread_id)

    await engine.client.delete_thread(thread, by="ann")

    for gone in (thread, researcher.thread_id, clerk.thread_id):
        with pytest.raises(ThreadNotFound):
            await engine.client.thread_record(gone)
        assert await engine.client.thread(gone) == []
    assert [step.output for step in await engine.client.run(researcher.id).steps()] == [None] * 3
    assert [message.said for message in await engine.client.thread(other.id)][-1] == "Paid 7."


async def test_nobody_can_start_a_run_in_a_sub_agents_place(engine: Engine, cast: Cast) -> None:
    await cast.agent("clerk", asks(call("pay", amount=7)), says(), tools=["pay"])
    chief = await cast.agent("chief", asks(hands("clerk")), says(), agents=["clerk"])
    run = await engine.client.start(chief, "Go.")
    (asked,) = await until_asked(engine)
    step = step_id(run.id, 2)
    made_up = RunRequest(agent="clerk", input="Pay me.", parent=step, limits=Limits(max_tokens=10**9))

    strangers = []
    for id in ("run_stranger", sub_run_id(step, 1)):
        handle = await engine.env.client.start_workflow(RUN_WORKFLOW, made_up, id=id, task_queue="horarium")
        strangers.append(await engine.client.run(handle.id).result(PATIENCE))

    assert [(result.status, result.reason) for result in strangers] == [("failed", "conflict")] * 2
    assert asked.run_id == sub_run_id(step, 0)
    assert (await run.status()).status in ("in_progress", "requires_action")


async def test_what_strangers_wrote_far_below_marks_every_step_above(
    env: WorkflowEnvironment, engine: Engine, cast: Cast
) -> None:
    from horarium.ledger.database import Statements
    from horarium.ledger.schema import steps as table

    async def tainted(request: ModelRequest) -> Turn:
        async with engine.ledger.write() as connection:
            await _mark(connection)
        return says("The page says: obey.")

    async def _mark(connection: Statements) -> None:
        await connection.execute(table.update().where(table.c.name == "look").values(untrusted=1))

    await cast.agent("reader", asks(call("look")), tainted, tools=["look"])
    await cast.agent("middle", asks(hands("reader")), says("Read."), agents=["reader"])
    chief = await cast.agent("chief", asks(hands("middle")), says(), agents=["middle"])

    run = await engine.client.start(chief, "Go.")
    await engine.finish(run)

    assert [(step.kind, step.untrusted) for step in await run.steps()] == [
        ("model_call", 0),
        ("handoff", 1),
        ("model_call", 0),
    ]


async def test_the_clock_of_every_run_above_stands_while_a_person_is_waited_for_below(
    skipping_engine: Engine, world: World
) -> None:
    cast = Cast(skipping_engine)
    run = await skipping_engine.client.start(await three_levels(cast), "Go.")
    (asked,) = await until_asked(skipping_engine)
    await skipping_engine.until(run, "requires_action")

    await skipping_engine.env.sleep(timedelta(hours=5))
    await approve(skipping_engine, asked)

    assert (await skipping_engine.finish(run)).status == "completed"


async def test_nobody_is_asked_far_below_where_a_routine_runs_unattended(
    engine: Engine, cast: Cast, world: World
) -> None:
    chief = await three_levels(cast)
    ticking = await Ticking.of(engine, routine(agent="chief", unattended="deny"), chief, cast.said)

    result = await ticking.tick()

    assert (result.status, world.effects) == ("completed", [])
    assert await engine.client.approvals(status=None) == []
    assert "nobody" in cast.heard("clerk")[-1][1].lower()
