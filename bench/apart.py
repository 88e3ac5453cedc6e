"""A tool worker for the bench: the kilobyte again, from a process of its own. Started in the project's directory."""

from __future__ import annotations

import asyncio

from horarium import serve_tools, tool

KILOBYTE = "y" * 1_000


@tool(effect="read")
async def read_apart(n: str) -> str:
    """Read a kilobyte."""
    return KILOBYTE


if __name__ == "__main__":
    asyncio.run(serve_tools([read_apart], name="bench"))
