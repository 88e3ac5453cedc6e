"""The preview's reckoning: it comes to what the ledger does, and says what clocks do."""

from __future__ import annotations

import heapq
import random
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest

from horarium.contract import TickRequest, TickSource
from horarium.ledger.database import Ledger
from horarium.ledger.routines import Routines
from horarium.ledger.ticks import Opened, TickRecord, Ticks
from horarium.routines import Overlap, Routine, tick_id
from horarium.tick_protocol import CloseTick, OpenTick
from schedules.preview import Answer, Due, Line, Outage, Reckoned, dues_of, gaps_of, reckon

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
A_MINUTE = timedelta(minutes=1)
LONG_AGO = NOON - timedelta(days=9)
OVERLAPS = get_args(Overlap)


def routine(**more: Any) -> Routine:
    definition = {"name": "triage", "agent": "clerk", "input": "Go.", "triggers": {"t": {"cron": "0 * * * *"}}}
    return Routine.model_validate(definition | more)


def due(minutes: int) -> Due:
    return Due(NOON + minutes * A_MINUTE, ("t",))


def minutes(moment: datetime | None) -> int | None:
    return None if moment is None else round((moment - NOON) / A_MINUTE)


def told(found: list[Reckoned]) -> list[tuple[str, int | None, int | None]]:
    return [(tick.fate, minutes(tick.begins_at), minutes(tick.ends_at)) for tick in found]


# ---- the same as the ledger


class Played:
    """The ledger's ticks, moved by a clock: each takes so long, whoever has to end ends at once."""

    def __init__(self, ledger: Ledger, definition: Routine, takes: timedelta) -> None:
        self.ledger, self.routine, self.takes = ledger, definition, takes
        self.ticks = Ticks(ledger, max_running=10_000)
        self.ends: list[tuple[datetime, int, str]] = []
        self.count = 0

    async def open(self, tick: str, at: datetime, now: datetime, source: TickSource = "schedule") -> None:
        await self.until(now)
        request = TickRequest(routine=self.routine.name, trigger="t", source=source, at=at)
        opening = OpenTick(tick=tick, execution=tick, request=request, scheduled_at=at, at=now)
        await self.follow(tick, await self.ticks.open(opening), now)

    async def until(self, now: datetime) -> None:
        while self.ends and self.ends[0][0] < now:
            at, _, tick = heapq.heappop(self.ends)
            if (await self.ticks.get(tick)).is_open:
                await self.close(tick, "completed", at)

    async def follow(self, tick: str, opened: Opened, now: datetime) -> None:
        if opened.plan.decision == "run":
            self.count += 1
            heapq.heappush(self.ends, (now + self.takes, self.count, tick))
        for other in (*opened.cancel, *opened.terminate):
            if (await self.ticks.get(other)).is_open:
                await self.close(other, "cancelled", now)

    async def close(self, tick: str, status: Any, now: datetime) -> None:
        for other in (await self.ticks.close(CloseTick(tick=tick, status=status, at=now))).next:
            if (await self.ticks.get(other)).status == "queued":
                await self.follow(other, await self.ticks.admit(other, now), now)

    async def records(self) -> dict[str, TickRecord]:
        return {tick.id: tick for tick in await self.ticks.list(limit=1_000)}


async def put(ledger: Ledger, definition: Routine) -> None:
    await Routines(ledger).put(definition, by="ana", at=LONG_AGO)


def seen(tick: TickRecord) -> tuple[object, ...]:
    """Of the ledger's tick, what the reckoning says too."""
    fate = {"completed": "runs", "skipped": "missed" if tick.reason == "too_late" else "skipped"}.get(tick.status)
    if fate is None:
        fate = "runs" if tick.started_at is not None else tick.status
    begun = tick.started_at is not None
    return fate, minutes(tick.started_at), minutes(tick.closed_at) if begun else None, tick.status == "cancelled"


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("seed", range(4))
async def test_the_reckoning_comes_to_what_the_ledger_does_also_after_an_outage(
    ledger: Ledger, overlap: Overlap, seed: int
) -> None:
    dice = random.Random(f"{overlap}/{seed}")
    catch_up, until = dice.choice([0, 5, 30, 90]), dice.choice([30, 120])
    definition = routine(overlap=overlap, catch_up=f"{catch_up}m", jitter="0s", timeout=timedelta(days=9))
    just_in_time = max(until - catch_up, 0)
    dues = [due(minute) for minute in sorted({*dice.sample(range(300), 25), just_in_time})]
    takes = timedelta(minutes=dice.choice([1, 7, 20, 45]))
    # An outage in which nothing runs: what goes on through one is told apart below.
    outage = Outage(NOON - 60 * A_MINUTE, NOON + until * A_MINUTE)
    await put(ledger, definition)
    played = Played(ledger, definition, takes)

    found = reckon(definition, dues, takes, outage)
    for one in dues:
        await played.open(tick_id("triage", one.at), one.at, max(one.at, outage.end))
    await played.until(NOON + timedelta(days=8))

    ledgers = await played.records()
    assert {
        tick.id: (
            tick.fate,
            minutes(tick.begins_at),
            minutes(tick.ends_at) if tick.begins_at else None,
            tick.ending in ("cancelled", "terminated"),
        )
        for tick in found
    } == {tick: seen(record) for tick, record in ledgers.items()}
    assert len(found) == len(dues)


