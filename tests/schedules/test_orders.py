"""Orders change routines and have them run, once each, however often they are given."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client as TemporalClient
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from horarium.client import Client
from horarium.contract import ENGINE_QUEUE, ROUTINE_ORDER_WORKFLOW, RoutineOrder, RoutineOrdered, TickRequest
from horarium.definitions import Agent
from horarium.errors import ConfigError, RoutineNotFound, Unreachable
from horarium.ledger.database import Ledger
from horarium.ledger.routines import Routines
from horarium.routines import Routine, tick_id
from horarium.serving import make_worker
from horarium.settings import Settings
from schedules.orders import Orders
from tests.support.engine import sandbox
from workflows.routine_order import ObeyedOrder

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
_numbers = itertools.count()


@pytest.fixture
def name() -> str:
    """Of a routine: another one in each test, because a tick's id counts once on a server."""
    return f"triage-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
async def orders(ledger: Ledger, engine_temporal: TemporalClient, tmp_path: Path) -> AsyncIterator[Orders]:
    yield Orders(ledger, engine_temporal, Settings(root=tmp_path))
    async for found in engine_temporal.list_workflows('WorkflowType = "RoutineTick" AND ExecutionStatus = "Running"'):
        await engine_temporal.get_workflow_handle(found.id).terminate()


@pytest.fixture
async def client(
    ledger: Ledger, engine_temporal: TemporalClient, orders: Orders, tmp_path: Path
) -> AsyncIterator[Client]:
    """A client, and a worker that obeys it."""
    settings = Settings(root=tmp_path)
    async with make_worker(
        engine_temporal, ENGINE_QUEUE, settings.worker, [orders.obey_order], [ObeyedOrder], runner=sandbox()
    ):
        yield Client(engine_temporal, ledger, settings)


def definition(**more: Any) -> dict[str, Any]:
    triggers = {"hourly": {"cron": "0 * * * *"}, "often": {"every": "30m"}, "opened": {"event": "issue.opened"}}
    return {"agent": "clerk", "input": "Triage.", "triggers": triggers} | more


async def obey(
    orders: Orders, action: Any, name: str | None = None, id: str = "order_1", **more: Any
) -> RoutineOrdered:
    return await orders.obey(RoutineOrder(action=action, routine=name, by="ana", **more), id, NOW)


async def request_of(engine_temporal: TemporalClient, tick: str) -> TickRequest:
    """What a tick was started with."""
    handle: WorkflowHandle[Any, Any] = engine_temporal.get_workflow_handle(tick)
    history = await handle.fetch_history()
    payloads = history.events[0].workflow_execution_started_event_attributes.input.payloads
    (request,) = await engine_temporal.data_converter.decode(payloads, [TickRequest])
    assert isinstance(request, TickRequest)
    return request


async def exists(engine_temporal: TemporalClient, schedule_id: str) -> bool:
    try:
        await engine_temporal.get_schedule_handle(schedule_id).describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return False
    return True


# ---- changing


async def test_a_put_deploys_once_and_a_repeat_changes_nothing(
    orders: Orders, engine_temporal: TemporalClient, ledger: Ledger, name: str
) -> None:
    first = await obey(orders, "put", name, definition=definition())
    again = await obey(orders, "put", name, definition=definition())

    assert (first.changed, again.changed) == (True, False)
    assert await exists(engine_temporal, f"routine.{name}.hourly")
    row = await Routines(ledger).get(name)
    assert (row.managed_by, row.changed_by, row.generation, row.applied) == ("orders", "ana", 1, 1)


async def test_a_wrong_definition_is_refused_with_everything_that_is_wrong_and_changes_nothing(
    orders: Orders, ledger: Ledger, name: str
) -> None:
    triggers = {
        "a": {"cron": "61 * * * *"},
        "b": {"cron": "0 6 * * *", "time_zone": "Europe/Lodon"},
        "c": {"every": "5s"},
    }
    wrong = definition(agent="clark", triggers=triggers)

    with pytest.raises(ConfigError) as refused:
        await obey(orders, "put", name, definition=wrong)

    lines = refused.value.message.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "agent",
        "triggers.a.cron",
        "triggers.b.time_zone",
        "triggers.c.every",
    ]
    assert "did you mean 'clerk'?" in lines[0]
    assert "Europe/London" in lines[2]
    assert "min_interval" in lines[3]
    assert await Routines(ledger).list() == []


