"""`horarium toolbox` on a project with files and versions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from horarium.cli import toolbox
from horarium.ledger.audit import AuditTrail
from horarium.ledger.database import Ledger
from horarium.settings import Settings
from horarium.toolboxpublishing import Publisher
from tests.toolboxes.crm import document_of

Toolbox = Callable[..., Result]

FIRST = """\
description: Customers and their tickets.
tools: [look]
openapi:
  crm: {document: crm.json, operations: [getTicket]}
"""
SECOND = """\
description: Customers and their tickets.
openapi:
  crm:
    document: crm.json
    effects: {closeTicket: idempotent}
"""


@pytest.fixture
def toolboxes() -> Toolbox:
    app = typer.Typer(rich_markup_mode=None)
    app.add_typer(toolbox.app, name="toolbox")
    runner = CliRunner()

    def invoke(*words: str) -> Result:
        result = runner.invoke(app, ["toolbox", *words])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


@pytest.fixture
def support(project: Path) -> Path:
    """A project whose toolbox has two versions; the first counts."""
    (project / "tools").mkdir()
    (project / "tools" / "looking.py").write_text(
        'from horarium import tool\n\n\n@tool(effect="read")\ndef look() -> str:\n    """Look."""\n    return "x"\n'
    )
    (project / "crm.json").write_text(json.dumps(document_of("https://crm.example.com")))
    (project / "toolboxes").mkdir()
    file = project / "toolboxes" / "support.yaml"
    for text in (FIRST, SECOND):
        file.write_text(text)
        asyncio.run(_publish(Settings.load(project)))
    return file


async def _publish(settings: Settings) -> None:
    ledger = await Ledger.open(settings)
    try:
        await Publisher(ledger, settings).refresh()
    finally:
        await ledger.close()


def test_list_says_which_version_counts_and_that_the_files_own_one_waits(support: Path, toolboxes: Toolbox) -> None:
    assert toolboxes("list").stdout.splitlines() == [
        "TOOLBOX  DEFAULT  NEWEST  TOOLS                       STATE",
        "support  1        2       1 Python tool, 1 operation  version 2 waits: promote it",
    ]

    support.write_text("tools: [look]\n")
    (support.parent / "new.yaml").write_text("tools: [look]\n")
    lines = [json.loads(line) for line in toolboxes("list", "--json").stdout.splitlines()]
    assert [(line["toolbox"], line["default"], line["state"]) for line in lines] == [
        ("new", None, "new"),
        ("support", 1, "changed, no version yet"),
    ]


def test_show_tells_each_tool_with_its_effect(support: Path, toolboxes: Toolbox) -> None:
    shown = toolboxes("show", "support").stdout
    second = json.loads(toolboxes("show", "support@2", "--json").stdout)

    assert "Toolbox support@1" in shown
    assert "this one, since" in shown
    assert "crm__getTicket  openapi  read" in shown
    assert [(tool["name"], tool["effect"]) for tool in second["tools"]] == [
        ("crm__getTicket", "read"),
        ("crm__closeTicket", "idempotent"),
    ]
    assert (second["version"], second["default"]) == (2, 1)


def test_diff_says_what_came_and_went_and_which_lines(support: Path, toolboxes: Toolbox) -> None:
    lines = toolboxes("diff", "support", "1", "2").stdout.splitlines()

    assert lines[:2] == ["- look", "+ crm__closeTicket (idempotent)"]
    assert "+      closeTicket: idempotent" in lines
    assert toolboxes("diff", "support", "1", "1").stderr.strip() == "Nothing differs."


def test_promote_and_rollback_move_the_default_and_are_kept_as_evidence(
    support: Path, project: Path, toolboxes: Toolbox
) -> None:
    promoted = toolboxes("promote", "support", "2", "--by", "ana")
    assert promoted.stdout == "support@2 counts from the next run on.\n"
    assert "current" in toolboxes("list").stdout
    assert [line.split()[0] for line in toolboxes("versions", "support").stdout.splitlines()] == ["VERSION", "2", "1"]

    back = toolboxes("rollback", "support", "--by", "ana", "--json")
    assert json.loads(back.stdout) == {"toolbox": "support", "default": 1, "previous": None}
    again = toolboxes("rollback", "support")
    assert (again.exit_code, "nothing to go back to" in again.stderr) == (1, True)
    assert asyncio.run(_audited(Settings.load(project))) == ["toolbox.promoted", "toolbox.rolled_back"]


async def _audited(settings: Settings) -> list[str]:
    ledger = await Ledger.open(settings)
    try:
        return [entry.kind for entry in await AuditTrail(ledger).entries()]
    finally:
        await ledger.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "suport"), "did you mean 'support'"),
        (("show", "support@9"), "has no version 9"),
        (("show", "support@x"), "a version is a number"),
        (("promote", "support", "9"), "has no version 9"),
        (("versions", "nobody"), "There is no toolbox 'nobody'"),
        (("rollback", "nobody"), "There is no toolbox 'nobody'"),
    ],
)
def test_what_is_not_there_is_said_in_two_lines(
    support: Path, toolboxes: Toolbox, words: tuple[str, ...], said: str
) -> None:
    result = toolboxes(*words)

    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 2


def test_check_tells_every_mistake_and_what_is_left_out(support: Path, project: Path, toolboxes: Toolbox) -> None:
    assert toolboxes("check").stderr.strip() == "1 toolbox is well."

    support.write_text("tools: [lok]\nagents: [clerk]\n")
    (project / "agents").mkdir()
    (project / "agents" / "hello.yaml").write_text("model: local\ntoolboxes: [suport]\n")
    wrong = toolboxes("check")
    assert wrong.exit_code == 2
    assert wrong.stdout.splitlines() == [
        "toolboxes/support.yaml:1: tools.0: there is no tool 'lok'; did you mean 'look'?",
        "toolboxes/support.yaml:2: agents.0: there is no agent 'clerk'",
        "agents/hello.yaml:2: toolboxes.0: there is no toolbox 'suport'; did you mean 'support'?",
    ]


def test_publish_makes_versions_of_what_changed_and_of_nothing_else(support: Path, toolboxes: Toolbox) -> None:
    support.write_text("tools: [look]\n")
    (support.parent / "new.yaml").write_text("tools: [look]\n")

    lines = [json.loads(line) for line in toolboxes("publish", "--json").stdout.splitlines()]

    assert lines == [
        {"toolbox": "new", "version": 1, "default": 1},
        {"toolbox": "support", "version": 3, "default": 1},
    ]
    again = toolboxes("publish")
    assert again.stdout.splitlines() == ["new@1 counts.", "support@3 waits."]
    assert again.stderr.strip() == "Let it count: horarium toolbox promote support 3"
