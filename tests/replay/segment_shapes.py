"""The shapes of runs that are carried out in segments."""

from __future__ import annotations

import asyncio

from activities.models.base import ModelRequest, Turn
from horarium.client import Run
from horarium.errors import ModelUnavailable
from tests.engine.conftest import World
from tests.replay.shapes import agent, ends, shape
from tests.support.engine import PATIENCE, Engine, asks, call, says


@shape
async def segments_between_approvals(engine: Engine, world: World) -> Run:
    """With a message in the middle of one and a provider that wants patience; and it continues as new."""
    busy = ModelUnavailable("429", retry_after=PATIENCE / 5, throttled=True)
    turns = [asks(call("look", f"l{n}", what=str(n))) for n in range(3)]
    asked = asks(call("look", "a"), call("pay", "b", amount=7))
    run = await engine.start(
        agent(execution="segments"), *turns, asked, asks(call("wait", "w")), busy, says(), continue_as_new_after=4
    )
    await run.approve(await run.next_approval(PATIENCE), by="ann")
    await asyncio.wait_for(world.entered.wait(), PATIENCE.total_seconds())
    await run.message("And then?", by="ann")
    world.released.set()
    return await ends(engine, run)


@shape
async def segment_cancelled(engine: Engine, world: World) -> Run:
    thinks = asyncio.Event()

    async def for_long(_request: ModelRequest) -> Turn:
        thinks.set()
        await asyncio.sleep(PATIENCE.total_seconds())
        return says()

    run = await engine.start(agent(execution="segments"), asks(call("look", "a")), for_long)
    await asyncio.wait_for(thinks.wait(), PATIENCE.total_seconds())
    await run.cancel()
    return await ends(engine, run, "cancelled")


@shape
async def segment_in_a_moment(engine: Engine, world: World) -> Run:
    """All of it in the first workflow task."""
    turns = [asks(call("look", f"l{n}", what=str(n))) for n in range(3)]
    return await ends(engine, await engine.start(agent(execution="segments"), *turns, says()))


@shape
async def segment_that_took_longer(engine: Engine, world: World) -> Run:
    """Than a workflow task may; then an approval, and it continues as new."""

    async def thinks(_request: ModelRequest) -> Turn:
        await asyncio.sleep(1.2)
        return asks(call("look", "b"), call("pay", "c", amount=7))

    run = await engine.start(
        agent(execution="segments"), asks(call("look", "a")), thinks, says(), continue_as_new_after=2
    )
    await run.approve(await run.next_approval(PATIENCE), by="ann")
    return await ends(engine, run)
