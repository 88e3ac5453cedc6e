"""The client scenarios of the official conformance suite that concern tools; the rest: docs/guides/mcp.md."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.support.stack import CHECKOUT
from tests.support.thirdparty import node, node_modules

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # the first installs

CLIENT = Path(__file__).with_name("conformance_client.py")


@pytest.mark.parametrize("scenario", ["initialize", "tools_call", "sse-retry"])
async def test_the_engine_as_a_client_passes(tmp_path: Path, scenario: str) -> None:
    suite = node_modules() / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    running = await asyncio.create_subprocess_exec(
        *(node(), str(suite), "client", "--command", f"{sys.executable} {CLIENT}", "--scenario", scenario),
        *("--output-dir", str(tmp_path / "results")),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(running.communicate(), 60)

    (found,) = (tmp_path / "results").rglob("checks.json")
    checks = [(check["id"], check["status"]) for check in json.loads(found.read_text())]
    assert running.returncode == 0, said.decode()
    assert checks
    assert {status for _, status in checks} <= {"SUCCESS", "INFO"}, checks
