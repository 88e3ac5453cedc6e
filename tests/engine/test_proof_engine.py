"""Where proof is required, what comes to Temporal's port without a signature releases nothing, whatever it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from horarium.client import Client, Run
from horarium.content import digest, digest_text
from horarium.contract import ENGINE_QUEUE, Approval, Decision, Proof, Remember, Resolution, Waiting
from horarium.definitions import Agent, ApprovalRule, RememberRule
from horarium.errors import Conflict, ProofInvalid
from horarium.ids import new_run_id
from horarium.ledger.audit import AuditRecord, AuditTrail
from horarium.proof import ANYBODY, LEEWAY, KeyRing, Signer
from horarium.protocol import (
    CLOSE_RUN,
    ESCALATE,
    MARK_RUN,
    RECORD_VOTE,
    SETTLE_APPROVALS,
    SETTLE_QUESTION,
    SETTLE_STEP,
    WRITE_MESSAGE,
    ApprovalOutcome,
    Ballot,
    Call,
    CloseRun,
    Escalate,
    MarkRun,
    ModelReply,
    Payload,
    RecordVote,
    SegmentDone,
    SettleApprovals,
    SettleQuestion,
    SettleStep,
    ToolStep,
    WriteMessage,
)
from horarium.serving import serve_tools
from horarium.settings import ApprovalsSettings, Settings, TemporalSettings
from tests.engine.conftest import World
from tests.support.engine import PATIENCE, Engine, asks, call, running_engine, says
from tests.support.intruder import ask_for, intrude
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes
from workflows.segment import in_done

Way = Literal["update", "signal"]
WAYS: tuple[Way, ...] = ("update", "signal")


def settings_of(root: Path, *, proof: bool, **more: Any) -> Settings:
    return Settings(root=root, approvals=ApprovalsSettings(require_proof=proof), **more)


@asynccontextmanager
async def serving(env: WorkflowEnvironment, root: Path, world: World, *, proof: bool) -> AsyncIterator[Engine]:
    async with running_engine(env, root, world.tools(), settings=settings_of(root, proof=proof)) as engine:  # type: ignore[arg-type]
        yield engine


@pytest.fixture
async def engine(env: WorkflowEnvironment, tmp_path: Path, world: World) -> AsyncIterator[Engine]:
    async with serving(env, tmp_path, world, proof=True) as engine:
        yield engine


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing.of(settings_of(tmp_path, proof=True))


@pytest.fixture
def signer(ring: KeyRing) -> Signer:
    return Signer(ring.create("gateway", (ANYBODY,)))


def clerk(*plan: ApprovalRule) -> Agent:
    return Agent("clerk", model="scripted:lines", tools=["look", "pay", "ship"], approvals=list(plan))


def approving(approval: Approval, by: str = "ana", **more: Any) -> Decision:
    return Decision.model_validate(
        {"approval": approval.id, "digest": approval.digest, "by": by, "verdict": "approve", **more}
    )


def plain(engine: Engine, run: Run) -> WorkflowHandle[Any, Any]:
    """The run as any Temporal client has it."""
    return engine.env.client.get_workflow_handle(run.id)


async def send(engine: Engine, run: Run, said: Decision | Resolution, way: Way) -> str | None:
    """Send it straight with Temporal; the code of the error, when it was told of one."""
    name = "decide" if isinstance(said, Decision) else "resolve"
    payload = said.model_dump(mode="json", exclude_none=True)
    if way == "signal":
        await plain(engine, run).signal(str(said.verdict) if isinstance(said, Decision) else name, payload)
        return None
    try:
        await plain(engine, run).execute_update(name, payload)
    except WorkflowUpdateFailedError as error:
        return error.cause.type if isinstance(error.cause, ApplicationError) else repr(error.cause)
    return None


async def refused_signals(run: Run, count: int) -> tuple[str, ...]:
    """What `status` says of signals that did not count, once there are so many."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while len(refused := (await run.status()).refused_signals) < count:
            await asyncio.sleep(0.02)
        return refused


async def first(run: Run) -> Approval:
    return await run.next_approval(PATIENCE)


async def unknown(run: Run) -> Waiting:
    """The step of the run whose outcome nobody knows, once it is shown."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            for item in (await run.status()).waiting_for:
                if item.kind != "approval":
                    return item
            await asyncio.sleep(0.02)


async def trail(engine: Engine, run: Run, *kinds: str) -> list[AuditRecord]:
    found = await AuditTrail(engine.ledger).entries(run=run.id, limit=1_000)
    return [entry for entry in found if not kinds or entry.kind in kinds]


# ---- what releases nothing


def with_proof_of(said: Decision, signed: Decision) -> Decision:
    return said.model_copy(update={"proof": signed.proof})


def changed_proof(said: Decision, **change: Any) -> Decision:
    assert said.proof is not None
    return said.model_copy(update={"proof": said.proof.model_copy(update=change)})


def another_key(signer: Signer, ring: KeyRing) -> Signer:
    """A key of an intruder's own, under the name of one that counts."""
    made = KeyRing.of(Settings(root=ring.file.parent / "elsewhere")).create("intruder", (ANYBODY,))
    return Signer(made.model_copy(update={"id": signer.id}))


