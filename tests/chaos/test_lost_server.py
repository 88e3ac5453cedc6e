"""The server dies while a decision is being taken: what it never wrote down was never decided."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from horarium.contract import Approval, ApprovalState
from tests.chaos.people import AWAY
from tests.support.stack import Stack, running_stack, until

PATIENCE = timedelta(seconds=60)
PAY = '''
from horarium import tool

@tool(effect="external")
def pay(n: str) -> str:
    """Pay."""
    return n
'''


@pytest.mark.slow
async def test_a_rejection_that_the_server_lost_does_not_stand_against_the_approval_that_followed(
    tmp_path: Path,
) -> None:
    script = json.dumps([{"calls": [{"name": "pay", "arguments": {"n": "1"}}]}, {"text": "Done."}])
    agent = "name: payer\nmodel: scripted:scripts/pay.yaml\ntools: [pay]\n"
    async with running_stack(
        tmp_path, agents={"payer": agent}, tools_source=PAY, scripts={"pay.yaml": script}
    ) as stack:
        run = await stack.client.start("payer", "Pay.")
        asked = await run.next_approval(PATIENCE)
        await _reject_and_lose_the_server(stack, asked)
        await stack.start_server()

        told = await _approve(stack, asked)
        ended = await run.result(PATIENCE)
        stands = await stack.client.approval(asked.id)
        paid = next(step for step in await run.steps() if step.name == "pay" and step.kind == "tool_call")

    assert ended.status == "completed"
    assert (told.approval.status, told.approval.decided_by) == ("approved", "yes-sayer")
    assert (stands.status, stands.decided_by) == ("approved", "yes-sayer")
    assert paid.status == "completed"


async def _reject_and_lose_the_server(stack: Stack, asked: Approval) -> None:
    """The worker is held up by a locked ledger while it takes the rejection, until the server is dead."""
    with closing(sqlite3.connect(stack.directory / ".horarium" / "ledger.db", isolation_level=None)) as ledger:
        ledger.execute("BEGIN IMMEDIATE")
        rejecting = asyncio.create_task(stack.client.run(asked.run).reject(asked, by="no-sayer"))
        await asyncio.wait([rejecting], timeout=0.7)  # no condition to see from outside: the worker waits for the lock
        stack.kill_server()
        rejecting.cancel()
        with contextlib.suppress(asyncio.CancelledError, *AWAY):
            await rejecting
        ledger.execute("ROLLBACK")

        async def let_go() -> bool:
            found = ledger.execute("SELECT status FROM approvals WHERE id = ?", (asked.id,)).fetchone()
            return str(found[0]) != "pending"

        with contextlib.suppress(AssertionError):  # it does not write it: so much the better
            await until(let_go, "the worker writes the rejection down", stack.worker_process(), timeout=5)


async def _approve(stack: Stack, asked: Approval) -> ApprovalState:
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            try:
                return await stack.client.run(asked.run).approve(asked, by="yes-sayer")
            except AWAY:
                await asyncio.sleep(0.2)
