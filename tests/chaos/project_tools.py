"""The tools of the chaos project: each writes what it does to the world into the book, and dawdles around it.

The book is one append-only file. A line is written by one `write`, so a kill leaves it whole or absent, and
the order of the lines is the order in which things happened, whoever wrote them.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from pathlib import Path
from typing import Any

from horarium import NotPerformed, Performed, ToolContext, tool

BOOK = Path(__file__).resolve().parent.parent / "book.jsonl"
DAWDLE = 0.25  # seconds at most, before acting and again after


def _act(context: ToolContext, name: str, ref: str) -> str:
    entry = {
        "event": "done",
        "tool": name,
        "ref": ref,
        "run": context.run_id,
        "step": context.step_id,
        "key": context.idempotency_key,
        "attempt": context.attempt,
        "process": os.getpid(),
    }
    book = os.open(BOOK, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(book, (json.dumps(entry) + "\n").encode())
    finally:
        os.close(book)
    return f"{name} {ref}: done"


def look_it_up(context: ToolContext, arguments: dict[str, Any]) -> Performed | NotPerformed:
    """The probe of `pay`: its service can be asked whether a key was used."""
    lines = BOOK.read_text("utf-8").splitlines() if BOOK.exists() else []
    if any(json.loads(line).get("key") == context.idempotency_key for line in lines):
        return Performed(f"pay {arguments['ref']}: done")
    return NotPerformed()


@tool(effect="external")
async def post(ref: str, context: ToolContext) -> str:
    """Post a letter. Whether it was posted, nobody can ask afterwards."""
    await asyncio.sleep(random.uniform(0, DAWDLE))
    said = _act(context, "post", ref)
    await asyncio.sleep(random.uniform(0, DAWDLE))
    return said


@tool(effect="external", verify=look_it_up)
def pay(ref: str, context: ToolContext) -> str:
    """Pay a bill. The bank can be asked whether it was paid."""
    time.sleep(random.uniform(0, DAWDLE))
    said = _act(context, "pay", ref)
    time.sleep(random.uniform(0, DAWDLE))
    return said


@tool(effect="idempotent")
def put(ref: str, context: ToolContext) -> str:
    """Put a record into a store that knows the key: twice is once."""
    time.sleep(random.uniform(0, DAWDLE))
    said = _act(context, "put", ref)
    time.sleep(random.uniform(0, DAWDLE))
    return said


@tool(effect="read")
def look(ref: str) -> str:
    """Look something up."""
    time.sleep(random.uniform(0, DAWDLE))
    return f"looked at {ref}"