def speaks_for_others(ring: KeyRing) -> Signer:
    """A key that is bens's, in the hands of somebody who says ana."""
    made = ring.create("ben's", ("ben",))
    return Signer(made.model_copy(update={"subjects": (ANYBODY,)}))


def revoked(ring: KeyRing) -> Signer:
    made = ring.create("leaked", (ANYBODY,))
    ring.revoke(made.id, datetime.now(UTC) - timedelta(seconds=1))
    return Signer(made)


Forge = Callable[[str, Decision, Signer, KeyRing], Decision]
OTHER = digest("other arguments")
FORGED: dict[str, tuple[Forge, str]] = {
    "no proof": (lambda run, said, signer, ring: said, "no proof"),
    "noise for a signature": (
        lambda run, said, signer, ring: changed_proof(signer.sign(run, said), signature="A" * 86),
        "not over what it says",
    ),
    "an intruder's key under our key's name": (
        lambda run, said, signer, ring: another_key(signer, ring).sign(run, said),
        "not over what it says",
    ),
    "a key nobody knows": (
        lambda run, said, signer, ring: changed_proof(signer.sign(run, said), key="key_0000000000000000"),
        "no key",
    ),
    "proof for another run": (
        lambda run, said, signer, ring: signer.sign("run_other", said),
        "not over what it says",
    ),
    "proof for another approval": (
        lambda run, said, signer, ring: with_proof_of(
            said, signer.sign(run, said.model_copy(update={"approval": "apr_other"}))
        ),
        "not over what it says",
    ),
    "proof for other arguments": (
        lambda run, said, signer, ring: with_proof_of(
            said, signer.sign(run, said.model_copy(update={"digest": OTHER}))
        ),
        "not over what it says",
    ),
    "proof without the edit": (
        lambda run, said, signer, ring: signer.sign(run, said).model_copy(update={"arguments": {"amount": 9_999}}),
        "not over what it says",
    ),
    "proof without the grant": (
        lambda run, said, signer, ring: signer.sign(run, said).model_copy(
            update={"remember": Remember(scope="run", lasts=timedelta(minutes=5))}
        ),
        "not over what it says",
    ),
    "proof for another verdict": (
        lambda run, said, signer, ring: with_proof_of(
            said, signer.sign(run, said.model_copy(update={"verdict": "reject"}))
        ),
        "not over what it says",
    ),
    "proof of another person": (
        lambda run, said, signer, ring: with_proof_of(said, signer.sign(run, said.model_copy(update={"by": "ben"}))),
        "not over what it says",
    ),
    "another person's key": (
        lambda run, said, signer, ring: speaks_for_others(ring).sign(run, said),
        "may not sign for 'ana'",
    ),
    "a revoked key": (lambda run, said, signer, ring: revoked(ring).sign(run, said), "was revoked"),
    "an old proof": (
        lambda run, said, signer, ring: signer.sign(run, said, lasts=timedelta(minutes=-5)),
        "expired",
    ),
    "an old proof with a new date": (
        lambda run, said, signer, ring: changed_proof(
            signer.sign(run, said, lasts=timedelta(minutes=-5)), expires_at=datetime.now(UTC) + timedelta(hours=1)
        ),
        "not over what it says",
    ),
}


@pytest.mark.parametrize(("forge", "why"), FORGED.values(), ids=FORGED)
async def test_a_decision_without_a_valid_proof_releases_nothing_and_the_attempt_is_in_the_audit_trail(
    engine: Engine, world: World, ring: KeyRing, signer: Signer, forge: Forge, why: str
) -> None:
    plan = ApprovalRule(tools=("pay",), remember=RememberRule())
    run = await engine.start(clerk(plan), asks(call("pay", amount=7)), says())
    approval = await first(run)
    forged = forge(run.id, approving(approval), signer, ring)

    assert await send(engine, run, forged, "update") == "proof_invalid"
    assert await send(engine, run, forged, "signal") is None

    assert [why in words for words in await refused_signals(run, 1)] == [True]
    assert ((await run.status()).status, world.effects) == ("requires_action", [])
    assert [(a.status, a.votes, a.digest) for a in await run.approvals()] == [("pending", (), approval.digest)]
    refused = await trail(engine, run, "decision.refused")
    assert [(e.subject, e.data["via"], e.data["code"], e.data["by"]) for e in refused] == [
        (approval.id, way, "proof_invalid", "ana") for way in WAYS
    ]
    assert why in refused[0].data["reason"]
    await send(engine, run, signer.sign(run.id, approving(approval)), "update")
    assert (await engine.finish(run)).status == "completed"
    assert len(world.effects) == 1


async def test_a_rejection_needs_proof_as_well(engine: Engine, world: World, signer: Signer) -> None:
    run = await engine.start(clerk(), asks(call("pay", amount=7)), says())
    approval = await first(run)
    rejecting = approving(approval).model_copy(update={"verdict": "reject"})

    for way in WAYS:
        await send(engine, run, rejecting, way)
    await refused_signals(run, 1)

    assert (await run.approvals())[0].status == "pending"
    await send(engine, run, signer.sign(run.id, rejecting), "signal")
    assert (await engine.finish(run)).status == "completed"
    assert world.effects == []


