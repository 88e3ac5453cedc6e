"""examples/memory does what it says, on the real thing."""

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
EXAMPLE = ROOT / "examples" / "memory"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Path]:
    """A copy of the example with `horarium up` on it."""
    copy = tmp_path / "memory"
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


async def test_a_good_run_teaches_a_guess_waits_and_what_is_undone_is_told_to_nobody(project: Path):
    done = subprocess.run(
        [project / "demo.sh"], env=ENVIRONMENT, cwd=project, capture_output=True, text=True, timeout=200
    )

    assert done.returncode == 0, done.stdout + done.stderr
    taught, rest = done.stdout.split("--- the next run")
    told, rest = rest.split("--- somebody else")
    others, back = rest.split("--- corrected")
    active = [line.split()[3] for line in taught.splitlines() if line.startswith("mem_") and "Read the stock" in line]
    assert active == ["active"]
    assert sum("that is always enough" in line and "candidate" in line for line in taught.splitlines()) == 2
    assert "version 1" in told
    assert others.strip().endswith("0")
    assert "version 1 holds again" in back
    assert "told to no run any more" in back
    assert back.count("had been told of it") >= 2
