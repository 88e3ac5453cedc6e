"""The inbox over HTTP: what is asked is shown exactly, and whoever calls is who decides."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2

from horarium.client import Run
from horarium.definitions import Agent, ApprovalRule, RememberRule
from horarium.gateway.serving import Serving, serving
from horarium.settings import ApprovalsSettings
from tests.engine.conftest import World
from tests.gateway.conftest import Serve
from tests.gateway.test_v1_runs import ROLES, keyed
from tests.support.engine import PATIENCE, Engine, asks, call, says

CLERK = Agent(name="clerk", model="scripted:none", instructions="Help.", tools=("look", "pay", "ship", "wait"))


def local(gateway: Serving) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=gateway.url, timeout=30)


async def asking(engine: Engine, *amounts: int, agent: Agent = CLERK, **more: Any) -> Run:
    """A run that waits for its payments to be approved."""
    calls = [call("pay", f"call_{n}", amount=amount) for n, amount in enumerate(amounts or (5,))]
    run = await engine.start(agent, asks(*calls), says("Done."), **more)
    await engine.until(run, "requires_action")
    return run


async def inbox(http: httpx2.AsyncClient, **params: str) -> list[dict[str, Any]]:
    """What waits for people."""
    found: list[dict[str, Any]] = (await http.get("/v1/approvals", params=params)).json()["data"]
    return found


async def only(http: httpx2.AsyncClient, *left: dict[str, Any]) -> None:
    """Wait until these alone wait for people: the run writes a decision down a moment after it has taken it."""
    wanted = {one["id"] for one in left}
    async with asyncio.timeout(20):
        while {one["id"] for one in await inbox(http)} != wanted:
            await asyncio.sleep(0.02)


async def decide(http: httpx2.AsyncClient, question: dict[str, Any], verdict: str, **more: Any) -> httpx2.Response:
    body = {"digest": question["digest"], "verdict": verdict, **more}
    return await http.post(f"/v1/approvals/{question['id']}/decide", json=body)


async def test_what_is_asked_is_shown_exactly_and_approved_under_the_callers_name(
    engine: Engine, world: World, serve: Serve
) -> None:
    gateway = await serve()
    run = await engine.start(CLERK, asks(call("pay", amount=5)), asks(call("wait")), says(), requested_by="bob")
    await engine.until(run, "requires_action")
    async with await keyed(engine, gateway, "default", "role:approver") as http:
        [question] = await inbox(http)
        decided = await decide(http, question, "approve", comment="Fine.")
        again = await decide(http, question, "approve", comment="Fine.")
        against = await decide(http, question, "reject")
        world.released.set()
        await run.result(PATIENCE)
        late = await decide(http, question, "reject")
        found = (await http.get(f"/v1/approvals/{question['id']}")).json()

    assert (question["kind"], question["tool"], question["requested_by"]) == ("approval", "pay", "bob")
    assert json.loads(question["arguments"]) == {"amount": 5}
    assert (decided.status_code, decided.json()["approval"]["decided_by"]) == (200, "somebody"), decided.text
    assert (again.status_code, again.json()["repeated"]) == (200, True)
    assert (against.status_code, against.json()["code"]) == (409, "approval_already_decided")
    assert (late.status_code, late.json()["code"]) == (409, "approval_already_decided")
    assert "by somebody" in late.json()["detail"]
    assert (found["status"], [vote["by"] for vote in found["votes"]]) == ("approved", ["somebody"])
    assert [amount for _, amount in world.effects] == ["5"]


async def test_edited_arguments_are_kept_as_the_persons_and_checked(engine: Engine, world: World, serve: Serve) -> None:
    async with local(await serve()) as http:
        run = await asking(engine)
        [question] = await inbox(http)
        wrong = await decide(http, question, "approve", arguments={"amount": "much"})
        other = await http.post(
            f"/v1/approvals/{question['id']}/decide", json={"digest": "sha256:other", "verdict": "approve"}
        )
        edited = await decide(http, question, "approve", arguments={"amount": 3})
        await run.result(PATIENCE)
        found = (await http.get(f"/v1/approvals/{question['id']}")).json()

    assert (wrong.status_code, wrong.json()["code"]) == (422, "arguments_rejected")
    assert (other.status_code, other.json()["code"]) == (409, "digest_mismatch")
    assert edited.status_code == 200
    assert [amount for _, amount in world.effects] == ["3"]
    assert (found["edit"]["by"], json.loads(found["edit"]["arguments"])) == ("anonymous", {"amount": 3})


async def test_a_rejection_and_an_answer_reach_the_model(engine: Engine, world: World, serve: Serve) -> None:
    async with local(await serve()) as http:
        run = await asking(engine, 1, 2)
        for question in await inbox(http, run=run.id):
            if json.loads(question["arguments"]) == {"amount": 1}:
                assert (await decide(http, question, "reject", comment="Too early.")).status_code == 200
            else:
                assert (await decide(http, question, "answer", answer="Paid by hand.")).status_code == 200
        await run.result(PATIENCE)

    told = " ".join(text for role, text in engine.model.heard() if role == "tool")
    assert "Too early." in told
    assert "Paid by hand." in told
    assert world.effects == []


async def test_a_standing_grant_is_given_where_the_plan_lets(engine: Engine, world: World, serve: Serve) -> None:
    rule = ApprovalRule(tools=("pay",), remember=RememberRule(scopes=("thread",)))
    lenient = CLERK.model_copy(update={"approvals": (rule,)})
    async with local(await serve()) as http:
        run = await asking(engine, agent=lenient)
        [question] = await inbox(http)
        granted = await decide(http, question, "approve", remember={"scope": "thread", "lasts_seconds": 60})
        await run.result(PATIENCE)

    assert granted.status_code == 200, granted.text
    assert [grant.tool for grant in await engine.client.grants()] == ["pay"]


async def test_many_are_decided_at_once_and_each_has_its_own_outcome(
    engine: Engine, world: World, serve: Serve
) -> None:
    async with local(await serve()) as http:
        run = await asking(engine, 1, 2, 3)
        one, two, three = sorted(await inbox(http), key=lambda item: str(item["arguments"]))
        decisions = [
            {"approval": one["id"], "digest": one["digest"], "verdict": "approve"},
            {"approval": two["id"], "digest": "sha256:other", "verdict": "approve"},
            {"approval": "apr_nobodys", "digest": "sha256:other", "verdict": "approve"},
            {"approval": three["id"], "digest": three["digest"], "verdict": "reject"},
        ]
        answer = await http.post("/v1/approvals/batch", json={"decisions": decisions})
        await only(http, two)
        await decide(http, two, "reject")
        await run.result(PATIENCE)

    outcomes = answer.json()["data"]
    assert answer.status_code == 200
    assert [outcome["status"] for outcome in outcomes] == [200, 409, 404, 200]
    assert outcomes[1]["problem"]["code"] == "digest_mismatch"
    assert outcomes[0]["decided"]["approval"]["status"] == "approved"
    assert [amount for _, amount in world.effects] == ["1"]


async def test_the_inbox_has_filters_and_pages_and_what_was_decided(engine: Engine, serve: Serve) -> None:
    async with local(await serve()) as http:
        run = await asking(engine, 1, 2, 3)
        first = (await http.get("/v1/approvals", params={"limit": 2})).json()
        second = (await http.get("/v1/approvals", params={"limit": 2, "cursor": first["next"]})).json()
        seen = [one["id"] for one in (*first["data"], *second["data"])]
        assert (len(set(seen)), second["next"]) == (3, None)
        await decide(http, first["data"][0], "reject")
        await only(http, *(one for one in (*first["data"], *second["data"]) if one["id"] != seen[0]))
        assert [one["id"] for one in await inbox(http, status="rejected")] == seen[:1]
        assert len(await inbox(http, status="all", agent="clerk", tool="pay", run=run.id)) == 3
        assert await inbox(http, kind="held_step") == []
        assert await inbox(http, agent="nobody") == []


async def test_a_held_step_is_in_the_inbox_and_is_resolved_not_decided(
    engine: Engine, world: World, serve: Serve
) -> None:
    holding = CLERK.model_copy(update={"on_step_failure": "hold"})
    world.fail_next = [RuntimeError("away")] * 20
    async with local(await serve()) as http:
        run = await engine.start(holding, asks(call("look")), says("Done."))
        await engine.until(run, "requires_action")
        [question] = await inbox(http, kind="held_step")
        wrong = await http.post(
            f"/v1/approvals/{question['id']}/decide", json={"digest": "sha256:x", "verdict": "approve"}
        )
        resolved = await http.post(f"/v1/approvals/{question['id']}/resolve", json={"verdict": "skip"})
        result = await run.result(PATIENCE)
        found = (await http.get(f"/v1/approvals/{question['id']}")).json()

    assert (wrong.status_code, wrong.json()["code"]) == (409, "conflict")
    assert (resolved.status_code, resolved.json()["verdict"]) == (200, "skip"), resolved.text
    assert result.status == "completed"
    assert (found["status"], found["decided_by"], found["verdict"]) == ("resolved", "anonymous", "skip")


async def test_the_plan_says_who_may_and_a_key_of_another_name_may_not(
    engine: Engine, world: World, serve: Serve
) -> None:
    gateway = await serve()
    strict = CLERK.model_copy(update={"approvals": (ApprovalRule(tools=("pay",), approvers=("fay",)),)})
    await asking(engine, agent=strict)
    async with await keyed(engine, gateway, "default", "role:admin") as http:
        [question] = await inbox(http)
        answer = await decide(http, question, "approve")
        named = await decide(http, question, "approve", by="fay")

    assert (answer.status_code, answer.json()["code"]) == (403, "not_an_approver")
    assert named.status_code == 422
    assert world.effects == []


async def test_an_approval_is_handed_to_others_by_who_may_decide_and_by_an_admin(
    engine: Engine, world: World, serve: Serve
) -> None:
    gateway = await serve()
    strict = CLERK.model_copy(update={"approvals": (ApprovalRule(tools=("pay",), approvers=("fay",)),)})
    run = await asking(engine, agent=strict)
    async with await keyed(engine, gateway, "default", "role:approver") as http:
        [question] = await inbox(http)
        path, body = f"/v1/approvals/{question['id']}/reassign", {"digest": question["digest"], "to": ["bruno"]}
        not_asked = await http.post(path, json=body)
        named = await http.post(path, json={**body, "by": "fay", "as_admin": True})
        nobody = await http.post(path, json={**body, "to": []})
        async with await keyed(engine, gateway, "default", "role:admin") as admin:
            unknown = await admin.post(path, json={**body, "to": ["role:heads"]})
            handed = await admin.post(path, json={**body, "to": ["Somebody", "bruno"], "comment": "Please."})
        mine = await http.post(path, json={**body, "to": ["somebody"]})
        decided = await decide(http, question, "approve")
        await run.result(PATIENCE)
        late = await http.post(path, json=body)
        found = (await http.get(f"/v1/approvals/{question['id']}")).json()

    assert [(one.status_code, one.json()["code"]) for one in (not_asked, unknown, late)] == [
        (403, "not_an_approver"),
        (409, "reassignment_refused"),
        (409, "approval_already_decided"),
    ]
    assert (named.status_code, nobody.status_code) == (422, 422)
    assert (handed.status_code, handed.json()["approval"]["approvers"]) == (200, ["Somebody", "bruno"]), handed.text
    assert (mine.status_code, decided.status_code) == (200, 200)
    assert [(one["by"], one["as_admin"], one["comment"]) for one in found["reassigned"]] == [
        ("somebody", True, "Please."),
        ("somebody", False, None),
    ]
    assert (found["approvers"], found["decided_by"]) == (["somebody"], "somebody")
    assert [amount for _, amount in world.effects] == ["5"]


ROUTES = [
    ("GET", "", None, 0),
    ("POST", "/decide", {"digest": "sha256:x", "verdict": "approve"}, 2),
    ("POST", "/reassign", {"digest": "sha256:x", "to": ["bruno"]}, 2),
    ("POST", "/resolve", {"verdict": "fail"}, 2),
]


async def test_another_tenants_question_is_not_there_and_a_role_is_needed(
    engine: Engine, world: World, serve: Serve
) -> None:
    gateway = await serve()
    await asking(engine)
    async with local(gateway) as http:
        [question] = await inbox(http)
    many = {"decisions": [{"approval": question["id"], "digest": question["digest"], "verdict": "approve"}]}
    async with await keyed(engine, gateway, "other", "role:admin") as stranger:
        for method, path, body, _ in ROUTES:
            answer = await stranger.request(method, f"/v1/approvals/{question['id']}{path}", json=body)
            assert (answer.status_code, answer.json()["code"]) == (404, "approval_not_found"), path
        assert await inbox(stranger, status="all") == []
        outcome = (await stranger.post("/v1/approvals/batch", json=many)).json()["data"][0]
        assert (outcome["status"], outcome["problem"]["code"]) == (404, "approval_not_found")
    for rank, role in enumerate(ROLES):
        async with await keyed(engine, gateway, "default", f"role:{role}") as client:
            for method, path, body, needed in ROUTES:
                answer = await client.request(method, f"/v1/approvals/apr_nobodys{path}", json=body)
                assert answer.status_code == (404 if rank >= needed else 403), (role, method, path)
            if rank < 2:
                assert (await client.post("/v1/approvals/batch", json=many)).status_code == 403
    assert world.effects == []


async def test_where_decisions_need_a_proof_nobody_decides_without_saying_who_he_is(
    engine: Engine, world: World
) -> None:
    run = await asking(engine, 5)
    strict = engine.settings.model_copy(update={"approvals": ApprovalsSettings(require_proof=True)})

    async with serving(engine.client, strict, host="127.0.0.1", port=0) as gateway, local(gateway) as http:
        [question] = await inbox(http)
        refused = await decide(http, question, "approve")

    assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
    assert (await run.status()).status == "requires_action"
    assert world.effects == []