@in_both_modes
async def test_a_proof_is_good_for_one_approval_of_two_that_are_alike(
    engine: Engine, world: World, signer: Signer
) -> None:
    run = await engine.start(clerk(), asks(call("pay", "a", amount=7), call("pay", "b", amount=7)), says())
    await first(run)
    one, other = await run.approvals()
    signed = signer.sign(run.id, approving(one))

    assert await send(engine, run, signed.model_copy(update={"approval": other.id}), "update") == "proof_invalid"
    assert await send(engine, run, signed, "update") is None
    assert await send(engine, run, signed, "update") is None
    assert [a.status for a in await run.approvals()] == ["approved", "pending"]

    await send(engine, run, signer.sign(run.id, approving(other)), "update")
    await engine.finish(run)
    assert len({key for key, _ in world.effects}) == len(world.effects) == 2


# ---- what releases


@in_both_modes
@pytest.mark.parametrize("way", WAYS)
async def test_a_signed_decision_releases_the_effect_once_and_its_key_is_on_record(
    engine: Engine, world: World, signer: Signer, way: Way
) -> None:
    run = await engine.start(clerk(), asks(call("pay", amount=7)), says())
    approval = await first(run)

    if way == "update":
        await run.approve(approval, by="ana", comment="Seen.")
    else:
        await send(engine, run, signer.sign(run.id, approving(approval, comment="Seen.")), "signal")

    assert (await engine.finish(run)).status == "completed"
    assert [amount for _, amount in world.effects] == ["7"]
    [vote] = await engine.client.votes(approval.id)
    assert (vote.by, vote.via, vote.key) == ("ana", way, signer.id)
    [decided] = await trail(engine, run, "approval.decided")
    assert (decided.data["identity"], decided.data["key"]) == ("proven", signer.id)
    assert Proof.model_validate(decided.data["proof"]).key == signer.id
    assert await trail(engine, run, "decision.refused") == []


async def test_a_client_without_a_key_is_told_that_its_decision_is_not_proved(engine: Engine, world: World) -> None:
    run = await engine.start(clerk(), asks(call("pay", amount=7)), says())

    with pytest.raises(ProofInvalid, match="carries no proof"):
        await run.approve(await first(run), by="ana")

    assert (world.effects, (await run.status()).status) == ([], "requires_action")


@in_both_modes
@pytest.mark.parametrize("arguments", [{"amount": 70}, {"amount": 7}], ids=["other arguments", "the same arguments"])
async def test_a_signed_edit_is_performed_with_the_persons_arguments(
    engine: Engine, world: World, signer: Signer, arguments: dict[str, Any]
) -> None:
    run = await engine.start(clerk(), asks(call("pay", amount=7)), says())

    await run.approve(await first(run), by="ana", arguments=arguments)

    assert (await engine.finish(run)).status == "completed"
    assert [amount for _, amount in world.effects] == [str(arguments["amount"])]
    assert await trail(engine, run, "decision.refused") == []


@in_both_modes
async def test_two_signed_votes_release_what_the_second_changed_back(
    engine: Engine, world: World, signer: Signer
) -> None:
    run = await engine.start(clerk(ApprovalRule(tools=("pay",), required=2)), asks(call("pay", amount=7)), says())
    approval = await first(run)

    edited = (await run.approve(approval, by="ana", arguments={"amount": 70})).approval
    back = (await run.approve(edited, by="ben", arguments={"amount": 7})).approval
    await run.approve(back, by="ana")

    assert (await engine.finish(run)).status == "completed"
    assert [amount for _, amount in world.effects] == ["7"]
    assert await trail(engine, run, "decision.refused") == []


@in_both_modes
async def test_two_signed_votes_release_what_the_first_changed(engine: Engine, world: World, signer: Signer) -> None:
    run = await engine.start(clerk(ApprovalRule(tools=("pay",), required=2)), asks(call("pay", amount=7)), says())
    approval = await first(run)

    edited = (await run.approve(approval, by="ana", arguments={"amount": 70})).approval
    await run.approve(edited, by="ben")

    assert (await engine.finish(run)).status == "completed"
    assert [amount for _, amount in world.effects] == ["70"]
    assert [vote.key for vote in await engine.client.votes(approval.id)] == [signer.id] * 2


async def over(proof: Proof | None) -> None:
    """Wait until a proof's time is over, also for a clock that is behind."""
    assert proof is not None
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while datetime.now(UTC) <= proof.expires_at + LEEWAY:
            await asyncio.sleep(0.05)


@in_both_modes
async def test_votes_further_apart_than_a_proof_lasts_release_the_call_together(
    engine: Engine, world: World, signer: Signer
) -> None:
    run = await engine.start(clerk(ApprovalRule(tools=("pay",), required=2)), asks(call("pay", amount=7)), says())
    approval = await first(run)
    early = signer.sign(run.id, approving(approval, "ana"), lasts=timedelta(seconds=4) - LEEWAY)

    assert await send(engine, run, early, "update") is None
    await over(early.proof)
    assert await send(engine, run, signer.sign(run.id, approving(approval, "ben")), "update") is None

    assert (await engine.finish(run)).status == "completed"
    assert len(world.effects) == 1
    assert [(vote.by, vote.key) for vote in await engine.client.votes(approval.id)] == [
        ("ana", signer.id),
        ("ben", signer.id),
    ]
    assert await trail(engine, run, "decision.refused") == []


