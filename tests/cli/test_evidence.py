"""`horarium evidence`: exported from a real ledger, verified anywhere; and `horarium runs diff`."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from horarium.cli import app
from horarium.contract import TickRequest
from horarium.ledger.database import Ledger
from horarium.ledger.routines import Routines
from horarium.ledger.runs import Runs
from horarium.ledger.ticks import Ticks
from horarium.routines import Routine, tick_id
from horarium.settings import Settings
from horarium.tick_protocol import CloseTick, OpenTick
from tests.cli.conftest import APPROVAL, BROKEN, DONE, WAITS
from tests.core.ledgers import NOON


def horarium(*words: str, input: str | None = None) -> Result:
    result = CliRunner().invoke(app, list(words), input=input)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_exported_evidence_is_verified_anywhere_with_the_key_that_was_pinned(
    filled: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = horarium("evidence", "export", WAITS[:9], "-o", "run.evidence.json", "--by", "ana")
    key = horarium("evidence", "key").stdout.strip()
    file = filled / "run.evidence.json"
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "horarium.toml").write_text("this is no TOML")
    monkeypatch.chdir(elsewhere)

    good = horarium("evidence", "verify", str(file), "--key", key)
    unpinned = horarium("evidence", "verify", "-", input=file.read_text())
    other = horarium("evidence", "verify", str(file), "--key", "A" * 43)

    assert exported.exit_code == 0
    assert f"--key {key}" in exported.stderr
    assert "has not ended: this is its evidence so far" in exported.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text())["made"]["by"] == "ana"
    assert [one["id"] for one in json.loads(file.read_text())["body"]["run"]["approvals"]] == [APPROVAL]
    assert (good.exit_code, good.stdout.splitlines()[-1]) == (0, f"It holds: the evidence of {WAITS}.")
    assert "Trusted is" not in good.stderr
    assert unpinned.exit_code == 0
    assert "Trusted is the file's own key alone" in unpinned.stderr
    assert (other.exit_code, other.stdout.splitlines()[-1]) == (1, "It does not hold.")
    assert "Another key signed it" in other.stdout
    assert [found.name for found in elsewhere.iterdir()] == ["horarium.toml"]


@pytest.mark.usefixtures("filled")
def test_a_changed_file_does_not_hold_and_what_is_no_file_or_key_is_typed_wrong() -> None:
    horarium("evidence", "export", DONE, "-o", "run.json")
    file = Path("run.json")
    file.write_text(file.read_text().replace("The disk is full", "The disk is fine"))
    binary = Path("other.json")
    binary.write_bytes(b"\xff\x00")

    changed = horarium("evidence", "verify", "run.json", "--json")

    assert changed.exit_code == 1
    assert json.loads(changed.stdout)["holds"] is False
    assert "It was changed" in json.loads(changed.stdout)["wrong"][0]
    assert horarium("evidence", "verify", "other.json").exit_code == 1
    assert horarium("evidence", "verify", "nowhere.json").exit_code == 2
    assert horarium("evidence", "verify", "run.json", "--trail", "nowhere.jsonl").exit_code == 2
    assert horarium("evidence", "verify", "run.json", "--key", "mine").exit_code == 2
    assert horarium("evidence", "export", "run_nobodys").exit_code == 2
    assert horarium("evidence", "export", DONE, "-o", "no/such/folder.json").exit_code == 2


@pytest.mark.usefixtures("filled")
def test_with_the_whole_trail_it_is_seen_whether_an_entry_is_missing() -> None:
    horarium("evidence", "export", WAITS, "-o", "run.json")
    horarium("audit", "export", "audit.jsonl")
    trail = Path("audit.jsonl")

    whole = horarium("evidence", "verify", "run.json", "--trail", "audit.jsonl")
    trail.write_text("")
    cut = horarium("evidence", "verify", "run.json", "--trail", "audit.jsonl")

    assert whole.exit_code == 0
    assert "has exactly these entries about it" in whole.stdout
    assert "the trail was written anew, or cut off" in cut.stdout
    assert cut.exit_code == 1


@pytest.mark.usefixtures("filled")
def test_two_runs_are_compared_without_a_server() -> None:
    found = horarium("runs", "diff", DONE, BROKEN)
    same = horarium("runs", "diff", DONE, DONE)

    assert found.exit_code == 0
    assert f"before  {DONE}: completed, clerk@1" in found.stdout
    assert f"after   {BROKEN}: incomplete (max_turns), clerk@1" in found.stdout
    assert "- 1 read_log" in found.stdout
    assert "-The disk is full." in found.stdout
    assert "\x1b" not in found.stdout
    assert "They did the same and came to the same." in same.stdout
    assert json.loads(horarium("runs", "diff", DONE, DONE, "--json").stdout)["same"] is True
    assert horarium("runs", "diff", DONE, "run_nobodys").exit_code == 2


def test_the_last_two_ticks_that_began_are_compared_or_those_that_are_named(filled: Path) -> None:
    async def fill() -> None:
        ledger = await Ledger.open(Settings.load(filled))
        try:
            await two_ticks(ledger)
        finally:
            await ledger.close()

    asyncio.run(fill())

    last = horarium("routine", "diff", "daily")
    named = horarium("routine", "diff", "daily", "2026-11-22", "2026-11-21T12", "--json")
    one = horarium("routine", "diff", "daily", "2026-11-22", "--json")

    assert last.exit_code == 0, last.stderr
    assert "before  routine.daily-2026-11-21T12:00:00Z: " in last.stdout
    assert "-Look at apples.\n  +Look at pears." in last.stdout
    assert json.loads(named.stdout)["before"]["run"] == BROKEN
    assert json.loads(one.stdout)["after"]["run"] == DONE
    assert horarium("routine", "diff", "daily", "2026").exit_code == 2
    assert horarium("routine", "diff", "nobodys").exit_code == 2


async def two_ticks(ledger: Ledger) -> None:
    """Two ticks that began, and a third that was cancelled before it did."""
    ticks = Ticks(ledger)
    routine = Routine(name="daily", agent="clerk", input="Look.")
    await Routines(ledger).put(routine, by="ana", at=NOON)
    for day, run, asked in ((0, DONE, "Look at apples."), (1, BROKEN, "Look at pears."), (2, None, "")):
        at = NOON + timedelta(days=day)
        tick, request = tick_id("daily", at), TickRequest(routine="daily", trigger="t")
        await ticks.open(OpenTick(tick=tick, execution=tick, request=request, scheduled_at=at, at=at))
        if run is not None:
            thread = (await Runs(ledger).get(run)).thread_id
            await ticks.attempt_opened(tick, 1, run=run, thread=thread, input=asked, keep_thread=False)
        await ticks.close(CloseTick(tick=tick, status="completed" if run else "cancelled", at=at))


def test_every_command_of_the_guide_is_one_with_these_options() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "evidence.md").read_text("utf-8")
    lines = [line.partition("#")[0].split() for line in guide.splitlines() if line.startswith("horarium ")]

    assert len(lines) == 6
    for _, noun, verb, *rest in lines:
        help = horarium(noun, verb, "--help")
        assert help.exit_code == 0, (noun, verb)
        assert [word for word in rest if word.startswith("-") and f" {word}" not in help.stdout.replace(",", "")] == []
