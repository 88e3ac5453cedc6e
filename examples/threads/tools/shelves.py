"""What is on the shelves."""

from __future__ import annotations

from horarium import tool

GOODS = ("candles", "lamp oil", "matches", "nails", "rope", "salt", "soap", "string", "tallow", "twine", "wax", "wicks")


@tool(effect="read")
def read_shelf(shelf: str) -> str:
    """List what is on a shelf and how much of it there should be.

    Args:
        shelf: Its name, e.g. A7.
    """
    rows = [f"{item:<10} there: {40 + len(item)}, wanted: {40 + len(item)}" for item in GOODS]
    if shelf == "A7":
        rows[1] = "lamp oil   there: 3, wanted: 48"
    return f"Shelf {shelf}\n" + "\n".join(rows)
