"""The shelves of a small workshop, and its orders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from horarium import Effect, ToolContext, ToolError, tool

SHELVES = {"m4-bolt": 120, "hinge": 6, "felt-pad": 0}
ORDERS = Path("orders.jsonl")


@tool(effect=Effect.READ)
def count_parts(part: str) -> dict[str, Any]:
    """Count how many pieces of a part are on the shelves.

    Args:
        part: Its name, like m4-bolt.
    """
    if part not in SHELVES:
        raise ToolError(f"There is no part {part!r}. There are: {', '.join(SHELVES)}.")
    return {"part": part, "pieces": SHELVES[part]}


@tool(effect=Effect.EXTERNAL)
def order_parts(part: str, pieces: int, context: ToolContext) -> str:
    """Order pieces of a part from the supplier.

    Args:
        part: Its name.
        pieces: How many.
        context: Says under which key the supplier is told.
    """
    order = {"part": part, "pieces": pieces, "key": context.idempotency_key}
    with ORDERS.open("a", encoding="utf-8") as book:
        book.write(json.dumps(order) + "\n")
    return f"{pieces} × {part} ordered."
