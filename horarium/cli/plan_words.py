"""How a plan of routines is shown: what would be created, changed field by field, deleted, and set right."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python
from rich.text import Text

from horarium.cli import words
from horarium.durations import words as duration_words
from horarium.routines import EventTrigger, Routine

if TYPE_CHECKING:
    from schedules.deploy import Outcome
    from schedules.differences import Action, Change, FieldChange, Plan

SIGNS: dict[Action, tuple[str, str]] = {
    "create": ("+", "green"),
    "update": ("~", "yellow"),
    "delete": ("-", "red"),
    "unchanged": ("!", "magenta"),
}
DONE: dict[Action, str] = {"create": "created", "update": "updated", "delete": "deleted", "unchanged": "repaired"}
LONGEST = 60  # characters of a value; a change of a longer one is shown on lines of its own
MOST_LINES = 8  # of such a change


def lines(plan: Plan) -> Iterator[Text]:
    """What a plan would do, a block for each routine, and a sum at the end."""
    for change in plan.changes:
        if not change.empty:
            yield from _block(change)
            yield Text("")
    for schedule in plan.doomed:
        yield _head(
            "delete", words.one_line(schedule), "delete this schedule, of a routine that the ledger does not know"
        )
        yield Text("")
    yield Text(_sum(plan), style="bold")


def notes(plan: Plan) -> Iterator[str]:
    """What a plan leaves alone, and why."""
    if plan.kept:
        verb = "was" if len(plan.kept) == 1 else "were"
        yield f"{', '.join(plan.kept)} {verb} deployed from files that are gone. To delete: horarium apply --prune"
    if plan.strangers:
        yield (
            f"In Temporal, but of no routine of this ledger: {words.one_line(', '.join(plan.strangers))}. "
            "To delete: horarium apply --prune"
        )
    for change in plan.changes:
        if any(item.kind == "paused" for item in change.drift):
            yield (
                f"{change.routine} was paused in Temporal, and to apply lets it fire again. "
                f"To keep it paused: horarium routine pause {change.routine}"
            )
    for grant in plan.revoked:
        who = words.one_line(grant.revoked_by or "")
        yield (
            f"{grant.scope_id}: the preapproval of {grant.tool} was revoked by {who}, "
            "and stays so until the definition says it in another way."
        )


def outcome_lines(outcomes: Sequence[Outcome]) -> Iterator[Text]:
    """What became of each change that was made."""
    for outcome in outcomes:
        if outcome.error is None:
            _, style = SIGNS[outcome.change.action]
            yield Text.assemble((f"{DONE[outcome.change.action]:<9}", style), outcome.change.routine)


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan with stable keys; durations as ISO 8601."""
    return {
        "empty": plan.empty,
        "counts": {
            "create": plan.count("create"),
            "update": plan.count("update"),
            "delete": plan.count("delete"),
            "repair": plan.repairs,
            "unchanged": plan.count("unchanged"),
        },
        "changes": [_change_json(change) for change in plan.changes],
        "kept": list(plan.kept),
        "strangers": list(plan.strangers),
        "deleted_schedules": list(plan.doomed),
        "revoked": [{"routine": item.scope_id, "tool": item.tool, "by": item.revoked_by} for item in plan.revoked],
    }


def outcomes_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """What became of each change, with stable keys."""
    return [
        {
            "routine": outcome.change.routine,
            "done": DONE[outcome.change.action] if outcome.error is None else None,
            "error": {"code": outcome.error.code, "message": str(outcome.error)} if outcome.error else None,
        }
        for outcome in outcomes
    ]


def _change_json(change: Change) -> dict[str, Any]:
    return {
        "routine": change.routine,
        "action": change.action,
        "fields": [
            {"field": item.field, "old": to_jsonable_python(item.old), "new": to_jsonable_python(item.new)}
            for item in change.fields
        ],
        "drift": [{"kind": item.kind, "subject": item.subject, "message": item.message} for item in change.drift],
    }


