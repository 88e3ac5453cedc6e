"""What a line means: against croniter's own documentation, Vixie's manual, and a walk along the clock."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given
from hypothesis import strategies as st

from horarium.errors import ConfigError
from schedules.civil import moments
from schedules.cron import CronLine, CronRefused
from tests.schedules.brute import Brute
from tests.schedules.expressions import ZONES, line

HASH_ID = "nightly-triage"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def walls(cron: CronLine, start: str, end: str) -> list[str]:
    """The fires between two times in UTC, as the clock on the wall shows them."""
    found = cron.between(utc(start), utc(end))
    return [f"{moment.astimezone(cron.clock.zone):%d %H:%M:%S %Z}" for moment in found]


# ---- clock changes


@pytest.mark.parametrize("zone", [*ZONES, "Africa/Cairo", "Antarctica/Troll", "Atlantic/Azores"])
def test_around_clock_changes_a_line_fires_as_a_walk_along_the_clock_says(zone: str):
    random, fires = Random(f"walk {zone}"), 0
    for _ in range(22):
        text, start = line(random), utc("2027-01-01") + timedelta(minutes=random.randrange(600_000))
        repeat, gap = random.choice(["once", "both"]), random.choice(["fire", "skip"])
        try:
            cron = CronLine.parse(text, zone, repeat=repeat, gap=gap, hash_id=HASH_ID)
        except CronRefused:
            continue
        moment = int(start.timestamp())
        changes = cron.clock.changes(moment, moment + 800 * 86_400)
        middle = random.choice(changes).at if changes else moment
        seconds = cron.fields.with_seconds
        low, high = (middle + sign * (2 if seconds else 5) * 3600 for sign in (-1, 1))
        begin, end = (datetime.fromtimestamp(at, UTC) for at in (low, high))

        by_walking = Brute(text, zone, hash_id=HASH_ID).fires(begin, end, repeat=repeat, gap=gap)

        assert cron.between(begin, end) == by_walking, (text, zone, begin)
        made = moments(cron.fields, cron.rule, cron.clock, low, high)
        assert [datetime.fromtimestamp(at, UTC) for at in made] == by_walking, (text, zone, begin)
        fires += len(by_walking)
    assert fires > 100


def test_a_fixed_hour_fires_once_on_the_day_on_which_it_comes_twice():
    cron = CronLine.parse("30 1 * * *", "Europe/London")

    assert walls(cron, "2027-10-30T12:00", "2027-11-01T12:00") == ["31 01:30:00 BST", "01 01:30:00 GMT"]


def test_both_times_when_it_is_asked_for():
    cron = CronLine.parse("30 1 * * *", "Europe/London", repeat="both")

    assert walls(cron, "2027-10-30T12:00", "2027-10-31T12:00") == ["31 01:30:00 BST", "31 01:30:00 GMT"]


@pytest.mark.parametrize("hour", ["*", "*/1", "0-23/1", "1/24"])
def test_a_line_for_every_hour_or_with_a_step_fires_in_each_real_hour(hour: str):
    cron = CronLine.parse(f"30 {hour} * * *", "Europe/London")

    assert {"31 01:30:00 BST", "31 01:30:00 GMT"} <= set(walls(cron, "2027-10-30T23:00", "2027-10-31T03:00"))


def test_a_list_with_one_fixed_hour_in_it_is_for_fixed_hours():
    cron = CronLine.parse("30 */6,1 * * *", "Europe/London")

    assert walls(cron, "2027-10-31T00:00", "2027-10-31T03:00") == ["31 01:30:00 BST"]


def test_times_that_do_not_exist_are_one_fire_after_the_gap():
    cron = CronLine.parse("*/10 2 * * *", "America/New_York")

    assert walls(cron, "2027-03-14T00:00", "2027-03-14T12:00") == ["14 03:00:00 EDT"]


def test_times_that_do_not_exist_are_left_out_when_it_is_asked_for():
    cron = CronLine.parse("*/30 2,3 * * *", "America/New_York", gap="skip")

    assert walls(cron, "2027-03-14T00:00", "2027-03-14T12:00") == ["14 03:00:00 EDT", "14 03:30:00 EDT"]


def test_a_day_without_a_midnight_has_its_fire():
    cron = CronLine.parse("0 0 * * 0", "America/Havana")

    assert walls(cron, "2027-03-13T12:00", "2027-03-14T12:00") == ["14 01:00:00 CDT"]


def test_asked_within_the_minute_after_a_gap_it_says_what_it_says_when_asked_before():
    cron = CronLine.parse("30 2 * * * 20", "America/New_York")
    gap_ends = utc("2027-03-14T07:00")

    assert cron.fires(gap_ends, 1) == cron.fires(gap_ends - timedelta(hours=1), 1)
    assert cron.fires(gap_ends + timedelta(seconds=20), 1) != cron.fires(gap_ends, 1)


def test_the_second_time_is_not_lost_when_the_next_fire_is_months_away():
    # croniter alone looks for it only where the next fire has another offset.
    cron = CronLine.parse("30 2 * oct,jun 0", "Europe/Berlin", repeat="both")

    assert walls(cron, "2027-10-30T23:00", "2027-12-01T00:00") == ["31 02:30:00 CEST", "31 02:30:00 CET"]


def test_half_an_hour_that_comes_again_is_whole():
    cron = CronLine.parse("*/22 * * * *", "Australia/Lord_Howe")

    assert "02 01:44:00 +1030" in walls(cron, "2028-04-01T14:00", "2028-04-01T16:00")


# ---- croniter's README and Vixie's manual


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("*/5 * * * *", "2010-01-25T04:46", ["2010-01-25T04:50", "2010-01-25T04:55", "2010-01-25T05:00"]),
        ("2 4 * * mon,fri", "2010-01-25T04:46", ["2010-01-29T04:02", "2010-02-01T04:02", "2010-02-05T04:02"]),
        ("2 4 1 * wed", "2010-01-25T04:46", ["2010-01-27T04:02", "2010-02-01T04:02", "2010-02-03T04:02"]),
        ("0 0 * * sat#1,sun#2", "2010-01-25T04:46", ["2010-02-06T00:00"]),
        ("0 0 * * 5#3,L5", "2010-01-25T04:46", ["2010-01-29T00:00", "2010-02-19T00:00"]),
        ("0 0 l * *", "2024-01-30T00:00", ["2024-01-31T00:00", "2024-02-29T00:00"]),
        ("0 0 l * *", "2023-02-01T00:00", ["2023-02-28T00:00"]),
        ("0 9 15W * *", "2024-06-01T00:00", ["2024-06-14T09:00"]),
        ("0 9 1W * *", "2024-05-31T00:00", ["2024-06-03T09:00"]),
        ("0 9 W15 * *", "2024-01-01T00:00", ["2024-01-15T09:00"]),
        (
            "* * * * * 15,25",
            "2012-04-06T13:26:10",
            ["2012-04-06T13:26:15", "2012-04-06T13:26:25", "2012-04-06T13:27:15"],
        ),
        ("0 0 1 1 * 0 2020/2", "2012-04-06T02:06:59", ["2020-01-01", "2022-01-01", "2024-01-01"]),
        ("0 0 */7 * *", "2024-07-11T00:00", ["2024-07-15", "2024-07-22", "2024-07-29", "2024-08-01", "2024-08-08"]),
    ],
)
def test_a_line_of_croniters_readme_fires_as_it_is_written_there(text: str, start: str, expected: list[str]):
    cron = CronLine.parse(text, "UTC")

    assert cron.fires(utc(start), len(expected)) == [utc(moment) for moment in expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5 0 * * *", ["2026-11-21T00:05", "2026-11-22T00:05"]),  # five minutes after midnight, every day
        ("15 14 1 * *", ["2026-12-01T14:15", "2027-01-01T14:15"]),  # at 2:15pm on the first of every month
        ("0 22 * * 1-5", ["2026-11-23T22:00", "2026-11-24T22:00"]),  # at 10 pm on weekdays
        ("23 0-23/2 * * *", ["2026-11-21T00:23", "2026-11-21T02:23"]),  # 23 minutes after midnight, 2am, 4am
        ("5 4 * * sun", ["2026-11-22T04:05", "2026-11-29T04:05"]),  # at 5 after 4 every Sunday
        ("30 4 1,15 * 5", ["2026-11-27T04:30", "2026-12-01T04:30"]),  # on the 1st and 15th, plus every Friday
        ("0 */4 1 * mon", ["2026-11-23T00:00", "2026-11-23T04:00"]),
        ("0 0 1 1 *", ["2027-01-01T00:00", "2028-01-01T00:00"]),  # @yearly
        ("@weekly", ["2026-11-22T00:00", "2026-11-29T00:00"]),
        ("@monthly", ["2026-12-01T00:00", "2027-01-01T00:00"]),
        ("@daily", ["2026-11-22T00:00", "2026-11-23T00:00"]),
        ("@hourly", ["2026-11-21T01:00", "2026-11-21T02:00"]),
    ],
)
def test_a_line_of_vixies_manual_fires_as_it_is_written_there(text: str, expected: list[str]):
    cron = CronLine.parse(text, "UTC")

    assert cron.fires(utc("2026-11-21"), 2) == [utc(moment) for moment in expected]


def test_away_from_clock_changes_it_is_croniter_that_speaks():
    random = Random(11)
    for _ in range(150):
        text = line(random)
        try:
            cron = CronLine.parse(text, "UTC", hash_id=HASH_ID)
        except CronRefused:
            continue
        hashed = HASH_ID if any(part[0] in "hH" for part in text.split()) else None
        reader = croniter(text, utc("2026-11-21"), hash_id=hashed)
        for moment in cron.fires(utc("2026-11-21"), 20):
            assert moment == reader.get_next(datetime), text


def test_the_dates_of_a_line_are_those_that_croniter_finds_for_it():
    random, dates, day = Random(8), 0, date(2027, 1, 1)
    special = ["0 0 1W * *", "0 0 31W * *", "0 0 30W 2 *", "0 0 29W * *", "0 0 1,15,L * *", "0 0 * 2 L0", "0 0 * * 5#5"]
    for text in [*special, *(line(random) for _ in range(250))]:
        try:
            cron = CronLine.parse(text, "UTC", hash_id=HASH_ID)
        except CronRefused:
            continue
        brute = Brute(text, "UTC", hash_id=HASH_ID)
        for number in range(random.randrange(7), 1_500, 1 if text in special else 7):
            on = day + timedelta(days=number)
            assert cron.fields.on(on) == brute.on(on), (text, on)
            dates += brute.on(on)
    assert dates > 5_000


def test_macros_are_the_same_with_and_without_a_name_to_draw_from():
    assert CronLine.parse("@daily", "UTC", hash_id="x").fires(utc("2026-11-21"), 1) == [utc("2026-11-22")]


def test_what_h_draws_is_the_same_each_time_and_another_for_another_name():
    drawn = {
        name: CronLine.parse("H H * * *", "UTC", hash_id=name).fires(utc("2026-11-21"), 1)
        for name in ("digest", "triage", "backup")
    }

    assert drawn["digest"] == CronLine.parse("H H * * *", "UTC", hash_id="digest").fires(utc("2026-11-21"), 1)
    assert len({moments[0] for moments in drawn.values()}) == 3


def test_a_line_whose_years_are_over_has_no_fires():
    assert CronLine.parse("0 0 1 1 * 0 2027", "UTC").fires(utc("2027-06-01"), 5) == []


# ---- what is refused


@pytest.mark.parametrize(
    ("text", "kind", "nearest"),
    [
        ("0 0 31 2 *", "never", "0 0 L 2 *"),
        ("0 0 31 4,6 *", "never", "0 0 L 4,6 *"),
        ("0 0 31 * 5#2", "never", "0 0 * * 5#2"),
        ("0 0 15W * 6", "never", "0 0 15w * *"),
        ("0 0 13 * 5#2 0 2027", "ends_early", "0 0 * * 5#2 0 2027"),
        ("R 0 * * *", "random", None),
        ("0 R(1-3) * * *", "random", None),
        ("H 0 * * *", "hash", None),
        ("0 0 * * Monday", "syntax", "0 0 * * mon"),
        ("0 0 * January *", "syntax", "0 0 * jan *"),
        ("0 0 * * 5L", "syntax", "0 0 * * L5"),
        ("0 0 * * FRIL", "syntax", "0 0 * * L5"),
        ("0 0 12 ? * MON", "syntax", "0 12 ? * MON 0"),
        ("0 24 * * *", "syntax", "0 0 * * *"),
        ("@every 5m", "syntax", "*/5 * * * *"),
        ("@every 7m", "syntax", None),
        ("CRON_TZ=UTC 0 9 * * *", "syntax", "0 9 * * *"),
        ("0 9 * * * # every day", "syntax", "0 9 * * *"),
        ("0 0 LW * *", "syntax", None),
        ("@reboot", "syntax", None),
        ("0 0 * *", "syntax", None),
        ("", "syntax", None),
        ("61 * * * *", "syntax", None),
        ("*/0 * * * *", "syntax", None),
        ("-1 * * * *", "syntax", None),
        ("0 0 0 * *", "syntax", None),
        ("0 0 * * 5#6", "syntax", None),
        ("* " * 400, "syntax", None),
    ],
)
def test_a_line_that_cannot_be_used_is_refused_with_the_nearest_that_can(text: str, kind: str, nearest: str | None):
    with pytest.raises(CronRefused) as refused:
        CronLine.parse(text, "UTC")

    assert isinstance(refused.value, ConfigError)
    assert (refused.value.kind, refused.value.nearest) == (kind, nearest)
    if nearest is not None:
        assert CronLine.parse(nearest, "UTC").fires(utc("2026-11-21"), 1)


def test_a_refusal_names_the_field():
    with pytest.raises(CronRefused, match="the day of week 'Monday' is nothing that croniter knows"):
        CronLine.parse("0 0 * * Monday", "UTC")
    with pytest.raises(CronRefused, match="the hour '25' is out of range"):
        CronLine.parse("0 25 * * *", "UTC")


@pytest.mark.parametrize(
    ("zone", "meant"),
    [
        ("Europe/Londn", "Europe/London"),
        ("europe/london", "Europe/London"),
        ("", ""),
        ("/etc/passwd", ""),
        ("../UTC", ""),
    ],
)
def test_an_unknown_zone_is_refused_with_the_nearest(zone: str, meant: str):
    with pytest.raises(CronRefused) as refused:
        CronLine.parse("0 0 * * *", zone)

    assert refused.value.kind == "zone"
    assert meant in refused.value.reason


@given(st.text(alphabet="0123456789*/-,#?LWHRlwhrmonjan @=", max_size=40) | st.text(max_size=30))
def test_any_text_is_a_line_or_is_refused(text: str):
    try:
        cron = CronLine.parse(text, "Europe/London", hash_id=HASH_ID)
    except CronRefused:
        pass
    else:
        assert len(cron.fires(utc("2026-11-21"), 2)) <= 2


# ---- the shortest time between two fires


@pytest.mark.parametrize(
    ("text", "zone", "least"),
    [
        ("* * * * *", "UTC", timedelta(minutes=1)),
        ("* * * * * */15", "UTC", timedelta(seconds=15)),
        ("0 6 * * *", "UTC", timedelta(days=1)),
        ("0 6 * * 1-5", "UTC", timedelta(days=1)),
        ("0 6 * * 1", "UTC", timedelta(days=7)),
        ("0 0 1 * *", "UTC", timedelta(days=28)),
        ("0 0 29 2 *", "UTC", timedelta(days=1461)),
        ("59,0 * * * *", "UTC", timedelta(minutes=1)),
        ("50 23 * * *", "UTC", timedelta(days=1)),
        ("0,50 0,23 * * *", "UTC", timedelta(minutes=10)),
        ("0 0,23 * * *", "UTC", timedelta(hours=1)),
        ("5-5 0 * * *", "UTC", timedelta(minutes=1)),
        ("30 2,3 * * *", "America/New_York", timedelta(minutes=30)),  # 02:30 moves to 03:00 in March
        ("0 1 * * *", "America/New_York", timedelta(hours=23)),
        ("0 1 * * 1", "America/New_York", timedelta(days=7) - timedelta(hours=1)),
        ("0 6 * * *", "Asia/Kolkata", timedelta(days=1)),
        ("0 0 1 1 * 0 2027", "UTC", None),
    ],
)
def test_the_shortest_time_between_two_fires(text: str, zone: str, least: timedelta | None):
    assert CronLine.parse(text, zone).least_gap(utc("2026-11-21")) == least


# ---- in words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 6 * * 5#2", "At 06:00, on the second Friday of the month"),
        ("0 0 13 * 5", "At 00:00, on day 13 of the month, and also on Friday"),
        ("0 0 13 1 5", "At 00:00, on day 13 of the month, and also on Friday, only in January"),
        ("0 0 L * *", "At 00:00, on the last day of the month"),
        ("0 0 * * L5", "At 00:00, on the last Friday of the month"),
        ("0 9 15W * *", "At 09:00, on the weekday nearest day 15 of the month"),
        ("0 0 * * sat#1,sun#2", "At 00:00, on the first Saturday and the second Sunday of the month"),
        ("0 0 1-7 * 5#1", "At 00:00, on the first Friday of the month"),
        ("* * * * * */15", "Every 15 seconds"),
        ("5-5 * * * *", "Every minute"),
        ("59/15 * * * *", "At 59 minutes past the hour"),
        ("*/40 * * * *", "At 0 and 40 minutes past the hour"),
        ("0 0 * * 7", "At 00:00, only on Sunday"),
        ("0 9 * * fri-mon", "At 09:00, Friday through Monday"),
        ("0 0 1 1 * 0 2027-2030", "At 00:00, on day 1 of the month, only in January, 2027 through 2030"),
        ("@daily", "At 00:00"),
    ],
)
def test_a_line_in_words_says_what_croniter_reads(text: str, words: str):
    assert CronLine.parse(text, "UTC").words() == words


def test_each_line_has_words():
    random = Random(3)
    for _ in range(300):
        text = line(random)
        try:
            cron = CronLine.parse(text, "UTC", hash_id=HASH_ID)
        except CronRefused:
            continue
        assert cron.words().isprintable()
        assert cron.words()[0].isalpha(), text


def test_a_moment_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="zone"):
        CronLine.parse("0 0 * * *", "UTC").fires(datetime(2027, 1, 1), 1)


def test_fires_are_in_utc_whatever_the_zone_of_the_start():
    start = datetime(2027, 7, 1, tzinfo=ZoneInfo("Asia/Kolkata"))

    assert CronLine.parse("0 9 * * *", "Asia/Kolkata").fires(start, 1) == [utc("2027-07-01T03:30")]
