"""What a process of ours imports before it does anything: every start of a worker is waited for after a death."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from horarium.cli import Commands, app

ROOT = Path(__file__).resolve().parents[2]
NOTED = "import sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}} & {{{names}}}))"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("horarium.cli", {"sqlalchemy", "alembic", "temporalio", "fastapi", "openai", "mcp", "workers"}),
        ("horarium.cli.runs", {"alembic", "temporalio", "fastapi", "openai", "mcp", "workers"}),
        ("horarium.cli.stack", {"sqlalchemy", "alembic", "temporalio", "fastapi", "openai", "mcp"}),
        ("workers.engine", {"alembic", "fastapi", "openai", "aiohttp", "azure", "mcp", "mcp_types", "typer"}),
        ("horarium.serving", {"alembic", "fastapi", "openai", "mcp", "jinja2", "typer", "activities"}),
        ("horarium.gateway.app", {"alembic", "openai", "typer", "activities", "workflows"}),
    ],
)
def test_an_import_leaves_alone_what_only_others_need(module: str, absent: set[str]) -> None:
    names = ", ".join(map(repr, sorted(absent)))

    assert said(f"import {module}; {NOTED.format(names=names)}") == ""


def test_a_ledger_that_is_up_to_date_is_opened_without_the_tool_that_changes_tables(tmp_path: Path) -> None:
    opened = (
        "import asyncio; from pathlib import Path; from horarium.ledger.database import Ledger\n"
        "from horarium.settings import Settings\n"
        "async def opened():\n"
        f"    await (await Ledger.open(Settings(root=Path({str(tmp_path)!r})))).close()\n"
        "asyncio.run(opened()); "
    ) + NOTED.format(names="'alembic'")

    assert [said(opened), said(opened)] == ["alembic", ""]


@pytest.mark.parametrize("name", list(Commands.late))
def test_the_list_of_commands_says_what_the_command_says_of_itself(name: str) -> None:
    command = typer.main.get_group(app).commands[name]

    assert command.get_short_help_str(limit=1_000) == Commands.late[name].says


def said(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
