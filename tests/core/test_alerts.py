"""What is told of a routine: each event's exact words, to whom, how often, and what is never said."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select
from standardwebhooks import Webhook as Verifier
from temporalio.exceptions import ApplicationError

from activities.alerts import Alerter
from horarium.contract import TickRequest
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Journal
from horarium.ledger.lateness import Lateness, MissedFire
from horarium.ledger.routines import RoutineRecord, Routines
from horarium.ledger.schema import approvals, audit
from horarium.ledger.ticks import Ticks
from horarium.routines import Routine, tick_id
from horarium.secrets import conceal
from horarium.settings import ApprovalsSettings, RoutinesSettings, Settings, Webhook
from horarium.tick_protocol import Alert, AlertEvent, CloseTick, EndAttempt, OpenTick
from horarium.tools import Effect
from schedules.expected import next_fire
from tests.core.ledgers import held, open_run, step
from tests.support.addresses import Server, listening

WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"thirty-two bytes of no use at all").decode()
GATEWAY = "https://horarium.example.com"
SIX = datetime(2026, 11, 23, 5, tzinfo=UTC)  # a Monday, 6 o'clock in Berlin
A_DAY = timedelta(days=1)
NewAlerter = Callable[..., Alerter]


@pytest.fixture
def server() -> Iterator[Server]:
    with listening() as server:
        yield server


@pytest.fixture
def address(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A reference to an address, which is named by its path on the server."""

    def reference(path: str) -> str:
        name = f"ADDRESS_{secrets.token_hex(4)}"
        monkeypatch.setenv(name, path if "://" in path else f"json://127.0.0.1:{server.port}{path}")
        return f"${{{name}}}"

    return reference


@pytest.fixture
def alerter(
    ledger: Ledger,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: Callable[[str], str],
) -> NewAlerter:
    def make(
        *, alert: tuple[str, ...] = ("/team",), webhooks: tuple[str, ...] = (), now: datetime = SIX + timedelta(hours=1)
    ) -> Alerter:
        monkeypatch.setenv("WEBHOOK_SECRET", WEBHOOK_SECRET)
        hooks = tuple(
            Webhook(url=f"http://127.0.0.1:{server.port}{path}", secret="${WEBHOOK_SECRET}") for path in webhooks
        )
        settings = Settings(
            root=tmp_path,
            approvals=ApprovalsSettings(links=GATEWAY),
            routines=RoutinesSettings(alert=tuple(map(address, alert)), webhooks=hooks),
        )
        return Alerter(ledger, settings, next_fire, lambda: now)

    return make


async def put(ledger: Ledger, **fields: Any) -> RoutineRecord:
    """A routine for each morning at 6 in Berlin, that nobody else has."""
    definition = {
        "name": f"triage-{secrets.token_hex(4)}",
        "agent": "clerk",
        "input": "Triage.",
        "triggers": {"mornings": {"cron": "0 6 * * *", "time_zone": "Europe/Berlin"}},
        "late_after": "10m",
        **fields,
    }
    at = SIX - 7 * A_DAY
    return (await Routines(ledger).put(Routine.model_validate(definition), by="mia", at=at))[0]


async def begin(ledger: Ledger, routine: RoutineRecord, at: datetime = SIX, *, attempt: int = 1) -> tuple[str, str]:
    """A tick that runs, and its run."""
    tick, book = tick_id(routine.name, at), Ticks(ledger, max_running=10_000)
    request = TickRequest(routine=routine.name, trigger="mornings")
    opened = at + timedelta(seconds=1)
    await book.open(OpenTick(tick=tick, execution=tick, request=request, scheduled_at=at, at=opened))
    run = await open_run(ledger)
    await book.attempt_opened(tick, attempt, run=run, thread="thr_x", input="Triage.", keep_thread=False)
    return tick, run


async def fails_at(ledger: Ledger, run: str, message: str, *, code: str = "tool_failed") -> None:
    """A tool call of a run that failed for good, after one that was done."""
    journal = Journal(ledger)
    await journal.settle(await held(journal, step(run, 2)), "completed", "looked")
    call = step(run, 4, Effect.READ)
    await journal.settle(await held(journal, call), "failed", "", code=code, message=message)


