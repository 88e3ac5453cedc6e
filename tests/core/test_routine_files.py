"""Routine files: what is read, what is refused and in which words, and what is only warned of."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from horarium.cli.init import FILES
from horarium.definitions import Agent, ApprovalRule
from horarium.errors import ConfigError
from horarium.project import load_routine_files, load_routines
from horarium.routinechecks import preapproval_problems, routine_warnings
from horarium.routinefiles import problem_lines
from horarium.routines import CronTrigger, Preapproved, Routine
from horarium.sandbox import FILTERS_USED, TESTS_USED
from horarium.settings import Settings
from horarium.tools import Effect, ToolSpec

ROOT = Path(__file__).parents[2]
Write = Callable[..., Settings]

WELL = """\
agent: triage
triggers:
  mornings: {cron: "0 6 * * 1-5", time_zone: Europe/London}
input: Look around.
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes routine files by name; gives the project's settings."""

    def _write(**files: str) -> Settings:
        (tmp_path / "routines").mkdir(exist_ok=True)
        for name, text in files.items():
            (tmp_path / "routines" / f"{name}.yaml").write_text(text, "utf-8")
        return Settings(root=tmp_path)

    return _write


def problems(settings: Settings) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load_routines(settings)
    return refused.value.message.splitlines()


def test_a_file_is_a_routine_of_its_name(write: Write):
    routine = load_routines(write(triage=WELL))["triage"]

    assert (routine.name, routine.agent) == ("triage", "triage")
    assert routine.triggers == {"mornings": CronTrigger(cron="0 6 * * 1-5", time_zone="Europe/London")}


def test_a_project_without_routines_has_none(tmp_path: Path):
    assert load_routines(Settings(root=tmp_path)) == {}


def test_the_guides_example_is_a_routine(write: Write):
    guide = (ROOT / "docs" / "guides" / "routines.md").read_text("utf-8")
    example = guide.split("```yaml\n")[1].split("```")[0]

    routine = load_routines(write(**{"nightly-triage": example}))["nightly-triage"]

    unsaid = set(Routine.model_fields) - routine.model_fields_set - {"name"}
    assert unsaid == set(), "the example shows every field"


def test_the_guide_names_every_filter_and_test_there_is():
    guide = (ROOT / "docs" / "guides" / "routines.md").read_text("utf-8")

    missing = [name for name in (*FILTERS_USED, *TESTS_USED) if name[0].isalpha() and f"`{name}`" not in guide]
    assert missing == []


def test_the_routine_of_a_new_project_is_well_and_not_enabled(write: Write):
    routine = load_routines(write(**{"morning-greeting": FILES["routines/morning-greeting.yaml"]}))["morning-greeting"]

    assert (routine.agent, routine.enabled, routine_warnings(routine)) == ("hello", False, [])


