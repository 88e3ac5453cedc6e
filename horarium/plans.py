"""Approval plans: which rule holds for a call, who the people in it are, and whether it can be kept at all.

Fail closed: a bound that cannot be compared is a bound that is not met.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry

from horarium.content import canonical
from horarium.definitions import BOUND_KEYWORDS, Agent, ApprovalRule, bound_problem
from horarium.people import is_among, plain
from horarium.problems import near_miss
from horarium.protocol import Gate
from horarium.settings import Settings
from horarium.tools import Effect, ToolSpec

ROLE = "role:"
WHOLE = "*"


def rule_for(agent: Agent, tool: str, effect: Effect, arguments: Mapping[str, Any]) -> tuple[str, ApprovalRule | None]:
    """The first rule of the plan that fits a call, with its name; none: the tool's effect decides."""
    for index, rule in enumerate(agent.approvals):
        if _names_tool(rule, tool) and fits(rule.when, arguments):
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
        four_eyes=rule.four_eyes,
        expires_after=rule.expires_after,
        on_expiry=rule.on_expiry,
        on_escalation_expiry=rule.on_escalation_expiry,
        remind_every=rule.remind_every,
        remember=rule.remember,
    )


def rule_named(agent: Agent, name: str) -> ApprovalRule | None:
    """The rule of this name, as `rule_for` gives it; None: the default."""
    head, _, index = name.partition(".")
    known = head == "approvals" and index.isdecimal() and int(index) < len(agent.approvals)
    return agent.approvals[int(index)] if known else None


def fits(bounds: Mapping[str, Mapping[str, Any]], arguments: Mapping[str, Any]) -> bool:
    """Whether every bounded argument is there and within its bound; `*` bounds all of them together.

    Never raises: what cannot be compared (a bound that is none, NaN, a number that no float can hold) does not fit.
    """
    return all(
        _within(bound, arguments) if name == WHOLE else name in arguments and _within(bound, arguments[name])
        for name, bound in bounds.items()
    )


def _within(bound: Mapping[str, Any], value: Any) -> bool:
    try:
        canonical(value)
        checked = _checked(canonical(bound))
        return checked is not None and checked.is_valid(value)
    except (ValueError, TypeError, ArithmeticError, RecursionError):
        return False


@lru_cache(maxsize=512)
def _checked(bound: str) -> Draft202012Validator | None:
    """What tells whether a value is within a bound; its patterns are Python's, and of whoever owns the plan."""
    parsed = json.loads(bound)
    usable = isinstance(parsed, dict) and bound_problem(parsed) is None
    return Draft202012Validator(_typed(parsed), registry=Registry()) if usable else None


def _typed(bound: Any) -> Any:
    """The bound with the types that its keywords are about; JSON Schema by itself lets every other type through."""
    if not isinstance(bound, dict):
        return bound
    said = [*bound, *bound.get("not", {})] if isinstance(bound.get("not", {}), dict) else [*bound]
    kinds = {kind for keyword in said if (kind := BOUND_KEYWORDS[keyword]) is not None}
    more: list[dict[str, Any]] = [{"type": kind} for kind in sorted(kinds)]
    if "properties" in bound:
        # As with arguments: one that is bounded has to be there, or the tool's own default would slip through.
        more.append(
            {"required": [name for name, inner in bound["properties"].items() if inner not in ({}, True, False)]}
        )
    if "pattern" in bound:
        more.append({"not": {"pattern": r"\n\Z"}})  # Python's `$` fits before a last line break as well
    return {"allOf": [*more, {keyword: _inside(keyword, value) for keyword, value in bound.items()}]}


def _inside(keyword: str, value: Any) -> Any:
    match keyword:
        case "anyOf" | "allOf" | "oneOf":
            return [_typed(inner) for inner in value]
        case "properties":
            return {name: _typed(inner) for name, inner in value.items()}
        case "items" | "contains" | "additionalProperties":
            return _typed(value)
        case _:
            return value  # also `not`: there, that other types pass is what keeps them out


def is_role(name: str) -> bool:
    """Whether a name among the approvers stands for a role."""
    return name.startswith(ROLE)


def people_of(names: Iterable[str], settings: Settings) -> tuple[str, ...]:
    """The people that names and roles come to, each once, in order."""
    found: dict[str, str] = {}
    for name in names:
        members = settings.approvals.roles.get(name.removeprefix(ROLE), ()) if name.startswith(ROLE) else (name,)
        for person in members:
            found.setdefault(plain(person), person)
    return tuple(found.values())


def listed(people: Sequence[str], most: int) -> tuple[tuple[str, ...], int]:
    """The first people, in so many bytes of UTF-8 and at least one, and how many were left out."""
    kept, used = 0, 0
    for person in people:
        used += len(person.encode())
        if kept and used > most:
            break
        kept += 1
    return tuple(people[:kept]), len(people) - kept


