"""A small library as an MCP server: two tools, and a file that says who has which book.

It honours the key that Horarium sends with each call, so the same call twice lends a book once. Any MCP client can
use it; one that sends no key is simply not protected against lending twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

from mcp.server.mcpserver import Context, MCPServer

FILE = Path(__file__).resolve().parent.parent / "shelf.json"
KEY = "horarium/idempotency-key"
TITLES = {1: "Villette", 2: "Middlemarch", 3: "Cranford"}

server = MCPServer("shelf")


class Loan(TypedDict):
    """Who has a book."""

    number: int
    reader: str
    key: str | None


@server.tool()
def find_book(title: str) -> str:
    """Find a book by its title; says its number and whether it is on the shelf."""
    lent = {loan["number"]: loan["reader"] for loan in _loans()}
    for number, known in TITLES.items():
        if title.casefold() in known.casefold():
            return f"Number {number}, {known}: " + (f"lent to {lent[number]}" if number in lent else "on the shelf")
    return "There is no such book."


@server.tool()
def lend_book(number: int, reader: str, context: Context) -> str:
    """Lend a book to a reader."""
    loans, key = _loans(), (context.request_context.meta or {}).get(KEY)
    before = next((loan for loan in loans if loan["number"] == number), None)
    if before is None:
        loans.append({"number": number, "reader": reader, "key": str(key) if key else None})
        FILE.write_text(json.dumps(loans, indent=2))
    elif key is None or before["key"] != key:
        raise ValueError(f"{TITLES[number]} is lent to {before['reader']}.")
    return f"{TITLES[number]} is lent to {reader}."


def _loans() -> list[Loan]:
    loans: list[Loan] = json.loads(FILE.read_text()) if FILE.exists() else []
    return loans


if __name__ == "__main__":
    server.run()