def test_all_mistakes_of_all_files_are_told_at_once_with_file_line_field_and_near_miss(write: Write):
    settings = write(
        one='agnt: triage\ninput: x\ntriggers:\n  a: {cron: "* * * * *", time_zon: UTC}\n  b: {every: 5}\n',
        two="agent: a\ninput: Since {{ previus.started_at }}.\non_failure: skp\nretry: {attemps: 3}\n",
        three="name: four\nagent: a\ninput: x\n",
    )

    assert problems(settings) == [
        "routines/one.yaml:1: agent: is required",
        "routines/one.yaml:4: triggers.a.time_zon: unknown field; did you mean 'time_zone'?",
        "routines/one.yaml:5: triggers.b.every: a duration needs a unit: '5s'?",
        "routines/one.yaml:1: agnt: unknown field; did you mean 'agent'?",
        "routines/three.yaml:1: name: is 'four', but the file is called 'three.yaml'",
        "routines/two.yaml:2: input: nothing is called 'previus' here; did you mean 'previous'?",
        "routines/two.yaml:3: on_failure: must be one of 'alert', 'retry' or 'skip', not 'skp'; did you mean 'skip'?",
        "routines/two.yaml:4: retry.attemps: unknown field; did you mean 'attempts'?",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agent: a\nagent: b\ninput: x\n", "routines/r.yaml:2: 'agent' is given twice"),
        ("- a\n", "routines/r.yaml:1: must be a mapping of fields, like `agent: triage`"),
        (
            "agent: a\ninput: x\ntriggers:\n  t: {cron: * * * * *}\n",
            "routines/r.yaml:4: expected alphabetic or numeric character, but found ' '; put a cron line into quotes",
        ),
        (
            "agent: a\ninput: x\ntriggers:\n  t:\n    cron: @daily\n",
            "routines/r.yaml:5: found character '@' that cannot start any token; put a cron line into quotes",
        ),
        (
            'agent: a\ninput: x\ntriggers:\n  t: "0 6 * * *"\n',
            'routines/r.yaml:4: triggers.t: must be a mapping, like t: {cron: "0 6 * * *"}',
        ),
        (
            "agent: a\ninput: x\ntriggers:\n  on: {every: 1h}\n",
            "routines/r.yaml:3: triggers: YAML reads the trigger's name as True; put it into quotes",
        ),
        (
            "agent: a\ninput: x\ntriggers:\n  t: {every: 1h, cron: '* * * * *'}\n",
            "routines/r.yaml:4: triggers.t: a trigger has exactly one of `cron`, `every`, `at` and `event`",
        ),
        (
            "agent: a\ninput: x\ntriggers:\n  t: {at: 2026-12-01T09:00:00}\n",
            "routines/r.yaml:4: triggers.t.at: input should have timezone info",
        ),
        (
            "agent: a\ninput: x\nalert:\n  - msteams://token/secret\n",
            "routines/r.yaml:4: alert.0: an address has a password in it; put it into an environment variable, "
            "and name that: ${ALERT_URL}",
        ),
        ("agent: a\ninput: x\nalert: ${A}\n", 'routines/r.yaml:3: alert: must be a list, like ["${ALERT_URL}"]'),
        ("agent: a\ninput: sk-abcdefghijklmnop1234\n", "routines/r.yaml:2: this looks like a secret; put it into an"),
        ("agent: a\ninput: x\nlabels:\n  db_password: hunter2\n", "routines/r.yaml:4: labels.db_password: is a secret"),
        ("agent: a\ninput: |\n  All well.\n  {% if %}\n", "routines/r.yaml:4: input: expected an expression, got"),
        (
            "agent: a\ninput: >\n  All\n  {{ previous.start_at }}\ntimeout: 1h\n",
            "routines/r.yaml:3: input: `previous` has no field 'start_at'; did you mean 'started_at'?",
        ),
        (
            'agent: a\ninput: "{{ stat.cursor }}"\n',
            "routines/r.yaml:2: input: nothing is called 'stat' here; did you mean 'state'?",
        ),
        (
            "agent: a\ninput: x\nretry: {attempts: 3}\n",
            "routines/r.yaml:1: (the whole): `retry` without `on_failure: retry`",
        ),
    ],
)
def test_what_cannot_be_a_routine_is_refused(write: Write, text: str, said: str):
    found = problems(write(r=text))

    assert any(line.startswith(said) for line in found), found


@pytest.mark.parametrize("alert", ["- msteams://token/secret\n", "- https://hooks.example.com/s3cr3t\n"])
def test_a_refused_address_is_not_repeated(write: Write, alert: str):
    (line,) = problems(write(r=f"agent: a\ninput: x\nalert:\n  {alert}"))

    assert alert.strip("- \n") not in line


def test_a_file_has_one_ending(write: Write, tmp_path: Path):
    settings = write()
    (tmp_path / "routines" / "r.yml").write_text(WELL)

    assert problems(settings) == ["routines/r.yml:1: call this file r.yaml"]


def test_single_files_and_other_directories_can_be_named(write: Write, tmp_path: Path):
    settings = write(one=WELL, two=WELL)
    other = tmp_path / "more"
    other.mkdir()
    (other / "three.yaml").write_text(WELL)

    one = tmp_path / "routines" / "one.yaml"
    assert sorted(load_routines(settings, [one])) == ["one"]
    assert sorted(load_routines(settings, [one, one, other])) == ["one", "three"]


