"""What `horarium doctor` looks at where routines are concerned: what they were made into, and who watches over them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from temporalio.client import ScheduleDescription
from temporalio.service import RPCError, RPCStatusCode

from horarium.connection import connect
from horarium.durations import words
from horarium.errors import HorariumError
from horarium.ledger.database import Ledger
from horarium.ledger.routines import RoutineRecord, Routines
from horarium.settings import Settings
from horarium.visible import one_line
from horarium.watch_protocol import WATCH_EVERY, WATCH_SCHEDULE

Found = tuple[str, Literal["ok", "warn", "fail"], str, str]  # what was looked at, how it is, in words, what to do

SILENT = 3 * WATCH_EVERY
RENEWED = timedelta(days=365)  # before the end; the watch does it long before that
SETTLED = timedelta(minutes=2)  # the watch makes good what a command left undone
_NAMED = 5  # routines in one line


async def look_at_routines(settings: Settings) -> AsyncIterator[Found]:
    """Look at the ledger's routines and at their watch; nothing where a server or the ledger is away."""
    now = datetime.now(UTC)
    try:
        ledger = await Ledger.open(settings)
        try:
            records = await Routines(ledger).list(deleted=True)
        finally:
            await ledger.close()
    except HorariumError:
        return  # said of the ledger itself
    for found in of_rows(records, now):
        yield found
    if not any(record.deleted_at is None for record in records):
        return
    try:
        temporal = await connect(settings)
        yield of_watch(await temporal.get_schedule_handle(WATCH_SCHEDULE).describe(), now)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            yield of_watch(None, now)
    except HorariumError:
        return  # said of the server itself


def of_rows(records: Sequence[RoutineRecord], now: datetime) -> Iterator[Found]:
    """Whether the routines' schedules are made, and how far clock changes are accounted for."""
    alive = [record for record in records if record.deleted_at is None]
    paused = sum(bool(record.paused) for record in alive)
    rest = f", {paused} of them paused" if paused else ""
    yield "routines", "ok", f"{len(alive)}{rest}" if alive else "none", ""
    undone = [
        record.name for record in records if record.applied != record.generation and record.changed_at < now - SETTLED
    ]
    if undone:
        found = f"Temporal's schedules are not what these are meant to be: {_names(undone)}"
        yield "routines", "warn", found, "Make them so: horarium apply"
    ends = {record.name: record.translated_until for record in alive if record.translated_until is not None}
    if not ends:
        return
    first = min(ends.values())
    soon = sorted(name for name, until in ends.items() if until < now + RENEWED)
    if not soon:
        yield "clock changes", "ok", f"accounted for until {first:%Y-%m-%d}, and renewed long before", ""
        return
    found = f"accounted for until {first:%Y-%m-%d} only: {_names(soon)}"
    yield "clock changes", "fail" if first < now else "warn", found, "Renew them: horarium apply"


def of_watch(description: ScheduleDescription | None, now: datetime) -> Found:
    """Whether somebody looks for ticks that did not come."""
    if description is None:
        return "routine watch", "warn", "nobody looks for ticks that did not come", "Start a worker: horarium worker"
    state, info = description.schedule.state, description.info
    done = [action.started_at for action in info.recent_actions if action.action not in info.running_actions]
    last = f"it last looked at {done[-1]:%Y-%m-%d %H:%M:%S} UTC" if done else "it has not looked yet"
    if state.paused:
        note = f" ({one_line(state.note)[:200]})" if state.note else ""
        advice = f"Go on with: temporal schedule toggle --unpause --schedule-id {WATCH_SCHEDULE}"
        return "routine watch", "fail", f"paused by hand in Temporal{note}; {last}", advice
    silence = now - (done[-1] if done else info.created_at)
    if silence > SILENT:
        return "routine watch", "warn", f"silent for {words(silence)}; {last}", "Does a worker run? horarium worker"
    return "routine watch", "ok", last, ""


def _names(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f", and {more} more" if more > 0 else "")
