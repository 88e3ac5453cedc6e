"""Which parameters go to which model."""

from __future__ import annotations

from typing import Any

import pytest

from activities.models.families import Api, family_of, parameters, without
from horarium.definitions import ModelSettings

ALL = ModelSettings(
    temperature=0.2,
    top_p=0.9,
    max_output_tokens=100,
    reasoning_effort="low",
    verbosity="low",
    parallel_tool_calls=False,
)
SAMPLING = {"temperature": 0.2, "top_p": 0.9}


@pytest.mark.parametrize(
    ("model", "family", "role"),
    [
        ("gpt-4.1", "chat", "system"),
        ("gpt-4o-mini", "chat", "system"),
        ("gpt-5-chat-latest", "chat", "system"),
        ("gpt-5.1-chat", "chat", "system"),
        ("gpt-5", "reasoning", "developer"),
        ("gpt-5.3", "reasoning", "developer"),
        ("openai/gpt-5.1-codex-max", "reasoning", "developer"),
        ("O4-mini", "reasoning", "developer"),
        ("o3", "reasoning", "developer"),
        ("olmo-2", "unknown", "system"),
        ("my-gpt-5-deployment", "unknown", "system"),
    ],
)
def test_a_family_is_told_from_the_models_own_name(model: str, family: str, role: str) -> None:
    assert (family_of(model).name, family_of(model).instructions_role) == (family, role)


@pytest.mark.parametrize(
    ("model", "api", "sent"),
    [
        ("gpt-4.1", "responses", SAMPLING | {"max_output_tokens": 100, "parallel_tool_calls": False}),
        ("gpt-4.1", "chat", SAMPLING | {"max_completion_tokens": 100, "parallel_tool_calls": False}),
        (
            "gpt-5.3",
            "responses",
            {
                "max_output_tokens": 100,
                "reasoning": {"effort": "low"},
                "text": {"verbosity": "low"},
                "parallel_tool_calls": False,
            },
        ),
        ("o3", "chat", {"max_completion_tokens": 100, "reasoning_effort": "low"}),
        (
            "mistral",
            "chat",
            SAMPLING | {"max_tokens": 100, "reasoning_effort": "low", "verbosity": "low", "parallel_tool_calls": False},
        ),
    ],
)
def test_each_family_is_sent_what_it_takes(model: str, api: Api, sent: dict[str, Any]) -> None:
    assert parameters(family_of(model), ALL, api, tools=True) == sent


def test_nothing_is_sent_that_was_not_set() -> None:
    assert parameters(family_of("gpt-5.3"), ModelSettings(), "responses", tools=True) == {}


def test_parallel_calls_are_not_spoken_of_without_tools() -> None:
    assert "parallel_tool_calls" not in parameters(family_of("gpt-4.1"), ALL, "chat", tools=False)


@pytest.mark.parametrize(
    ("parameter", "left"),
    [
        ("temperature", {"model": "m", "reasoning": {"effort": "low"}}),
        ("reasoning.effort", {"model": "m", "temperature": 1}),
        ("reasoning", {"model": "m", "temperature": 1}),
        ("model", None),
        ("seed", None),
    ],
)
def test_only_a_parameter_that_was_sent_can_be_left_out(parameter: str, left: dict[str, Any] | None) -> None:
    assert without({"model": "m", "temperature": 1, "reasoning": {"effort": "low"}}, parameter) == left
