"""The watch: what did not fire, does not end, stays paused, or was ended behind the ledger's back; told once each."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from temporalio.client import Client as TemporalClient
from temporalio.client import ScheduleHandle
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment, WorkflowEnvironment

from activities.ticks import TickKeeper
from horarium.cli.routine_checks import of_rows, of_watch
from horarium.contract import TICK_WORKFLOW, TickRequest
from horarium.ledger.alerts import Alerts
from horarium.ledger.database import Ledger
from horarium.ledger.lateness import MOST_FIRES
from horarium.ledger.routines import RoutineRecord, Routines
from horarium.ledger.schema import routines
from horarium.ledger.ticks import TickRecord, Ticks
from horarium.routines import Routine, tick_id
from horarium.settings import RoutinesSettings, Settings
from horarium.tick_protocol import Alert, CloseTick, OpenTick, WatchRoutines
from horarium.watch_protocol import WATCH_SCHEDULE, Accounting, Looked
from schedules.deploy import Deployment
from schedules.evidence import outage
from schedules.translation import HORIZON
from schedules.watch import Watch
from schedules.watch_schedule import keep_watch
from tests.support.addresses import listening
from tests.support.engine import running_engine

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOURLY = {"hours": {"cron": "0 * * * *"}}
A_MINUTE = timedelta(minutes=1)
AN_HOUR = timedelta(hours=1)


class Watched:
    """The watch over one ledger, and what it was asked to do."""

    def __init__(self, ledger: Ledger, temporal: TemporalClient, root: Path) -> None:
        self.ledger, self.temporal = ledger, temporal
        self.rows, self.ticks = Routines(ledger), Ticks(ledger)
        self.converged: list[str] = []
        keeper = TickKeeper(ledger, temporal, Settings(root=root), None)
        self.watch = Watch(ledger, temporal, converge=self._converge, end_gone=keeper.end_gone)

    async def _converge(self, name: str) -> None:
        self.converged.append(name)

    async def put(self, name: str = "triage", *, at: datetime = NOON, **fields: Any) -> RoutineRecord:
        """A routine of each full hour, whose schedules are as if they had been made."""
        definition = {
            "name": name,
            "agent": "clerk",
            "input": "Triage.",
            "triggers": HOURLY,
            "late_after": "10m",
            **fields,
        }
        record, _ = await self.rows.put(Routine.model_validate(definition), by="mia", at=at)
        await self.applied(record)
        return await self.rows.get(name)

    async def applied(self, record: RoutineRecord) -> None:
        async with self.ledger.write() as connection:
            await connection.execute(
                update(routines).where(routines.c.name == record.name).values(applied=routines.c.generation)
            )

    async def open(self, at: datetime, *, name: str = "triage", opened: datetime | None = None) -> str:
        """A tick of a scheduled time."""
        tick = tick_id(name, at)
        request = TickRequest(routine=name, trigger="hours")
        opened = opened or at + timedelta(seconds=1)
        await self.ticks.open(OpenTick(tick=tick, execution=tick, request=request, scheduled_at=at, at=opened))
        return tick

    async def run(self, at: datetime, *, opened: datetime | None = None) -> str:
        """A tick of a scheduled time that is done already."""
        tick = await self.open(at, opened=opened)
        await self.ticks.close(CloseTick(tick=tick, status="completed", at=at + timedelta(minutes=6)))
        return tick

    async def look(self, at: datetime, *, account: bool = True) -> Looked:
        """One look, as the workflow makes it."""
        looked: Looked = await ActivityEnvironment().run(self.watch.watch_routines, WatchRoutines(at=at))
        if account:
            await self.watch.account_routines(Accounting(alerts=looked.alerts, until=looked.until))
        return looked

    async def fires_of(self, alert: Alert) -> list[datetime]:
        """The fires that an alert is about."""
        shown = await Alerts(self.ledger).shown(alert)
        assert shown is not None
        return [fire.scheduled_at for fire in shown.fires]

    async def missed(self, name: str = "triage") -> list[TickRecord]:
        return sorted(await self.ticks.list(routine=name, status=["missed"], limit=5_000), key=lambda t: t.scheduled_at)


@pytest.fixture
async def watched(ledger: Ledger, engine_temporal: TemporalClient, tmp_path: Path) -> Watched:
    return Watched(ledger, engine_temporal, tmp_path)


# ---- fires that did not come


async def test_a_fire_without_a_tick_is_told_and_shown_once_it_is_late(watched: Watched) -> None:
    await watched.put()
    one = NOON + AN_HOUR

    early = await watched.look(one + timedelta(minutes=9, seconds=59))
    late = await watched.look(one + timedelta(minutes=10))
    again = await watched.look(one + timedelta(minutes=11))

    [alert] = late.alerts
    assert (alert.event, alert.routine, alert.tick) == ("not_fired", "triage", tick_id("triage", one))
    assert (early.alerts, early.missed, late.missed, again.alerts) == ((), 0, 1, ())
    assert await watched.fires_of(alert) == [one]
    [tick] = await watched.missed()
    assert (tick.id, tick.scheduled_at, tick.trigger) == (tick_id("triage", one), one, "hours")


async def test_a_fire_with_a_tick_is_not_missed(watched: Watched) -> None:
    await watched.put()
    await watched.run(NOON + AN_HOUR)

    looked = await watched.look(NOON + AN_HOUR + timedelta(minutes=20))

    assert (looked.alerts, looked.missed) == ((), 0)


async def test_what_an_outage_swallowed_is_one_alert_with_every_fire(watched: Watched) -> None:
    await watched.put()
    await watched.put("other")

    looked = await watched.look(NOON + 3 * AN_HOUR + timedelta(minutes=30))

    alerts = {alert.routine: alert for alert in looked.alerts}
    assert (len(looked.alerts), looked.missed) == (2, 6)
    for name in ("triage", "other"):
        assert await watched.fires_of(alerts[name]) == [NOON + hours * AN_HOUR for hours in (1, 2, 3)]


async def test_the_next_outage_is_another_alert_about_its_own_fires(watched: Watched) -> None:
    await watched.put()

    first = await watched.look(NOON + AN_HOUR + timedelta(minutes=30))
    second = await watched.look(NOON + 2 * AN_HOUR + timedelta(minutes=30))

    assert first.alerts[0].occurrence != second.alerts[0].occurrence
    assert await watched.fires_of(second.alerts[0]) == [NOON + 2 * AN_HOUR]


async def test_a_look_that_died_before_it_was_told_is_made_again_with_the_same_result(watched: Watched) -> None:
    await watched.put()
    at = NOON + AN_HOUR + timedelta(minutes=30)

    first = await watched.look(at, account=False)
    repeated = await watched.look(at, account=False)
    next_one = await watched.look(at + A_MINUTE)
    after = await watched.look(at + 2 * A_MINUTE)

    assert first.alerts == repeated.alerts
    assert [alert.occurrence for alert in next_one.alerts] == [alert.occurrence for alert in first.alerts]
    assert (len(await watched.missed()), after.alerts) == (1, ())


async def test_without_late_after_nobody_is_told_and_it_is_shown_all_the_same(watched: Watched) -> None:
    await watched.put(late_after=None)

    looked = await watched.look(NOON + AN_HOUR + timedelta(minutes=5))

    assert (looked.alerts, looked.missed, len(await watched.missed())) == ((), 1, 1)


async def test_a_tick_that_comes_after_all_takes_the_place_of_the_missed_one(watched: Watched) -> None:
    await watched.put()
    one = NOON + AN_HOUR
    await watched.look(one + timedelta(minutes=30))

    tick = await watched.open(one, opened=one + timedelta(minutes=31))
    looked = await watched.look(one + timedelta(minutes=32))

    now = await watched.ticks.get(tick)
    assert (now.status, now.reason, now.trigger) == ("running", None, "hours")
    assert looked.alerts == ()


async def test_ticks_that_came_late_while_nobody_looked_are_told_of(watched: Watched) -> None:
    await watched.put(catch_up="90m")
    one, two, three = (NOON + hours * AN_HOUR for hours in (1, 2, 3))
    back = three + timedelta(minutes=5)
    for fire in (one, two, three):
        await watched.run(fire, opened=back)

    looked = await watched.look(three + timedelta(minutes=15))

    [alert] = looked.alerts
    assert (await watched.ticks.get(tick_id("triage", one))).reason == "too_late"
    assert await watched.fires_of(alert) == [one, two]
    assert looked.missed == 0


async def test_jitter_is_no_lateness(watched: Watched) -> None:
    await watched.put(jitter="30m")

    early = await watched.look(NOON + AN_HOUR + timedelta(minutes=39))
    late = await watched.look(NOON + AN_HOUR + timedelta(minutes=40))

    assert (early.alerts, early.missed, len(late.alerts)) == ((), 0, 1)


async def test_time_before_a_routine_was_there_is_not_watched(watched: Watched) -> None:
    await watched.put(at=NOON + AN_HOUR + A_MINUTE)

    looked = await watched.look(NOON + AN_HOUR + timedelta(minutes=50))

    assert (looked.alerts, looked.missed) == ((), 0)


async def test_a_changed_trigger_is_watched_from_its_change_on(watched: Watched) -> None:
    await watched.put()
    await watched.put(triggers={"hours": {"cron": "30 * * * *"}}, at=NOON + timedelta(minutes=31))

    first = await watched.look(NOON + timedelta(minutes=55))
    second = await watched.look(NOON + timedelta(minutes=101))

    assert (first.alerts, first.missed) == ((), 0)
    assert await watched.fires_of(second.alerts[0]) == [NOON + timedelta(minutes=90)]


async def test_time_in_which_it_was_paused_is_not_watched(watched: Watched) -> None:
    await watched.put()
    await watched.rows.pause("triage", note=None, until=None, by="mia", at=NOON)
    paused = await watched.look(NOON + AN_HOUR + timedelta(minutes=30))
    await watched.rows.resume("triage", by="mia", at=NOON + AN_HOUR + timedelta(minutes=40))

    resumed = await watched.look(NOON + AN_HOUR + timedelta(minutes=59))
    late = await watched.look(NOON + 2 * AN_HOUR + timedelta(minutes=15))

    assert (paused.alerts, paused.missed, resumed.alerts, resumed.missed) == ((), 0, (), 0)
    assert await watched.fires_of(late.alerts[0]) == [NOON + 2 * AN_HOUR]


async def test_outside_of_start_and_end_nothing_is_expected(watched: Watched) -> None:
    start, end = NOON + timedelta(hours=2), NOON + timedelta(hours=3)
    await watched.put(start=start.isoformat(), end=end.isoformat())

    looked = await watched.look(NOON + timedelta(hours=9))

    assert await watched.fires_of(looked.alerts[0]) == [start, end]


async def test_a_deleted_routine_is_not_watched(watched: Watched) -> None:
    await watched.applied(await watched.put())
    await watched.applied(await watched.rows.delete("triage", by="mia", at=NOON))

    looked = await watched.look(NOON + AN_HOUR + timedelta(minutes=30))

    assert (looked.alerts, looked.missed) == ((), 0)


async def test_triggers_of_the_same_second_are_one_fire_and_events_are_none(watched: Watched) -> None:
    triggers = {"a": {"cron": "0 * * * *"}, "b": {"every": "1h"}, "c": {"event": "opened"}}
    await watched.put(triggers=triggers | {"once": {"at": (NOON + timedelta(minutes=30)).isoformat()}})

    looked = await watched.look(NOON + AN_HOUR + timedelta(minutes=30))

    assert await watched.fires_of(looked.alerts[0]) == [NOON + timedelta(minutes=30), NOON + AN_HOUR]


async def test_a_week_of_lost_seconds_is_bounded_work_and_does_not_come_again(watched: Watched) -> None:
    await watched.put(triggers={"seconds": {"every": "1s"}, "cron": {"cron": "* * * * * *"}}, late_after="1m")
    back = NOON + timedelta(days=7)
    begun = time.monotonic()

    looked = await watched.look(back)
    again = await watched.look(back)

    [alert] = looked.alerts
    shown = await Alerts(watched.ledger).shown(alert)
    assert shown is not None
    assert (looked.missed, shown.fires_count, len(shown.fires)) == (MOST_FIRES, MOST_FIRES, 10)
    assert (await watched.rows.get("triage")).watched_until == back - A_MINUTE
    assert again.alerts == ()
    assert time.monotonic() - begun < 20


async def test_a_routine_that_cannot_be_read_keeps_no_other_from_being_watched(watched: Watched) -> None:
    broken = await watched.put("broken")
    definition = dict(broken.definition) | {"triggers": {"hours": {"cron": "0 * * * *", "time_zone": "Atlantis/Main"}}}
    async with watched.ledger.write() as connection:
        await connection.execute(update(routines).where(routines.c.name == "broken").values(definition=definition))
    await watched.put()

    looked = await watched.look(NOON + AN_HOUR + timedelta(minutes=30))

    assert [alert.routine for alert in looked.alerts] == ["triage"]


# ---- why


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


async def deployed(watched: Watched, name: str) -> datetime:
    """A routine with a schedule that never fires, and the fire that it should have had by its row."""
    at = now() - AN_HOUR
    far = {"hours": {"at": "2031-01-01T00:00:00Z"}}
    await watched.put(name, at=at, triggers=far)
    await Deployment(watched.ledger, watched.temporal).converge(name)
    fire = at + timedelta(minutes=20)
    definition = dict((await watched.rows.get(name)).definition) | {"triggers": {"hours": {"at": fire.isoformat()}}}
    async with watched.ledger.write() as connection:
        await connection.execute(update(routines).values(definition=definition))
    return fire


async def test_a_schedule_that_is_not_there_is_said(watched: Watched) -> None:
    await watched.put()

    await watched.look(NOON + AN_HOUR + timedelta(minutes=30))

    [tick] = await watched.missed()
    assert (tick.reason, tick.message) == (
        "no_schedule",
        "Temporal has no schedule for the trigger 'hours'. Make it: horarium apply",
    )


async def test_a_schedule_that_was_paused_by_hand_is_said_with_its_note(watched: Watched) -> None:
    await deployed(watched, "halted")
    await watched.temporal.get_schedule_handle("routine.halted.hours").pause(note="moving house")

    await watched.look(now())

    [tick] = await watched.missed("halted")
    assert (tick.reason, tick.message) == (
        "paused_in_temporal",
        "Its schedule was paused by hand in Temporal (moving house).",
    )


async def test_a_tick_that_temporal_started_and_nobody_took_up_is_said(watched: Watched) -> None:
    fire = await deployed(watched, "stuck")
    tick = tick_id("stuck", fire)
    await watched.temporal.start_workflow(TICK_WORKFLOW, id=tick, task_queue="nobody-serves-this")

    await watched.look(now())

    [missed] = await watched.missed("stuck")
    await watched.temporal.get_workflow_handle(tick).terminate()
    assert missed.reason == "not_opened"


async def test_a_tick_that_temporal_did_not_start_is_said(watched: Watched) -> None:
    await deployed(watched, "lost")

    await watched.look(now())

    assert [tick.reason for tick in await watched.missed("lost")] == ["not_started"]


def test_an_outage_is_the_silence_between_two_looks() -> None:
    looks = [NOON, NOON + A_MINUTE, NOON + 2 * AN_HOUR, NOON + 2 * AN_HOUR + A_MINUTE]

    assert outage(looks, NOON + AN_HOUR) == (
        "engine_down",
        "The engine was down, or out of reach, from 2026-11-21 12:01 to 2026-11-21 14:00 UTC.",
    )
    assert outage(looks, NOON) is None
    assert outage(looks, NOON + 2 * AN_HOUR + timedelta(seconds=30)) is None
    assert outage(looks, NOON, timedelta(minutes=5)) is not None


# ---- ticks that ended, and nobody was told


async def test_what_a_tick_that_died_had_not_told_is_told_a_minute_later_once(watched: Watched) -> None:
    await watched.put(late_after=None)
    tick = await watched.open(NOON + AN_HOUR)
    ended = NOON + AN_HOUR + A_MINUTE
    await watched.ticks.close(CloseTick(tick=tick, status="failed", at=ended))  # its process dies here

    early = await watched.look(ended + A_MINUTE)
    died = await watched.look(ended + 2 * A_MINUTE, account=False)
    late = await watched.look(ended + 3 * A_MINUTE)
    again = await watched.look(ended + 4 * A_MINUTE)

    assert [(alert.event, alert.tick) for alert in late.alerts] == [("failed", tick)]
    assert (early.alerts, died.alerts, again.alerts) == ((), late.alerts, ())


# ---- ticks that do not end


async def test_a_tick_that_does_not_end_is_told_once(watched: Watched) -> None:
    await watched.put(timeout="30m")
    one = NOON + AN_HOUR
    tick = await watched.open(one)
    await watched.temporal.start_workflow(TICK_WORKFLOW, id=tick, task_queue="nobody-serves-this")

    early = await watched.look(one + timedelta(minutes=40))
    late = await watched.look(one + timedelta(minutes=41))
    again = await watched.look(one + timedelta(minutes=42))

    await watched.temporal.get_workflow_handle(tick).terminate()
    assert [(alert.event, alert.tick, alert.occurrence) for alert in late.alerts] == [("not_finished", tick, tick)]
    assert (early.alerts, again.alerts, late.repaired) == ((), (), 0)


async def test_without_late_after_a_tick_may_take_its_time(watched: Watched) -> None:
    await watched.put(late_after=None, timeout="30m")
    tick = await watched.open(NOON + AN_HOUR)
    await watched.temporal.start_workflow(TICK_WORKFLOW, id=tick, task_queue="nobody-serves-this")

    looked = await watched.look(NOON + AN_HOUR + timedelta(minutes=50))

    await watched.temporal.get_workflow_handle(tick).terminate()
    assert looked.alerts == ()


@pytest.mark.parametrize("end", ["terminated", "never there"])
async def test_a_tick_whose_workflow_is_gone_is_closed_as_failed(watched: Watched, end: str) -> None:
    await watched.put(name := f"gone-{end[:5]}")
    tick = await watched.open(NOON + AN_HOUR, name=name)
    if end == "terminated":
        handle = await watched.temporal.start_workflow(TICK_WORKFLOW, id=tick, task_queue="nobody-serves-this")
        alive = await watched.look(NOON + AN_HOUR + timedelta(minutes=2))
        assert alive.repaired == 0
        await handle.terminate()

    looked = await watched.look(NOON + AN_HOUR + timedelta(minutes=3))

    closed = await watched.ticks.get(tick)
    assert (looked.repaired, closed.status, closed.reason) == (1, "failed", "terminated")
    assert [(alert.event, alert.tick) for alert in looked.alerts] == [("failed", tick)]


async def test_a_tick_that_has_just_been_opened_is_left_alone(watched: Watched) -> None:
    await watched.put()
    tick = await watched.open(NOON + AN_HOUR)

    looked = await watched.look(NOON + AN_HOUR + timedelta(seconds=30))

    assert (looked.repaired, (await watched.ticks.get(tick)).status) == (0, "running")


async def test_the_next_tick_runs_where_the_one_before_was_ended_by_hand(watched: Watched) -> None:
    await watched.put(overlap="skip")
    await watched.open(NOON + AN_HOUR)
    await watched.look(NOON + 2 * AN_HOUR - A_MINUTE)

    after = await watched.open(NOON + 2 * AN_HOUR)

    assert (await watched.ticks.get(after)).status == "running"


# ---- what is made good


async def test_a_pause_with_an_end_ends(watched: Watched) -> None:
    await watched.put()
    until = NOON + AN_HOUR
    record, _ = await watched.rows.pause("triage", note="moving", until=until, by="mia", at=NOON)
    await watched.applied(record)

    before = await watched.look(until - A_MINUTE)
    after = await watched.look(until)

    assert (before.resumed, after.resumed, watched.converged) == (0, 1, ["triage"])
    assert not (await watched.rows.get("triage")).paused


async def test_a_translation_is_renewed_long_before_it_ends(watched: Watched) -> None:
    for name, left in (("near", HORIZON / 3 - A_MINUTE), ("far", HORIZON / 3 + AN_HOUR)):
        await watched.put(name)
        async with watched.ledger.write() as connection:
            await connection.execute(
                update(routines).where(routines.c.name == name).values(translated_until=NOON + left)
            )
    await watched.put("endless")

    looked = await watched.look(NOON)

    assert (looked.renewed, watched.converged) == (1, ["near"])


async def test_a_routine_whose_schedules_were_not_made_gets_them_after_a_minute(watched: Watched) -> None:
    await watched.put("done")
    definition = {"name": "half", "agent": "clerk", "input": "Go.", "triggers": HOURLY}
    await watched.rows.put(Routine.model_validate(definition), by="mia", at=NOON)

    await watched.look(NOON + timedelta(seconds=50))
    early = list(watched.converged)
    await watched.look(NOON + timedelta(seconds=70))

    assert (early, watched.converged) == ([], ["half"])


async def test_a_deleted_routine_whose_schedules_are_still_there_loses_them(watched: Watched) -> None:
    await watched.put()
    await watched.rows.delete("triage", by="mia", at=NOON)

    await watched.look(NOON + 2 * A_MINUTE)

    assert watched.converged == ["triage"]


# ---- all of it


async def test_the_schedule_of_the_watch_is_made_once_and_stays_paused_where_somebody_paused_it(
    engine_temporal: TemporalClient,
) -> None:
    await keep_watch(engine_temporal)
    handle = engine_temporal.get_schedule_handle(WATCH_SCHEDULE)
    await handle.pause(note="by hand")

    await keep_watch(engine_temporal)

    assert (await handle.describe()).schedule.state.note == "by hand"


async def test_an_engine_that_starts_after_an_outage_tells_people_once(
    env: WorkflowEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening() as server:
        monkeypatch.setenv("TEAM", f"json://127.0.0.1:{server.port}/team")
        settings = Settings(root=tmp_path, routines=RoutinesSettings(alert=("${TEAM}",)))
        async with running_engine(env, tmp_path, [], settings=settings) as engine:
            definition = {"name": "digest", "agent": "clerk", "input": "Go.", "triggers": HOURLY, "late_after": "1m"}
            await Routines(engine.ledger).put(Routine.model_validate(definition), by="mia", at=now() - 3 * AN_HOUR)
            handle = env.client.get_schedule_handle(WATCH_SCHEDULE)
            async with asyncio.timeout(20):
                await look_now(handle)
                while not server.requests:
                    await asyncio.sleep(0.05)
                await look_now(handle)

    [message] = server.messages("/team")
    assert "3 fires" in message["title"] or "2 fires" in message["title"]
    assert "no schedule for the trigger" in message["message"]


async def look_now(handle: ScheduleHandle) -> None:
    """Have the watch look, and wait until it has."""
    while True:
        try:
            before = (await handle.describe()).info.num_actions
            break
        except RPCError:  # the worker has not made it yet
            await asyncio.sleep(0.05)
    await handle.trigger()
    while True:
        info = (await handle.describe()).info
        if info.num_actions > before and not info.running_actions:
            return
        await asyncio.sleep(0.05)


# ---- what doctor says of it


async def test_doctor_says_when_the_watch_last_looked_and_that_it_was_paused_by_hand(
    engine_temporal: TemporalClient, env: WorkflowEnvironment, tmp_path: Path
) -> None:
    absent = of_watch(None, now())
    async with running_engine(env, tmp_path, []):
        handle = engine_temporal.get_schedule_handle(WATCH_SCHEDULE)
        async with asyncio.timeout(20):
            await look_now(handle)
        good = of_watch(await handle.describe(), now())
        silent = of_watch(await handle.describe(), now() + AN_HOUR + A_MINUTE)
        await handle.pause(note="moving house")
        paused = of_watch(await handle.describe(), now())

    assert [found[1] for found in (absent, good, silent, paused)] == ["warn", "ok", "warn", "fail"]
    assert good[2].startswith("it last looked at 20")
    assert silent[2].startswith("silent for 1h")
    assert paused[2].startswith("paused by hand in Temporal (moving house); it last looked at 20")
    assert paused[3].endswith(f"--unpause --schedule-id {WATCH_SCHEDULE}")


async def test_doctor_says_how_far_clock_changes_are_accounted_for_and_what_is_not_applied(watched: Watched) -> None:
    await watched.put("near")
    await watched.put("far")
    for name, until in (("near", NOON + timedelta(days=300)), ("far", NOON + timedelta(days=900))):
        async with watched.ledger.write() as connection:
            await connection.execute(update(routines).where(routines.c.name == name).values(translated_until=until))
    await watched.rows.pause("far", note=None, until=None, by="mia", at=NOON)

    found = list(of_rows(await watched.rows.list(deleted=True), NOON + 5 * A_MINUTE))

    assert [(check, state, text) for check, state, text, _ in found] == [
        ("routines", "ok", "2, 1 of them paused"),
        ("routines", "warn", "Temporal's schedules are not what these are meant to be: far"),
        ("clock changes", "warn", "accounted for until 2027-09-17 only: near"),
    ]


async def test_doctor_finds_nothing_wrong_with_routines_that_are_well(watched: Watched) -> None:
    await Deployment(watched.ledger, watched.temporal).put(
        Routine.model_validate({"name": "well", "agent": "clerk", "input": "Go.", "triggers": HOURLY}), by="mia"
    )

    found = list(of_rows(await watched.rows.list(deleted=True), now()))

    assert [(check, state) for check, state, _, _ in found] == [("routines", "ok"), ("clock changes", "ok")]
