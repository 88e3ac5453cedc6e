"""Segments: where one ends, what reaches it, and that nobody sees a difference but in the history's length."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from temporalio.client import WorkflowFailureError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer

from activities.models.base import ModelRequest, Turn
from horarium.client import Run
from horarium.conversion import data_converter
from horarium.definitions import Agent, Limits
from horarium.errors import ModelUnavailable
from horarium.ledger.journal import Journal, StepRecord
from horarium.ledger.schema import messages
from horarium.protocol import RUN_SEGMENT, START_SEGMENT, Call, RunPlan, Segment
from horarium.settings import Settings
from horarium.toolhost import ToolThreads
from horarium.tools import Effect
from tests.engine.conftest import World
from tests.support.engine import PATIENCE, Engine, asks, call, running_engine, sandbox, says
from tests.support.intruder import ask_for
from workflows.agent_run import AgentRun
from workflows.commands import CallModel, CallTool, Command
from workflows.machine_state import MachineState
from workflows.segment import to_segment


def agent(**more: object) -> Agent:
    given = {"tools": ["look", "pay", "wait", "slow_pay", "refuse"]} | more
    return Agent("clerk", model="scripted:test", execution="segments", **given)  # type: ignore[arg-type]


async def segments(engine: Engine, run: Run) -> tuple[int, int, int]:
    """How many a run took inside of its first workflow task, how many outside, and how many events it left."""
    history = await engine.env.client.get_workflow_handle(run.id).fetch_history()
    inside = [event for event in history.events if START_SEGMENT.encode() in event.SerializeToString()]
    scheduled = [event.activity_task_scheduled_event_attributes.activity_type.name for event in history.events]
    return len(inside), scheduled.count(RUN_SEGMENT), len(history.events)


@pytest.fixture
async def short(env: WorkflowEnvironment, tmp_path: Path, world: World) -> AsyncIterator[Engine]:
    """An engine whose segments end after four steps."""
    settings = Settings(root=tmp_path, worker={"segment_steps": 4})
    async with running_engine(env, tmp_path, world.tools(), settings=settings) as engine:  # type: ignore[arg-type]
        yield engine


async def test_a_run_of_many_turns_is_one_segment_and_leaves_the_same_evidence(engine: Engine, world: World) -> None:
    turns = [asks(call("look", f"a{n}", what=str(n)), call("look", f"b{n}", what=f"-{n}")) for n in range(20)]
    run = await engine.start(agent(), *turns, says("Seen."))

    result = await engine.finish(run)

    assert (result.status, result.output, result.turns, result.steps) == ("completed", "Seen.", 21, 61)
    assert (result.usage.input_tokens, world.looks) == (210, 40)
    steps = await run.steps()
    assert [(step.number, step.status, step.attempts) for step in steps] == [
        (number, "completed", 1) for number in range(1, 62)
    ]
    inside, outside, events = await segments(engine, run)
    assert (inside, outside, events < 15) == (1, 0, True)


async def test_a_segment_ends_after_its_steps_and_the_next_one_goes_on(short: Engine, world: World) -> None:
    run = await short.start(agent(), *[asks(call("look", f"c{n}", what=str(n))) for n in range(5)], says("Seen."))

    assert (await short.finish(run)).turns == 6
    assert world.looks == 5
    assert (await segments(short, run))[:2] == (1, 2)


async def test_an_approval_ends_a_segment_and_the_call_is_made_in_the_next(engine: Engine, world: World) -> None:
    both = asks(call("look", "a"), call("pay", "b", amount=3))
    run = await engine.start(agent(), asks(call("look", "c")), both, asks(call("look", "d")), says("Paid."))

    await run.approve(await run.next_approval(PATIENCE), by="ann")

    assert (await engine.finish(run)).output == "Paid."
    assert ([amount for _, amount in world.effects], world.looks) == (["3"], 3)
    assert (await segments(engine, run))[:2] == (1, 1)


async def test_parallel_calls_of_a_turn_are_made_side_by_side(engine: Engine, world: World) -> None:
    def together(_request: ModelRequest) -> Turn:
        return asks(*(call("wait", f"w{n}", what=str(n)) for n in range(3)), call("look", "l"))

    run = await engine.start(agent(), together, says())
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not (world.entered.is_set() and world.looks):  # it is over while the others stand
            await asyncio.sleep(0.01)
        while [step.status for step in await run.steps()].count("claimed") != 3:
            await asyncio.sleep(0.01)

    world.released.set()

    assert (await engine.finish(run)).status == "completed"
    assert [message.call_id for message in engine.model.requests[-1].messages[-4:]] == ["w0", "w1", "w2", "l"]


async def queued(engine: Engine, run: Run) -> int:
    async with engine.ledger.read() as connection:
        return int(await connection.scalar(select(func.count()).where(messages.c.seq.is_(None))))


async def test_a_message_in_mid_segment_is_in_the_next_turn(engine: Engine, world: World) -> None:
    run = await engine.start(agent(), asks(call("wait")), asks(call("look")), says("Heard."))
    await asyncio.wait_for(world.entered.wait(), PATIENCE.total_seconds())

    await run.message("Hurry up.", by="ann")
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not await queued(engine, run):
            await asyncio.sleep(0.01)
    world.released.set()

    assert (await engine.finish(run)).output == "Heard."
    assert ("user", "Hurry up.") in engine.model.heard(1)
    assert len(engine.model.requests) == 3
    assert (await segments(engine, run))[:2] == (1, 1)  # it took longer than a workflow task may


async def test_cancelling_in_mid_segment_reaches_the_tool_in_flight(engine: Engine, world: World) -> None:
    pays_alone = agent(approvals=[{"tools": ["slow_pay"], "required": 0}])
    run = await engine.start(pays_alone, asks(call("look", "a")), asks(call("slow_pay", "b", amount=1)), says())
    assert await asyncio.to_thread(world.entered_thread.wait, 20)

    await run.cancel()

    assert (await engine.finish(run)).status == "cancelled"
    assert [(step.name, step.status) for step in await run.steps() if step.kind == "tool_call"] == [
        ("look", "completed"),
        ("slow_pay", "unknown"),
    ]
    assert world.effects == []


async def test_the_time_limit_stops_a_step_in_mid_segment(engine: Engine, world: World) -> None:
    brief = agent(limits=Limits(wall_time=timedelta(seconds=1)))
    run = await engine.start(brief, asks(call("look")), asks(call("wait")), says())

    result = await engine.finish(run)

    world.released.set()
    assert (result.status, result.reason) == ("incomplete", "wall_time")
    assert [step.status for step in await run.steps()] == ["completed", "completed", "completed", "cancelled"]


async def test_a_short_wait_is_the_segments_own_and_a_long_one_is_left_to_a_timer(engine: Engine) -> None:
    at: list[float] = []

    def busy(seconds: float) -> object:
        def say(_request: ModelRequest) -> Turn:
            at.append(time.monotonic())
            raise ModelUnavailable("429", retry_after=timedelta(seconds=seconds), throttled=True)

        return say

    def answers(_request: ModelRequest) -> Turn:
        at.append(time.monotonic())
        return says("At last.")

    run = await engine.start(agent(), busy(0.2), busy(5.2), answers)  # type: ignore[arg-type]

    assert (await engine.finish(run)).output == "At last."
    assert 0.2 <= at[1] - at[0] < 5 <= at[2] - at[1]
    step = (await run.steps())[0]
    assert (step.attempts, step.failures) == (1, 0)
    history = await engine.env.client.get_workflow_handle(run.id).fetch_history()
    assert any(event.HasField("timer_started_event_attributes") for event in history.events)


async def until_outside(engine: Engine, run: Run) -> None:
    """Wait until the run has asked for its segment outside of its workflow task."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while (await segments(engine, run))[1] == 0:
            await asyncio.sleep(0.02)


