"""An approval that is handed to others: who may do so, who decides from then on, and what the effect believes."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.testing import WorkflowEnvironment

from horarium.client import Run
from horarium.contract import Approval, Reassignment
from horarium.definitions import Agent, ApprovalRule
from horarium.errors import ApprovalAlreadyDecided, HorariumError, NotAnApprover, ProofInvalid, ReassignmentRefused
from horarium.evidence.exporting import exported
from horarium.evidence.verifying import verify
from horarium.ledger.audit import AuditRecord, AuditTrail
from horarium.ledger.reassignments import handed_over
from horarium.proof import ANYBODY, KeyRing, Signer
from horarium.protocol import ESCALATE, REASSIGN, Escalate, Reassign
from horarium.settings import ApprovalsSettings, Settings
from tests.engine.conftest import World
from tests.support.engine import PATIENCE, Engine, asks, call, running_engine, says
from tests.support.intruder import ask_for
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes

pytestmark = in_both_modes

HOUR = timedelta(hours=1)
ACCEPTED: Final = "workflow_execution_update_accepted_event_attributes"
ROLES = {"finance": ("fay", "fred"), "board": ("bea",), "nobody": ()}


def settings(root: Path, *, proof: bool = False) -> Settings:
    return Settings(root=root, approvals=ApprovalsSettings(roles=ROLES, require_proof=proof))


@pytest.fixture
async def engine(env: WorkflowEnvironment, tmp_path: Path, world: World) -> AsyncIterator[Engine]:
    async with running_engine(env, tmp_path, world.tools(), settings=settings(tmp_path)) as engine:  # type: ignore[arg-type]
        yield engine


@pytest.fixture
async def strict(env: WorkflowEnvironment, tmp_path: Path, world: World) -> AsyncIterator[Engine]:
    """Where proof is required."""
    of = settings(tmp_path, proof=True)
    async with running_engine(env, tmp_path, world.tools(), settings=of) as engine:  # type: ignore[arg-type]
        yield engine


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing.of(settings(tmp_path, proof=True))


async def asking(
    engine: Engine, *, requested_by: str | None = None, continue_as_new_after: int | None = None, **rule: Any
) -> tuple[Run, Approval]:
    """A run that asks for a payment under this rule, and what it asks."""
    plan = [ApprovalRule(tools=("pay",), **rule)]
    agent = Agent("clerk", model="scripted:lines", tools=["look", "pay"], approvals=plan)
    more: dict[str, Any] = {"requested_by": requested_by, "continue_as_new_after": continue_as_new_after}
    run = await engine.start(agent, asks(call("pay", amount=7)), says(), **more)
    return run, await run.next_approval(PATIENCE)


async def trail(engine: Engine, run: Run, kind: str) -> list[AuditRecord]:
    found = await AuditTrail(engine.ledger).entries(run=run.id, limit=1_000)
    return [entry for entry in found if entry.kind == kind]


def amounts(world: World) -> list[str]:
    return [amount for _, amount in world.effects]


async def test_whoever_may_decide_lets_somebody_else_decide_and_may_not_any_more(engine: Engine, world: World) -> None:
    run, approval = await asking(engine, approvers=("ana", "role:finance"))
    with pytest.raises(NotAnApprover, match="may not decide"):
        await run.reassign(approval, "mallory", by="mallory")

    state = await run.reassign(approval, "Bruno", "role:board", by="ana", comment="I am on leave.")
    assert (state.approval.approvers, state.approval.reassigned_by) == (("Bruno", "bea"), "ana")
    for by in ("ana", "fay", "mallory"):
        with pytest.raises(NotAnApprover, match="These may: Bruno, bea"):
            await run.approve(approval, by=by)
    with pytest.raises(NotAnApprover):
        await run.reassign(approval, "ana", by="ana")
    assert (await run.reassign(approval, "bruno", "bea", by="bea")).repeated
    await run.approve(approval, by="bruno")

    assert (await engine.finish(run)).status == "completed"
    assert amounts(world) == ["7"]
    stored = await engine.client.approval(approval.id)
    assert (stored.approvers, stored.decided_by) == (["Bruno", "bea"], "bruno")
    [handed] = handed_over(stored)
    assert (handed.said.by, handed.said.comment, handed.before) == ("ana", "I am on leave.", ("ana", "fay", "fred"))
    [entry] = await trail(engine, run, "approval.reassigned")
    assert {name: entry.data[name] for name in ("by", "identity", "from", "to", "approvers")} == {
        "by": "ana",
        "identity": "claimed",
        "from": ["ana", "fay", "fred"],
        "to": ["Bruno", "role:board"],
        "approvers": ["Bruno", "bea"],
    }
    with pytest.raises(HorariumError):
        await run.reassign(approval, "ana", by="bruno")
    report = verify(await exported(engine.ledger, engine.settings, run.id))
    assert report.holds, report.wrong
    assert any("handed approvals to whom" in good for good in report.verified)


async def test_the_plan_is_never_laxer_and_votes_stand_also_when_the_run_continues_as_new(
    engine: Engine, world: World
) -> None:
    people = ("ana", "ben", "cem")
    run, approval = await asking(
        engine, approvers=people, required=2, four_eyes=True, requested_by="zoe", continue_as_new_after=1
    )
    first = (await engine.env.client.get_workflow_handle(run.id).describe()).run_id
    refused: list[tuple[tuple[str, ...], str, str]] = [
        (("bruno",), "ana", "2 have to approve"),
        (("zoe", "bruno"), "ana", r"without zoe \(four eyes\)"),
        (("role:nobody", "bruno"), "ana", "no role 'nobody' with people"),
        (("role:finanze", "bruno"), "ana", "did you mean 'finance'"),
        (("finance", "bruno"), "ana", "Write 'role:finance'"),
    ]
    for to, by, why in refused:
        with pytest.raises(ReassignmentRefused, match=why):
            await run.reassign(approval, *to, by=by)
    for as_admin in (False, True):  # nor does an administrator choose who decides on a run of theirs
        with pytest.raises(NotAnApprover, match="started this run"):
            await run.reassign(approval, "bruno", "carl", by="zoe", as_admin=as_admin)
    assert (await engine.client.approval(approval.id)).approvers == list(people)

    await run.approve(approval, by="ben")
    state = await run.reassign(approval, "bruno", by="ana")
    assert (state.approval.approvers, len(state.approval.votes)) == (("bruno", "ben"), 1)
    await run.message("And be quick.")  # then it continues as new
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while (await engine.env.client.get_workflow_handle(run.id).describe()).run_id == first:
            await asyncio.sleep(0.02)
    with pytest.raises(NotAnApprover):
        await run.approve(approval, by="cem")
    assert world.effects == []
    assert (await run.approve(approval, by="bruno")).approval.decided_by == "ben, bruno"
    assert (await engine.finish(run)).status == "completed"
    assert amounts(world) == ["7"]
    assert verify(await exported(engine.ledger, engine.settings, run.id)).wrong == []


async def test_a_rule_may_forbid_it_and_an_administrator_needs_not_be_asked(engine: Engine, world: World) -> None:
    run, approval = await asking(engine, approvers=("ana",), reassign=False)
    for as_admin in (False, True):
        with pytest.raises(ReassignmentRefused, match="lets nobody hand pay to others"):
            await run.reassign(approval, "bruno", by="ana", as_admin=as_admin)
    await run.reject(approval, by="ana")
    await engine.finish(run)

    run, approval = await asking(engine, approvers=("ana",))
    await run.reassign(approval, "bruno", by="root", as_admin=True)
    await run.approve(approval, by="bruno")
    with pytest.raises(ApprovalAlreadyDecided, match="bruno"):
        await run.reassign(approval, "ana", by="bruno")
    await engine.finish(run)
    assert amounts(world) == ["7"]


async def test_a_decision_that_comes_in_the_middle_waits_and_is_held_against_those_who_decide_then(
    engine: Engine, world: World
) -> None:
    run, approval = await asking(engine, approvers=("ana",))
    handle = engine.env.client.get_workflow_handle(run.id)
    async with engine.ledger.write():  # so that no reassignment can be written down
        handing = asyncio.create_task(run.reassign(approval, "bruno", by="ana"))
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while not any(event.HasField(ACCEPTED) for event in (await handle.fetch_history()).events):
                await asyncio.sleep(0.02)
        deciding = asyncio.create_task(run.approve(approval, by="ana"))
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while sum([event.HasField(ACCEPTED) for event in (await handle.fetch_history()).events]) < 2:
                await asyncio.sleep(0.02)

    assert (await handing).approval.approvers == ("bruno",)
    with pytest.raises(NotAnApprover):
        await deciding
    assert world.effects == []
    await run.approve(approval, by="bruno")
    await engine.finish(run)
    assert amounts(world) == ["7"]


async def test_an_escalation_adds_to_those_who_were_named_and_they_may_name_others(
    skipping_env: WorkflowEnvironment, tmp_path: Path, world: World
) -> None:
    of = settings(tmp_path)
    async with running_engine(skipping_env, tmp_path, world.tools(), settings=of) as engine:  # type: ignore[arg-type]
        run, approval = await asking(
            engine, approvers=("ana",), expires_after=HOUR, on_expiry="escalate", escalate_to=("role:board",)
        )
        await run.reassign(approval, "bruno", by="ana")
        await engine.env.sleep(HOUR + timedelta(minutes=1))
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while not (escalated := (await run.approvals())[0]).escalated:
                await asyncio.sleep(0.02)
        assert escalated.approvers == ("bruno", "bea")
        for by in ("bea", "carl"):  # each hands it on; the second one is no longer who was asked at first
            await run.reassign(escalated, "carl" if by == "bea" else "dora", by=by)
        with pytest.raises(NotAnApprover):
            await run.approve(escalated, by="bea")
        await run.approve(escalated, by="dora")

        assert (await engine.finish(run)).status == "completed"
        assert amounts(world) == ["7"]
        assert len(await trail(engine, run, "approval.reassigned")) == 3


async def test_the_command_does_the_same_and_says_who_decides_now(engine: Engine, tmp_path: Path) -> None:
    _, approval = await asking(engine, approvers=("ana",))
    address = engine.env.client.service_client.config.target_host
    (tmp_path / "horarium.toml").write_text(f'[temporal]\naddress = "{address}"\n')

    async def horarium(*words: str) -> tuple[int, str]:
        command = (sys.executable, "-m", "horarium", "approvals", *words)
        made = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=PIPE, stderr=STDOUT)
        out, _ = await asyncio.wait_for(made.communicate(), PATIENCE.total_seconds())
        return made.returncode or 0, out.decode()

    code, said = await horarium("reassign", approval.id, "--to", "bruno", "--by", "mallory")
    assert (code, "mallory may not decide this" in said) == (1, True), said
    code, said = await horarium("reassign", approval.id, "--to", " ", "--by", "ana")
    assert (code, "blank" in said) == (2, True), said
    code, said = await horarium(
        *("reassign", approval.id, "--to", "bruno", "--to", "carl", "--by", "ana", "--comment", "on leave")
    )
    assert (code, "pending: 0 of 1 approvals, of bruno, carl" in said) == (0, True), said
    code, said = await horarium("show", approval.id)
    assert " ".join(said.split()).count("by ana to bruno, carl: on leave") == 1, said


async def test_where_proof_is_required_nobody_gets_among_those_who_decide_without_a_signed_word(
    strict: Engine, world: World, ring: KeyRing
) -> None:
    run, approval = await asking(strict, approvers=("ana",))
    said = Reassignment(approval=approval.id, digest=approval.digest, to=("mallory",), by="ana")
    with pytest.raises(ProofInvalid, match="carries no proof"):
        await strict.client.reassign(run.id, said)
    mallory = Signer(ring.create("mallory's", ("mallory",)))
    gateway = Signer(ring.create("gateway", (ANYBODY,)))
    own = said.model_copy(update={"by": "mallory", "as_admin": True})
    as_admin = Signer(mallory.key.model_copy(update={"subjects": (ANYBODY,)})).sign(run.id, own)
    ana = gateway.sign(run.id, said.model_copy(update={"to": ("bruno",)}))
    for forged, why in (
        (as_admin, "may not sign for an administrator"),
        (ana.model_copy(update={"to": ("mallory",)}), "not over what it says"),
        (ana.model_copy(update={"as_admin": True}), "not over what it says"),
        (gateway.sign("run_other", said), "not over what it says"),
    ):
        with pytest.raises(ProofInvalid, match=why):
            await strict.client.reassign(run.id, forged)
    refused = await trail(strict, run, "decision.refused")
    assert [(entry.data["verdict"], entry.data["code"]) for entry in refused] == [("reassign", "proof_invalid")] * 5

    # Straight at Temporal's port, past the run: another workflow, then one that takes the run's place.
    straight = Reassign(run=run.id, reassignment=said, at=datetime.now(UTC))
    with pytest.raises(WorkflowFailureError):
        await ask_for(strict, REASSIGN, straight)
    other, asked = await asking(strict, approvers=("ana",))
    await strict.env.client.get_workflow_handle(other.id).terminate()
    straight = Reassign(
        run=other.id,
        reassignment=said.model_copy(update={"approval": asked.id, "digest": asked.digest}),
        at=datetime.now(UTC),
    )
    assert (await ask_for(strict, REASSIGN, straight, id=other.id))["code"] == "proof_invalid"
    for one in (approval, asked):
        assert (await strict.client.approval(one.id)).approvers == ["ana"]

    await strict.client.reassign(run.id, ana)
    with pytest.raises(NotAnApprover):
        await run.approve(approval, by="ana")
    await run.approve(approval, by="bruno")
    assert (await strict.finish(run)).status == "completed"
    assert amounts(world) == ["7"]
    report = verify(await exported(strict.ledger, strict.settings, run.id))
    assert (report.wrong, [entry.data["key"] for entry in await trail(strict, run, "approval.reassigned")]) == (
        [],
        [gateway.id],
    )


async def test_a_signed_word_counts_once_and_takes_nothing_back_that_was_said_since(
    strict: Engine, ring: KeyRing
) -> None:
    run, approval = await asking(strict, approvers=("ana",))
    gateway = Signer(ring.create("gateway", (ANYBODY,)))
    said = Reassignment(approval=approval.id, digest=approval.digest, to=("bruno",), by="root", as_admin=True)
    first = gateway.sign(run.id, said)
    await strict.client.reassign(run.id, first)
    assert (await strict.client.reassign(run.id, first)).repeated
    await strict.client.reassign(run.id, gateway.sign(run.id, said.model_copy(update={"to": ("carl",)})))

    with pytest.raises(ReassignmentRefused, match="counted before"):
        await strict.client.reassign(run.id, first)

    assert (await strict.client.approval(approval.id)).approvers == ["carl"]
    await strict.client.reassign(run.id, gateway.sign(run.id, said))
    assert (await strict.client.approval(approval.id)).approvers == ["bruno"]


async def test_a_run_escalates_no_approval_of_another_one(engine: Engine) -> None:
    _, theirs = await asking(engine, approvers=("ana",), expires_after=HOUR, on_expiry="escalate", escalate_to=("ann",))
    own, _ = await asking(engine, approvers=("ann",), expires_after=HOUR, on_expiry="escalate", escalate_to=("eve",))
    await engine.env.client.get_workflow_handle(own.id).terminate()
    now = datetime.now(UTC)

    with pytest.raises(WorkflowFailureError):
        await ask_for(engine, ESCALATE, Escalate(run=own.id, approval=theirs.id, at=now, expires_at=now), id=own.id)

    assert (await engine.client.approval(theirs.id)).approvers == ["ana"]


async def test_the_effect_is_not_released_by_those_whom_a_revoked_key_named_until_an_administrator_names_some(
    strict: Engine, world: World, ring: KeyRing
) -> None:
    run, approval = await asking(strict, approvers=("ana",))
    leaked = Signer(ring.create("leaked", ("ana",)))
    ring.create("gateway", (ANYBODY,))
    said = Reassignment(approval=approval.id, digest=approval.digest, to=("mallory",), by="ana")
    await strict.client.reassign(run.id, leaked.sign(run.id, said))
    ring.revoke(leaked.id, datetime.now(UTC) - timedelta(seconds=1))

    await run.approve(approval, by="mallory")  # proved to be mallory, whom nobody that counts has named
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not (why := (await run.status()).refused_signals):
            await asyncio.sleep(0.02)
    assert "handed" in why[0]
    assert "was revoked" in why[0]
    assert world.effects == []

    await run.reassign(approval, "bruno", by="root", as_admin=True)
    await run.approve(approval, by="bruno")
    assert (await strict.finish(run)).status == "completed"
    assert amounts(world) == ["7"]
