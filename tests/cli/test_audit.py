"""`horarium audit`: exported from a real ledger, verified anywhere."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from horarium.audit import BEGINNING
from horarium.cli import app
from horarium.contract import RunRequest
from horarium.ids import new_thread_id
from horarium.ledger.audit import AuditEntry, append
from horarium.ledger.database import Ledger
from horarium.ledger.runs import Runs
from horarium.settings import Settings
from tests.cli.conftest import APPROVAL, DONE, WAITS
from tests.core.ledgers import NOON


@pytest.fixture
def trail(project: Path) -> Path:
    """A project with three entries about two runs, one of them with a comment that steers terminals."""

    async def fill() -> None:
        ledger = await Ledger.open(Settings.load(project))
        for run in (DONE, WAITS):
            await Runs(ledger).open(run, new_thread_id(), RunRequest(agent="clerk", input="Go."), 1)
        said = {"tool": "pay", "by": "bob", "verdict": "reject", "via": "update", "comment": "no \x1b[31m\u202egnp"}
        async with ledger.write() as connection:
            for run, kind in ((DONE, "notice.failed"), (WAITS, "approval.requested"), (WAITS, "approval.decided")):
                data = said if kind == "approval.decided" else {}
                entry = AuditEntry(kind=kind, at=NOON, tenant="default", run_id=run, subject=APPROVAL, data=data)
                await append(connection, entry)
        await ledger.close()

    asyncio.run(fill())
    return project


def horarium(*words: str, input: str | None = None) -> Result:
    result = CliRunner().invoke(app, ["audit", *words], input=input)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def head_of(result: Result) -> str:
    found = re.search(r"^Head: (\S+)$", result.stderr, re.MULTILINE)
    assert found is not None, result.stderr
    return found.group(1)


@pytest.mark.usefixtures("trail")
def test_the_list_says_what_was_decided_by_whom_and_shows_what_hides() -> None:
    result = horarium("list")

    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["#", "1", "2", "3"]
    assert "bob" in result.stdout
    assert "tool: pay, verdict: reject, via: update, comment: no <U+001B>[31m<U+202E>gnp" in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.usefixtures("trail")
def test_the_list_of_a_run_has_its_entries_alone_and_the_newest_when_there_are_more() -> None:
    listed = horarium("list", "--run", WAITS[:8], "--json").stdout.splitlines()

    assert [json.loads(line)["seq"] for line in listed] == [2, 3]
    assert json.loads(horarium("list", "--limit", "1", "--json").stdout)["kind"] == "approval.decided"


@pytest.mark.usefixtures("project")
def test_nothing_in_the_trail_is_said_and_exported_as_an_empty_file() -> None:
    assert "The audit trail is empty." in horarium("list").stderr
    exported = horarium("export", "trail.jsonl")

    assert head_of(exported) == BEGINNING
    assert Path("trail.jsonl").read_text() == ""
    assert horarium("verify", "trail.jsonl", "--head", BEGINNING).exit_code == 0


def test_an_exported_trail_is_intact_anywhere_also_where_a_project_is_broken(
    trail: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = horarium("export", "trail.jsonl")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "horarium.toml").write_text("this is no TOML")
    monkeypatch.chdir(elsewhere)

    result = horarium("verify", str(trail / "trail.jsonl"), "--head", head_of(exported))

    assert (result.exit_code, exported.exit_code) == (0, 0)
    assert result.stdout == f"Intact: 3 entries, head {head_of(exported)}\n"
    assert [file.name for file in elsewhere.iterdir()] == ["horarium.toml"]


@pytest.mark.usefixtures("trail")
def test_what_goes_to_stdout_is_the_trail_alone_and_can_be_piped_back() -> None:
    exported = horarium("export")

    result = horarium("verify", "-", "--anchor", head_of(exported), "--json", input=exported.stdout)

    assert exported.stdout.count("\n") == 3
    assert exported.stdout.isascii()
    assert json.loads(result.stdout) == {"entries": 3, "head": head_of(exported), "problem": None, "intact": True}


@pytest.mark.usefixtures("trail")
def test_without_a_hash_that_was_kept_it_is_said_what_cannot_be_seen() -> None:
    horarium("export", "trail.jsonl")

    assert "kept elsewhere" in horarium("verify", "trail.jsonl").stderr


def test_a_row_that_was_changed_in_the_database_breaks_the_export_at_its_line(trail: Path) -> None:
    with sqlite3.connect(trail / ".horarium" / "ledger.db") as database:
        database.execute("UPDATE audit SET data = replace(data, 'reject', 'approve') WHERE seq = 3")
    horarium("export", "trail.jsonl")

    result = horarium("verify", "trail.jsonl")

    assert result.exit_code == 1
    assert result.stdout.startswith("Broken: Line 3 was changed")
    assert "Good up to there: 2 entries" in result.stderr


@pytest.mark.usefixtures("trail")
def test_a_file_whose_last_line_was_cut_off_is_broken_when_its_head_was_kept() -> None:
    exported = horarium("export", "trail.jsonl")
    file = Path("trail.jsonl")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))

    assert horarium("verify", "trail.jsonl").exit_code == 0
    result = horarium("verify", "trail.jsonl", "--head", head_of(exported))

    assert result.exit_code == 1
    assert "the end was cut off" in result.stdout


@pytest.mark.usefixtures("trail")
def test_a_byte_that_is_no_text_is_found_in_its_line() -> None:
    horarium("export", "trail.jsonl")
    file = Path("trail.jsonl")
    file.write_bytes(file.read_bytes().replace(b"default", b"def\xffult"))

    result = horarium("verify", "trail.jsonl", "--json")

    assert result.exit_code == 1
    assert json.loads(result.stdout)["problem"]["line"] == 1


@pytest.mark.usefixtures("trail")
def test_a_file_that_cannot_be_written_is_said_and_nothing_is_left_behind(trail: Path) -> None:
    (trail / "folder").mkdir()
    before = sorted(trail.iterdir())

    for wrong in ("folder", "missing/trail.jsonl"):
        result = horarium("export", wrong)
        assert result.exit_code == 2
        assert f"Error: Cannot write {wrong}" in result.stderr

    assert sorted(trail.iterdir()) == before


@pytest.mark.usefixtures("trail")
def test_an_export_replaces_the_file_as_a_whole_and_is_for_its_owner_alone() -> None:
    Path("trail.jsonl").write_text("what was there before, and was longer\n" * 100)

    horarium("export", "trail.jsonl")

    assert len(Path("trail.jsonl").read_text().splitlines()) == 3
    assert Path("trail.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "words",
    [
        ("verify", "nowhere.jsonl"),
        ("verify", "."),
        ("verify", "horarium.toml", "--head", "5f0c"),
        ("list", "--limit", "0"),
    ],
)
@pytest.mark.usefixtures("project")
def test_what_was_typed_wrong_exits_with_2(words: tuple[str, ...]) -> None:
    assert horarium(*words).exit_code == 2


@pytest.mark.parametrize("command", ["list", "export", "verify"])
def test_every_help_has_an_example_and_the_exit_codes(command: str) -> None:
    said = horarium(command, "--help").stdout

    assert f"  horarium audit {command}" in said
    assert "Exit codes:" in said


def test_an_empty_file_proves_nothing_unless_its_head_says_that_the_trail_was_empty(tmp_path: Path) -> None:
    file = tmp_path / "trail.jsonl"
    for text in ("", "\n\n"):
        file.write_text(text)
        result = horarium("verify", str(file))
        assert (result.exit_code, result.stdout[:5]) == (1, "Empty")
        told = json.loads(horarium("verify", str(file), "--json").stdout)
        assert (told["intact"], told["entries"]) == (False, 0)

    assert horarium("verify", str(file), "--head", BEGINNING).exit_code == 0