def plan_problems(
    agent: Agent, settings: Settings, *, tools: Mapping[str, ToolSpec] | None = None, not_by: Iterable[str] = ()
) -> list[str]:
    """Why the plan of an agent cannot be kept, as `field: reason`; empty when it can.

    Args:
        tools: Those whose arguments are known; what a rule says of others is believed.
        not_by: Who starts a run of it: whom four eyes keep out.
    """
    problems: list[str] = []
    starters = tuple(not_by)
    for index, rule in enumerate(agent.approvals):
        where = f"approvals.{index}"
        problems += _names(rule, where, settings)
        problems += _tools(rule, where, agent, tools or {})
        problems += _arguments(rule, where, agent, tools or {})
        problems += _left_alone(rule, where, settings, starters)
        covering = _covered_by(agent, index)
        if covering:
            first = " and ".join(f"approvals.{earlier}" for earlier in covering)
            verb = "fits" if len(covering) == 1 else "fit"
            problems.append(f"{where}.tools: can never hold, because {first} {verb} all its calls first")
    return problems


def _names(rule: ApprovalRule, where: str, settings: Settings) -> list[str]:
    problems = _unknown_roles(rule, where, settings)
    return problems or _people(rule, where, settings)  # with a role unknown, counting people would mislead


def _unknown_roles(rule: ApprovalRule, where: str, settings: Settings) -> list[str]:
    roles = settings.approvals.roles
    people = [*settings.approvals.people, *(person for members in roles.values() for person in members)]
    problems: list[str] = []
    for field, names in (("approvers", rule.approvers), ("escalate_to", rule.escalate_to)):
        for position, name in enumerate(names):
            role = name.removeprefix(ROLE)
            if name.startswith(ROLE) and role not in roles:
                miss = near_miss(role, sorted(roles))
                problems.append(f"{where}.{field}.{position}: there is no role {role!r} in [approvals.roles]{miss}")
            elif name.startswith(ROLE) and not roles[role]:
                problems.append(f"{where}.{field}.{position}: the role {role!r} has no people")
            elif name in roles and not is_among(name, people):
                problems.append(f"{where}.{field}.{position}: {name!r} is a role, and no person; write 'role:{name}'")
    return problems


def _tools(rule: ApprovalRule, where: str, agent: Agent, found: Mapping[str, ToolSpec]) -> list[str]:
    names = [*agent.tools, *agent.agents, *found]
    if agent.finds_tools and not found:
        return []  # what its servers and toolboxes have is known when a run begins
    return [
        f"{where}.tools.{position}: {pattern!r} fits none of the agent's tools{near_miss(pattern, names)}"
        for position, pattern in enumerate(rule.tools)
        if not any(fnmatchcase(tool, pattern) for tool in names)
    ]


def _arguments(rule: ApprovalRule, where: str, agent: Agent, tools: Mapping[str, ToolSpec]) -> list[str]:
    """Arguments in `when` that none of the rule's tools takes: such a rule would never hold."""
    named = [tool for tool in dict.fromkeys((*agent.tools, *tools)) if _names_tool(rule, tool)]
    taken = [_takes(tools[tool]) if tool in tools else None for tool in named]
    known: list[str] = []
    for names in taken:
        if names is None:
            return []
        known += names
    return [
        f"{where}.when.{name}: {' and '.join(named)} {'takes' if len(named) == 1 else 'take'} no argument {name!r}"
        f"{near_miss(name, known)}"
        for name in rule.when
        if known and name not in (WHOLE, *known)
    ]


def _takes(tool: ToolSpec) -> list[str] | None:
    """The names of a tool's arguments; None when it may take others than its schema lists."""
    schema = tool.parameters
    elsewhere = ("patternProperties", "$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas")
    if "properties" not in schema or any(keyword in schema for keyword in elsewhere):
        return None
    return list(schema["properties"]) if schema.get("additionalProperties", False) is False else None


def _left_alone(rule: ApprovalRule, where: str, settings: Settings, starters: tuple[str, ...]) -> list[str]:
    """A quorum that could only be filled with those whom four eyes keep out."""
    if not (rule.four_eyes and rule.approvers and starters):
        return []
    asked = people_of((*rule.approvers, *rule.escalate_to), settings)
    left = [person for person in asked if not is_among(person, starters)]
    if len(left) >= rule.required:
        return []
    return [
        f"{where}.four_eyes: {' and '.join(starters[:3])} may not decide on a run of theirs, and with {len(left)} of "
        f"the approvers left there are fewer than the {rule.required} who have to approve"
    ]


def _people(rule: ApprovalRule, where: str, settings: Settings) -> list[str]:
    if not rule.approvers:
        asked = f"{where}.escalate_to: asks nobody who was not asked before, because `approvers` is empty: anybody may"
        return [asked] if rule.escalate_to else []
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


def _covered_by(agent: Agent, index: int) -> list[int]:
    """The earlier rules that together take every call of this one; empty when something is left for it."""
    rule = agent.approvals[index]
    left = {tool for tool in agent.tools if _names_tool(rule, tool)}
    covering: list[int] = []
    for earlier, other in enumerate(agent.approvals[:index]):
        taken = {tool for tool in left if _names_tool(other, tool)}
        if taken and other.when in ({}, rule.when):
            covering.append(earlier)
            left -= taken
    return covering if not left else []


def _names_tool(rule: ApprovalRule, tool: str) -> bool:
    return any(fnmatchcase(tool, pattern) for pattern in rule.tools)
