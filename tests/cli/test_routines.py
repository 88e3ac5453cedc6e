"""`horarium routine list`, `show`, `ticks` and `preview`, on a real ledger; Temporal is away."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from horarium.cli import app
from horarium.content import canonical
from horarium.contract import RunRequest, TickRequest
from horarium.definitions import Agent
from horarium.ids import approval_id, step_id
from horarium.ledger.agents import Agents
from horarium.ledger.approvals import Approvals, Asking
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Held, Journal, StepClaim
from horarium.ledger.lateness import Lateness, MissedFire
from horarium.ledger.routines import Routines
from horarium.ledger.runs import Runs
from horarium.ledger.ticks import Ticks
from horarium.protocol import ApprovalRequest, Call
from horarium.routines import Routine, tick_id
from horarium.settings import Settings
from horarium.tick_protocol import CloseTick, EndAttempt, OpenTick
from horarium.tools import Effect
from tests.support.stack import CHECKOUT

Horarium = Callable[..., Result]
SIX = datetime(2026, 11, 16, 6, tzinfo=UTC)  # a Monday
A_DAY = timedelta(days=1)
DONE, FAILED, PARKED = (f"run_01{letter * 24}" for letter in "ABC")
APPROVAL = approval_id(step_id(PARKED, 2))
NIGHTLY: dict[str, Any] = {
    "name": "nightly-triage",
    "agent": "clerk",
    "version": 1,
    "description": "Looks through what came in.",
    "input": "Triage.",
    "triggers": {
        "mornings": {"cron": "0 6 * * 1-5", "time_zone": "Europe/London"},
        "opened": {"event": "github.issue.opened"},
    },
    "on_failure": "retry",
    "retry": {"attempts": 3},
    "pause_after": 5,
    "catch_up": "9d",
    "late_after": "10m",
    "alert": ["${TEAMS_ALERT_URL}"],
    "labels": {"team": "support"},
}


@pytest.fixture
def horarium(project: Path) -> Horarium:
    asyncio.run(_fill(Settings.load(project)))
    return invoke


def invoke(*words: str, input: str | None = None) -> Result:
    result = CliRunner().invoke(app, ["routine", *words], input=input)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


class Filling:
    """Writes ticks into a ledger, as the engine does."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.ticks = ledger, Ticks(ledger)

    async def open(self, at: datetime, run: str | None = None, attempts: int = 1) -> str:
        tick = tick_id("nightly-triage", at)
        request = TickRequest(routine="nightly-triage", trigger="mornings")
        opened = at + timedelta(seconds=12)
        await self.ticks.open(OpenTick(tick=tick, execution=tick, request=request, scheduled_at=at, at=opened))
        if run is not None:
            asked = RunRequest(agent="clerk", input="Triage.", requested_by="routine:nightly-triage")
            record = await Runs(self.ledger).create(run, asked, key=None, request_digest="sha256:00", tick=tick)
            await Runs(self.ledger).open(run, record.thread_id, asked, 1)
            thread = record.thread_id
            await self.ticks.attempt_opened(tick, attempts, run=run, thread=thread, input="Triage.", keep_thread=False)
        return tick

    async def close(self, tick: str, status: Any, at: datetime, message: str | None = None) -> None:
        await self.ticks.close(CloseTick(tick=tick, status=status, code=message and "failed", message=message, at=at))


async def _fill(settings: Settings) -> None:
    ledger = await Ledger.open(settings)
    try:
        await Agents(ledger).register(Agent("clerk", model="scripted:turns.yaml"))
        rows = Routines(ledger)
        long_ago = SIX - 30 * A_DAY
        record, _ = await rows.put(Routine.model_validate(NIGHTLY), by="ana", at=long_ago, managed_by="files")
        await rows.applied(record.name, record.generation, None, record.routine.timed)
        weekly = {"name": "weekly", "agent": "clerk", "input": "Sum up.", "triggers": {"main": {"every": "7d"}}}
        await rows.put(Routine.model_validate(weekly), by="ben", at=long_ago)
        await rows.pause("weekly", note="holi\u202edays", until=None, by="ben", at=long_ago)
        await _history(ledger)
    finally:
        await ledger.close()


