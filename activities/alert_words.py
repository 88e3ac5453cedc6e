"""What an alert says: to people in plain words, and to programs as a webhook's body.

What a model, a tool or a server wrote is cut, made visible, and cleaned of every secret that this process knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from activities.notice_words import Words
from horarium.content import shorten
from horarium.durations import words as duration
from horarium.ledger.admission import LEAST_CATCH_UP
from horarium.ledger.alerts import AlertShown, Question, StepShown
from horarium.ledger.lateness import MOST_FIRES
from horarium.ledger.ticks import TickRecord
from horarium.routines import CronTrigger, Routine
from horarium.secrets import redact
from horarium.visible import one_line

SAID_CHARS = 500
_KIND = {"model_call": "the model", "tool_call": "the tool", "memory_write": "the memory", "handoff": "the agent"}
_STATUS = {"claimed": "was begun", "unknown": "may or may not have happened", "pending": "waits"}


def words(shown: AlertShown, link: str | None, next_fire: datetime | None) -> Words:
    """The message to people. `link` leads to the routine's page; `next_fire` is None when there is none."""
    parts = [_lead(shown), _facts(shown), _next(shown, next_fire), _way(shown, link)]
    blocks = ["\n".join(lines) for part in parts if (lines := list(part))]
    return Words(redact(_title(shown)), redact("\n\n".join(blocks)))


def webhook_body(shown: AlertShown, link: str | None, next_fire: datetime | None) -> str:
    """The JSON for programs, as Standard Webhooks has it."""
    alert, record = shown.alert, shown.routine
    data = {
        "routine": record.name,
        "tenant": record.tenant,
        "agent": record.routine.agent,
        "labels": record.routine.labels,
        "occurrence": alert.occurrence,
        "failures": record.failures,
        "paused": bool(record.paused),
        "tick": _tick_data(shown.tick),
        "step": asdict(shown.step) | {"message": _said(shown.step.message)} if shown.step else None,
        "waiting_for": [asdict(question) for question in shown.questions],
        "fires": [
            {"tick": fire.id, "trigger": fire.trigger, "scheduled_at": fire.scheduled_at, "opened_at": fire.opened_at}
            | {"reason": fire.reason, "message": _said(fire.message)}
            for fire in shown.fires
        ],
        "fires_count": shown.fires_count,
        "next_try_at": _next_attempt(shown) or next_fire,
        "link": link,
    }
    return json.dumps({"type": f"routine.{alert.event}", "timestamp": alert.at, "data": data}, default=_stamp)


# ---- what happened


def _title(shown: AlertShown) -> str:
    name = shown.routine.name
    match shown.alert.event:
        case "failed":
            return f"Failed: routine {name}"
        case "recovered":
            return f"Works again: routine {name}"
        case "not_fired" if shown.fires_count > 1:
            return f"{_count(shown)} fires missed or late: routine {name}"
        case "not_fired":
            return f"Not fired in time: routine {name}"
        case "not_finished":
            return f"Not finished in time: routine {name}"
        case "parked":
            return f"Waits for a person: routine {name}"
        case "paused":
            return f"Paused after {_failures(shown)}: routine {name}"


def _lead(shown: AlertShown) -> Iterator[str]:
    name, tick = shown.routine.name, shown.tick
    match shown.alert.event:
        case "failed":
            yield f"The routine {name} failed: {_why(tick)}"
            yield "It is not said again until it has worked once."
        case "recovered":
            yield f"The routine {name} works again."
            if shown.episode.since is not None:
                times = "1 tick" if shown.episode.failed == 1 else f"{shown.episode.failed} ticks in a row"
                yield f"{times} had failed, from {_local(shown.episode.since, _zone(shown))} on."
        case "not_fired":
            yield from _fires(shown)
        case "not_finished" if tick is not None:
            routine = _then(shown, tick)
            late = duration(routine.late_after) if routine.late_after else "nothing"
            taken = _spent(tick, shown.alert.at)
            yield f"A tick of the routine {name} is not done after {taken}."
            yield f"It has {duration(routine.timeout)} (`timeout`), and {late} more (`late_after`). It goes on."
            yield from map(_waits, shown.questions)
            if tick.status == "queued" and tick.message:
                yield _said(tick.message) or ""
        case "parked":
            yield f"A tick of the routine {name} cannot go on without a person, though it is `unattended: deny`."
            yield from map(_waits, shown.questions) if shown.questions else ("Somebody has answered meanwhile.",)
        case "paused":
            yield f"The routine {name} is paused after {_failures(shown)} in a row: no trigger fires now."
            yield f"The last one: {_why(tick)}"
        case _:
            yield f"The routine {name}: {shown.alert.event}"


