"""Who may import whom, and what a plain `import horarium` costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ("workflows", "activities", "workers", "schedules")
OURS = ("horarium", *ENGINE)

# Modules that workflow code is replayed with: no clock, no network, no ledger.
DETERMINISTIC = {
    "horarium.content",
    "horarium.contract",
    "horarium.definitions",
    "horarium.durations",
    "horarium.edits",
    "horarium.errors",
    "horarium.ids",
    "horarium.people",
    "horarium.protocol",
    "horarium.tick_protocol",
    "horarium.tools",
    "horarium.turns",
    "horarium.watch_protocol",
}
SIDE_EFFECTS = {"time", "random", "secrets", "socket", "subprocess", "requests", "httpx", "sqlalchemy", "os", "pathlib"}


def test_the_public_package_imports_the_engine_only_where_the_cli_starts_it():
    importers = {module for module in modules("horarium") for name in imported(module) if name.split(".")[0] in ENGINE}

    assert {module for module in importers if module.relative_to(ROOT).parts[:2] != ("horarium", "cli")} == set()


def test_activities_import_the_public_package_and_each_other_alone():
    assert foreign("activities", allowed=("horarium", "activities")) == []


def test_schedules_import_the_public_package_and_each_other_alone():
    assert foreign("schedules", allowed=("horarium", "schedules")) == []


def test_workflows_import_definitions_contract_and_each_other_alone():
    wrong = [
        f"{module.relative_to(ROOT)}: {name}"
        for module in modules("workflows")
        for name in imported(module)
        if name.split(".")[0] in OURS
        and not name.startswith("workflows")
        and not any(name == known or name.startswith(f"{known}.") for known in DETERMINISTIC)
    ]

    assert wrong == []


def test_workflows_import_nothing_that_has_a_clock_a_network_or_dice():
    wrong = [
        f"{module.relative_to(ROOT)}: {name}"
        for module in modules("workflows")
        for name in imported(module)
        if name.split(".")[0] in SIDE_EFFECTS
    ]

    assert wrong == []


def test_the_state_machine_does_not_know_temporal():
    names = list(imported(ROOT / "workflows" / "machine.py"))

    assert "horarium.protocol" in names
    assert [name for name in names if name.startswith("temporalio")] == []


def test_nobody_imports_the_workers_but_the_cli_and_themselves():
    importers = [
        module.relative_to(ROOT).as_posix()
        for folder in OURS
        for module in modules(folder)
        if any(name.split(".")[0] == "workers" for name in imported(module))
    ]

    assert [path for path in importers if not path.startswith(("workers/", "horarium/cli/"))] == []


@pytest.mark.parametrize(
    "name", ["workflows", "activities", "workers", "schedules", "croniter", "temporalio", "sqlalchemy", "openai"]
)
def test_a_plain_import_in_a_fresh_interpreter_does_not_load(name: str):
    code = f"import horarium, sys; print({name!r} in {{m.partition('.')[0] for m in sys.modules}})"

    assert fresh(code) == "False"


def test_every_name_of_the_public_api_is_there_and_listed_once():
    code = "import horarium; print([n for n in horarium.__all__ if getattr(horarium, n, None) is None])"

    assert fresh(code) == "[]"
    assert fresh("import horarium; print(len(horarium.__all__) - len(set(horarium.__all__)))") == "0"


def fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def foreign(folder: str, *, allowed: tuple[str, ...]) -> list[str]:
    return [
        f"{module.relative_to(ROOT)}: {name}"
        for module in modules(folder)
        for name in imported(module)
        if name.split(".")[0] in OURS and name.split(".")[0] not in allowed
    ]


def modules(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, f"nothing in {folder}"
    return found


def imported(module: Path) -> Iterator[str]:
    """Every name that a module imports, wherever in it; relative imports do not occur (ruff sees to that)."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from names if node.module in OURS else [node.module]
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{module} has a relative import")
