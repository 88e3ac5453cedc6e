from __future__ import annotations
import asyncio
from datetime import timedelta, UTC, datetime
from typing import Any
import pytest
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.worker import Worker
from horarium.contract import *
from horarium.definitions import Agent, ApprovalRule, RememberRule
from horarium.ids import *
from horarium.protocol import *
from horarium.protocol import ASK_APPROVALS
from tests.engine.conftest import World
from tests.engine.test_proof_engine import *
from tests.engine.test_proof_engine import serving, clerk, first, send, asked_call, intrude, trail, plain, approving, unknown
from tests.support.engine import *

@workflow.defn(name="Forger", sandboxed=False)
class Forger:
    @workflow.run
    async def run(self, name: str, payload: Any) -> Any:
        return await workflow.execute_activity(name, payload, task_queue=ENGINE_QUEUE,
            start_to_close_timeout=timedelta(seconds=20), retry_policy=RetryPolicy(maximum_attempts=1))

async def forge(engine, name, payload):
    q = "forger-" + new_run_id()
    async with Worker(engine.env.client, task_queue=q, workflows=[Forger]):
        return await asyncio.wait_for(engine.env.client.execute_workflow(Forger.run, args=[name, payload.model_dump(mode="json")], id=new_run_id(), task_queue=q, execution_timeout=timedelta(seconds=30)), 40)

for _n in [n for n in list(globals()) if n.startswith("test_")]:
    del globals()[_n]

async def test_a1_forged_plan_release(engine, world, signer):
    run = await engine.start(clerk(), asks(call("pay", amount=7000)), says())
    approval = await first(run)
    c = await asked_call(engine, run)
    rec = await engine.client.approval(approval.id)
    evil = c.model_copy(update={"released_by": "plan:approvals.0"})
    await forge(engine, ASK_APPROVALS, AskApprovals(run=run.id, agent="clerk", requests=(ApprovalRequest(id="apr_evil", number=900, guards=rec.guards, call=evil),), requested_at=datetime.now(UTC)))
    out = await intrude(engine, ToolStep(run=run.id, agent="clerk", tenant="default", number=rec.guards, call=c, approval="apr_evil"))
    print("OUT", out, world.effects, [(e.kind, e.data.get("released_by")) for e in await trail(engine, run)])
    assert world.effects == []

async def test_a2_same_approval_other_number_twice(engine, world, signer):
    run = await engine.start(clerk(), asks(call("pay", amount=7000)), says())
    approval = await first(run)
    c = await asked_call(engine, run)
    await send(engine, run, signer.sign(run.id, approving(approval)), "update")
    await engine.finish(run)
    out = await intrude(engine, ToolStep(run=run.id, agent="clerk", tenant="default", number=99, call=c, approval=approval.id))
    print("OUT", out, world.effects)
    assert len(world.effects) == 1

async def test_a3_same_by_carried(engine, world, signer):
    from workflows.machine import MachineState, CallState
    run = await engine.start(clerk(), asks(call("pay", amount=7000)), says())
    approval = await first(run)
    c = await asked_call(engine, run)
    await send(engine, run, signer.sign(run.id, approving(approval)), "update")
    await engine.finish(run)
    rec = await run.record()
    plan = RunPlan(run=run.id, thread=rec.thread_id, agent="clerk", version=1, limits=Agent("x", model="scripted:lines").limits, on_step_failure="fail", model_timeout=timedelta(seconds=20), heartbeat_timeout=timedelta(seconds=10), revision=1)
    st = MachineState(next_number=100, calls=[CallState(number=99, call=c.model_copy(update={"approved_in": approval.id}), phase="running")])
    await engine.env.client.start_workflow("AgentRun", {"agent": "clerk", "carried": {"plan": plan.model_dump(mode="json"), "state": st.model_dump(mode="json"), "approvals": [], "messages": 0, "refused": [], "status": "in_progress"}}, id=run.id, task_queue=ENGINE_QUEUE)
    for _ in range(100):
        if len(world.effects) > 1: break
        await asyncio.sleep(.1)
    print("EFFECTS", world.effects)
    assert len(world.effects) == 1

async def test_a4_quorum_over_proofs_lifetime(engine, world, signer):
    run = await engine.start(clerk(ApprovalRule(tools=("pay",), required=2)), asks(call("pay", amount=7)), says())
    approval = await first(run)
    print(await send(engine, run, signer.sign(run.id, approving(approval, "ana"), lasts=timedelta(seconds=-27)), "update"))
    await asyncio.sleep(4)
    print("ben told:", await send(engine, run, signer.sign(run.id, approving(approval, "ben")), "update"))
    await asyncio.sleep(3)
    s = await run.status()
    print(s.status, s.refused_signals, [a.status for a in await run.approvals()], [e.kind for e in await trail(engine, run)])
    assert (await run.status()).status == "completed"
