"""The examples do what they say, on the real thing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.stack import until

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "log-triage"
# For a checkout that is not installed; the `temporal` of the wheel is beside this interpreter.
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Path]:
    """A copy of the example with `horarium up` on it."""
    copy = tmp_path / "log-triage"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns(".horarium", "*.db*", "__pycache__"))
    with (copy / "up.log").open("wb") as log:
        command = [sys.executable, "-m", "horarium", "up"]
        up = subprocess.Popen(command, cwd=copy, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT)
    try:
        await until(lambda: (copy / ".horarium" / "stack.json").exists(), f"up; see {copy}/up.log", up, timeout=90)
        yield copy
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 0


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
