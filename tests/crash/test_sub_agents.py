"""kill -9 of the engine worker while three levels of agents are at work: at none is anything settled done again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from pathlib import Path

import pytest
from temporalio.exceptions import TemporalError

from horarium.client import Run
from horarium.errors import HorariumError
from horarium.ledger.runs import RunRecord, Runs
from tests.crash.rig import PATIENCE, Book, completed, crash_stack, settled_before
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes
from tests.support.stack import Stack, until

pytestmark = pytest.mark.slow

CLERKS = [("look", "inside"), ("put", "after"), ("pay", "after"), ("pay", "inside")]


def write_agents(directory: Path) -> None:
    """A chief that hands on to a desk, which hands on to four clerks at once."""
    turns: dict[str, list[object]] = {
        "chief": [{"calls": [{"name": "desk", "arguments": {"task": "See to it."}}]}, {"text": "All done."}],
        "desk": [
            {"calls": [{"name": f"{tool}-{ref}", "arguments": {"task": "Go."}} for tool, ref in CLERKS]},
            {"text": "All done."},
        ],
    }
    below = {"chief": ["desk"], "desk": [f"{tool}-{ref}" for tool, ref in CLERKS]}
    for name, said in turns.items():
        lines = [{"input_tokens": 7, "output_tokens": 3, **dict(line)} for line in said]  # type: ignore[call-overload]
        (directory / "scripts" / f"{name}.yaml").write_text(json.dumps(lines), "utf-8")
        (directory / "agents" / f"{name}.yaml").write_text(
            f"model: scripted:scripts/{name}.yaml\nagents: {json.dumps(below[name])}\n", "utf-8"
        )


async def clerks_below(stack: Stack, run: Run) -> dict[str, RunRecord]:
    runs = Runs(stack.client.require_ledger())
    (desk,) = await runs.children(run.id)
    return {clerk.agent: clerk for clerk in await runs.children(desk.id)}


async def approve_all(stack: Stack, count: int) -> None:
    async def asked() -> bool:
        return len(await stack.client.approvals()) == count

    await until(asked, "all clerks ask", timeout=PATIENCE.total_seconds())
    for question in await stack.client.approvals():
        assert question.path == f"chief > desk > {question.agent}"
        run = stack.client.run(question.run_id)
        await run.approve(next(item for item in await run.approvals() if item.id == question.id), by="ann")


@in_both_modes
async def test_after_a_kill_a_tree_of_three_levels_goes_on_and_each_effect_is_what_it_promises(tmp_path: Path) -> None:
    async with crash_stack(tmp_path, workers=()) as (stack, book):
        write_agents(tmp_path)
        stack.start_worker()
        await stack.worker_ready()
        run = await stack.client.start("chief", "Go.")
        await approve_all(stack, 3)
        clerks = await clerks_below(stack, run)
        await asyncio.gather(*(stands(stack, book, clerks[f"{tool}-{ref}"], tool, ref) for tool, ref in CLERKS))

        stack.kill_worker()
        book.go()
        stack.start_worker()

        result = await completed(run)
        tree = [run.id, *(await below(stack, run.id))]
        steps = {id: await stack.client.run(id).steps() for id in tree}
    assert len(tree) == 6
    for name, clerk in clerks.items():
        settled_before(steps[clerk.id])
        tool, _, ref = name.partition("-")
        keys = [line.key for line in book.lines(event="done", tool=tool) if line.run == clerk.id and line.ref == ref]
        assert len(set(keys)) == 1
        assert len(keys) == (2 if (tool, ref) == ("put", "after") else 1), "only what may be done twice was"
    handed = [step for of_run in steps.values() for step in of_run if step.kind == "handoff"]
    assert [(step.status, step.attempts) for step in handed] == [("completed", 1)] * 5
    assert {step.output for step in handed} == {"All done."}
    models = [step for of_run in steps.values() for step in of_run if step.kind == "model_call"]
    assert {step.attempts for step in models} == {1}
    assert (result.usage.input_tokens, result.usage.output_tokens) == (7 * len(models), 3 * len(models))


async def stands(stack: Stack, book: Book, clerk: RunRecord, tool: str, ref: str) -> None:
    await book.stands(stack.client.run(clerk.id), tool, ref)


async def below(stack: Stack, run: str) -> list[str]:
    found = [child.id for child in await Runs(stack.client.require_ledger()).children(run)]
    for child in list(found):
        found += await below(stack, child)
    return found


async def test_kills_at_any_moment_of_several_trees_lose_nothing_and_pay_once(tmp_path: Path) -> None:
    dice = random.Random(7)
    async with crash_stack(tmp_path, workers=()) as (stack, book):
        write_agents(tmp_path)
        book.go()  # nothing stands still; the kills come when they come
        stack.start_worker()
        await stack.worker_ready()
        runs = [await stack.client.start("chief", "Go.") for _ in range(3)]
        approving = asyncio.create_task(approve_whatever_is_asked(stack))
        try:
            for _ in range(4):
                await asyncio.sleep(dice.uniform(0.1, 1.0))
                stack.kill_worker()
                stack.start_worker()
                await stack.worker_ready()
            results = await asyncio.gather(*(completed(run) for run in runs))
        finally:
            approving.cancel()
        tree = [id for run in runs for id in [run.id, *(await below(stack, run.id))]]
        steps = [step for id in tree for step in await stack.client.run(id).steps()]

    assert len(tree) == 3 * 6
    assert {step.status for step in steps} == {"completed"}
    payments = [line.key for line in book.lines(event="done", tool="pay")]
    assert len(payments) == len(set(payments)) == 3 * 2
    for result in results:
        assert (result.usage.input_tokens, result.usage.output_tokens) == (7 * 16, 3 * 16)


async def approve_whatever_is_asked(stack: Stack) -> None:
    """As a person who tries again when nobody answers."""
    while True:
        for question in await stack.client.approvals():
            with contextlib.suppress(HorariumError, TemporalError, TimeoutError):
                run = stack.client.run(question.run_id)
                async with asyncio.timeout(5):
                    asked = next((item for item in await run.approvals() if item.id == question.id), None)
                    if asked is not None:
                        await run.approve(asked, by="ann")
        await asyncio.sleep(0.05)
