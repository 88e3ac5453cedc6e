"""Who serves tools, as the ledger and `horarium doctor` tell it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from horarium.cli.tool_workers import Found, of_rows
from horarium.contract import ENGINE_QUEUE
from horarium.definitions import Agent
from horarium.errors import ToolTaken
from horarium.ledger.agents import ToolCatalog
from horarium.ledger.database import Ledger
from horarium.ledger.toolworkers import STALE_AFTER, ToolWorker, ToolWorkers
from horarium.serving import present
from horarium.tools import Effect, ToolSpec

Fresh = Callable[[], Awaitable[Ledger]]
PAYMENTS, BILLING = "horarium-tools-payments", "horarium-tools-billing"


@pytest.fixture
async def own(fresh: Fresh) -> Ledger:
    """A ledger of the test's own: who lives is asked of all of it."""
    return await fresh()


def spec(name: str = "pay", description: str = "Pay an invoice.") -> ToolSpec:
    return ToolSpec(
        name=name, description=description, parameters={"type": "object", "properties": {}}, effect=Effect.EXTERNAL
    )


def elsewhere(specs: Sequence[ToolSpec], queue: str = PAYMENTS, *, at: datetime | None = None) -> ToolWorker:
    """A worker on another host, where no process can be looked for."""
    worker = ToolWorker.this_process(specs, queue)
    moment = at or worker.started_at
    return replace(worker, host="pay-1.example.com", pid=7, started_at=moment, seen_at=moment)


async def doctor(ledger: Ledger, *agents: Agent, later: timedelta = timedelta(0)) -> list[Found]:
    workers, served = await ToolWorkers(ledger).all(), await ToolCatalog(ledger).all()
    return list(of_rows(workers, served, agents, datetime.now(UTC) + later))


CLERK = Agent("clerk", model="scripted:x", tools=["pay"])


# ---- announcing


async def test_a_worker_is_written_down_with_all_that_it_serves_and_where(own: Ledger) -> None:
    async with present(own, [spec()], PAYMENTS) as worker:
        [row] = await ToolWorkers(own).all()

        assert (row.queue, row.host, row.pid) == (PAYMENTS, socket.gethostname(), worker.pid)
        assert list(row.tools) == ["pay"]
        assert row.version
        assert row.python == ".".join(map(str, sys.version_info[:3]))
        assert row.lives(datetime.now(UTC))

    [row] = await ToolWorkers(own).all()
    assert row.stopped_at is not None
    assert not row.lives(datetime.now(UTC))


async def test_a_worker_says_again_and_again_that_it_lives(own: Ledger) -> None:
    async with present(own, [spec()], PAYMENTS, every=timedelta(milliseconds=10)) as worker, asyncio.timeout(10):
        while (await ToolWorkers(own).all())[0].seen_at <= worker.started_at:
            await asyncio.sleep(0.01)


async def test_a_worker_whose_row_was_cleared_away_is_written_down_again(own: Ledger) -> None:
    workers, worker = ToolWorkers(own), elsewhere([spec()])

    await workers.seen(worker, datetime.now(UTC))

    assert [row.id for row in await workers.all()] == [worker.id]


async def test_a_tool_cannot_be_taken_from_a_group_that_lives(own: Ledger) -> None:
    workers = ToolWorkers(own)
    await workers.arrive(elsewhere([spec()]), [spec()])

    other = [spec("refund"), spec("pay", "Pay somebody else.")]
    with pytest.raises(ToolTaken, match="'pay' is served by tool worker 'payments' already, by process 7 on pay-1"):
        await workers.arrive(elsewhere(other, BILLING), other)

    served = await ToolCatalog(own).all()
    assert {name: (tool.queue, tool.spec.description) for name, tool in served.items()} == {
        "pay": (PAYMENTS, "Pay an invoice.")
    }
    assert len(await workers.all()) == 1


async def test_the_engine_and_a_tool_worker_cannot_have_the_same_tool_either(own: Ledger) -> None:
    workers = ToolWorkers(own)
    async with present(own, [spec()]):
        with pytest.raises(ToolTaken, match="served by the engine worker already"):
            await workers.arrive(elsewhere([spec()]), [spec()])

    await workers.arrive(elsewhere([spec()]), [spec()])
    with pytest.raises(ToolTaken, match="the engine worker cannot have it as well"):
        async with present(own, [spec()]):
            pass


async def test_a_tool_moves_when_its_workers_have_ended(own: Ledger) -> None:
    async with present(own, [spec()], PAYMENTS):
        pass

    await ToolWorkers(own).arrive(elsewhere([spec()], BILLING), [spec()])

    assert (await ToolCatalog(own).all())["pay"].queue == BILLING


async def test_a_tool_moves_when_its_workers_were_silent_for_a_minute(own: Ledger) -> None:
    workers = ToolWorkers(own)
    before = datetime.now(UTC) - STALE_AFTER - timedelta(seconds=5)
    await workers.arrive(elsewhere([spec()], at=before), [spec()])

    await workers.arrive(elsewhere([spec()], BILLING), [spec()])

    assert (await ToolCatalog(own).all())["pay"].queue == BILLING


