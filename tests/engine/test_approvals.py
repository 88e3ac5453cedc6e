"""Which decisions count, who may make them, and what follows for the effect, the model and the evidence."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from temporalio.api.common.v1 import Payload as WirePayload
from temporalio.common import RawValue
from temporalio.testing import ActivityEnvironment, WorkflowEnvironment

from activities.models.base import RequestedCall
from horarium.audit import verify
from horarium.client import Run
from horarium.content import digest
from horarium.contract import Approval, Decision, Remember, Verdict
from horarium.definition import Execution
from horarium.definitions import Agent, ApprovalRule, Limits, RememberRule
from horarium.errors import (
    ApprovalAlreadyDecided,
    ApprovalExpired,
    ApprovalNotFound,
    ApprovalWithdrawn,
    ArgumentsRejected,
    ConfigError,
    Conflict,
    DigestMismatch,
    HorariumError,
    NotAnApprover,
)
from horarium.ledger.approvals import ApprovalRecord, Approvals
from horarium.ledger.audit import AuditRecord, AuditTrail
from horarium.ledger.schema import edits
from horarium.proof import KeyRing
from horarium.protocol import Call, ToolStep
from horarium.secrets import conceal
from horarium.settings import ApprovalsSettings, Settings, Webhook
from horarium.stepping import LedgerSteps
from horarium.toolhost import ToolHost
from horarium.tools import Effect, tool
from tests.engine.conftest import World
from tests.replay.record import executions
from tests.support.engine import PATIENCE, Engine, asks, call, running_engine, says
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes

HOUR = timedelta(hours=1)
ROLES = {"finance": ("fay", "fred"), "board": ("bea",)}


class Shop:
    """The world, with a tool that cannot be stopped and one that takes amounts of any type."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.entered = threading.Event()
        self.released = threading.Event()

    def tools(self) -> list[Any]:
        shop = self

        @tool(effect=Effect.READ)
        def block() -> str:
            """Go on until the test says so, whoever asks to stop."""
            shop.entered.set()
            shop.released.wait(10)
            return "went on"

        @tool(effect=Effect.EXTERNAL)
        def transfer(amount: Any) -> str:
            """Transfer an amount."""
            shop.world.effects.append(("transfer", json.dumps(amount)))
            return "transferred"

        return [*self.world.tools(), block, transfer]


@pytest.fixture
def shop(world: World) -> Iterator[Shop]:
    shop = Shop(world)
    yield shop
    shop.released.set()


@asynccontextmanager
async def serving(env: WorkflowEnvironment, root: Path, shop: Shop, **more: Any) -> AsyncIterator[Engine]:
    settings = Settings(root=root, approvals=ApprovalsSettings(roles=ROLES, **more))
    async with running_engine(env, root, shop.tools(), settings=settings) as engine:
        yield engine


@pytest.fixture
async def engine(env: WorkflowEnvironment, tmp_path: Path, shop: Shop, execution: Execution) -> AsyncIterator[Engine]:
    async with serving(env, tmp_path, shop) as engine:
        yield engine


@pytest.fixture
async def skipping(
    skipping_env: WorkflowEnvironment, tmp_path: Path, shop: Shop, execution: Execution
) -> AsyncIterator[Engine]:
    async with serving(skipping_env, tmp_path, shop) as engine:
        yield engine


def clerk(*plan: ApprovalRule, name: str = "clerk", **more: Any) -> Agent:
    tools = ["look", "pay", "ship", "block", "transfer"]
    # Not the hour in which approvals expire: the test server refuses to take back a timer that is due in this instant.
    given = {"limits": Limits(wall_time=3 * HOUR)} | more
    return Agent(name, model="scripted:lines", tools=tools, approvals=list(plan), **given)


def pays(**rule: Any) -> ApprovalRule:
    return ApprovalRule(tools=("pay",), **rule)


def decision(approval: Approval, by: str, verdict: Verdict = "approve", **more: Any) -> Decision:
    return Decision.model_validate(
        {"approval": approval.id, "digest": approval.digest, "by": by, "verdict": verdict, **more}
    )


async def waiting(run: Run, count: int = 1, *, tool: str | None = None) -> list[Approval]:
    """The run's pending approvals, oldest first, once there are so many."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            found = [a for a in await run.approvals() if a.status == "pending" and tool in (None, a.tool)]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.02)


async def row(engine: Engine, approval: Approval) -> ApprovalRecord:
    return await Approvals(engine.ledger).get(approval.id)


async def trail(engine: Engine, run: Run, *kinds: str) -> list[AuditRecord]:
    found = await AuditTrail(engine.ledger).entries(run=run.id, limit=1_000)
    return [entry for entry in found if not kinds or entry.kind in kinds]


def told(engine: Engine, call_id: str = "call_1") -> str:
    """What the model was told last of a call."""
    return next(
        message.text
        for request in reversed(engine.model.requests)
        for message in reversed(request.messages)
        if message.role == "tool" and message.call_id == call_id
    )


async def pass_time(engine: Engine, run: Run, length: timedelta) -> None:
    """Let time pass once the run does nothing but wait for people: the test server's clock jumps only then."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while (await run.record()).status != "requires_action":
            await asyncio.sleep(0.02)
    await engine.env.sleep(length)


def at_last(moment: datetime | None, due: datetime) -> bool:
    """Whether something happened when it was due, or as soon as a timer can be noticed."""
    return moment is not None and due <= moment < due + timedelta(seconds=10)


def amounts(world: World) -> list[str]:
    return [amount for _, amount in world.effects]


# ---- decisions that do not count

REFUSED: list[tuple[str, dict[str, Any], type[HorariumError], str]] = [
    ("unknown approval", {"approval": "apr_nobody"}, ApprovalNotFound, "no approval 'apr_nobody'"),
    ("wrong digest", {"digest": digest("other arguments")}, DigestMismatch, "made on other arguments"),
    ("wrong approver", {"by": "mallory"}, NotAnApprover, "mallory may not decide this"),
    ("member of another role", {"by": "bea"}, NotAnApprover, "These may: fay, fred, ana"),
    ("the role's own name", {"by": "role:finance"}, NotAnApprover, "may not decide"),
    ("the starter", {"by": "ana"}, NotAnApprover, "second pair of eyes"),
    ("the starter, spelled differently", {"by": " AnA "}, NotAnApprover, "second pair of eyes"),
    ("arguments of another type", {"arguments": {"amount": "much"}}, ArgumentsRejected, "do not fit 'pay'"),
    ("arguments that are missing", {"arguments": {}}, ArgumentsRejected, "do not fit 'pay'"),
    ("arguments nobody knows", {"arguments": {"amount": 1, "to": "me"}}, ArgumentsRejected, "do not fit 'pay'"),
    ("an approval with an answer", {"answer": "Paid."}, Conflict, "takes no `answer`"),
    ("a grant that no plan allows", {"remember": {"scope": "run", "lasts": "PT1H"}}, NotAnApprover, "than one call"),
]