def _block(change: Change) -> Iterator[Text]:
    match change.action:
        case "create":
            yield _head("create", change.routine, "create")
            if change.definition is not None:
                yield from _pairs(list(_outline(change.definition)))
        case "update":
            yield _head("update", change.routine, "update")
            yield from _fields(change.fields)
        case "delete":
            yield _head("delete", change.routine, "delete; its ticks stay as evidence")
        case "unchanged":
            yield _head("unchanged", change.routine, "repair: it is not so in Temporal")
    if change.action == "update" and change.drift:
        yield Text("    and in Temporal it is not as deployed:", style="magenta")
    yield from (Text(f"    {words.one_line(item.subject)} {words.one_line(item.message)}") for item in change.drift)


def _head(action: Action, name: str, what: str) -> Text:
    sign, style = SIGNS[action]
    return Text.assemble((f"{sign} ", style), (name, f"bold {style}"), (f"  {what}", style))


def _outline(routine: Routine) -> Iterator[tuple[str, str]]:
    from schedules.specs import since_now, timing

    yield "agent", routine.agent + (f"@{routine.version}" if routine.version else "")
    for name, trigger in routine.triggers.items():
        event = isinstance(trigger, EventTrigger)
        when = f"On the event {trigger.event}" if isinstance(trigger, EventTrigger) else ""
        yield name, when if event else timing(routine, trigger, since_now(datetime.now(UTC))).words
    if not routine.triggers:
        yield "triggers", "none: it runs when somebody says so"
    yield "on failure", routine.on_failure
    if not routine.enabled:
        yield "paused", "`enabled: false`"


def _pairs(pairs: Sequence[tuple[str, str]]) -> Iterator[Text]:
    width = max((len(name) for name, _ in pairs), default=0)
    for name, said in pairs:
        yield Text.assemble("    ", (f"{name:<{width}}", "dim"), "  ", said)


def _fields(fields: Sequence[FieldChange]) -> Iterator[Text]:
    short = [item for item in fields if len(_value(item.old)) + len(_value(item.new)) <= LONGEST]
    yield from _pairs([(item.field, f"{_value(item.old)} -> {_value(item.new)}") for item in short])
    for item in fields:
        if item in short:
            continue
        yield Text(f"    {item.field}", style="dim")
        changed = list(_changed_lines(item))
        yield from changed[:MOST_LINES]
        if len(changed) > MOST_LINES:
            yield Text(f"      … and {words.plural(len(changed) - MOST_LINES, 'more line')}", style="dim")


def _changed_lines(item: FieldChange) -> Iterator[Text]:
    sides = [_lines_of(side) for side in (item.old, item.new)]
    for line in difflib.ndiff(sides[0], sides[1]):
        style = {"-": "red", "+": "green"}.get(line[0])
        if style is not None:
            yield Text(f"      {line.rstrip()}", style=style)


def _lines_of(value: Any) -> list[str]:
    return [words.visible(line) for line in value.splitlines()] if isinstance(value, str) else [_value(value)]


def _value(value: Any) -> str:
    match value:
        case None:
            return "(none)"
        case timedelta():
            return duration_words(value) if value else "0s"
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        case bool():
            return "true" if value else "false"
        case str():
            return words.one_line(value)
        case _:
            return words.one_line(json.dumps(_short(value), ensure_ascii=False, default=str))


def _short(value: Any) -> Any:
    """A composed value with durations as people write them, and without what is not set."""
    match value:
        case dict():
            return {name: _short(item) for name, item in value.items() if item is not None}
        case list() | tuple():
            return [_short(item) for item in value]
        case timedelta():
            return duration_words(value) if value else "0s"
    return value


def _sum(plan: Plan) -> str:
    well = plan.count("unchanged")
    if plan.empty:
        return f"Nothing to do: {words.plural(well, 'routine')} as deployed." if well else "Nothing to do: no routines."
    parts = {
        "create": plan.count("create"),
        "update": plan.count("update"),
        "delete": plan.count("delete") + len(plan.doomed),
        "repair": plan.repairs,
    }
    said = ", ".join(f"{number:,} to {name}" for name, number in parts.items() if number)
    return f"{said}; {well:,} unchanged." if well else f"{said}."
