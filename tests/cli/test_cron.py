"""`horarium cron explain`, as a person and as a script call it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from horarium.cli import app


def explain(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["cron", "explain", *arguments])


def explained(*arguments: str) -> Any:
    done = explain(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_line_is_told_in_words_with_its_fires_in_utc_and_on_the_wall():
    done = explain("0 6 * * 5#2", "--zone", "Europe/London", "--from", "2027-03-01", "--count", "2")

    assert done.exit_code == 0
    assert "At 06:00, on the second Friday of the month." in done.stdout
    assert "2027-03-12 06:00  Fri 2027-03-12 06:00 GMT" in done.stdout
    assert "2027-04-09 05:00  Fri 2027-04-09 06:00 BST  clocks went forward 1h on 2027-03-28" in done.stdout


def test_what_temporal_would_do_with_the_text_is_told():
    ignored = explain("0 6 * * 5#2", "--from", "2027-03-01T00:00Z").stdout
    refused = explain("0 0 L * *").stdout
    same = explain("0 6 * * 1-5").stdout

    assert "It would fire when it should not, first at 2027-03-05 06:00 UTC" in ignored
    assert "It refuses it: day of month: 'L' is nothing that it knows." in refused
    assert "It fires at the same times" in same


def test_a_fault_at_a_clock_change_months_away_is_told():
    done = explain("0 1 * * *", "--zone", "Europe/London", "--from", "2027-04-01", "--count", "2")

    assert "around the clock change of 2027-10-31" in done.stdout


def test_the_spec_that_is_used_is_told():
    done = explain("0 0 13 * 5", "--from", "2027-01-01T00:00Z")

    assert "2 calendars, right until 2032-01-01." in done.stdout
    assert "  00:00, day 13\n" in done.stdout
    assert "  00:00, weekday 5\n" in done.stdout


def test_marks_of_the_clock_are_on_the_fires():
    fires = explained("30 1 * * *", "--zone", "Europe/London", "--from", "2027-10-30T12:00Z", "--repeat", "both")[
        "fires"
    ]
    once = explained("30 1 * * *", "--zone", "Europe/London", "--from", "2027-10-30T12:00Z")["fires"]
    moved = explained("30 2 * * *", "--zone", "America/New_York", "--from", "2027-03-14", "--count", "1")["fires"]

    assert [fire["note"] for fire in fires[:2]] == [
        "the first time of two",
        "clocks went back 1h on 2027-10-31; the second time of two",
    ]
    assert once[0]["note"] == "the first time of two; not again"
    assert moved[0]["local"] == "2027-03-14T03:00:00-04:00"
    assert "does not exist" in moved[0]["note"]


def test_json_has_the_whole_spec_in_the_names_of_temporal():
    found = explained("30 1 * * *", "--zone", "Europe/London", "--from", "2027-01-01T00:00Z", "--gap", "skip")

    assert (found["zone"], found["gap"], found["one_shots"]) == ("Europe/London", "skip", 5)
    assert len(found["spec"]["interval"]) == 5
    assert found["spec"]["structuredCalendar"][0]["hour"] == [{"start": 1, "end": 1, "step": 1}]
    assert found["raw"]["refused"] is None
    assert found["raw"]["first_difference"].startswith("2027-10-31")


def test_a_line_with_h_wants_the_routine():
    without, with_name = explain("H 6 * * *"), explain("H 6 * * *", "--routine", "nightly-triage")

    assert without.exit_code == 2
    assert with_name.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["0 0 31 2 *"], "Write '0 0 L 2 *'."),
        (["0 0 * * *", "--zone", "Europe/Londn"], "did you mean 'Europe/London'?"),
        (["0 0 * * *", "--from", "soon"], "'soon' is no time"),
        (["0 0 * * *", "--repeat", "never"], "never"),
        (["* 1 * * * *", "--zone", "Europe/London"], "2,000 one-shots"),
    ],
)
def test_what_cannot_be_explained_is_refused_with_exit_code_2(arguments: list[str], said: str):
    done = explain(*arguments)

    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stdout == ""