@pytest.mark.parametrize("seed", range(20))
async def test_each_step_lets_in_whom_the_ledger_lets_in(ledger: Ledger, seed: int) -> None:
    # Ticks by hand among scheduled ones, opened in any order, closed at any time.
    dice = random.Random(seed)
    definition = routine(overlap=dice.choice(OVERLAPS), catch_up="9d")
    await put(ledger, definition)
    real, line = Ticks(ledger, max_running=10_000), Line(definition)
    known: dict[str, Reckoned] = {}
    fires = dice.sample(range(100), 12)
    now = NOON + 200 * A_MINUTE

    for _ in range(30):
        now += A_MINUTE
        open_now = [tick for tick in known.values() if tick.status != "closed"]
        if fires and (not open_now or dice.random() < 0.5):
            source: TickSource = dice.choice(["schedule", "schedule", "manual", "backfill", "event"])
            at = NOON + fires.pop() * A_MINUTE
            tick = Reckoned(tick_id("triage", at), Due(at, ("t",)), source=source)
            known[tick.id] = tick
            request = TickRequest(routine="triage", source=source, at=at)
            answer = line.open(tick, now)
            opening = OpenTick(tick=tick.id, execution="it", request=request, scheduled_at=at, at=now)
            assert same(answer, await real.open(opening))
        elif open_now:
            tick = dice.choice(open_now)
            follows = line.close(tick)
            closed = await real.close(CloseTick(tick=tick.id, status="completed", at=now))
            assert [other.id for other in follows] == list(closed.next)
            for other in follows:
                assert same(line.admit(other, now), await real.admit(other.id, now))

    ledgers = {tick.id: tick.status for tick in await real.list(limit=100)}
    running = {"queued": "queued", "running": "running"}
    assert {name: tick.status for name, tick in known.items()} == {
        name: running.get(status, "closed") for name, status in ledgers.items()
    }


def same(answer: Answer, opened: Opened) -> bool:
    decision = {"end": "skip"}.get(opened.plan.decision, opened.plan.decision)
    ends = (*opened.cancel, *opened.terminate)
    return (answer.decision, tuple(tick.id for tick in answer.ends)) == (decision, ends)


# ---- what is told


def test_a_fire_while_the_one_before_is_not_done_is_skipped_and_says_which() -> None:
    found = reckon(routine(timeout="2h"), [due(0), due(60), due(120)], timedelta(minutes=70))

    assert told(found) == [("runs", 0, 70), ("skipped", None, None), ("runs", 120, 190)]
    assert (found[1].because, found[1].other) == ("not_done", NOON)


def test_a_tick_that_takes_exactly_until_the_next_fire_is_in_its_way() -> None:
    assert [tick.fate for tick in reckon(routine(), [due(0), due(60)], timedelta(hours=1))] == ["runs", "skipped"]


def test_one_waits_and_the_others_are_skipped() -> None:
    dues = [due(0), due(10), due(20), due(30)]

    found = reckon(routine(overlap="buffer_one"), dues, timedelta(minutes=25))

    assert told(found) == [("runs", 0, 25), ("runs", 25, 50), ("skipped", None, None), ("runs", 50, 75)]
    assert (found[2].because, found[2].other) == ("waits_already", due(10).at)


def test_the_next_one_ends_the_one_before() -> None:
    found = reckon(routine(overlap="cancel_other"), [due(0), due(30)], timedelta(minutes=50))

    assert told(found) == [("runs", 0, 30), ("runs", 30, 80)]
    assert (found[0].ending, found[0].other) == ("cancelled", due(30).at)


