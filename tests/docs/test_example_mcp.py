"""The example of an MCP server: its tools in a run, and the doctor's word on it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from horarium import Client
from tests.docs.test_examples import ENVIRONMENT, ROOT
from tests.support.engine import PATIENCE
from tests.support.stack import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Path]:
    """A copy of the example with `horarium up` on it."""
    copy = tmp_path / "library"
    left_out = shutil.ignore_patterns(".horarium", "shelf.json", "__pycache__")
    shutil.copytree(ROOT / "examples" / "mcp", copy, ignore=left_out)
    with (copy / "up.log").open("wb") as log:
        command = [sys.executable, "-m", "horarium", "up"]
        up = subprocess.Popen(command, cwd=copy, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT)
    try:
        await until(lambda: (copy / ".horarium" / "stack.json").exists(), f"up; see {copy}/up.log", up, timeout=90)
        yield copy
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 0


async def test_a_book_is_lent_once_after_its_approval(project: Path) -> None:
    async with await Client.connect(directory=project) as client:
        run = await client.start("librarian", "Dora would like to read Middlemarch.")
        approval = await run.next_approval(PATIENCE)
        assert (approval.tool, approval.preview) == ("shelf__lend_book", '{"number":2,"reader":"dora"}')
        await run.approve(approval, by="ana")

        assert (await run.result(PATIENCE)).output == "Middlemarch is lent to Dora."
        (call,) = (step for step in await run.steps() if step.name == "shelf__lend_book" and step.kind == "tool_call")

    assert [(loan["reader"], loan["key"]) for loan in json.loads((project / "shelf.json").read_text())] == [
        ("dora", call.key)
    ]


async def test_the_doctor_speaks_to_the_server(project: Path) -> None:
    command = [sys.executable, "-m", "horarium", "doctor", "--json"]
    done = subprocess.run(command, cwd=project, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)

    findings = [json.loads(line) for line in done.stdout.splitlines()]
    (found,) = (finding for finding in findings if finding["check"] == "MCP server")
    assert (found["state"], found["found"]) == ("ok", "shelf of librarian: python servers/shelf.py, 2 tools")
