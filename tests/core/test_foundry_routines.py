"""Routines in Foundry's shape: there and back, by the SDK's own models, and what is said of what is lost."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from azure.ai.projects import models
from typer.testing import CliRunner

from horarium.cli import routine_import
from horarium.errors import ConfigError
from horarium.foundry_routines import INVOCATIONS, NO_INPUT, export_foundry, import_foundry
from horarium.project import load_routines
from horarium.routines import AtTrigger, CronTrigger, EventTrigger, EveryTrigger, Routine
from horarium.settings import Settings

AT = datetime(2026, 12, 1, 9, tzinfo=UTC)


def foundry(**changes: Any) -> dict[str, Any]:
    fields = {
        "name": "nightly",
        "description": "Looks through the night's issues.",
        "enabled": True,
        "triggers": {
            "mornings": models.ScheduleRoutineTrigger(cron_expression="0 6 * * 1-5", time_zone="Europe/London"),
            "once": models.TimerRoutineTrigger(at=AT),
            "opened": models.GitHubIssueRoutineTrigger(
                connection_id="gh", owner="acme", repository="shop", issue_event="opened"
            ),
            "build": models.CustomRoutineTrigger(
                provider="ci", event_name="build.failed", parameters={"branch": "main"}
            ),
        },
        "action": models.InvokeAgentResponsesApiRoutineAction(agent_name="triage", input="Triage them."),
    }
    made: dict[str, Any] = models.Routine(**(fields | changes)).as_dict()
    return made


def test_a_routine_of_the_sdk_becomes_one_of_ours():
    values, notes = import_foundry(foundry())
    routine = Routine.model_validate(values)

    assert (routine.name, routine.agent, routine.input) == ("nightly", "triage", "Triage them.")
    assert routine.description == "Looks through the night's issues."
    assert routine.triggers == {
        "mornings": CronTrigger(cron="0 6 * * 1-5", time_zone="Europe/London"),
        "once": AtTrigger(at=AT),
        "opened": EventTrigger(event="github.issue.opened"),
        "build": EventTrigger(event="ci.build.failed"),
    }
    assert [note.partition(":")[0] for note in notes] == ["triggers.opened", "triggers.build"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"enabled": False, "description": None},
        {
            "action": models.InvokeAgentResponsesApiRoutineAction(
                agent_name="a", input=[{"role": "user", "content": "x"}]
            )
        },
        {"action": models.InvokeAgentResponsesApiRoutineAction(agent_name="a", input="x", conversation="conv_1")},
        {"action": models.InvokeAgentResponsesApiRoutineAction(agent_name="a")},
        {"action": models.InvokeAgentInvocationsApiRoutineAction(agent_name="a", input={"n": 1}, session_id="s1")},
        {"action": models.InvokeAgentInvocationsApiRoutineAction(agent_endpoint_id="/agents/a", input="x")},
        {"action": models.InvokeAgentResponsesApiRoutineAction(agent_name="a", input="Write {{ name }} {% raw %}")},
        {
            "action": models.InvokeAgentResponsesApiRoutineAction(
                agent_name="a", input='{% raw %}"{{ x }}"{% endraw %}\n'
            )
        },
    ],
)
def test_there_and_back_is_the_same(changes: dict[str, Any]):
    before = {key: value for key, value in foundry(**changes).items() if value is not None}
    values, _ = import_foundry(before)

    after, notes = export_foundry(Routine.model_validate(values))

    assert after == before
    assert notes == []
    assert models.Routine(after).as_dict() == after


def test_the_identity_that_it_runs_as_is_kept_and_told():
    values, notes = import_foundry(foundry(triggers={}) | {"authorization": {"identity": "creator"}})

    after, _ = export_foundry(Routine.model_validate(values))

    assert after["authorization"] == {"identity": "creator"}
    assert notes == ["authorization.identity: creator: here its runs are started by the routine; see `requested_by`"]


def test_a_zone_of_windows_gets_its_iana_name():
    trigger = models.ScheduleRoutineTrigger(cron_expression="0 6 * * *", time_zone="W. Europe Standard Time")
    values, notes = import_foundry(foundry(triggers={"t": trigger}))

    assert values["triggers"]["t"]["time_zone"] == "Europe/Berlin"
    assert notes == ["triggers.t: the zone 'W. Europe Standard Time' is Europe/Berlin here"]


def test_what_has_no_like_here_is_told():
    item = foundry(name="näch tlich", triggers={}, action={"type": INVOCATIONS, "agent_name": "a"})
    item["triggers"] = {"a b": {"type": "moon"}, "never": {"type": "timer"}}

    values, notes = import_foundry(item)

    assert (values["name"], values["triggers"], values["input"]) == ("n-ch-tlich", {}, NO_INPUT)
    assert notes == [
        "the routine is called 'n-ch-tlich' here, because a name has letters, digits, '-' and '_' only",
        "the trigger 'a b' is called 'a-b' here, because a name has letters, digits, '-' and '_' only",
        "triggers.a-b: there is no trigger like 'moon' here; left out",
        "triggers.never: it says no time that can be read; left out",
        f"action.input: there is none, and a routine says something here: {NO_INPUT!r}",
    ]


@pytest.mark.parametrize(
    "item", [{}, {"name": "a", "action": {"type": "x"}}, {"name": "a", "action": {"type": INVOCATIONS}}]
)
def test_what_calls_no_agent_is_refused(item: dict[str, Any]):
    with pytest.raises(ConfigError, match="agent"):
        import_foundry(item)


@pytest.mark.parametrize(
    ("every", "offset", "cron"),
    [
        ("15m", "0s", "*/15 * * * *"),
        ("15m", "5m", "5-59/15 * * * *"),
        ("1h", "7m", "7 * * * *"),
        ("2h", "0s", "0 */2 * * *"),
        ("6h", "1h30m", "30 1-23/6 * * *"),
        ("1d", "6h15m", "15 6 * * *"),
    ],
)
def test_a_fixed_distance_is_given_as_a_cron_line_that_fires_at_the_same_times(every: str, offset: str, cron: str):
    croniter = pytest.importorskip("croniter").croniter
    trigger = EveryTrigger.model_validate({"every": every, "offset": offset})

    made, notes = export_foundry(Routine(name="r", agent="a", input="x", triggers={"t": trigger}))

    assert made["triggers"]["t"] == {"type": "schedule", "cron_expression": cron, "time_zone": "UTC"}
    assert notes == [f"triggers.t: Foundry has no `every`; given as the cron line {cron!r} in UTC"]
    fires = croniter(cron, AT)
    for _ in range(30):
        fire = fires.get_next(datetime)
        assert (fire.timestamp() - trigger.offset.total_seconds()) % trigger.every.total_seconds() == 0


@pytest.mark.parametrize("trigger", [{"every": "90m"}, {"every": "30s"}, {"every": "5d"}, {"cron": "* * * * * 0"}])
def test_a_trigger_that_foundry_cannot_have_is_left_out_and_told(trigger: dict[str, str]):
    made, notes = export_foundry(
        Routine.model_validate({"name": "r", "agent": "a", "input": "x", "triggers": {"t": trigger}})
    )

    assert made["triggers"] == {}
    assert notes[0].startswith("triggers.t: ")
    assert notes[0].endswith("; left out")


def test_every_setting_that_is_lost_on_the_way_out_is_told():
    routine = Routine.model_validate(
        {
            "name": "r",
            "agent": "a",
            "version": 2,
            "input": "Since {{ previous.started_at }}",
            "triggers": {"t": {"cron": "* * * * *", "gap": "skip"}, "e": {"event": "shop.order"}},
            "on_failure": "retry",
            "retry": {"attempts": 5},
            "overlap": "buffer_one",
            "alert": ["${URL}"],
            "labels": {"team": "ops"},
        }
    )

    made, notes = export_foundry(routine)

    assert made["triggers"]["e"] == {"type": "custom", "provider": "shop", "event_name": "order", "parameters": {}}
    assert made["action"]["input"] == routine.input
    assert [note.partition(":")[0] for note in notes] == [
        *("triggers.t", "triggers.t", "input", "version", "on_failure", "retry", "alert", "overlap", "labels"),
    ]


# ---- by hand


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    (tmp_path / "horarium.toml").touch()
    monkeypatch.chdir(tmp_path)
    return Settings.load(tmp_path)


@pytest.fixture
def cli() -> typer.Typer:
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command("import")(routine_import.import_)
    app.command("export")(routine_import.export)
    return app


def test_the_cli_writes_files_that_are_read_again(project: Settings, cli: typer.Typer):
    (project.root / "all.json").write_text(json.dumps({"data": [foundry(), foundry(name="other", triggers={})]}))

    done = CliRunner().invoke(cli, ["import", "all.json", "--write"])

    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == ["Wrote routines/nightly.yaml", "Wrote routines/other.yaml"]
    assert "Note: nightly: triggers.opened: send the event of issues of acme/shop only" in done.stderr
    assert load_routines(project)["nightly"] == Routine.model_validate(import_foundry(foundry())[0])

    back = CliRunner().invoke(cli, ["export", "nightly"])
    assert json.loads(back.stdout) == foundry()


def test_the_cli_overwrites_nothing_and_then_writes_nothing(project: Settings, cli: typer.Typer):
    (project.root / "routines").mkdir()
    (project.root / "routines" / "other.yaml").write_text("agent: a\ninput: mine\n")
    (project.root / "all.json").write_text(json.dumps([foundry(), foundry(name="other")]))

    done = CliRunner().invoke(cli, ["import", "all.json", "--write"])

    assert done.exit_code == 2
    assert done.stderr.startswith("Error: routines/other.yaml is there already.")
    assert [file.name for file in (project.root / "routines").iterdir()] == ["other.yaml"]


def test_the_cli_shows_what_it_would_write(project: Settings, cli: typer.Typer):
    (project.root / "one.json").write_text(json.dumps(foundry(triggers={})))

    done = CliRunner().invoke(cli, ["import", "one.json"])

    assert done.stdout == (
        "# routines/nightly.yaml\n"
        "agent: triage\ndescription: Looks through the night's issues.\ntriggers: {}\ninput: Triage them.\n"
    )
    assert not (project.root / "routines").exists()


@pytest.mark.parametrize("text", ["{", '"x"', "[1]", '{"name": "a"}', "[" * 100_000])
def test_the_cli_refuses_what_is_no_routine(project: Settings, cli: typer.Typer, text: str):
    (project.root / "bad.json").write_text(text)

    done = CliRunner().invoke(cli, ["import", "bad.json"])

    assert done.exit_code == 2
    assert done.stderr.startswith("Error: ")