def test_a_tick_ends_at_its_timeout() -> None:
    [found] = reckon(routine(timeout="20m"), [due(0)], timedelta(minutes=50))

    assert (found.ending, minutes(found.ends_at)) == ("timeout", 20)


def test_after_an_outage_what_is_too_late_is_missed_and_the_rest_comes_at_once() -> None:
    outage = Outage(NOON - A_MINUTE, NOON + 150 * A_MINUTE)
    dues = [due(0), due(60), due(120), due(180)]

    found = reckon(routine(catch_up="100m", overlap="buffer_all"), dues, timedelta(minutes=10), outage)

    assert told(found) == [("missed", None, None), ("runs", 150, 160), ("runs", 160, 170), ("runs", 180, 190)]
    assert found[0].because == "too_late"
    assert not any(tick.narrow for tick in found)


def test_what_catches_up_overlaps_with_itself() -> None:
    outage = Outage(NOON, NOON + 50 * A_MINUTE)

    found = reckon(routine(), [due(0), due(20), due(40)], timedelta(minutes=5), outage)

    assert told(found) == [("runs", 50, 55), ("skipped", None, None), ("skipped", None, None)]


def test_a_tick_that_runs_when_all_goes_down_goes_on_where_it_was() -> None:
    outage = Outage(NOON + 10 * A_MINUTE, NOON + 40 * A_MINUTE)

    [goes_on] = reckon(routine(timeout="2h"), [due(0)], timedelta(minutes=30), outage)
    [too_long] = reckon(routine(timeout="35m"), [due(0)], timedelta(minutes=30), outage)

    assert (goes_on.ending, minutes(goes_on.ends_at)) == ("done", 60)
    assert (too_long.ending, minutes(too_long.ends_at)) == ("timeout", 40)


def test_jitter_can_decide_whether_a_fire_is_still_in_time() -> None:
    definition = routine(catch_up="1h", jitter="10m", overlap="allow_all")
    outage = Outage(NOON, NOON + 65 * A_MINUTE)

    found = reckon(definition, [due(0), due(10)], A_MINUTE, outage)

    assert [(tick.fate, tick.narrow) for tick in found] == [("runs", True), ("runs", False)]


# ---- fires


def test_triggers_that_fire_at_the_same_second_are_one_fire() -> None:
    definition = routine(triggers={"hours": {"cron": "0 * * * *"}, "often": {"every": "30m"}, "ev": {"event": "x"}})

    found, more = dues_of(definition, NOON, NOON + timedelta(hours=1))

    assert [(minutes(one.at), one.triggers) for one in found] == [(0, ("hours", "often")), (30, ("often",))]
    assert not more


def test_clock_changes_gaps_and_repeats_are_marked() -> None:
    nightly = {"t": {"cron": "30 1 * * *", "time_zone": "Europe/London"}}
    spring, autumn = datetime(2027, 3, 27, 12, tzinfo=UTC), datetime(2027, 10, 30, 12, tzinfo=UTC)

    [gap], _ = dues_of(routine(triggers=nightly), spring, spring + timedelta(days=1))
    [repeat], _ = dues_of(routine(triggers=nightly), autumn, autumn + timedelta(days=1))

    assert gap.note == "clocks went forward 1h on 2027-03-28; its time does not exist on this day"
    assert (gap.at.hour, gap.at.minute) == (1, 0)
    assert repeat.note == "the first time of two; not again"


def test_a_fire_that_a_gap_takes_away_is_told() -> None:
    nightly = {"t": {"cron": "30 1 * * *", "time_zone": "Europe/London", "gap": "skip"}}
    start = datetime(2027, 3, 27, 12, tzinfo=UTC)

    found, _ = dues_of(routine(triggers=nightly), start, start + timedelta(days=2))
    gaps = gaps_of(routine(triggers=nightly), start, start + timedelta(days=2))

    assert [one.at.day for one in found] == [29]
    assert [(one.at.day, one.triggers, one.note) for one in gaps] == [
        (28, ("t",), "its time does not exist on this day (`gap: skip`)")
    ]


def test_more_fires_than_are_reckoned_are_said_to_be_more() -> None:
    found, more = dues_of(routine(triggers={"t": {"every": "1m"}}), NOON, NOON + timedelta(days=9))

    assert more
    assert (len(found), found[0].at) == (2_000, NOON)
