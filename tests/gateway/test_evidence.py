"""Evidence of a run over HTTP: whole, of its tenant alone, without secrets, and no longer good when it was changed."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.testing import WorkflowEnvironment

from horarium.audit import entry_hash
from horarium.contract import Decision, Remember
from horarium.definitions import Agent, ApprovalRule, RememberRule
from horarium.evidence.keys import EvidenceKey, encoded
from horarium.evidence.sealing import seal, written
from horarium.evidence.verifying import EvidenceReport, verify
from horarium.ledger.agents import Agents
from horarium.ledger.approvals import ApprovalRecord
from horarium.ledger.audit import AuditTrail
from horarium.proof import ANYBODY, KeyRing
from horarium.secrets import conceal
from horarium.settings import ApprovalsSettings, Settings
from tests.engine.conftest import World
from tests.gateway.conftest import Serve
from tests.gateway.rest import STRANGER, Rest, rest_of
from tests.support.cast import Cast, hands, until_asked
from tests.support.engine import PATIENCE, Engine, asks, call, running_engine, says

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "evidence.md"
SECRET = "canary-9f2c61d0-told-by-a-tool"
LATER = "canary-77ab03ee-known-after-it-was-stored"
CLERK = Agent(
    "clerk",
    model="scripted:lines",
    tools=("look", "pay", "ship"),
    approvals=(
        ApprovalRule(tools=("pay",), remember=RememberRule(scopes=("thread",))),
        ApprovalRule(tools=("ship",), approvers=("ana", "ben"), required=2),
    ),
)


@pytest.fixture
async def engine(env: WorkflowEnvironment, tmp_path: Path, world: World) -> AsyncIterator[Engine]:
    settings = Settings(root=tmp_path, approvals=ApprovalsSettings(require_proof=True))
    KeyRing.of(settings).create("gateway", (ANYBODY,))
    async with running_engine(env, tmp_path, world.tools(), settings=settings) as engine:  # type: ignore[arg-type]
        yield engine


@pytest.fixture
async def rest(engine: Engine, serve: Serve) -> AsyncIterator[Rest]:
    async with rest_of(engine, serve) as rest:
        yield rest


async def asked(
    engine: Engine, run: str, tool: str, *, kind: str = "approval", after: ApprovalRecord | None = None
) -> ApprovalRecord:
    """The open question about a call of this tool, asked after another one."""
    last = after.guards if after is not None else 0
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            open_ones = await engine.client.approvals(run=run)
            found = [one for one in open_ones if (one.tool, one.kind) == (tool, kind) and one.guards > last]
            if found:
                return found[0]
            await asyncio.sleep(0.02)


async def decide(engine: Engine, question: ApprovalRecord, by: str, verdict: Any = "approve", **more: Any) -> None:
    said = Decision(approval=question.id, digest=question.digest, by=by, verdict=verdict, **more)
    await engine.client.decide(question.run_id, said)


async def a_run_with_everything(engine: Engine, world: World) -> str:
    """Read, paid with edited arguments, shipped by two with an outcome that a person supplied, answered, granted."""
    world.result = f"A long list. {'x' * 20_000} The key is {SECRET}."
    run = await engine.start(
        CLERK,
        asks(call("look", "c1", what="the shelf"), call("pay", "c2", amount=5), call("ship", "c3", item="tea")),
        asks(call("ship", "c4", item=LATER)),
        asks(call("pay", "c5", amount=2)),
        asks(call("pay", "c6", amount=2)),
        says("All done."),
        input=f"Pay it. My old password was {LATER}.",
        requested_by="eva",
        metadata={"case": "17"},
    )
    await decide(engine, await asked(engine, run.id, "pay"), "ana", arguments={"amount": 3}, comment="Less is enough.")
    await decide(engine, shipping := await asked(engine, run.id, "ship"), "ana")
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not world.effects:
            await asyncio.sleep(0.02)
    world.fail_next = [ConnectionError("The line went dead.")]
    await decide(engine, shipping, "ben", comment="Go on.")
    lost = await asked(engine, run.id, "ship", kind="unknown_outcome")
    said = {"output": "It left at noon.", "question": lost.id, "by": "ana"}
    await run.resolve(f"{run.id}/{lost.guards:04d}", "supply", **said)
    later = await asked(engine, run.id, "ship", after=lost)
    await decide(engine, later, "ben", "answer", answer="It is on its way already.")
    standing = Remember(scope="thread", lasts=timedelta(hours=1))
    await decide(engine, await asked(engine, run.id, "pay", after=later), "ana", remember=standing)
    assert (await engine.finish(run)).status == "completed"
    return run.id


async def exported(rest: Rest, run: str, **params: Any) -> str:
    answer = await rest("GET", f"/v1/runs/{run}/evidence", "viewer", params=params)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"] == f'attachment; filename="{run}.evidence.json"'
    return answer.text


def leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value stands that holds no others."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if not items:
        yield at
    else:
        for name, item in items:
            yield from leaves(item, (*at, name))


def other(value: Any) -> Any:
    """Another value of the same kind."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return f"{value}x"
        case _:
            return "x"


