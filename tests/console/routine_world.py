"""Routines and their ticks for the console's tests: made by orders, and run by the engine."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from horarium import contract
from horarium.contract import TickRequest, TickResult
from horarium.definitions import Agent
from horarium.errors import ModelRejected
from horarium.ledger.agents import Agents
from horarium.ledger.lateness import Lateness, MissedFire
from horarium.ledger.routines import Routines
from horarium.routines import tick_id
from tests.gateway.rest import Rest
from tests.support.engine import PATIENCE, Said, says

CLERK = Agent("clerk", model="scripted:lines", tools=["look", "pay"], on_step_failure="fail")
MORNINGS: dict[str, Any] = {
    "agent": "clerk",
    "input": "File the pages.",
    "triggers": {"mornings": {"cron": "0 6 * * 1-5", "time_zone": "Europe/London"}},
}
BROKEN = ModelRejected("The archive is away.")


async def routine(rest: Rest, name: str, **more: Any) -> None:
    """Make one, by an order."""
    await Agents(rest.engine.ledger).register(CLERK)
    await rest.ok("PUT", f"/v1/routines/{name}", json=MORNINGS | more)


async def tick(rest: Rest, name: str, at: datetime, *lines: Said, trigger: str = "mornings") -> TickResult:
    """One tick as the schedule of a trigger starts it, to its end."""
    rest.engine.model.lines[:] = list(lines) or [says("Filed.")]
    asked = TickRequest(routine=name, trigger=trigger, at=at)
    async with asyncio.timeout(PATIENCE.total_seconds()):
        done: TickResult = await rest.engine.client.temporal.execute_workflow(
            contract.TICK_WORKFLOW,
            asked,
            id=tick_id(name, at),
            task_queue=contract.ENGINE_QUEUE,
            result_type=TickResult,
        )
    return done


async def miss(rest: Rest, name: str, at: datetime) -> None:
    """A tick that did not come, as the watch writes it down."""
    record = await Routines(rest.engine.ledger).get(name)
    missed = MissedFire(tick_id(name, at), "mornings", at, "no_server", "Temporal did not run at that time.")
    await Lateness(rest.engine.ledger).miss(record, [missed], datetime.now(UTC))


async def a_lively_one(rest: Rest, name: str) -> datetime:
    """A routine with a tick of each kind: retried, done, too late, missed, and failed last; the time of the last."""
    await routine(
        rest,
        name,
        description="Files what came in over night.",
        on_failure="retry",
        retry={"attempts": 2, "first": "10ms", "most": "10ms"},
        catch_up="2d",
    )
    now = datetime.now(UTC).replace(microsecond=0)
    await tick(rest, name, now - timedelta(days=3))
    await miss(rest, name, now - timedelta(days=1))
    await tick(rest, name, now - timedelta(seconds=8), BROKEN, says("Filed **7** pages."))
    await tick(rest, name, now - timedelta(seconds=6))
    await tick(rest, name, now - timedelta(hours=5))
    await tick(rest, name, now - timedelta(seconds=2), BROKEN)
    return now - timedelta(seconds=2)