def test_a_path_that_is_not_there_is_named_with_its_neighbour(write: Write, tmp_path: Path):
    settings = write(nightly=WELL)

    with pytest.raises(ConfigError, match=r"There is no 'routines/nightli.yaml'; did you mean 'routines/nightly.yaml'"):
        load_routines(settings, [tmp_path / "routines" / "nightli.yaml"])


def test_two_files_of_one_name_are_refused(write: Write, tmp_path: Path):
    settings = write(one=WELL)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "one.yaml").write_text(WELL)

    with pytest.raises(ConfigError, match=r"more/one.yaml:1: name: routines/one.yaml is called so as well"):
        load_routines(settings, [tmp_path / "routines", tmp_path / "more"])


def test_a_problem_that_is_found_later_gets_its_file_and_line(write: Write):
    settings = write(triage=WELL)
    found = [(("triggers", "mornings", "cron"), "never fires")]
    file = load_routine_files(settings)["triage"]

    said = ["routines/triage.yaml:3: triggers.mornings.cron: never fires"]
    assert file.lines(found) == said
    assert problem_lines(settings, file.file, found) == said


# ---- what is let through unasked

TOOLS = {
    "pay": ToolSpec(name="pay", parameters={"type": "object", "properties": {"amount": {"type": "number"}}}),
    "look": ToolSpec(name="look", parameters={"type": "object", "properties": {}}, effect=Effect.READ),
    "any": ToolSpec(name="any", parameters={"type": "object", "additionalProperties": True, "properties": {}}),
}
CLERK = Agent("clerk", model="local", tools=["pay", "look", "any"])


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (Preapproved(tool="pay", when={"amount": {"maximum": 10}}), []),
        (Preapproved(tool="any", when={"amount": {"maximum": 10}}), []),
        (Preapproved(tool="pay", when={"*": {"maxProperties": 1}}), []),
        (
            Preapproved(tool="pai"),
            [(("preapproved", 0, "tool"), "agent 'clerk' has no tool 'pai'; did you mean 'pay'?")],
        ),
        (
            Preapproved(tool="pay", when={"amonut": {"maximum": 10}}),
            [(("preapproved", 0, "when", "amonut"), "'pay' takes no argument 'amonut'; did you mean 'amount'?")],
        ),
    ],
)
def test_what_is_preapproved_has_to_be_there(entry: Preapproved, said: list[object]):
    routine = Routine(name="r", agent="clerk", input="x", preapproved=(entry,))

    assert preapproval_problems(routine, CLERK, TOOLS) == said


def test_a_tool_that_only_reads_needs_no_preapproval_unless_the_plan_asks():
    routine = Routine(name="r", agent="clerk", input="x", preapproved=(Preapproved(tool="look"),))
    asking = CLERK.model_copy(update={"approvals": (ApprovalRule(tools=("lo*",)),)})

    ((path, sentence),) = preapproval_problems(routine, CLERK, TOOLS)

    assert path == ("preapproved", 0, "tool")
    assert "only reads" in sentence
    assert preapproval_problems(routine, asking, TOOLS) == []


# ---- what is probably not meant


def test_what_will_not_happen_is_warned_of(monkeypatch: pytest.MonkeyPatch):
    now = datetime(2026, 11, 21, tzinfo=UTC)
    monkeypatch.delenv("TEAMS_URL", raising=False)
    monkeypatch.setenv("MAIL_URL", "mailto://x")
    routine = Routine.model_validate(
        {
            "name": "r",
            "agent": "a",
            "input": "x",
            "triggers": {"past": {"at": now - timedelta(days=1)}, "later": {"at": now + timedelta(days=1)}},
            "alert": ["${MAIL_URL}", "${TEAMS_URL}"],
            "end": now,
        }
    )

    assert [path for path, _ in routine_warnings(routine, now=now)] == [
        ("triggers", "past", "at"),
        ("end",),
        ("alert", 1),
    ]


def test_a_routine_without_triggers_is_warned_of():
    assert [path for path, _ in routine_warnings(Routine(name="r", agent="a", input="x"))] == [("triggers",)]
