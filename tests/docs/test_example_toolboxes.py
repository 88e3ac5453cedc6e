"""The example of toolboxes does what it says, on the real thing."""

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


def test_the_agent_looks_asks_before_it_redirects_and_a_second_version_waits_to_be_promoted() -> None:
    command = [sys.executable, ROOT / "examples" / "toolboxes" / "demo.py"]

    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "depot__redirectParcel  openapi  external" in done.stdout
    assert "Your parcel goes to the shop now" in done.stdout
    assert "version 2 waits: promote it" in done.stdout
    assert "- depot__redirectParcel" in done.stdout
    assert "only-for-this-example" not in done.stdout
    assert "parcels@1 counts from the next run on." in done.stdout
