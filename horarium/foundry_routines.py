"""Routines in the shape that Microsoft Foundry gives them: taken in as the fields of a routine file, and given back.

What the other side has no word for is said in a note, never dropped in silence. What only Foundry knows (connection,
repository, session) is kept in labels that begin with `foundry.`, so that a routine can go there and back.

Source: azure-ai-projects 2.10, `models.Routine` with its triggers and actions (beta, V2Preview).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from horarium.content import canonical
from horarium.definition import a_name
from horarium.durations import words
from horarium.errors import ConfigError
from horarium.routines import AtTrigger, CronTrigger, EventTrigger, EveryTrigger, Routine, Trigger
from horarium.templates import TemplateFailed, render
from horarium.windows_zones import IANA_OF_WINDOWS

RESPONSES = "invoke_agent_responses_api"
INVOCATIONS = "invoke_agent_invocations_api"
LABEL = "foundry."
MAX_LABEL_CHARS = 1_000
NO_INPUT = "Do what your instructions say."
LEAST_MINUTES = 5  # what the service allows between two fires
_SHARED = {"name", "agent", "description", "triggers", "input", "enabled", "labels"}


def import_foundry(routine: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields of a routine file, and notes on what could not be kept.

    Args:
        routine: As `models.Routine.as_dict()` or the REST API has it; `authorization` may stand beside.

    Raises:
        ConfigError: It names no agent, or is no routine at all.
    """
    notes: list[str] = []
    labels: dict[str, str] = {}
    name = _named(str(routine.get("name") or ""), "the routine", notes)
    action = routine.get("action")
    if not isinstance(action, Mapping) or action.get("type") not in (RESPONSES, INVOCATIONS):
        raise ConfigError(
            f"The routine {name!r} has no action that calls an agent.",
            hint=f"Its `action.type` must be {RESPONSES} or {INVOCATIONS}.",
        )
    values: dict[str, Any] = {"name": name, "agent": _agent(name, action, labels, notes)}
    if routine.get("description"):
        values["description"] = str(routine["description"])
    triggers: dict[str, Any] = {}
    for key, trigger in (routine.get("triggers") or {}).items():
        fit = _named(str(key), f"the trigger {key!r}", notes)
        made = _trigger_in(fit, trigger, labels, notes)
        if made is not None:
            triggers[fit] = made
    values["triggers"] = triggers
    values["input"] = _input_in(action.get("input"), labels, notes)
    if not routine.get("enabled", True):
        values["enabled"] = False
    _session_in(action, labels, notes)
    identity = (routine.get("authorization") or {}).get("identity")
    if identity == "creator":
        labels[f"{LABEL}identity"] = "creator"
        notes.append("authorization.identity: creator: here its runs are started by the routine; see `requested_by`")
    return values | ({"labels": labels} if labels else {}), notes


def export_foundry(routine: Routine) -> tuple[dict[str, Any], list[str]]:
    """What `routines.create_or_update` takes, with the name, and notes on what could not be kept."""
    notes: list[str] = []
    own = {key.removeprefix(LABEL): value for key, value in routine.labels.items() if key.startswith(LABEL)}
    made: dict[str, Any] = {"name": routine.name, "enabled": routine.enabled}
    if routine.description:
        made["description"] = routine.description
    triggers: dict[str, Any] = {}
    for name, trigger in routine.triggers.items():
        out = _trigger_out(name, trigger, own, notes)
        if out is not None:
            triggers[name] = out
    made["triggers"] = triggers
    kind = own.get("action", RESPONSES)
    agent = {"agent_endpoint_id": own["endpoint"]} if "endpoint" in own else {"agent_name": routine.agent}
    action: dict[str, Any] = {"type": kind, **agent, "input": _input_out(routine, own, notes)}
    thread = "conversation" if kind == RESPONSES else "session_id"
    action |= {thread: own[thread]} if thread in own else {}
    made["action"] = {key: value for key, value in action.items() if value is not None}
    if "identity" in own:
        made["authorization"] = {"identity": own["identity"]}
    notes += _left_out(routine)
    return made, notes


# ---- in


def _named(name: str, what: str, notes: list[str]) -> str:
    try:
        return a_name(name)
    except ValueError:
        fit = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:63] or "imported"
        notes.append(f"{what} is called {fit!r} here, because a name has letters, digits, '-' and '_' only")
        return fit