async def close(ledger: Ledger, tick: str, status: Any, message: str | None = None, *, took: float = 25) -> list[Alert]:
    """End a tick some minutes after its scheduled time; what people are told of."""
    at = datetime.strptime(tick[-20:], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) + timedelta(minutes=took)
    code = "tool_failed" if status == "failed" else None
    closing = CloseTick(tick=tick, status=status, code=code, message=message, at=at)
    return list((await Ticks(ledger).close(closing)).alerts)


async def ask(ledger: Ledger, run: str, kind: str) -> str:
    """A question to people about a call of a run, five minutes past six."""
    question = f"apr_{secrets.token_hex(8)}"
    row = {
        **{"id": question, "kind": kind, "run_id": run, "tenant": "default", "agent": "clerk", "step": 3},
        **{"guards": 2, "tool": "pay", "effect": "external", "digest": "sha256:x", "arguments": "{}"},
        **{"rule": "default", "approvers": [], "not_by": [], "required": 1, "status": "pending"},
        "requested_at": SIX + timedelta(minutes=5),
    }
    async with ledger.write() as connection:
        await connection.execute(insert(approvals).values(**row))
    return question


def about(routine: RoutineRecord, event: AlertEvent, tick: str, at: datetime) -> Alert:
    return Alert(event=event, routine=routine.name, tick=tick, occurrence=tick, at=at)


def said(server: Server, path: str = "/team") -> tuple[str, str]:
    """The one message that came."""
    [message] = server.messages(path)
    return message["title"], message["message"]


# ---- what is said


async def test_a_failure_says_what_failed_at_which_step_which_attempt_and_the_next_try(
    ledger: Ledger, alerter: NewAlerter, server: Server
) -> None:
    routine = await put(ledger, on_failure="retry")
    tick, run = await begin(ledger, routine, attempt=3)
    await fails_at(ledger, run, "HTTP 503:\nthe tracker is down\u202e.")
    [alert] = await close(ledger, tick, "failed", "The tool look failed 3 times.")

    await alerter().send_alert(alert)

    name = routine.name
    assert said(server) == (
        f"Failed: routine {name}",
        f"""\
The routine {name} failed: The tool look failed 3 times.
It is not said again until it has worked once.

Tick: 2026-11-23 06:00 Europe/Berlin (05:00 UTC), trigger mornings
Agent: clerk
Attempt: 3 of 3, {run}
Step: 4, the tool look: tool_failed: HTTP 503: the tracker is down<U+202E>.
Took: 24m 59s

Next try: 2026-11-24 06:00 Europe/Berlin (05:00 UTC)

See it here: {GATEWAY}/routines/{name}
All its ticks: horarium routine ticks {name}
What it did: horarium runs show {run}""",
    )


async def test_a_recovery_says_how_often_it_had_failed_and_since_when(
    ledger: Ledger, alerter: NewAlerter, server: Server
) -> None:
    routine = await put(ledger)
    for day in range(3):
        tick, _ = await begin(ledger, routine, SIX + day * A_DAY)
        await close(ledger, tick, "failed", "No.")
    tick, run = await begin(ledger, routine, SIX + 3 * A_DAY)
    [alert] = await close(ledger, tick, "completed", took=2)

    await alerter(now=alert.at).send_alert(alert)

    name = routine.name
    assert said(server) == (
        f"Works again: routine {name}",
        f"""\
The routine {name} works again.
3 ticks in a row had failed, from 2026-11-23 06:00 Europe/Berlin (05:00 UTC) on.

Tick: 2026-11-26 06:00 Europe/Berlin (05:00 UTC), trigger mornings
Agent: clerk
Attempt: 1 of 1, {run}
Took: 1m 59s

Next fire: 2026-11-27 06:00 Europe/Berlin (05:00 UTC)

See it here: {GATEWAY}/routines/{name}
All its ticks: horarium routine ticks {name}
What it did: horarium runs show {run}""",
    )


