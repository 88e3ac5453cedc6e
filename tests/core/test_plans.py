"""Which rule holds for a call, what its bounds let through, and which plans are refused before anything runs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horarium.agentfiles import load_agents
from horarium.definitions import Agent, ApprovalRule
from horarium.errors import ConfigError
from horarium.people import is_among, same_person
from horarium.plans import fits, gate_of, people_of, plan_problems, rule_for
from horarium.settings import ApprovalsSettings, Settings
from horarium.tools import Effect

ROLES = {"finance": ("ana", "ben", "cem"), "heads": ("eva",), "nobody": ()}
SETTINGS = Settings(root=Path("/nonexistent"), approvals=ApprovalsSettings(roles=ROLES))


def agent(*rules: dict[str, Any], tools: tuple[str, ...] = ("pay", "pay_all", "look")) -> Agent:
    return Agent("clerk", model="local", tools=tools, approvals=[ApprovalRule(**rule) for rule in rules])


# ---- which rule


def test_without_a_plan_the_effect_decides() -> None:
    clerk = agent()

    assert gate_of(clerk, "look", Effect.READ, {}) is None
    for effect in (Effect.IDEMPOTENT, Effect.EXTERNAL):
        gate = gate_of(clerk, "pay", effect, {})
        assert gate is not None
        assert (gate.rule, gate.required, gate.approvers) == ("default", 1, ())


def test_the_first_rule_that_fits_holds() -> None:
    clerk = agent(
        {"tools": ["pay"], "when": {"amount": {"maximum": 10}}, "required": 0},
        {"tools": ["pay*"], "required": 2, "approvers": ["role:finance"]},
    )

    assert rule_for(clerk, "pay", Effect.EXTERNAL, {"amount": 10})[0] == "approvals.0"
    assert gate_of(clerk, "pay", Effect.EXTERNAL, {"amount": 10}) is None
    for tool, amount in (("pay", 11), ("pay_all", 1)):
        gate = gate_of(clerk, tool, Effect.EXTERNAL, {"amount": amount})
        assert gate is not None
        assert (gate.rule, gate.required) == ("approvals.1", 2)


def test_a_rule_on_a_tool_that_only_reads_asks_all_the_same() -> None:
    assert gate_of(agent({"tools": ["look"]}), "look", Effect.READ, {}) is not None


def test_patterns_tell_upper_and_lower_case_apart() -> None:
    assert rule_for(agent({"tools": ["PAY*"]}), "pay", Effect.EXTERNAL, {}) == ("default", None)


# ---- bounds


@pytest.mark.parametrize(
    ("bound", "value", "within"),
    [
        ({"maximum": 100}, 100, True),
        ({"maximum": 100}, 100.5, False),
        ({"maximum": 100}, "50", False),
        ({"maximum": 100}, None, False),
        ({"maximum": 100}, True, False),
        ({"maximum": 100}, [50], False),
        ({"exclusiveMinimum": 1000}, 1000, False),
        ({"exclusiveMinimum": 1000}, 1000.01, True),
        ({"multipleOf": 5}, "10", False),
        ({"pattern": "^bob$"}, "bob", True),
        ({"pattern": "^bob$"}, 7, False),
        ({"maxLength": 3}, ["a"], False),
        ({"maxItems": 2}, "ab", False),
        ({"maxItems": 2}, ["a", "b"], True),
        ({"required": ["iban"]}, "iban", False),
        ({"enum": ["low", "medium"]}, "high", False),
        ({"const": {"a": 1}}, {"a": 1}, True),
        ({"const": {"a": 1}}, {"a": 1, "b": 2}, False),
        ({"type": "string"}, 5, False),
    ],
)
def test_a_bound_lets_through_what_it_says_and_no_other_type(bound: dict[str, Any], value: Any, within: bool) -> None:
    assert fits({"it": bound}, {"it": value}) is within


def test_an_argument_that_is_not_there_is_not_within_its_bound() -> None:
    assert not fits({"amount": {"maximum": 100}}, {"to": "bob"})


def test_a_bound_on_the_whole_lets_no_further_argument_through() -> None:
    exact = {"*": {"const": {"amount": 7}}}

    assert fits(exact, {"amount": 7})
    assert not fits(exact, {"amount": 7, "to": "mallory"})
    assert not fits(exact, {})


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(_anything, st.integers(-100, 100))
def test_whatever_a_model_writes_only_a_number_that_is_small_enough_is_within_a_maximum(value: Any, most: int) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)

    assert fits({"it": {"maximum": most}}, {"it": value}) == (number and value <= most)


# ---- people


def test_roles_come_to_their_people_each_once_in_order() -> None:
    assert people_of(("ben", "role:finance", "role:heads", "EVA "), SETTINGS) == ("ben", "ana", "cem", "eva")


@pytest.mark.parametrize("other", ["ana", "Ana", " ana ", "ANA", "an\u200ba".replace("\u200b", "")])
def test_one_person_is_not_two(other: str) -> None:
    assert same_person("ana", other)


def test_a_person_who_is_not_named_is_not_among_them() -> None:
    assert not is_among("anna", ("ana", "ben"))


# ---- mistakes


BAD = {
    "an unknown role": ("tools: [pay], approvers: ['role:finanze']", "no role 'finanze'.*did you mean 'finance'"),
    "an empty role": ("tools: [pay], approvers: ['role:nobody']", "has no people"),
    "an impossible quorum": ("tools: [pay], approvers: ['role:finance'], required: 4", "comes to 3"),
    "a quorum of one person under two names": ("tools: [pay], approvers: [ana, ' ANA '], required: 2", "there twice"),
    "four eyes with one approver": ("tools: [pay], approvers: [ana], four_eyes: true", "only approver"),
    "expiry without outcome": ("tools: [pay], expires_after: 1h", "without `on_expiry`"),
    "an outcome without expiry": ("tools: [pay], on_expiry: reject", "would never expire"),
    "escalation to nobody": ("tools: [pay], expires_after: 1h, on_expiry: escalate", "without `escalate_to`"),
    "escalation that never comes": (
        "tools: [pay], expires_after: 1h, on_expiry: reject, escalate_to: [eva]",
        "nobody there would ever be asked",
    ),
    "escalation to oneself": (
        "tools: [pay], approvers: ['role:finance'], expires_after: 1h, on_expiry: escalate, escalate_to: [ana, ben]",
        "asks nobody who was not asked before",
    ),
    "a reminder that never comes": (
        "tools: [pay], expires_after: 1h, on_expiry: reject, remind_every: 1h",
        "nobody would be reminded",
    ),
    "nobody with approvers": ("tools: [pay], required: 0, approvers: [ana]", "asks nobody"),
    "a grant by one of two": ("tools: [pay], required: 2, remember: {scopes: [run]}", "wants more than one"),
    "a tool that is not there": ("tools: [paye]", "fits none of the agent's tools; did you mean 'pay'"),
    "a keyword that is none": ("tools: [pay], when: {amount: {maximun: 5}}", "did you mean 'maximum'"),
    "a bound that is none": ("tools: [pay], when: {amount: {maximum: lots}}", "no JSON Schema"),
    "an empty bound": ("tools: [pay], when: {amount: {}}", "says nothing"),
    "an unknown field": ("tools: [pay], aprovers: [ana]", "unknown field; did you mean 'approvers'"),
    "no tools": ("tools: []", "at least 1 item"),
    "a negative time": ("tools: [pay], expires_after: -1h, on_expiry: reject", "duration"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_plan_with_a_mistake_is_refused_with_file_line_and_reason(mistake: str, tmp_path: Path) -> None:
    rule, reason = BAD[mistake]
    (tmp_path / "agents").mkdir()
    text = "model: local\ntools: [pay, look]\napprovals:\n  - tools: [look]\n    required: 0\n  - {" + rule + "}\n"
    (tmp_path / "agents" / "clerk.yaml").write_text(text)
    settings = Settings(root=tmp_path, approvals=ApprovalsSettings(roles=ROLES))

    with pytest.raises(ConfigError, match=rf"(?s)agents/clerk\.yaml:6: approvals\.1.*{reason}"):
        load_agents(settings)


def test_a_rule_that_can_never_hold_is_refused() -> None:
    clerk = agent({"tools": ["pay*"]}, {"tools": ["pay_all"], "required": 2})

    assert [problem for problem in plan_problems(clerk, SETTINGS) if "can never hold" in problem] == [
        "approvals.1.tools: can never hold, because approvals.0 fits all its calls first"
    ]


def test_a_good_plan_has_no_problem(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "clerk.yaml").write_text(
        """
model: local
tools: [pay, pay_all, look]
approvals:
  - tools: [pay]
    when: {amount: {maximum: 10}}
    required: 0
  - tools: ["pay*"]
    approvers: ["role:finance", dora]
    required: 2
    four_eyes: true
    expires_after: 8h
    on_expiry: escalate
    escalate_to: ["role:heads"]
    on_escalation_expiry: fail
    remind_every: 2h
"""
    )
    settings = Settings(root=tmp_path, approvals=ApprovalsSettings(roles=ROLES))

    rule = load_agents(settings)["clerk"].approvals[1]

    assert (rule.required, rule.expires_after, rule.on_escalation_expiry) == (2, timedelta(hours=8), "fail")
