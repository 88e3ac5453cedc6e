"""Approval plans: which rule holds for a call, who the people in it are, and whether it can be kept at all.

Fail closed: a bound that cannot be compared is a bound that is not met.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from horarium.definitions import BOUND_KEYWORDS, Agent, ApprovalRule
from horarium.people import is_among
from horarium.problems import near_miss
from horarium.protocol import Gate
from horarium.settings import Settings
from horarium.tools import Effect, schema_problem

ROLE = "role:"
WHOLE = "*"


def rule_for(agent: Agent, tool: str, effect: Effect, arguments: Mapping[str, Any]) -> tuple[str, ApprovalRule | None]:
    """The first rule of the plan that fits a call, with its name; none: the tool's effect decides."""
    for index, rule in enumerate(agent.approvals):
        if any(fnmatchcase(tool, pattern) for pattern in rule.tools) and fits(rule.when, arguments):
            return f"approvals.{index}", rule
    return "default", None


def gate_of(agent: Agent, tool: str, effect: Effect, arguments: Mapping[str, Any]) -> Gate | None:
    """What stands between a call and its effect; None when nobody is asked."""
    name, rule = rule_for(agent, tool, effect, arguments)
    if rule is None:
        return None if effect is Effect.READ else Gate()
    if rule.required == 0:
        return None
    return Gate(
        rule=name,
        required=rule.required,
        approvers=rule.approvers,
        four_eyes=rule.four_eyes,
        expires_after=rule.expires_after,
        on_expiry=rule.on_expiry,
        escalate_to=rule.escalate_to,
        on_escalation_expiry=rule.on_escalation_expiry,
        remind_every=rule.remind_every,
        remember=rule.remember,
    )


def fits(bounds: Mapping[str, Mapping[str, Any]], arguments: Mapping[str, Any]) -> bool:
    """Whether every bounded argument is there and within its bound; `*` bounds all of them together."""
    return all(
        _within(bound, arguments) if name == WHOLE else name in arguments and _within(bound, arguments[name])
        for name, bound in bounds.items()
    )


def _within(bound: Mapping[str, Any], value: Any) -> bool:
    # A bound says what type it bounds; JSON Schema by itself lets every other type through.
    kinds = {kind for keyword in bound if (kind := BOUND_KEYWORDS.get(keyword)) is not None}
    if "number" in kinds and isinstance(value, bool):
        return False
    typed: dict[str, Any] = {"allOf": [{"type": kind} for kind in sorted(kinds)] + [dict(bound)]}
    return schema_problem(typed, value) is None


def people_of(names: Iterable[str], settings: Settings) -> tuple[str, ...]:
    """The people that names and roles come to, each once, in order."""
    found: list[str] = []
    for name in names:
        members = settings.approvals.roles.get(name.removeprefix(ROLE), ()) if name.startswith(ROLE) else (name,)
        found += [person for person in members if not is_among(person, found)]
    return tuple(found)


def plan_problems(agent: Agent, settings: Settings) -> list[str]:
    """Why the plan of an agent cannot be kept, as `field: reason`; empty when it can."""
    problems: list[str] = []
    for index, rule in enumerate(agent.approvals):
        where = f"approvals.{index}"
        problems += _unknown_roles(rule, where, settings)
        problems += _tools(rule, where, agent)
        problems += _people(rule, where, settings) if not problems else []
        covering = _covered_by(agent, index)
        if covering is not None:
            problems.append(f"{where}.tools: can never hold, because approvals.{covering} fits all its calls first")
    return problems


def _unknown_roles(rule: ApprovalRule, where: str, settings: Settings) -> list[str]:
    roles = settings.approvals.roles
    problems: list[str] = []
    for field, names in (("approvers", rule.approvers), ("escalate_to", rule.escalate_to)):
        for position, name in enumerate(names):
            role = name.removeprefix(ROLE)
            if name.startswith(ROLE) and role not in roles:
                miss = near_miss(role, sorted(roles))
                problems.append(f"{where}.{field}.{position}: there is no role {role!r} in [approvals.roles]{miss}")
            elif name.startswith(ROLE) and not roles[role]:
                problems.append(f"{where}.{field}.{position}: the role {role!r} has no people")
    return problems


def _tools(rule: ApprovalRule, where: str, agent: Agent) -> list[str]:
    return [
        f"{where}.tools.{position}: {pattern!r} fits none of the agent's tools{near_miss(pattern, list(agent.tools))}"
        for position, pattern in enumerate(rule.tools)
        if not any(fnmatchcase(tool, pattern) for tool in agent.tools)
    ]


def _people(rule: ApprovalRule, where: str, settings: Settings) -> list[str]:
    if not rule.approvers:
        return []
    people = people_of(rule.approvers, settings)
    problems: list[str] = []
    if rule.required > len(people):
        problems.append(
            f"{where}.required: {rule.required} people have to approve, but `approvers` comes to {len(people)}"
        )
    elif rule.four_eyes and len(people) == 1:
        problems.append(
            f"{where}.four_eyes: {people[0]} is the only approver, and could never decide on a run of theirs"
        )
    if rule.escalate_to and all(is_among(person, people) for person in people_of(rule.escalate_to, settings)):
        problems.append(f"{where}.escalate_to: asks nobody who was not asked before; name others")
    return problems


def _covered_by(agent: Agent, index: int) -> int | None:
    tools = [tool for tool in agent.tools if any(fnmatchcase(tool, p) for p in agent.approvals[index].tools)]
    for earlier in range(index):
        rule = agent.approvals[earlier]
        if tools and not rule.when and all(any(fnmatchcase(tool, p) for p in rule.tools) for tool in tools):
            return earlier
    return None
