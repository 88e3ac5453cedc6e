"""examples/threads does what it says, on the real thing."""

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
    async with example_up("threads", tmp_path) as copy:
        yield copy


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