async def test_a_pause_says_after_how_many_failures_and_how_to_go_on(
    ledger: Ledger, alerter: NewAlerter, server: Server
) -> None:
    routine = await put(ledger, pause_after=2)
    first, _ = await begin(ledger, routine)
    await close(ledger, first, "failed", "No.")
    tick, run = await begin(ledger, routine, SIX + A_DAY)
    await fails_at(ledger, run, "The disk is full.", code="internal")
    [alert] = await close(ledger, tick, "failed", "The disk is full.")

    await alerter().send_alert(alert)

    name = routine.name
    assert said(server) == (
        f"Paused after 2 failed ticks: routine {name}",
        f"""\
The routine {name} is paused after 2 failed ticks in a row: no trigger fires now.
The last one: The disk is full.

Tick: 2026-11-24 06:00 Europe/Berlin (05:00 UTC), trigger mornings
Agent: clerk
Attempt: 1 of 1, {run}
Step: 4, the tool look: internal: The disk is full.
Took: 24m 59s
Failed in a row: 2, from 2026-11-23 06:00 Europe/Berlin (05:00 UTC) on

Next try: none, the routine is paused. Go on with: horarium routine resume {name}

See it here: {GATEWAY}/routines/{name}
All its ticks: horarium routine ticks {name}
What it did: horarium runs show {run}""",
    )


async def test_a_fire_that_did_not_come_says_why_and_whether_it_may_still(
    ledger: Ledger, alerter: NewAlerter, server: Server
) -> None:
    routine = await put(ledger)
    at = SIX + timedelta(minutes=11)
    tick = tick_id(routine.name, SIX)
    missed = MissedFire(tick, "mornings", SIX, "engine_down", "The engine was down.")
    await Lateness(ledger).miss(routine, [missed], at)

    await alerter().send_alert(about(routine, "not_fired", tick, at))

    name = routine.name
    assert said(server) == (
        f"Not fired in time: routine {name}",
        f"""\
The routine {name} did not fire in time.

- 2026-11-23 06:00 Europe/Berlin (05:00 UTC), trigger mornings: The engine was down. \
It may still begin until 2026-11-23 06:00 UTC (`catch_up`).

Next fire: 2026-11-24 06:00 Europe/Berlin (05:00 UTC)

See it here: {GATEWAY}/routines/{name}
All its ticks: horarium routine ticks {name}""",
    )


async def test_fires_that_one_outage_swallowed_are_counted_and_listed_in_one_message(
    ledger: Ledger, alerter: NewAlerter, server: Server
) -> None:
    routine = await put(ledger, triggers={"often": {"every": "1h"}}, catch_up="30m")
    fires = [SIX + timedelta(hours=hour) for hour in range(14)]
    at = fires[-1] + timedelta(minutes=31)
    missed = [MissedFire(tick_id(routine.name, fire), "often", fire, "engine_down", "It was down.") for fire in fires]
    await Lateness(ledger).miss(routine, missed[:12], at)
    late = Ticks(ledger, max_running=10_000)
    for fire in fires[12:]:
        opening = OpenTick(
            tick=tick_id(routine.name, fire),
            execution="it",
            request=TickRequest(routine=routine.name, trigger="often"),
            scheduled_at=fire,
            at=fire + timedelta(minutes=20),
        )
        await late.open(opening)

    await alerter(now=at).send_alert(about(routine, "not_fired", missed[0].id, at))

    title, body = said(server)
    assert title == f"14 fires missed or late: routine {routine.name}"
    lines = body.splitlines()
    assert lines[0] == f"14 fires of the routine {routine.name} were missed or came late:"
    assert lines[2] == "- 2026-11-23 05:00 UTC, trigger often: It was down."
    assert lines[3] == "- 2026-11-23 06:00 UTC, trigger often: the same"
    assert lines[12] == "- and 4 more, the last at 2026-11-23 18:00 UTC"
    assert "Next fire: 2026-11-23 19:00 UTC" in lines


