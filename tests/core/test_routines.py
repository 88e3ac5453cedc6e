"""What a routine is: what it may say, what it may not, and the names that are made from it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from horarium.routines import AtTrigger, CronTrigger, EventTrigger, EveryTrigger, Retry, Routine, tick_id


def routine(**fields: Any) -> Routine:
    return Routine.model_validate({"name": "nightly", "agent": "triage", "input": "x"} | fields)


def refusal(**fields: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        routine(**fields)
    return "\n".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in refused.value.errors())


def test_each_trigger_is_known_by_the_field_that_only_it_has():
    made = routine(
        triggers={
            "mornings": {"cron": "0 6 * * 1-5", "time_zone": "Europe/London"},
            "often": {"every": "15m", "offset": "5m"},
            "once": {"at": "2026-12-01T10:00:00.5+01:00"},
            "opened": {"event": "github.issue.opened"},
        }
    )

    assert made.triggers == {
        "mornings": CronTrigger(cron="0 6 * * 1-5", time_zone="Europe/London"),
        "often": EveryTrigger(every=timedelta(minutes=15), offset=timedelta(minutes=5)),
        "once": AtTrigger(at=datetime(2026, 12, 1, 9, tzinfo=UTC)),
        "opened": EventTrigger(event="github.issue.opened"),
    }


@pytest.mark.parametrize(
    ("trigger", "said"),
    [
        ({}, "triggers.t: Value error, a trigger has exactly one of `cron`, `every`, `at` and `event`"),
        ({"cron": "* * * * *", "event": "x"}, "exactly one of"),
        ({"cron": "* * * * *", "offset": "5m"}, "triggers.t.offset: Extra inputs are not permitted"),
        ({"every": "1500ms"}, "`every` must be whole seconds"),
        ({"every": "0s"}, "triggers.t.every: Input should be greater than or equal to 1 second"),
        ({"every": "5m", "offset": "5m"}, "`offset` is not shorter than `every`"),
        ({"at": "2026-12-01T09:00:00"}, "triggers.t.at: Input should have timezone info"),
        ({"event": "with spaces"}, "triggers.t.event: String should match pattern"),
    ],
)
def test_a_trigger_that_says_nothing_clear_is_refused(trigger: dict[str, str], said: str):
    assert said in refusal(triggers={"t": trigger})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"retry": {"attempts": 3}}, "`retry` without `on_failure: retry` (it is alert)"),
        (
            {"on_failure": "retry", "retry": {"attempts": 1}},
            "retry.attempts: Input should be greater than or equal to 2",
        ),
        ({"start": "2026-12-01T00:00:00Z", "end": "2026-12-01T00:00:00Z"}, "`end` is not after `start`"),
        ({"timeout": "1h", "attempt_timeout": "2h"}, "`attempt_timeout` is longer than `timeout`"),
        ({"conversation": "continue", "overlap": "allow_all"}, "one conversation has one run at a time"),
        ({"jitter": "2h", "catch_up": "1h"}, "`jitter` is longer than `catch_up` (1h)"),
        ({"preapproved": [{"tool": "pay"}, {"tool": "pay"}]}, "`preapproved` has a tool twice"),
        ({"preapproved": [{"tool": "pay", "when": {"n": {"maxmum": 1}}}]}, "did you mean 'maximum'?"),
        ({"alert": ["https://example.com/hook"]}, "a secret is not written here"),
        ({"name": "with space"}, "name: Value error, a name has 1 to 63 letters"),
        ({"triggers": {"a.b": {"every": "1h"}}}, "a name has 1 to 63 letters"),
        ({"timout": "1h"}, "timout: Extra inputs are not permitted"),
        ({"timeout": 30}, "a duration needs a unit: '30s'?"),
    ],
)
def test_a_routine_that_could_not_be_kept_is_refused(fields: dict[str, Any], said: str):
    assert said in refusal(**fields)


def test_the_ladder_waits_longer_each_time_and_never_longer_than_it_may():
    ladder = Retry(attempts=6, first=timedelta(minutes=1), factor=3, most=timedelta(minutes=15))

    waits = [ladder.wait(failed) for failed in range(1, 6)]

    assert waits == [timedelta(minutes=minutes) for minutes in (1, 3, 9, 15, 15)]


@given(
    first=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=400)),
    most=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=400)),
    factor=st.floats(min_value=1, max_value=100),
    failed=st.integers(min_value=1, max_value=100),
)
def test_no_ladder_overflows(first: timedelta, most: timedelta, factor: float, failed: int):
    wait = Retry(first=first, most=most, factor=factor).wait(failed)

    assert timedelta(0) <= wait <= most


def test_only_on_failure_retry_has_a_ladder():
    assert routine().ladder is None
    assert routine(on_failure="retry").ladder == Retry()
    assert routine(on_failure="retry", retry={"attempts": 9}).ladder == Retry(attempts=9)


def test_its_runs_are_started_by_the_routine_or_by_whom_it_says():
    assert routine().starter == "routine:nightly"
    assert routine(requested_by="ana").starter == "ana"


def test_names_in_temporal_are_made_of_the_routine_and_the_nominal_time_in_utc():
    at = datetime.fromisoformat("2026-11-21T07:00:00.9+01:00")

    assert routine().schedule_id("mornings") == "routine.nightly.mornings"
    assert tick_id("nightly", at) == "routine.nightly-2026-11-21T06:00:00Z"


def test_equal_definitions_have_equal_digests_however_they_are_written():
    one = routine(triggers={"t": {"every": "60m"}}, timeout="1h")
    other = routine(triggers={"t": {"every": "1h", "offset": "0s"}})

    assert one.digest == other.digest
    assert one.digest != routine(triggers={"t": {"every": "2h"}}).digest


def test_a_definition_survives_the_ledger():
    made = routine(
        triggers={
            "a": {"cron": "0 6 * * *"},
            "b": {"at": "2026-12-01T09:00:00Z"},
            "c": {"every": "90s"},
            "d": {"event": "x"},
        },
        on_failure="retry",
        retry={"factor": 1.5},
        preapproved=[{"tool": "pay", "when": {"amount": {"maximum": 10}}}],
        start="2026-01-01T00:00:00+02:00",
    )

    assert Routine.model_validate(made.model_dump(mode="json")) == made