def changed(text: str, at: tuple[Any, ...], make: Callable[[Any], Any] = other) -> str:
    """The file with one value changed, and else as it was written."""
    found = json.loads(text)
    inside = found
    for name in at[:-1]:
        inside = inside[name]
    inside[at[-1]] = make(inside[at[-1]])
    return written(found)


def resealed(text: str, key: EvidenceKey, change: Callable[[dict[str, Any]], None]) -> EvidenceReport:
    """What is said of a file whose maker himself wrote something else, and signed that."""
    found = json.loads(text)
    change(found["body"])
    return verify(seal(found["body"], found["made"], key), pinned=[key.public])


async def test_the_evidence_of_a_run_is_whole_verified_offline_and_lost_with_any_change(
    engine: Engine, world: World, rest: Rest
) -> None:
    conceal(SECRET)
    run = await a_run_with_everything(engine, world)
    conceal(LATER)
    key = (await rest.ok("GET", "/v1/evidence/key", "viewer"))["public"]
    text = await exported(rest, run)
    trail = [line async for line in AuditTrail(engine.ledger).export()]
    report = verify(text, pinned=[key], trail=trail)

    assert (report.wrong, report.run, report.holds) == ([], run, True)
    counts = {line.rpartition(" (")[0]: int(line.rpartition(" (")[2][:-1]) for line in report.verified[1:]}
    assert counts["Words of people are signed, with a key that may sign for them"] == 6
    assert counts["Calls that were made are those that were released"] == 4
    assert counts["The audit trail is whole, and has exactly these entries about it"] == 1
    assert any("secret was taken out" in line for line in report.unchecked)
    shown = re.findall(r"^Verified: (.+)$", GUIDE.read_text("utf-8"), re.MULTILINE)
    said = [line for line in report.verified if "audit trail is whole" not in line]
    assert [re.sub(r"evk_\w+", "evk", line) for line in shown] == [re.sub(r"evk_\w+", "evk", line) for line in said]
    body = json.loads(text)["body"]
    assert (body["run"]["definition"]["definition"]["name"], body["run"]["metadata"]) == ("clerk", {"case": "17"})
    assert [one["status"] for one in body["run"]["statuses"]][::4][0] == "queued"
    effects = {step["name"]: step["effect_state"] for step in body["run"]["steps"] if step["kind"] == "tool_call"}
    assert effects == {"look": None, "pay": "confirmed", "ship": "none"}
    assert [grant["granted_by"] for grant in body["run"]["grants"]] == ["ana"]
    for secret in (SECRET, LATER, (rest.engine.settings.state / "secrets" / "evidence-key").read_text()):
        assert secret not in text
    assert (await rest("GET", f"/v1/runs/{run}/evidence", STRANGER)).status_code == 404
    assert (await rest("GET", "/v1/runs/run_nobodys/evidence")).status_code == 404

    whole = await exported(rest, run, whole=True)
    assert any(line.startswith("Whole outputs have their digests") for line in verify(whole).verified)
    places = list(leaves(json.loads(text)))
    assert len(places) > 400
    assert [at for at in places if verify(changed(text, at)).holds] == []
    dice = random.Random(7)
    for place in dice.sample(range(len(text)), 400):
        flipped = text[:place] + chr(ord(text[place]) ^ 1 << dice.randrange(7)) + text[place + 1 :]
        assert not verify(flipped).holds, place
    assert not verify(text[:-1]).holds
    assert not verify(json.dumps(json.loads(text))).holds
    assert not verify(text, pinned=[EvidenceKey(encoded(bytes(32))).public]).holds

    own = EvidenceKey.of(engine.settings)
    for change, told in WRITTEN_ANEW:
        found = resealed(text, own, change)
        assert any(told in line for line in found.wrong), (told, found)
    assert not verify(text, trail=[line for line in trail if "approval.voted" not in line]).holds


