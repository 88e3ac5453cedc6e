"""Agents on disk: what is read, what is refused and in which words, and how edits are noticed."""

from __future__ import annotations

import tracemalloc

import pytest

from horarium.errors import ConfigError
from horarium.project import AgentFiles, check_plans, check_tools, load_agents
from horarium.settings import Settings
from horarium.tools import ToolSpec
from tests.stack.conftest import Write


def test_the_prompt_is_a_text_file_of_its_own(write: Write):
    settings = write(agents__hello="model: local\ninstructions_file: prompts/hello.md\n", prompts__hello="Greet.\n")

    agent = load_agents(settings)["hello"]

    assert (agent.name, agent.model, agent.instructions) == ("hello", "local", "Greet.")


def test_all_mistakes_of_all_files_are_told_at_once_with_file_line_field_and_near_miss(write: Write):
    settings = write(
        agents__one="model: local\nlimits:\n  max_turn: 3\ninstructions_fil: x\n",
        agents__two="name: too\nmodel: openai\ninstructions_file: prompts/helo.md\n",
        prompts__hello="Greet.",
    )

    assert problems(settings) == [
        "agents/one.yaml:3: limits.max_turn: unknown field; did you mean 'max_turns'?",
        "agents/one.yaml:4: instructions_fil: unknown field; did you mean 'instructions_file'?",
        "agents/two.yaml:3: instructions_file: there is no file 'prompts/helo.md'; did you mean 'prompts/hello.md'?",
        "agents/two.yaml:1: name: is 'too', but the file is called 'two.yaml'",
        "agents/two.yaml:2: model: say which model of 'openai', e.g. openai:gpt-5.3",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: local\nmodel: local\n", "agents/a.yaml:2: 'model' is given twice"),
        ("- local\n", "agents/a.yaml:1: must be a mapping"),
        ("model: [\n", "agents/a.yaml:2: "),
        ("", "agents/a.yaml:1: must be a mapping"),
        ("model: !!python/object/apply:os.getcwd []\n", "agents/a.yaml:1: could not determine a constructor"),
        (
            "model: local\ninstructions_file: ../secret.md\n",
            "agents/a.yaml:2: instructions_file: '../secret.md' is outside",
        ),
        ("model: local\ninstructions_file: [x]\n", "agents/a.yaml:2: instructions_file: must be the path"),
        ("model: local\ninstructions: x\ninstructions_file: y\n", "agents/a.yaml:3: instructions_file: give either"),
        ("model: local\ndescription: sk-abcdefghijklmnop1234\n", "agents/a.yaml:2: this looks like a secret"),
        ("model: local\nmetadata:\n  db_password: hunter2\n", "agents/a.yaml:3: metadata.db_password: is a secret"),
        ("model: local\ndescription: " + "x" * 300_000, "agents/a.yaml:1: is larger than 256 KiB"),
        ("model: " + "[" * 20_000, "agents/a.yaml:1: is nested too deeply"),
        ("model: local\ndescription: 2026-99-99\n", "agents/a.yaml:1: "),
        ("? [a, b]\n: c\n", "agents/a.yaml:1: a key must be plain text"),
    ],
)
def test_what_cannot_be_an_agent_is_refused(write: Write, text: str, said: str):
    settings = write(agents__a=text)

    assert any(problem.startswith(said) for problem in problems(settings)), problems(settings)


def test_a_reference_to_a_secret_is_no_secret(write: Write):
    settings = write(agents__a="model: local\nmetadata:\n  db_password: ${DB_PASSWORD}\n")

    assert load_agents(settings)["a"].metadata == {"db_password": "${DB_PASSWORD}"}


def test_an_alias_bomb_costs_nothing(write: Write):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    settings = write(agents__bomb="\n".join(lines))
    tracemalloc.start()

    said = problems(settings)

    assert said == ["agents/bomb.yaml:3: has more than 10 aliases"]
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_a_file_that_is_not_utf_8_is_refused_by_its_line(write: Write):
    settings = write(agents__a="model: local\n")
    (settings.root / "agents" / "a.yaml").write_bytes(b"model: local\ndescription: \xff\n")

    assert problems(settings) == ["agents/a.yaml:2: is not UTF-8 text"]


