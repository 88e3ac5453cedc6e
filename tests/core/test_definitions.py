"""Definitions refuse what cannot work, and say it as a colleague would: file, line, field, near miss."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from horarium.definitions import Agent, Limits
from horarium.problems import explain, line_of, near_miss

FILE = Path("agents/clerk.yaml")


def problems_of(text: str) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Agent.model_validate(yaml.safe_load(text))
    return explain(caught.value, Agent, FILE, text).splitlines()


GOOD = "name: clerk\nmodel: scripted:lines\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("tool: [look]\n", "agents/clerk.yaml:3: tool: unknown field; did you mean 'tools'?"),
        ("limits:\n  max_turn: 3\n", "agents/clerk.yaml:4: limits.max_turn: unknown field; did you mean 'max_turns'?"),
        (
            "limits: {max_tokns: 3}\n",
            "agents/clerk.yaml:3: limits.max_tokns: unknown field; did you mean 'max_tokens'?",
        ),
        ("zebra: 1\n", "agents/clerk.yaml:3: zebra: unknown field"),
        (
            "limits:\n  max_turns: 0\n",
            "agents/clerk.yaml:4: limits.max_turns: input should be greater than or equal to 1",
        ),
        ("limits:\n  wall_time: 30\n", "agents/clerk.yaml:4: limits.wall_time: a duration needs a unit: '30s'?"),
        ("memory: {recall: 3}\n", "agents/clerk.yaml:3: memory.scope: is required"),
        (
            "on_step_failure: holds\n",
            "agents/clerk.yaml:3: on_step_failure: must be one of 'tell', 'fail' or 'hold', not 'holds'; "
            "did you mean 'hold'?",
        ),
    ],
)
def test_a_mistake_names_file_line_and_field_and_the_near_miss(more: str, said: str) -> None:
    assert problems_of(GOOD + more) == [said]


def test_all_mistakes_are_told_at_once() -> None:
    said = problems_of("name: two words\nmodel: gpt-5\nlimits:\n  max_turns: many\n")

    assert [line.split(": ")[0:2] for line in said] == [
        ["agents/clerk.yaml:1", "name"],
        ["agents/clerk.yaml:2", "model"],
        ["agents/clerk.yaml:4", "limits.max_turns"],
    ]
    assert "foundry, openai, local, scripted" in said[1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"tools": ["look", "look"]}, "listed twice"),
        ({"tools": ["look"], "procedure": ["look", "pay"]}, "`procedure` names 'pay', which is not in `tools`"),
        ({"model": "foundry:"}, "say which model of 'foundry'"),
        ({"name": "-x"}, "a name has 1 to 63"),
        (
            {"mcp": {"bank": {"url": "https://bank.example/mcp", "headers": {"X-Api-Key": "1234567"}}}},
            "is a secret here",
        ),
        ({"mcp": {"bank": {"command": ["bank"], "env": {"BANK_TOKEN": "1234567"}}}}, "is a secret here"),
        ({"mcp": {"bank": {}}}, "either `url` or `command`"),
        ({"agents": ["clerk"]}, "its own sub-agent"),
    ],
)
def test_what_cannot_work_together_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Agent(**{"name": "clerk", "model": "local", **more})


def test_a_definition_does_not_change_and_equal_ones_are_one_version() -> None:
    one = Agent("clerk", model="local", limits=Limits(wall_time=timedelta(minutes=90)))

    with pytest.raises(ValidationError, match="frozen"):
        one.name = "other"  # type: ignore[misc]
    same = Agent.model_validate(yaml.safe_load("name: clerk\nmodel: local\nlimits:\n  wall_time: 1h30m\n"))
    assert same == one
    assert same.digest == one.digest
    assert Agent.model_validate(one.model_dump(mode="json")) == one
    assert Agent("clerk", model="local").digest != one.digest


def test_a_near_miss_is_named_only_when_it_is_near() -> None:
    assert near_miss("max_turn", ["max_turns", "max_tokens"]) == "; did you mean 'max_turns'?"
    assert near_miss("colour", ["max_turns"]) == ""


def test_the_line_is_that_of_the_innermost_key() -> None:
    text = "limits:\n  max_turns: 1\nsettings:\n  timeout: 5s\n  extra:\n    max_turns: 2\n"

    assert line_of(text, ("limits", "max_turns")) == 2
    assert line_of(text, ("settings", "extra", "max_turns")) == 6
    assert line_of(text, ("settings", "missing")) == 3
    assert line_of("[temporal]\naddress = 1\n", ("temporal", "address")) == 2


@given(st.text(max_size=200), st.lists(st.text(max_size=5) | st.integers(0, 9), max_size=4))
def test_a_line_is_always_one_of_the_text(text: str, path: list[str | int]) -> None:
    assert 1 <= line_of(text, path) <= max(1, len(text.splitlines()))
