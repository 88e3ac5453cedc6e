"""kill -9 of the engine worker around the outputs that a caller submits: none is lost, and none counts twice."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from horarium.client import Run
from horarium.contract import CallerFunction
from tests.crash.rig import completed, of_kind, wait_for
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes
from tests.support.stack import running_stack

pytestmark = [pytest.mark.slow, in_both_modes]

RUNS = 6
FUNCTION = CallerFunction(name="get_weather", description="The weather.")
AGENT = "model: scripted:scripts/clerk.yaml\n"
SCRIPT = json.dumps([{"calls": [{"name": "get_weather", "arguments": {}}]}, {"text": "All done."}])


async def test_no_output_is_lost_when_the_worker_dies_while_they_come_in(tmp_path: Path) -> None:
    async with running_stack(tmp_path, agents={"clerk": AGENT}, scripts={"clerk.yaml": SCRIPT}) as stack:
        runs = [await stack.client.start("clerk", "Go.", functions=[FUNCTION]) for _ in range(RUNS)]
        calls = [await wait_for(run, "function_call") for run in runs]

        async def submit(run: Run, call: str) -> None:
            assert (await run.submit_tool_outputs({call: f"of {run.id}"}, by="ann")).taken == (call,)

        # The worker dies with the first ones in its hands; the others come while there is none.
        half = RUNS // 2
        await asyncio.gather(*map(submit, runs[:half], calls[:half]))
        stack.kill_worker()
        await asyncio.gather(*map(submit, runs[half:], calls[half:]))
        stack.start_worker()
        await asyncio.gather(*(completed(run) for run in runs))
        again = [await run.submit_tool_outputs({call: f"of {run.id}"}) for run, call in zip(runs, calls, strict=True)]
        evidence = [await run.steps() for run in runs]

    assert [one.repeated for one in again] == [(call,) for call in calls]
    for run, steps in zip(runs, evidence, strict=True):
        [step] = of_kind(steps, "tool_call")
        assert (step.status, step.output, step.untrusted) == ("completed", f"of {run.id}", 1)
        assert [one.attempts for one in of_kind(steps, "model_call")][:1] == [1]
        assert len(of_kind(steps, "model_call")) == 2
