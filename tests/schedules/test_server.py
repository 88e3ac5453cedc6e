"""Against a real server: what it fires is what the line means, and our copy of its matcher says what it says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from temporalio.client import Client

from schedules.clock import clock_of
from schedules.matcher import Matcher
from schedules.raw import ServerRefuses, raw_reading, raw_spec
from tests.schedules.differential import cases, compare
from tests.schedules.expressions import ZONES, line
from tests.schedules.server import Asked, Refused, asked

START = datetime(2027, 1, 1, tzinfo=UTC)
COUNT = 40

RAW = [
    *("0 0 13 * 5", "0 6 * * 5#2", "0 6 * * FRI#2", "0 0 L * *", "0 9 15W * *", "0 0 ? * *", "0 0 * * L5", "H * * * *"),
    *("R * * * *", "0 0 * * FRI-MON", "0 22-2 * * *", "0 0 1 NOV-FEB *", "* * * * * */15", "0 0 * * Monday"),
    *("@every 5m", "@every 1h/20m", "@every 1d", "@every 90s", "@every 0s", "@every", "@every 1h/2h", "@every soon"),
    *("CRON_TZ=Europe/London 0 6 * * *", "TZ=Europe/London 0 6 * * *", "CRON_TZ=UTC 0 6 * * *", "CRON_TZ=UTC"),
    *(
        "0 6 * * * # every morning",
        "5-5 * * * *",
        "0 0 * * 7",
        "0 0 * * 0",
        "0 0 * * 5-7",
        "0 0 * * 0-7",
        "0 0 * * 1/3",
    ),
    *("0 0 * * */2", "0 0 * * 1-7/2", "0 0 * * MO", "0 0 1 January *", "0 0 1 Jan *", "0 0 1 ja *", "0 0 * * m"),
    *("@daily", "@Daily", "@hourly", "@weekly", "@monthly", "@yearly", "@annually", "@midnight", "@reboot"),
    *("*/15 * * * *", "59/15 * * * *", "*/90 * * * *", "0 0 31 2 *", "0 0 29 2 *", "0 0 0 * *", "0 0 32 * *"),
    *("0 24 * * *", "60 0 * * *", "*/0 * * * *", "-1 * * * *", "+5 * * * *", "1,2,3-5/2 4 * * *", "1,,2 * * * *"),
    *("0 0 1 1 * 2027-2030", "0 0 1 1 * 1999", "0 0 0 1 1 * 2028", "15 30 2 * * * *", "* * * *", "", "x * * * *"),
    *("30 1 * * *", "30 2 * * *", "0 0 * * *", "0 * * * *", "15 1,2 * * *", "*/20 0-3 * * SUN", "1-2-3 * * * *"),
    *("1/2/3 * * * *", "5-1 * * * *", "08 09 * * *", "0  6 * * *", " 0 6 * * * ", "0 0 15,15W * *", "* 1 * * 0"),
]


async def raw_of_server(client: Client, text: str, zone: str) -> list[datetime] | None:
    """The server's own fires for this text, or None when it refuses."""
    try:
        async with asked(client, text, zone) as there:
            return await first(there, START, COUNT)
    except Refused:
        return None


async def first(there: Asked, start: datetime, count: int) -> list[datetime]:
    """The next fires, by looking farther and farther ahead."""
    for days in (1, 40, 800, 74 * 365):
        found = await there.between(start, start + timedelta(days=days))
        if len(found) >= count:
            break
    return found[:count]


@pytest.mark.parametrize("zone", ["Europe/London"])
async def test_we_know_what_the_server_makes_of_each_raw_text(temporal: Client, zone: str):
    assert len(RAW) >= 60
    wrong = {}
    for text in RAW:
        theirs = await raw_of_server(temporal, text, zone)
        ours = raw_reading(text, zone, START, COUNT)
        mine = None if ours.refused else list(ours.fires)
        if mine != theirs:
            wrong[text] = (ours.refused, mine and mine[:3], theirs and theirs[:3])

    assert wrong == {}


async def test_our_copy_of_the_matcher_says_what_the_server_says_around_clock_changes(temporal: Client):
    random, wrong, compared = Random(4), [], 0
    for zone in [*ZONES, "Europe/Paris", "Asia/Jerusalem", "Antarctica/Troll", "Atlantic/Azores", "Africa/Cairo"]:
        clock = clock_of(zone)
        changes = clock.changes(int(START.timestamp()), int(START.timestamp()) + 730 * 86_400)
        for text in ("30 1 * * *", "0 * * * *", "*/15 0-3 * * *", "0 0 * * 0", "15 2,23 * * 5", plain(random)):
            spec = raw_spec(text, zone)
            async with asked(temporal, spec) as there:
                for change in changes[:3]:
                    start, end = change.at - 30 * 3600 - 17, change.at + 30 * 3600
                    said = await there.between(*(datetime.fromtimestamp(at, UTC) for at in (start, end)))
                    ours = Matcher(spec, clock).between(start, end, most=1_000)
                    compared += len(ours)
                    if [int(at.timestamp()) for at in said] != ours:
                        wrong.append((zone, text, change.at))

    assert wrong == []
    assert compared > 3_000


def plain(random: Random) -> str:
    """A line that the server takes as it is."""
    while True:
        text = line(random)
        try:
            raw_spec(text, "UTC")
        except ServerRefuses:
            continue
        if len(text.split()) == 5 and not text.startswith("*"):
            return text


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/London", "Australia/Lord_Howe"])
async def test_a_translated_line_fires_on_the_server_when_the_line_says(temporal: Client, zone: str):
    tally = await compare(temporal, list(cases(seed=20261121, expressions=60, zones=[zone])))

    assert tally.mismatches == []
    assert tally.cases == 60
    assert tally.fires > 4_000
    assert tally.changes > 60
    assert sum(tally.refusals.values()) < 12
