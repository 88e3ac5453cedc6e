"""The examples as a newcomer runs them: a copy, with `horarium up` on it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.stack import until

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
# For a checkout that is not installed; the `temporal` of the wheel is beside this interpreter.
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}
_OF_A_RUN = shutil.ignore_patterns(".horarium", ".venv", "outbox", "*.db*", "*.jsonl", "__pycache__")


@asynccontextmanager
async def example_up(name: str, directory: Path) -> AsyncIterator[Path]:
    """A copy of the example of this name, below `directory`, with its stack up; ended as by Ctrl-C."""
    copy = directory / name
    shutil.copytree(EXAMPLES / name, copy, ignore=_OF_A_RUN)
    with (copy / "up.log").open("wb") as log:
        command = [sys.executable, "-m", "horarium", "up"]
        up = subprocess.Popen(command, cwd=copy, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT)
    try:
        await until(lambda: (copy / ".horarium" / "stack.json").exists(), f"up; see {copy}/up.log", up, timeout=90)
        yield copy
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 0
