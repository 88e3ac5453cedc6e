"""A trigger becomes a schedule that the real server fires at exactly the times that the trigger means."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.workflowservice.v1 import ListScheduleMatchingTimesRequest
from temporalio.client import Client as TemporalClient
from temporalio.service import RPCError

from horarium.errors import ConfigError
from horarium.ledger.database import Ledger
from horarium.ledger.routines import Routines
from horarium.routines import Routine
from schedules import specs
from schedules.deploy import Deployment

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def a_routine(trigger: dict[str, Any], **more: Any) -> Routine:
    return Routine.model_validate(
        {"name": "triage", "agent": "clerk", "input": "Go.", "triggers": {"main": trigger}} | more
    )


async def fires_of_the_server(
    engine_temporal: TemporalClient, ledger: Ledger, routine: Routine, start: datetime, end: datetime
) -> list[datetime]:
    await Deployment(ledger, engine_temporal).put(routine, by="ana")
    request = ListScheduleMatchingTimesRequest(namespace=engine_temporal.namespace, schedule_id="routine.triage.main")
    for field, moment in ((request.start_time, start - timedelta(seconds=1)), (request.end_time, end)):
        stamp = Timestamp()
        stamp.FromDatetime(moment)
        field.CopyFrom(stamp)
    try:
        found = await engine_temporal.workflow_service.list_schedule_matching_times(request)
    except RPCError as error:
        raise AssertionError(error.message) from error
    return [stamp.ToDatetime(UTC) for stamp in found.start_time]


@pytest.mark.parametrize(
    ("trigger", "more"),
    [
        ({"cron": "0 6 * * 1-5", "time_zone": "Europe/London"}, {}),
        ({"cron": "30 1 * * *", "time_zone": "Europe/Paris"}, {}),
        ({"cron": "H 6 * * *"}, {}),
        ({"every": "90m", "offset": "7m"}, {}),
        ({"every": "1d"}, {"start": "2026-11-25T00:00:00Z", "end": "2026-11-28T00:00:00Z"}),
        ({"at": "2026-12-01T10:00:00+01:00"}, {}),
        ({"at": "2026-11-20T09:00:00Z"}, {}),
    ],
)
async def test_the_server_fires_when_the_trigger_means_it(
    engine_temporal: TemporalClient, ledger: Ledger, trigger: dict[str, Any], more: dict[str, Any]
) -> None:
    routine = a_routine(trigger, **more)
    end = NOON + timedelta(days=14)

    expected = list(specs.fires(routine, routine.triggers["main"], NOON, end))
    fired = await fires_of_the_server(engine_temporal, ledger, routine, NOON, end)

    assert fired == expected
    assert bool(expected) == (trigger.get("at") != "2026-11-20T09:00:00Z")


async def test_the_same_row_makes_the_same_schedules_on_another_day_of_reading(ledger: Ledger) -> None:
    rows = Routines(ledger)
    record, _ = await rows.put(
        a_routine({"cron": "30 2 * * *", "time_zone": "Europe/Paris"}), by="ana", at=NOON, managed_by="files"
    )
    since = specs.since_now(NOON)

    once, again = specs.schedules(record, since)["main"], specs.schedules(record, since)["main"]
    later = specs.schedules(record, since + timedelta(days=200))["main"]

    assert once == again
    assert once.schedule.spec != later.schedule.spec
    assert once.until is not None
    assert once.until - NOON > timedelta(days=4 * 365)


def test_an_event_has_no_schedule() -> None:
    routine = a_routine({"event": "github.issue.opened"})

    assert routine.timed == []
    with pytest.raises(ConfigError, match="has no schedule"):
        specs.timing(routine, routine.triggers["main"], NOON)


async def test_a_catch_up_that_is_shorter_than_the_server_takes_is_what_it_takes(
    engine_temporal: TemporalClient, ledger: Ledger
) -> None:
    await Deployment(ledger, engine_temporal).put(a_routine({"every": "1h"}, catch_up="1s"), by="ana")

    told = await engine_temporal.get_schedule_handle("routine.triage.main").describe()

    assert told.schedule.policy.catchup_window == timedelta(seconds=10)


def test_a_time_out_of_the_servers_reach_is_refused() -> None:
    routine = a_routine({"at": "2200-01-01T00:00:00Z"})

    with pytest.raises(ConfigError, match="2000 to 2100"):
        specs.timing(routine, routine.triggers["main"], NOON)


def test_fires_are_within_start_and_end_both_included() -> None:
    routine = a_routine({"every": "1h"}, start="2026-11-21T13:00:00Z", end="2026-11-21T15:00:00Z")

    found = list(specs.fires(routine, routine.triggers["main"], NOON, NOON + timedelta(days=1)))

    assert [at.hour for at in found] == [13, 14, 15]


def test_a_year_of_a_line_that_fires_each_second_is_read_as_far_as_it_is_needed() -> None:
    routine = a_routine({"cron": "* * * * * *"})
    found = specs.fires(routine, routine.triggers["main"], NOON, NOON + timedelta(days=365))

    assert [next(found).second for _ in range(3)] == [0, 1, 2]
