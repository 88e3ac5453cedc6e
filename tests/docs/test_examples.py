"""The examples do what they say, on the real thing."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.examples import ENVIRONMENT, ROOT, example_up

EXAMPLE = ROOT / "examples" / "log-triage"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Path]:
    """A copy of the example with `horarium up` on it."""
    async with example_up("log-triage", tmp_path) as copy:
        yield copy


def test_the_demonstration_keeps_its_promises():
    command = [sys.executable, EXAMPLE / "demo.py", "--model", "scripted"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=180)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "kill -9" in done.stdout
    assert "goes on with the run" in done.stdout
    assert "tickets in the book: 1" in done.stdout


async def test_the_temporal_cli_alone_starts_looks_approves_and_reads_the_result(project: Path):
    address = json.loads((project / ".horarium" / "stack.json").read_text())["address"]
    environment = {**ENVIRONMENT, "TEMPORAL_ADDRESS": address}

    script = ROOT / "examples" / "temporal-cli" / "approve.sh"
    done = subprocess.run([script], env=environment, cwd=project, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stdout + done.stderr
    assert '"requires_action"' in done.stdout
    assert "COMPLETED" in done.stdout
    with closing(sqlite3.connect(project / "tickets.db")) as book:
        assert book.execute("SELECT count(*) FROM tickets").fetchone() == (1,)
