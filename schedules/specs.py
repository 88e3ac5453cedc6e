"""From a routine to Temporal's schedules: one for each trigger that time sets off.

What is made here depends on the row in the ledger and on `since`, the day from which clock changes are accounted for,
and on nothing else: so what Temporal has can be compared with what it should have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain, repeat

from temporalio.client import (
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleCalendarSpec,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleRange,
    ScheduleSpec,
    ScheduleState,
)
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

from horarium import contract
from horarium.client import TASK_TIMEOUT
from horarium.contract import TickRequest
from horarium.durations import words
from horarium.errors import ConfigError
from horarium.ledger.routines import RoutineRecord
from horarium.routines import AtTrigger, CronTrigger, EventTrigger, EveryTrigger, Routine, Trigger
from schedules.cron import CronLine
from schedules.translation import translate

SHORTEST_CATCH_UP = timedelta(seconds=10)  # the server takes no less
FIRST_YEAR, LAST_YEAR = 2000, 2100  # of the server's calendars
_AT_FIRST, _AT_A_TIME = (2, 16), 100  # fires, of what may be a great many
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Timing:
    """When a trigger fires, for Temporal and in words."""

    spec: ScheduleSpec
    until: datetime | None  # clock changes are accounted for so far; None: there is no end
    words: str


@dataclass(frozen=True, slots=True)
class Meant:
    """One schedule as it should be."""

    id: str
    trigger: str
    schedule: Schedule
    attributes: TypedSearchAttributes
    memo: dict[str, str]
    until: datetime | None


def since_now(now: datetime) -> datetime:
    """The day from which clock changes are accounted for, when a schedule is made now."""
    return now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def timing(routine: Routine, trigger: Trigger, since: datetime) -> Timing:
    """When a trigger fires.

    Raises:
        ConfigError: Its cron line cannot be used; says why. Or it waits for an event.
    """
    match trigger:
        case CronTrigger():
            made = _cron(trigger, routine.name, since)
        case EveryTrigger():
            made = _every(trigger)
        case AtTrigger():
            made = _at(trigger)
        case EventTrigger():
            raise ConfigError(f"A trigger for the event {trigger.event!r} has no schedule.")
    spec = replace(made.spec, start_at=_utc(routine.start), end_at=_utc(routine.end), jitter=routine.jitter or None)
    return Timing(spec, made.until, made.words)


def schedules(record: RoutineRecord, since: datetime) -> dict[str, Meant]:
    """The schedules that a row stands for, by trigger; none when it was deleted."""
    routine = record.routine
    if record.deleted_at is not None:
        return {}
    return {name: _schedule(record, name, since) for name in routine.timed}


def one_schedule(record: RoutineRecord, trigger: str, since: datetime) -> Meant:
    """As `schedules`, for one trigger."""
    return _schedule(record, trigger, since)


def line_of(routine: Routine, trigger: CronTrigger) -> CronLine:
    """The cron line of a trigger.

    Raises:
        ConfigError: It cannot be used; says why, and which would do.
    """
    return _line(trigger, routine.name)


def fires(routine: Routine, trigger: Trigger, start: datetime, end: datetime) -> Iterator[datetime]:
    """When a trigger should fire from `start` up to and with `end`, as the routine means it, without jitter."""
    start = max(start, routine.start) if routine.start else start
    end = min(end, routine.end) if routine.end else end
    if start > end:
        return
    match trigger:
        case CronTrigger():
            line, after = line_of(routine, trigger), start - timedelta(seconds=1)
            for count in chain(_AT_FIRST, repeat(_AT_A_TIME)):  # croniter is slow: most windows hold few fires
                some = line.fires(after, count)
                yield from (at for at in some if start <= at <= end)
                if len(some) < count or some[-1] >= end:
                    return
                after = some[-1]
        case EveryTrigger(every=every, offset=offset):
            at = start + (_EPOCH + offset - start) % every
            while at <= end:
                yield at
                at += every
        case AtTrigger(at=at) if start <= at <= end:
            yield at


def attributes(routine: Routine) -> TypedSearchAttributes:
    """What a routine's schedules and ticks are found by in Temporal."""
    values = {
        contract.SEARCH_ROUTINE: routine.name,
        contract.SEARCH_AGENT: routine.agent,
        contract.SEARCH_TENANT: routine.tenant,
    }
    return TypedSearchAttributes(
        [SearchAttributePair(SearchAttributeKey.for_keyword(name), value) for name, value in values.items()]
    )