def _run(body: dict[str, Any]) -> dict[str, Any]:
    run: dict[str, Any] = body["run"]
    return run


def _paid(body: dict[str, Any]) -> dict[str, Any]:
    return next(one for one in _run(body)["approvals"] if one["edits"])


def _shipped(body: dict[str, Any]) -> dict[str, Any]:
    return next(one for one in _run(body)["approvals"] if one["required"] == 2)


def _entry(body: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(entry for entry in _run(body)["audit"] if entry["kind"] == kind)


def _somebody_else(body: dict[str, Any]) -> None:
    """As good as it can be done without the approver's key: the trail is hashed anew."""
    entry = _entry(body, "approval.decided")
    approval = next(one for one in _run(body)["approvals"] if one["id"] == entry["subject"])
    for vote in approval["votes"]:
        if vote["by"] == entry["data"]["by"]:
            vote["by"] = "mallory"
    entry["data"]["by"] = "mallory"
    entry["hash"] = entry_hash(entry)


WRITTEN_ANEW: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda body: _run(body)["definition"]["definition"].update(instructions="Other."), "definition of its agent"),
    (lambda body: _run(body)["steps"][3].update(arguments='{"amount":4}'), "The arguments of step"),
    (lambda body: _paid(body).update(arguments='{"amount":6}'), "that people were asked about"),
    (lambda body: _paid(body)["edits"][0].update(arguments='{"amount":9}'), "as ana changed them"),
    (lambda body: _paid(body).update(decided_digest=_paid(body)["digest"]), "released sha256:"),
    (lambda body: _shipped(body)["votes"].pop(), "needed 2 people; 1 approved"),
    (lambda body: _shipped(body).update(not_by=["Ana"]), "was not among those who may decide"),
    (lambda body: _shipped(body)["votes"][0].update(by="mallory"), "does not have the vote of 'mallory'"),
    (lambda body: _entry(body, "approval.voted").update(at="2026-01-01T00:00:00+00:00"), "what its hash is of"),
    (lambda body: body["chain"].update(seq=2), "head of the audit trail"),
    (lambda body: _run(body)["grants"].clear(), "was given before"),
    (_somebody_else, "is not over what it says"),
    (lambda body: _run(body)["steps"].pop(0), "does not have"),
    (lambda body: _run(body).pop("steps"), "not formed like evidence"),
]


