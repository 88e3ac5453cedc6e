"""The shapes of runs that have whoever started them carry out calls."""

from __future__ import annotations

import asyncio

from horarium.client import Run
from horarium.contract import SIGNAL_TOOL_OUTPUTS, CallerFunction
from tests.engine.conftest import World
from tests.replay.shapes import agent, ends, shape
from tests.support.engine import PATIENCE, Engine, asks, call, says

FUNCTION = CallerFunction(name="beep", description="Make a noise.")


async def given(run: Run, count: int = 1) -> list[str]:
    """The ids of calls that wait for whoever started the run, once there are so many."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            found = [item.id for item in (await run.status()).waiting_for if item.kind == "function_call"]
            if len(found) == count:
                return found
            await asyncio.sleep(0.02)


@shape
async def functions_carried_out(engine: Engine, world: World) -> Run:
    """Beside an approval, one after the other, the second by a signal that says something wrong as well."""
    turn = asks(call("beep", "a"), call("pay", "b", amount=7), call("beep", "c"))
    run = await engine.start(agent(), turn, says(), functions=[FUNCTION], continue_as_new_after=1)
    first, second = await given(run, 2)
    await run.submit_tool_outputs({second: "beeped"}, by="ann")
    await given(run, 1)
    outputs = {"call_1": "never asked for", first: "beeped too"}
    await engine.env.client.get_workflow_handle(run.id).signal(SIGNAL_TOOL_OUTPUTS, {"outputs": outputs})
    await run.approve(await run.next_approval(PATIENCE), by="ann")
    return await ends(engine, run)


@shape
async def functions_taken_back(engine: Engine, world: World) -> Run:
    run = await engine.start(agent(), asks(call("beep", "a"), call("look", "b")), says(), functions=[FUNCTION])
    await given(run)
    await run.cancel()
    return await ends(engine, run, "cancelled")
