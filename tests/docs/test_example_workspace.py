"""The example of docs/guides/workspaces.md does what it says, on the real thing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.examples import ENVIRONMENT, ROOT, example_up

SAID = """\
Put the sales into the workspace as sales.zip, please.
The report is in report.md.
# Sales
- monday: 7
- tuesday: 5
version 1: 1 files, by ana
version 2: 4 files, by the run
version 3: 5 files, by the run
version 4: 6 files, by the run
"""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


async def test_an_agent_works_on_the_files_that_a_person_put_there(tmp_path: Path) -> None:
    async with example_up("workspace", tmp_path) as copy:
        command = [sys.executable, str(copy / "demo.py")]
        done = subprocess.run(command, cwd=copy, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    # Both counts of one turn, and the report; the name that led out changed nothing.
    assert done.stdout == SAID
    assert SAID in (ROOT / "docs" / "guides" / "workspaces.md").read_text("utf-8")
