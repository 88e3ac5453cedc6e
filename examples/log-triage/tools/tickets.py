"""The ticket book: one SQLite file that stands for any service which must not get the same request twice.

It honours the idempotency key, as a well-made service does: the key is unique in the book. And it can be asked
afterwards whether a request arrived, which is what `verify` is for.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from horarium import NotPerformed, Performed, ToolContext, tool

BOOK = Path(os.environ.get("TICKET_BOOK", Path(__file__).resolve().parent.parent / "tickets.db"))
_TABLE = """
CREATE TABLE IF NOT EXISTS tickets (
    number   INTEGER PRIMARY KEY,
    key      TEXT NOT NULL UNIQUE,
    title    TEXT NOT NULL,
    evidence TEXT NOT NULL,
    severity TEXT NOT NULL,
    opened   TEXT NOT NULL
)
"""


def was_opened(context: ToolContext, arguments: dict[str, Any]) -> Performed | NotPerformed:
    """Say whether a ticket with this call's key is in the book."""
    with _book() as book:
        number = _number(book, context.idempotency_key)
    return NotPerformed() if number is None else Performed(_receipt(number))


@tool(effect="external", verify=was_opened)
def open_ticket(
    title: str,
    evidence: str,
    severity: Literal["low", "medium", "high"],
    context: ToolContext,
) -> str:
    """Open a ticket in the team's book.

    Args:
        title: What broke, in one line.
        evidence: The lines of the log that show it.
        severity: How bad it is.
    """
    with _book() as book:
        opened = datetime.now(UTC).isoformat(timespec="seconds")
        book.execute(
            "INSERT INTO tickets (key, title, evidence, severity, opened) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (key) DO NOTHING",
            (context.idempotency_key, title, evidence, severity, opened),
        )
        number = _number(book, context.idempotency_key)
    return _receipt(number)


@contextmanager
def _book() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(BOOK, timeout=10)) as book, book:
        book.execute(_TABLE)
        yield book


def _number(book: sqlite3.Connection, key: str) -> int | None:
    row = book.execute("SELECT number FROM tickets WHERE key = ?", (key,)).fetchone()
    return None if row is None else int(row[0])


def _receipt(number: int | None) -> str:
    return json.dumps({"ticket": number})