@in_both_modes
async def test_a_vote_whose_key_was_revoked_since_releases_nothing(
    engine: Engine, world: World, ring: KeyRing, signer: Signer
) -> None:
    run = await engine.start(clerk(ApprovalRule(tools=("pay",), required=2)), asks(call("pay", amount=7)), says())
    approval = await first(run)
    leaked = Signer(ring.create("leaked", ("mallory",)))

    await send(engine, run, leaked.sign(run.id, approving(approval, "mallory")), "update")
    ring.revoke(leaked.id, datetime.now(UTC))
    await send(engine, run, signer.sign(run.id, approving(approval, "ben")), "update")

    assert "was revoked" in (await refused_signals(run, 1))[0]
    assert (world.effects, (await engine.client.approval(approval.id)).status) == ([], "pending")
    for by in ("ana", "ben"):
        await send(engine, run, signer.sign(run.id, approving(approval, by)), "update")
    assert (await engine.finish(run)).status == "completed"
    assert len(world.effects) == 1


# ---- unknown outcomes


@pytest.mark.parametrize("verdict", ["retry", "supply", "skip", "fail"])
async def test_a_word_on_an_unknown_outcome_without_proof_changes_nothing(
    engine: Engine, world: World, signer: Signer, verdict: Any
) -> None:
    world.fail_next = [ConnectionError("reset by peer")]
    run = await engine.start(clerk(), asks(call("pay", amount=7)), says())
    await run.approve(await first(run), by="ana")
    open_question = await unknown(run)
    said = Resolution(
        step=open_question.id, question=open_question.question, verdict=verdict, by="ana", output="receipt 12"
    )
    elsewhere = said.model_copy(update={"proof": signer.sign("run_other", said).proof})

    for count, forged in enumerate((said, elsewhere), 1):
        assert await send(engine, run, forged, "update") == "proof_invalid"
        assert await send(engine, run, forged, "signal") is None
        assert len(await refused_signals(run, count)) == count
    assert await send(engine, run, said.model_copy(update={"question": None}), "update") == "proof_invalid"

    status = await run.status()
    assert (status.status, status.waiting_for[0].kind, world.effects) == ("requires_action", "unknown_outcome", [])
    refused = await trail(engine, run, "decision.refused")
    assert [e.data["via"] for e in refused] == ["update", "signal", "update", "signal", "update"]
    assert {e.subject for e in refused[:4]} == {open_question.question}
    await run.resolve(open_question.id, "skip", by="ana")
    assert (await engine.finish(run)).status == "completed"
    assert world.effects == []


@in_both_modes
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("comment", [None, "It never arrived."])
async def test_a_signed_word_to_do_it_again_does_it_once(
    engine: Engine, world: World, signer: Signer, way: Way, comment: str | None
) -> None:
    world.fail_next = [ConnectionError("reset by peer")]
    run = await engine.start(clerk(), asks(call("pay", amount=7)), says())
    await run.approve(await first(run), by="ana")
    open_question = await unknown(run)

    if way == "update":
        await run.resolve(open_question.id, "retry", by="ana", comment=comment)
    else:
        said = Resolution(
            step=open_question.id, question=open_question.question, verdict="retry", by="ana", comment=comment
        )
        await send(engine, run, signer.sign(run.id, said), "signal")

    assert (await engine.finish(run)).status == "completed"
    assert len(world.effects) == 1
    [resolved] = await trail(engine, run, "question.resolved")
    assert (resolved.data["key"], resolved.data["via"]) == (signer.id, way)
    assert await trail(engine, run, "decision.refused") == []


# ---- proof off, and proof turned on later


async def test_with_proof_off_a_plain_signal_approves_and_the_name_is_recorded_as_a_claim(
    env: WorkflowEnvironment, tmp_path: Path, world: World
) -> None:
    async with serving(env, tmp_path, world, proof=False) as engine:
        run = await engine.start(clerk(), asks(call("pay", amount=7)), says())
        approval = await first(run)

        await send(engine, run, approving(approval), "signal")

        assert (await engine.finish(run)).status == "completed"
        assert len(world.effects) == 1
        [vote] = await engine.client.votes(approval.id)
        assert (vote.by, vote.via, vote.key) == ("ana", "signal", None)
        [decided] = await trail(engine, run, "approval.decided")
        assert decided.data["identity"] == "claimed"


async def test_with_proof_off_a_proof_that_is_wrong_is_refused_all_the_same(
    env: WorkflowEnvironment, tmp_path: Path, world: World, signer: Signer
) -> None:
    async with serving(env, tmp_path, world, proof=False) as engine:
        run = await engine.start(clerk(), asks(call("pay", amount=7)), says())
        approval = await first(run)

        forged = changed_proof(signer.sign(run.id, approving(approval)), signature="A" * 86)
        assert await send(engine, run, forged, "update") == "proof_invalid"

        assert world.effects == []
        await run.approve(approval, by="ana")
        await engine.finish(run)
        assert [vote.key for vote in await engine.client.votes(approval.id)] == [signer.id]


