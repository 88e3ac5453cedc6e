"""Runs below runs, as the ledger has them, on both databases."""

from __future__ import annotations

import pytest

from horarium.contract import RunRequest, Usage
from horarium.errors import RunExists
from horarium.ids import step_id, sub_run_id
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Held, Journal, StepClaim
from horarium.ledger.lineage import topmost
from horarium.ledger.runs import RunRecord, Runs, handed_digest
from horarium.tools import Effect
from tests.core.ledgers import open_run


async def below(ledger: Ledger, parent: str, step: int = 2, permit: int = 0, agent: str = "scout") -> RunRecord:
    """A sub-agent's run that was written down, of a step that was claimed."""
    runs = Runs(ledger)
    await Journal(ledger).claim(
        StepClaim(parent, step, "handoff", agent, Effect.READ, key=f"horarium/{parent}/c.{step}", permit=permit)
    )
    run = sub_run_id(step_id(parent, step), permit)
    request = RunRequest(agent=agent, parent=step_id(parent, step))
    return await runs.create_below(run, request, "Look.", parent=await runs.get(parent), step=step)


async def test_a_run_below_is_written_down_once_with_its_task_and_its_path(ledger: Ledger) -> None:
    chief = await open_run(ledger)

    first, second = await below(ledger, chief), await below(ledger, chief)

    assert first == second
    assert (first.parent_run, first.parent_step, first.path) == (chief, 2, ["clerk", "scout"])
    asked = await Runs(ledger).asked(first.id)
    assert asked is not None
    assert asked.input == "Look."


async def test_an_id_that_stands_for_another_run_is_refused(ledger: Ledger) -> None:
    chief, stranger = await open_run(ledger), await open_run(ledger)
    parent = await Runs(ledger).get(chief)

    with pytest.raises(RunExists):
        await Runs(ledger).create_below(stranger, RunRequest(agent="clerk"), "Look.", parent=parent, step=2)


async def test_the_top_and_all_runs_below_are_found_at_any_depth(ledger: Ledger) -> None:
    chief = await open_run(ledger)
    left, right = await below(ledger, chief, 2), await below(ledger, chief, 3)
    deep = await below(ledger, left.id, agent="clerk2")

    async with ledger.read() as connection:
        tops = [await topmost(connection, run) for run in (deep.id, right.id, chief)]

    assert tops == [chief] * 3
    runs = Runs(ledger)
    assert [await runs.below(run) for run in (chief, left.id, right.id)] == [3, 1, 0]
    assert [run.id for run in await runs.children(chief)] == [left.id, right.id]
    assert deep.path == ["clerk", "scout", "clerk2"]
    assert deep.id not in [run.id for run in await runs.list(below=False, limit=500)]


async def test_the_latest_earlier_run_of_a_call_is_found_under_its_key_in_whatever_run_it_was(ledger: Ledger) -> None:
    chief, resumed = await open_run(ledger), await open_run(ledger)
    first = await below(ledger, chief)
    second = await below(ledger, chief, permit=1)
    key = f"horarium/{chief}/c.2"
    await Journal(ledger).claim(StepClaim(resumed, 5, "handoff", "scout", Effect.READ, key=key))
    runs = Runs(ledger)

    assert await runs.earlier_below(key, "run_new") == await runs.get(second.id)
    assert await runs.earlier_below(key, second.id) == await runs.get(first.id)
    assert await runs.earlier_below("horarium/other", "run_new") is None


async def test_what_a_run_used_that_could_not_say_so_is_counted_from_its_steps(ledger: Ledger) -> None:
    chief = await open_run(ledger)
    for number in (1, 2):
        held = await Journal(ledger).claim(StepClaim(chief, number, "model_call", "m", Effect.READ))
        assert isinstance(held, Held)
        await Journal(ledger).settle(held, "completed", "x", usage=Usage(input_tokens=10, cost_micro_usd=3))

    assert await Runs(ledger).spent(chief) == Usage(input_tokens=20, cost_micro_usd=6)


async def test_what_strangers_wrote_is_seen_in_the_whole_thread_and_nowhere_else(ledger: Ledger) -> None:
    chief, other = await open_run(ledger), await open_run(ledger)
    runs = Runs(ledger)
    thread, elsewhere = (await runs.get(chief)).thread_id, (await runs.get(other)).thread_id
    await Journal(ledger).claim(StepClaim(chief, 2, "tool_call", "look", Effect.READ))
    assert not await runs.read_strangers(thread)

    await Journal(ledger).mark_untrusted(chief, 2)

    assert (await runs.read_strangers(thread), await runs.read_strangers(elsewhere)) == (True, False)


def test_a_request_is_what_was_handed_down_whatever_its_task_and_nothing_else() -> None:
    request = RunRequest(agent="scout", parent="run_1/0002", tenant="acme")

    assert handed_digest(request) == handed_digest(request.model_copy(update={"input": "Look."}))
    for change in ({"tenant": "other"}, {"version": 2}, {"requested_by": "eve"}, {"resume_from": "run_9"}):
        assert handed_digest(request) != handed_digest(request.model_copy(update=change))