async def test_the_runs_of_sub_agents_are_inside_and_what_they_asked_is_verified_too(
    engine: Engine, world: World, rest: Rest
) -> None:
    cast = Cast(engine)
    two = [ApprovalRule(tools=("pay",), required=2)]
    await cast.agent("clerk", asks(call("pay", "p1", amount=7)), says("Paid 7."), tools=["pay"], approvals=two)
    chief = await cast.agent("chief", asks(hands("clerk", "Pay 7.")), says("All done."), agents=["clerk"])
    run = await engine.client.start(chief, "Go.", requested_by="eva")
    (question,) = await until_asked(engine)
    so_far = await exported(rest, run.id)
    clerk = engine.client.run(question.run_id)
    edited = await clerk.approve((await clerk.approvals())[0], by="ana", arguments={"amount": 70})
    back = await clerk.approve(edited.approval, by="ben", arguments={"amount": 7})
    await clerk.approve(back.approval, by="ana")
    await engine.finish(run)

    text = await exported(rest, run.id)
    report = verify(text)
    (below,) = json.loads(text)["body"]["run"]["sub_runs"]

    later = [line async for line in AuditTrail(engine.ledger).export()]
    assert (report.wrong, report.pinned) == ([], False)
    assert verify(so_far, trail=later).wrong == []
    assert "Words of people are signed, with a key that may sign for them (3)" in report.verified
    assert "Runs of sub-agents are in their place, and verified like this one (1)" in report.verified
    assert (below["id"], below["path"]) == (question.run_id, ["chief", "clerk"])
    own = EvidenceKey.of(engine.settings)
    strange = resealed(text, own, lambda body: _run(body)["sub_runs"][0]["steps"][2].update(arguments='{"amount":70}'))
    assert not strange.holds


async def test_two_ticks_of_a_routine_and_two_runs_are_compared(engine: Engine, rest: Rest) -> None:
    await Agents(engine.ledger).register(Agent("clerk", model="scripted:lines", tools=("look",)))
    routine = {"agent": "clerk", "input": "Look.", "conversation": "new", "triggers": {"it": {"event": "opened"}}}
    await rest.ok("PUT", "/v1/routines/daily", json=routine)
    ticks = []
    for shelf, answer in (("a", "Two apples.\nFresh."), ("b", "Three apples.\nFresh.")):
        engine.model.lines[:] = [asks(call("look", "c1", what=shelf)), says(answer)]
        ordered = await rest.ok("POST", "/v1/routines/daily/run", json={"input": f"Look at {shelf}."})
        ticks += ordered["ticks"]
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while (await rest.ok("GET", f"/v1/ticks/{ticks[-1]}"))["closed_at"] is None:
                await asyncio.sleep(0.05)

    found = await rest.ok("GET", "/v1/routines/daily/ticks/diff", "viewer")
    one, other = found["before"]["run"], found["after"]["run"]
    of_runs = await rest.ok("GET", f"/v1/runs/{one}/diff", "viewer", params={"other": other})
    same = await rest.ok("GET", f"/v1/runs/{one}/diff", "viewer", params={"other": one})

    assert [found["before"]["id"], found["after"]["id"]] == ticks
    assert found["input"].splitlines()[-2:] == ["-Look at a.", "+Look at b."]
    assert found["output"].splitlines()[-3:] == ["-Two apples.", "+Three apples.", " Fresh."]
    (pair,) = found["steps"]
    assert (pair["change"], pair["differs"]) == ("changed", ["arguments"])
    assert (pair["before"]["arguments"], pair["after"]["arguments"]) == ('{"what":"a"}', '{"what":"b"}')
    assert (found["agent"], found["routine"], found["files"], found["same"]) == ([], [], [], False)
    assert (of_runs["output"], of_runs["steps"]) == (found["output"], found["steps"])
    assert (same["same"], same["output"]) == (True, "")
    backwards = await rest.ok("GET", "/v1/routines/daily/ticks/diff", params={"before": ticks[1], "after": ticks[0]})
    assert backwards["output"].splitlines()[-3:] == ["-Three apples.", "+Two apples.", " Fresh."]
    refused = [
        await rest("GET", "/v1/routines/daily/ticks/diff", STRANGER),
        await rest("GET", "/v1/routines/daily/ticks/diff", params={"before": "routine.other-1"}),
        await rest("GET", f"/v1/runs/{one}/diff", STRANGER, params={"other": other}),
        await rest("GET", f"/v1/runs/{one}/diff", params={"other": "run_nobodys"}),
    ]
    assert [answer.status_code for answer in refused] == [404] * 4