def _failures(shown: AlertShown) -> str:
    count = shown.routine.failures or shown.episode.failed  # somebody may have resumed it by now
    return "1 failed tick" if count == 1 else f"{count} failed ticks"


def _fires(shown: AlertShown) -> Iterator[str]:
    zone, name = _zone(shown), shown.routine.name
    if shown.fires_count <= 1:
        yield f"The routine {name} did not fire in time."
    else:
        yield f"{_count(shown)} fires of the routine {name} were missed or came late:"
    yield ""
    last = None
    for fire in shown.fires:
        why = _fire_end(shown, fire)
        again = "the same" if why == last and shown.fires_count > 1 else why
        yield f"- {_local(fire.scheduled_at, zone)}, trigger {fire.trigger}: {again}"
        last = why
    more = shown.fires_count - len(shown.fires)
    if more > 0 and shown.last_fire is not None:
        yield f"- and {more} more, the last at {_local(shown.last_fire, zone)}"


def _fire_end(shown: AlertShown, fire: TickRecord) -> str:
    if fire.opened_at is not None and fire.status != "skipped":
        return f"it began {duration(fire.opened_at - fire.scheduled_at)} late"
    routine = shown.routine.routine
    end = fire.scheduled_at + max(routine.catch_up, LEAST_CATCH_UP) + routine.jitter
    still = (
        f" It may still begin until {_utc(end)} (`catch_up`)."
        if fire.status == "missed" and end > shown.alert.at
        else ""
    )
    said = _said(fire.message) or "nothing is known"
    return f"{said}{still}"


def _count(shown: AlertShown) -> str:
    return f"{shown.fires_count:,}{' or more' if shown.fires_count >= MOST_FIRES else ''}"


# ---- where, and how often


def _facts(shown: AlertShown) -> Iterator[str]:
    tick = shown.tick
    if tick is None or shown.alert.event == "not_fired":
        return
    routine, zone = _then(shown, tick), _zone(shown)
    by = f", trigger {tick.trigger}" if tick.trigger else f", {tick.source}"
    yield f"Tick: {_local(tick.scheduled_at, zone)}{by}"
    yield f"Agent: {one_line(routine.agent)}"
    if tick.attempts:
        most = routine.ladder.attempts if routine.ladder else 1
        yield f"Attempt: {tick.attempts} of {max(most, tick.attempts)}, {tick.run_id}"
    if shown.step is not None and shown.alert.event != "recovered":
        yield f"Step: {_step(shown.step)}"
    yield f"Took: {_spent(tick, shown.alert.at)}"
    if shown.alert.event in ("failed", "paused") and shown.episode.failed > 1:
        since = _local(shown.episode.since or tick.scheduled_at, zone)
        yield f"Failed in a row: {shown.episode.failed}, from {since} on"


def _step(step: StepShown) -> str:
    what = f"{step.number}, {_KIND.get(step.kind, step.kind)} {one_line(step.name)}"
    said = _said(step.message) or _STATUS.get(step.status, step.status)
    code = f"{one_line(step.code)}: " if step.code and step.message else ""
    return f"{what}: {code}{said}"


def _waits(question: Question) -> str:
    until = f", until {_utc(question.expires_at)}" if question.expires_at else ""
    what = "an approval" if question.kind == "approval" else "an answer"
    see = f"horarium approvals show {question.id}"
    return f"It waits for {what} of {one_line(question.tool)}, asked at {_utc(question.requested_at)}{until}: {see}"


