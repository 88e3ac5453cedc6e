"""The client that the conformance suite runs: the engine's own code, asked to list the tools and call each.

`python conformance_client.py URL`; the suite adds the URL.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from activities.mcp_tools import McpTools
from horarium.ids import idempotency_key
from horarium.ledger.database import Ledger
from horarium.mcpservers import McpServer
from horarium.settings import Settings
from horarium.tools import ToolContext
from horarium.toolsets import McpSource

RUN = "run_conformance"


async def main(url: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        settings = Settings(root=Path(directory))
        ledger = await Ledger.open(settings)
        tools = McpTools(ledger, settings)
        try:
            for number, pinned in enumerate(await tools.of_server("conformance", McpServer(url=url)), start=1):
                if not isinstance(pinned.source, McpSource):
                    raise TypeError(pinned.source)
                context = ToolContext(
                    RUN, f"{RUN}/{number:04d}", idempotency_key(RUN, str(number)), 1, "tester", "default"
                )
                performer = await tools.performer(pinned, pinned.source)
                said = await performer.perform(_arguments(pinned.spec.parameters), context)
                print(f"{datetime.now(UTC):%H:%M:%S} {pinned.spec.name}: {said!r}")
        finally:
            await tools.close()
            await ledger.close()


def _arguments(parameters: dict[str, Any]) -> dict[str, Any]:
    """Something that fits each parameter."""
    examples: dict[str, Any] = {"number": 5, "integer": 5, "string": "five", "boolean": True, "array": [], "object": {}}
    fields: dict[str, dict[str, Any]] = parameters.get("properties", {})
    return {name: examples[str(field.get("type", "string"))] for name, field in fields.items()}


if __name__ == "__main__":
    asyncio.run(main(sys.argv[-1]))
