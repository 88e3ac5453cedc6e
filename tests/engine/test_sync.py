"""The client for code that does not await."""

from __future__ import annotations

import asyncio

from horarium import SyncClient
from horarium.definitions import Agent
from horarium.settings import Settings, TemporalSettings
from tests.support.engine import PATIENCE, Engine, asks, call, says


async def test_code_without_a_loop_starts_watches_approves_and_waits(engine: Engine) -> None:
    engine.model.lines[:] = [asks(call("pay", amount=3)), says("Paid.")]
    address = engine.env.client.service_client.config.target_host
    settings = Settings(root=engine.settings.root, temporal=TemporalSettings(address=address))

    def plainly() -> tuple[str, list[str], str]:
        with SyncClient.connect(settings) as client:
            run = client.start(Agent("clerk", model="scripted:lines", tools=["pay"]), "Pay 3.", key="sync")
            run.approve(run.next_approval(PATIENCE), by="ann")
            seen = [event.type for event in run.watch()]
            return run.result(PATIENCE).output, seen, run.status().status

    output, seen, status = await asyncio.to_thread(plainly)

    assert (output, status) == ("Paid.", "completed")
    assert {"step", "status"} <= set(seen)