@in_both_modes
async def test_a_run_opened_without_proof_goes_back_to_its_approval_once_proof_is_required(
    env: WorkflowEnvironment, tmp_path: Path, world: World, signer: Signer
) -> None:
    async with serving(env, tmp_path, world, proof=False) as before:
        run = await before.start(clerk(), asks(call("pay", amount=7)), says())
        approval = await first(run)

    async with serving(env, tmp_path, world, proof=True) as engine:
        engine.model.lines[:] = [says()]
        run = engine.client.run(run.id)
        await refused_and_then_signed(engine, run, approval, world, signer)


WORDS: list[dict[str, str]] = [
    {"verdict": "reject", "comment": "No."},
    {"verdict": "answer", "answer": "Paid already, send the rest to DE00."},
]


@pytest.mark.parametrize("said", WORDS, ids=["reject", "answer"])
async def test_a_run_opened_without_proof_takes_no_unsigned_word_once_proof_is_required(
    env: WorkflowEnvironment, tmp_path: Path, world: World, signer: Signer, said: dict[str, str]
) -> None:
    async with serving(env, tmp_path, world, proof=False) as before:
        run = await before.start(clerk(), asks(call("pay", amount=7)), says())
        approval = await first(run)

    async with serving(env, tmp_path, world, proof=True) as engine:
        engine.model.lines[:] = [says()]
        run = engine.client.run(run.id)
        unsigned = approving(approval, "mallory", **said)
        await send(engine, run, unsigned, "update")

        assert "no proof" in (await refused_signals(run, 1))[0]
        assert await send(engine, run, unsigned, "update") == "proof_invalid", "from now on it is told at once"
        assert [a.status for a in await run.approvals()] == ["pending"]
        assert (await engine.client.approval(approval.id)).status == "pending"
        assert (await run.status()).waiting_for[0].id == approval.id
        assert {e.data["code"] for e in await trail(engine, run, "decision.refused")} == {"proof_invalid"}

        await send(engine, run, signer.sign(run.id, approving(approval, "ana", **said)), "update")
        assert (await engine.finish(run)).status == "completed"
        [decided] = await trail(engine, run, "approval.decided")
        assert (decided.data["by"], decided.data["identity"], decided.data["key"]) == ("ana", "proven", signer.id)
        heard = [text for role, text in engine.model.heard() if role == "tool"]
        assert "ana" in heard[-1]
        assert world.effects == []


@pytest.mark.parametrize("verdict", ["supply", "skip", "fail", "retry"])
async def test_a_run_opened_without_proof_takes_no_unsigned_word_on_an_unknown_outcome_once_proof_is_required(
    env: WorkflowEnvironment, tmp_path: Path, world: World, signer: Signer, verdict: Any
) -> None:
    world.fail_next = [ConnectionError("reset by peer")]
    async with serving(env, tmp_path, world, proof=False) as before:
        run = await before.start(clerk(), asks(call("pay", amount=7)), says())
        await run.approve(await first(run), by="ana")
        asked = await unknown(run)

    async with serving(env, tmp_path, world, proof=True) as engine:
        engine.model.lines[:] = [says()]
        run = engine.client.run(run.id)
        unsigned = Resolution(step=asked.id, question=asked.question, verdict=verdict, by="mallory", output="Receipt 1")

        assert await send(engine, run, unsigned, "update") == "proof_invalid"
        await send(engine, run, unsigned, "signal")
        await refused_signals(run, 1)
        assert await unknown(run) == asked

        await run.resolve(asked.id, "supply", by="ana", output="Receipt 2")
        assert (await engine.finish(run)).status == "completed"
        [settled] = await trail(engine, run, "question.resolved")
        assert (settled.data["by"], settled.data["key"]) == ("ana", signer.id)
        assert world.effects == []


@in_both_modes
async def test_an_unsigned_vote_in_a_run_opened_without_proof_does_not_count_and_leaves_the_signed_ones(
    env: WorkflowEnvironment, tmp_path: Path, world: World, signer: Signer
) -> None:
    plan = ApprovalRule(tools=("pay",), required=3)
    async with serving(env, tmp_path, world, proof=False) as before:
        run = await before.start(clerk(plan), asks(call("pay", amount=7)), says())
        approval = await first(run)

    async with serving(env, tmp_path, world, proof=True) as engine:
        engine.model.lines[:] = [says()]
        run = engine.client.run(run.id)
        await send(engine, run, signer.sign(run.id, approving(approval, "ana")), "update")

        assert await send(engine, run, approving(approval, "mallory"), "update") == "proof_invalid"

        assert [vote.by for vote in (await run.approvals())[0].votes] == ["ana"]
        assert [vote.by for vote in await engine.client.votes(approval.id)] == ["ana"]
        for by in ("ben", "cleo"):
            await send(engine, run, signer.sign(run.id, approving(approval, by)), "update")
        assert (await engine.finish(run)).status == "completed"
        assert len(world.effects) == 1


