"""Telling people, against real servers on loopback: what is said, to whom, how often, and what is never said."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import secrets
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import select
from standardwebhooks import Webhook as Verifier
from temporalio.exceptions import ApplicationError

from activities.notify import Notifier
from horarium.contract import Reassignment
from horarium.ledger.database import Ledger
from horarium.ledger.notices import Notices
from horarium.ledger.reassignments import HandedOver, Reassignments
from horarium.ledger.schema import audit
from horarium.ledger.schema import notices as notices_table
from horarium.links import Links
from horarium.protocol import Notice, NoticeEvent
from horarium.settings import ApprovalsSettings, Settings, Webhook
from tests.core.ledgers import NOON
from tests.core.questions import ARGUMENTS, ask, change, decide, edit, vote
from tests.support.addresses import Server, listening

WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"thirty-two bytes of no use at all").decode()
GATEWAY = "https://horarium.example.com"


@pytest.fixture
def server() -> Iterator[Server]:
    with listening() as server:
        yield server


NewNotifier = Callable[..., Notifier]


@pytest.fixture
def notifier(ledger: Ledger, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NewNotifier:
    """A notifier; an address is named by its path on the server."""

    def reference(path: str) -> str:
        name = f"ADDRESS_{secrets.token_hex(4)}"
        monkeypatch.setenv(name, path if "://" in path else f"json://127.0.0.1:{server.port}{path}")
        return f"${{{name}}}"

    def make(
        *,
        notify: tuple[str, ...] = (),
        people: dict[str, tuple[str, ...]] | None = None,
        webhooks: tuple[str, ...] = (),
        links: str | None = GATEWAY,
        **more: Any,
    ) -> Notifier:
        monkeypatch.setenv("WEBHOOK_SECRET", WEBHOOK_SECRET)
        approvals = ApprovalsSettings(
            notify=tuple(map(reference, notify)),
            people={who: tuple(map(reference, paths)) for who, paths in (people or {}).items()},
            webhooks=tuple(
                Webhook(url=f"http://127.0.0.1:{server.port}{path}", secret="${WEBHOOK_SECRET}") for path in webhooks
            ),
            links=links,
            **more,
        )
        return Notifier(ledger, Settings(root=tmp_path, approvals=approvals))

    return make


def tell(question: str, event: NoticeEvent = "requested", occurrence: int = 0) -> Notice:
    return Notice(run="run_1", subject=question, event=event, occurrence=occurrence)


async def coming(ledger: Ledger, **more: Any) -> str:
    """A question that is open by the real clock."""
    return await ask(ledger, expires_at=datetime.now(UTC) + timedelta(hours=8), **more)


# ---- what is said


async def test_a_request_says_what_is_asked_by_whom_until_when_and_where(
    ledger: Ledger, notifier: NewNotifier, server: Server
) -> None:
    question = await ask(ledger, approvers=["ana", "ben"], required=2)
    shown = await Notices(ledger).shown(question)

    await notifier(notify=("/team",)).notify(tell(question))

    [message] = server.messages("/team")
    assert message["title"] == "Approve pay? clerk asks"
    said = message["message"]
    assert "The agent clerk wants to call pay (it changes something outside, and may not be undone)." in said
    assert f"Run: {shown.run_id} of agent clerk, started by mia" in said
    assert "Who may decide: ana, ben" in said
    assert "Approvals: 0 of 2" in said
    assert "Until: 2026-11-21 20:00 UTC" in said
    assert json.dumps(ARGUMENTS, indent=2, sort_keys=True) in said
    assert shown.digest in said
    assert f"Decide here: {GATEWAY}/approvals/{question}" in said
    assert "/approve/" not in said


async def test_fifty_kilobytes_of_arguments_arrive_whole_with_what_hides_written_out(
    ledger: Ledger, notifier: NewNotifier, server: Server
) -> None:
    lines = [f"line {number} of :smile: <b>text</b> \\n" for number in range(1_500)]
    arguments = {"note": lines, "to": "evil\u202egro.elpmaxe\u200b\U000e0041"}
    question = await ask(ledger, arguments=arguments)

    await notifier(notify=("/team?overflow=truncate&emojis=yes",)).notify(tell(question))

    parts = [json.loads(request.body)["message"] for request in server.requests]
    assert len(parts) > 1
    assert sum(map(len, parts)) > 50_000
    said = "\n".join(parts)
    assert [line for line in lines if f"    {json.dumps(line)}" not in said] == []
    assert '"evil<U+202E>gro.elpmaxe<U+200B><U+E0041>"' in said


async def test_a_decision_says_who_decided_what_and_why_on_which_arguments(
    ledger: Ledger, notifier: NewNotifier, server: Server
) -> None:
    question = await ask(ledger)
    await edit(ledger, question, {"amount": 10}, "ben")
    await vote(ledger, question, "ben", arguments={"amount": 10})
    shown = await Notices(ledger).shown(question)
    await decide(ledger, question, "ben", comment="Ten will do.", decided_digest=shown.digest)

    await notifier(notify=("/team",)).notify(tell(question, "decided"))

    [message] = server.messages("/team")
    assert message["title"] == "Approved: pay of clerk"
    assert f"{question} was approved by ben at 2026-11-21 12:05 UTC." in message["message"]
    assert "Reason given: Ten will do." in message["message"]
    assert 'Exact arguments of pay, as ben changed them:\n{\n  "amount": 10\n}' in message["message"]


async def test_an_expiry_is_nobodys_rejection(ledger: Ledger, notifier: NewNotifier, server: Server) -> None:
    question = await ask(ledger)
    await change(ledger, question, status="expired", decided_at=NOON)

    await notifier(notify=("/team",)).notify(tell(question, "expired"))

    [message] = server.messages("/team")
    assert "Nobody decided in time whether the agent clerk may call pay. It was not called." in message["message"]
    assert "reject" not in message["message"].lower()


@pytest.mark.parametrize(
    ("event", "title"),
    [("unknown_outcome", "Did it happen? pay of clerk"), ("held_step", "Held: pay of clerk failed")],
)
async def test_a_question_that_is_no_approval_is_told_in_its_own_words(
    ledger: Ledger, notifier: NewNotifier, server: Server, event: Any, title: str
) -> None:
    question = await ask(ledger, kind=event, approvers=[], text="Timeout of the bank\u202e.", expires_at=None)

    await notifier(notify=("/team",), webhooks=("/hook",)).notify(tell(question, event))

    [message] = server.messages("/team")
    assert message["title"] == title
    assert "Timeout of the bank<U+202E>." in message["message"]
    assert "Until: it waits for ever" in message["message"]
    assert server.messages("/hook")[0]["type"] == f"question.{event}"


async def test_without_a_gateway_the_message_says_which_command_to_type(
    ledger: Ledger, notifier: NewNotifier, server: Server
) -> None:
    question = await ask(ledger)

    await notifier(notify=("/team",), people={"ana": ("/ana",)}, links=None).notify(tell(question))

    for path in ("/team", "/ana"):
        assert f"See it with: horarium approvals show {question}" in server.messages(path)[0]["message"]


# ---- links for one person


async def test_each_approver_gets_a_link_of_their_own_and_nobody_else_gets_one(
    ledger: Ledger, notifier: NewNotifier, server: Server, tmp_path: Path
) -> None:
    question = await coming(ledger, approvers=["Ana", "role:finance", "zoe"])
    telling = notifier(
        notify=("/team",),
        people={"ana": ("/ana",), "ben": ("/ben",), "eve": ("/eve",)},
        roles={"finance": ("ana", "ben")},
        webhooks=("/hook",),
    )

    await telling.notify(tell(question))

    links = Links.of(Settings(root=tmp_path, approvals=ApprovalsSettings(roles={"finance": ("ana", "ben")})), ledger)
    for path, person in (("/ana", "Ana"), ("/ben", "ben")):
        [message] = server.messages(path)
        _, found, token = message["message"].partition(f"Decide here: {GATEWAY}/approve/")
        assert found
        view = await links.peek(token.splitlines()[0])
        assert (view.approval.id, view.approver, view.open) == (question, person, True)
    assert server.at("/eve") == []
    assert not any("/approve/" in request.body for request in (*server.at("/team"), *server.at("/hook")))


async def test_those_it_is_handed_to_are_told_by_whom_and_who_was_asked_before_hears_nothing_new(
    ledger: Ledger, notifier: NewNotifier, server: Server, tmp_path: Path
) -> None:
    question = await coming(ledger, approvers=["ana", "ben"])
    telling = notifier(
        notify=("/team",),
        people={name: (f"/{name}",) for name in ("ana", "ben", "bruno")},
        webhooks=("/hook",),
    )
    await telling.notify(tell(question))
    [asked] = server.messages("/ana")
    said = Reassignment(approval=question, digest="sha256:x", to=("ben", "bruno"), by="ana", comment="On leave.")
    handed = HandedOver(said=said, at=NOON, key=None, before=("ana", "ben"), people=("ben", "bruno"))
    assert await Reassignments(ledger).record(question, handed) == 1

    await telling.notify(tell(question, "reassigned", 1))

    assert (len(server.at("/ana")), len(server.at("/ben"))) == (1, 1)
    [message] = server.messages("/bruno")
    assert message["title"] == "Handed to you: approve pay? clerk asks"
    assert "ana asks you to decide whether the agent clerk may call pay." in message["message"]
    assert "ana says: On leave." in message["message"]
    event = json.loads(server.at("/hook")[-1].body)
    assert (event["type"], event["data"]["approvers"]) == ("approval.reassigned", ["ben", "bruno"])
    links = Links.of(Settings(root=tmp_path), ledger)
    good = message["message"].partition(f"Decide here: {GATEWAY}/approve/")[2].splitlines()[0]
    bad = asked["message"].partition(f"Decide here: {GATEWAY}/approve/")[2].splitlines()[0]
    assert (await links.peek(good)).open
    assert "ana is not asked any more" in str((await links.peek(bad)).why_not)


async def test_who_has_voted_is_not_reminded(ledger: Ledger, notifier: NewNotifier, server: Server) -> None:
    question = await coming(ledger, approvers=["ana", "ben"], required=2)
    await vote(ledger, question, "ana")

    await notifier(people={"ana": ("/ana",), "ben": ("/ben",)}).notify(tell(question, "reminder", 1))

    assert server.at("/ana") == []
    assert "Approvals: 1 of 2" in server.messages("/ben")[0]["message"]


async def test_nobody_is_asked_what_was_decided_meanwhile(
    ledger: Ledger, notifier: NewNotifier, server: Server
) -> None:
    question = await ask(ledger)
    await decide(ledger, question, "ana")

    await notifier(notify=("/team",), people={"ana": ("/ana",)}, webhooks=("/hook",)).notify(tell(question))

    assert [request.path for request in server.requests] == ["/hook"]


async def test_who_sends_no_links_needs_no_secret(ledger: Ledger, notifier: NewNotifier, tmp_path: Path) -> None:
    await notifier(notify=("/team",), people={"ana": ("/ana",)}, links=None).notify(tell(await coming(ledger)))

    assert list(tmp_path.iterdir()) == []


# ---- webhooks


async def test_a_webhook_is_signed_and_carries_the_exact_arguments(
    ledger: Ledger, notifier: NewNotifier, server: Server
) -> None:
    question = await ask(ledger)
    shown = await Notices(ledger).shown(question)

    await notifier(webhooks=("/hook",)).notify(tell(question))

    [request] = server.at("/hook")
    body = Verifier(WEBHOOK_SECRET).verify(request.body, request.headers)
    assert (body["type"], body["timestamp"]) == ("approval.requested", "2026-11-21T12:00:00+00:00")
    data = body["data"]
    assert (data["id"], data["digest"], data["arguments"]) == (question, shown.digest, ARGUMENTS)
    assert (data["approvers"], data["required"], data["link"]) == (["ana"], 1, f"{GATEWAY}/approvals/{question}")


async def test_a_webhook_has_the_same_id_on_every_attempt_and_another_for_every_event(
    ledger: Ledger, notifier: NewNotifier, server: Server
) -> None:
    question = await ask(ledger)
    telling = notifier(webhooks=("/hook",))
    server.answers["/hook"] = 503
    for _ in range(2):
        with pytest.raises(ApplicationError):
            await telling.notify(tell(question))
    server.answers.clear()

    await telling.notify(tell(question))
    await telling.notify(tell(question, "reminder", 1))
    await telling.notify(tell(question, "reminder", 2))

    ids = [request.headers["webhook-id"] for request in server.at("/hook")]
    assert len(ids) == 5
    assert len(set(ids[:3])) == 1
    assert len(set(ids[2:])) == 3


@pytest.mark.parametrize("answer", [302, 307, 404, 500])
async def test_only_a_2xx_counts_and_no_redirect_is_followed(
    ledger: Ledger, notifier: NewNotifier, server: Server, answer: int
) -> None:
    server.answers["/hook"] = server.answers["/team"] = answer

    with pytest.raises(ApplicationError, match=f"webhook 1: it answered {answer}"):
        await notifier(notify=("/team",), webhooks=("/hook",)).notify(tell(await ask(ledger)))

    assert server.at("/elsewhere") == []
    assert len(server.requests) == 2


async def test_a_webhook_that_is_gone_is_not_tried_again(ledger: Ledger, notifier: NewNotifier, server: Server) -> None:
    question = await ask(ledger)
    telling = notifier(webhooks=("/hook",))
    server.answers["/hook"] = 410

    await telling.notify(tell(question))
    await telling.notify(tell(question))

    assert len(server.at("/hook")) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x",
        "ftp://127.0.0.1/x",
        "https://u:p@example.com/",
        "http://127.0.0.1.example.com/",
        "https:///x",
    ],
)
def test_a_webhook_goes_over_https_or_stays_on_loopback(url: str) -> None:
    with pytest.raises(ValidationError):
        Webhook(url=url, secret="${X}")


@pytest.mark.parametrize("url", ["https://example.com/x", "http://localhost:1/x", "http://[::1]/", "http://127.9.9.9/"])
def test_a_safe_webhook_is_taken(url: str) -> None:
    assert Webhook(url=url, secret="${X}").url == url


# ---- once


async def test_a_repeated_attempt_sends_only_what_is_missing(
    ledger: Ledger, notifier: NewNotifier, server: Server
) -> None:
    question = await coming(ledger)
    telling = notifier(notify=("/one", "/two"), people={"ana": ("/ana",)}, webhooks=("/hook",))
    server.answers |= {"/two": 500, "/ana": 401}

    with pytest.raises(ApplicationError) as failed:
        await telling.notify(tell(question))
    server.answers.clear()
    await telling.notify(tell(question))
    await telling.notify(tell(question))

    assert not failed.value.non_retryable
    assert "2 of 4 addresses" in str(failed.value)
    assert "notify 2: JSON did not take it (it answered 500)" in str(failed.value)
    assert "people.ana 1: JSON did not take it (it answered 401)" in str(failed.value)
    counts = {path: len(server.at(path)) for path in ("/one", "/two", "/ana", "/hook")}
    assert counts == {"/one": 1, "/two": 2, "/ana": 2, "/hook": 1}


async def test_each_reminder_is_told_once(ledger: Ledger, notifier: NewNotifier, server: Server) -> None:
    question = await ask(ledger)
    telling = notifier(notify=("/team",))

    for occurrence in (1, 1, 2, 2):
        await telling.notify(tell(question, "reminder", occurrence))

    assert len(server.at("/team")) == 2


async def test_several_addresses_under_one_reference_are_repeated_one_by_one(
    ledger: Ledger, notifier: NewNotifier, server: Server
) -> None:
    question = await ask(ledger)
    both = f"json://127.0.0.1:{server.port}/one, json://127.0.0.1:{server.port}/two"
    telling = notifier(notify=(both,))
    server.answers["/two"] = 500

    with pytest.raises(ApplicationError, match=r"notify 1\.2"):
        await telling.notify(tell(question))
    server.answers.clear()
    await telling.notify(tell(question))

    assert (len(server.at("/one")), len(server.at("/two"))) == (1, 2)


async def test_an_end_that_the_ledger_does_not_know_yet_is_told_later(
    ledger: Ledger, notifier: NewNotifier, server: Server
) -> None:
    question = await ask(ledger)
    telling = notifier(notify=("/team",))

    with pytest.raises(ApplicationError, match="does not know yet") as early:
        await telling.notify(tell(question, "decided"))
    await decide(ledger, question, "ana")
    await telling.notify(tell(question, "decided"))

    assert early.value.next_retry_delay == timedelta(seconds=1)
    assert len(server.at("/team")) == 1


@pytest.mark.parametrize("wrong", ["whsec_!", "whsec_"])
async def test_one_address_that_is_wrong_does_not_keep_the_others_from_hearing(
    ledger: Ledger, notifier: NewNotifier, server: Server, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    telling = notifier(notify=("/one", "nosuch://somewhere/else", "/three"), webhooks=("/hook",))
    monkeypatch.setenv("WEBHOOK_SECRET", wrong)

    with pytest.raises(ApplicationError) as failed:
        await telling.notify(tell(await ask(ledger)))

    assert "notify 2: Apprise does not know this kind of address" in str(failed.value)
    assert "webhook 1: its secret is not of the form" in str(failed.value)
    assert sorted(request.path for request in server.requests) == ["/one", "/three"]


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("size", [24, 31, 32, 33])
async def test_a_webhooks_secret_may_have_any_length_with_its_padding_or_without(
    ledger: Ledger, notifier: NewNotifier, server: Server, monkeypatch: pytest.MonkeyPatch, size: int, padded: bool
) -> None:
    secret = "whsec_" + base64.b64encode(bytes(range(size))).decode()
    telling = notifier(webhooks=("/hook",))
    monkeypatch.setenv("WEBHOOK_SECRET", secret if padded else secret.rstrip("="))

    await telling.notify(tell(await ask(ledger)))

    [request] = server.at("/hook")
    assert Verifier(secret).verify(request.body, request.headers)


# ---- what is never said


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Everything that reaches the root logger, from the lowest level on; caplog sits on the others as well."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    root, handler = logging.getLogger(), Keep()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lines
    root.removeHandler(handler)
    root.setLevel(level)


async def test_no_address_and_no_link_is_in_an_error_a_log_or_the_ledger(
    ledger: Ledger, notifier: NewNotifier, server: Server, logged: list[str], capfd: Any
) -> None:
    question = await coming(ledger)
    telling = notifier(
        notify=("/canary-team?token=canary", "json://127.0.0.1:1/canary-dead"),
        people={"ana": ("/canary-ana",)},
        webhooks=("/canary-hook", "/canary-bad"),
    )
    server.answers |= {"/canary-bad": 500, "/canary-ana": 500}

    with pytest.raises(ApplicationError) as failed:
        await telling.notify(tell(question))

    token = server.messages("/canary-ana")[0]["message"].partition("/approve/")[2].splitlines()[0]
    async with ledger.read() as connection:
        kept = str((await connection.execute(select(notices_table))).fetchall())
    written = capfd.readouterr()
    everything = "".join((repr(failed.value), str(failed.value.__cause__), *logged, kept, written.out, written.err))
    assert "3 of 5 addresses" in str(failed.value)
    assert "canary" not in everything
    assert "notice.failed" in everything
    assert token[:20] not in everything
    assert WEBHOOK_SECRET not in everything


async def test_a_silent_address_is_given_up(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("activities.sending.WEBHOOK_TIMEOUT", timedelta(seconds=0.3))
    monkeypatch.setenv("WEBHOOK_SECRET", WEBHOOK_SECRET)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        webhook = Webhook(url=f"http://127.0.0.1:{silent.getsockname()[1]}/", secret="${WEBHOOK_SECRET}")
        telling = Notifier(ledger, Settings(root=tmp_path, approvals=ApprovalsSettings(webhooks=(webhook,))))

        with pytest.raises(ApplicationError, match="webhook 1: no answer within"):
            await asyncio.wait_for(telling.notify(tell(await ask(ledger))), 10)


async def test_that_somebody_could_not_be_told_is_in_the_audit_trail_once(
    ledger: Ledger, notifier: NewNotifier, server: Server
) -> None:
    question = await ask(ledger)
    telling = notifier(notify=("/team",))
    server.answers["/team"] = 500

    for _ in range(2):
        with pytest.raises(ApplicationError):
            await telling.notify(tell(question))

    async with ledger.read() as connection:
        found = await connection.execute(select(audit.c.kind, audit.c.data).where(audit.c.subject == question))
        [entry] = found.fetchall()
    assert entry.kind == "notice.failed"
    assert "notify 1: JSON did not take it" in entry.data
