"""A secret goes through a whole stack by every way that leads into storage, and is looked for in every file afterwards.

Tools and servers put credentials into what they print, raise and answer; none of it may be kept.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest

from horarium.client import Run
from tests.crash.rig import PATIENCE
from tests.support.stack import CHECKOUT, Role, Stack, running_stack

pytestmark = pytest.mark.slow

CANARY = "sk-canary-0815-4711"
TOOLS = '''
import os
import sys

from horarium import ToolContext, tool
from horarium.secrets import reveal


@tool(effect="read", attempts=1)
def shout(how: str, context: ToolContext) -> dict[str, str]:
    """Let the secret out in every way that a tool can."""
    secret = os.environ["CANARY_KEY"]
    assert secret == reveal("${CANARY_KEY}")
    print("On stdout:", secret, flush=True)
    print(f"On stderr: {secret}", file=sys.stderr, flush=True)
    if how == "raise":
        raise OSError(f"401 for {secret}")
    return {"leak": secret, secret: "as a key"}
'''
SHOUTS = """
- calls: [{name: shout, arguments: {how: raise}}]
- calls: [{name: shout, arguments: {how: answer}}]
- text: Done.
"""


class _Echo(BaseHTTPRequestHandler):
    """Refuses the request, and says which one it was."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        key = self.headers["Authorization"].removeprefix("Bearer ")
        body = f'{{"error": {{"message": "Incorrect API key provided: {key}", "code": "bad key {key}"}}}}'.encode()
        self.send_response(400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        cast("_EchoServer", self.server).keys.append(key)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _EchoServer(ThreadingHTTPServer):
    keys: list[str]


@contextmanager
def echo_server() -> Iterator[_EchoServer]:
    server = _EchoServer(("127.0.0.1", 0), _Echo)
    server.keys = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.mark.parametrize("process", ["engine", "own"])
async def test_a_secret_is_in_no_file_and_no_output_of_a_whole_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: str
) -> None:
    monkeypatch.setenv("CANARY_KEY", CANARY)
    workers: tuple[Role, ...] = ("engine", "tools") if process == "own" else ("engine",)
    with echo_server() as echo:
        settings = (
            f'[tools]\nprocess = "{process}"\n[models.openai]\n'
            f'base_url = "http://127.0.0.1:{echo.server_port}/v1"\napi_key = "${{CANARY_KEY}}"\n'
        )
        async with running_stack(
            tmp_path,
            agents={
                "shouter": "model: scripted:scripts/shouts.yaml\ntools: [shout]\n",
                "caller": "model: openai:gpt-5.3\n",
            },
            scripts={"shouts.yaml": SHOUTS},
            tools_source=TOOLS,
            settings=settings,
            workers=workers,
        ) as stack:
            shouter = await stack.client.start("shouter", "Shout.")
            caller = await stack.client.start("caller", "Call.")
            shouted = await shouter.result(PATIENCE)
            called = await caller.result(PATIENCE)
            outputs = await asyncio.to_thread(seen_by_the_cli, stack, [shouter, caller])
            for role in workers:
                stack.stop_worker(role)
            everything = {str(file): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} | outputs

    # It was really there: revealed, sent, refused, and raised.
    assert set(echo.keys) == {CANARY}
    assert shouted.status == "completed"
    assert (called.status, called.reason) == ("failed", "model_rejected")
    assert "bad key [secret]" in (called.message or "")
    logged = b"".join(text for name, text in everything.items() if name.endswith(".log"))
    assert b"On stdout: [secret]" in logged
    assert b"On stderr: [secret]" in logged
    assert any(name.endswith("temporal.db") for name in everything)
    assert any(name.endswith("ledger.db") for name in everything)
    assert b"[secret]" in outputs[f"runs show {shouter.id}"]
    assert [name for name, text in everything.items() if CANARY.encode() in text] == []


def seen_by_the_cli(stack: Stack, runs: list[Run]) -> dict[str, bytes]:
    """What the commands print of these runs."""
    said = {}
    shows = [f"runs show {run.id}" for run in runs] + [f"runs show {runs[0].id} --json"]
    for words in (*shows, "runs list --json"):
        done = subprocess.run(
            [sys.executable, "-m", "horarium", *words.split()],
            cwd=stack.directory,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            capture_output=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        said[words] = done.stdout + done.stderr
    return said
