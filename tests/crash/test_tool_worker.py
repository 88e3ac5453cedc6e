"""Tools in a process of their own: its death and the engine's are told apart."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.crash.rig import begin_all, completed, crash_stack, of_kind, settled_before, wait_for
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes

pytestmark = pytest.mark.slow

OWN = '[tools]\nprocess = "own"\n'
CALLS = [("look", "inside"), ("put", "after"), ("post", "after"), ("pay", "after")]


async def test_a_tool_worker_that_is_killed_in_mid_tool_is_followed_by_the_next(tmp_path: Path) -> None:
    async with crash_stack(tmp_path, settings=OWN, workers=("engine", "tools")) as (stack, book):
        engine, tools = stack.worker_process().pid, stack.worker_process("tools").pid
        runs = await begin_all(stack.client, *CALLS)
        await asyncio.gather(*(book.stands(run, tool, ref) for (tool, ref), run in runs.items()))

        stack.kill_worker("tools")
        killed_at = time.time()
        book.go()
        stack.start_worker("tools")

        step = await wait_for(runs["post", "after"], "unknown_outcome")
        await runs["post", "after"].resolve(step, "supply", output="It was posted.", by="ann")
        for run in runs.values():
            await completed(run)
            settled_before(await run.steps())
        again = min(line.at for line in book.lines() if line.at > killed_at)
        print(f"From kill -9 of the tool worker to the next step: {again - killed_at:.2f} s")
        assert stack.worker_process().poll() is None

    assert {line.pid for line in book.lines() if line.at < killed_at} == {tools}
    assert engine not in {line.pid for line in book.lines()}
    assert [len(book.effects(runs[call], call[0])) for call in CALLS] == [2, 2, 1, 1]
    assert [len(set(book.effects(runs[call], call[0]))) for call in CALLS[1:]] == [1, 1, 1]


async def test_a_tool_worker_does_not_notice_that_the_engine_was_killed(tmp_path: Path) -> None:
    async with crash_stack(tmp_path, settings=OWN, workers=("engine", "tools")) as (stack, book):
        runs = await begin_all(stack.client, *CALLS)
        await asyncio.gather(*(book.stands(run, tool, ref) for (tool, ref), run in runs.items()))

        stack.kill_worker("engine")
        book.go()
        stack.start_worker("engine")

        steps = {}
        for call, run in runs.items():
            await completed(run)
            steps[call] = await run.steps()

    for call in CALLS:
        settled_before(steps[call])
        assert [step.attempts for step in of_kind(steps[call], "tool_call")] == [1, 1], call
    assert [len(book.effects(runs[call], call[0])) for call in CALLS] == [2, 1, 1, 1]


@in_both_modes
async def test_what_the_tool_worker_did_while_no_engine_lived_counts(tmp_path: Path) -> None:
    async with crash_stack(tmp_path, settings=OWN, workers=("engine", "tools")) as (stack, book):
        run = (await begin_all(stack.client, ("post", "inside")))["post", "inside"]
        await book.stands(run, "post", "inside")

        stack.kill_worker("engine")
        book.go()
        await book.says(run, "done", "post", "inside")
        stack.start_worker("engine")

        await completed(run)
        steps = await run.steps()
    settled_before(steps)
    assert [(step.status, step.attempts) for step in of_kind(steps, "tool_call")] == [("completed", 1)] * 2
    assert len(book.effects(run, "post")) == 1
