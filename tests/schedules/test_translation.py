"""The spec for a line, without a server: against the line itself, by two matchers, one with the server's faults."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import available_timezones

import pytest
from temporalio.client import ScheduleRange, ScheduleSpec

from schedules.civil import moments
from schedules.clock import DAY, HOUR, Change, Clock, clock_of
from schedules.cron import CronLine, CronRefused
from schedules.matcher import Calendar, Matcher, values
from schedules.translation import HORIZON, MOST_ONE_SHOTS, ranges, translate
from tests.schedules.expressions import ZONES, line

START = datetime(2026, 11, 21, tzinfo=UTC)
BEGIN = int(START.timestamp())
TELLING = ("30 1 * * *", "0 0 * * 0", "*/20 0-3 * * *", "15 */2 * * *", "0 * * * 6,0", "30 2 L * 1", "0 23 * * 4-5")


def changes_of(clock: Clock) -> list[Change]:
    return clock.changes(BEGIN, int((START + HORIZON).timestamp()))


def zones_that_differ() -> Iterator[str]:
    """One zone for each set of clock changes within the horizon."""
    seen: set[tuple[tuple[int, int, int], ...]] = set()
    for name in sorted(available_timezones()):
        known = tuple((item.at, item.before, item.after) for item in changes_of(clock_of(name)))
        if known and known not in seen:
            seen.add(known)
            yield name


def by_a_repaired_server(spec: ScheduleSpec, clock: Clock, low: int, high: int) -> list[int]:
    """What a matcher without faults would fire: each moment whose time on the wall fits."""
    calendars = [Calendar.of(item) for item in spec.calendars]
    shots = {int(item.every.total_seconds()) for item in spec.intervals if item.every > timedelta(days=365)}
    steps = [
        (int(item.every.total_seconds()), int(item.offset.total_seconds()) if item.offset else 0)
        for item in spec.intervals
        if item.every <= timedelta(days=365)
    ]
    return [
        moment
        for moment in range(low + 60 - low % 60, high + 1, 60)
        if moment in shots
        or any((moment - phase) % every == 0 for every, phase in steps)
        or any(calendar.matches(moment, clock) for calendar in calendars)
    ]


def test_in_each_zone_of_the_world_each_change_in_the_horizon_is_accounted_for():
    zones, changes, fires = 0, 0, 0
    for zone in zones_that_differ():
        zones += 1
        for text in TELLING:
            cron = CronLine.parse(text, zone)
            matcher = Matcher(translate(cron, START).spec, cron.clock)
            for change in changes_of(cron.clock):
                low, high = change.at - DAY, change.at + DAY
                if low < BEGIN:
                    continue
                expected = moments(cron.fields, cron.rule, cron.clock, low, high)
                assert matcher.between(low, high) == expected, (zone, text, change)
                changes, fires = changes + 1, fires + len(expected)
    assert zones > 20
    assert changes > 2_000
    assert fires > 10_000


@pytest.mark.parametrize("zone", ZONES)
def test_a_translation_is_right_with_the_servers_faults_and_without_them(zone: str):
    random, compared = Random(f"two {zone}"), 0
    for _ in range(14):
        text = " ".join(line(random).split()[:5])
        try:
            cron = CronLine.parse(text, zone, repeat=random.choice(["once", "both"]), hash_id="x")
            spec = translate(cron, START).spec
        except CronRefused:
            continue
        changes = changes_of(cron.clock)
        middle = random.choice(changes).at if changes else BEGIN + 100 * DAY
        low, high = middle - 4 * HOUR, middle + 4 * HOUR
        expected = moments(cron.fields, cron.rule, cron.clock, low, high)
        assert Matcher(spec, cron.clock).between(low, high) == expected, text
        assert by_a_repaired_server(spec, cron.clock, low, high) == expected, text
        compared += len(expected)
    assert compared > 5


def test_a_line_that_fires_alike_in_every_hour_is_an_interval():
    made = translate(CronLine.parse("*/15 * * * *", "Europe/London"), START)

    assert made.spec.calendars == []
    assert [item.every for item in made.spec.intervals] == [timedelta(minutes=15)]
    assert made.one_shots == 0


def test_in_a_zone_half_an_hour_off_the_interval_has_its_phase():
    cron = CronLine.parse("0 * * * *", "Asia/Kolkata")
    made = translate(cron, START)

    assert [(item.every, item.offset) for item in made.spec.intervals] == [(timedelta(hours=1), timedelta(minutes=30))]
    assert Matcher(made.spec, cron.clock).next(BEGIN) == int(cron.fires(START, 1)[0].timestamp())


def test_day_of_month_or_day_of_week_is_two_calendars_and_says_so():
    made = translate(CronLine.parse("0 0 13 * 5", "UTC"), START)

    assert len(made.spec.calendars) == 2
    assert made.notes == ("Day of month or day of week, whichever fits: calendars of their own.",)


def test_the_second_friday_is_one_calendar():
    made = translate(CronLine.parse("0 6 * * 5#2", "UTC"), START)

    assert [values(item.day_of_month) for item in made.spec.calendars] == [set(range(8, 15))]
    assert [values(item.day_of_week) for item in made.spec.calendars] == [{5}]


def test_a_one_shot_is_an_interval_as_long_as_1970_is_away():
    cron = CronLine.parse("30 2 * * *", "America/New_York")
    made = translate(cron, START)

    [first, *_] = sorted(int(item.every.total_seconds()) for item in made.spec.intervals)
    assert datetime.fromtimestamp(first, UTC) == datetime(2027, 3, 14, 7, tzinfo=UTC)
    assert made.one_shots == 5


def test_what_was_before_the_start_is_not_put_back():
    cron = CronLine.parse("30 1 * * *", "Europe/London")
    after = datetime(2027, 10, 31, 0, 30, tzinfo=UTC)  # the fire of that day

    made = translate(cron, after)

    assert all(item.every.total_seconds() > after.timestamp() for item in made.spec.intervals)
    assert Matcher(made.spec, cron.clock).next(int(after.timestamp())) == int(cron.fires(after, 1)[0].timestamp())


def test_the_spec_is_right_until_the_horizon_and_says_when_that_ends():
    cron = CronLine.parse("30 1 * * *", "Europe/London")
    made = translate(cron, START, horizon=timedelta(days=400))

    assert made.until == START + timedelta(days=400)
    assert made.one_shots == 2  # in March after the gap, in October the first time


def test_a_line_that_would_need_too_many_one_shots_is_refused():
    with pytest.raises(CronRefused) as refused:
        translate(CronLine.parse("* 1 * * * *", "Europe/London"), START)

    assert refused.value.kind == "too_many"
    assert f"{MOST_ONE_SHOTS:,} one-shots" in str(refused.value)


def test_the_same_line_is_no_problem_without_clock_changes():
    assert translate(CronLine.parse("* 1 * * * *", "UTC"), START).one_shots == 0


def test_years_before_the_servers_first_are_left_out():
    made = translate(CronLine.parse("0 0 1 1 * 0 1990-2030", "UTC"), START)

    assert min(min(values(item.year)) for item in made.spec.calendars) == 2000


def test_a_line_whose_years_are_over_says_that_no_fire_is_left():
    made = translate(CronLine.parse("0 0 1 1 * 0 1990", "UTC"), START)

    assert made.spec.calendars == []
    assert made.notes == ("No fire is left after 2026-11-21.",)


@pytest.mark.parametrize(
    "wanted", [{3}, {1, 2, 3}, {0, 15, 30, 45}, {1, 2, 3, 9}, {0, 59}, set(range(60)), {1, 4, 5, 6}]
)
def test_ranges_stand_for_their_values(wanted: set[int]):
    made = ranges(wanted)

    assert values(made) == wanted
    assert all(isinstance(item, ScheduleRange) for item in made)
