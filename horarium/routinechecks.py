"""What can be said of a routine without a server: its template, what it lets through unasked, and what will not happen.

Whether a trigger's line can be kept is in `schedules/checks.py`, which knows what a cron line means.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from horarium.definitions import Agent
from horarium.plans import WHOLE
from horarium.problems import near_miss
from horarium.routines import AtTrigger, Routine
from horarium.secrets import REFERENCE
from horarium.templates import check_template
from horarium.tools import Effect, ToolSpec

Problem = tuple[tuple[str | int, ...], str]  # the field, and a sentence


def template_problems(routine: Routine) -> list[Problem]:
    """What is wrong with the input template."""
    many = "\n" in routine.input
    return [
        (("input",), f"line {found.line}: {found.sentence}" if many else found.sentence)
        for found in check_template(routine.input)
    ]


def preapproval_problems(routine: Routine, agent: Agent, tools: Mapping[str, ToolSpec]) -> list[Problem]:
    """Entries of `preapproved` that release nothing: no such tool, no such argument, or nobody would be asked anyway.

    Args:
        tools: Those whose effect and arguments are known; of others only the name is checked.
    """
    return [
        (("preapproved", index, *path), sentence)
        for index, item in enumerate(routine.preapproved)
        for path, sentence in _of_entry(agent, item.tool, list(item.when), tools.get(item.tool))
    ]


def routine_warnings(routine: Routine, *, now: datetime | None = None) -> list[Problem]:
    """What can be deployed, and is probably not meant."""
    now = now or datetime.now(UTC)
    found: list[Problem] = [
        (("triggers", name, "at"), f"{trigger.at:%Y-%m-%d %H:%M} UTC is over: it will not fire")
        for name, trigger in routine.triggers.items()
        if isinstance(trigger, AtTrigger) and trigger.at <= now
    ]
    if routine.end is not None and routine.end <= now:
        found.append((("end",), f"{routine.end.astimezone(UTC):%Y-%m-%d %H:%M} UTC is over: nothing will fire"))
    if not routine.triggers:
        found.append((("triggers",), "there are none: it runs when a person says so, and not by itself"))
    for index, address in enumerate(routine.alert):
        name = REFERENCE.sub(r"\1", address)
        if not os.environ.get(name):
            said = f"the environment variable {name} is not set here; the engine's worker needs it to tell anybody"
            found.append((("alert", index), said))
    return found


def _of_entry(agent: Agent, tool: str, when: list[str], spec: ToolSpec | None) -> Iterator[Problem]:
    if tool not in agent.tools:
        yield ("tool",), f"agent {agent.name!r} has no tool {tool!r}{near_miss(tool, sorted(agent.tools))}"
        return
    if spec is None:
        return
    asked = any(rule.required for rule in agent.approvals if any(fnmatchcase(tool, name) for name in rule.tools))
    if spec.effect is Effect.READ and not asked:
        yield ("tool",), f"{tool!r} only reads: nobody is asked about it, so there is nothing to approve; leave it out"
    known = _arguments(spec)
    for name in when:
        if known is not None and name not in (WHOLE, *known):
            yield ("when", name), f"{tool!r} takes no argument {name!r}{near_miss(name, known)}"


def _arguments(spec: ToolSpec) -> list[str] | None:
    """The names of a tool's arguments; None when it may take others than its schema lists."""
    schema = spec.parameters
    elsewhere = ("patternProperties", "$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas")
    if "properties" not in schema or any(keyword in schema for keyword in elsewhere):
        return None
    return list(schema["properties"]) if schema.get("additionalProperties", False) is False else None