async def test_a_tick_that_came_late_is_said_to_have_come(ledger: Ledger, alerter: NewAlerter, server: Server) -> None:
    routine = await put(ledger)
    tick = tick_id(routine.name, SIX)
    request = TickRequest(routine=routine.name, trigger="mornings")
    opened = SIX + timedelta(minutes=42)
    await Ticks(ledger).open(OpenTick(tick=tick, execution="it", request=request, scheduled_at=SIX, at=opened))

    await alerter().send_alert(about(routine, "not_fired", tick, opened))

    _, body = said(server)
    assert "- 2026-11-23 06:00 Europe/Berlin (05:00 UTC), trigger mornings: it began 42m late\n" in body


async def test_a_tick_that_is_not_done_says_which_approval_it_waits_for(
    ledger: Ledger, alerter: NewAlerter, server: Server
) -> None:
    routine = await put(ledger, timeout="30m")
    tick, run = await begin(ledger, routine)
    question = await ask(ledger, run, "approval")

    await alerter().send_alert(about(routine, "not_finished", tick, SIX + timedelta(minutes=41)))

    name = routine.name
    assert said(server) == (
        f"Not finished in time: routine {name}",
        f"""\
A tick of the routine {name} is not done after 40m 59s.
It has 30m (`timeout`), and 10m more (`late_after`). It goes on.
It waits for an approval of pay, asked at 2026-11-23 05:05 UTC: horarium approvals show {question}

Tick: 2026-11-23 06:00 Europe/Berlin (05:00 UTC), trigger mornings
Agent: clerk
Attempt: 1 of 1, {run}
Took: 40m 59s

Next fire: 2026-11-24 06:00 Europe/Berlin (05:00 UTC)

See it here: {GATEWAY}/routines/{name}
All its ticks: horarium routine ticks {name}
What it did: horarium runs show {run}""",
    )


async def test_a_tick_that_only_a_person_can_help_on_says_with_what(
    ledger: Ledger, alerter: NewAlerter, server: Server
) -> None:
    routine = await put(ledger, unattended="deny")
    tick, run = await begin(ledger, routine)
    question = await ask(ledger, run, "unknown_outcome")

    await alerter().send_alert(about(routine, "parked", tick, SIX + timedelta(minutes=5)))

    title, body = said(server)
    assert title == f"Waits for a person: routine {routine.name}"
    assert body.startswith(f"""\
A tick of the routine {routine.name} cannot go on without a person, though it is `unattended: deny`.
It waits for an answer of pay, asked at 2026-11-23 05:05 UTC: horarium approvals show {question}

Tick: """)


async def test_a_tick_that_waits_for_its_next_attempt_says_when_that_is(
    ledger: Ledger, alerter: NewAlerter, server: Server
) -> None:
    routine = await put(ledger, on_failure="retry")
    tick, _ = await begin(ledger, routine)
    at = SIX + timedelta(minutes=75)
    ending = EndAttempt(
        tick=tick, number=1, code="x", message="No.", next_try_at=SIX + timedelta(minutes=80, seconds=5), at=at
    )
    await Ticks(ledger).attempt_ended(ending)

    await alerter().send_alert(about(routine, "not_finished", tick, at))

    _, body = said(server)
    assert "Next try: the next attempt, 2026-11-23 07:20:05 Europe/Berlin (06:20:05 UTC)" in body


# ---- programs


async def test_a_webhook_is_signed_and_names_event_tick_step_and_next_try(
    ledger: Ledger, alerter: NewAlerter, server: Server
) -> None:
    routine = await put(ledger, labels={"team": "ops"})
    tick, run = await begin(ledger, routine)
    await fails_at(ledger, run, "HTTP 503")
    [alert] = await close(ledger, tick, "failed", "It failed.")

    now = datetime.now(UTC)  # a receiver refuses what is signed for another time
    await alerter(alert=(), webhooks=("/hook",), now=now).send_alert(alert)

    [request] = server.at("/hook")
    body = Verifier(WEBHOOK_SECRET).verify(request.body, request.headers)
    data = body["data"]
    assert (body["type"], body["timestamp"]) == ("routine.failed", "2026-11-23T05:25:00+00:00")
    assert (data["routine"], data["agent"], data["labels"]) == (routine.name, "clerk", {"team": "ops"})
    assert (data["tick"]["id"], data["tick"]["run"], data["tick"]["message"]) == (tick, run, "It failed.")
    assert (data["step"]["number"], data["step"]["name"], data["step"]["message"]) == (4, "look", "HTTP 503")
    coming = next_fire(routine.routine, now)
    assert coming is not None
    assert (data["next_try_at"], data["link"]) == (coming.isoformat(), f"{GATEWAY}/routines/{routine.name}")


