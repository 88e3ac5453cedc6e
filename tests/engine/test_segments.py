"""Segments: where one ends, what reaches it, and that nobody sees a difference but in the history's length."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select
from temporalio.testing import WorkflowEnvironment

from activities.models.base import ModelRequest, Turn
from horarium.client import Run
from horarium.definitions import Agent, Limits
from horarium.errors import ModelUnavailable
from horarium.ledger.schema import messages
from horarium.protocol import RUN_SEGMENT, START_SEGMENT
from horarium.settings import Settings
from tests.engine.conftest import World
from tests.support.engine import PATIENCE, Engine, asks, call, running_engine, says


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
