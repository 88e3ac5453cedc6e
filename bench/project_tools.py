"""The tools of the bench's project. Those that are timed write the moment they start, on the machine's own clock."""

from __future__ import annotations

import os
import time
from pathlib import Path

from horarium import ToolContext, tool

STARTS = Path(__file__).resolve().parent.parent / "starts.log"
KILOBYTE = "y" * 1_000
ASLEEP = 60.0  # seconds; longer than anyone waits


def _started(context: ToolContext) -> None:
    log = os.open(STARTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(log, f"{time.monotonic()} {context.step_id}\n".encode())
    finally:
        os.close(log)


@tool(effect="read")
async def read(n: str) -> str:
    """Read a kilobyte."""
    return KILOBYTE


@tool(effect="read")
async def tick(n: str, context: ToolContext) -> str:
    """Say when this step began."""
    _started(context)
    return KILOBYTE


@tool(effect="read")
def dawdle(n: str, context: ToolContext) -> str:
    """Take long, the first time."""
    _started(context)
    if context.attempt == 1:
        time.sleep(ASLEEP)
    return KILOBYTE


@tool(effect="external")
async def act(n: str, context: ToolContext) -> str:
    """Do something that needs a person's approval."""
    _started(context)
    return KILOBYTE