@pytest.mark.parametrize("event", ["failed", "recovered", "not_fired", "not_finished", "parked", "paused"])
async def test_each_event_has_a_type_of_its_own(
    ledger: Ledger, alerter: NewAlerter, server: Server, event: AlertEvent
) -> None:
    routine = await put(ledger)
    tick, _ = await begin(ledger, routine)

    await alerter(alert=(), webhooks=("/hook",)).send_alert(about(routine, event, tick, SIX))

    assert server.messages("/hook")[0]["type"] == f"routine.{event}"


# ---- to whom, how often


async def test_a_routines_own_addresses_are_told_besides_those_of_all(
    ledger: Ledger, alerter: NewAlerter, server: Server, address: Callable[[str], str]
) -> None:
    routine = await put(ledger, alert=[address("/own")])
    other = await put(ledger)

    for record in (routine, other):
        tick, _ = await begin(ledger, record)
        for alert in await close(ledger, tick, "failed", "No."):
            await alerter().send_alert(alert)

    assert [request.path for request in server.requests].count("/own") == 1
    assert len(server.at("/team")) == 2


async def test_an_occurrence_is_told_once_and_a_repeated_attempt_sends_only_what_is_missing(
    ledger: Ledger, alerter: NewAlerter, server: Server
) -> None:
    routine = await put(ledger)
    tick, _ = await begin(ledger, routine)
    [alert] = await close(ledger, tick, "failed", "No.")
    telling = alerter(alert=("/one", "/two"), webhooks=("/hook",))
    server.answers["/two"] = 500

    with pytest.raises(ApplicationError, match=r"1 of 3 addresses were not told: routines.alert 2"):
        await telling.send_alert(alert)
    server.answers.clear()
    await telling.send_alert(alert)
    await telling.send_alert(alert)
    await telling.send_alert(alert.model_copy(update={"occurrence": "another"}))

    assert {path: len(server.at(path)) for path in ("/one", "/two", "/hook")} == {"/one": 2, "/two": 3, "/hook": 2}


async def test_a_routine_without_addresses_fails_quietly(ledger: Ledger, alerter: NewAlerter, server: Server) -> None:
    routine = await put(ledger)
    tick, _ = await begin(ledger, routine)
    [alert] = await close(ledger, tick, "failed", "No.")

    await alerter(alert=()).send_alert(alert)

    assert server.requests == []


async def test_that_somebody_could_not_be_told_is_in_the_audit_trail_once(
    ledger: Ledger, alerter: NewAlerter, server: Server
) -> None:
    routine = await put(ledger)
    tick, _ = await begin(ledger, routine)
    [alert] = await close(ledger, tick, "failed", "No.")
    server.answers["/team"] = 500
    telling = alerter()

    for _ in range(2):
        with pytest.raises(ApplicationError):
            await telling.send_alert(alert)

    query = select(audit.c.data).where(audit.c.subject == routine.name, audit.c.kind == "notice.failed")
    async with ledger.read() as connection:
        [entry] = (await connection.execute(query)).fetchall()
    assert json.loads(entry.data)["notice"] == "routine.failed"


# ---- what is never said


async def test_no_secret_is_in_what_people_or_programs_are_told(
    ledger: Ledger, alerter: NewAlerter, server: Server
) -> None:
    secret = f'sk-canary-{secrets.token_hex(8)}"x'
    conceal(secret)
    routine = await put(ledger)
    tick, run = await begin(ledger, routine)
    await fails_at(ledger, run, f"Refused: the key {secret} is wrong, of the file " + "x" * 5_000)
    [alert] = await close(ledger, tick, "failed", f"The key {secret} is wrong.")

    await alerter(webhooks=("/hook",)).send_alert(alert)

    everything = "".join(request.body for request in server.requests)
    assert len(server.requests) == 2
    assert "[secret]" in everything
    assert "canary" not in everything
    assert len(everything) < 5_000
