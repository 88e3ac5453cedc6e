"""kill -9 in mid-tool: the next attempt finds the workspace as at the last settled step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes
from tests.support.stack import running_stack, until

pytestmark = [pytest.mark.slow, in_both_modes]

TOOLS = '''
import json
import time
from pathlib import Path

from horarium import ToolContext, tool

BOOK = Path(__file__).resolve().parent.parent / "book.jsonl"
GO = BOOK.with_name("go")


@tool(effect="idempotent")
def work(name: str, context: ToolContext) -> str:
    """Write a file, in two halves."""
    workspace = context.workspace
    with BOOK.open("a") as book:
        book.write(json.dumps({"name": name, "attempt": context.attempt, "found": list(workspace.list())}) + "\\n")
    workspace.write_text(name, "half")
    workspace.write_text("half of " + name, "x")
    with BOOK.open("a") as book:
        book.write(json.dumps({"name": name, "attempt": context.attempt, "half": True}) + "\\n")
    deadline = time.monotonic() + 30
    while name == "second" and not GO.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    workspace.remove("half of " + name)
    workspace.write_text(name, "whole")
    return str(list(workspace.list()))
'''
AGENT = "model: scripted:scripts/turns.yaml\ntools: [work]\napprovals: [{tools: ['*'], required: 0}]\n"
TURNS = [
    {"calls": [{"name": "work", "arguments": {"name": "first"}}]},
    {"calls": [{"name": "work", "arguments": {"name": "second"}}]},
    {"text": "All done."},
]


async def test_after_a_kill_in_mid_tool_the_workspace_is_as_at_the_last_settled_step(tmp_path: Path) -> None:
    book = tmp_path / "book.jsonl"

    def said() -> list[dict[str, object]]:
        return [json.loads(line) for line in book.read_text().splitlines()] if book.exists() else []

    async with running_stack(
        tmp_path, agents={"worker": AGENT}, tools_source=TOOLS, scripts={"turns.yaml": json.dumps(TURNS)}
    ) as stack:
        run = await stack.client.start("worker", "Go.")
        await until(lambda: any(line["name"] == "second" and "half" in line for line in said()), "half of it")
        stack.kill_worker()
        (tmp_path / "go").touch()
        stack.start_worker()
        result = await run.result()
        thread = str((await run.status()).thread)
        files = {file.name: file.size for file in await stack.client.workspace_files(thread)}
        versions = await stack.client.workspace_versions(thread)

    assert result.status == "completed"
    found = [(line["name"], line["attempt"], line["found"]) for line in said() if "found" in line]
    assert found == [("first", 1, []), ("second", 1, ["first"]), ("second", 2, ["first"])]
    assert files == {"first": 5, "second": 5}
    assert [version.version for version in versions] == [2, 1]