async def test_what_outlasts_the_first_workflow_task_is_adopted_and_nothing_is_done_twice(
    engine: Engine, world: World
) -> None:
    go = asyncio.Event()

    async def thinks(_request: ModelRequest) -> Turn:
        await go.wait()
        return asks(call("look", "b"))

    run = await engine.start(agent(), asks(call("look", "a")), thinks, says("Seen."))
    await until_outside(engine, run)
    go.set()

    assert (await engine.finish(run)).output == "Seen."
    assert (await segments(engine, run))[:2] == (1, 1)
    assert (world.looks, len(engine.model.requests)) == (2, 3)
    assert [(step.status, step.attempts) for step in await run.steps()] == [("completed", 1)] * 5


async def test_a_segment_whose_run_is_gone_is_given_up_and_begins_nothing_more(engine: Engine, world: World) -> None:
    run = await engine.start(agent(), asks(call("wait")), asks(call("look")), says())
    await asyncio.wait_for(world.entered.wait(), PATIENCE.total_seconds())

    await engine.env.client.get_workflow_handle(run.id).terminate()
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while (await run.steps())[-1].status != "pending":  # handed back
            await asyncio.sleep(0.02)
    world.released.set()

    assert (world.looks, len(engine.model.requests)) == (0, 1)
    assert [(step.name, step.status) for step in await run.steps()][1:] == [("wait", "pending")]


