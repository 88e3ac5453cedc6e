"""The shapes of ticks that are recorded, beside those of runs."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowFailureError
from temporalio.common import RawValue

from horarium import contract
from horarium.client import Run
from horarium.contract import TickRequest, TickResult
from horarium.definitions import ApprovalRule, Limits
from horarium.ledger.agents import Agents
from horarium.ledger.routines import Routines
from horarium.ledger.ticks import Ticks
from horarium.routines import Routine, tick_id
from tests.engine.conftest import World
from tests.replay.shapes import SHAPES, agent, shape
from tests.support.engine import PATIENCE, Engine, Said, asks, call, says

BROKEN = RuntimeError("The archive is away.")

__all__ = ["SHAPES"]


async def tick(engine: Engine, routine: dict[str, Any], *lines: Said, at: datetime | None = None, **more: Any) -> Run:
    """Start one tick of a routine; the handle is used for its id alone."""
    definition = Routine.model_validate({"agent": "clerk", "input": "File the pages."} | routine)
    now = datetime.now(UTC).replace(microsecond=0)
    await Agents(engine.ledger).register(
        agent(**{"on_step_failure": "fail", "approvals": (ApprovalRule(tools=("slow_pay",), required=0),)} | more)
    )
    await Routines(engine.ledger).put(definition, by="ann", at=now)
    if lines:
        engine.model.lines[:] = list(lines)
    request = TickRequest(routine=definition.name, trigger="mornings", at=at or now)
    started = await engine.client.temporal.start_workflow(
        contract.TICK_WORKFLOW,
        request,
        id=tick_id(definition.name, request.at or now),
        task_queue=contract.ENGINE_QUEUE,
    )
    return Run(engine.client, started.id)


async def ended(engine: Engine, run: Run, status: str) -> Run:
    """Wait for the tick's end, which has to be the one that is meant to be recorded."""
    handle = engine.client.temporal.get_workflow_handle(run.id, result_type=TickResult)
    async with asyncio.timeout(PATIENCE.total_seconds()):
        result = await handle.result()
    assert result.status == status, result
    return run


async def attempt_of(engine: Engine) -> Run:
    """The run that waits for people."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not (found := await engine.client.approvals()):
            await asyncio.sleep(0.02)
    [approval] = found
    return engine.client.run(approval.run_id)


async def until(engine: Engine, run: Run, status: str) -> None:
    """Wait until the ledger shows the tick so."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not any((found.id, found.status) == (run.id, status) for found in await Ticks(engine.ledger).list()):
            await asyncio.sleep(0.02)


@shape
async def tick_completed(engine: Engine, world: World) -> Run:
    return await ended(engine, await tick(engine, {"name": "completed"}, says()), "completed")


@shape
async def tick_retried(engine: Engine, world: World) -> Run:
    world.fail_next = [BROKEN] * 3
    ladder = {"name": "retried", "on_failure": "retry", "retry": {"attempts": 2, "first": "50ms"}}
    return await ended(engine, await tick(engine, ladder, asks(call("look")), says()), "completed")


@shape
async def tick_failed_and_told(engine: Engine, world: World) -> Run:
    world.fail_next = [BROKEN] * 3
    return await ended(
        engine, await tick(engine, {"name": "failed-and-told", "pause_after": 1}, asks(call("look")), says()), "failed"
    )


@shape
async def tick_parked_at_an_approval(engine: Engine, world: World) -> Run:
    run = await tick(
        engine, {"name": "parked-at-an-approval", "unattended": "hold_next"}, asks(call("pay", amount=1)), says()
    )
    await until(engine, run, "parked")
    attempt = await attempt_of(engine)
    await attempt.approve(await attempt.next_approval(PATIENCE), by="ann")
    return await ended(engine, run, "completed")


@shape
async def tick_that_waited_its_turn(engine: Engine, world: World) -> Run:
    now = datetime.now(UTC).replace(microsecond=0)
    first = await tick(
        engine, {"name": "that-waited-its-turn", "overlap": "buffer_one"}, asks(call("pay", amount=1)), says(), at=now
    )
    await until(engine, first, "parked")
    second = await tick(
        engine, {"name": "that-waited-its-turn", "overlap": "buffer_one"}, at=now + timedelta(seconds=1)
    )
    await until(engine, second, "queued")
    attempt = await attempt_of(engine)
    await attempt.reject(await attempt.next_approval(PATIENCE), by="ann")
    return await ended(engine, second, "completed")


@shape
async def tick_skipped(engine: Engine, world: World) -> Run:
    late = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)
    return await ended(engine, await tick(engine, {"name": "skipped"}, says(), at=late), "skipped")


@shape
async def tick_out_of_time(engine: Engine, world: World) -> Run:
    return await ended(
        engine,
        await tick(engine, {"name": "out-of-time", "timeout": "500ms"}, asks(call("slow_pay", amount=1))),
        "failed",
    )


@shape
async def tick_cancelled_while_its_run_was_parked(engine: Engine, world: World) -> Run:
    run = await tick(engine, {"name": "cancelled-while-its-run-was-parked"}, asks(call("pay", amount=1)), says())
    await until(engine, run, "parked")
    await engine.client.temporal.get_workflow_handle(run.id).cancel()
    await until(engine, run, "cancelled")
    return run


@shape
async def tick_that_a_limit_ended(engine: Engine, world: World) -> Run:
    limited = {"name": "that-a-limit-ended", "on_failure": "retry", "retry": {"attempts": 2, "first": "50ms"}}
    turns = [asks(call("look", f"call_{number}")) for number in range(60)]
    return await ended(engine, await tick(engine, limited, *turns, limits=Limits(max_turns=2)), "failed")


@shape
async def tick_that_nobody_was_to_be_asked_in(engine: Engine, world: World) -> Run:
    world.fail_next = [ConnectionError("reset by peer")]
    run = await tick(
        engine,
        {"name": "that-nobody-was-to-be-asked-in", "unattended": "deny"},
        asks(call("pay", amount=1)),
        says(),
        approvals=(ApprovalRule(tools=("pay",), required=0),),
    )
    await until(engine, run, "parked")
    attempt = await attempt_of(engine)
    [waiting] = (await attempt.status()).waiting_for
    await attempt.resolve(waiting.id, "supply", by="ann", output="paid")
    return await ended(engine, run, "completed")


@shape
async def tick_request_that_cannot_be_read(engine: Engine, world: World) -> Run:
    request = RawValue(Payload(metadata={"encoding": b"json/plain"}, data=b'{"routine": 7}'))
    handle = await engine.client.temporal.start_workflow(
        contract.TICK_WORKFLOW, request, id="routine.from-elsewhere", task_queue=contract.ENGINE_QUEUE
    )
    with contextlib.suppress(WorkflowFailureError):
        await asyncio.wait_for(handle.result(), PATIENCE.total_seconds())
    return Run(engine.client, handle.id)
