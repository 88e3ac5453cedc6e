"""One-use links on both databases: what they show, what they decide, and every way in which they do not."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from horarium.contract import Decision, Verdict
from horarium.errors import (
    ApprovalAlreadyDecided,
    ApprovalExpired,
    ApprovalWithdrawn,
    ConfigError,
    Conflict,
    DigestMismatch,
    HorariumError,
    LinkExpired,
    LinkInvalid,
    LinkUsed,
    NotAnApprover,
)
from horarium.ledger.database import Ledger
from horarium.ledger.notices import Notices
from horarium.ledger.schema import audit
from horarium.ledger.schema import links as links_table
from horarium.link_secret import link_secret
from horarium.links import LEEWAY, Links
from horarium.settings import ApprovalsSettings, Settings
from tests.core.ledgers import NOON
from tests.core.questions import ARGUMENTS, ask, change, decide, edit, vote

SECRET = "a secret of forty characters, for tests.."


class Clock:
    """The time, as a test says it is."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(ledger: Ledger, clock: Clock) -> Callable[..., Links]:
    def links(secret: str = SECRET, **settings: Any) -> Links:
        given = {"links": "https://horarium.example.com/", "roles": {"finance": ("ana", "ben")}, **settings}
        return Links(ApprovalsSettings(**given), ledger, secret, clock)

    return links


@pytest.fixture
def links(make: Callable[..., Links]) -> Links:
    return make()


async def link_to(ledger: Ledger, links: Links, question: str, approver: str = "ana") -> str:
    return links.make(await Notices(ledger).shown(question), approver, NOON)


async def post(links: Links, token: str, verdict: Verdict = "approve", comment: str | None = None) -> Decision:
    async with links.consume(token, verdict, comment) as decision:
        return decision


async def uses(ledger: Ledger, question: str) -> list[Any]:
    async with ledger.read() as connection:
        return list(
            (await connection.execute(select(links_table).where(links_table.c.approval_id == question))).fetchall()
        )


# ---- looking


async def test_looking_shows_the_exact_arguments_and_the_deadline(ledger: Ledger, links: Links) -> None:
    token = await link_to(ledger, links, await ask(ledger))

    view = await links.peek(token)

    assert json.loads(view.arguments) == ARGUMENTS
    assert (view.approver, view.deadline, view.open) == ("ana", NOON + timedelta(hours=8), True)
    assert (view.why_not, view.chosen) == (None, None)


async def test_a_mail_scanner_that_looks_three_times_changes_nothing(ledger: Ledger, links: Links) -> None:
    question = await ask(ledger)
    token = await link_to(ledger, links, question)
    before = await Notices(ledger).shown(question)

    views = [await links.peek(token) for _ in range(3)]

    assert views[0] == views[1] == views[2]
    assert views[0].open
    assert await Notices(ledger).shown(question) == before
    assert await uses(ledger, question) == []
    assert (await post(links, token)).verdict == "approve"


async def test_the_url_leads_to_the_gateway_and_fits_into_a_path(ledger: Ledger, links: Links) -> None:
    token = await link_to(ledger, links, await ask(ledger, approvers=["Ana María/ü"]), "Ana María/ü")

    assert links.url(token) == f"https://horarium.example.com/approve/{token}"
    assert token.replace(".", "").replace("-", "").replace("_", "").isalnum()
    assert token.isascii()
    assert (await links.peek(token)).approver == "Ana María/ü"


async def test_without_a_gateway_there_is_no_url(ledger: Ledger, make: Callable[..., Links]) -> None:
    with pytest.raises(ConfigError, match=r"Set `links`"):
        make(links=None).url("token")


# ---- deciding


async def test_a_post_gives_the_decision_to_send_bound_to_approval_digest_and_approver(
    ledger: Ledger, links: Links
) -> None:
    question = await ask(ledger)
    shown = await Notices(ledger).shown(question)
    token = await link_to(ledger, links, question)

    decision = await post(links, token, "reject", "Too much.")

    assert decision == Decision(approval=question, digest=shown.digest, by="ana", verdict="reject", comment="Too much.")


async def test_the_use_of_a_link_is_in_the_audit_trail(ledger: Ledger, links: Links) -> None:
    question = await ask(ledger)
    await post(links, await link_to(ledger, links, question), "reject")

    async with ledger.read() as connection:
        [entry] = (await connection.execute(select(audit).where(audit.c.subject == question))).fetchall()
    assert entry.kind == "link.used"
    assert json.loads(entry.data).items() >= {"by": "ana", "verdict": "reject"}.items()


async def test_a_second_use_is_refused_and_says_who_decided_what_and_when(ledger: Ledger, links: Links) -> None:
    question = await ask(ledger)
    token = await link_to(ledger, links, question)
    await post(links, token)
    await decide(ledger, question, "ana")

    with pytest.raises(LinkUsed) as refused:
        await post(links, token)

    assert "ana used this link at 2026-11-21 12:00 UTC and approved" in str(refused.value)
    assert "was approved by ana at 2026-11-21 12:05 UTC" in str(refused.value)
    view = await links.peek(token)
    assert (view.open, view.why_not) == (False, str(refused.value))


