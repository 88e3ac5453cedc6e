"""The shelf, and what is on it."""

from horarium import Effect, tool

STOCK = {"paper": 2, "pens": 40}


@tool(effect=Effect.READ)
def read_stock(item: str) -> str:
    """How much of an item is there."""
    return f"{STOCK.get(item, 0)} of {item}"
