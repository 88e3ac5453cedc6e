"""A small shop: its orders, its rules, and a book of refunds that honours the idempotency key."""

from __future__ import annotations

import json
from pathlib import Path

from horarium import ToolContext, ToolError, tool

ORDERS = {4711: {"item": "lamp", "price": "39.90 EUR", "arrived": "2026-11-17"}}
RULES = "What arrives broken is refunded in full, if the customer says so within 30 days."
BOOK = Path(__file__).resolve().parent.parent / "refunds.jsonl"


@tool(effect="read")
def find_order(number: int) -> dict[str, str]:
    """Find an order by its number."""
    if number not in ORDERS:
        raise ToolError(f"There is no order {number}. There are: {', '.join(map(str, ORDERS))}.")
    return ORDERS[number]


@tool(effect="read")
def read_rules() -> str:
    """Read what the shop promises its customers."""
    return RULES


@tool(effect="external")
def refund(order: int, amount: str, context: ToolContext) -> str:
    """Give a customer the money for an order back.

    Args:
        order: Its number.
        amount: In euros, like 39.90.
    """
    known = BOOK.read_text("utf-8").splitlines() if BOOK.exists() else []
    if not any(json.loads(line)["key"] == context.idempotency_key for line in known):
        with BOOK.open("a", encoding="utf-8") as book:
            book.write(json.dumps({"key": context.idempotency_key, "order": order, "amount": amount}) + "\n")
    return f"{amount} EUR for order {order} are on their way back."
