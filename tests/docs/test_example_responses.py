"""examples/responses does what it says, on the real thing."""

from __future__ import annotations

import json
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
EXAMPLE = ROOT / "examples" / "responses"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    """Where a copy of the example is served, with `horarium up` on it."""
    copy = tmp_path / "cashier"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns(".horarium", "__pycache__"))
    program = [sys.executable, "-m", "horarium"]
    with (copy / "up.log").open("wb") as log:
        up = subprocess.Popen([*program, "up"], cwd=copy, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT)
    try:
        await until(lambda: (copy / ".horarium" / "stack.json").exists(), f"up; see {copy}/up.log", up, timeout=90)
        serve = subprocess.Popen(
            [*program, "serve", "cashier", "--port", "0", "--json"], cwd=copy, env=ENVIRONMENT, stdout=subprocess.PIPE
        )
        assert serve.stdout is not None
        yield json.loads(serve.stdout.readline())["address"]
        serve.send_signal(signal.SIGTERM)
        assert serve.wait(30) == 0
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 0


async def test_money_is_paid_back_once_it_was_approved(address: str) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLE / "ask.py", address, "--yes"], capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        "> Please pay order 7 back.",
        "I will look the order up first.",
        '[find_order {"order":7} -> order 7: a lamp, 30 euros, paid]',
        'It asks for your approval: pay_back {"euros":30,"order":7}',
        "The 30 euros of order 7 are on their way back.",
        "> Which order was it?",
        "It was order 7, a lamp for 30 euros.",
    ]