@pytest.mark.parametrize("verdict", ["approve", "reject"])
async def test_a_spent_link_is_spent_although_the_ledger_does_not_know_the_decision_yet(
    ledger: Ledger, links: Links, verdict: Verdict
) -> None:
    token = await link_to(ledger, links, await ask(ledger))
    await post(links, token)

    with pytest.raises(LinkUsed, match="used this link"):
        await post(links, token, verdict)


async def test_of_two_opposite_posts_at_once_one_wins(ledger: Ledger, links: Links) -> None:
    for _ in range(20):
        question = await ask(ledger)
        token = await link_to(ledger, links, question)

        outcomes = await asyncio.gather(
            post(links, token, "approve"), post(links, token, "reject"), return_exceptions=True
        )

        won = [outcome for outcome in outcomes if isinstance(outcome, Decision)]
        lost = [outcome for outcome in outcomes if isinstance(outcome, LinkUsed)]
        assert (len(won), len(lost)) == (1, 1)
        [use] = await uses(ledger, question)
        assert use.verdict == won[0].verdict


async def test_a_double_click_sends_one_and_the_same_decision(ledger: Ledger, links: Links) -> None:
    question = await ask(ledger)
    token = await link_to(ledger, links, question)

    outcomes = await asyncio.gather(*(post(links, token) for _ in range(4)), return_exceptions=True)

    decisions = [outcome for outcome in outcomes if isinstance(outcome, Decision)]
    assert decisions
    assert all(decision == decisions[0] for decision in decisions)
    assert all(isinstance(outcome, Decision | LinkUsed) for outcome in outcomes)
    assert len(await uses(ledger, question)) == 1


async def test_when_sending_fails_the_same_verdict_can_be_sent_again_and_no_other(ledger: Ledger, links: Links) -> None:
    token = await link_to(ledger, links, await ask(ledger))
    with pytest.raises(ConnectionError):
        async with links.consume(token, "approve"):
            raise ConnectionError

    view = await links.peek(token)
    assert (view.open, view.chosen) == (True, "approve")
    with pytest.raises(LinkUsed, match=r"Choose approve again"):
        await post(links, token, "reject")
    assert (await post(links, token)).verdict == "approve"
    with pytest.raises(LinkUsed, match="used this link"):
        await post(links, token)


async def test_a_decision_that_arrived_although_sending_failed_is_not_asked_for_again(
    ledger: Ledger, links: Links
) -> None:
    question = await ask(ledger)
    token = await link_to(ledger, links, question)
    with pytest.raises(ConnectionError):
        async with links.consume(token, "approve"):
            raise ConnectionError
    await decide(ledger, question, "ana")

    with pytest.raises(LinkUsed, match="was approved by ana"):
        await post(links, token)


async def test_an_answer_that_no_decision_can_carry_does_not_use_the_link(ledger: Ledger, links: Links) -> None:
    question = await ask(ledger)
    token = await link_to(ledger, links, question)

    with pytest.raises(Conflict, match="comment"):
        await post(links, token, comment="x" * 2_001)

    assert await uses(ledger, question) == []


async def test_the_links_of_two_approvers_are_two(ledger: Ledger, links: Links) -> None:
    question = await ask(ledger, approvers=["role:finance"], required=2)
    ana, ben = [await link_to(ledger, links, question, person) for person in ("ana", "ben")]

    assert (await post(links, ana)).by == "ana"
    await vote(ledger, question, "ana")

    assert (await post(links, ben)).by == "ben"


# ---- not deciding


async def changed_by(ledger: Ledger, question: str, person: str) -> None:
    await edit(ledger, question, {"amount": 1}, person)
    await vote(ledger, question, person, arguments={"amount": 1})


REFUSED: list[tuple[str, type[HorariumError], str, Callable[[Ledger, str], Any]]] = [
    ("withdrawn", ApprovalWithdrawn, "no longer waits", lambda lg, q: change(lg, q, status="withdrawn")),
    ("expired", ApprovalExpired, "Nobody decided", lambda lg, q: change(lg, q, status="expired")),
    (
        "decided otherwise",
        ApprovalAlreadyDecided,
        "was rejected by ben",
        lambda lg, q: decide(lg, q, "ben", "rejected"),
    ),
    ("arguments changed", DigestMismatch, "changed by ben", lambda lg, q: changed_by(lg, q, "ben")),
    ("digest changed", DigestMismatch, "changed after", lambda lg, q: change(lg, q, digest="sha256:other")),
    ("others are asked", NotAnApprover, "Others decide", lambda lg, q: change(lg, q, approvers=["ben"])),
]


