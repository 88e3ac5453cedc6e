"""A toolbox that any MCP client can use, from start to end: `python demo.py`, with nothing else running.

Starts `horarium up` and `horarium toolbox serve`, makes an API key, and connects MCP's own Python client. It counts
parts, orders a few, and orders many, which a person has to approve while the client waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client

from horarium import Client
from horarium.ledger.approvals import ApprovalRecord

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {**os.environ, "HORARIUM_BY": "ana"}
PATIENCE_SECONDS = 90.0
# With a key of the client's own, a call that is repeated is one order.
ONCE: Any = {"horarium/idempotency-key": "felt-2026-11"}
T = TypeVar("T")


async def main() -> None:
    """Do it, in a copy of this folder."""
    with tempfile.TemporaryDirectory() as directory:
        project = Path(directory) / "served-toolbox"
        shutil.copytree(HERE, project, ignore=shutil.ignore_patterns(".horarium", "__pycache__"))
        with process(project, "up"):
            await until(lambda: ready(project))
            with process(project, "toolbox", "serve", "stock", "--port", "0", "--json") as serving:
                line = await asyncio.to_thread(serving.stdout.readline) if serving.stdout else ""
                key = horarium(project, "api-keys", "create", "--name", "workbench", "--toolbox", "stock")
                await use(project, json.loads(line)["toolboxes"]["stock"], key)


async def use(project: Path, url: str, key: str) -> None:
    """What somebody with an MCP client sees."""
    async with connected(url, key) as client:
        for tool in (await client.list_tools()).tools:
            hints = tool.annotations
            print(f"{tool.name}: {tool.description} (only reads: {hints.read_only_hint if hints else None})")
        print((await client.call_tool("count_parts", {"part": "hinge"})).structured_content)
        print(said(await client.call_tool("order_parts", {"part": "hinge", "pieces": 4})))

        large = {"part": "felt-pad", "pieces": 500}
        waiting = asyncio.create_task(client.call_tool("order_parts", large, meta=ONCE))
        await approve(project)
        print(said(await waiting))
        print("The same key again:", said(await client.call_tool("order_parts", large, meta=ONCE)))
    orders = (project / "orders.jsonl").read_text().splitlines()
    print(f"{len(orders)} orders are in the supplier's book.")


async def approve(project: Path) -> None:
    """What the person does: `horarium approvals approve` says the same."""
    async with await Client.connect(directory=project) as client:
        question = await until(lambda: first(client))
        print(f"{question.requested_by} asks: {question.tool} {question.arguments}")
        run = client.run(question.run_id)
        await run.approve(await run.next_approval(), by="ana")


@contextlib.asynccontextmanager
async def connected(url: str, key: str) -> AsyncIterator[McpClient]:
    """MCP's own client, with the key."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=90) as http,
        McpClient(streamable_http_client(url, http_client=http)) as client,
    ):
        yield client


def said(result: object) -> str:
    """The text of a result."""
    return " ".join(block.text for block in getattr(result, "content", []) if hasattr(block, "text"))


async def first(client: Client) -> ApprovalRecord | None:
    """The oldest question in the inbox."""
    return next(reversed(await client.approvals()), None)


async def until(look: Callable[[], Awaitable[T | None]]) -> T:
    """Look again and again until there is something to see."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            seen = await look()
            if seen is not None:
                return seen
            await asyncio.sleep(0.1)


async def ready(project: Path) -> Path | None:
    """Where the stack says what it is, once it runs."""
    file = project / ".horarium" / "stack.json"
    return file if file.exists() else None


@contextlib.contextmanager
def process(project: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that runs until the block ends."""
    command = [sys.executable, "-m", "horarium", *arguments]
    with (project / f"{arguments[0]}.log").open("wb") as log:
        running = subprocess.Popen(command, cwd=project, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        yield running
    finally:
        running.terminate()
        running.communicate(timeout=30)


def horarium(project: Path, *arguments: str) -> str:
    """A command, and what it printed."""
    print("$ horarium", *arguments)
    command = [sys.executable, "-m", "horarium", *arguments]
    done = subprocess.run(command, cwd=project, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    asyncio.run(main())