async def _history(ledger: Ledger) -> None:
    filling = Filling(ledger)
    done = await filling.open(SIX, DONE, attempts=2)
    await filling.close(done, "completed", SIX + timedelta(minutes=12))
    failed = await filling.open(SIX + A_DAY, FAILED, attempts=3)
    claim = StepClaim(FAILED, 1, "tool_call", "read_log", Effect.READ, arguments="{}")
    held = await Journal(ledger).claim(claim)
    assert isinstance(held, Held)
    await Journal(ledger).settle(held, "failed", "", code="tool_error", message="The archive is away.")
    await filling.close(failed, "failed", SIX + A_DAY + timedelta(minutes=3), "read_log: The archive is away.")
    await filling.open(SIX + 2 * A_DAY, PARKED)
    call = Call(id="c1", tool="pay", digest="sha256:" + "ab" * 32, key="k", source="s", effect=Effect.EXTERNAL)
    request = ApprovalRequest(id=APPROVAL, number=1, guards=2, call=call)
    asking = Asking(request=request, arguments=canonical({"amount": 12}))
    await Approvals(ledger).ask(PARKED, "default", "clerk", [asking], datetime.now(UTC))
    await filling.ticks.parked(PARKED, parked=True, at=datetime.now(UTC))
    await filling.open(SIX + 3 * A_DAY)
    late = SIX + 4 * A_DAY
    missed = MissedFire(tick_id("nightly-triage", late), "mornings", late, "no_worker", "No worker was up.")
    await Lateness(ledger).miss(await Routines(ledger).get("nightly-triage"), [missed], late)


def lines(result: Result) -> list[str]:
    return [line.rstrip() for line in result.stdout.splitlines()]


# ---- list


def test_the_list_says_what_sets_each_off_when_next_and_how_it_stands(horarium: Horarium) -> None:
    result = horarium("list")

    header, nightly, weekly = lines(result)
    assert result.exit_code == 0
    assert header.split() == ["ROUTINE", "NEXT", "LATEST", "TICK", "STATE", "DETAILS"]
    assert nightly.startswith("nightly-triage  ")
    assert "06:00 GMT" in nightly or "06:00 BST" in nightly
    assert "missed" in nightly
    assert "1 failure" in nightly
    assert "clerk@1: At 06:00, Monday through Friday (Europe/London); On the event github.issue.opened" in nightly
    assert weekly.split()[:4] == ["weekly", "-", "never", "paused,"]
    assert "not in Temporal yet" in weekly


def test_the_list_can_be_of_those_that_fail_or_are_paused(horarium: Horarium) -> None:
    failing, paused, both = horarium("list", "--failing"), horarium("list", "--paused"), horarium("list", "--json")

    assert [line.split()[0] for line in lines(failing)[1:]] == ["nightly-triage"]
    assert [line.split()[0] for line in lines(paused)[1:]] == ["weekly"]
    rows = [json.loads(line) for line in both.stdout.splitlines()]
    assert [(row["routine"], row["paused"], row["failures"]) for row in rows] == [
        ("nightly-triage", False, 1),
        ("weekly", True, 0),
    ]
    assert rows[0]["latest_tick"]["status"] == "missed"
    assert rows[1]["next_fire"] is None


def test_without_routines_the_list_says_how_to_have_one(project: Path) -> None:
    result = invoke("list")

    assert (result.exit_code, result.stdout) == (0, "")
    assert "horarium apply" in result.stderr


def test_nothing_is_wider_than_a_terminal_and_what_is_long_stands_below(horarium: Horarium, project: Path) -> None:
    shown = {words: on_a_terminal(project, *words.split(), columns=80) for words in ("list", "ticks nightly-triage")}

    for text in shown.values():
        assert max(map(len, text.splitlines())) <= 80
    assert "\n    clerk@1: At 06:00, Monday through Friday (Europe/London);" in shown["list"]
    assert f"\n    waits for approval {APPROVAL} (pay)\n    {PARKED}\n" in shown["ticks nightly-triage"]


