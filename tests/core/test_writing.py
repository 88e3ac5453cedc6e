"""Transactions that write: what a cancellation in the middle of one leaves behind."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select

from horarium.ledger.database import Ledger
from horarium.ledger.schema import threads
from horarium.settings import Settings
from tests.core.ledgers import NOON


async def written(ledger: Ledger, thread: str) -> None:
    async with ledger.write(durable=True) as connection:
        await connection.execute(insert(threads).values(id=thread, tenant="default", created_at=NOON))


def test_a_cancelled_commit_is_waited_for_before_anybody_else_writes(tmp_path: Path) -> None:
    asyncio.run(commit_that_is_cancelled(tmp_path))  # in a loop of its own, whose threads are busy


async def commit_that_is_cancelled(root: Path) -> None:
    ledger, let_go = await Ledger.open(Settings(root=root)), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        asyncio.get_running_loop().set_default_executor(pool)
        held = pool.submit(let_go.wait, 20)  # the commit waits for its thread
        first = asyncio.create_task(written(ledger, "thr_1"))
        second = asyncio.create_task(written(ledger, "thr_2"))
        await asyncio.sleep(0)
        first.cancel()
        done, _ = await asyncio.wait({first, second}, timeout=0.1)

        let_go.set()

        assert (done, held.result()) == (set(), True)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(first, 20)
        await asyncio.wait_for(second, 20)
        async with ledger.read() as connection:
            assert await connection.scalar(select(func.count()).select_from(threads)) == 2
        await ledger.close()
