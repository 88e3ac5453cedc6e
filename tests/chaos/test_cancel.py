"""A cancellation that meets a step's answer in one workflow task: the step that follows was begun but never ran."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes
from tests.support.stack import running_stack

pytestmark = in_both_modes

LOOK = '''
from horarium import tool

@tool(effect="read")
async def look(n: str) -> str:
    """Look."""
    return n
'''


@pytest.mark.slow
async def test_a_run_that_is_cancelled_while_a_step_answers_ends(tmp_path: Path) -> None:
    script = json.dumps({"generate": {"turns": 1000, "tool": "look", "arguments": {"n": "{n}"}}})
    agent = "name: looker\nmodel: scripted:scripts/look.yaml\ntools: [look]\nlimits: {max_turns: 2000}\n"
    async with running_stack(
        tmp_path, agents={"looker": agent}, tools_source=LOOK, scripts={"look.yaml": script}
    ) as stack:

        async def cancelled() -> str:
            run = await stack.client.start("looker", "Look.")
            await asyncio.sleep(random.uniform(0.2, 0.6))
            await run.cancel()
            return (await run.result(timedelta(seconds=30))).status

        statuses = [await cancelled() for _ in range(8)]

    assert set(statuses) == {"cancelled"}
