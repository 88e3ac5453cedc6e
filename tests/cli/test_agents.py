"""`horarium agents`, on a project's files and a real ledger."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from horarium.cli.doctor import Finding, examine
from horarium.settings import Settings
from tests.cli.conftest import Horarium

GOOD = "name: hello\nmodel: scripted:x.yaml\ntools: [look]\n"
TOOL = 'from horarium import tool\n\n\n@tool(effect="read")\ndef look(n: int) -> str:\n    "Look."\n    return "x"\n'


@pytest.fixture
def files(filled: Path) -> Path:
    for folder in ("agents", "tools"):
        (filled / folder).mkdir()
    (filled / "agents" / "hello.yaml").write_text(GOOD)
    (filled / "tools" / "look.py").write_text(TOOL)
    return filled


@pytest.mark.usefixtures("files")
def test_the_list_says_how_files_and_ledger_differ(horarium: Horarium) -> None:
    rows = [json.loads(line) for line in horarium("agents", "list", "--json").stdout.splitlines()]

    assert [(row["agent"], row["state"]) for row in rows] == [("clerk", "only in the ledger"), ("hello", "new")]


@pytest.mark.usefixtures("files")
def test_a_version_of_the_ledger_is_shown(horarium: Horarium) -> None:
    shown = json.loads(horarium("agents", "show", "clerk", "--version", "1", "--json").stdout)

    assert shown["version"] == 1
    assert shown["definition"]["model"] == "scripted:turns.yaml"


def test_what_an_agent_has_besides_python_tools_is_shown(horarium: Horarium, files: Path) -> None:
    has = "mcp: {maps: {url: 'https://maps.example.com/mcp'}}\ntoolboxes: [parcels@2]\nagents: [hello]\n"
    more = "tool_search: true\nmemory: {scope: letters}\n"
    (files / "agents" / "desk.yaml").write_text(f"model: scripted:x.yaml\n{has}{more}")

    shown = horarium("agents", "show", "desk").stdout
    listed = horarium("agents", "list").stdout

    assert "  sub-agent hello" in shown
    assert "  toolbox   parcels@2" in shown
    assert "  MCP       maps: https://maps.example.com/mcp" in shown
    assert "  search    5 tools at each turn, lexical" in shown
    assert "  memory    summary of 'letters', lexical" in shown
    assert "maps__*, toolbox parcels@2, agent hello" in listed


def test_a_toolbox_that_is_not_there_is_named_with_the_near_miss(horarium: Horarium, files: Path) -> None:
    (files / "toolboxes").mkdir()
    (files / "toolboxes" / "parcels.yaml").write_text("tools: [look]\n")
    (files / "agents" / "hello.yaml").write_text(f"{GOOD}toolboxes: [parcels, parcel@2]\n")

    result = horarium("agents", "validate")

    async def look() -> list[Finding]:
        return [finding async for finding in examine(Settings.load(files))]

    findings = asyncio.run(look())

    said = "agents/hello.yaml:4: toolboxes.1: there is no toolbox 'parcel'; did you mean 'parcels'?"
    assert (result.exit_code, result.stdout.splitlines()) == (2, [said])
    assert [finding.found for finding in findings if finding.check == "toolboxes"] == [said]


def test_a_ranking_that_is_not_installed_is_named_where_it_stands(
    horarium: Horarium, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = "tool_search: {ranking: embedding}\nmemory:\n  scope: letters\n  ranking: embedding\n"
    (files / "agents" / "hello.yaml").write_text(f"{GOOD}{more}")
    assert horarium("agents", "validate").exit_code == 0

    monkeypatch.setitem(sys.modules, "wordllama", None)
    result = horarium("agents", "validate")

    missing = "is `embedding`, and the model for it is not installed: pip install 'horarium[search]'"
    assert result.exit_code == 2
    assert result.stdout.splitlines() == [
        f"agents/hello.yaml:4: tool_search.ranking: {missing}",
        f"agents/hello.yaml:7: memory.ranking: {missing}",
    ]


@pytest.mark.usefixtures("files")
def test_an_agent_that_is_not_there_is_answered_with_the_near_miss(horarium: Horarium) -> None:
    result = horarium("agents", "show", "helo")

    assert result.exit_code == 2
    assert "did you mean 'hello'?" in result.stderr


@pytest.mark.usefixtures("files")
def test_a_project_that_is_well_is_valid(horarium: Horarium) -> None:
    assert horarium("agents", "validate").exit_code == 0


def test_every_mistake_of_every_file_is_named_with_file_line_field_and_near_miss(
    horarium: Horarium, files: Path
) -> None:
    (files / "agents" / "bad.yaml").write_text("name: bad\nmodel: local\nlimits: {max_turn: 3}\n")
    (files / "agents" / "hello.yaml").write_text(GOOD.replace("look", "lok"))

    result = horarium("agents", "validate")

    assert result.exit_code == 2
    assert "agents/bad.yaml:3: limits.max_turn: unknown field; did you mean 'max_turns'?" in result.stdout
    assert "agents/hello.yaml:3: tools.0: there is no tool 'lok'; did you mean 'look'?" in result.stdout