async def test_a_vote_that_was_a_claim_counts_again_once_the_same_person_proves_it(
    env: WorkflowEnvironment, tmp_path: Path, world: World, signer: Signer
) -> None:
    async with serving(env, tmp_path, world, proof=False) as before:
        run = await before.start(clerk(ApprovalRule(tools=("pay",), required=2)), asks(call("pay", amount=7)), says())
        approval = await first(run)
        await send(before, run, approving(approval, "ana"), "update")
        assert [vote.key for vote in await before.client.votes(approval.id)] == [None]

    async with serving(env, tmp_path, world, proof=True) as engine:
        engine.model.lines[:] = [says()]
        run = engine.client.run(run.id)
        assert await send(engine, run, signer.sign(run.id, approving(approval, "ana")), "update") is None
        assert [(vote.by, vote.key) for vote in await engine.client.votes(approval.id)] == [("ana", signer.id)]
        await send(engine, run, signer.sign(run.id, approving(approval, "ben")), "update")

        assert (await engine.finish(run)).status == "completed"
        assert len(world.effects) == 1
        votes = await trail(engine, run, "approval.voted", "approval.decided")
        assert [(e.data["by"], e.data["identity"]) for e in votes] == [
            ("ana", "claimed"),
            ("ana", "proven"),
            ("ben", "proven"),
        ]


async def test_what_a_run_carries_along_counts_only_when_it_continues_itself(
    engine: Engine, world: World, signer: Signer
) -> None:
    run = await engine.start(clerk(), asks(call("pay", amount=7)), says())
    approval = await first(run)
    made_up = {"plan": plan_of(run), "state": {}, "approvals": [], "messages": 0, "refused": [], "status": "completed"}

    handle = await engine.env.client.start_workflow(
        "AgentRun", {"agent": "clerk", "carried": made_up}, id=new_run_id(), task_queue=ENGINE_QUEUE
    )
    with pytest.raises(WorkflowFailureError) as failed:
        await asyncio.wait_for(handle.result(), PATIENCE.total_seconds())

    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "bad_request"
    assert "leave it out" in failed.value.cause.message
    await send(engine, run, signer.sign(run.id, approving(approval)), "update")
    assert (await engine.finish(run)).status == "completed"
    assert len(world.effects) == 1


def plan_of(run: Run) -> dict[str, Any]:
    return {
        "run": run.id,
        "thread": "thr_made-up",
        "agent": "clerk",
        "version": 1,
        "limits": {},
        "on_step_failure": "tell",
        "model_timeout": 20,
        "heartbeat_timeout": 10,
        "revision": 1,
    }


async def test_a_word_on_a_question_is_a_repeat_only_from_the_same_person_with_the_same_result(
    env: WorkflowEnvironment, tmp_path: Path, world: World
) -> None:
    async with serving(env, tmp_path, world, proof=False) as engine:
        world.fail_next = [ConnectionError("reset by peer")]
        run = await engine.start(clerk(), asks(call("pay", amount=9), call("ship", "c2", item="x")), says())
        await engine.client.decide(run.id, approving(await first(run)))
        asked = await unknown(run)
        first_word = {"verdict": "supply", "by": "ana", "output": "Receipt 1", "question": asked.question}
        assert not (await run.resolve(asked.id, **first_word)).repeated  # type: ignore[arg-type]

        for named in (asked.question, None):
            again = first_word | {"question": named, "by": " Ana "}
            assert (await run.resolve(asked.id, **again)).repeated  # type: ignore[arg-type]
            for other in ({"output": "Receipt 2"}, {"by": "ben"}, {"verdict": "skip", "output": None}):
                with pytest.raises(Conflict, match="settled before by ana: supply"):
                    await run.resolve(asked.id, **again | other)  # type: ignore[arg-type]

        [settled] = await trail(engine, run, "question.resolved")
        assert (settled.data["by"], settled.data["output"]) == ("ana", digest_text("Receipt 1"))


@pytest.fixture
async def strict_tools(env: WorkflowEnvironment, tmp_path: Path, world: World, signer: Signer) -> AsyncIterator[Engine]:
    """An engine that requires no proof, and a tool worker of its own that does."""
    address = env.client.service_client.config.target_host
    strict = settings_of(tmp_path, proof=True, temporal=TemporalSettings(address=address))
    stop = asyncio.Event()
    async with running_engine(env, tmp_path, [], settings=settings_of(tmp_path, proof=False)) as engine:
        tools = asyncio.create_task(serve_tools(world.tools(), name=tmp_path.name, settings=strict, stop=stop))  # type: ignore[arg-type]
        try:
            yield engine
        finally:
            stop.set()
            await asyncio.wait_for(tools, 30)


@in_both_modes
async def test_a_tool_worker_that_requires_proof_performs_nothing_for_an_engine_that_does_not(
    strict_tools: Engine, world: World, signer: Signer
) -> None:
    run = await strict_tools.start(clerk(), asks(call("pay", amount=7)), says())

    await refused_and_then_signed(strict_tools, run, await first(run), world, signer)


@in_both_modes
async def test_a_tool_worker_that_requires_proof_does_nothing_again_without_it(
    strict_tools: Engine, world: World, signer: Signer
) -> None:
    engine = strict_tools
    world.fail_next = [ConnectionError("reset by peer")]
    run = await engine.start(clerk(), asks(call("pay", amount=7)), says())
    await run.approve(await first(run), by="ana")
    before = await unknown(run)

    await send(engine, run, Resolution(step=before.id, question=before.question, verdict="retry", by="ana"), "signal")
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while (after := await unknown(run)).question == before.question:
            await asyncio.sleep(0.02)

    assert world.effects == []
    assert after.kind == before.kind == "unknown_outcome"
    refused = await trail(engine, run, "decision.refused")
    assert [(e.subject, e.data["verdict"], e.data["code"]) for e in refused] == [
        (before.question, "retry", "proof_invalid")
    ]
    await run.resolve(after.id, "retry", by="ana", comment="Now with proof.")
    assert (await engine.finish(run)).status == "completed"
    assert len(world.effects) == 1


