"""The tools of the chaos project: each writes what it does to the world into the book, and dawdles around it.

The book is one append-only file. A line is written by one `write`, so a kill leaves it whole or absent, and
the order of the lines is the order in which things happened, whoever wrote them.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from horarium import NotPerformed, Performed, ToolContext, tool

PROJECT = Path(__file__).resolve().parent.parent
BOOK = PROJECT / "book.jsonl"
LEDGER = PROJECT / ".horarium" / "ledger.db"
DAWDLE = 0.25  # seconds at most, before acting and again after
BREAKS = 0.1  # share of letters that break the first time they are posted
SILENT = 0.25  # share of questions that the bank does not answer


def _write(event: str, context: ToolContext, **more: Any) -> None:
    entry = {"event": event, "run": context.run_id, "step": context.step_id, "key": context.idempotency_key, **more}
    book = os.open(BOOK, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(book, (json.dumps(entry) + "\n").encode())
    finally:
        os.close(book)


def _began(context: ToolContext) -> int:
    """How often this call was begun before; and it is begun now."""
    before = [json.loads(line) for line in _lines_of(context)]
    _write("begun", context)
    return sum(line["event"] == "begun" for line in before)


def _act(context: ToolContext, name: str, ref: str) -> str:
    _write("done", context, tool=name, ref=ref, released=_released(context), at=time.time())
    return f"{name} {ref}: done"


def _released(context: ToolContext) -> str | None:
    """What the ledger says of the call's approval in the moment of its effect."""
    run, _, number = context.step_id.rpartition("/")
    with closing(sqlite3.connect(f"file:{LEDGER}?mode=ro", uri=True, timeout=10)) as ledger:
        found = ledger.execute(
            "SELECT status FROM approvals WHERE run_id = ? AND guards = ? AND kind = 'approval'", (run, int(number))
        ).fetchone()
    return found[0] if found else None


def _lines_of(context: ToolContext) -> list[bytes]:
    key = json.dumps(context.idempotency_key).encode()
    return [line for line in BOOK.read_bytes().splitlines() if key in line] if BOOK.exists() else []


def look_it_up(context: ToolContext, arguments: dict[str, Any]) -> Performed | NotPerformed | None:
    """The probe of `pay`: its bank can be asked whether a key was used, and does not always answer."""
    if random.random() < SILENT:
        _write("probed", context, answer="cannot tell")
        return None
    if any(json.loads(line)["event"] == "done" for line in _lines_of(context)):
        _write("probed", context, answer="happened")
        return Performed(f"pay {arguments['ref']}: done")
    _write("probed", context, answer="not happened")
    return NotPerformed()


@tool(effect="external")
async def post(ref: str, context: ToolContext) -> str:
    """Post a letter. Whether it was posted, nobody can ask afterwards."""
    # By the key, which every chaos has in common: some letters break in each.
    fate = random.Random(context.idempotency_key).random() if _began(context) == 0 else 1.0
    await asyncio.sleep(random.uniform(0, DAWDLE))
    if fate < BREAKS / 2:
        raise ConnectionError("The line broke before the letter was handed in.")
    said = _act(context, "post", ref)
    if fate < BREAKS:
        raise ConnectionError("The line broke before the receipt came.")
    await asyncio.sleep(random.uniform(0, DAWDLE))
    _write("returned", context)
    return said


@tool(effect="external", verify=look_it_up)
def pay(ref: str, context: ToolContext) -> str:
    """Pay a bill. The bank can be asked whether it was paid."""
    return _dawdling(context, "pay", ref)


@tool(effect="idempotent")
def put(ref: str, context: ToolContext) -> str:
    """Put a record into a store that knows the key: twice is once."""
    return _dawdling(context, "put", ref)


def _dawdling(context: ToolContext, name: str, ref: str) -> str:
    _began(context)
    time.sleep(random.uniform(0, DAWDLE))
    said = _act(context, name, ref)
    time.sleep(random.uniform(0, DAWDLE))
    _write("returned", context)
    return said


@tool(effect="read")
def look(ref: str) -> str:
    """Look something up."""
    time.sleep(random.uniform(0, DAWDLE))
    return f"looked at {ref}"
