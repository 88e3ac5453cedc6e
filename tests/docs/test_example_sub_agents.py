"""The example with sub-agents does what its guide says, on the real stack."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from horarium.client import Client
from tests.support.examples import ENVIRONMENT, example_up
from tests.support.stack import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Path]:
    """A copy of the example with `horarium up` on it."""
    async with example_up("sub-agents", tmp_path) as copy:
        yield copy


def horarium(project: Path, *words: str) -> str:
    command = [sys.executable, "-m", "horarium", *words]
    done = subprocess.run(command, cwd=project, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_the_refund_waits_in_one_inbox_with_the_path_and_the_run_shows_who_did_what(project: Path):
    async with await Client.connect(directory=project) as client:
        run = await client.start("support", "My lamp (order 4711) arrived broken.", requested_by="dora")

        async def asked() -> bool:
            return bool(await client.approvals())

        await until(asked, "the refund is asked about", timeout=60)
        inbox = horarium(project, "approvals", "list")
        waiting = horarium(project, "runs", "show", run.id)
        question = json.loads(horarium(project, "approvals", "list", "--json"))
        horarium(project, "approvals", "approve", question["id"], "--by", "ana")
        result = await run.result()

    assert "path      support > payments" in inbox
    assert f"waits for: Approve or reject refund. ({question['id']})" in waiting
    assert result.status == "completed"
    assert "39.90 EUR" in result.output
    shown = horarium(project, "runs", "show", run.id)
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("  #")] == ["orders", "rules", "payments"]
    assert len((project / "refunds.jsonl").read_text().splitlines()) == 1
    assert horarium(project, "runs", "list", "-q").split() == [run.id]
    assert len(horarium(project, "runs", "list", "--all", "-q").split()) == 4