def _agent(name: str, action: Mapping[str, Any], labels: dict[str, str], notes: list[str]) -> str:
    if action.get("agent_name"):
        return str(action["agent_name"])
    endpoint = str(action.get("agent_endpoint_id") or "")
    if not endpoint:
        raise ConfigError(f"The routine {name!r} names no agent.", hint="Give its action an `agent_name`.")
    labels[f"{LABEL}endpoint"] = endpoint
    agent = endpoint.rstrip("/").rpartition("/")[2]
    notes.append(f"action.agent_endpoint_id: taken for the agent {agent!r}; correct it where it is called otherwise")
    return agent


def _trigger_in(key: str, trigger: Any, labels: dict[str, str], notes: list[str]) -> dict[str, Any] | None:
    where = f"triggers.{key}"
    kind = trigger.get("type") if isinstance(trigger, Mapping) else None
    match kind:
        case "schedule":
            zone = str(trigger.get("time_zone") or "UTC")
            if zone in IANA_OF_WINDOWS:
                notes.append(f"{where}: the zone {zone!r} is {IANA_OF_WINDOWS[zone]} here")
            return {"cron": str(trigger.get("cron_expression")), "time_zone": IANA_OF_WINDOWS.get(zone, zone)}
        case "timer":
            at = _instant(trigger.get("at"))
            if at is None:
                notes.append(f"{where}: it says no time that can be read; left out")
                return None
            return {"at": f"{at:%Y-%m-%dT%H:%M:%SZ}"}
        case "github_issue":
            happened = str(trigger.get("issue_event"))
            repository = f"{trigger.get('owner')}/{trigger.get('repository')}"
            notes.append(
                f"{where}: send the event of issues of {repository} only; here nothing is filtered by repository"
            )
            event = _event(f"github.issue.{happened}", where, notes)
        case "custom":
            parts = (trigger.get("provider"), trigger.get("event_name"))
            event = _event(".".join(str(part) for part in parts if part), where, notes)
            if trigger.get("parameters"):
                notes.append(f"{where}: its parameters are kept in a label; here nothing is filtered by them")
        case _:
            notes.append(f"{where}: there is no trigger like {kind!r} here; left out")
            return None
    _keep(f"trigger.{key}", canonical(dict(trigger)), labels, where, notes)
    return {"event": event}


def _event(event: str, where: str, notes: list[str]) -> str:
    fit = re.sub(r"[^A-Za-z0-9_.:/-]+", "-", event).strip("-._:/")[:200] or "event"
    if fit != event:
        notes.append(f"{where}: the event is called {fit!r} here")
    return fit


def _instant(at: Any) -> datetime | None:
    """A UNIX time, or ISO 8601, as the REST API and exported files have it."""
    try:
        if isinstance(at, str) and not at.isdigit():
            found = datetime.fromisoformat(at)
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
        return datetime.fromtimestamp(float(at), UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _input_in(given: Any, labels: dict[str, str], notes: list[str]) -> str:
    if given is None or given == "":
        notes.append(f"action.input: there is none, and a routine says something here: {NO_INPUT!r}")
        labels[f"{LABEL}input"] = "none"
        return NO_INPUT
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False, indent=2)
    if not isinstance(given, str):
        notes.append("action.input: is JSON; the agent is given it as text")
        labels[f"{LABEL}input"] = "json"
    if not any(mark in text for mark in ("{{", "{%", "{#")):
        return text
    return json.dumps(text).join(("{{ ", " }}")) if "endraw" in text else f"{{% raw %}}{text}{{% endraw %}}"


def _session_in(action: Mapping[str, Any], labels: dict[str, str], notes: list[str]) -> None:
    if action["type"] == INVOCATIONS:
        labels[f"{LABEL}action"] = INVOCATIONS
    for field in ("conversation", "session_id"):
        if action.get(field):
            labels[f"{LABEL}{field}"] = str(action[field])
            notes.append(f"action.{field}: is Foundry's; for a conversation of its own here: `conversation: continue`")


