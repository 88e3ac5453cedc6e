"""Tool workers on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from horarium.cli import app
from horarium.cli.doctor import examine
from horarium.definitions import Agent
from horarium.ledger.agents import Agents
from horarium.ledger.database import Ledger
from horarium.serving import present
from horarium.settings import Settings
from horarium.tools import Effect, ToolSpec

PAY = ToolSpec(name="pay", parameters={"type": "object", "properties": {}}, effect=Effect.EXTERNAL)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = await Ledger.open(Settings(root=tmp_path))
    yield ledger
    await ledger.close()


async def seen(root: Path, check: str) -> list[tuple[str, str, str]]:
    found = [finding async for finding in examine(Settings(root=root))]
    return [(finding.state, finding.found, finding.advice) for finding in found if finding.check == check]


async def test_doctor_shows_a_tool_worker_and_fails_when_it_is_gone(tmp_path: Path, ledger: Ledger) -> None:
    await Agents(ledger).register(Agent("clerk", model="scripted:x", tools=["pay"]))

    async with present(ledger, [PAY], "horarium-tools-payments"):
        [(state, found, _)] = await seen(tmp_path, "tool workers")
    assert (state, found.split(" (")[0]) == ("ok", "payments: 1 process")

    [(state, found, advice)] = await seen(tmp_path, "tool workers")
    assert state == "fail"
    assert found.startswith("nobody serves pay of tool worker 'payments', which clerk may call; it ended ")
    assert advice.startswith("Start it: horarium worker --tools --name payments")


async def test_doctor_says_which_agents_rank_by_what_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agents").mkdir()
    agent = {"name": "clerk", "model": "scripted:x", "tools": ["pay"], "tool_search": {"ranking": "embedding"}}
    agent["memory"] = {"scope": "desk", "ranking": "embedding"}
    (tmp_path / "agents" / "clerk.yaml").write_text(json.dumps(agent))
    assert await seen(tmp_path, "tool search") == await seen(tmp_path, "memory ranking") == []

    monkeypatch.setitem(sys.modules, "wordllama", None)

    assert await seen(tmp_path, "tool search") == [
        (
            "fail",
            "clerk ranks tools by `embedding`, and the model for it is not installed",
            "Install it: pip install 'horarium[search]'",
        )
    ]
    [(state, found, _)] = await seen(tmp_path, "memory ranking")
    assert (state, found) == (
        "fail",
        "clerk ranks memories by `embedding`, and the model for it is not installed",
    )


def test_only_tool_workers_have_names() -> None:
    refused = CliRunner().invoke(app, ["worker", "--name", "payments"])

    assert refused.exit_code == 2
    assert "add --tools" in refused.stderr