@pytest.mark.parametrize(("error", "says", "happen"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_a_link_says_why_it_decides_no_more(
    ledger: Ledger, links: Links, error: type[HorariumError], says: str, happen: Callable[[Ledger, str], Any]
) -> None:
    question = await ask(ledger)
    token = await link_to(ledger, links, question)
    await happen(ledger, question)

    view = await links.peek(token)
    with pytest.raises(error, match=says) as refused:
        await post(links, token)

    assert (view.open, view.why_not) == (False, str(refused.value))
    assert await uses(ledger, question) == []


async def test_an_edit_that_did_not_count_leaves_the_link_good(ledger: Ledger, links: Links) -> None:
    question = await ask(ledger)
    token = await link_to(ledger, links, question)

    await edit(ledger, question, {"amount": 1}, "ben")

    assert (await links.peek(token)).open


async def test_a_link_lasts_no_longer_than_it_says_give_or_take_the_clocks(
    ledger: Ledger, make: Callable[..., Links], clock: Clock
) -> None:
    links = make(link_lasts=timedelta(hours=1))
    token = await link_to(ledger, links, await ask(ledger))

    clock.now = NOON + timedelta(hours=1) + LEEWAY - timedelta(seconds=1)
    assert (await links.peek(token)).open
    clock.now += timedelta(seconds=1)

    for follow in (links.peek(token), post(links, token)):
        with pytest.raises(LinkExpired, match="good until 2026-11-21 13:00 UTC"):
            await follow


async def test_a_link_never_lasts_longer_than_its_approval(ledger: Ledger, links: Links, clock: Clock) -> None:
    question = await ask(ledger, expires_at=NOON + timedelta(minutes=10))
    token = await link_to(ledger, links, question)
    await change(ledger, question, status="expired", decided_at=NOON + timedelta(minutes=10))
    clock.now = NOON + timedelta(minutes=12)

    with pytest.raises(LinkExpired, match="Nobody decided"):
        await post(links, token)


def _cut(token: str) -> str:
    return token[:-6]


def _payload_of_another(token: str) -> str:
    claims, _, signature = token.rpartition(".")
    return f"{claims[:-2]}{'AA' if claims[-2:] != 'AA' else 'BB'}.{signature}"


@pytest.mark.parametrize(
    "forge",
    [_cut, _payload_of_another, lambda t: "", lambda t: ".", lambda t: t + "é", lambda t: t * 40, lambda t: "x.y.z"],
    ids=["cut", "changed", "empty", "dot", "no ascii", "long", "nonsense"],
)
async def test_what_is_no_link_of_ours_shows_and_decides_nothing(
    ledger: Ledger, links: Links, forge: Callable[[str], str]
) -> None:
    forged = forge(await link_to(ledger, links, await ask(ledger)))

    for follow in (links.peek(forged), post(links, forged)):
        with pytest.raises(LinkInvalid):
            await follow


async def test_a_link_made_with_another_secret_is_invalid(ledger: Ledger, make: Callable[..., Links]) -> None:
    token = await link_to(ledger, make("another secret of forty characters......"), await ask(ledger))

    with pytest.raises(LinkInvalid):
        await make().peek(token)


async def test_an_unknown_outcome_is_not_decided_by_a_link(ledger: Ledger, links: Links) -> None:
    token = await link_to(ledger, links, await ask(ledger, kind="unknown_outcome"))

    with pytest.raises(LinkInvalid):
        await post(links, token)


async def test_no_error_and_no_log_has_the_token(
    ledger: Ledger, links: Links, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    question = await ask(ledger)
    token = await link_to(ledger, links, question)
    said: list[str] = []

    async def refused(given: str, verdict: Verdict = "approve") -> None:
        with pytest.raises(HorariumError) as error:
            await post(links, given, verdict)
        chain: BaseException | None = error.value
        while chain is not None:
            said.append(f"{chain!r} {chain}")
            chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)

    await refused(_cut(token))
    await post(links, token)
    await refused(token, "reject")
    clock.now += timedelta(days=2)
    await refused(token)

    claims = token.rpartition(".")[0]
    assert len(said) >= 3
    assert claims[:20] not in "".join(said) + caplog.text


# ---- the secret


async def test_the_secret_is_made_once_and_only_its_owner_reads_it(tmp_path: Path, ledger: Ledger) -> None:
    settings = Settings(root=tmp_path)
    shown = await Notices(ledger).shown(await ask(ledger, expires_at=None))
    token = Links.of(settings, ledger).make(shown, "ana", datetime.now(UTC))
    file = settings.state / "secrets" / "link-secret"

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [item.name for item in file.parent.iterdir()] == ["link-secret"]
    assert (await Links.of(settings, ledger).peek(token)).open
    assert link_secret(settings) == file.read_text()


def _secret_in_another_process(root: str) -> str:
    return link_secret(Settings(root=Path(root)))


def test_processes_that_make_the_secret_at_once_agree(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        made = pool.map(_secret_in_another_process, [str(tmp_path)] * 8, chunksize=1)

    assert len(set(made)) == 1


def test_the_environment_has_the_last_word_and_a_short_secret_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HORARIUM_LINK_SECRET", SECRET)
    assert link_secret(Settings(root=tmp_path)) == SECRET
    assert not list(tmp_path.iterdir())

    monkeypatch.setenv("HORARIUM_LINK_SECRET", "tiny")
    with pytest.raises(ConfigError, match="openssl rand") as refused:
        link_secret(Settings(root=tmp_path))
    assert "tiny" not in str(refused.value)
