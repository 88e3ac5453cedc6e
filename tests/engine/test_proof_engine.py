"""Where proof is required, what comes to Temporal's port without a signature releases nothing, whatever it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from horarium.client import Client, Run
from horarium.content import digest
from horarium.contract import ENGINE_QUEUE, Approval, Decision, Proof, Remember, Resolution, Waiting
from horarium.definitions import Agent, ApprovalRule, RememberRule
from horarium.errors import ProofInvalid
from horarium.ids import new_run_id
from horarium.ledger.audit import AuditRecord, AuditTrail
from horarium.proof import ANYBODY, KeyRing, Signer
from horarium.protocol import CALL_TOOL, Ballot, Call, ModelReply, ToolOutcome, ToolStep
from horarium.serving import serve_tools
from horarium.settings import ApprovalsSettings, Settings, TemporalSettings
from tests.engine.conftest import World
from tests.support.engine import PATIENCE, Engine, asks, call, running_engine, says

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


@pytest.mark.parametrize("arguments", [{"amount": 70}, {"amount": 7}], ids=["other arguments", "the same arguments"])
async def test_a_signed_edit_is_performed_with_the_persons_arguments(
    engine: Engine, world: World, signer: Signer, arguments: dict[str, Any]
) -> None:
    run = await engine.start(clerk(), asks(call("pay", amount=7)), says())

    await run.approve(await first(run), by="ana", arguments=arguments)

    assert (await engine.finish(run)).status == "completed"
    assert [amount for _, amount in world.effects] == [str(arguments["amount"])]
    assert await trail(engine, run, "decision.refused") == []


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


async def test_two_signed_votes_release_what_the_first_changed(engine: Engine, world: World, signer: Signer) -> None:
    run = await engine.start(clerk(ApprovalRule(tools=("pay",), required=2)), asks(call("pay", amount=7)), says())
    approval = await first(run)

    edited = (await run.approve(approval, by="ana", arguments={"amount": 70})).approval
    await run.approve(edited, by="ben")

    assert (await engine.finish(run)).status == "completed"
    assert [amount for _, amount in world.effects] == ["70"]
    assert [vote.key for vote in await engine.client.votes(approval.id)] == [signer.id] * 2


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


async def test_a_tool_worker_that_requires_proof_performs_nothing_for_an_engine_that_does_not(
    strict_tools: Engine, world: World, signer: Signer
) -> None:
    run = await strict_tools.start(clerk(), asks(call("pay", amount=7)), says())

    await refused_and_then_signed(strict_tools, run, await first(run), world, signer)


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


@workflow.defn(name="Intruder", sandboxed=False)
class Intruder:
    """Whoever reaches Temporal's port can ask for activities as well."""

    @workflow.run
    async def run(self, step: ToolStep) -> ToolOutcome:
        outcome: ToolOutcome = await workflow.execute_activity(
            CALL_TOOL,
            step,
            result_type=ToolOutcome,
            task_queue=ENGINE_QUEUE,
            start_to_close_timeout=timedelta(seconds=20),
            retry_policy=RetryPolicy(maximum_attempts=1),
        )
        return outcome


async def intrude(engine: Engine, step: ToolStep) -> ToolOutcome:
    queue = f"intruder-{step.run}"
    async with Worker(engine.env.client, task_queue=queue, workflows=[Intruder]):
        made = engine.env.client.execute_workflow(
            Intruder.run, step, id=new_run_id(), task_queue=queue, execution_timeout=timedelta(seconds=30)
        )
        return await asyncio.wait_for(made, 40)


async def asked_call(engine: Engine, run: Run) -> Call:
    """The first call of the run, as everybody can read it in Temporal's history."""
    history = await plain(engine, run).fetch_history()
    for event in history.events:
        result = event.activity_task_completed_event_attributes.result
        if result.payloads:
            [reply] = await engine.env.client.data_converter.decode(result.payloads, [ModelReply])
            return ModelReply.model_validate(reply).calls[0]
    raise AssertionError("The model was not asked.")


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
