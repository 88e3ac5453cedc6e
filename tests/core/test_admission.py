"""Who may begin, on both databases: overlap, holding, places, and what deleting leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from horarium.contract import RunRequest, TickRequest
from horarium.ids import run_id_for_key
from horarium.ledger.database import Ledger
from horarium.ledger.routines import Routines
from horarium.ledger.runs import Runs
from horarium.ledger.ticks import Opened, Ticks
from horarium.routine_state import RoutineState
from horarium.routines import Routine, tick_id
from horarium.tick_protocol import CloseTick, EndAttempt, OpenTick


@pytest.fixture
async def ledger(fresh: Callable[[], Awaitable[Ledger]]) -> Ledger:
    """Of its own: places are counted over all routines."""
    return await fresh()


T0 = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)


def routine(name: str = "r", **more: Any) -> Routine:
    return Routine.model_validate({"name": name, "agent": "clerk", "input": "Go."} | more)


async def opened(ticks: Ticks, name: str, n: int, **request: Any) -> tuple[str, Opened]:
    at = T0 + timedelta(seconds=n)
    tick = tick_id(name, at)
    asked = TickRequest.model_validate({"routine": name, "trigger": "t"} | request)
    return tick, await ticks.open(OpenTick(tick=tick, execution=f"e-{tick}", request=asked, scheduled_at=at, at=at))


async def run_of(ledger: Ledger, ticks: Ticks, tick: str, number: int = 1, keep: bool = False) -> str:
    record = await ticks.get(tick)
    run = run_id_for_key(record.tenant, f"{tick}/{number}")
    made = await Runs(ledger).create(
        run, RunRequest(agent="clerk", input="x", tenant=record.tenant), key=None, request_digest="d", tick=tick
    )
    await ticks.attempt_opened(tick, number, run=run, thread=made.thread_id, input="x", keep_thread=keep)
    return run


def done(tick: str, n: int = 60, status: str = "completed") -> CloseTick:
    return CloseTick(tick=tick, status=status, at=T0 + timedelta(seconds=n))  # type: ignore[arg-type]


async def write_state(ledger: Ledger, run: str, **values: Any) -> None:
    from horarium.ledger.journal import _keep_state

    state = RoutineState({})
    for key, value in values.items():
        state[key] = value
    async with ledger.write() as connection:
        await _keep_state(connection, run, state)


async def test_hold_next_holds_while_either_of_two_waits(ledger: Ledger) -> None:
    ticks, routines = Ticks(ledger), Routines(ledger)
    await routines.put(routine(unattended="hold_next", overlap="allow_all"), by="ana", at=T0)
    one, _ = await opened(ticks, "r", 1)
    two, _ = await opened(ticks, "r", 2)
    runs = [await run_of(ledger, ticks, tick) for tick in (one, two)]
    await ticks.parked(runs[0], parked=True, at=T0)
    await ticks.parked(runs[1], parked=True, at=T0)
    await ticks.parked(runs[0], parked=False, at=T0)

    _, third = await opened(ticks, "r", 3)

    assert (await ticks.get(two)).status == "parked"
    assert (third.plan.decision, third.plan.reason) == ("end", "held")


async def test_a_queued_tick_is_held_too(ledger: Ledger) -> None:
    ticks, routines = Ticks(ledger, max_running=1), Routines(ledger)
    await routines.put(routine(unattended="hold_next", overlap="allow_all"), by="ana", at=T0)
    one, _ = await opened(ticks, "r", 1)
    run = await run_of(ledger, ticks, one)
    two, waits = await opened(ticks, "r", 2)
    assert waits.plan.decision == "wait"
    await ticks.parked(run, parked=True, at=T0)

    admitted = await ticks.admit(two, T0 + timedelta(seconds=70))

    assert admitted.plan.decision != "run"


async def test_a_tick_of_a_deleted_routine_leaves_nothing_to_the_next_tenants(ledger: Ledger) -> None:
    ticks, routines = Ticks(ledger), Routines(ledger)
    await routines.put(routine(tenant="acme", conversation="continue"), by="ana", at=T0)
    one, _ = await opened(ticks, "r", 1)
    run = await run_of(ledger, ticks, one)
    await write_state(ledger, run, token="acme's")
    await routines.delete("r", by="ana", at=T0)
    await routines.put(routine(tenant="other", conversation="continue"), by="eve", at=T0)

    await run_of(ledger, ticks, one, 2, keep=True)
    await ticks.close(done(one))

    record = await routines.get("r")
    assert (record.tenant, dict(record.state), record.previous_tick, record.thread_id) == ("other", {}, None, None)


async def test_a_waiting_tick_does_not_begin_in_the_next_tenants_routine(ledger: Ledger) -> None:
    ticks, routines = Ticks(ledger), Routines(ledger)
    await routines.put(routine(tenant="acme", overlap="buffer_all"), by="ana", at=T0)
    one, _ = await opened(ticks, "r", 1)
    two, _ = await opened(ticks, "r", 2)
    await routines.delete("r", by="ana", at=T0)
    closed = await ticks.close(done(one))

    admitted = await ticks.admit(two, T0 + timedelta(seconds=61))

    assert two in closed.next
    assert admitted.plan.decision == "end"


async def test_waiting_ticks_do_not_begin_once_the_routine_is_paused(ledger: Ledger) -> None:
    ticks, routines = Ticks(ledger), Routines(ledger)
    await routines.put(routine(overlap="buffer_all", pause_after=1), by="ana", at=T0)
    one, _ = await opened(ticks, "r", 1)
    two, _ = await opened(ticks, "r", 2)
    await ticks.close(done(one, status="failed"))
    assert (await routines.get("r")).paused

    admitted = await ticks.admit(two, T0 + timedelta(seconds=61))

    assert (admitted.plan.decision, admitted.plan.reason) == ("end", "paused")


async def test_two_ticks_at_once_keep_each_others_state(ledger: Ledger) -> None:
    ticks, routines = Ticks(ledger), Routines(ledger)
    await routines.put(routine(overlap="allow_all"), by="ana", at=T0)
    one, _ = await opened(ticks, "r", 1)
    two, _ = await opened(ticks, "r", 2)
    for tick, key in ((one, "a"), (two, "b")):
        await write_state(ledger, await run_of(ledger, ticks, tick), **{key: 1})
    await ticks.close(done(one))
    await ticks.close(done(two))

    assert (await routines.get("r")).state == {"a": 1, "b": 1}


async def test_a_tick_that_waits_for_its_next_attempt_lets_other_routines_run(ledger: Ledger) -> None:
    ticks, routines = Ticks(ledger, max_running=1), Routines(ledger)
    await routines.put(routine("a", on_failure="retry"), by="ana", at=T0)
    await routines.put(routine("b"), by="ana", at=T0)
    one, _ = await opened(ticks, "a", 1)
    await ticks.attempt_ended(
        EndAttempt(tick=one, number=1, code="x", message="", next_try_at=T0 + timedelta(hours=9), at=T0)
    )

    _, other = await opened(ticks, "b", 2)

    assert other.plan.decision == "run"


@pytest.mark.parametrize("overlap", ["cancel_other", "terminate_other"])
@pytest.mark.parametrize("source", ["backfill", "manual"])
async def test_a_backfill_is_not_swept_away_by_the_next_fire(ledger: Ledger, overlap: str, source: str) -> None:
    ticks, routines = Ticks(ledger), Routines(ledger)
    await routines.put(routine(overlap=overlap), by="ana", at=T0)
    asked = [(await opened(ticks, "r", n, source=source))[0] for n in range(1, 6)]

    _, fire = await opened(ticks, "r", 9)

    assert not {*fire.cancel, *fire.terminate} & set(asked[1:]), fire


async def test_the_backlog_of_one_routine_does_not_starve_an_earlier_tick_of_another(ledger: Ledger) -> None:
    ticks, routines = Ticks(ledger, max_running=2), Routines(ledger)
    await routines.put(routine("a", overlap="buffer_all"), by="ana", at=T0)
    await routines.put(routine("b"), by="ana", at=T0)
    await routines.put(routine("c"), by="ana", at=T0)
    running, _ = await opened(ticks, "a", 1)
    await opened(ticks, "c", 1)
    waits, plan = await opened(ticks, "b", 2)
    assert plan.plan.decision == "wait"
    for n in range(3, 13):
        await opened(ticks, "a", n)

    told = (await ticks.close(done(running))).next

    assert waits in told, told


async def test_a_parked_tick_gives_its_place_to_one_that_waits(ledger: Ledger) -> None:
    ticks, routines = Ticks(ledger, max_running=1), Routines(ledger)
    await routines.put(routine("a"), by="ana", at=T0)
    await routines.put(routine("b"), by="ana", at=T0)
    one, _ = await opened(ticks, "a", 1)
    two, waits = await opened(ticks, "b", 2)

    parked = await ticks.parked(await run_of(ledger, ticks, one), parked=True, at=T0)
    admitted = await ticks.admit(two, T0 + timedelta(seconds=61))

    assert waits.plan.decision == "wait"
    assert parked is not None
    assert (parked.tick, parked.next) == (one, (two,))
    assert admitted.plan.decision == "run"
