"""Definitions for people: as they would be written, what is different between two, and an approval plan in words."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from horarium.definitions import Agent, ApprovalRule, Limits, Memory
from horarium.durations import words as length
from horarium.gateway.console.routine_page import written
from horarium.gateway.console.words import count
from horarium.gateway.v1.agents import definition_of
from horarium.plans import WHOLE, rule_for, rule_named
from horarium.tools import Effect
from horarium.yamlfiles import yaml_of

MOST_LINES = 5_000
_COMPARED = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "more than",
    "exclusiveMaximum": "less than",
    "const": "exactly",
    "pattern": "like",
}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a difference; `mark` is what stands before it."""

    mark: Literal["+", "-", " ", "@"]
    text: str

    @property
    def kind(self) -> str:
        """Its class, for the eye."""
        return {"+": "added", "-": "removed", "@": "faint"}.get(self.mark, "")


def as_written(model: Any, more: Mapping[str, Any] | None = None) -> str:
    """A definition as its file would have it: YAML, without what only repeats a default."""
    shown = definition_of(model, mode="python", exclude_defaults=True)
    return yaml_of(written(shown) | dict(more or {}))


def difference(before: str, after: str) -> list[Line]:
    """What differs, with some lines around; nothing when they are the same."""
    found = difflib.unified_diff(before.splitlines()[:MOST_LINES], after.splitlines()[:MOST_LINES], lineterm="", n=4)
    return [_line(text) for text in list(found)[2:]]


def _line(text: str) -> Line:
    match text[:1]:
        case "+":
            return Line("+", text[1:])
        case "-":
            return Line("-", text[1:])
        case "@":
            return Line("@", text)
        case _:
            return Line(" ", text[1:])


# ---- approvals


def plan_in_words(rules: Iterable[ApprovalRule]) -> list[str]:
    """An approval plan, a sentence or more for each rule; what no rule fits is said last by the page."""
    return [f"{', '.join(rule.tools)}{_when(rule)}: {asked_in_words(rule)}" for rule in rules]


def asked_in_words(rule: ApprovalRule) -> str:
    """Whom a rule asks, and until when."""
    return " ".join(_sentences(rule))


def _sentences(rule: ApprovalRule) -> Iterator[str]:
    if rule.required == 0:
        yield "runs without asking anybody."
        return
    who = _people(rule.approvers) if rule.approvers else ("anybody" if rule.required == 1 else "people")
    many = f"{rule.required} of " if rule.required > 1 else "one of " if len(rule.approvers) > 1 else ""
    yield f"waits for {many}{who}" + (", not whoever started the run." if rule.four_eyes else ".")
    if rule.expires_after is not None:
        yield f"After {length(rule.expires_after)} {_at_the_end(rule)}."
    if rule.remind_every is not None:
        yield f"They are reminded every {length(rule.remind_every)}."
    if rule.remember is not None:
        scopes = " or ".join(rule.remember.scopes)
        longest = length(rule.remember.longest)
        yield f"Whoever approves may release later calls too: of the {scopes}, for up to {longest}."


def _at_the_end(rule: ApprovalRule) -> str:
    ends = {"reject": "it is rejected", "fail": "the run fails"}
    if rule.on_expiry != "escalate":
        return ends[rule.on_expiry or "reject"]
    return f"these are asked: {_people(rule.escalate_to)}; after as long again {ends[rule.on_escalation_expiry]}"


def _people(names: Iterable[str]) -> str:
    return ", ".join(f"the role {name.removeprefix('role:')}" if name.startswith("role:") else name for name in names)


def _when(rule: ApprovalRule) -> str:
    parts = [f"{'the arguments' if name == WHOLE else name} {_bound(bound)}" for name, bound in rule.when.items()]
    return f" when {' and '.join(parts)}" if parts else ""


def _bound(bound: Mapping[str, Any]) -> str:
    said = []
    for keyword, value in bound.items():
        if keyword == "enum" and isinstance(value, list):
            said.append(f"is one of {', '.join(json.dumps(one, ensure_ascii=False) for one in value)}")
        elif keyword in _COMPARED:
            said.append(f"is {_COMPARED[keyword]} {json.dumps(value, ensure_ascii=False)}")
        else:
            said.append(f"fits {keyword} {json.dumps(value, ensure_ascii=False)}")
    return " and ".join(said)


def gate_in_words(agent: Agent, tool: str, effect: Effect | None) -> str:
    """What stands between a call of a tool and its effect, whatever its arguments are."""
    bare = tuple(rule.model_copy(update={"when": {}}) for rule in agent.approvals)
    name, _ = rule_for(agent.model_copy(update={"approvals": bare}), tool, Effect.EXTERNAL, {})
    rule = rule_named(agent, name)
    if rule is not None:
        return "depends on its arguments: see the approval plan" if rule.when else next(_sentences(rule)).rstrip(".")
    if effect is None:
        return "by the effect of each of its tools"
    return "runs without asking" if effect is Effect.READ else "waits for one person"


# ---- the rest


def limits_in_words(limits: Limits) -> list[str]:
    """Where a run stops by itself."""
    said = [
        count(limits.max_turns, "turn"),
        f"{length(limits.wall_time)} of work, waiting for people not counted",
        f"the same call {limits.max_repeats} times in a row",
        f"{count(limits.max_calls_per_turn, 'call')} in one turn",
    ]
    if limits.max_tokens is not None:
        said.append(count(limits.max_tokens, "token"))
    if limits.max_output_tokens is not None:
        said.append(count(limits.max_output_tokens, "token") + " of output")
    if limits.max_tool_calls is not None:
        said.append(count(limits.max_tool_calls, "tool call"))
    if limits.max_cost_usd is not None:
        said.append(f"${limits.max_cost_usd}")
    return said


def memory_in_words(memory: Memory | None, model: str) -> list[str]:
    """What outlives a thread."""
    if memory is None:
        return ["It remembers nothing between threads."]
    said = [f"Scope {memory.scope}, kinds {', '.join(memory.kinds)}, in the {_store(memory)}."]
    said.append(
        f"A run is told up to {memory.recall} of each kind, within about {memory.recall_tokens:,} tokens."
        if memory.recall
        else "Runs are told none of it."
    )
    finder = memory.extracts_with(model)
    said.append(
        f"{finder} finds what is worth remembering." if finder else "No model looks for what is worth remembering."
    )
    if memory.rubric is not None:
        said.append(f"Procedures count when {memory.rubric.name} gives the run at least {memory.rubric.at_least}.")
    elif "procedural" in memory.kinds:
        said.append("Procedures wait for a review, or for positive feedback on their run.")
    if memory.expires_after is not None:
        said.append(f"What is not learned again goes after {length(memory.expires_after)}.")
    return said


def _store(memory: Memory) -> str:
    return "ledger" if memory.store == "ledger" else "memory store of Foundry"
