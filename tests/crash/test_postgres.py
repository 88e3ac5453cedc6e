"""The same promise on the other database: a ledger on PostgreSQL, an approval, a kill in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.rig import PATIENCE, completed, crash_stack, of_kind, settled_before
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes
from tests.support.postgres import postgres_url

pytestmark = [pytest.mark.slow, in_both_modes]


@pytest.fixture
def postgres() -> Iterator[str]:
    with postgres_url() as url:
        yield url


async def test_a_run_on_postgresql_goes_on_after_a_kill(
    tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HORARIUM_LEDGER__URL", postgres)
    async with crash_stack(tmp_path) as (stack, book):
        run = await stack.client.start("pay-after", "Go.")
        approval = await run.next_approval(PATIENCE)
        stack.kill_worker()
        stack.start_worker()
        await run.approve(approval, by="ann")
        await book.stands(run, "pay", "after")

        stack.kill_worker()
        book.go()
        stack.start_worker()

        await completed(run)
        steps = await run.steps()
        assert [item.id for item in await stack.client.runs()] == [run.id]
        assert [item.status for item in await stack.client.approvals(status=None)] == ["approved"]

    settled_before(steps)
    call = of_kind(steps, "tool_call")[1]
    assert (call.status, call.attempts, call.output) == ("completed", 2, "pay after: done, says the bank")
    assert len(book.effects(run, "pay")) == 1
    assert not (tmp_path / ".horarium" / "ledger.db").exists()
