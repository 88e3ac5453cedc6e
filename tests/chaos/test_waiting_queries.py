"""Somebody looks at a run while its worker is dead, somebody decides, and the next restart must still read it.

The SDK acts on a signal for the query's sake before the workflow task has it; see workers/alignment.py.
"""

from __future__ import annotations

import asyncio
import json
import random
from datetime import timedelta
from pathlib import Path

import pytest

from horarium import Approval, Decision, Run
from horarium.contract import OPEN_STATUSES, SIGNAL_APPROVE
from horarium.errors import HorariumError
from tests.support.stack import Stack, running_stack

RUNS = 30
PATIENCE = timedelta(seconds=60)
PAY = '''
from horarium import tool

@tool(effect="external")
def pay(n: str) -> str:
    """Pay."""
    return n
'''


@pytest.mark.slow
async def test_a_run_that_was_looked_at_while_its_worker_was_dead_can_be_read_again(tmp_path: Path) -> None:
    script = json.dumps({"generate": {"turns": 2, "tool": "pay", "arguments": {"n": "{n}"}}})
    agent = "name: payer\nmodel: scripted:scripts/pay.yaml\ntools: [pay]\n"
    async with running_stack(
        tmp_path, agents={"payer": agent}, tools_source=PAY, scripts={"pay.yaml": script}
    ) as stack:
        runs = [await stack.client.start("payer", "Pay.") for _ in range(RUNS)]
        asked = await asyncio.gather(*(run.next_approval(PATIENCE) for run in runs))
        stack.kill_worker()
        stack.start_worker()
        await asyncio.gather(
            *(_look_and_decide(stack, run, approval) for run, approval in zip(runs, asked, strict=True))
        )

        stack.kill_worker()
        stack.start_worker()
        await asyncio.gather(*(_approve_to_the_end(run) for run in runs))
        ended = [(await run.result(PATIENCE)).status for run in runs]

    assert set(ended) == {"completed"}


async def _look_and_decide(stack: Stack, run: Run, approval: Approval) -> None:
    """A query, a signal and an update, in whatever order they meet the worker that comes up meanwhile."""

    async def look() -> None:
        for _ in range(4):
            await asyncio.sleep(random.uniform(0, 0.4))
            try:
                await run.status()
            except HorariumError:
                continue  # no worker answered in time

    await asyncio.sleep(random.uniform(0, 1.5))
    looking = asyncio.create_task(look())
    await asyncio.sleep(random.uniform(0, 0.3))
    decision = Decision(approval=approval.id, digest=approval.digest, by="signaller")
    await stack.client.temporal.get_workflow_handle(run.id).signal(SIGNAL_APPROVE, decision)
    await asyncio.sleep(random.uniform(0, 0.3))
    async with asyncio.timeout(PATIENCE.total_seconds()):
        await run.approve(approval, by="updater")
        await looking


async def _approve_to_the_end(run: Run) -> None:
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while (await run.status()).status in OPEN_STATUSES:
            for approval in await run.approvals():
                if approval.status == "pending":
                    await run.approve(approval, by="updater")
            await asyncio.sleep(0.2)
