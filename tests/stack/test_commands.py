"""`horarium init` and `horarium doctor`, and what every command's help has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from horarium.cli import app
from tests.stack.conftest import Write


def commands(group: Any, path: str = "") -> Iterator[str]:
    """Every command, those of groups inside of groups too."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}"


COMMANDS = sorted(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_and_its_exit_codes_in_its_help(command: str):
    said = CliRunner().invoke(app, [*command.split(), "--help"])

    assert said.exit_code == 0
    assert "Example" in said.output
    assert "Exit codes:" in said.output
    assert f"horarium {command}" in said.output


def test_a_new_project_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = CliRunner().invoke(app, ["init", str(tmp_path / "hello")])
    monkeypatch.chdir(tmp_path / "hello")
    checked = CliRunner().invoke(app, ["agents", "validate", "--json"])

    assert made.exit_code == 0, made.output
    assert "horarium up" in made.stderr
    found = json.loads(checked.stdout)
    assert (found["valid"], found["agents"], found["problems"]) == (True, ["hello"], [])
    files = {str(file.relative_to(tmp_path / "hello")) for file in (tmp_path / "hello").rglob("*") if file.is_file()}
    assert files >= {"horarium.toml", "agents/hello.yaml", "prompts/hello.md", "tools/hello.py"}


def test_a_directory_that_has_something_in_it_is_left_alone(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")

    refused = CliRunner().invoke(app, ["init", str(tmp_path)])

    assert refused.exit_code == 2
    assert "is not empty" in refused.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_doctor_says_what_fails_and_what_to_do_and_shows_no_secret(write: Write, monkeypatch: pytest.MonkeyPatch):
    settings = write(
        agents__a="model: openai:gpt-5.3\ntools: [lok]\n",
        tools__look="import workflows\nfrom horarium import tool\n\n@tool(effect='read')\ndef look() -> str: ...\n",
    )
    toml = '[models.openai]\nbase_url = "http://127.0.0.1:1/v1"\napi_key = "${DOCTOR_TEST_KEY}"\n'
    (settings.root / "horarium.toml").write_text(toml)
    monkeypatch.chdir(settings.root)
    monkeypatch.delenv("DOCTOR_TEST_KEY", raising=False)

    said = CliRunner().invoke(app, ["doctor", "--json"])

    findings = [json.loads(line) for line in said.stdout.splitlines()]
    states = {(finding["check"], finding["state"]) for finding in findings}
    assert said.exit_code == 1
    assert {("agents", "ok"), ("tool imports", "warn"), ("disk", "ok"), ("ledger", "ok")} <= states
    assert {("server", "fail"), ("credential", "fail"), ("model", "fail")} <= states
    advice = " ".join(finding["advice"] for finding in findings)
    assert "horarium up" in advice
    assert "export DOCTOR_TEST_KEY=" in advice
    assert "did you mean 'look'?" in " ".join(finding["found"] for finding in findings)


def test_the_commands_are_those_that_the_readme_knows():
    assert {"up", "worker", "init", "doctor", "run", "agents list", "agents validate", "runs watch"} <= set(COMMANDS)
