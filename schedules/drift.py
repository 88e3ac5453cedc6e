"""What Temporal has, and where it is not what the ledger means: changes that were made there by hand, or never arrived.

Schedules are compared in a form in which two that fire alike look alike, whatever the server fills in by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from temporalio.api.common.v1 import Payload
from temporalio.client import (
    Client as TemporalClient,
)
from temporalio.client import (
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleCalendarSpec,
    ScheduleDescription,
    ScheduleRange,
    ScheduleSpec,
)
from temporalio.common import TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from horarium.errors import Unreachable
from horarium.ledger.routines import RoutineRecord
from schedules import specs

AT_ONCE = 16  # requests to the server
PREFIX = "routine."
Kind = Literal["missing", "extra", "paused", "resumed", "note", "times", "action", "policy", "unfinished", "grants"]


@dataclass(frozen=True, slots=True)
class Drift:
    """One thing that is not as the ledger means it."""

    kind: Kind
    subject: str  # a schedule's id, or a tool
    message: str


@dataclass(frozen=True, slots=True)
class Found:
    """A schedule that Temporal has, in comparable form."""

    id: str
    form: Mapping[str, Any]
    since: datetime | None
    generation: int | None


async def look(temporal: TemporalClient, ids: Iterable[str]) -> dict[str, Found | None]:
    """The schedules of these ids; None for one that is not there.

    Raises:
        Unreachable: Temporal does not answer.
    """
    room = asyncio.Semaphore(AT_ONCE)

    async def one(schedule_id: str) -> tuple[str, Found | None]:
        async with room:
            try:
                description = await temporal.get_schedule_handle(schedule_id).describe()
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    return schedule_id, None
                raise away(error) from error
            return schedule_id, await found(temporal, description)

    return dict(await asyncio.gather(*(one(schedule_id) for schedule_id in ids)))


async def found(temporal: TemporalClient, description: ScheduleDescription) -> Found:
    """A described schedule in comparable form."""
    form = await comparable(temporal, description.schedule, description.typed_search_attributes)
    memo = form["action"].get("memo") or {}
    generation = memo.get("generation")
    return Found(description.id, form, _moment(memo.get("since")), generation if isinstance(generation, int) else None)


async def listed(temporal: TemporalClient) -> list[str]:
    """The ids of all schedules that look like a routine's, a moment old.

    Raises:
        Unreachable: Temporal does not answer.
    """
    try:
        rows = await temporal.list_schedules(f'ScheduleId STARTS_WITH "{PREFIX}"', page_size=1_000)
        return sorted([row.id async for row in rows])
    except RPCError as error:
        raise away(error) from error


async def drift(
    temporal: TemporalClient, record: RoutineRecord, there: Mapping[str, Found | None], now: datetime
) -> list[Drift]:
    """Where Temporal differs from one row; empty when all is as it should be.

    Args:
        there: At least the schedules that the row means or names.
    """
    routine = record.routine
    differences: list[Drift] = []
    for trigger in routine.timed if record.deleted_at is None else ():
        seen = there.get(routine.schedule_id(trigger))
        meant = specs.one_schedule(record, trigger, seen.since if seen and seen.since else specs.since_now(now))
        if seen is None:
            differences.append(Drift("missing", meant.id, "is not there"))
        else:
            differences += _differences(meant.id, await comparable(temporal, meant.schedule, meant.attributes), seen)
    wanted = {routine.schedule_id(name) for name in routine.timed} if record.deleted_at is None else set()
    prefix = routine.schedule_id("")
    differences += [
        Drift("extra", schedule_id, "is no trigger of the routine")
        for schedule_id, seen in sorted(there.items())
        if seen is not None and schedule_id.startswith(prefix) and schedule_id not in wanted
    ]
    if not differences and record.applied != record.generation:
        differences.append(Drift("unfinished", routine.name, "an earlier change was not carried through"))
    return differences


async def comparable(temporal: TemporalClient, schedule: Schedule, attributes: TypedSearchAttributes) -> dict[str, Any]:
    """A schedule as plain values: equal for schedules that do the same."""
    policy, state = schedule.policy, schedule.state
    return {
        "times": _times(schedule.spec),
        "policy": {
            "overlap": policy.overlap.name.lower(),
            "catch_up": policy.catchup_window,
            "pause_on_failure": policy.pause_on_failure,
        },
        "paused": state.paused,
        "note": state.note or "",
        "limited": state.remaining_actions if state.limited_actions else None,
        "action": await _action(temporal, schedule.action),
        "attributes": _attributes(attributes),
    }


def away(error: RPCError) -> Exception:
    """What to raise for a request that Temporal did not serve."""
    return Unreachable(f"Temporal does not serve this: {error.message}.", hint="Look why: horarium doctor")


def _differences(schedule_id: str, meant: Mapping[str, Any], seen: Found) -> list[Drift]:
    form, differences = seen.form, []
    if form["paused"] != meant["paused"]:
        said = f' ("{form["note"]}")' if form["note"] else ""
        kind: Kind = "paused" if form["paused"] else "resumed"
        differences.append(Drift(kind, schedule_id, f"was {kind} in Temporal{said}"))
    elif form["note"] != meant["note"]:
        differences.append(Drift("note", schedule_id, f'has another note: "{form["note"]}"'))
    if form["times"] != meant["times"] or form["limited"] is not None:
        fields = [name for name, value in meant["times"].items() if form["times"][name] != value]
        if form["limited"] is not None:
            fields.append("remaining actions")
        differences.append(Drift("times", schedule_id, f"fires at other times ({', '.join(fields)})"))
    if form["policy"] != meant["policy"]:
        fields = [
            f"{name} {form['policy'][name]}" for name, value in meant["policy"].items() if form["policy"][name] != value
        ]
        differences.append(Drift("policy", schedule_id, f"has another policy ({', '.join(fields)})"))
    wrong = [name for name, value in meant["action"].items() if form["action"].get(name) != value]
    if form["attributes"] != meant["attributes"]:
        wrong.append("search attributes")
    if wrong == ["memo"] and (seen.generation or 0) != meant["action"]["memo"]["generation"]:
        differences.append(Drift("unfinished", schedule_id, "is of another generation of the routine"))
    elif wrong:
        differences.append(Drift("action", schedule_id, f"starts something else ({', '.join(wrong)})"))
    return differences


def _times(spec: ScheduleSpec) -> dict[str, Any]:
    return {
        "calendars": sorted(_calendar(item) for item in spec.calendars),
        "skipped": sorted(_calendar(item) for item in spec.skip),
        "intervals": sorted((item.every, item.offset or timedelta(0)) for item in spec.intervals),
        "cron lines": sorted(spec.cron_expressions),
        "start": spec.start_at,
        "end": spec.end_at,
        "jitter": spec.jitter or timedelta(0),
        "time zone": spec.time_zone_name or "UTC",
    }


def _calendar(item: ScheduleCalendarSpec) -> tuple[tuple[tuple[int, int, int], ...], ...]:
    fields = (item.second, item.minute, item.hour, item.day_of_month, item.month, item.year, item.day_of_week)
    return tuple(_ranges(field) for field in fields)


def _ranges(ranges: Sequence[ScheduleRange]) -> tuple[tuple[int, int, int], ...]:
    return tuple(sorted((item.start, max(item.end, item.start), max(item.step, 1)) for item in ranges))


async def _action(temporal: TemporalClient, action: object) -> dict[str, Any]:
    if not isinstance(action, ScheduleActionStartWorkflow):
        return {"kind": type(action).__name__}
    return {
        "workflow": action.workflow,
        "id": action.id,
        "queue": action.task_queue,
        "arguments": [await _plain(temporal, value) for value in action.args],
        "memo": {name: await _plain(temporal, value) for name, value in (action.memo or {}).items()},
        "summary": await _plain(temporal, action.static_summary),
        "timeouts": [action.execution_timeout, action.run_timeout, action.task_timeout],
        "retries": action.retry_policy,
        "search attributes": _attributes(action.typed_search_attributes),
    }


async def _plain(temporal: TemporalClient, value: Any) -> Any:
    """A value as it comes back from the server, whether it has been there or not."""
    converter = temporal.data_converter
    if not isinstance(value, Payload):
        (value,) = await converter.encode([value])
    try:
        (plain,) = await converter.decode([value])
    except Exception:  # somebody else's payload, which is a difference and no reason to stop
        return "<not readable>"
    return plain


def _attributes(attributes: TypedSearchAttributes) -> list[tuple[str, Any]]:
    return sorted((pair.key.name, pair.value) for pair in attributes)


def _moment(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