def on_a_terminal(project: Path, *words: str, columns: int) -> str:
    """What a person sees, without colours."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-c", "import horarium.cli; horarium.cli.main()", "routine", *words]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "TERM": "dumb"}
    child = subprocess.Popen(command, cwd=project, env=environment, stdout=other, stderr=subprocess.DEVNULL)
    os.close(other)
    said = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while some := os.read(main, 65_536):
            said += some
    os.close(main)
    assert child.wait(30) == 0
    return said.decode().replace("\r\n", "\n")


# ---- show


def test_a_routine_is_shown_with_its_policy_in_sentences(horarium: Horarium) -> None:
    result = horarium("show", "nightly-triage", "--zone", "America/New_York")

    shown = result.stdout
    assert result.exit_code == 0
    assert "Looks through what came in." in shown
    assert "mornings  At 06:00, Monday through Friday (Europe/London)" in shown
    assert (
        "goes on at its last settled step: 3 attempts in all, waiting 1m, 3m. "
        "Then: one alert to ${TEAMS_ALERT_URL}, and one when it works again." in shown
    )
    assert "After 5 failed ticks in a row it is paused, with an alert." in shown
    assert "While a tick is not done, others are skipped." in shown
    assert "ticks up to 9d late still run" in shown
    assert "not begun 10m after its time" in shown
    assert f"is parked: waits for approval {APPROVAL} (pay)" in shown
    assert "last      failed" in shown
    assert "at step 1 (read_log): The archive is away. Retried 2 times." in shown
    assert f"Answer: horarium approvals show {APPROVAL}" in result.stderr


def test_the_next_fires_are_shown_in_the_routines_zone_and_the_viewers(horarium: Horarium) -> None:
    shown = lines(horarium("show", "nightly-triage", "--zone", "America/New_York"))

    at = shown.index("Next fires")
    assert shown[at + 1].split() == ["EUROPE/LONDON", "AMERICA/NEW_YORK", "TRIGGER"]
    fires = [line.split() for line in shown[at + 2 : at + 7]]
    assert all(fire[2] == "06:00" and fire[6] in ("01:00", "02:00") for fire in fires)


def test_a_paused_routine_says_who_why_and_how_it_goes_on(horarium: Horarium) -> None:
    result = horarium("show", "weekly")

    assert "paused    by ben: holi<U+202E>days" in result.stdout
    assert "None: it is paused." in result.stdout
    assert "Alerts have no address" in result.stdout
    assert "horarium routine resume weekly" in result.stderr


def test_a_name_that_is_none_is_answered_with_the_near_miss(horarium: Horarium) -> None:
    for command in ("show", "ticks", "preview"):
        result = horarium(command, "nightly-triag")

        assert result.exit_code == 2
        assert "did you mean 'nightly-triage'?" in result.stderr
        assert "horarium routine list" in result.stderr


def test_a_zone_that_is_none_is_answered_with_the_near_miss(horarium: Horarium) -> None:
    result = horarium("show", "nightly-triage", "--zone", "Europe/Londn")

    assert result.exit_code == 2
    assert "did you mean 'Europe/London'?" in result.stderr


# ---- ticks


def test_each_tick_says_what_happened_and_why(horarium: Horarium) -> None:
    result = horarium("ticks", "nightly-triage")

    missed, skipped, parked, failed, completed = lines(result)[1:]
    assert "Times in Europe/London." in result.stderr
    assert missed.startswith("Fri 2026-11-20 06:00  mornings  missed")
    assert missed.endswith("No worker was up.")
    assert "the tick of 2026-11-18 06:00:00 UTC was not done (parked)" in skipped
    assert f"waits for approval {APPROVAL} (pay); {PARKED}" in parked
    assert "failed" in failed
    assert "at step 1 (read_log): The archive is away. Retried 2 times." in failed
    assert completed.split()[:8] == ["Mon", "2026-11-16", "06:00", "mornings", "completed", "06:00:12", "12.0s", "2"]
    assert f"retried once; {DONE}" in completed


def test_ticks_can_be_of_some_statuses_and_a_wrong_one_is_answered_with_the_near_miss(horarium: Horarium) -> None:
    found = horarium("ticks", "nightly-triage", "--status", "failed", "--status", "missed", "--json")
    wrong = horarium("ticks", "nightly-triage", "--status", "skiped")

    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert [row["status"] for row in rows] == ["missed", "failed"]
    assert rows[1]["failed_step"] == {"number": 1, "name": "read_log", "code": "tool_error"}
    assert (rows[1]["run"], rows[1]["attempts"], rows[1]["lateness_seconds"]) == (FAILED, 3, 12.0)
    assert wrong.exit_code == 2
    assert "did you mean 'skipped'?" in wrong.stderr


def test_a_tick_between_two_attempts_says_where_on_the_ladder_it_is(horarium: Horarium, project: Path) -> None:
    async def a_failed_attempt() -> None:
        ledger = await Ledger.open(Settings.load(project))
        then = SIX + 2 * A_DAY + timedelta(minutes=3)
        await Ticks(ledger).attempt_ended(
            EndAttempt(
                tick=tick_id("nightly-triage", SIX + 2 * A_DAY),
                number=1,
                code="tool_error",
                message="It broke.",
                next_try_at=then,
                at=then,
            )
        )
        await ledger.close()

    asyncio.run(a_failed_attempt())

    said = "attempt 1 of 3 failed: It broke. The next one: Wed 2026-11-18 06:03 GMT."
    assert said in horarium("ticks", "nightly-triage").stdout
    assert said in horarium("show", "nightly-triage").stdout


# ---- preview


def test_a_file_is_previewed_before_anything_is_saved_and_without_a_server(project: Path) -> None:
    file = project / "night.yaml"
    file.write_text(
        "name: night\nagent: clerk\ninput: Go.\ntriggers: {t: {cron: '30 1 * * *', time_zone: Europe/London}}\n"
    )

    result = invoke("preview", "night.yaml", "--from", "2027-10-29T00:00Z", "--days", "4", "--takes", "20m")

    assert result.exit_code == 0
    assert "t: At 01:30 (Europe/London)" in result.stdout
    fires = [line for line in lines(result) if " runs, " in line]
    assert [fire[:24] for fire in fires] == [
        "Fri 2027-10-29 01:30 BST",
        "Sat 2027-10-30 01:30 BST",
        "Sun 2027-10-31 01:30 BST",
        "Mon 2027-11-01 01:30 GMT",
    ]
    assert fires[2].endswith("the first time of two; not again")
    assert fires[3].endswith("clocks went back 1h on 2027-10-31")
    assert "4 fires: 4 run, until Tue 2027-11-02 00:00 GMT." in result.stdout


def test_an_outage_shows_what_is_missed_what_comes_late_and_what_overlap_does(
    horarium: Horarium, project: Path
) -> None:
    file = project / "hourly.yaml"
    file.write_text(
        "name: hourly\nagent: clerk\ninput: Go.\ncatch_up: 90m\noverlap: buffer_one\ntriggers: {t: {every: 30m}}\n"
    )
    start = ["--from", "2027-01-05T00:00Z", "--days", "0.18", "--takes", "20m"]
    outage = ["--outage", "130m", "--outage-at", "2027-01-05T00:15", "--zone", "Etc/UTC"]

    shown = invoke("preview", "hourly.yaml", *start, *outage)
    found = json.loads(invoke("preview", "hourly.yaml", *start, *outage, "--json").stdout)

    assert "Everything is down for 2h 10m: Tue 2027-01-05 00:15 UTC to Tue 2027-01-05 02:25 UTC." in shown.stdout
    assert [line[25:].strip() for line in lines(shown) if line.startswith("Tue ")] == [
        "runs, fails at 02:25: `timeout` is 1h",
        "missed: 1h 55m late, and `catch_up` is 1h 30m",
        "runs late by 1h 25m, 02:25 to 02:45",
        "skipped: the tick of 01:00 waits already",
        "skipped: the tick of 01:00 waits already",
        "waits, runs 02:45 to 03:05",
        "waits, runs 03:05 to 03:25",
        "runs, until 03:50",
        "runs, until 04:20",
    ]
    assert [(fire["fate"], fire["ending"]) for fire in found["fires"][:3]] == [
        ("runs", "timeout"),
        ("missed", None),
        ("runs", "done"),
    ]
    assert found["takes_seconds"] == 1200


def test_what_is_deployed_is_previewed_with_the_time_that_its_ticks_took(horarium: Horarium) -> None:
    found = horarium("preview", "nightly-triage", "--from", "2027-01-04T00:00Z")
    paused = horarium("preview", "weekly")

    assert "nightly-triage, as deployed" in found.stdout
    assert "Each tick is taken to take 7m 18s (the middle of the last 2; the longest took 11m 48s)." in found.stdout
    assert "A tick is parked now" in found.stdout
    assert "runs, until 06:07:18" in found.stdout
    assert "Not reckoned: ticks that events set off (opened)." in found.stdout
    assert "It is paused; below is what it would do if it were not." in paused.stdout


def test_a_time_after_the_clock_went_back_is_not_taken_for_an_earlier_one(project: Path) -> None:
    (project / "night.yaml").write_text(
        "name: night\nagent: clerk\ninput: Go.\ntriggers: {t: {cron: '30 1 * * *', time_zone: Europe/London}}\n"
    )

    shown = invoke("preview", "night.yaml", "--from", "2027-10-31T00:00Z", "--days", "1", "--takes", "40m").stdout

    assert "Sun 2027-10-31 01:30 BST  runs, until 01:10 GMT" in shown


def test_many_fires_that_are_alike_are_one_line(project: Path) -> None:
    (project / "often.yaml").write_text("name: often\nagent: clerk\ninput: Go.\ntriggers: {t: {every: 5m}}\n")

    shown = lines(invoke("preview", "often.yaml", "--from", "2027-01-05T00:00Z", "--days", "1"))

    assert [line.split("  ")[-1].strip() for line in shown if line.startswith(("Tue", "…"))] == [
        "runs, until 00:00:30",
        "286 more like these",
        "runs, until 23:55:30",
    ]


@pytest.mark.parametrize(
    ("arguments", "said", "try_this"),
    [
        (["--from", "2027-01-05T00:00"], "has no time zone", "Write 2027-01-05T00:00Z, or add --zone"),
        (["--from", "soon"], "'soon' is no time", "Write it like 2026-12-01T09:00Z."),
        (["--from", "2027-03-28T01:30", "--zone", "Europe/London"], "does not exist in Europe/London", "+01:00"),
        (["--from", "2027-10-31T01:30", "--zone", "Europe/London"], "comes twice in Europe/London", "+01:00"),
        (["--takes", "40"], "--takes: '40' is no duration", "30s, 15m"),
        (["--outage-at", "2027-01-05T00:00Z"], "--outage is missing", "--outage 2h"),
    ],
)
def test_what_was_typed_wrong_is_told_with_what_to_write(
    horarium: Horarium, arguments: list[str], said: str, try_this: str
) -> None:
    result = horarium("preview", "nightly-triage", *arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert try_this in result.stderr


def test_a_wrong_file_is_told_with_its_line(project: Path) -> None:
    (project / "wrong.yaml").write_text("name: wrong\nagent: clerk\ninput: Go.\ntime_out: 5m\n")

    wrong, absent = invoke("preview", "wrong.yaml"), invoke("preview", "absent.yaml")

    assert (wrong.exit_code, absent.exit_code) == (2, 2)
    assert "wrong.yaml:4: time_out: unknown field; did you mean 'timeout'?" in wrong.stderr
    assert "There is no 'absent.yaml'" in absent.stderr