def _schedule(record: RoutineRecord, trigger: str, since: datetime) -> Meant:
    routine = record.routine
    when = timing(routine, routine.triggers[trigger], since)
    made_from = {
        "routine": routine.name,
        "generation": record.generation,
        "digest": record.digest,
        "since": since.isoformat(),
        "trigger": trigger,
        "words": when.words,
    }
    action = ScheduleActionStartWorkflow(
        contract.TICK_WORKFLOW,
        TickRequest(routine=routine.name, trigger=trigger),
        id=f"routine.{routine.name}",
        task_queue=contract.ENGINE_QUEUE,
        task_timeout=TASK_TIMEOUT,
        typed_search_attributes=attributes(routine),
        memo=made_from,
        static_summary=f"{routine.name}: {trigger}",
    )
    # Whether a tick waits for another one is decided in the ledger, where all triggers and all ticks by hand are.
    policy = SchedulePolicy(
        overlap=ScheduleOverlapPolicy.ALLOW_ALL, catchup_window=max(routine.catch_up, SHORTEST_CATCH_UP)
    )
    state = ScheduleState(paused=bool(record.paused), note=_note(record) if record.paused else when.words)
    return Meant(
        id=routine.schedule_id(trigger),
        trigger=trigger,
        schedule=Schedule(action=action, spec=when.spec, policy=policy, state=state),
        attributes=attributes(routine),
        memo={"routine": routine.name, "trigger": trigger},
        until=when.until,
    )


def _note(record: RoutineRecord) -> str:
    note = record.pause_note or "paused"
    return f"{note} (by {record.paused_by})" if record.paused_by else note


@lru_cache(maxsize=2_000)
def _line(trigger: CronTrigger, routine: str) -> CronLine:
    return CronLine.parse(trigger.cron, trigger.time_zone, repeat=trigger.repeat, gap=trigger.gap, hash_id=routine)


@lru_cache(maxsize=2_000)
def _cron(trigger: CronTrigger, routine: str, since: datetime) -> Timing:
    line = _line(trigger, routine)
    made = translate(line, since)
    return Timing(made.spec, made.until, f"{line.words()} ({trigger.time_zone})")


def _every(trigger: EveryTrigger) -> Timing:
    spec = ScheduleSpec(intervals=[ScheduleIntervalSpec(every=trigger.every, offset=trigger.offset or None)])
    offset = f", moved by {words(trigger.offset)}" if trigger.offset else ""
    return Timing(spec, None, f"Every {words(trigger.every)}{offset}")


def _at(trigger: AtTrigger) -> Timing:
    at = trigger.at
    if not FIRST_YEAR <= at.year <= LAST_YEAR:
        raise ConfigError(f"{at:%Y-%m-%d} is out of reach: Temporal keeps times from {FIRST_YEAR} to {LAST_YEAR}.")
    only = ScheduleCalendarSpec(
        second=[ScheduleRange(at.second)],
        minute=[ScheduleRange(at.minute)],
        hour=[ScheduleRange(at.hour)],
        day_of_month=[ScheduleRange(at.day)],
        month=[ScheduleRange(at.month)],
        year=[ScheduleRange(at.year)],
    )
    return Timing(ScheduleSpec(calendars=[only]), None, f"Once, at {at:%Y-%m-%d %H:%M:%S} UTC")


def _utc(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC) if moment is not None else None
