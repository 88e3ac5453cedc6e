"""Following runs in the ledger, on both databases: every status in order, the steps since a place, lists in pages."""

from __future__ import annotations

import asyncio

from horarium.contract import RunRequest, Usage
from horarium.ids import new_run_id
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Held, Journal, StepClaim
from horarium.ledger.looking import Looking
from horarium.ledger.runs import Runs
from horarium.tools import Effect


async def opened(ledger: Ledger, tenant: str = "default") -> str:
    """A run that has begun."""
    run = new_run_id()
    request = RunRequest(agent="clerk", input="Go.", tenant=tenant)
    record = await Runs(ledger).create(run, request, key=None, request_digest="x")
    await Runs(ledger).open(run, record.thread_id, request, 1)
    return run


async def performed(ledger: Ledger, run: str, number: int, status: str = "completed") -> None:
    """A step that was done."""
    held = await Journal(ledger).claim(StepClaim(run, number, "tool_call", "look", Effect.READ))
    assert isinstance(held, Held)
    await Journal(ledger).settle(held, status, "seen")  # type: ignore[arg-type]


async def test_every_status_is_kept_once_in_its_order(ledger: Ledger) -> None:
    run = await opened(ledger)
    runs = Runs(ledger)
    for status in ("requires_action", "requires_action", "in_progress", "requires_action"):
        await runs.mark(run, status)
    for _ in range(2):
        await runs.close(run, "failed", reason="x", message=None, turns=1, steps=1, usage=Usage())
    await runs.mark(run, "in_progress")

    look = await Looking(ledger).look(run, status=1, step=0)

    had = [(change.seq, change.status) for change in look.statuses]
    assert had == [
        (2, "in_progress"),
        (3, "requires_action"),
        (4, "in_progress"),
        (5, "requires_action"),
        (6, "failed"),
    ]
    assert look.run.status == "failed"


async def test_statuses_that_are_written_at_once_have_numbers_of_their_own(ledger: Ledger) -> None:
    run = await opened(ledger)

    await asyncio.gather(*(Runs(ledger).mark(run, s) for s in ("requires_action", "in_progress") * 5))

    statuses = (await Looking(ledger).look(run, status=0, step=0)).statuses
    assert [change.seq for change in statuses] == list(range(1, len(statuses) + 1))


async def test_a_look_has_the_steps_since_a_place_and_those_that_are_wanted_again(ledger: Ledger) -> None:
    run = await opened(ledger)
    for number in range(1, 5):
        await performed(ledger, run, number, "failed" if number == 2 else "completed")
    looking = Looking(ledger)

    look = await looking.look(run, status=0, step=3, again=(2,))

    assert [(step.number, step.status) for step in look.steps] == [(2, "failed"), (4, "completed")]
    assert look.is_whole
    assert await looking.unsettled_for_good(run) == [2]
    assert [step.number for step in await Journal(ledger).of_run(run, after=1, limit=2)] == [2, 3]


async def test_runs_are_listed_in_pages(ledger: Ledger) -> None:
    tenant = new_run_id()
    made = [await opened(ledger, tenant) for _ in range(3)]
    runs = Runs(ledger)

    first = await runs.list(tenant=tenant, limit=2)
    last = first[-1]
    second = await runs.list(tenant=tenant, limit=2, before=(last.created_at, last.id))

    assert [run.id for run in (*first, *second)] == made[::-1]
    assert await runs.list(tenant=tenant, routine="nightly", parent=None) == []
