"""A worker that leaves in the very first second of a run, when its segment is inside of a workflow task."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.crash.rig import begin, completed, crash_stack, settled_before
from tests.support.stack import until

pytestmark = pytest.mark.slow


async def test_a_worker_that_leaves_in_a_runs_first_second_finishes_what_is_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HORARIUM_WORKER__EXECUTION", "segments")
    async with crash_stack(tmp_path) as (stack, book):
        run = await begin(stack.client, "browse", "through")
        await book.says(run, "entered", "browse", "through")

        worker = stack.worker_process()
        worker.send_signal(signal.SIGTERM)
        second = asyncio.get_running_loop().time() + 1.5  # more than a segment has inside of a workflow task
        await until(lambda: asyncio.get_running_loop().time() > second, "it is no longer its first second")
        book.go()
        code = await asyncio.to_thread(worker.wait, 30)
        done = len(book.effects(run, "browse"))
        stack.start_worker()
        await completed(run)
        steps = await run.steps()

    assert (code, done, len(book.lines(run, event="entered", tool="browse"))) == (0, 1, 1)
    settled_before(steps)