async def test_a_first_segment_that_breaks_goes_on_outside(
    engine: Engine, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the ledger is away in that moment."""
    of_run = Journal.of_run
    asked: list[str] = []

    async def away_at_first(self: Journal, run_id: str, **more: Any) -> list[StepRecord]:
        asked.append(run_id)
        if len(asked) == 1:
            raise OSError("The ledger is away.")
        return await of_run(self, run_id, **more)

    monkeypatch.setattr(Journal, "of_run", away_at_first)
    run = await engine.start(agent(), asks(call("look")), says("Seen."))

    assert (await engine.finish(run)).output == "Seen."
    history = await engine.env.client.get_workflow_handle(run.id).fetch_history()
    assert ((await segments(engine, run))[:2], world.looks) == ((1, 1), 1)
    await Replayer(workflows=[AgentRun], data_converter=data_converter, workflow_runner=sandbox()).replay_workflow(
        history
    )


async def test_a_cancellation_that_nobody_asked_for_is_a_failure_and_is_tried_again(engine: Engine) -> None:
    def gives_up(_request: ModelRequest) -> Turn:
        raise asyncio.CancelledError  # as a client library does whose own scope was left

    run = await engine.start(agent(), gives_up, says("At last."))

    assert (await engine.finish(run)).output == "At last."


async def test_a_tool_that_would_end_more_than_its_call_only_fails() -> None:
    async def exits() -> None:
        sys.exit(3)

    async def stops_itself() -> None:
        raise asyncio.CancelledError

    def is_used_up() -> object:
        return next(iter(()))

    async def answers() -> str:
        return "still here"

    threads = ToolThreads(1)
    for tool, words in ((exits, "SystemExit: 3"), (stops_itself, "CancelledError"), (is_used_up, "StopIteration")):
        with pytest.raises(RuntimeError, match=words):
            await threads.run(PATIENCE, tool)

    assert await threads.run(PATIENCE, answers) == "still here"
    threads.close()


def made_up(run: str, thread: str, tenant: str, *commands: Command) -> Segment:
    plan = RunPlan(
        run=run,
        thread=thread,
        agent="clerk",
        version=1,
        limits=Limits(),
        on_step_failure="tell",
        model_timeout=PATIENCE,
        heartbeat_timeout=timedelta(seconds=2),
        execution="segments",
    )
    return to_segment(plan, MachineState(next_number=52), commands, tenant=tenant)


@pytest.mark.parametrize("activity", [START_SEGMENT, RUN_SEGMENT])
async def test_a_made_up_segment_releases_nothing_and_reads_nothing_of_another_tenant(
    engine: Engine, world: World, activity: str
) -> None:
    whole = await engine.start(agent(), asks(call("pay", amount=3)), says(), input="The code is 4711.")
    await whole.next_approval(PATIENCE)
    asked = next(step for step in await whole.steps() if step.kind == "approval")
    mine = await engine.start(agent(), says(), tenant="mallory")
    await engine.finish(mine)
    theirs = (await whole.record()).thread_id
    own = (await mine.record()).thread_id
    requests = len(engine.model.requests)
    pays = Call(
        id="call_1",
        tool="pay",
        digest=asked.input_digest or "",
        key=f"horarium/{whole.id}/call_1.1",
        source=f"{whole.id}/0001",
        effect=Effect.READ,
    )
    asking = CallModel(50, (), (), None, None, False, 0)
    answered = CallModel(51, (f"{whole.id}/0001",), (), None, None, False, 0)

    async def carry_out(segment: Segment, *, as_run: str | None = None) -> None:
        with contextlib.suppress(WorkflowFailureError):  # refused as a whole, or step by step
            await ask_for(engine, activity, segment, id=as_run)

    await carry_out(made_up(whole.id, theirs, "default", CallTool(asked.number + 1, pays, None, (), 0, None)))
    forged = made_up(whole.id, theirs, "default", asking)
    await carry_out(forged.model_copy(update={"run": mine.id}), as_run=mine.id)
    await carry_out(made_up(mine.id, theirs, "default", asking), as_run=mine.id)
    await carry_out(made_up(mine.id, own, "mallory", answered), as_run=mine.id)
    await carry_out(made_up(mine.id, own, "mallory", CallTool(50, pays, None, (), 0, None)), as_run=mine.id)

    assert (world.effects, len(engine.model.requests)) == ([], requests)
    assert (await whole.status()).status == "requires_action"
    await carry_out(made_up(mine.id, own, "mallory", asking), as_run=mine.id)  # what is its own it may go on with
    assert len(engine.model.requests) == requests + 1
    assert "4711" not in str(engine.model.heard())