def test_a_file_with_the_other_ending_is_told_its_name(write: Write):
    settings = write(agents__a="model: local\n")
    (settings.root / "agents" / "a.yaml").rename(settings.root / "agents" / "a.yml")

    assert problems(settings) == ["agents/a.yml:1: call this file a.yaml"]


def test_a_tool_that_does_not_exist_is_named_with_the_near_miss(write: Write):
    settings = write(agents__a="model: local\ntools:\n  - look\n  - open_tiket\n")

    said = check_tools(settings, load_agents(settings), ["look", "open_ticket"])

    assert said == ["agents/a.yaml:4: tools.1: there is no tool 'open_tiket'; did you mean 'open_ticket'?"]


def test_an_argument_in_an_approval_plan_that_no_tool_takes_is_named_with_the_near_miss(write: Write):
    rule = "approvals:\n  - tools: [pay]\n    required: 0\n    when:\n      amuont: {maximum: 5}\n"
    settings = write(agents__a=f"model: local\ntools: [pay]\n{rule}")
    pay = ToolSpec(name="pay", parameters={"type": "object", "properties": {"amount": {"type": "number"}}})

    said = check_plans(settings, load_agents(settings), {"pay": pay})

    assert said == ["agents/a.yaml:7: approvals.0.when.amuont: pay takes no argument 'amuont'; did you mean 'amount'?"]
    assert check_plans(settings, load_agents(settings), {}) == []


def test_an_edit_counts_without_a_restart_and_so_does_one_of_the_prompt(write: Write):
    settings = write(agents__a="model: local\ninstructions_file: texts/a.md\n")
    files = AgentFiles(settings)
    assert files.current() == {}

    (settings.root / "texts").mkdir()
    (settings.root / "texts" / "a.md").write_text("One.")
    assert files.current()["a"].instructions == "One."
    (settings.root / "texts" / "a.md").write_text("Two!!")
    assert files.current()["a"].instructions == "Two!!"
    (settings.root / "agents" / "a.yaml").write_text("model: local\ninstructions: Three.\n")
    assert files.current()["a"].instructions == "Three."


def test_a_broken_edit_leaves_the_last_good_one_in_force_and_is_logged_once(
    write: Write, capsys: pytest.CaptureFixture[str]
):
    settings = write(agents__a="model: local\n")
    files = AgentFiles(settings)
    good = files.current()

    write(agents__a="model: lokal\n")

    assert files.current() == good
    assert files.current() == good
    assert capsys.readouterr().out.count("agent.file_ignored") == 1


def test_a_file_that_is_removed_is_no_agent_any_more(write: Write):
    settings = write(agents__a="model: local\n", agents__b="model: local\n")
    files = AgentFiles(settings)
    assert set(files.current()) == {"a", "b"}

    (settings.root / "agents" / "a.yaml").unlink()

    assert set(files.current()) == {"b"}


def problems(settings: Settings) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load_agents(settings)
    return refused.value.message.splitlines()


def test_a_sub_agent_that_is_not_there_is_told_with_its_line_and_near_miss(write: Write):
    settings = write(
        agents__chief="model: local\nagents:\n  - clerk\n  - researchr\n",
        agents__clerk="model: local\n",
        agents__researcher="model: local\n",
    )

    assert problems(settings) == [
        "agents/chief.yaml:4: agents.1: there is no agent 'researchr'; did you mean 'researcher'?"
    ]


def test_sub_agents_that_lead_back_to_where_they_began_are_refused_with_the_way_shown(write: Write):
    settings = write(
        agents__chief="model: local\nagents: [clerk, scout]\n",
        agents__clerk="model: local\nagents: [scout]\n",
        agents__scout="model: local\nagents:\n  - clerk\n",
    )

    assert problems(settings) == [
        "agents/clerk.yaml:2: agents.0: its sub-agents go round in a circle: clerk > scout > clerk",
        "agents/scout.yaml:3: agents.0: its sub-agents go round in a circle: scout > clerk > scout",
    ]
