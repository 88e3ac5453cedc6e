"""The example of a served toolbox does what it says, on the real thing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_an_mcp_client_counts_orders_and_waits_for_an_approval_and_one_key_is_one_order() -> None:
    command = [sys.executable, ROOT / "examples" / "served-toolbox" / "demo.py"]

    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "count_parts: Count how many pieces of a part are on the shelves. (only reads: True)" in done.stdout
    assert "{'part': 'hinge', 'pieces': 6}" in done.stdout
    assert 'workbench asks: order_parts {"part":"felt-pad","pieces":500}' in done.stdout
    assert "The same key again: 500 × felt-pad ordered." in done.stdout
    assert "2 orders are in the supplier's book." in done.stdout
    assert "hk_" not in done.stdout
