"""Which rule holds for a call, what its bounds let through, and which plans are refused before anything runs."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from horarium.agentfiles import load_agents
from horarium.definitions import BOUND_KEYWORDS, Agent, ApprovalRule, bound_problem
from horarium.errors import ConfigError
from horarium.people import is_among, same_person
from horarium.plans import fits, gate_of, listed, people_of, plan_problems, rule_for
from horarium.settings import ApprovalsSettings, Settings
from horarium.tools import Effect, ToolSpec

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
        assert (gate.rule, gate.required) == ("default", 1)


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
        ({"anyOf": [{"maximum": 100}, {"enum": ["all"]}]}, 50, True),
        ({"anyOf": [{"maximum": 100}, {"enum": ["all"]}]}, "all", True),
        ({"anyOf": [{"maximum": 100}, {"enum": ["all"]}]}, "5000", False),
        ({"allOf": [{"maximum": 100}]}, "5000", False),
        ({"oneOf": [{"maximum": 100}]}, "5000", False),
        ({"items": {"maximum": 100}}, [50], True),
        ({"items": {"maximum": 100}}, [50, "5000"], False),
        ({"contains": {"maximum": 100}}, ["5000"], False),
        ({"additionalProperties": {"maximum": 100}}, {"fee": "5000"}, False),
        ({"properties": {"fee": {"maximum": 100}}}, {"fee": 50, "to": "bob"}, True),
        ({"properties": {"fee": {"maximum": 100}}}, {"fee": "5000"}, False),
        ({"properties": {"fee": {"maximum": 100}}}, {}, False),
        ({"properties": {"to": {}}, "additionalProperties": False}, {}, True),
        ({"not": {"minimum": 100}}, 99, True),
        ({"not": {"minimum": 100}}, "99", False),
        ({"not": {"minimum": 100, "enum": [7]}}, "99", False),
        ({"not": {"enum": ["root"]}}, "bob", True),
        ({"not": {"contains": {"pattern": "^/etc"}}}, ["/tmp"], True),
        ({"not": {"contains": {"pattern": "^/etc"}}}, ["/tmp", "/etc/passwd"], False),
        ({"pattern": "^bob$"}, "bob\n", False),
        ({"const": {"a": 1}}, {"a": True}, False),
    ],
    ids=str,
)
def test_a_bound_lets_through_what_it_says_and_no_other_type(bound: dict[str, Any], value: Any, within: bool) -> None:
    assert fits({"it": bound}, {"it": value}) is within


def test_an_argument_that_is_not_there_is_not_within_its_bound() -> None:
    assert not fits({"amount": {"maximum": 100}}, {"to": "bob"})


@pytest.mark.parametrize(
    ("bound", "value"),
    [
        ({"maximum": 100}, math.nan),
        ({"maximum": 100}, -math.inf),
        ({"maximum": math.inf}, 5),
        ({"multipleOf": 0.5}, 10**400),
        ({"multipleOf": 0}, 5),
        ({"maximum": "lots"}, 5),
        ({"maximun": 100}, 5000),
        ({"format": "email"}, "bob"),
        ({"$ref": "#/nowhere"}, 5),
        ({"pattern": "("}, "bob"),
        ({"not": {"not": {"maximum": 100}}}, 5),
        ({}, 5),
        (7, 7),
        (None, None),
        pytest.param({"maximum": 100}, object(), id="an object"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_not_within_and_raises_nothing(bound: Any, value: Any) -> None:
    assert fits({"it": bound}, {"it": value}) is False


def test_bounds_inside_of_bounds_have_an_end() -> None:
    deep: dict[str, Any] = {"maximum": 100}
    for _ in range(400):
        deep = {"anyOf": [deep]}

    assert fits({"it": deep}, {"it": 5}) is False
    assert "deep" in str(bound_problem(deep))


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


_numeric = st.integers(-100, 100).map(lambda most: {"maximum": most})
_nested = st.recursive(
    _numeric,
    lambda inner: st.lists(inner, min_size=1, max_size=3).flatmap(
        lambda some: st.sampled_from(["anyOf", "allOf", "oneOf"]).map(lambda keyword: {keyword: some})
    ),
    max_leaves=6,
)


@given(_anything, _nested)
def test_however_bounds_on_numbers_are_combined_nothing_but_a_number_is_within(value: Any, bound: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        assert not fits({"it": bound}, {"it": value})
        assert not fits({"it": {"items": bound}}, {"it": [value]})
        assert not fits({"*": {"properties": {"it": bound}}}, {"it": value})


@given(_anything, st.dictionaries(st.sampled_from([*BOUND_KEYWORDS, "format", "maximun"]), _anything, max_size=3))
def test_whatever_stands_in_a_bound_comparing_answers_and_a_bound_that_is_none_is_never_met(
    value: Any, bound: dict[str, Any]
) -> None:
    problem = bound_problem(bound)

    assert not (fits({"it": bound}, {"it": value}) and problem)


# ---- people


def test_roles_come_to_their_people_each_once_in_order() -> None:
    assert people_of(("ben", "role:finance", "role:heads", "EVA "), SETTINGS) == ("ben", "ana", "cem", "eva")


@pytest.mark.parametrize("other", ["ana", "Ana", " ana ", "ANA", "\uff41na"])
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
    "a keyword that is none, deep inside": (
        "tools: [pay], when: {amount: {anyOf: [{maximun: 5}]}}",
        "did you mean 'maximum'",
    ),
    "a bound turned round that says a type": (
        "tools: [pay], when: {amount: {not: {anyOf: [{maximum: 5}]}}}",
        "'anyOf' cannot stand inside of 'not'",
    ),
    "a pattern that is none": ("tools: [pay], when: {to: {pattern: '('}}", "no JSON Schema"),
    "a format, which nothing checks": ("tools: [pay], when: {to: {format: email}}", "no keyword 'format'"),
    "a role written otherwise": ("tools: [pay], approvers: ['Role: finance']", "written: 'role:finance'"),
    "a role without its word": ("tools: [pay], approvers: [finance]", "is a role, and no person"),
    "an unknown role to escalate to": (
        "tools: [pay], approvers: [ana], expires_after: 1h, on_expiry: escalate, escalate_to: ['role:head']",
        r"escalate_to\.0: there is no role 'head'.*did you mean 'heads'",
    ),
    "escalation where anybody may decide": (
        "tools: [pay], expires_after: 1h, on_expiry: escalate, escalate_to: [eva]",
        "`approvers` is empty: anybody may",
    ),
    "four eyes on nobody": ("tools: [pay], required: 0, four_eyes: true", "`four_eyes` asks people"),
    "a number that is none": ("tools: [pay], when: {amount: {maximum: .nan}}", "is no JSON"),
    "a date, which no argument can be": ("tools: [pay], when: {day: {const: 2026-11-21}}", "is no JSON"),
    "a keyword that is no word": ("tools: [pay], when: {amount: {anyOf: [{1: 2}]}}", "no keyword 1"),
    "two mistakes": (
        "tools: [pay], required: 2, remember: {}, remind_every: 2h, on_expiry: fail",
        "never expire.*wants",
    ),
    "an approver without a name": ("tools: [pay], approvers: [' ']", "is empty"),
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


def test_a_rule_that_earlier_ones_cover_together_can_never_hold() -> None:
    clerk = agent({"tools": ["pay"]}, {"tools": ["pay_all"]}, {"tools": ["pay*"], "required": 2})

    assert plan_problems(clerk, SETTINGS) == [
        "approvals.2.tools: can never hold, because approvals.0 and approvals.1 fit all its calls first"
    ]
    assert plan_problems(agent({"tools": ["pay"]}, {"tools": ["pay*"], "required": 2}), SETTINGS) == []


def test_the_same_condition_twice_can_never_hold_and_another_one_can() -> None:
    small = {"amount": {"maximum": 10}}
    first = {"tools": ["pay"], "when": small, "required": 0}

    assert len(plan_problems(agent(first, {"tools": ["pay"], "when": small}), SETTINGS)) == 1
    assert plan_problems(agent(first, {"tools": ["pay"], "when": {"amount": {"maximum": 20}}}), SETTINGS) == []
    assert plan_problems(agent(first, {"tools": ["pay"]}), SETTINGS) == []


def test_a_mistake_in_one_rule_hides_none_in_another() -> None:
    clerk = agent({"tools": ["paye"]}, {"tools": ["look"], "approvers": ["ana"], "required": 3})

    assert [problem.partition(":")[0] for problem in plan_problems(clerk, SETTINGS)] == [
        "approvals.0.tools.0",
        "approvals.1.required",
    ]


def test_the_line_is_that_of_the_very_name(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "clerk.yaml").write_text(
        "model: local\ntools: [pay]\napprovals:\n  - tools: [pay]\n    approvers:\n      - dora\n      - role:finanze\n"
    )

    with pytest.raises(ConfigError) as refused:
        load_agents(Settings(root=tmp_path, approvals=ApprovalsSettings(roles=ROLES)))

    assert refused.value.message == (
        "agents/clerk.yaml:7: approvals.0.approvers.1: there is no role 'finanze' in [approvals.roles]; "
        "did you mean 'finance'?"
    )


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ('["ana", "role:heads"]', r"roles\.finance\.1: 'role:heads' is no person"),
        ('["ana", " "]', r"roles\.finance\.1: is empty"),
        ('["ana", "ANA"]', r"roles\.finance: 'ANA' is there twice"),
    ],
)
def test_a_role_has_people_each_once_and_no_roles(members: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "horarium.toml").write_text(f'[approvals.roles]\nheads = ["eva"]\nfinance = {members}\n')

    with pytest.raises(ConfigError, match=rf"horarium\.toml:3: approvals\.{reason}"):
        Settings.load(tmp_path)


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


# ---- with the tools and the starter at hand


def spec(name: str, **schema: Any) -> ToolSpec:
    return ToolSpec(name=name, parameters={"type": "object", **schema})


PAY = spec("pay", properties={"amount": {}, "to": {}}, additionalProperties=False)
PAY_ALL = spec("pay_all", properties={"amounts": {}})


def test_an_argument_that_no_tool_of_the_rule_takes_is_refused_with_the_near_miss() -> None:
    clerk = agent({"tools": ["pay*"], "when": {"amuont": {"maximum": 10}}, "required": 0})
    known = {"pay": PAY, "pay_all": PAY_ALL}

    assert plan_problems(clerk, SETTINGS) == []
    assert plan_problems(clerk, SETTINGS, tools=known) == [
        "approvals.0.when.amuont: pay and pay_all take no argument 'amuont'; did you mean 'amount'?"
    ]


@pytest.mark.parametrize(
    "pay_all",
    [
        None,
        spec("pay_all"),
        spec("pay_all", properties={}, additionalProperties=True),
        spec("pay_all", properties={}, additionalProperties={"type": "number"}),
        spec("pay_all", properties={}, patternProperties={"^fee": {}}),
        spec("pay_all", properties={}, allOf=[{"properties": {"fee": {}}}]),
    ],
    ids=str,
)
def test_a_tool_that_may_take_any_argument_is_believed(pay_all: ToolSpec | None) -> None:
    clerk = agent({"tools": ["pay*"], "when": {"fee": {"maximum": 10}}, "required": 0})
    known = {"pay": PAY} | ({"pay_all": pay_all} if pay_all else {})

    assert plan_problems(clerk, SETTINGS, tools=known) == []


def test_one_tool_that_takes_the_argument_is_enough_and_the_whole_is_no_argument() -> None:
    rules = [
        {"tools": ["pay*"], "when": {"amounts": {"maxItems": 2}}, "required": 0},
        {"tools": ["pay"], "when": {"*": {"maxProperties": 1}}, "required": 0},
    ]

    assert plan_problems(agent(*rules), SETTINGS, tools={"pay": PAY, "pay_all": PAY_ALL}) == []


@pytest.mark.parametrize(
    ("rule", "starters", "refused"),
    [
        ({"approvers": ["ana", "ben"], "required": 2}, ("Ana",), True),
        ({"approvers": ["role:finance"], "required": 2}, ("ana", "ben"), True),
        ({"approvers": ["role:finance"], "required": 2}, ("ana",), False),
        ({"approvers": ["role:finance"], "required": 2}, ("dora",), False),
        ({"required": 2}, ("ana",), False),
        (
            {
                "approvers": ["ana", "ben"],
                "required": 2,
                "expires_after": "1h",
                "on_expiry": "escalate",
                "escalate_to": ["eva"],
            },
            ("ana",),
            False,
        ),
    ],
    ids=str,
)
def test_a_quorum_that_only_the_starter_could_fill_is_a_problem(
    rule: dict[str, Any], starters: tuple[str, ...], refused: bool
) -> None:
    problems = plan_problems(agent({"tools": ["pay"], "four_eyes": True, **rule}), SETTINGS, not_by=starters)

    assert len(problems) == refused
    assert all("may not decide on a run of theirs" in problem for problem in problems)


# ---- sizes


def test_a_role_and_a_rule_have_an_end(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="at most 500 items"):
        ApprovalsSettings(roles={"staff": tuple(f"person {n}" for n in range(501))})
    with pytest.raises(ValidationError, match="at most 200 characters"):
        ApprovalsSettings(roles={"staff": ("a" * 201,)})
    for field in ("approvers", "escalate_to"):
        with pytest.raises(ValidationError, match="at most 200 characters"):
            ApprovalRule.model_validate({"tools": ["pay"], field: ["a" * 201]})


def test_what_is_carried_of_many_people_is_small_and_says_how_many_there_are() -> None:
    people = tuple(f"person {number}" for number in range(500))

    first, more = listed(people, 100)

    assert first == people[: len(first)]
    assert sum(map(len, first)) <= 100 < sum(map(len, people[: len(first) + 1]))
    assert len(first) + more == 500
    assert listed(("\u00e9" * 150, "ben"), 100) == (("\u00e9" * 150,), 1)
    assert listed(("ana", "ben"), 100) == (("ana", "ben"), 0)
    assert listed((), 100) == ((), 0)