async def test_a_field_that_is_none_is_refused_with_the_near_miss(orders: Orders, name: str) -> None:
    with pytest.raises(ConfigError, match="time_out: unknown field; did you mean 'timeout'"):
        await obey(orders, "put", name, definition=definition(time_out="5m"))


async def test_a_template_that_names_nothing_known_is_refused(orders: Orders, name: str) -> None:
    with pytest.raises(ConfigError, match=r"input: .*prevous"):
        await obey(orders, "put", name, definition=definition(input="Since {{ prevous.started_at }}."))


async def test_a_preapproved_tool_that_nobody_has_announced_is_refused(orders: Orders, name: str) -> None:
    with pytest.raises(ConfigError, match=r"preapproved\.0\.tool: no worker has announced the tool 'pay'"):
        await obey(orders, "put", name, definition=definition(preapproved=[{"tool": "pay"}]))


async def test_another_tenants_routine_is_not_there(orders: Orders, name: str) -> None:
    await obey(orders, "put", name, definition=definition(), tenant="acme")

    for action in ("pause", "resume", "run", "delete"):
        with pytest.raises(RoutineNotFound):
            await obey(orders, action, name)
    with pytest.raises(ConfigError, match="another tenant"):
        await obey(orders, "put", name, definition=definition())
    assert (await obey(orders, "fire", event="issue.opened")).ticks == ()


async def test_pausing_pauses_the_schedules_with_the_note_and_resuming_ends_it(
    orders: Orders, engine_temporal: TemporalClient, ledger: Ledger, name: str
) -> None:
    await obey(orders, "put", name, definition=definition())

    until = NOW + timedelta(days=2)
    paused = await obey(orders, "pause", name, note="holidays", until=until)
    state = (await engine_temporal.get_schedule_handle(f"routine.{name}.hourly").describe()).schedule.state
    row = await Routines(ledger).get(name)
    resumed = await obey(orders, "resume", name)
    after = (await engine_temporal.get_schedule_handle(f"routine.{name}.hourly").describe()).schedule.state

    assert (paused.changed, resumed.changed) == (True, True)
    assert (state.paused, state.note) == (True, "holidays (by ana)")
    assert row.paused_until == until
    assert not after.paused


async def test_what_was_so_before_is_said_to_be(orders: Orders, name: str) -> None:
    await obey(orders, "put", name, definition=definition())

    answers = [await obey(orders, action, name) for action in ("resume", "pause", "pause", "resume")]

    assert [answer.changed for answer in answers] == [False, True, False, True]
    assert ["(as before)" in answer.message for answer in answers] == [True, False, True, False]


async def test_a_pause_until_a_time_that_has_passed_is_refused(orders: Orders, name: str) -> None:
    await obey(orders, "put", name, definition=definition())

    with pytest.raises(ConfigError, match="has passed"):
        await obey(orders, "pause", name, until=NOW - timedelta(minutes=1))


async def test_deleting_takes_the_schedules_away_and_is_safe_to_repeat(
    orders: Orders, engine_temporal: TemporalClient, name: str
) -> None:
    await obey(orders, "put", name, definition=definition())

    first, again = await obey(orders, "delete", name), await obey(orders, "delete", name)

    assert (first.changed, again.changed) == (True, False)
    assert not await exists(engine_temporal, f"routine.{name}.hourly")
    with pytest.raises(RoutineNotFound):
        await obey(orders, "run", name)
    with pytest.raises(RoutineNotFound):
        await obey(orders, "delete", "never-there")


# ---- running


