"""`horarium routine run`, `pause`, `resume`, `backfill`, `fire` and `delete`, with a real engine that obeys."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client as TemporalClient
from temporalio.testing import WorkflowEnvironment
from typer.testing import CliRunner, Result

from horarium.cli import app
from horarium.client import Client
from horarium.contract import TickSource
from horarium.ledger.database import Ledger
from horarium.ledger.routines import RoutineRecord, Routines
from horarium.ledger.ticks import TickRecord, Ticks
from horarium.settings import Settings
from tests.engine.conftest import env
from tests.support.stack import CHECKOUT, LOOK_EVERY, PATIENCE

__all__ = ["env"]

Horarium = Callable[..., Result]
AGENT = "model: scripted:lines.yaml\ninstructions: Count.\nlimits: {max_turns: 3}\n"
LINES = "turns:\n  - {text: Counted., input_tokens: 7, output_tokens: 2}\n"
ROUTINES = {
    "counting": "triggers: {hours: {cron: '0 * * * *', time_zone: Europe/London}}\nlabels: {team: support}\n",
    "listing": "triggers: {opened: {event: count.asked}}\nlabels: {team: support}\n",
    "noting": "triggers: {often: {every: 2h}}\n",
}
YESTERDAY = ("--start", "2026-03-02T08:30", "--end", "2026-03-02T11:00", "--zone", "Europe/London")


@pytest.fixture(scope="module")
async def temporal(env: WorkflowEnvironment) -> AsyncIterator[TemporalClient]:
    yield env.client
    async for row in await env.client.list_schedules():
        await env.client.get_schedule_handle(row.id).delete()


@pytest.fixture(scope="module")
def deployed(temporal: TemporalClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose routines are deployed, and an engine that obeys."""
    root = tmp_path_factory.mktemp("orders")
    (root / "horarium.toml").write_text(f'[temporal]\naddress = "{temporal.service_client.config.target_host}"\n')
    (root / "lines.yaml").write_text(LINES)
    for folder in ("agents", "routines"):
        (root / folder).mkdir()
    (root / "agents" / "counter.yaml").write_text(AGENT)
    for name, text in ROUTINES.items():
        (root / "routines" / f"{name}.yaml").write_text(f"agent: counter\ninput: Count.\noverlap: buffer_all\n{text}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        applied = CliRunner().invoke(app, ["apply"])
    assert applied.exit_code == 0, applied.output
    with (root / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-c", "import horarium.cli; horarium.cli.main()", "worker"],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdout=log,
            stderr=log,
        )
    yield root
    worker.terminate()
    assert worker.wait(30) == 0, (root / "worker.log").read_text()


@pytest.fixture
def horarium(deployed: Path, monkeypatch: pytest.MonkeyPatch) -> Horarium:
    monkeypatch.chdir(deployed)
    for name in ("FORCE_COLOR", "HORARIUM_BY", "HORARIUM_ZONE"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*words: str, input: str | None = None) -> Result:
        result = CliRunner().invoke(app, ["routine", *words], input=input)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


async def _read(root: Path, name: str) -> tuple[RoutineRecord | None, list[TickRecord]]:
    ledger = await Ledger.open(Settings.load(root))
    try:
        return await Routines(ledger).current(name), await Ticks(ledger).list(routine=name, limit=100)
    finally:
        await ledger.close()


def record(root: Path, name: str) -> RoutineRecord:
    found, _ = asyncio.run(_read(root, name))
    assert found is not None
    return found


def ticks(root: Path, name: str) -> list[TickRecord]:
    return asyncio.run(_read(root, name))[1]


def of_source(root: Path, name: str, source: TickSource) -> list[TickRecord]:
    return [tick for tick in ticks(root, name) if tick.source == source]


def until(that: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not that():
        assert time.monotonic() < deadline
        time.sleep(LOOK_EVERY)


# ---- run


def test_a_tick_by_hand_is_waited_for_and_its_answer_printed(horarium: Horarium, deployed: Path) -> None:
    result = horarium("run", "counting", "--input", "Count to three.", "--wait", "--by", "ana")

    assert (result.exit_code, result.stdout) == (0, "Counted.\n")
    assert "Tick routine.counting." in result.stderr
    [tick] = of_source(deployed, "counting", "manual")
    assert (tick.status, tick.input, dict(tick.event or {})["by"]) == ("completed", "Count to three.", "ana")


def test_the_same_key_is_the_same_tick(horarium: Horarium, deployed: Path) -> None:
    first = horarium("run", "listing", "--key", "one", "--wait", "--json")
    again = horarium("run", "listing", "--key", "one")

    assert json.loads(first.stdout)["output"] == "Counted."
    assert again.stdout == "routine.listing.one\n"
    assert len([tick for tick in ticks(deployed, "listing") if tick.id == "routine.listing.one"]) == 1


def test_a_tick_that_does_not_complete_ends_with_1_and_says_why(horarium: Horarium, deployed: Path) -> None:
    file = deployed / "routines" / "broken.yaml"
    file.write_text("agent: counter\nversion: 1\ninput: '{{ state.cursor }}'\ntriggers: {t: {event: never}}\n")
    applied = CliRunner().invoke(app, ["apply", "routines/broken.yaml"])

    result = horarium("run", "broken", "--wait")

    assert applied.exit_code == 0, applied.output
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Error: The tick failed: The input template fails" in result.stderr


def test_an_unknown_routine_is_answered_with_the_near_miss_before_anything_is_done(horarium: Horarium) -> None:
    for command in (["run", "countin"], ["pause", "noting", "countin"], ["delete", "countin", "--yes"]):
        result = horarium(*command)

        assert (result.exit_code, result.stdout) == (2, "")
        assert "did you mean 'counting'?" in result.stderr


# ---- pause and resume


def test_a_routine_is_paused_with_a_note_until_a_time_and_resumed(horarium: Horarium, deployed: Path) -> None:
    until = ("--until", "2049-01-02T09:00", "--zone", "America/New_York")
    paused = horarium("pause", "noting", "--note", "The archive moves.", *until, "--by", "ana")
    row = record(deployed, "noting")
    again = horarium("pause", "noting", "--note", "The archive moves.", *until, "--by", "ana")
    listed = horarium("list", "--paused")
    resumed = horarium("resume", "noting")

    assert paused.exit_code == again.exit_code == resumed.exit_code == 0
    assert (row.paused, row.pause_note, row.paused_by) == (1, "The archive moves.", "ana")
    assert row.paused_until == datetime(2049, 1, 2, 14, tzinfo=UTC)
    assert "(as before)" in again.stdout
    assert "paused until Sat 2049-01-02 14:00 UTC" in listed.stdout
    assert record(deployed, "noting").paused == 0


def test_many_are_paused_by_a_label_and_all_resumed(horarium: Horarium, deployed: Path) -> None:
    paused = horarium("pause", "--label", "team=support", "--json")
    found = [record(deployed, name).paused for name in ROUTINES]
    resumed = horarium("resume", "--all", "--json")
    nothing = horarium("resume", "--all")

    assert [json.loads(line)["routine"] for line in paused.stdout.splitlines()] == ["counting", "listing"]
    assert found == [1, 1, 0]
    assert [json.loads(line)["routine"] for line in resumed.stdout.splitlines()] == ["counting", "listing"]
    assert (nothing.exit_code, nothing.stderr) == (0, "There are none.\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pause"], "say which: NAME..., --label KEY=VALUE, or --all"),
        (["pause", "counting", "--all"], "say which"),
        (["pause", "--label", "team"], "'team' is not KEY=VALUE"),
        (["pause", "counting", "--until", "2049-01-02T09:00"], "Write 2049-01-02T09:00Z, or add --zone"),
        (["pause", "counting", "--until", "2020-01-02T09:00Z"], "has passed"),
        (["run", "counting", "--input", " "], "the input is empty"),
        (["fire", "count.asked", "--payload", "[1]"], "must be one JSON object"),
        (["fire", "count.asked", "--payload", "{"], "is not JSON"),
        (["backfill", "counting", "--start", "yesterday"], "'yesterday' is no time"),
        (["backfill", "counting", "--start", "2026-03-02T08:30"], "has no time zone"),
        (["backfill", "counting", "--start", "2049-03-02T08:30Z", "--end", "2049-03-03T08:30Z"], "still to come"),
        (["backfill", "listing", "--start", "2026-03-02T08:30Z"], "no trigger of time"),
        (["delete", "counting"], "Add --yes to agree."),
    ],
)
def test_what_was_typed_wrong_is_told_and_changes_nothing(
    horarium: Horarium, deployed: Path, arguments: list[str], said: str
) -> None:
    before = record(deployed, "counting").generation

    result = horarium(*arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert record(deployed, "counting").generation == before


# ---- backfill


def test_a_backfill_is_shown_done_and_not_done_again(horarium: Horarium, deployed: Path) -> None:
    shown = horarium("backfill", "counting", *YESTERDAY, "--dry-run")
    nothing_yet = of_source(deployed, "counting", "backfill")
    done = json.loads(horarium("backfill", "counting", *YESTERDAY, "--by", "ana", "--json").stdout)

    assert [line.split()[:3] for line in shown.stdout.splitlines()[1:]] == [
        ["Mon", "2026-03-02", "09:00"],
        ["Mon", "2026-03-02", "10:00"],
        ["Mon", "2026-03-02", "11:00"],
    ]
    assert "3 ticks would be started, of 3 fires." in shown.stderr
    assert nothing_yet == []
    assert done["ticks"] == [f"routine.counting-2026-03-02T{hour}:00:00Z" for hour in ("09", "10", "11")]
    until(lambda: [tick.status for tick in of_source(deployed, "counting", "backfill")] == ["completed"] * 3)
    again = json.loads(horarium("backfill", "counting", *YESTERDAY, "--dry-run", "--json").stdout)
    assert again == {"routine": "counting", "would_start": [], "fires": 3}
    assert "stays: completed" in horarium("backfill", "counting", *YESTERDAY, "--dry-run").stdout


# ---- fire


def test_an_event_sets_off_the_routines_that_wait_for_it(horarium: Horarium, deployed: Path) -> None:
    fired = horarium("fire", "count.asked", "--payload", "-", "--key", "k-7", "--by", "ana", input='{"number": 7}')
    nobody = horarium("fire", "count.askd")

    assert fired.exit_code == nobody.exit_code == 0
    assert fired.stdout == "1 tick was started.\n  routine.listing.k-7\n"
    assert "did you mean 'count.asked'?" in nobody.stderr
    until(lambda: len(of_source(deployed, "listing", "event")) == 1)
    [tick] = of_source(deployed, "listing", "event")
    assert dict(tick.event or {})["event"] == {"number": 7}


# ---- delete, and who does not answer


def test_a_deleted_routine_is_gone_and_its_ticks_stay(horarium: Horarium, deployed: Path) -> None:
    file = deployed / "routines" / "passing.yaml"
    file.write_text("agent: counter\ninput: Count.\ntriggers: {t: {event: passing}}\n")
    CliRunner().invoke(app, ["apply", "routines/passing.yaml"])
    horarium("run", "passing", "--wait")

    deleted = horarium("delete", "passing", "--yes", "--by", "ana")

    assert deleted.exit_code == 0
    assert "'passing' is deleted; its ticks stay as evidence." in deleted.stdout
    assert "While these are there, horarium apply makes them anew." in deleted.stderr
    assert horarium("show", "passing").exit_code == 2
    assert "completed" in horarium("ticks", "passing").stdout


def test_one_that_fails_stops_no_other_and_is_told(
    horarium: Horarium, deployed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = Client.pause_routine

    async def gone_meanwhile(self: Client, name: str, **more: Any) -> Any:
        # Of another tenant's the engine says what it says of one that was deleted in between.
        return await pause(self, name, **more | ({"tenant": "another"} if name == "counting" else {}))

    with monkeypatch.context() as patch:
        patch.setattr(Client, "pause_routine", gone_meanwhile)
        result = horarium("pause", "counting", "noting")

    assert result.exit_code == 2
    assert "Error: counting: There is no routine 'counting'." in result.stderr
    assert "'noting' is paused" in result.stdout
    assert horarium("resume", "noting").exit_code == 0


def test_a_server_that_does_not_answer_is_told(
    horarium: Horarium, deployed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HORARIUM_TEMPORAL__ADDRESS", "127.0.0.1:1")

    for command in (["run", "counting"], ["pause", "counting"], ["fire", "count.asked"], ["resume", "counting"]):
        result = horarium(*command)

        assert (result.exit_code, result.stdout) == (3, "")
        assert "127.0.0.1:1" in result.stderr
    assert horarium("list").exit_code == 0
