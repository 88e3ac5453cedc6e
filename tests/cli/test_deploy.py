"""`horarium plan` shows what `horarium apply` then does, and neither does anything when a file is wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from temporalio.client import Client as TemporalClient
from temporalio.testing import WorkflowEnvironment
from typer.testing import CliRunner

from horarium.cli import app
from horarium.errors import Unreachable
from horarium.ledger.database import Ledger
from horarium.ledger.routines import RoutineRecord, Routines
from horarium.settings import Settings
from schedules.deploy import Deployment
from tests.engine.conftest import env

__all__ = ["env"]

Horarium = Callable[..., Result]
AGENT = "model: local\ninstructions: Triage.\n"
NIGHTLY = """\
agent: triage
input: Triage the issues.
triggers:
  mornings: {cron: "0 6 * * 1-5", time_zone: Europe/London}
  opened: {event: github.issue.opened}
"""
WEEKLY = "agent: triage\ninput: Sum the week up.\ntriggers: {main: {every: 7d}}\n"


@pytest.fixture
async def temporal(env: WorkflowEnvironment) -> AsyncIterator[TemporalClient]:
    yield env.client
    async for row in await env.client.list_schedules():
        await env.client.get_schedule_handle(row.id).delete()


@pytest.fixture
def project(temporal: TemporalClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    address = temporal.service_client.config.target_host
    (tmp_path / "horarium.toml").write_text(f'[temporal]\naddress = "{address}"\n')
    for folder in ("agents", "routines"):
        (tmp_path / folder).mkdir()
    (tmp_path / "agents" / "triage.yaml").write_text(AGENT)
    (tmp_path / "routines" / "nightly.yaml").write_text(NIGHTLY)
    (tmp_path / "routines" / "weekly.yaml").write_text(WEEKLY)
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "HORARIUM_BY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def horarium(project: Path) -> Horarium:
    runner = CliRunner()

    def invoke(*words: str) -> Result:
        result = runner.invoke(app, list(words))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


def rows(project: Path) -> list[RoutineRecord]:
    async def read() -> list[RoutineRecord]:
        ledger = await Ledger.open(Settings.load(project))
        try:
            return await Routines(ledger).list()
        finally:
            await ledger.close()

    return asyncio.run(read())


def test_what_is_planned_is_applied_and_then_there_is_nothing_to_do(horarium: Horarium, project: Path) -> None:
    planned = horarium("plan")
    nothing_yet = rows(project)
    applied = horarium("apply", "--by", "ana")
    again = horarium("plan", "--detailed-exitcode")
    repeated = horarium("apply")

    assert planned.exit_code == applied.exit_code == again.exit_code == repeated.exit_code == 0
    assert "+ nightly  create" in planned.stdout
    assert "Monday" in planned.stdout
    assert "2 to create." in planned.stdout
    assert "Carry it out with: horarium apply" in planned.stderr
    assert nothing_yet == []
    assert [(row.name, row.changed_by, row.managed_by) for row in rows(project)] == [
        ("nightly", "ana", "files"),
        ("weekly", "ana", "files"),
    ]
    assert "created  nightly" in applied.stdout
    assert again.stdout == repeated.stdout == "Nothing to do: 2 routines as deployed.\n"


def test_a_plan_with_changes_ends_with_2_in_ci_and_with_0_for_people(horarium: Horarium, project: Path) -> None:
    horarium("apply")
    (project / "routines" / "nightly.yaml").write_text(NIGHTLY.replace("0 6", "30 7"))

    for_ci, for_people = horarium("plan", "--detailed-exitcode"), horarium("plan")

    assert (for_ci.exit_code, for_people.exit_code) == (2, 0)
    assert "triggers.mornings.cron  0 6 * * 1-5 -> 30 7 * * 1-5" in for_ci.stdout
    assert "1 to update; 1 unchanged." in for_ci.stdout


def test_one_wrong_file_changes_nothing_at_all(horarium: Horarium, project: Path) -> None:
    (project / "routines" / "weekly.yaml").write_text(
        'agent: triag\ninput: Sum up.\ntriggers:\n  main: {cron: "61 * * * *"}\n  often: {every: 5s}\n'
    )

    planned, applied = horarium("plan", "--detailed-exitcode"), horarium("apply")

    assert (planned.exit_code, applied.exit_code) == (1, 2)
    for said in (planned.stderr, applied.stderr):
        assert "routines/weekly.yaml:1: agent: there is no agent 'triag'; did you mean 'triage'?" in said
        assert "routines/weekly.yaml:4: triggers.main" in said
        assert "routines/weekly.yaml:5: triggers.often" in said
    assert planned.stdout == applied.stdout == ""
    assert rows(project) == []


def test_what_has_no_file_any_more_is_deleted_only_with_prune_and_a_yes(horarium: Horarium, project: Path) -> None:
    horarium("apply")
    (project / "routines" / "weekly.yaml").unlink()

    kept = horarium("plan", "--detailed-exitcode")
    unasked = horarium("apply", "--prune")
    still_there = rows(project)
    pruned = horarium("apply", "--prune", "--yes")

    assert kept.exit_code == 0
    assert "weekly was deployed from files that are gone. To delete: horarium apply --prune" in kept.stderr
    assert unasked.exit_code == 2
    assert "Add --yes" in unasked.stderr
    assert len(still_there) == 2
    assert pruned.exit_code == 0
    assert "deleted  weekly" in pruned.stdout
    assert [row.name for row in rows(project)] == ["nightly"]


def test_single_files_are_applied_by_themselves(horarium: Horarium, project: Path) -> None:
    applied = horarium("apply", "routines/weekly.yaml")
    refused = horarium("apply", "routines/weekly.yaml", "--prune")

    assert applied.exit_code == 0
    assert [row.name for row in rows(project)] == ["weekly"]
    assert refused.exit_code == 2
    assert "--prune compares with all files" in refused.stderr


def test_a_pause_by_hand_is_shown_with_its_note(horarium: Horarium, temporal: TemporalClient, project: Path) -> None:
    horarium("apply")

    async def pause() -> None:
        client = await TemporalClient.connect(temporal.service_client.config.target_host)
        await client.get_schedule_handle("routine.weekly.main").pause(note="holidays")

    asyncio.run(pause())
    planned, applied = horarium("plan", "--detailed-exitcode"), horarium("apply")

    assert planned.exit_code == 2
    assert (
        '! weekly  repair: it is not so in Temporal\n    routine.weekly.main was paused in Temporal ("holidays")'
        in (planned.stdout)
    )
    assert "1 to repair; 1 unchanged." in planned.stdout
    assert "repaired weekly" in applied.stdout
    assert horarium("plan", "--detailed-exitcode").exit_code == 0


def test_what_is_probably_not_meant_is_a_warning_and_is_deployed(horarium: Horarium, project: Path) -> None:
    file = project / "routines" / "weekly.yaml"
    file.write_text(WEEKLY.replace("{every: 7d}", "{at: 2020-01-01T00:00:00Z}"))

    applied = horarium("apply")

    assert applied.exit_code == 0
    assert "Warning: routines/weekly.yaml:3: triggers.main.at: 2020-01-01 00:00 UTC is over" in applied.stderr
    assert len(rows(project)) == 2


def test_a_long_text_that_changed_is_shown_line_by_line(horarium: Horarium, project: Path) -> None:
    file = project / "routines" / "weekly.yaml"
    text = "input: |\n  First, look at what came in.\n  Then sum it up in one page.\n"
    file.write_text(WEEKLY.replace("input: Sum the week up.\n", text))
    horarium("apply")
    file.write_text(file.read_text().replace("one page", "two pages"))

    planned = horarium("plan")

    assert (
        "    input\n"
        "      - Then sum it up in one page.\n"
        "      + Then sum it up in two pages.\n\n"
        "1 to update; 1 unchanged.\n"
    ) in planned.stdout


def test_a_script_reads_the_same_as_json(horarium: Horarium, project: Path) -> None:
    planned: dict[str, Any] = json.loads(horarium("plan", "--json").stdout)
    applied: dict[str, Any] = json.loads(horarium("apply", "--json").stdout)
    again: dict[str, Any] = json.loads(horarium("plan", "--json").stdout)

    assert planned["counts"] == {"create": 2, "update": 0, "delete": 0, "repair": 0, "unchanged": 0}
    assert [change["action"] for change in planned["changes"]] == ["create", "create"]
    assert applied["applied"] == [
        {"routine": "nightly", "done": "created", "error": None},
        {"routine": "weekly", "done": "created", "error": None},
    ]
    assert again["empty"] is True


def test_a_failure_in_one_says_what_was_done_and_the_next_apply_finishes_it(
    horarium: Horarium, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converge = Deployment.converge

    async def dies_at_one(self: Deployment, name: str, **options: Any) -> RoutineRecord:
        if name == "nightly":
            raise Unreachable("The machine went away.")
        return await converge(self, name, **options)

    with monkeypatch.context() as broken:
        broken.setattr(Deployment, "converge", dies_at_one)
        failed = horarium("apply")
    half = horarium("plan", "--detailed-exitcode")
    finished = horarium("apply")

    assert failed.exit_code == 1
    assert "created  weekly" in failed.stdout
    assert "Error: nightly: The machine went away." in failed.stderr
    assert "1 of 2 failed, 1 done." in failed.stderr
    assert half.exit_code == 2
    assert "routine.nightly.mornings is not there" in half.stdout
    assert finished.exit_code == 0
    assert horarium("plan", "--detailed-exitcode").exit_code == 0


def test_a_server_that_does_not_answer_is_told(horarium: Horarium, project: Path) -> None:
    (project / "horarium.toml").write_text('[temporal]\naddress = "127.0.0.1:1"\n')

    assert horarium("plan").exit_code == 3
    assert horarium("plan", "--detailed-exitcode").exit_code == 1