async def test_a_run_starts_one_tick_with_its_input(orders: Orders, engine_temporal: TemporalClient, name: str) -> None:
    await obey(orders, "put", name, definition=definition())

    ordered = await obey(orders, "run", name, input="Only issue 7.")

    (tick,) = ordered.ticks
    request = await request_of(engine_temporal, tick)
    assert tick == f"routine.{name}.2026-11-21T12:30:00.000000Z"
    assert (request.source, request.trigger, request.input, request.by) == ("manual", None, "Only issue 7.", "ana")
    assert request.at == NOW


async def test_an_order_that_is_tried_again_starts_nothing_twice_and_says_the_same(orders: Orders, name: str) -> None:
    await obey(orders, "put", name, definition=definition())

    first, again = await obey(orders, "run", name), await obey(orders, "run", name)

    assert first == again
    assert first.changed


async def test_the_same_key_is_the_same_tick(orders: Orders, name: str) -> None:
    await obey(orders, "put", name, definition=definition())

    first = await obey(orders, "run", name, key="issue-7")
    again = await obey(orders, "run", name, id="order_2", key="issue-7", input="another")

    assert first.ticks == again.ticks == (f"routine.{name}.issue-7",)
    assert (first.changed, again.changed) == (True, False)


@pytest.mark.parametrize("key", ["two words", "a/b", "2026-11-21T06:00:00Z", "2026-11-21T06:00:00.5Z", "ü"])
async def test_a_key_that_cannot_be_part_of_an_id_is_refused(orders: Orders, name: str, key: str) -> None:
    await obey(orders, "put", name, definition=definition())

    with pytest.raises(ConfigError, match="key"):
        await obey(orders, "run", name, key=key)


async def test_a_key_leads_to_no_tick_of_another_routine_and_to_no_scheduled_one(
    orders: Orders, engine_temporal: TemporalClient, name: str
) -> None:
    await obey(orders, "put", name, definition=definition())
    await obey(orders, "put", f"{name}-b", definition=definition())
    keys = ("c", "b-c", "b.c", "b", f"b-{NOW:%Y-%m-%dT%H:%M:%SZ}")

    started = [
        (await obey(orders, "run", of, id=f"order_{of}_{key}", key=key)).ticks[0]
        for of in (name, f"{name}-b")
        for key in keys
    ]

    assert len(set(started)) == len(started)
    assert not {tick_id(name, NOW), tick_id(f"{name}-b", NOW)} & set(started)
    assert {(await request_of(engine_temporal, tick)).routine for tick in started[: len(keys)]} == {name}


async def test_an_event_sets_off_the_routines_that_wait_for_it(
    orders: Orders, engine_temporal: TemporalClient, name: str
) -> None:
    await obey(orders, "put", f"{name}-waits", definition=definition())
    await obey(orders, "put", f"{name}-paused", definition=definition(enabled=False))
    await obey(orders, "put", f"{name}-other", definition=definition(triggers={"x": {"event": "issue.closed"}}))
    await obey(orders, "put", f"{name}-over", definition=definition(end="2026-01-01T00:00:00Z"))

    ordered = await obey(orders, "fire", event="issue.opened", payload={"issue": 7}, key="d1")

    assert ordered.ticks == (f"routine.{name}-waits.d1",)
    assert f"paused: {name}-paused" in ordered.message
    request = await request_of(engine_temporal, ordered.ticks[0])
    assert (request.source, request.trigger, request.event) == ("event", "opened", {"issue": 7})
    assert (await obey(orders, "fire", event="nothing.waits")).ticks == ()


async def test_a_payload_that_is_too_large_is_refused_with_what_to_do(orders: Orders) -> None:
    with pytest.raises(ConfigError, match="an id or an address"):
        await obey(orders, "fire", event="issue.opened", payload={"text": "x" * 16_000})


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (NOW - timedelta(hours=1), NOW + timedelta(hours=1), "still to come"),
        (NOW, NOW - timedelta(hours=1), "before"),
        (NOW - timedelta(days=365), NOW, "more than 1,000"),
        (None, NOW, "needs"),
    ],
)
async def test_a_backfill_that_cannot_be_done_is_refused(
    orders: Orders, name: str, start: datetime, end: datetime, said: str
) -> None:
    await obey(orders, "put", name, definition=definition())

    with pytest.raises(ConfigError, match=said):
        await obey(orders, "backfill", name, start=start, end=end)


