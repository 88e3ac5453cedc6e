"""The shapes of runs whose answers have to fit a schema, and of which webhooks are told."""

from __future__ import annotations

from horarium.client import Run
from horarium.settings import GatewaySettings, RunWebhook
from tests.engine.conftest import World
from tests.replay.shapes import GATEWAYS, agent, ends, shape
from tests.support.engine import PATIENCE, Engine, asks, call, says

TOLD = GatewaySettings(webhooks=(RunWebhook(url="http://127.0.0.1:9/nobody", secret="${RUN_HOOK}"),))


@shape
async def answers_that_fit_and_are_told(engine: Engine, world: World) -> Run:
    """Two waits and the end are told, by executions that continue as new; the answer fits at the second attempt."""
    lines = asks(call("pay", "a", amount=1)), asks(call("pay", "b", amount=2)), says("Paid."), says('{"paid": 3}')
    schema = {"type": "object", "required": ["paid"]}
    run = await engine.start(agent(output_schema=schema), *lines, continue_as_new_after=3)
    for _ in range(2):
        await run.approve(await run.next_approval(PATIENCE), by="ann")
    return await ends(engine, run)


GATEWAYS[answers_that_fit_and_are_told.__name__] = TOLD
