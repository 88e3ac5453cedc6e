"""An MCP server for tests: it acts on a book outside of the engine, and fails in every way that a server can.

`python bank.py BOOK` speaks over stdio, `python bank.py BOOK --port 8123` over HTTP. What it does besides comes from
the environment: HONOURS=1 looks at the idempotency key, WORDS is a file with the description of its first tool, TOKEN
is the bearer token that it wants, LEGACY=1 knows nothing of the newest protocol, AS_JSON=1 answers without events.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import mcp_types as types
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

KEY = "horarium/idempotency-key"
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
TEXT = {"type": "object", "properties": {"ref": {"type": "string"}}, "required": ["ref"]}


class Bank:
    """What it remembers is in its book, so it survives the process."""

    def __init__(self, book: Path) -> None:
        self._book = book
        self._honours = os.environ.get("HONOURS") == "1"

    def note(self, event: str, ref: str, key: str | None) -> None:
        line = json.dumps({"event": event, "ref": ref, "key": key, "pid": os.getpid()})
        with self._book.open("a") as book:
            book.write(f"{line}\n")
            book.flush()
            os.fsync(book.fileno())

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._book.read_text().splitlines()] if self._book.exists() else []

    async def act(self, ref: str, key: str | None) -> str:
        """Act once on the world, or die before or after that; stand still there until the file `go` is beside it."""
        again = any(line["event"] == "entered" and line["ref"] == ref for line in self.lines())
        self.note("entered", ref, key)
        if ref == "die_before" and not again:
            os._exit(9)
        if ref == "stand_before":
            await self._stand()
        done = self._honours and any(line["event"] == "done" and line["key"] == key for line in self.lines())
        if not done:
            self.note("done", ref, key)
        if ref == "die_after" and not again:
            os._exit(9)
        if ref == "stand_after":
            await self._stand()
        return f"{ref}: was done before" if done else f"{ref}: done"

    async def wait(self, ref: str) -> str:
        self.note("entered", ref, None)
        try:
            await self._stand()
        except BaseException:
            self.note("stopped", ref, None)
            raise
        return "waited"

    async def _stand(self) -> None:
        while not (self._book.parent / "go").exists():
            await asyncio.sleep(0.02)


def answer(kind: str) -> types.CallToolResult:
    picture = types.ImageContent(type="image", data=base64.b64encode(PICTURE).decode(), mime_type="image/png")
    text = types.TextContent(type="text", text="Here it is.")
    match kind:
        case "large":
            return _texts("x" * 5_000_000)
        case "endless":
            return _texts("x" * (65 * 2**20))
        case "lines":
            return _texts("first", "second")
        case "picture":
            return types.CallToolResult(content=[picture])
        case "mixed":
            return types.CallToolResult(content=[text, picture])
        case "structured":
            return types.CallToolResult(content=[], structured_content={"a": [1, 2]})
        case "nan":
            return types.CallToolResult(content=[], structured_content={"a": float("nan")})
        case "misses_its_schema":
            return types.CallToolResult(content=[text], structured_content={"a": "no number"})
        case "failed":
            return types.CallToolResult(
                content=[types.TextContent(type="text", text="No such account.")], is_error=True
            )
        case "resource":
            resource = types.TextResourceContents(uri="note://1", text="A note.")
            return types.CallToolResult(content=[types.EmbeddedResource(type="resource", resource=resource)])
        case "internal":
            raise MCPError(types.INTERNAL_ERROR, "the disk is full")
        case "invalid":
            raise MCPError(types.INVALID_PARAMS, "ref is not known")
        case "secret":
            return _texts(f"my token is {os.environ.get('TOKEN', '')}")
        case "environment":
            return _texts(" ".join(sorted(os.environ)))
        case _:
            return _texts(kind)


def _texts(*texts: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text) for text in texts])


def server(bank: Bank) -> Server[Any]:
    async def list_tools(
        ctx: ServerRequestContext[Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        tools = [
            types.Tool(name="act", description=_words(), input_schema=TEXT),
            types.Tool(name="wait", description="Wait.", input_schema=TEXT),
            types.Tool(
                name="answer",
                description="Answer in some way.",
                input_schema=TEXT,
                output_schema={"type": "object", "properties": {"a": {"type": ["array", "number"]}}},
                annotations=types.ToolAnnotations(read_only_hint=True, idempotent_hint=True),
            ),
            types.Tool(name="ask", description="Ask the client for things.", input_schema=TEXT),
            types.Tool(name="count", description="Count to three.", input_schema=TEXT),
        ]
        # Two pages, so that whoever reads the first only is found out.
        if params is None or params.cursor is None:
            return types.ListToolsResult(tools=tools[:2], next_cursor="more")
        return types.ListToolsResult(tools=tools[2:])

    async def call_tool(ctx: ServerRequestContext[Any], params: types.CallToolRequestParams) -> types.CallToolResult:
        ref = str((params.arguments or {}).get("ref", ""))
        key = (ctx.meta or {}).get(KEY)
        match params.name:
            case "act":
                return _texts(await bank.act(ref, str(key) if key else None))
            case "wait":
                return _texts(await bank.wait(ref))
            case "answer":
                if ref == "change":
                    await ctx.session.send_tool_list_changed()
                return answer(ref)
            case "ask":
                return _texts(await _ask(ctx, ref))
            case "count":
                for number in range(3):
                    await ctx.session.report_progress(number + 1, 3, "one more")
                return _texts("counted")
            case other:
                raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {other}")

    return Server("bank", on_list_tools=list_tools, on_call_tool=call_tool)


async def _ask(ctx: ServerRequestContext[Any], what: str) -> str:
    """Ask the client, as a server of the handshake era can; its answer in words."""
    try:
        match what:
            case "roots":
                await ctx.session.list_roots()
            case "model":
                message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text="Hello?"))
                await ctx.session.create_message([message], max_tokens=5)
            case _:
                await ctx.session.elicit("Your name?", {"type": "object", "properties": {}}, ctx.request_id)
    except Exception as error:
        return f"refused: {error}"
    return "answered"


def _words() -> str:
    file = os.environ.get("WORDS")
    return Path(file).read_text() if file else "Act on the world."


class Door:
    """Lets in who has the token."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = os.environ.get("TOKEN")
        headers = dict(scope.get("headers", []))
        if scope["type"] == "http" and wanted and headers.get(b"authorization") != f"Bearer {wanted}".encode():
            await JSONResponse({"error": "who are you?"}, 401)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("book", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    said = parser.parse_args()
    served = server(Bank(said.book))
    if said.port is None:
        print(f"the bank is open, token {os.environ.get('TOKEN', 'none')}", file=sys.stderr, flush=True)
        asyncio.run(_over_stdio(served))
        return
    if os.environ.get("LEGACY") == "1":
        served._request_handlers.pop("server/discover", None)
    app = Door(served.streamable_http_app(json_response=os.environ.get("AS_JSON") == "1", host=said.host))
    uvicorn.run(app, host=said.host, port=said.port, log_level="warning", timeout_graceful_shutdown=1)


async def _over_stdio(served: Server[Any]) -> None:
    async with stdio_server() as (read, write):
        options = served.create_initialization_options(NotificationOptions(tools_changed=True))
        if os.environ.get("LEGACY") == "1":
            await serve_loop(served, read, write, lifespan_state={}, init_options=options)
        else:
            await served.run(read, write, options)


if __name__ == "__main__":
    main()
