"""`horarium api-keys` and `horarium toolbox serve`, as people type them."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from mcp import Client as McpClient
from typer.testing import CliRunner

from horarium.cli import app
from horarium.ledger.api_keys import ApiKeys
from horarium.ledger.database import Ledger
from horarium.settings import Settings
from tests.support.stack import CHECKOUT, running_stack

TOOLS = '''
from horarium import Effect, tool

@tool(effect=Effect.READ)
def look(what: str) -> str:
    """Look at something."""
    return f"looked at {what}"
'''
Horarium = Callable[..., Result]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Nobody listens on port 1: whatever asks Temporal here is told so at once.
    (tmp_path / "horarium.toml").write_text('[temporal]\naddress = "127.0.0.1:1"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HORARIUM_BY", raising=False)
    return tmp_path


@pytest.fixture
def horarium(project: Path) -> Horarium:
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, list(arguments))

    return run


def checked(project: Path, key: str) -> bool:
    async def check() -> bool:
        ledger = await Ledger.open(Settings.load(project))
        try:
            return await ApiKeys(ledger).check(key) is not None
        finally:
            await ledger.close()

    return asyncio.run(check())


def test_a_key_is_printed_once_counts_and_is_revoked(project: Path, horarium: Horarium) -> None:
    made = horarium("api-keys", "create", "--name", "laptop", "--toolbox", "shop", "--lasts", "90d", "--by", "ana")
    key = made.stdout.strip()
    identity = key[:19]
    assert (made.exit_code, checked(project, key)) == (0, True)

    listed = horarium("api-keys", "list")
    assert identity in listed.stdout
    assert "toolbox:shop" in listed.stdout
    assert key not in listed.stdout

    assert horarium("api-keys", "revoke", identity).exit_code == 0
    assert horarium("api-keys", "revoke", identity).exit_code == 0
    assert not checked(project, key)
    [row] = [json.loads(line) for line in horarium("api-keys", "list", "--json").stdout.splitlines()]
    assert (row["name"], row["created_by"], row["scopes"]) == ("laptop", "ana", ["toolbox:shop"])
    assert row["revoked_at"]
    assert "hash" not in row


@pytest.mark.parametrize(
    "options",
    [
        ("--name", "laptop"),
        ("--name", "laptop", "--scope", "nonsense"),
        ("--name", "laptop", "--toolbox", "shop", "--lasts", "a while"),
        ("--name", " ", "--toolbox", "shop"),
    ],
)
def test_what_is_typed_wrong_makes_no_key(horarium: Horarium, options: tuple[str, ...]) -> None:
    assert horarium("api-keys", "create", *options).exit_code == 2
    assert horarium("api-keys", "list").stdout == ""


def test_a_key_that_is_not_there_cannot_be_revoked(horarium: Horarium) -> None:
    assert horarium("api-keys", "revoke", "hk_none").exit_code == 2


@pytest.mark.parametrize("arguments", [(), ("shop", "--all")])
def test_to_serve_one_names_toolboxes_or_says_all(horarium: Horarium, arguments: tuple[str, ...]) -> None:
    assert horarium("toolbox", "serve", *arguments).exit_code == 2


def test_serving_without_temporal_is_told_in_words(horarium: Horarium) -> None:
    assert horarium("toolbox", "serve", "--all").exit_code == 3


async def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    (tmp_path / "toolboxes").mkdir()
    (tmp_path / "toolboxes" / "shop.yaml").write_text("tools: [look]\n")
    async with running_stack(tmp_path, tools_source=TOOLS):
        serving = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "horarium", "toolbox", "serve", "shop", "--port", "0", "--json"),
            cwd=tmp_path,
            env={"PYTHONPATH": str(CHECKOUT), "PATH": ""},
            stdout=asyncio.subprocess.PIPE,
        )
        assert serving.stdout is not None
        try:
            told = json.loads(await asyncio.wait_for(serving.stdout.readline(), 60))
            async with McpClient(told["toolboxes"]["shop"]) as client:
                result = await client.call_tool("look", {"what": "the sky"})
            serving.send_signal(signal.SIGTERM)
            code = await asyncio.wait_for(serving.wait(), 30)
        finally:
            if serving.returncode is None:
                serving.kill()

    assert (result.is_error, code, told["anonymous"]) == (False, 0, True)


def test_a_gateway_with_a_wrong_setting_says_which_and_never_shows_a_traceback(
    project: Path, horarium: Horarium
) -> None:
    (project / "horarium.toml").write_text('[gateway]\nhots = ["horarium.example.com"]\n')

    ended = horarium("gateway")

    assert ended.exit_code == 2, ended.output
    assert "hots" in ended.stderr
    assert isinstance(ended.exception, SystemExit)
