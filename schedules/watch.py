"""The watch over routines: every minute it compares what should have fired with the ticks that there are.

It looks first and tells what it found; only when the telling is in a workflow's hands is that accounted for. Whoever
dies in between finds the same again and tells it under the same name, which is told once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog
from temporalio import activity
from temporalio.client import Client as TemporalClient

from horarium.errors import HorariumError
from horarium.ledger.alerts import Alerts
from horarium.ledger.database import Ledger
from horarium.ledger.lateness import MOST_FIRES, Lateness, MissedFire, OpenTick, allowance, is_late
from horarium.ledger.routines import ENGINE, RoutineRecord, Routines
from horarium.ledger.ticks import TickRecord
from horarium.tick_protocol import WATCH_ROUTINES, Alert, AlertEvent, ClosedTick, WatchRoutines
from horarium.toolhost import heartbeating
from horarium.watch_protocol import ACCOUNT_ROUTINES, Accounting, Looked
from schedules.evidence import Evidence, gone, running_ticks
from schedules.expected import expected
from schedules.translation import HORIZON

log = structlog.get_logger()

MOST_ALERTS = 1_000  # of one look; what is left is found again by the next
MOST_OPEN = 5_000  # ticks whose workflows are looked for
GRACE = timedelta(minutes=1)  # before what somebody else may be doing is done for them
REST = timedelta(hours=6)  # between notes that nothing was due
AT_ONCE = 8  # routines
CLOSED: tuple[AlertEvent, ...] = ("failed", "recovered", "paused")  # what closed ticks leave to be told

Converge = Callable[[str], Awaitable[object]]


class EndGone(Protocol):
    """Closes a tick for its workflow, which is gone: `activities.ticks.TickKeeper.end_gone`."""

    def __call__(self, tick: str, code: str, message: str, *, failed: bool = False) -> Awaitable[ClosedTick]: ...


@dataclass(slots=True)
class _Found:
    """What one look has come to so far."""

    alerts: list[Alert] = field(default_factory=list)
    until: dict[str, datetime] = field(default_factory=dict)
    quiet: dict[str, datetime] = field(default_factory=dict)
    missed: int = 0
    resumed: int = 0
    renewed: int = 0
    repaired: int = 0


class Watch:
    """The activities `watch_routines` and `account_routines`, and what they need.

    Args:
        converge: Makes Temporal's schedules what a routine's row says.
        end_gone: Closes a tick that cannot do it itself.
    """

    def __init__(self, ledger: Ledger, temporal: TemporalClient, *, converge: Converge, end_gone: EndGone) -> None:
        self._routines = Routines(ledger)
        self._lateness = Lateness(ledger)
        self._alerts = Alerts(ledger)
        self._temporal = temporal
        self._converge = converge
        self._end_gone = end_gone

    @activity.defn(name=WATCH_ROUTINES)
    async def watch_routines(self, watching: WatchRoutines) -> Looked:
        """Look at every routine and every open tick once. Safe to repeat."""
        async with heartbeating():
            return await self._look(watching.at)

    async def _look(self, at: datetime) -> Looked:
        found = _Found()
        await self._repair(found, at)
        records = await self._routines.list(deleted=True)
        evidence = Evidence(self._temporal, at)
        room = asyncio.Semaphore(AT_ONCE)

        async def look(record: RoutineRecord) -> None:
            async with room:
                try:
                    await self._one(record, found, evidence, at)
                except HorariumError as error:  # of one routine; the others are looked at all the same
                    log.warning("watch.routine", routine=record.name, problem=str(error))

        await asyncio.gather(*map(look, records))
        found.alerts.extend(await self._alerts.owed(at - GRACE))
        for tick in await self._lateness.not_finished(at):
            found.alerts.append(_alert("not_finished", tick.routine, tick.id, tick.id, at))
        if found.quiet:
            await self._lateness.watched(found.quiet)
        alerts = found.alerts[:MOST_ALERTS]
        told = {alert.routine for alert in alerts if alert.event == "not_fired"}
        return Looked(
            alerts=tuple(alerts),
            missed=found.missed,
            resumed=found.resumed,
            renewed=found.renewed,
            repaired=found.repaired,
            until={name: until for name, until in found.until.items() if name in told},
        )

    @activity.defn(name=ACCOUNT_ROUTINES)
    async def account_routines(self, accounting: Accounting) -> None:
        """Note that what these alerts say was told. Safe to repeat."""
        await self._lateness.told(alert for alert in accounting.alerts if alert.event == "not_finished")
        of_closed = [alert for alert in accounting.alerts if alert.event in CLOSED]
        await self._alerts.handed_on(of_closed, datetime.now(UTC))
        await self._lateness.watched(accounting.until)

    # ---- one routine

    async def _one(self, record: RoutineRecord, found: _Found, evidence: Evidence, at: datetime) -> None:
        settled = at - GRACE
        if record.deleted_at is None and record.paused and record.paused_until and record.paused_until <= at:
            record, changed = await self._routines.resume(record.name, by=ENGINE, at=at)
            found.resumed += changed
            settled = at
        elif record.deleted_at is None and not record.paused:
            await self._fires(record, found, evidence, at)
        if record.applied != record.generation:
            if record.changed_at < settled:
                await self._converge(record.name)
        elif record.deleted_at is None and record.translated_until and record.translated_until < at + HORIZON / 3:
            await self._converge(record.name)
            found.renewed += 1

    async def _fires(self, record: RoutineRecord, found: _Found, evidence: Evidence, at: datetime) -> None:
        """Compare the fires that are due with the ticks, write down those that did not come."""
        routine = record.routine
        until = at - allowance(routine)
        since = record.watched_until
        if until <= since:
            return
        fires = await asyncio.to_thread(expected, routine, since, until, MOST_FIRES)
        known = await self._lateness.known([fire.id for fire in fires])
        missing = [fire for fire in fires if fire.id not in known]
        if missing:
            reasons = await evidence.reasons(record, missing)
            rows = [MissedFire(fire.id, fire.trigger, fire.at, *reasons[fire.id]) for fire in missing]
            await self._lateness.miss(record, rows, at)
            found.missed += len(missing)
        late = [fire for fire in fires if _is_late(known.get(fire.id), allowance(routine))]
        if late and routine.late_after is not None:
            occurrence = f"{late[0].at:%Y%m%dT%H%M%SZ}"
            found.alerts.append(_alert("not_fired", record.name, late[0].id, occurrence, at))
            found.until[record.name] = until
        elif fires or until - record.watched_until > REST:
            found.quiet[record.name] = until

    # ---- ticks whose workflows are gone

    async def _repair(self, found: _Found, at: datetime) -> None:
        """Close open ticks that nobody performs, so that they do not hold up the next ones for ever."""
        ticks = await self._lateness.open_ticks(at - GRACE, MOST_OPEN)
        if not ticks:
            return
        running = await running_ticks(self._temporal)
        for tick in ticks:
            if tick.id not in running:
                await self._end(tick, found)

    async def _end(self, tick: OpenTick, found: _Found) -> None:
        what = await gone(self._temporal, tick.id)
        if what is None:
            return
        now = (await self._lateness.known([tick.id])).get(tick.id)
        if now is None or not now.is_open:  # its workflow has ended it in between
            return
        log.warning("watch.tick_gone", tick=tick.id, workflow=what)
        message = f"Its workflow {what} in Temporal, and could not write down how it ended."
        closed = await self._end_gone(tick.id, "terminated", message, failed=True)
        found.alerts.extend(closed.alerts)
        found.repaired += 1


def _is_late(tick: TickRecord | None, allowed: timedelta) -> bool:
    return tick is None or is_late(tick, allowed)


def _alert(event: AlertEvent, routine: str, tick: str, occurrence: str, at: datetime) -> Alert:
    return Alert(event=event, routine=routine, tick=tick, occurrence=occurrence, at=at)