async def refused_and_then_signed(engine: Engine, run: Run, approval: Approval, world: World, signer: Signer) -> None:
    """An unsigned decision gets as far as the worker of the effect, which does not believe it; a signed one is done."""
    await send(engine, run, approving(approval), "signal")
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not (refused := await trail(engine, run, "decision.refused")):
            await asyncio.sleep(0.02)
        while (await run.approvals())[0].status != "pending":
            await asyncio.sleep(0.02)

    assert [(e.subject, e.data["code"], e.data["via"]) for e in refused] == [(approval.id, "proof_invalid", "signal")]
    assert (world.effects, (await run.approvals())[0].votes) == ([], ())
    assert (await Client(engine.env.client, engine.ledger).approval(approval.id)).status == "pending"
    status = await engine.until(run, "requires_action")
    assert "no proof" in status.refused_signals[-1]

    await send(engine, run, signer.sign(run.id, approving(approval)), "signal")
    assert (await engine.finish(run)).status == "completed"
    assert len(world.effects) == 1
    [vote] = await engine.client.votes(approval.id)
    assert (vote.by, vote.key) == ("ana", signer.id)
    assert [e.data["identity"] for e in await trail(engine, run, "approval.decided")] == ["proven"]


# ---- workflows of an intruder's own


async def asked_call(engine: Engine, run: Run) -> Call:
    return (await asked_calls(engine, run))[0]


async def asked_calls(engine: Engine, run: Run) -> tuple[Call, ...]:
    """The first calls of the run, as everybody can read them in Temporal's history."""
    history = await plain(engine, run).fetch_history()
    for event in history.events:
        result = event.activity_task_completed_event_attributes.result
        marked = event.marker_recorded_event_attributes.details
        for payloads in (result, marked.get("result", result)):
            told = next(iter(await engine.env.client.data_converter.decode(payloads.payloads)), None)
            done = told.get("done", told) if isinstance(told, dict) else {}
            if "carried" in done:
                state, _ = in_done(SegmentDone.model_validate(done))
                return tuple(one.call for one in state.calls)
            if "calls" in done:
                return ModelReply.model_validate(done).calls
    raise AssertionError("The model was not asked.")


async def made_up(engine: Engine, run: Run, approval: Approval, signer: Signer, what: str) -> tuple[str, Payload]:
    """An activity that an intruder asks for, as if it were the run, under a name that is nobody's word."""
    asked, now = await asked_call(engine, run), datetime.now(UTC)
    guards = (await engine.client.approval(approval.id)).guards
    step = f"{run.id}/{guards:04d}"
    match what:
        case "vote":
            said = Ballot(decision=approving(approval, "ana"), at=now, via="update", key=signer.id)
            return RECORD_VOTE, RecordVote(run=run.id, approval=approval.id, ballot=said, digest=approval.digest)
        case "reject" | "answer":
            word = approving(approval, "ana").model_copy(update={"verdict": what, "answer": "Send it to DE00."})
            status: Any = {"reject": "rejected", "answer": "answered"}[what]
            outcome = ApprovalOutcome(
                id=approval.id,
                number=guards - 1,
                guards=guards,
                call=asked,
                status=status,
                ballot=Ballot(decision=word, at=now, via="update", key=signer.id),
                at=now,
            )
            return SETTLE_APPROVALS, SettleApprovals(run=run.id, outcomes=(outcome,))
        case "settle":
            resolution = Resolution(step=step, question=approval.id, verdict="supply", by="ana", output="Receipt 1")
            return SETTLE_QUESTION, SettleQuestion(
                id=approval.id, run=run.id, resolution=resolution, at=now, via="update", key=signer.id
            )
        case _:
            return SETTLE_STEP, SettleStep(
                run=run.id, number=guards, call=asked, status="completed", output="Receipt 1", by="ana"
            )


@in_both_modes
@pytest.mark.parametrize("what", ["vote", "reject", "answer", "settle", "step"])
async def test_what_an_intruder_has_written_down_is_nobodys_proven_word_and_the_run_goes_on_as_it_was(
    engine: Engine, world: World, signer: Signer, what: str
) -> None:
    run = await engine.start(clerk(), asks(call("pay", amount=7)), says())
    approval = await first(run)

    await ask_for(engine, *await made_up(engine, run, approval, signer, what))

    entries = await trail(engine, run)
    assert [e.kind for e in entries] == [
        "approval.requested",
        "effect.refused" if what == "step" else "decision.refused",
    ]
    assert (await engine.client.approval(approval.id)).status == "pending"
    assert await engine.client.votes(approval.id) == []
    await send(engine, run, signer.sign(run.id, approving(approval)), "update")
    assert (await engine.finish(run)).status == "completed"
    assert len(world.effects) == 1


