"""The fires that a routine should have: what lateness is measured against, and what people are told comes next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import chain, islice, repeat

from horarium.routines import AtTrigger, CronTrigger, EventTrigger, EveryTrigger, Routine, Trigger, tick_id
from schedules.specs import line_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_A_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, order=True)
class Fire:
    """One fire, without jitter."""

    at: datetime
    trigger: str
    id: str


def expected(routine: Routine, after: datetime, until: datetime, most: int) -> list[Fire]:
    """The fires after a moment and up to another, oldest first; no more than `most` of them.

    Triggers that fire at the same second have one tick, so they are one fire here.

    Raises:
        ConfigError: A cron line cannot be used.
    """
    if routine.start is not None:
        after = max(after, routine.start - _A_SECOND)
    if routine.end is not None:
        until = min(until, routine.end)
    found: dict[str, Fire] = {}
    for fire in merge(
        *(_fires(routine, name, trigger, after, until, most) for name, trigger in routine.triggers.items())
    ):
        found.setdefault(fire.id, fire)
        if len(found) == most:
            break
    return list(found.values())


def next_fire(routine: Routine, after: datetime) -> datetime | None:
    """The next fire after a moment; None when there is none any more, or events set the routine off.

    Raises:
        ConfigError: A cron line cannot be used.
    """
    far = datetime(9999, 1, 1, tzinfo=UTC)
    return next((fire.at for fire in expected(routine, after, far, 1)), None)


def _fires(
    routine: Routine, name: str, trigger: Trigger, after: datetime, until: datetime, most: int
) -> Iterator[Fire]:
    if after >= until:
        return
    for at in islice(_instants(routine, trigger, after), most):
        if at > until:
            return
        yield Fire(at, name, tick_id(routine.name, at))


def _instants(routine: Routine, trigger: Trigger, after: datetime) -> Iterator[datetime]:
    match trigger:
        case CronTrigger():
            line = line_of(routine, trigger)
            for count in chain((2, 16, 128), repeat(1024)):  # croniter is slow: most windows hold one fire or none
                found = line.fires(after, count)
                yield from found
                if len(found) < count:
                    return
                after = found[-1]
        case EveryTrigger(every=every, offset=offset):
            at = after + every - (after - _EPOCH - offset) % every
            while True:
                yield at
                at += every
        case AtTrigger(at=at):
            if at > after:
                yield at
        case EventTrigger():
            return