async def test_a_tool_moves_at_once_when_the_process_on_this_host_is_dead(own: Ledger) -> None:
    workers = ToolWorkers(own)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(30)
    await workers.arrive(replace(ToolWorker.this_process([spec()], PAYMENTS), pid=gone.pid), [spec()])

    await workers.arrive(elsewhere([spec()], BILLING), [spec()])

    assert (await ToolCatalog(own).all())["pay"].queue == BILLING


async def test_of_two_groups_that_announce_a_tool_at_once_one_gets_it(fresh: Fresh) -> None:
    both = [(ToolWorkers(await fresh()), elsewhere([spec()], queue)) for queue in (PAYMENTS, BILLING)]

    announcing = (workers.arrive(worker, [spec()]) for workers, worker in both)
    results = await asyncio.gather(*announcing, return_exceptions=True)

    assert sorted(type(result).__name__ for result in results) == ["ToolTaken", "list"]


async def test_rows_of_workers_that_are_long_gone_are_cleared_away(own: Ledger) -> None:
    workers = ToolWorkers(own)
    await workers.arrive(elsewhere([spec()], at=datetime.now(UTC) - timedelta(days=3)), [spec()])

    async with present(own, [spec()], PAYMENTS) as worker:
        assert [row.id for row in await workers.all()] == [worker.id]


# ---- what doctor says


async def test_doctor_shows_each_group_with_its_processes_hosts_versions_and_tools(own: Ledger) -> None:
    workers = ToolWorkers(own)
    for _ in range(2):
        await workers.arrive(elsewhere([spec()]), [spec()])

    [(check, state, found, advice)] = await doctor(own, CLERK)

    assert (check, state, advice) == ("tool workers", "ok", "")
    assert found.startswith("payments: 2 processes (process 7 on pay-1.example.com, horarium ")
    assert found.endswith("; tools: pay")


async def test_doctor_shows_that_nobody_serves_a_tool_before_a_call_waits_for_it(own: Ledger) -> None:
    await ToolWorkers(own).arrive(elsewhere([spec()]), [spec()])

    assert [state for _, state, _, _ in await doctor(own, CLERK, later=timedelta(seconds=50))] == ["ok"]
    [(_, state, found, advice)] = await doctor(own, CLERK, later=timedelta(seconds=70))

    assert state == "fail"
    assert "nobody serves pay of tool worker 'payments', which clerk may call" in found
    assert "it was heard of last 1m 10s ago, as process 7 on pay-1.example.com" in found
    assert advice == "Start it: horarium worker --tools --name payments, or the program that calls serve_tools."


async def test_a_group_that_ended_and_that_no_agent_needs_fails_nothing(own: Ledger) -> None:
    async with present(own, [spec()], PAYMENTS):
        pass

    [(_, state, found, _)] = await doctor(own)

    assert state == "warn"
    assert "no agent needs its tools: pay; it ended" in found


async def test_doctor_says_which_tool_two_processes_of_a_group_serve_differently(own: Ledger) -> None:
    workers, same, older = ToolWorkers(own), spec("refund"), spec("pay", "Pay a bill.")
    await workers.arrive(elsewhere([older, same]), [older, same])

    others = await workers.arrive(replace(elsewhere([spec(), same]), pid=8), [spec(), same])

    assert len(others) == 1
    failed = [(found, advice) for _, state, found, advice in await doctor(own, CLERK) if state == "fail"]
    [(found, _)] = failed
    assert found.startswith("processes of tool worker 'payments' serve 'pay' differently: ")
    assert {"7@pay-1.example.com", "8@pay-1.example.com"} <= set(found.replace(",", "").split())


async def test_doctor_warns_of_a_worker_of_another_release_and_not_of_another_patch(own: Ledger) -> None:
    workers = ToolWorkers(own)
    async with present(own, []) as engine:
        major, minor, *_ = (int(part) for part in engine.version.split(".")[:2])
        await workers.arrive(replace(elsewhere([spec()]), version=f"{major}.{minor}.99"), [spec()])
        assert [state for _, state, _, _ in await doctor(own, CLERK)] == ["ok"]

        await workers.arrive(replace(elsewhere([spec()]), version=f"{major}.{minor + 1}.0"), [spec()])
        warned = [found for _, state, found, _ in await doctor(own, CLERK) if state == "warn"]

    assert warned == [
        f"of another release of horarium than the engine's {engine.version}: 7@pay-1.example.com: {major}.{minor + 1}.0"
    ]


async def test_doctor_says_when_the_engine_has_a_tool_no_more(own: Ledger) -> None:
    async with present(own, [spec()]):
        assert await doctor(own, CLERK) == []

    async with present(own, []):
        [(_, state, found, _)] = await doctor(own, CLERK)

    assert (state, found) == ("fail", "no engine worker has pay any more, which clerk may call")
    assert (await ToolCatalog(own).all())["pay"].queue == ENGINE_QUEUE
