"""The example of tool search does what it says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from horarium.project import load_agents, load_tools
from horarium.settings import Settings
from tests.support.examples import ENVIRONMENT, ROOT, example_up

EXAMPLE = ROOT / "examples" / "tool-search"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Path]:
    """A copy of the example with `horarium up` on it."""
    async with example_up("tool-search", tmp_path) as copy:
        yield copy


def test_the_agent_may_call_every_tool_of_the_desk() -> None:
    settings = Settings.load(EXAMPLE)

    assert sorted(load_agents(settings)["librarian"].tools) == sorted(load_tools(settings))


async def test_a_tool_out_of_twenty_is_found_and_called(project: Path) -> None:
    command = [sys.executable, "-m", "horarium", "run", "librarian", "Is anything open on my card 2041?", "--watch"]
    done = subprocess.run(command, cwd=project, env=ENVIRONMENT, capture_output=True, text=True, timeout=90)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == 'You owe 1.50 for "The Sea Wall"; you can pay at the desk.'
    assert "find_tools" in done.stderr
    assert "outstanding_fees" in done.stderr