@pytest.mark.parametrize(("change", "error", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_a_decision_that_does_not_count_says_why_and_the_question_stays_open(
    engine: Engine, world: World, change: dict[str, Any], error: type[HorariumError], words: str
) -> None:
    agent = clerk(pays(approvers=("role:finance", "ana"), four_eyes=True))
    run = await engine.start(agent, asks(call("pay", amount=7)), says(), requested_by="ana")
    [approval] = await waiting(run)
    payload = decision(approval, "fay").model_dump(mode="json", exclude_none=True) | change

    with pytest.raises(error, match=words) as refused:
        await engine.client.decide(run.id, Decision.model_validate(payload))
    assert type(refused.value) is error
    await engine.env.client.get_workflow_handle(run.id).signal("approve", payload)

    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not (status := await run.status()).refused_signals:
            await asyncio.sleep(0.02)
    assert [words in why for why in status.refused_signals] == [True]
    assert (status.status, world.effects, (await row(engine, approval)).status) == ("requires_action", [], "pending")
    await run.approve(approval, by="fay")
    assert (await engine.finish(run)).status == "completed"
    assert amounts(world) == ["7"]


INCONSISTENT: list[tuple[dict[str, Any], str]] = [
    ({}, "has no verdict"),
    ({"verdict": "answer"}, "needs a text"),
    ({"verdict": "reject", "arguments": {"amount": 1}}, "A rejection takes no `arguments`"),
    ({"verdict": "reject", "answer": "No."}, "A rejection takes no `answer`"),
    ({"verdict": "reject", "remember": {"scope": "run", "lasts": "PT1H"}}, "A rejection takes no `remember`"),
    ({"verdict": "answer", "answer": "Paid.", "arguments": {"amount": 1}}, "An answer takes no `arguments`"),
]


async def test_a_decision_that_contradicts_itself_is_refused(engine: Engine, world: World) -> None:
    run = await engine.start(clerk(), asks(call("pay", amount=7)), says())
    [approval] = await waiting(run)
    base = {"approval": approval.id, "digest": approval.digest, "by": "ana"}

    for said, words in INCONSISTENT:
        with pytest.raises(Conflict, match=words):
            await engine.client.decide(run.id, Decision.model_validate(base | said))

    assert [(a.status, a.votes) for a in await run.approvals()] == [("pending", ())]
    assert world.effects == []


async def test_a_decision_on_a_withdrawn_approval_and_on_a_closed_run_each_have_their_own_error(
    engine: Engine, world: World, shop: Shop
) -> None:
    run = await engine.start(clerk(), asks(call("pay", "a", amount=7), call("block", "b")), says())
    [approval] = await waiting(run)
    assert await asyncio.to_thread(shop.entered.wait, 20)
    await run.cancel()
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while (await run.approvals())[0].status != "withdrawn":
            await asyncio.sleep(0.02)

    with pytest.raises(ApprovalWithdrawn, match="no longer waits"):
        await run.approve(approval, by="ana")
    shop.released.set()
    assert (await engine.finish(run)).status == "cancelled"
    with pytest.raises(Conflict, match="has ended"):
        await run.approve(approval, by="ana")

    withdrawn = await row(engine, approval)
    assert (withdrawn.status, withdrawn.decided_by, withdrawn.verdict) == ("withdrawn", None, None)
    assert [e.kind for e in await trail(engine, run)] == ["approval.requested", "approval.withdrawn"]
    assert world.effects == []


# ---- repeats, contradictions, several people


async def test_for_every_two_verdicts_the_first_stands_the_same_again_changes_nothing_and_another_names_the_winner(
    engine: Engine, world: World
) -> None:
    verdicts: tuple[Verdict, ...] = ("approve", "reject", "answer")
    pairs = list(itertools.product(verdicts, verdicts))
    calls = [call("pay", f"c{n}", amount=n) for n in range(len(pairs) + 1)]
    run = await engine.start(clerk(), asks(*calls), says())
    *approvals, keeps_open = await waiting(run, len(calls))

    for approval, (first, second) in zip(approvals, pairs, strict=True):
        words = {"answer": "Done by hand."}
        won = await engine.client.decide(
            run.id, decision(approval, "ana", first, **(words if first == "answer" else {}))
        )
        assert not won.repeated
        again = decision(approval, "ana", second, **(words if second == "answer" else {}))
        if first == second:
            repeated = await engine.client.decide(run.id, again)
            assert (repeated.repeated, repeated.approval) == (True, won.approval)
        else:
            with pytest.raises(ApprovalAlreadyDecided, match=f"already {won.approval.status} by ana"):
                await engine.client.decide(run.id, again.model_copy(update={"by": "ben"}))
    await run.reject(keeps_open, by="ana")

    assert (await engine.finish(run)).status == "completed"
    assert sorted(amounts(world)) == ["0", "1", "2"]
    decided = await trail(engine, run, "approval.decided", "approval.voted")
    assert [e.kind for e in decided] == ["approval.decided"] * len(calls)
    assert {e.data["by"] for e in decided} == {"ana"}


async def test_any_two_of_three_release_the_call_in_any_order_and_the_last_of_them_releases_it(
    engine: Engine, world: World
) -> None:
    pairs = list(itertools.permutations(("fay", "fred", "ana"), 2))
    calls = [call("pay", f"c{n}", amount=n) for n in range(len(pairs))]
    agent = clerk(pays(approvers=("role:finance", "ana"), required=2))
    run = await engine.start(agent, asks(*calls), says())
    approvals = await waiting(run, len(pairs))

    for approval, (first, _) in zip(approvals, pairs, strict=True):
        assert (await run.approve(approval, by=first)).approval.status == "pending"
    assert world.effects == []
    for approval, (_, second) in zip(approvals, pairs, strict=True):
        assert (await run.approve(approval, by=second)).approval.status == "approved"

    assert (await engine.finish(run)).status == "completed"
    assert sorted(amounts(world)) == [str(n) for n in range(len(pairs))]
    assert [(await row(engine, a)).decided_by for a in approvals] == [", ".join(pair) for pair in pairs]
    for approval, pair in zip(approvals, pairs, strict=True):
        entries = [e for e in await trail(engine, run) if e.subject == approval.id][1:]
        assert [(e.kind, e.data["by"]) for e in entries] == [
            ("approval.voted", pair[0]),
            ("approval.decided", pair[1]),
        ]


async def test_one_person_under_several_spellings_is_not_two_people(engine: Engine, world: World) -> None:
    run = await engine.start(clerk(pays(required=2)), asks(call("pay", amount=7)), says())
    [approval] = await waiting(run)

    first = await run.approve(approval, by="Ana")
    for name in ("Ana", "ana", " ANA  ", "\uff21\uff4e\uff41"):
        again = await run.approve(approval, by=name)
        assert (again.repeated, again.approval) == (True, first.approval)

    assert (first.approval.status, world.effects) == ("pending", [])
    await run.approve(approval, by="ben")
    await engine.finish(run)
    assert [vote.by for vote in await engine.client.votes(approval.id)] == ["Ana", "ben"]
    assert len(world.effects) == 1


async def test_one_rejection_ends_a_question_that_wants_two_and_the_vote_before_it_stays_on_record(
    engine: Engine, world: World
) -> None:
    run = await engine.start(clerk(pays(required=2)), asks(call("pay", amount=7)), says())
    [approval] = await waiting(run)

    await run.approve(approval, by="ana")
    await run.reject(approval, by="ben", comment="Twice already.")

    assert (await engine.finish(run)).status == "completed"
    assert world.effects == []
    assert [(v.by, v.verdict) for v in await engine.client.votes(approval.id)] == [
        ("ana", "approve"),
        ("ben", "reject"),
    ]
    assert "ben rejected this call. The reason given: Twice already." in told(engine)


async def test_rejecting_one_of_several_calls_of_a_turn_leaves_the_others_to_be_decided(
    engine: Engine, world: World
) -> None:
    calls = [call("pay", f"c{n}", amount=n) for n in range(4)]
    run = await engine.start(clerk(), asks(*calls), says())
    approvals = await waiting(run, 4)

    await run.reject(approvals[1], by="ana")

    assert [a.status for a in await run.approvals()] == ["pending", "rejected", "pending", "pending"]
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while (await run.status()).status != "requires_action":  # not while the rejection is written down
            await asyncio.sleep(0.02)
    for n in (3, 0):
        await run.approve(approvals[n], by="ana")
    await run.answer(approvals[2], "Paid in cash.", by="ben")
    assert (await engine.finish(run)).status == "completed"
    assert sorted(amounts(world)) == ["0", "3"]
    assert "ana rejected this call" in told(engine, "c1")
    assert (told(engine, "c0"), told(engine, "c3")) == ("paid 0", "paid 3")


async def test_an_answer_is_told_to_the_model_and_the_tool_is_not_called(engine: Engine, world: World) -> None:
    run = await engine.start(clerk(), asks(call("pay", amount=7)), says())
    [approval] = await waiting(run)

    state = await run.answer(approval, "Already paid on Monday.", by="ana")

    assert (await engine.finish(run)).status == "completed"
    assert (state.approval.status, world.effects) == ("answered", [])
    assert "ana answered instead" in told(engine)
    assert told(engine).endswith("Already paid on Monday.")
    assert [(s.kind, s.status) for s in (await run.steps())[1:3]] == [
        ("approval", "completed"),
        ("tool_call", "skipped"),
    ]
    [entry] = await trail(engine, run, "approval.decided")
    assert (entry.data["verdict"], "Monday" in json.dumps(entry.data)) == ("answer", False)


# ---- edited arguments


async def test_edited_arguments_are_the_persons_and_the_effect_is_done_with_them(engine: Engine, world: World) -> None:
    run = await engine.start(clerk(), asks(call("pay", amount=7000)), says())
    [approval] = await waiting(run)

    state = await run.approve(approval, by="ana", arguments={"amount": 70}, comment="Two zeros too many.")

    assert (await engine.finish(run)).status == "completed"
    assert amounts(world) == ["70"]
    assert state.approval.edited_by == "ana"
    assert state.approval.digest != approval.digest
    assert "paid 70" in told(engine)
    assert "[ana changed the arguments" in told(engine)
    assert '{"amount":70}' in told(engine)
    stored = await row(engine, approval)
    assert (stored.digest, stored.arguments, stored.decided_digest) == (
        approval.digest,
        '{"amount":7000}',
        state.approval.digest,
    )
    async with engine.ledger.read() as connection:
        kept = [tuple(found)[:4] for found in await connection.execute(select(edits))]
    assert kept == [(approval.id, state.approval.digest, '{"amount":70}', "ana")]
    edited, decided = (await trail(engine, run))[1:]
    assert (edited.kind, edited.data["by"]) == ("approval.edited", "ana")
    assert (edited.data["from"], edited.data["to"]) == (approval.digest, state.approval.digest)
    assert (decided.kind, decided.data["released"]) == ("approval.decided", state.approval.digest)
    assert (await run.steps())[2].arguments == '{"amount":70}'


async def test_after_an_edit_earlier_votes_do_not_count_and_others_approve_the_new_arguments(
    engine: Engine, world: World
) -> None:
    run = await engine.start(clerk(pays(required=2)), asks(call("pay", amount=7000)), says())
    [approval] = await waiting(run)

    await run.approve(approval, by="ana")
    edited = (await run.approve(approval, by="ben", arguments={"amount": 70})).approval

    assert (edited.status, edited.edited_by, world.effects) == ("pending", "ben", [])
    assert (await run.approve(approval, by="ben", arguments={"amount": 70})).repeated
    with pytest.raises(DigestMismatch):
        await run.approve(approval, by="cleo")
    with pytest.raises(DigestMismatch):
        await run.approve(approval, by="ana")
    assert (await run.approve(edited, by="ana")).approval.status == "approved"
    await engine.finish(run)
    assert amounts(world) == ["70"]
    assert (await row(engine, approval)).decided_by == "ben, ana"
    assert "[ben changed the arguments" in told(engine)


async def test_an_edit_back_to_what_the_model_asked_for_is_no_edit_for_the_model(engine: Engine, world: World) -> None:
    run = await engine.start(clerk(pays(required=2)), asks(call("pay", amount=7000)), says())
    [approval] = await waiting(run)

    edited = (await run.approve(approval, by="ben", arguments={"amount": 70})).approval
    back = (await run.approve(edited, by="ana", arguments={"amount": 7000})).approval
    assert (back.status, back.digest) == ("pending", approval.digest)
    await run.approve(back, by="ben")

    await engine.finish(run)
    assert amounts(world) == ["7000"]
    assert told(engine) == "paid 7000"


# ---- asking again


@pytest.mark.parametrize("handing_over_after", [None, 1])
async def test_a_model_that_asks_again_for_what_was_rejected_is_answered_without_asking_anybody(
    engine: Engine, world: World, handing_over_after: int | None
) -> None:
    again = [asks(RequestedCall(f"c{n}", "pay", text)) for n, text in enumerate(('{"amount": 7}', '{ "amount":7 }'))]
    stubborn = [again[0], again[1], asks(call("look")), *[asks(call("pay", f"d{n}", amount=7)) for n in range(3)]]
    run = await engine.start(clerk(), *stubborn, says("I could not pay."), continue_as_new_after=handing_over_after)
    [approval] = await waiting(run)

    await run.reject(approval, by="ana", comment="No invoice.")

    result = await engine.finish(run)
    assert (result.status, result.output) == ("completed", "I could not pay.")
    assert (world.effects, len(await Approvals(engine.ledger).of_run(run.id))) == ([], 1)
    for call_id in ("c1", "d0", "d1", "d2"):
        assert "ana has already rejected exactly this call in this run" in told(engine, call_id)
        assert "No invoice." in told(engine, call_id)
        assert "Nobody was asked again" in told(engine, call_id)
    assert [e.kind for e in await trail(engine, run)] == ["approval.requested", "approval.decided"]


async def test_a_model_that_never_gives_up_is_stopped_by_the_limit_on_repeats(engine: Engine, world: World) -> None:
    run = await engine.start(clerk(limits=Limits(max_repeats=5)), asks(call("pay", amount=7)))

    await run.reject((await waiting(run))[0], by="ana")

    result = await engine.finish(run)
    assert (result.status, result.reason, world.effects) == ("incomplete", "max_repeats", [])
    assert len(await Approvals(engine.ledger).of_run(run.id)) == 1


async def test_a_rejection_stands_for_these_arguments_and_this_run_alone(engine: Engine, world: World) -> None:
    lines = [asks(call("pay", "c0", amount=7)), asks(call("pay", "c1", amount=8)), says()]
    run = await engine.start(clerk(), *lines)
    await run.reject((await waiting(run))[0], by="ana")

    [other] = await waiting(run)
    assert other.preview == '{"amount":8}'
    await run.approve(other, by="ana")
    await engine.finish(run)
    next_run = await engine.start(clerk(), asks(call("pay", amount=7)), says())
    await run_to_the_end(engine, next_run)

    assert amounts(world) == ["8", "7"]


async def run_to_the_end(engine: Engine, run: Run) -> None:
    await run.approve((await waiting(run))[0], by="ana")
    assert (await engine.finish(run)).status == "completed"


# ---- released without asking


async def test_a_grant_releases_the_same_call_and_no_other_until_it_is_revoked(engine: Engine, world: World) -> None:
    plan = ApprovalRule(tools=("pay", "ship"), remember=RememberRule(scopes=("run",), longest=HOUR))
    lines = [
        asks(call("pay", "c0", amount=7)),
        asks(call("pay", "c1", amount=7)),
        asks(call("pay", "c2", amount=8)),
        asks(call("ship", "c3", item="7")),
        asks(call("pay", "c4", amount=7)),
        says(),
    ]
    run = await engine.start(clerk(plan), *lines)
    await run.approve((await waiting(run))[0], by="ana", remember=Remember(scope="run", lasts=HOUR))

    [larger] = await waiting(run)
    assert (larger.preview, amounts(world)) == ('{"amount":8}', ["7", "7"])
    await run.approve(larger, by="ana")
    [shipping] = await waiting(run, tool="ship")
    [grant] = await engine.client.grants()
    await engine.client.revoke_grant(grant.id, by="ben")
    await run.approve(shipping, by="ana")
    [asked_again] = await waiting(run, tool="pay")
    assert (asked_again.preview, len(world.effects)) == ('{"amount":7}', 4)
    await run.reject(asked_again, by="ana")

    await engine.finish(run)
    assert len({key for key, _ in world.effects}) == 4
    used = [a for a in await Approvals(engine.ledger).of_run(run.id) if a.decided_via == "grant"]
    assert [(a.status, a.decided_by, a.arguments) for a in used] == [("approved", grant.id, '{"amount":7}')]
    assert [e.subject for e in await trail(engine, run, "grant.used")] == [used[0].id]
    made = [e.kind for e in await AuditTrail(engine.ledger).entries() if e.subject == grant.id]
    assert made == ["grant.made", "grant.revoked"]


async def test_a_grant_that_has_ended_releases_nothing(engine: Engine, world: World) -> None:
    plan = pays(remember=RememberRule(scopes=("run",), longest=HOUR))
    run = await engine.start(clerk(plan), asks(call("pay", "c0", amount=7)), asks(call("pay", "c1", amount=7)), says())
    brief = Remember(scope="run", lasts=timedelta(microseconds=1))

    await run.approve((await waiting(run))[0], by="ana", remember=brief)

    await run.reject((await waiting(run))[0], by="ana")
    await engine.finish(run)
    assert len(world.effects) == 1
    assert await engine.client.grants() == []
    assert len(await engine.client.grants(everything=True)) == 1


@pytest.mark.parametrize("asked", [Remember(scope="agent", lasts=HOUR), Remember(scope="run", lasts=2 * HOUR)])
async def test_a_grant_wider_than_the_plan_allows_decides_nothing(
    engine: Engine, world: World, asked: Remember
) -> None:
    plan = pays(remember=RememberRule(scopes=("run", "thread"), longest=HOUR))
    run = await engine.start(clerk(plan), asks(call("pay", amount=7)), says())
    [approval] = await waiting(run)

    with pytest.raises(NotAnApprover, match="allows a standing grant for run, thread, for at most 1:00:00"):
        await run.approve(approval, by="ana", remember=asked)

    assert [(a.status, a.votes) for a in await run.approvals()] == [("pending", ())]
    assert (world.effects, await engine.client.grants(everything=True)) == ([], [])


@pytest.mark.parametrize(
    ("scope", "released"),
    [("run", [False, False, False]), ("thread", [True, False, False]), ("agent", [True, True, False])],
)
async def test_a_grant_holds_in_its_scope(engine: Engine, world: World, scope: Any, released: list[bool]) -> None:
    plan = pays(remember=RememberRule(scopes=("run", "thread", "agent"), longest=HOUR))
    first = await engine.start(clerk(plan), asks(call("pay", amount=7)), says())
    await first.approve((await waiting(first))[0], by="ana", remember=Remember(scope=scope, lasts=HOUR))
    thread = (await engine.finish(first)).thread

    found: list[bool] = []
    for agent, options in [
        (clerk(plan), {"thread": thread}),
        (clerk(plan), {}),
        (clerk(plan, name="other"), {}),
    ]:
        run = await engine.start(agent, asks(call("pay", amount=7)), says(), **options)
        [approval, *_] = await asked(engine, run)
        found.append(approval.decided_via == "grant")
        if not found[-1]:
            await run.reject((await waiting(run))[0], by="ana")
        await engine.finish(run)

    assert found == released
    assert len(world.effects) == 1 + sum(released)


async def asked(engine: Engine, run: Run) -> list[ApprovalRecord]:
    """The run's approvals, once there is one, whatever became of it."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not (found := await Approvals(engine.ledger).of_run(run.id)):
            await asyncio.sleep(0.02)
        return found


async def test_a_plan_that_asks_nobody_for_small_amounts_asks_for_larger_ones_and_for_what_is_no_amount(
    engine: Engine, world: World
) -> None:
    plan = ApprovalRule(tools=("transfer",), when={"amount": {"exclusiveMaximum": 100}}, required=0)
    values: list[Any] = [99, 100, "99", True, None, [1], {"amount": 1}]
    run = await engine.start(
        clerk(plan), asks(*[call("transfer", f"c{n}", amount=value) for n, value in enumerate(values)]), says()
    )

    pending = await waiting(run, len(values) - 1)
    assert [json.loads(a.preview)["amount"] for a in pending] == values[1:]
    for approval in pending:
        await run.reject(approval, by="ana")

    assert (await engine.finish(run)).status == "completed"
    assert amounts(world) == ["99"]
    [small] = [a for a in await Approvals(engine.ledger).of_run(run.id) if a.status == "approved"]
    assert (small.decided_via, small.decided_by, small.arguments) == ("plan", "plan:approvals.0", '{"amount":99}')
    [entry] = await trail(engine, run, "effect.released")
    assert (entry.subject, entry.data["released_by"]) == (small.id, "plan:approvals.0")


# ---- time


async def test_nobodys_silence_is_recorded_as_a_rejection(skipping: Engine, world: World) -> None:
    engine = skipping
    again, other = asks(call("pay", "c1", amount=7)), asks(call("ship", "c2", item="desk"))
    run = await engine.start(
        clerk(pays(expires_after=HOUR, on_expiry="reject")), asks(call("pay", "c0", amount=7)), again, other, says()
    )
    [approval] = await waiting(run)

    await pass_time(engine, run, HOUR - timedelta(minutes=1))
    assert (await run.approvals())[0].status == "pending"
    await pass_time(engine, run, timedelta(minutes=2))

    [shipping] = await waiting(run, tool="ship")
    for verdict in ("approve", "reject"):
        with pytest.raises(ApprovalExpired, match="nobody had decided"):
            await engine.client.decide(run.id, decision(approval, "ana", verdict))
    expired = await row(engine, approval)
    assert (expired.status, expired.decided_by, expired.verdict, expired.decided_via) == ("expired", None, None, None)
    assert approval.expires_at == approval.requested_at + HOUR
    assert at_last(expired.decided_at, approval.expires_at)
    assert await engine.client.votes(approval.id) == []
    steps = {(s.kind, s.call_id): (s.status, s.by) for s in await run.steps()}
    assert (steps["approval", "c0"], steps["tool_call", "c0"]) == (("completed", None), ("cancelled", None))
    assert steps["tool_call", "c1"][0] == "rejected"
    assert "no person's rejection" in told(engine, "c0")
    assert "nobody decided in time" in told(engine, "c1")
    entries = [e for e in await trail(engine, run) if e.subject == approval.id]
    assert [e.kind for e in entries] == ["approval.requested", "approval.expired"]
    assert "by" not in entries[1].data
    await run.approve(shipping, by="ana")
    await engine.finish(run)
    assert amounts(world) == ["desk"]


async def test_an_expiry_that_fails_the_run_withdraws_what_else_was_asked(skipping: Engine, world: World) -> None:
    engine = skipping
    agent = clerk(pays(expires_after=HOUR, on_expiry="fail"))
    run = await engine.start(agent, asks(call("pay", "a", amount=7), call("ship", "b", item="desk")), says())
    paying, shipping = await waiting(run, 2)

    await pass_time(engine, run, HOUR + timedelta(minutes=1))

    result = await engine.finish(run)
    assert (result.status, result.reason) == ("failed", "approval_expired")
    assert [(await row(engine, a)).status for a in (paying, shipping)] == ["expired", "withdrawn"]
    assert [e.kind for e in await trail(engine, run)][2:] == ["approval.expired", "approval.withdrawn"]
    assert world.effects == []


ESCALATES = {
    "approvers": ("ana",),
    "expires_after": HOUR,
    "on_expiry": "escalate",
    "escalate_to": ("role:board",),
}


@pytest.mark.parametrize("by", ["bea", "ana"])
async def test_an_escalation_lets_others_decide_as_well(skipping: Engine, world: World, by: str) -> None:
    engine = skipping
    run = await engine.start(clerk(pays(**ESCALATES)), asks(call("pay", amount=7)), says())
    [approval] = await waiting(run)
    with pytest.raises(NotAnApprover):
        await run.approve(approval, by="bea")

    await pass_time(engine, run, HOUR + timedelta(minutes=1))
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not (escalated := (await run.approvals())[0]).escalated:
            await asyncio.sleep(0.02)
    with pytest.raises(NotAnApprover, match="These may: ana, bea"):
        await run.approve(escalated, by="fay")
    await run.approve(approval, by=by)

    assert (await engine.finish(run)).status == "completed"
    assert amounts(world) == ["7"]
    assert at_last(escalated.expires_at, approval.requested_at + 2 * HOUR)
    stored = await row(engine, approval)
    assert (stored.approvers, stored.decided_by, stored.expires_at) == (["ana", "bea"], by, escalated.expires_at)
    entries = await trail(engine, run)
    assert [e.kind for e in entries] == ["approval.requested", "approval.escalated", "approval.decided"]
    assert entries[1].data["to"] == ["ana", "bea"]


@pytest.mark.parametrize(
    ("then", "status", "reason"), [("reject", "completed", None), ("fail", "failed", "approval_expired")]
)
async def test_an_escalation_expires_once_and_for_all(
    skipping: Engine, world: World, then: Any, status: str, reason: str | None
) -> None:
    engine = skipping
    agent = clerk(pays(**ESCALATES, on_escalation_expiry=then))
    run = await engine.start(agent, asks(call("pay", amount=7)), says())
    [approval] = await waiting(run)

    await pass_time(engine, run, 2 * HOUR + timedelta(minutes=1))

    result = await engine.finish(run)
    assert (result.status, result.reason, world.effects) == (status, reason, [])
    expired = await row(engine, approval)
    assert (expired.status, expired.decided_by) == ("expired", None)
    assert at_last(expired.decided_at, approval.requested_at + 2 * HOUR)
    kinds = [e.kind for e in await trail(engine, run)]
    assert kinds == ["approval.requested", "approval.escalated", "approval.expired"]


@dataclass
class Inbox:
    """A web server of the test's own that is told of approvals."""

    port: int
    events: list[tuple[str, str]] = field(default_factory=list)

    async def has(self, count: int) -> None:
        """Wait until it was told of so many events."""
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while len(self.events) < count:
                await asyncio.sleep(0.02)

    def of(self, approval: Approval) -> list[str]:
        return [event for event, subject in self.events if subject == approval.id]


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    monkeypatch.setenv("TEST_WEBHOOK", "whsec_" + "c2VjcmV0" * 6)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            telling.events.append((body["type"], body["data"]["id"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        telling = Inbox(http.server_address[1])
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield telling
        http.shutdown()
        thread.join(10)


@in_both_modes
async def test_people_are_reminded_until_they_decide_or_the_time_is_over(
    skipping_env: WorkflowEnvironment, tmp_path: Path, shop: Shop, world: World, inbox: Inbox
) -> None:
    webhook = Webhook(url=f"http://127.0.0.1:{inbox.port}/", secret="${TEST_WEBHOOK}")
    rule = pays(expires_after=HOUR, on_expiry="reject", remind_every=timedelta(minutes=25))
    async with serving(skipping_env, tmp_path, shop, webhooks=(webhook,)) as engine:
        both, then = asks(call("pay", "a", amount=1), call("pay", "b", amount=2)), asks(call("ship", item="desk"))
        run = await engine.start(clerk(rule), both, then)
        decided, left = await waiting(run, 2)
        await inbox.has(2)
        await pass_time(engine, run, timedelta(minutes=30))
        await inbox.has(4)
        await run.approve(decided, by="ana")
        await inbox.has(5)
        await pass_time(engine, run, timedelta(minutes=40))
        await inbox.has(8)
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while [entry.kind for entry in await AuditTrail(engine.ledger).entries(run=run.id)].count(
                "approval.reminded"
            ) < 3:
                await asyncio.sleep(0.02)
        # The test server's clock stands still for good when a run ends before a notice of it.
        await pass_time(engine, run, timedelta(minutes=1))
        await run.cancel()
        await engine.finish(run)

    assert sorted(inbox.of(decided)) == ["approval.decided", "approval.reminded", "approval.requested"]
    assert sorted(inbox.of(left)) == [
        "approval.expired",
        "approval.reminded",
        "approval.reminded",
        "approval.requested",
    ]
    assert amounts(world) == ["1"]


# ---- two at once

ROUNDS = 200
LANES = 4


async def test_two_people_who_decide_the_opposite_at_the_same_instant_leave_one_winner_and_the_loser_knows_who(
    engine: Engine, world: World
) -> None:
    each = ROUNDS // LANES
    agent = clerk(limits=Limits(max_calls_per_turn=each))
    turn = asks(*[call("pay", f"c{n}", amount=n) for n in range(each)])
    engine.model.lines[:] = [turn] * LANES + [says()]
    runs = [await engine.client.start(agent, "Go.") for _ in range(LANES)]

    async def lane(run: Run) -> dict[str, tuple[str, str]]:
        """Who won each round, and how."""
        won: dict[str, tuple[str, str]] = {}
        for number, approval in enumerate(await waiting(run, each)):
            both = [decision(approval, "ana", "approve"), decision(approval, "ben", "reject")]
            both = both if number % 2 else both[::-1]
            results = await engine.client.decide_many([(run.id, one) for one in both])
            [loser] = [result for result in results if isinstance(result, HorariumError)]
            [state] = [result for result in results if not isinstance(result, HorariumError)]
            winner = state.approval.decided_by
            assert winner is not None
            assert isinstance(loser, ApprovalAlreadyDecided)
            assert f"already {state.approval.status} by {winner}" in str(loser)
            assert (state.repeated, winner, state.approval.status) in [
                (False, "ana", "approved"),
                (False, "ben", "rejected"),
            ]
            won[approval.id] = (state.approval.status, winner)
        return won

    won = {k: v for found in await asyncio.gather(*map(lane, runs)) for k, v in found.items()}
    results = [await engine.finish(run) for run in runs]

    assert [result.status for result in results] == ["completed"] * LANES
    rows = [found for run in runs for found in await Approvals(engine.ledger).of_run(run.id)]
    assert {found.id: (found.status, found.decided_by) for found in rows} == won
    assert len(won) == ROUNDS
    assert len({key for key, _ in world.effects}) == len(world.effects) == sum(s == "approved" for s, _ in won.values())
    lines = [line async for line in AuditTrail(engine.ledger).export()]
    head = await AuditTrail(engine.ledger).head()
    assert verify(lines, head=head.hash).intact
    entries = [json.loads(line) for line in lines]
    decided = {e["subject"]: e["data"]["by"] for e in entries if e["kind"] == "approval.decided"}
    assert decided == {approval: winner for approval, (_, winner) in won.items()}
    assert [e["kind"] for e in entries].count("approval.decided") == ROUNDS
    assert {e["kind"] for e in entries} == {"approval.requested", "approval.decided"}


# ---- what cannot be kept as it was given

KNOWN_SECRET = "correct-horse-battery-staple"


@pytest.mark.parametrize(
    ("value", "reason"),
    [(f"it is {KNOWN_SECRET}", "secret"), ("a\x00b", "NUL"), (2**63, "64 bits"), (math.nan, "NaN")],
    ids=["a secret", "NUL", "a long number", "no number"],
)
async def test_an_edit_that_could_not_be_kept_to_the_letter_is_refused_at_once_and_named(
    engine: Engine, world: World, value: Any, reason: str
) -> None:
    conceal(KNOWN_SECRET)
    run = await engine.start(clerk(), asks(call("transfer", amount=7)), says())
    [approval] = await waiting(run)

    with pytest.raises(ArgumentsRejected, match=rf"edited argument 'amount' holds .*{reason}") as refused:
        await run.approve(approval, by="ana", arguments={"amount": value})

    assert KNOWN_SECRET not in str(refused.value)
    assert [(a.status, a.votes) for a in await run.approvals()] == [("pending", ())]
    await run.approve(approval, by="ana", arguments={"amount": 70})
    await engine.finish(run)
    assert world.effects == [("transfer", "70")]


async def test_a_signal_whose_number_is_none_decides_nothing(engine: Engine, world: World) -> None:
    run = await engine.start(clerk(), asks(call("transfer", amount=7)), says())
    [approval] = await waiting(run)
    said = decision(approval, "ana", arguments={"amount": 1}).model_dump_json(exclude_none=True)
    payload = WirePayload(
        metadata={"encoding": b"json/plain"}, data=said.replace('{"amount":1}', '{"amount":NaN}').encode()
    )

    await engine.env.client.get_workflow_handle(run.id).signal("approve", RawValue(payload))

    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not (refused := (await run.status()).refused_signals):
            await asyncio.sleep(0.02)
    assert "'amount' holds a number that JSON does not have" in refused[0]
    await run.reject(approval, by="ana")
    await engine.finish(run)
    assert world.effects == []


# ---- many people

STAFF = tuple(f"{number:03}.of.the.staff@a-department-with-a-long-name.de.example.com" for number in range(500))
MOST_BYTES = 64 * 1024


async def largest_payload(engine: Engine, run: Run) -> int:
    """Of any event of any execution of a run."""
    sizes = [0]
    async for history in executions(engine.env, run.id):
        sizes += [event.ByteSize() for event in history.events]
    return max(sizes)


async def test_a_turn_full_of_calls_that_hundreds_may_decide_stays_small_also_when_it_continues_as_new(
    env: WorkflowEnvironment, tmp_path: Path, shop: Shop, world: World
) -> None:
    assert all(len(name) >= 60 for name in STAFF)
    settings = Settings(root=tmp_path, approvals=ApprovalsSettings(roles={"staff": STAFF}))
    rule = ApprovalRule(tools=("transfer",), approvers=("role:staff",), required=2)
    async with running_engine(env, tmp_path, shop.tools(), settings=settings) as engine:
        calls = [call("transfer", f"call_number_{n}", amount="x" * 450 + f"{n}") for n in range(32)]
        run = await engine.start(clerk(rule), asks(*calls), says(), continue_as_new_after=1)
        approvals = await waiting(run, 32)
        first = (await engine.env.client.get_workflow_handle(run.id).describe()).run_id
        for approval in approvals:
            await run.approve(approval, by=STAFF[0], comment="c" * 300)
        await run.message("And be quick.")  # then it continues as new
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while (await engine.env.client.get_workflow_handle(run.id).describe()).run_id == first:
                await asyncio.sleep(0.02)

        shown = (await run.approvals())[0]
        assert (shown.approvers[0], len(shown.approvers) + shown.more_approvers) == (STAFF[0], 500)
        assert (await row(engine, shown)).approvers == list(STAFF)
        with pytest.raises(NotAnApprover, match=r"mallory may not decide this\. These may: 000\.of\.the\.staff.* more"):
            await run.approve(shown, by="mallory")
        await asyncio.gather(*(run.approve(approval, by=STAFF[-1].upper()) for approval in approvals))

        assert (await engine.finish(run)).status == "completed"
        assert len(world.effects) == 32
        assert await largest_payload(engine, run) < MOST_BYTES


async def test_ten_people_with_much_to_say_release_one_call(engine: Engine, world: World) -> None:
    run = await engine.start(clerk(pays(required=10)), asks(call("pay", amount=1)), says())
    [approval] = await waiting(run)

    for number in range(10):
        await run.approve(approval, by=f"person {number}", comment="c" * 2_000)

    assert (await engine.finish(run)).status == "completed"
    assert amounts(world) == ["1"]
    assert [len(vote.comment or "") for vote in await engine.client.votes(approval.id)] == [2_000] * 10
    assert await largest_payload(engine, run) < MOST_BYTES


@in_both_modes
async def test_whoever_of_many_may_decide_may_also_say_what_became_of_the_call(
    env: WorkflowEnvironment, tmp_path: Path, shop: Shop, world: World
) -> None:
    settings = Settings(root=tmp_path, approvals=ApprovalsSettings(roles={"staff": STAFF}))
    async with running_engine(env, tmp_path, shop.tools(), settings=settings) as engine:
        world.fail_next.append(ConnectionError("reset by peer"))
        run = await engine.start(clerk(pays(approvers=("role:staff",))), asks(call("pay", amount=7)), says())
        await run.approve((await waiting(run))[0], by=STAFF[-1])
        unknown = await unknown_step(run)

        with pytest.raises(NotAnApprover, match="mallory may not decide this"):
            await run.resolve(unknown, "supply", by="mallory", output="paid")
        await run.resolve(unknown, "supply", by=STAFF[-2], output="paid by hand")

        assert (await engine.finish(run)).status == "completed"
        assert told(engine) == "paid by hand"


async def unknown_step(run: Run) -> str:
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            for item in (await run.status()).waiting_for:
                if item.kind == "unknown_outcome":
                    return item.id
            await asyncio.sleep(0.02)


# ---- going on with a run that went on with another


async def test_a_run_that_resumes_a_resumed_one_has_its_thread_and_its_calls_and_keeps_all_starters_out(
    engine: Engine, world: World
) -> None:
    agent = clerk(pays(four_eyes=True))
    run = await engine.start(agent, asks(call("pay", amount=5)), says("Paid."), requested_by="ana")
    await waiting(run)
    thread = (await run.record()).thread_id
    for starter in ("ben", "cem"):
        await run.cancel()
        await engine.finish(run)
        run = await engine.start(agent, says("Paid."), input="Go on.", resume_from=run.id, requested_by=starter)
        [approval] = await waiting(run)
        assert (await run.record()).thread_id == thread

    assert approval.not_by == ("cem", "ben", "ana")
    for starter in approval.not_by:
        with pytest.raises(NotAnApprover):
            await run.approve(approval, by=starter)
    await run.approve(approval, by="dora")
    assert (await engine.finish(run)).thread == thread
    assert amounts(world) == ["5"]
    assert [m.text for m in await engine.client.thread(thread) if m.role == "user"] == ["Go.", "Go on.", "Go on."]


# ---- a decision that meets an escalation


async def test_a_decision_that_comes_while_others_are_being_asked_waits_for_that_and_counts(
    skipping: Engine, world: World
) -> None:
    engine, people = skipping, ("bea", "ana", "mallory")
    turn = asks(*(call("pay", f"c{n}", amount=n) for n in range(3)))
    run = await engine.start(clerk(pays(**ESCALATES)), turn, says())
    approvals = await waiting(run, 3)
    handle = engine.env.client.get_workflow_handle(run.id)
    await pass_time(engine, run, HOUR - timedelta(minutes=1))

    async with engine.ledger.write():  # so that no escalation can be written down
        left = max(a.expires_at for a in approvals if a.expires_at) - await engine.env.get_current_time()
        await engine.env.sleep(left + timedelta(milliseconds=200))
        deciding = [
            asyncio.create_task(run.approve(approval, by=by)) for approval, by in zip(approvals, people, strict=True)
        ]
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while sum([e.HasField(ACCEPTED) for e in (await handle.fetch_history()).events]) < 3:
                await asyncio.sleep(0.02)
        assert not any(a.escalated for a in await run.approvals())
    by_bea, by_ana, by_mallory = await asyncio.gather(*deciding, return_exceptions=True)

    assert isinstance(by_mallory, NotAnApprover)
    for taken, by in ((by_bea, "bea"), (by_ana, "ana")):
        assert not isinstance(taken, BaseException), taken
        assert (taken.approval.status, taken.approval.decided_by) == ("approved", by)
    await run.reject(approvals[2], by="bea")
    assert (await engine.finish(run)).status == "completed"
    assert sorted(amounts(world)) == ["0", "1"]


ACCEPTED = "workflow_execution_update_accepted_event_attributes"


# ---- the plan itself


async def test_a_tool_that_only_reads_is_not_called_without_the_approval_its_plan_asks_for_whoever_calls_it(
    engine: Engine, world: World, shop: Shop
) -> None:
    rules = (
        ApprovalRule(tools=("look",), when={"what": {"const": "the weather"}}, required=0),
        ApprovalRule(tools=("look",), approvers=("ana",)),
    )
    run = await engine.start(clerk(*rules), asks(call("look", what="the safe")), says())
    await waiting(run)
    turn = next(step for step in await run.steps() if step.kind == "model_call")
    host = ToolHost(LedgerSteps(engine.ledger, KeyRing.of(engine.settings), require_proof=False), shop.tools())
    asking = ActivityEnvironment()
    asking.info = replace(asking.info, workflow_id=run.id)  # as the run's own workflow, if that forgot to ask
    wanted = Call(
        id="call_1",
        tool="look",
        digest="sha256:any",
        key=f"horarium/{run.id}/any",
        source=f"{run.id}/{turn.number:04d}",
    )

    outcome = await asking.run(
        host.call_tool, ToolStep(run=run.id, agent="clerk", tenant="default", number=90, call=wanted)
    )

    host.close()
    assert (outcome.code, world.looks) == ("not_approved", 0)
    assert "approvals.1" in (outcome.message or "")
    await run.cancel()
    await engine.finish(run)


async def test_a_call_that_the_plan_lets_through_unasked_is_made(engine: Engine, world: World) -> None:
    rule = ApprovalRule(tools=("look",), when={"what": {"const": "the safe"}})
    run = await engine.start(clerk(rule), asks(call("look", what="the weather")), says())

    assert (await engine.finish(run)).status == "completed"
    assert world.looks == 1


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"approvers": ("ana", "role:board"), "required": 2, "four_eyes": True}, "may not decide on a run of theirs"),
        ({"when": {"amuont": {"maximum": 5}}}, "pay takes no argument 'amuont'; did you mean 'amount'"),
    ],
    ids=["a quorum with the starter", "an argument that is not there"],
)
async def test_a_run_whose_plan_nobody_could_keep_is_not_opened(
    engine: Engine, world: World, rule: dict[str, Any], reason: str
) -> None:
    run = await engine.start(clerk(pays(**rule)), asks(call("pay", amount=7)), says(), requested_by="ana")

    result = await engine.finish(run)

    assert (result.status, result.reason in ("config", "conflict"), world.effects) == ("failed", True, [])
    assert reason in (result.message or "")


async def test_a_definition_whose_plan_cannot_be_kept_starts_nothing(engine: Engine) -> None:
    with pytest.raises(ConfigError, match=r"approvals\.0\.approvers\.0: there is no role 'finanze'.*'finance'"):
        await engine.start(clerk(pays(approvers=("role:finanze",))), says())

    assert await engine.client.runs() == []
    assert await engine.client.agents() == []