# ---- over Temporal


async def test_the_client_registers_a_routine_as_on_the_postcard(client: Client, name: str) -> None:
    clerk = Agent("invoice-clerk", model="local")

    made = await client.routine(
        name, clerk, "File today's invoices.", cron="0 7 * * 1-5", time_zone="Europe/London", by="ana"
    )
    again = await client.routine(
        name, clerk, "File today's invoices.", cron="0 7 * * 1-5", time_zone="Europe/London", by="ana"
    )
    row = await client.routine_record(name)

    assert (made.changed, again.changed) == (True, False)
    assert row.routine.agent == "invoice-clerk"
    assert list(row.routine.triggers) == ["main"]
    assert [item.name for item in await client.routines()] == [name]


async def test_the_client_pauses_runs_fires_and_deletes(client: Client, name: str) -> None:
    await client.put_routine(Routine.model_validate({"name": name, **definition()}), by="ana")

    assert (await client.pause_routine(name, note="holidays", by="ana")).changed
    assert (await client.routine_record(name)).pause_note == "holidays"
    assert (await client.resume_routine(name, by="ana")).changed
    run = await client.run_routine(name, "Only this.", key="k1")
    again = await client.run_routine(name, "Only this.", key="k1")
    fired = await client.fire_event("issue.opened", {"issue": 7})
    await client.delete_routine(name, by="ana")

    assert run == again
    assert run.ticks == (f"routine.{name}.k1",)
    assert len(fired.ticks) == 1
    with pytest.raises(RoutineNotFound, match=name):
        await client.run_routine(name)


async def test_what_is_wrong_reaches_the_client_as_the_error_that_it_is(client: Client, name: str) -> None:
    with pytest.raises(ConfigError, match="no agent 'clark'; did you mean 'clerk'"):
        await client.routine(name, "clark", "Go.", cron="0 7 * * *")
    with pytest.raises(ConfigError, match="exactly one"):
        await client.routine(name, "clerk", "Go.", cron="0 7 * * *", every="1h")
    with pytest.raises(ConfigError, match="16,000"):
        await client.fire_event("issue.opened", {"text": "x" * 20_000})


async def test_another_service_orders_with_plain_json(
    client: Client, engine_temporal: TemporalClient, name: str
) -> None:
    order = {"action": "put", "routine": name, "definition": definition(), "by": "crm"}
    options = {"id": f"order-{name}", "task_queue": ENGINE_QUEUE}

    ordered = await engine_temporal.execute_workflow(ROUTINE_ORDER_WORKFLOW, order, result_type=dict, **options)  # type: ignore[call-overload]
    with pytest.raises(WorkflowFailureError) as refused:
        await engine_temporal.execute_workflow(ROUTINE_ORDER_WORKFLOW, {"action": "run", "routine": "nope"}, **options)  # type: ignore[call-overload]

    assert ordered["changed"] is True
    assert isinstance(refused.value.cause, ApplicationError)
    assert refused.value.cause.type == "routine_not_found"


async def test_an_order_that_nobody_obeys_yet_is_told_and_stands(
    ledger: Ledger, engine_temporal: TemporalClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("horarium.routine_client.ORDER_PATIENCE", timedelta(milliseconds=300))
    client = Client(engine_temporal, ledger)

    with pytest.raises(Unreachable, match="order_") as told:
        await client.pause_routine(name)

    order = re.findall(r"order_\w+", str(told.value))[0]
    handle = engine_temporal.get_workflow_handle(order)
    assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
    await handle.terminate()


async def test_orders_that_race_end_with_one_routine(client: Client, name: str) -> None:
    done = await asyncio.gather(
        *(client.routine(name, "clerk", "Go.", every=f"{hour}h", by="ana") for hour in range(1, 6))
    )
    row = await client.routine_record(name)

    assert all(item.changed for item in done)
    assert row.applied == row.generation == 5
