"""Orders, and paying them back."""

from __future__ import annotations

from horarium import tool


@tool(effect="read")
def find_order(order: int) -> str:
    """Look an order up."""
    return f"order {order}: a lamp, 30 euros, paid"


@tool(effect="external")
def pay_back(order: int, euros: int) -> str:
    """Pay an order back: it waits for somebody who approves it."""
    return f"{euros} euros of order {order} paid back"
