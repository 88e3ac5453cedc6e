"""kill -9 of the engine worker: while the model thinks, inside a tool, after its effect and before its report."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from tests.crash.rig import (
    PATIENCE,
    Book,
    begin,
    begin_all,
    completed,
    crash_stack,
    of_kind,
    settled_before,
    wait_for,
)
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes
from tests.support.stack import Stack, until

pytestmark = [pytest.mark.slow, in_both_modes]

KILLED = [(tool, ref) for tool in ("look", "put", "post", "pay") for ref in ("inside", "after")]


async def kill_and_start_again(stack: Stack, book: Book) -> float:
    """The time of the kill; the calls made from now on go through."""
    stack.kill_worker()
    at = time.time()
    book.go()
    stack.start_worker()
    return at


async def test_after_a_kill_in_mid_tool_each_effect_goes_on_as_it_promises(tmp_path: Path) -> None:
    async with crash_stack(tmp_path) as (stack, book):
        runs = await begin_all(stack.client, *KILLED)
        await asyncio.gather(*(book.stands(run, tool, ref) for (tool, ref), run in runs.items()))

        killed_at = await kill_and_start_again(stack, book)

        for (tool, ref), run in runs.items():
            if tool == "post":
                step = await wait_for(run, "unknown_outcome")
                # A person looks: what stood inside had not happened, what stood after had.
                if ref == "inside":
                    await run.resolve(step, "retry", by="ann")
                else:
                    await run.resolve(step, "supply", output="post after: done, I saw it", by="ann")
            await completed(run)
        evidence = {call: await run.steps() for call, run in runs.items()}
        effects = {call: book.effects(run, call[0])[call[0] == "look" :] for call, run in runs.items()}
        again = min(line.at for line in book.lines() if line.at > killed_at)
    print(f"From kill -9 to the next step: {again - killed_at:.2f} s")

    for call, steps in evidence.items():
        settled_before(steps)
        assert of_kind(steps, "tool_call")[1].status == "completed", call
    # What may be done twice was done again, with the same key; what may not was done once.
    assert {call: len(keys) for call, keys in effects.items()} == {
        ("look", "inside"): 1,
        ("look", "after"): 2,
        ("put", "inside"): 1,
        ("put", "after"): 2,
        ("post", "inside"): 1,
        ("post", "after"): 1,
        ("pay", "inside"): 1,
        ("pay", "after"): 1,
    }
    assert all(len(set(keys)) == 1 for keys in effects.values())
    calls = {call: of_kind(steps, "tool_call")[1] for call, steps in evidence.items()}
    assert calls["pay", "after"].output == "pay after: done, says the bank"
    assert (calls["post", "after"].output, calls["post", "after"].by) == ("post after: done, I saw it", "ann")
    # A person's "do it" begins a new count of attempts.
    assert {call: (step.attempts, step.permit) for call, step in calls.items()} == {
        **dict.fromkeys(KILLED, (2, 0)),
        ("post", "inside"): (1, 1),
        ("post", "after"): (1, 0),
    }


async def test_a_kill_while_the_model_thinks_asks_it_again_and_does_nothing_else_twice(tmp_path: Path) -> None:
    slow = tmp_path / "scripts" / "thinks.yaml"
    async with crash_stack(tmp_path, workers=()) as (stack, book):
        slow.write_text(
            "- calls: [{name: look, arguments: {ref: first}}]\n- {text: All done., delay_ms: 1500}\n", "utf-8"
        )
        (tmp_path / "agents" / "thinks.yaml").write_text("model: scripted:scripts/thinks.yaml\ntools: [look]\n")
        stack.start_worker()
        await stack.worker_ready()
        run = await stack.client.start("thinks", "Go.")
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while [step.status for step in await run.steps()] != ["completed", "completed", "claimed"]:
                await asyncio.sleep(0.02)

        await kill_and_start_again(stack, book)

        await completed(run)
        steps = await run.steps()
    assert [(step.kind, step.status, step.attempts) for step in steps] == [
        ("model_call", "completed", 1),
        ("tool_call", "completed", 1),
        ("model_call", "completed", 2),
    ]
    assert len(book.effects(run, "look")) == 1


async def test_a_kill_between_question_and_decision_loses_neither(tmp_path: Path) -> None:
    async with crash_stack(tmp_path) as (stack, book):
        run = await stack.client.start("post-through", "Go.")
        approval = await run.next_approval(PATIENCE)
        stack.kill_worker()
        decided = asyncio.create_task(run.approve(approval, by="ann"))
        stack.start_worker()

        await decided

        await completed(run)
        steps = await run.steps()
    settled_before(steps)
    assert len(book.effects(run, "post")) == 1
    assert [(step.status, step.by) for step in of_kind(steps, "approval")] == [("completed", "ann")]


async def test_two_workers_share_the_steps_and_the_death_of_one_repeats_nothing(tmp_path: Path) -> None:
    async with crash_stack(tmp_path) as (stack, book):
        other = stack.spawn([sys.executable, "-m", "horarium", "worker"], "other")
        try:
            await until(lambda: "worker.started" in stack.log_of("other"), "the other worker serves", other)
            runs = await asyncio.gather(*(begin(stack.client, "pay", "through") for _ in range(12)))
            await asyncio.gather(*(completed(run) for run in runs))
            sharing = {line.pid for line in book.lines()}
            standing = await begin(stack.client, "look", "inside")
            await book.stands(standing, "look", "inside")
            busy = book.lines(standing, event="entered")[-1].pid

            if busy == other.pid:
                other.kill()
            else:
                stack.kill_worker()
            book.go()

            await completed(standing)
        finally:
            other.kill()
            other.wait(10)
        steps = [step for run in runs for step in await run.steps()]

    assert len(sharing) == 2
    assert {step.attempts for step in steps if step.kind != "approval"} == {1}
    payments = [line.key for line in book.lines(event="done", tool="pay")]
    assert len(payments) == len(set(payments)) == 12
    assert book.lines(standing, event="done")[-1].pid in sharing - {busy}