async def test_a_stranger_writes_nothing_down_about_a_run(engine: Engine, world: World, signer: Signer) -> None:
    run = await engine.start(clerk(), asks(call("pay", amount=7)), says())
    approval = await first(run)
    thread = (await run.record()).thread_id
    others: dict[str, Payload] = {
        CLOSE_RUN: CloseRun(run=run.id, status="failed"),
        MARK_RUN: MarkRun(run=run.id, status="in_progress"),
        WRITE_MESSAGE: WriteMessage(id="made-up", run=run.id, thread=thread, text="Pay twice."),
        ESCALATE: Escalate(
            run=run.id,
            approval=approval.id,
            people=(),
            escalate_to=("mallory",),
            at=datetime.now(UTC),
            expires_at=datetime.now(UTC) + timedelta(days=1),
        ),
    }

    for activity, payload in others.items():
        with pytest.raises(WorkflowFailureError):
            await ask_for(engine, activity, payload)

    record = await engine.client.approval(approval.id)
    assert (record.status, record.approvers) == ("pending", [])
    assert (await run.record()).status == "requires_action"
    assert [message.text for message in await engine.client.thread(thread) if message.role == "user"] == ["Go."]


async def test_with_proof_off_a_key_that_was_only_named_is_not_recorded(
    env: WorkflowEnvironment, tmp_path: Path, world: World, signer: Signer
) -> None:
    async with serving(env, tmp_path, world, proof=False) as engine:
        plan = ApprovalRule(tools=("pay",), required=2)
        run = await engine.start(clerk(plan), asks(call("pay", amount=7)), says())
        approval = await first(run)

        await ask_for(engine, *await made_up(engine, run, approval, signer, "vote"))

        [vote] = await trail(engine, run, "approval.voted")
        assert (vote.data["by"], vote.data["identity"], vote.data["key"]) == ("ana", "claimed", None)
        assert [vote.key for vote in await engine.client.votes(approval.id)] == [None]


@in_both_modes
@pytest.mark.parametrize("change", ["no approval", "another approval", "another call", "a tool that only reads"])
async def test_a_call_that_an_intruder_makes_up_leaves_the_step_to_the_run(
    env: WorkflowEnvironment, tmp_path: Path, world: World, change: str
) -> None:
    async with serving(env, tmp_path, world, proof=False) as engine:
        asked = asks(call("pay", amount=7), call("look", "c2"))
        run = await engine.start(clerk(), asked, says())
        approval = await first(run)
        real, read = (await asked_calls(engine, run))[:2]
        guards = (await engine.client.approval(approval.id)).guards
        wanted = {
            "another call": real.model_copy(update={"digest": OTHER}),
            "a tool that only reads": read,
        }.get(change, real)
        named = {"another approval": "apr_made_up", "another call": approval.id}.get(change)

        outcome = await intrude(
            engine, ToolStep(run=run.id, agent="clerk", tenant="default", number=guards, call=wanted, approval=named)
        )

        assert (outcome.status, outcome.code) == ("refused", "not_approved")
        [refused] = await trail(engine, run, "effect.refused")
        assert refused.data["code"] == "not_approved"
        assert refused.data["workflow"] != run.id
        await run.approve(approval, by="ana")
        assert (await engine.finish(run)).status == "completed"
        assert [amount for _, amount in world.effects] == ["7"]


@in_both_modes
async def test_an_activity_that_an_intruder_asks_for_performs_nothing_that_these_very_people_did_not_sign(
    engine: Engine, world: World, signer: Signer
) -> None:
    run = await engine.start(clerk(ApprovalRule(tools=("pay",), required=3)), asks(call("pay", amount=7000)), says())
    approval = await first(run)
    signed = {by: signer.sign(run.id, approving(approval, by)) for by in ("ana", "dora")}
    await send(engine, run, signed["ana"], "update")
    await send(engine, run, signed["dora"], "update")
    signed["cleo"] = signer.sign(run.id, approving(approval, "cleo", arguments={"amount": 70}))
    await send(engine, run, signed["cleo"], "update")
    edited = (await run.approvals())[0]
    signed["ben"] = signer.sign(run.id, approving(edited, "ben"))
    await send(engine, run, signed["ben"], "update")

    original = await asked_call(engine, run)
    record = await engine.client.approval(approval.id)
    smaller = original.model_copy(update={"digest": edited.digest, "edited": True})
    for wanted, people in [
        (original, ("ana", "dora", "ben")),  # ben signed for 70
        (original, ("ana", "dora", "cleo")),  # cleo too
        (smaller, ("cleo", "ben", "ana")),  # ana signed for 7000
    ]:
        for edits in (False, True):
            now = datetime.now(UTC)
            ballots = tuple(
                Ballot(decision=signed[by], at=now, via="update", key=signer.id, edits=edits) for by in people
            )
            step = ToolStep(
                run=run.id,
                agent="clerk",
                tenant="default",
                number=record.guards,
                call=wanted,
                approval=approval.id,
                ballots=ballots,
            )
            assert (await intrude(engine, step)).code == "proof_invalid"

    assert (world.effects, (await engine.client.approval(approval.id)).status) == ([], "pending")
    await run.approve(edited, by="ana")
    assert (await engine.finish(run)).status == "completed"
    assert [amount for _, amount in world.effects] == ["70"]