def _keep(key: str, value: str, labels: dict[str, str], where: str, notes: list[str]) -> None:
    if len(value) > MAX_LABEL_CHARS or len(labels) >= 12:
        notes.append(f"{where}: too much to be kept in a label; it cannot be given back to Foundry")
        return
    labels[f"{LABEL}{key}"] = value


# ---- out


def _trigger_out(name: str, trigger: Trigger, own: Mapping[str, str], notes: list[str]) -> dict[str, Any] | None:
    where = f"triggers.{name}"
    match trigger:
        case CronTrigger():
            return _cron_out(trigger, where, notes)
        case EveryTrigger():
            cron = _cron_of(trigger)
            if cron is None:
                notes.append(f"{where}: Foundry has no `every`, and no cron line says {words(trigger.every)}; left out")
                return None
            notes.append(f"{where}: Foundry has no `every`; given as the cron line {cron!r} in UTC")
            _too_close(cron, where, notes)
            return {"type": "schedule", "cron_expression": cron, "time_zone": "UTC"}
        case AtTrigger():
            return {"type": "timer", "at": int(trigger.at.timestamp())}
        case EventTrigger():
            kept = own.get(f"trigger.{name}")
            if kept is not None and isinstance(read := json.loads(kept), dict):
                return read
            provider, _, event = trigger.event.partition(".")
            return {"type": "custom", "provider": provider, "parameters": {}} | ({"event_name": event} if event else {})


def _cron_out(trigger: CronTrigger, where: str, notes: list[str]) -> dict[str, Any] | None:
    if len(trigger.cron.split()) != 5:
        notes.append(f"{where}: Foundry takes five fields only, not {trigger.cron!r}; left out")
        return None
    for field, usual in (("repeat", "once"), ("gap", "fire")):
        if (said := getattr(trigger, field)) != usual:
            notes.append(f"{where}: `{field}: {said}` is left out; Foundry has no say in clock changes")
    _too_close(trigger.cron, where, notes)
    return {"type": "schedule", "cron_expression": trigger.cron, "time_zone": trigger.time_zone}


def _too_close(cron: str, where: str, notes: list[str]) -> None:
    step = re.match(r"(?:\*|\d+-\d+)(?:/(\d+))?\s", cron)
    if step is not None and int(step.group(1) or 1) < LEAST_MINUTES:
        notes.append(f"{where}: Foundry allows {LEAST_MINUTES} minutes between two fires, and may refuse {cron!r}")


def _cron_of(trigger: EveryTrigger) -> str | None:
    """The cron line in UTC of a fixed distance; None when there is none."""
    minutes, seconds = divmod(trigger.every, timedelta(minutes=1))
    first, rest = divmod(trigger.offset, timedelta(minutes=1))
    if seconds or rest:
        return None
    if minutes <= 60 and 60 % minutes == 0:
        steps = f"{first}-59/{minutes}" if first else f"*/{minutes}"
        return f"{first} * * * *" if minutes == 60 else f"{steps} * * * *"
    hours, rest_minutes = divmod(minutes, 60)
    if rest_minutes or 24 % hours:
        return None
    hour, minute = divmod(first, 60)
    if hours == 24:
        return f"{minute} {hour} * * *"
    return f"{minute} {f'{hour}-23' if hour else '*'}/{hours} * * *"


def _input_out(routine: Routine, own: Mapping[str, str], notes: list[str]) -> Any:
    if own.get("input") == "none" and routine.input == NO_INPUT:
        return None
    text = routine.input
    if any(mark in text for mark in ("{{", "{%", "{#")):
        try:
            text = render(text, {})
        except TemplateFailed:
            notes.append("input: Foundry fills in no templates; its agent is given the text as it stands here")
    if own.get("input") == "json":
        try:
            return json.loads(text)
        except ValueError:
            notes.append("input: is no JSON any more; given as text")
    return text


def _left_out(routine: Routine) -> list[str]:
    """What this routine says besides, each in a note."""
    notes: list[str] = []
    for name, field in Routine.model_fields.items():
        if name not in _SHARED and getattr(routine, name) != field.default:
            notes.append(f"{name}: Foundry's routines have no such setting; left out")
    others = [key for key in routine.labels if not key.startswith(LABEL)]
    return [*notes, *(["labels: Foundry's routines have none; left out"] if others else [])]
