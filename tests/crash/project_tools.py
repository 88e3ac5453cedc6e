"""The tools of the crash project: they stop where the test says, so that it can kill them right there.

Each says in the book that it was entered and that it acted. A call whose `ref` is `inside` stands still before it acts,
`after` before it reports; both go on once the file `go` is there, which a test makes when it has killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

from horarium import NotPerformed, Performed, ToolContext, tool

BOOK = Path(__file__).resolve().parent.parent / "book.jsonl"
GO = BOOK.with_name("go")
MOST_SECONDS = 30.0


def _say(event: str, name: str, ref: str, context: ToolContext) -> None:
    entry = {
        "event": event,
        "tool": name,
        "ref": ref,
        "run": context.run_id,
        "key": context.idempotency_key,
        "attempt": context.attempt,
        "pid": os.getpid(),
        "at": time.time(),
    }
    book = os.open(BOOK, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(book, (json.dumps(entry) + "\n").encode())
    finally:
        os.close(book)


def _stand() -> None:
    deadline = time.monotonic() + MOST_SECONDS
    while not GO.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def _perform(name: str, ref: str, context: ToolContext) -> str:
    _say("entered", name, ref, context)
    if ref == "inside":
        _stand()
    _say("done", name, ref, context)
    if ref == "after":
        _stand()
    return f"{name} {ref}: done"


def look_it_up(context: ToolContext, arguments: dict[str, Any]) -> Performed | NotPerformed:
    """The probe of `pay`: its bank can be asked whether a key was used."""
    said = [json.loads(line) for line in BOOK.read_text("utf-8").splitlines()]
    if any(line["event"] == "done" and line["key"] == context.idempotency_key for line in said):
        return Performed(f"pay {arguments['ref']}: done, says the bank")
    return NotPerformed()


@tool(effect="read")
def look(ref: str, context: ToolContext) -> str:
    """Look something up."""
    return _perform("look", ref, context)


@tool(effect="idempotent")
def put(ref: str, context: ToolContext) -> str:
    """Put a record into a store that knows the key: twice is once."""
    return _perform("put", ref, context)


@tool(effect="external")
def post(ref: str, context: ToolContext) -> str:
    """Post a letter. Whether it was posted, nobody can ask afterwards."""
    return _perform("post", ref, context)


@tool(effect="external", verify=look_it_up)
def pay(ref: str, context: ToolContext) -> str:
    """Pay a bill. The bank can be asked whether it was paid."""
    return _perform("pay", ref, context)


@tool(effect="read")
async def browse(ref: str, context: ToolContext) -> str:
    """Read something for long; unlike a thread, it can be stopped in the middle."""
    _say("entered", "browse", ref, context)
    async with asyncio.timeout(MOST_SECONDS):
        while not GO.exists():
            await asyncio.sleep(0.02)
    _say("done", "browse", ref, context)
    return f"browse {ref}: done"
