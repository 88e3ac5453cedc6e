"""The shapes of runs with sub-agents: those that hand on, and those that were handed a task."""

from __future__ import annotations

import asyncio

from horarium.client import Run
from horarium.definitions import Agent
from horarium.errors import ModelRejected
from horarium.ledger.runs import Runs
from tests.engine.conftest import World
from tests.replay.shapes import ends, shape, waits_for
from tests.support.cast import Cast, approve, hands, until_asked
from tests.support.engine import Engine, asks, call, says


async def two_below(engine: Engine, tool: str = "pay") -> Agent:
    """A chief that hands on to two at once; one of them asks people."""
    cast = Cast(engine)
    await cast.agent("clerk", asks(call(tool, "p", amount=7)), says("Paid."), tools=[tool])
    await cast.agent("scout", says("Found."))
    turn = asks(hands("clerk", id="a"), hands("scout", id="b"))
    return await cast.agent("chief", turn, says(), agents=["clerk", "scout"])


@shape
async def sub_agents(engine: Engine, world: World) -> Run:
    run = await engine.client.start(await two_below(engine), "Go.")
    (asked,) = await until_asked(engine)
    await waits_for(run, "sub_agent")
    await approve(engine, asked)
    return await ends(engine, run)


@shape
async def a_sub_agents_run(engine: Engine, world: World) -> Run:
    run = await sub_agents(engine, world)
    clerk = (await Runs(engine.ledger).children(run.id))[0]
    return await ends(engine, engine.client.run(clerk.id))


@shape
async def sub_agents_cancelled(engine: Engine, world: World) -> Run:
    run = await engine.client.start(await two_below(engine, "slow_pay"), "Go.")
    (asked,) = await until_asked(engine)
    await approve(engine, asked)
    assert await asyncio.to_thread(world.entered_thread.wait, 20)
    await run.cancel()
    return await ends(engine, run, "cancelled")


@shape
async def a_sub_agent_held_and_tried_again(engine: Engine, world: World) -> Run:
    cast = Cast(engine)
    await cast.agent("scout", asks(call("look")), ModelRejected("broken"), says("Found."), tools=["look"])
    chief = await cast.agent("chief", asks(hands("scout")), says(), agents=["scout"], on_step_failure="hold")
    run = await engine.client.start(chief, "Go.")
    held = await waits_for(run, "held_step")
    await run.resolve(held.id, "retry", by="ann", question=held.question)
    return await ends(engine, run)
