"""examples/memory does what it says, on the real thing."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.examples import ENVIRONMENT, example_up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Path]:
    """A copy of the example with `horarium up` on it."""
    async with example_up("memory", tmp_path) as copy:
        yield copy


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
