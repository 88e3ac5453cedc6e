"""The tools of a worker without a ledger; what they do stands in a file of its directory."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from horarium import ToolContext, tool
from horarium.tools import Tool

MEGABYTES_20 = 20_000_000


def tools_of(directory: Path) -> list[Tool]:
    """Tools whose effects are lines of `effects`; while there is a file `hold`, they wait."""

    def effect(line: str) -> None:
        with (directory / "effects").open("a") as file:
            file.write(line + "\n")

    async def held() -> None:
        (directory / "entered").touch()
        while (directory / "hold").exists():
            await asyncio.sleep(0.02)

    @tool(effect="read")
    def glance(what: str = "") -> str:
        """Look at something."""
        return f"saw {what}"

    @tool(effect="idempotent")
    def note(text: str, context: ToolContext) -> str:
        """Note something."""
        effect(f"note {text} {context.idempotency_key}")
        return f"noted {text}"

    @tool(effect="external")
    async def pay(amount: int, context: ToolContext) -> str:
        """Pay an amount."""
        effect(f"pay {amount} {context.idempotency_key}")
        await held()
        return f"paid {amount}"

    @tool(effect="read")
    def dump() -> str:
        """Return very much."""
        return "a" * MEGABYTES_20

    @tool(effect="read")
    def odd() -> dict[str, Any]:
        """Return what JSON has not."""
        return {"ratio": float("nan"), "name": "a\x00b\ud800", "large": 2**80}

    return [glance, note, pay, dump, odd]
