"""SIGTERM of a worker in mid-tool: a short tool is finished, a long read is handed back at once."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.crash.rig import begin, completed, crash_stack, of_kind, settled_before
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes

pytestmark = [pytest.mark.slow, in_both_modes]


async def test_a_worker_that_leaves_finishes_what_is_short(tmp_path: Path) -> None:
    async with crash_stack(tmp_path) as (stack, book):
        run = await begin(stack.client, "post", "inside")
        await book.stands(run, "post", "inside")

        worker = stack.worker_process()
        worker.send_signal(signal.SIGTERM)
        book.go()
        code = await asyncio.to_thread(worker.wait, 30)
        done = book.effects(run, "post")
        stack.start_worker()
        await completed(run)
        steps = await run.steps()

    assert code == 0
    assert len(done) == len(book.effects(run, "post")) == 1
    settled_before(steps)
    assert [step.attempts for step in of_kind(steps, "tool_call")] == [1, 1]


async def test_a_long_read_is_handed_back_and_read_by_the_next_worker_at_once(tmp_path: Path) -> None:
    async with crash_stack(tmp_path, settings='[worker]\ngrace = "500ms"\nheartbeat_timeout = "60s"\n') as (
        stack,
        book,
    ):
        run = await begin(stack.client, "browse", "through")
        await book.says(run, "entered", "browse", "through")

        code = await asyncio.to_thread(stack.stop_worker)
        left_at = time.time()
        book.go()
        stack.start_worker()
        await completed(run)
        steps = await run.steps()

    first, second = book.lines(run, event="entered", tool="browse")
    print(f"From the end of the worker to the next attempt: {second.at - left_at:.2f} s")
    assert code == 0
    # Nobody waited for a heartbeat, which is a minute here.
    assert second.at - left_at < 20
    assert first.pid != second.pid
    settled_before(steps)
