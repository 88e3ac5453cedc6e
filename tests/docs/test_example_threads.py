"""examples/threads does what it says, on the real thing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.stack import until

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "threads"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Path]:
    """A copy of the example with `horarium up` on it."""
    copy = tmp_path / "threads"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns(".horarium", "__pycache__"))
    with (copy / "up.log").open("wb") as log:
        command = [sys.executable, "-m", "horarium", "up"]
        up = subprocess.Popen(command, cwd=copy, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT)
    try:
        await until(lambda: (copy / ".horarium" / "stack.json").exists(), f"up; see {copy}/up.log", up, timeout=90)
        yield copy
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 0


async def test_a_long_conversation_is_summarised_added_to_forked_and_deleted(project: Path):
    done = subprocess.run(
        [project / "demo.sh"], env=ENVIRONMENT, cwd=project, capture_output=True, text=True, timeout=180
    )

    assert done.returncode == 0, done.stdout + done.stderr
    told, rest = done.stdout.split("--- the steps that summarised")
    summarised, rest = rest.split("--- the next run")
    added, forked = rest.split("--- a fork")
    assert "Lamp oil is short" in told
    assert summarised.count(" summary ") >= 1
    assert " 50 " in summarised, "one request, 24 turns with their answers, and the last"
    assert "Placed as message 50" in added
    assert "was deleted" in forked
    assert "Shelf A1" in forked