def _next(shown: AlertShown, next_fire: datetime | None) -> Iterator[str]:
    zone = _zone(shown)
    attempt = _next_attempt(shown)
    if attempt is not None:
        yield f"Next try: the next attempt, {_local(attempt, zone)}"
    elif shown.routine.deleted_at is not None:
        yield "Next try: none, the routine was deleted."
    elif shown.routine.paused:
        yield f"Next try: none, the routine is paused. Go on with: horarium routine resume {shown.routine.name}"
    elif next_fire is not None:
        label = "Next fire" if shown.alert.event in ("recovered", "not_finished", "parked", "not_fired") else "Next try"
        yield f"{label}: {_local(next_fire, zone)}"
    else:
        yield "Next try: none that time sets off."


def _next_attempt(shown: AlertShown) -> datetime | None:
    tick = shown.tick
    return tick.next_try_at if tick is not None and tick.is_open else None


def _way(shown: AlertShown, link: str | None) -> Iterator[str]:
    if link is not None:
        yield f"See it here: {link}"
    yield f"All its ticks: horarium routine ticks {shown.routine.name}"
    if shown.tick is not None and shown.tick.run_id is not None and shown.alert.event != "not_fired":
        yield f"What it did: horarium runs show {shown.tick.run_id}"


# ---- words for things


def _then(shown: AlertShown, tick: TickRecord) -> Routine:
    return tick.routine_then if tick.definition is not None else shown.routine.routine


def _zone(shown: AlertShown) -> str | None:
    """The zone of the trigger that fired; else of the routine's first cron line."""
    triggers = shown.routine.routine.triggers
    fired = triggers.get(shown.tick.trigger or "") if shown.tick is not None else None
    lines = [trigger for trigger in (fired, *triggers.values()) if isinstance(trigger, CronTrigger)]
    return lines[0].time_zone if lines else None


def _local(moment: datetime, zone: str | None) -> str:
    """`2026-11-23 07:00 CET, Europe/Berlin (06:00 UTC)`."""
    where = _zone_info(zone)
    if zone is None or where is None:
        return _utc(moment)
    local = moment.astimezone(where)
    day = "" if local.date() == moment.astimezone(UTC).date() else f"{moment.astimezone(UTC):%Y-%m-%d} "
    return f"{local:%Y-%m-%d} {_time(local)} {zone} ({day}{_time(moment.astimezone(UTC))} UTC)"


def _zone_info(zone: str | None) -> tzinfo | None:
    try:
        return ZoneInfo(zone) if zone not in (None, "UTC", "Etc/UTC") else None
    except (ZoneInfoNotFoundError, ValueError):
        return None


def _utc(moment: datetime) -> str:
    moment = moment.astimezone(UTC)
    return f"{moment:%Y-%m-%d} {_time(moment)} UTC"


def _time(moment: datetime) -> str:
    return f"{moment:%H:%M:%S}" if moment.second else f"{moment:%H:%M}"


def _spent(tick: TickRecord, at: datetime) -> str:
    begin = tick.started_at or tick.opened_at or tick.scheduled_at
    return duration(max((tick.closed_at or at) - begin, timedelta(0)))


def _why(tick: TickRecord | None) -> str:
    if tick is None:
        return "nothing is known."
    return _said(tick.message) or tick.reason or "it did not say why."


def _said(text: str | None) -> str | None:
    return one_line(shorten(redact(text), SAID_CHARS)) if text else None


def _tick_data(tick: TickRecord | None) -> dict[str, Any] | None:
    if tick is None:
        return None
    return {
        "id": tick.id,
        "trigger": tick.trigger,
        "source": tick.source,
        "scheduled_at": tick.scheduled_at,
        "opened_at": tick.opened_at,
        "started_at": tick.started_at,
        "closed_at": tick.closed_at,
        "status": tick.status,
        "reason": tick.reason,
        "message": _said(tick.message),
        "attempts": tick.attempts,
        "run": tick.run_id,
    }


def _stamp(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not JSON")
