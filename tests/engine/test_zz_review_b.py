from __future__ import annotations
import asyncio
from datetime import timedelta, UTC, datetime
from typing import Any
import pytest
from horarium.contract import *
from horarium.definitions import Agent, ApprovalRule, RememberRule
from horarium.ids import *
from tests.engine.conftest import World
from tests.support.engine import *

def clerk(*plan, **more):
    return Agent("clerk", model="scripted:lines", tools=["look", "pay", "ship"], approvals=list(plan), **more)
def appr(a, by, **m):
    return Decision.model_validate({"approval": a.id, "digest": a.digest, "by": by, "verdict": "approve", **m})

async def test_b1_grant_of_a_small_rule_releases_what_a_stricter_rule_asks(engine, world):
    plan = (ApprovalRule(tools=("pay",), when={"amount": {"exclusiveMinimum": 1000}}, approvers=("boss",), remember=RememberRule(scopes=("run",))),
            ApprovalRule(tools=("pay",), approvers=("clara",), remember=RememberRule(scopes=("run",))))
    run = await engine.start(clerk(*plan), asks(call("pay", amount=5)), asks(call("pay", "c2", amount=50000)), says())
    a = await run.next_approval(PATIENCE)
    await engine.client.decide(run.id, appr(a, "clara", remember=Remember(scope="run", lasts=timedelta(hours=1), bounds={"amount": {"maximum": 10**6}})))
    await asyncio.sleep(3)
    print(world.effects, (await run.status()).status)
    assert len(world.effects) == 1

async def test_b2_four_eyes_and_grant(engine, world):
    plan = (ApprovalRule(tools=("pay",), four_eyes=True, remember=RememberRule(scopes=("agent",))),)
    run = await engine.start(clerk(*plan), asks(call("pay", amount=5)), says(), requested_by="ana")
    a = await run.next_approval(PATIENCE)
    await engine.client.decide(run.id, appr(a, "ben", remember=Remember(scope="agent", lasts=timedelta(hours=1))))
    await engine.finish(run)
    run = await engine.start(clerk(*plan), asks(call("pay", amount=5)), says(), requested_by="ben")
    await asyncio.sleep(3)
    print(world.effects, (await run.status()).status)
    assert len(world.effects) == 1

async def test_b3_four_eyes_two_resumes(engine, world):
    plan = (ApprovalRule(tools=("pay",), four_eyes=True),)
    run = await engine.start(clerk(*plan), asks(call("pay", amount=5)), says(), requested_by="ana")
    await run.next_approval(PATIENCE)
    await run.cancel(); await engine.finish(run)
    r2 = await engine.start(clerk(*plan), says(), input=None, resume_from=run.id, requested_by="bob")
    await r2.next_approval(PATIENCE)
    await r2.cancel(); await engine.finish(r2)
    r3 = await engine.start(clerk(*plan), says(), input=None, resume_from=r2.id, requested_by="carl")
    a = await r3.next_approval(PATIENCE)
    print(a.not_by)
    try:
        print(await engine.client.decide(r3.id, appr(a, "ana")))
    except Exception as e:
        print("refused", e)
    await asyncio.sleep(1)
    assert world.effects == []

async def test_b4_skip_then_resume_does_it_again(engine, world):
    # outcome unknown in A; a person skips it in B; B fails; C resumes B
    world.fail_next = [ConnectionError("reset by peer")]  # may have happened
    a_run = await engine.start(clerk(), asks(call("pay", amount=9)), says())
    await engine.client.decide(a_run.id, appr(await a_run.next_approval(PATIENCE), "ann"))
    await engine.until(a_run, "requires_action")
    await a_run.cancel(); await engine.finish(a_run)
    b = await engine.start(clerk(), RuntimeError("x"), input=None, resume_from=a_run.id)
    from horarium.errors import ModelError
    engine.model.lines[:] = [ModelError("broken")]
    st = await engine.until(b, "requires_action")
    await b.resolve(st.waiting_for[0].id, "skip", by="ann")
    print("B", (await engine.finish(b)).status, world.effects)
    c = await engine.start(clerk(), says(), input=None, resume_from=b.id)
    await asyncio.sleep(3)
    s = await c.status()
    print("C", s.status, s.waiting_for, world.effects)
    assert world.effects == []

@pytest.mark.parametrize("args", [[], [{}, {}], ["x"], [None], [[1]], [b"\xff\xfe"]])
async def test_b5_odd_signals(engine, world, args):
    run = await engine.start(clerk(), asks(call("pay", amount=9)), says())
    a = await run.next_approval(PATIENCE)
    h = engine.env.client.get_workflow_handle(run.id)
    for n in ("approve", "reject", "resolve", "message"):
        await h.signal(n, args=args)
    for n in ("decide", "resolve"):
        try:
            print(n, await asyncio.wait_for(h.execute_update(n, args=args), 5))
        except Exception as e:
            print(n, type(e).__name__, str(e)[:100], str(getattr(e, "cause", ""))[:150])
    s = await asyncio.wait_for(run.status(), 5)
    print(s.refused_signals)
    await asyncio.wait_for(engine.client.decide(run.id, appr(a, "ann")), 10)
    assert (await engine.finish(run)).status == "completed"
