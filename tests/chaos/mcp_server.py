"""The tools of the chaos project behind an MCP server: `python -m tests.chaos.mcp_server PROJECT PORT`.

It writes the same book. `put` honours the key; `post` does not, and nobody can ask about it afterwards.
"""

from __future__ import annotations

import asyncio
import importlib.util
import random
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import mcp_types as types
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.shared.exceptions import MCPError

KEY = "horarium/idempotency-key"
REF = {"type": "object", "properties": {"ref": {"type": "string"}}, "required": ["ref"]}
TOOLS = {"post": "Post a letter.", "put": "Put a record into a store.", "look": "Look something up."}


def served(tools: ModuleType) -> Server[Any]:
    """The server, on the book of the project that `tools` is in."""

    async def list_tools(
        _ctx: ServerRequestContext[Any], _params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[types.Tool(name=name, description=words, input_schema=REF) for name, words in TOOLS.items()]
        )

    async def call_tool(ctx: ServerRequestContext[Any], params: types.CallToolRequestParams) -> types.CallToolResult:
        ref = str((params.arguments or {})["ref"])
        if params.name == "look":
            await asyncio.sleep(random.uniform(0, tools.DAWDLE))
            return _says(f"looked at {ref}")
        context = _context(tools, str((ctx.meta or {})[KEY]))
        fate = random.Random(context.idempotency_key).random() if tools._began(context) == 0 else 1.0
        breaks = tools.BREAKS if params.name == "post" else 0.0
        await asyncio.sleep(random.uniform(0, tools.DAWDLE))
        if fate < breaks / 2:
            raise MCPError(types.INTERNAL_ERROR, "The line broke before the letter was handed in.")
        said = tools._act(context, params.name, ref)
        if fate < breaks:
            raise MCPError(types.INTERNAL_ERROR, "The line broke before the receipt came.")
        await asyncio.sleep(random.uniform(0, tools.DAWDLE))
        tools._write("returned", context)
        return _says(said)

    return Server("book", on_list_tools=list_tools, on_call_tool=call_tool)


def _context(tools: ModuleType, key: str) -> Any:
    """The call that a key stands for, as the ledger has it: the server itself is told the key and nothing else."""
    with closing(sqlite3.connect(f"file:{tools.LEDGER}?mode=ro", uri=True, timeout=10)) as ledger:
        run, number = ledger.execute("SELECT run_id, number FROM steps WHERE key = ?", (key,)).fetchone()
    return SimpleNamespace(run_id=run, step_id=f"{run}/{number:04d}", idempotency_key=key)


def _says(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)])


def _project_tools(project: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("project_tools", project / "tools" / "project_tools.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    app = served(_project_tools(Path(sys.argv[1]))).streamable_http_app(host="127.0.0.1")
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", timeout_graceful_shutdown=1)
