"""The shapes of runs that are recorded: plain ones, and each way in which a run can go oddly.

A shape plays one run on a real engine to its end; what it leaves in Temporal is saved and replayed ever after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest

from activities.models.base import RequestedCall
from horarium.client import Run
from horarium.contract import RUN_WORKFLOW, SIGNAL_APPROVE, SIGNAL_REJECT, Decision, Remember, Waiting
from horarium.definitions import Agent, ApprovalRule, Limits, Memory, RememberRule
from horarium.errors import ModelRejected
from horarium.settings import GatewaySettings
from tests.engine.conftest import World
from tests.support.engine import PATIENCE, Engine, asks, call, says

Shape = Callable[[Engine, World], Awaitable[Run]]
SHAPES: dict[str, Shape] = {}
GATEWAYS: dict[str, GatewaySettings] = {}  # of the shapes that need settings of their own
TOOLS = ["look", "pay", "wait", "slow_pay"]


def shape(play: Shape) -> Shape:
    """Record this one, under its name."""
    SHAPES[play.__name__] = play
    return play


def agent(**more: Any) -> Agent:
    """The agent of the shapes."""
    return Agent("clerk", model="scripted:lines", tools=TOOLS, **more)


async def ends(engine: Engine, run: Run, status: str = "completed") -> Run:
    """Wait for the end, which has to be the one that is meant to be recorded."""
    result = await engine.finish(run)
    assert result.status == status, result
    return run


async def waits_for(run: Run, kind: str) -> Waiting:
    """Wait until the run waits for this kind of thing."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            for item in (await run.status()).waiting_for:
                if item.kind == kind:
                    return item
            await asyncio.sleep(0.02)


@shape
async def plain(engine: Engine, world: World) -> Run:
    run = await engine.start(agent(), asks(call("look", "a"), call("look", "b")), asks(call("look", "c")), says())
    return await ends(engine, run)


@shape
async def remembered(engine: Engine, world: World) -> Run:
    run = await engine.start(agent(memory=Memory(scope="desk")), asks(call("look")), says())
    return await ends(engine, run)


@shape
async def parallel_approvals_one_rejected(engine: Engine, world: World) -> Run:
    """Decided by update, in another order than they were asked."""
    run = await engine.start(agent(), asks(*(call("pay", f"c{n}", amount=n) for n in range(3)), call("look")), says())
    await run.next_approval(PATIENCE)
    first, second, third = await run.approvals()
    await run.approve(third, by="ann")
    await run.reject(first, by="bob", comment="No invoice.")
    assert (await run.approve(third, by="ann")).repeated
    await run.approve(second, by="ann")
    return await ends(engine, run)


@shape
async def decided_by_signal(engine: Engine, world: World) -> Run:
    """One that counts, one that does not, one that nobody can read."""
    run = await engine.start(agent(), asks(call("pay", "a", amount=1), call("pay", "b", amount=2)), says())
    await run.next_approval(PATIENCE)
    first, second = await run.approvals()
    handle = engine.env.client.get_workflow_handle(run.id)
    await handle.signal(SIGNAL_APPROVE, Decision(approval=first.id, digest=second.digest, by="mallory"))
    await handle.signal(SIGNAL_APPROVE, "what?")
    await handle.signal(SIGNAL_REJECT, Decision(approval=first.id, digest=first.digest, by="bob"))
    await handle.signal(SIGNAL_APPROVE, Decision(approval=second.id, digest=second.digest, by="ann"))
    return await ends(engine, run)


@shape
async def malformed_turns(engine: Engine, world: World) -> Run:
    run = await engine.start(
        agent(),
        asks(RequestedCall("a", "look", '{"what": ')),
        asks(call("lok", "b"), call("look", "c")),
        says(""),
        says("Sorry."),
    )
    return await ends(engine, run)


@shape
async def four_malformed_turns(engine: Engine, world: World) -> Run:
    run = await engine.start(agent(), asks(RequestedCall("a", "look", "no JSON")))
    return await ends(engine, run, "failed")


@shape
async def held_and_resolved(engine: Engine, world: World) -> Run:
    run = await engine.start(agent(on_step_failure="hold"), asks(call("look")), ModelRejected("too long"), says())
    await run.resolve((await waits_for(run, "held_step")).id, "retry", by="ann")
    return await ends(engine, run)


@shape
async def unknown_outcome_retried(engine: Engine, world: World) -> Run:
    world.fail_next = [ConnectionError("reset by peer")]
    run = await engine.start(agent(), asks(call("pay", amount=3)), says())
    await run.approve(await run.next_approval(PATIENCE), by="ann")
    await run.resolve((await waits_for(run, "unknown_outcome")).id, "retry", by="ann")
    return await ends(engine, run)


@shape
async def unknown_outcome_supplied(engine: Engine, world: World) -> Run:
    world.fail_next = [ConnectionError("reset by peer")]
    run = await engine.start(agent(), asks(call("pay", amount=3)), says())
    await run.approve(await run.next_approval(PATIENCE), by="ann")
    await run.resolve((await waits_for(run, "unknown_outcome")).id, "supply", by="ann", output="Receipt 12.")
    return await ends(engine, run)


@shape
async def a_read_tried_again(engine: Engine, world: World) -> Run:
    world.fail_next = [OSError("no route")]
    return await ends(engine, await engine.start(agent(), asks(call("look")), says()))


@shape
async def messages(engine: Engine, world: World) -> Run:
    run = await engine.start(agent(), asks(call("pay", amount=1)), says())
    approval = await run.next_approval(PATIENCE)
    await run.message("And be quick.", by="ann")
    await run.message("Please.")
    await run.approve(approval, by="ann")
    return await ends(engine, run)


@shape
async def cancelled_at_an_approval(engine: Engine, world: World) -> Run:
    run = await engine.start(agent(), asks(call("pay", "a", amount=1), call("pay", "b", amount=2)), says())
    await run.approve(await run.next_approval(PATIENCE), by="ann")
    await run.cancel()
    return await ends(engine, run, "cancelled")


@shape
async def cancelled_with_a_tool_in_flight(engine: Engine, world: World) -> Run:
    run = await engine.start(agent(), asks(call("slow_pay", amount=1), call("look", "b")), says())
    await run.approve(await run.next_approval(PATIENCE), by="ann")
    assert await asyncio.to_thread(world.entered_thread.wait, 20)
    await run.cancel()
    return await ends(engine, run, "cancelled")


@shape
async def continued(engine: Engine, world: World) -> Run:
    """Continued as new at every second step, with an approval open at one of them."""
    run = await engine.start(
        agent(),
        asks(call("look", "a"), call("look", "b")),
        asks(call("pay", "c", amount=1), call("pay", "d", amount=2)),
        says("All done."),
        continue_as_new_after=2,
    )
    approval = await run.next_approval(PATIENCE)
    await run.message("And be quick.")
    pending = [item for item in await run.approvals() if item.status == "pending" and item.id != approval.id]
    await run.reject(pending[0], by="bob")
    await run.approve(approval, by="ann")
    return await ends(engine, run)


@shape
async def decided_while_it_continued(engine: Engine, world: World) -> Run:
    """The first workflow task of a continued execution brings a decision along, before `run` has begun."""
    run = await engine.start(agent(), asks(call("pay", amount=1)), says(), continue_as_new_after=1)
    approval = await run.next_approval(PATIENCE)
    await run.message("And be quick.")  # which makes it continue as new
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while "carried" not in (request := await _request_of(engine, run)) or request["carried"]["messages"] == 0:
            await asyncio.sleep(0.02)
    latest = (await engine.env.client.get_workflow_handle(run.id).describe()).run_id
    handle = engine.env.client.get_workflow_handle(run.id)
    await handle.signal(SIGNAL_APPROVE, Decision(approval=approval.id, digest=approval.digest, by="ann"))
    await ends(engine, run)
    # Begun again from its start, the execution finds the decision there already.
    await engine.env.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=engine.env.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=run.id, run_id=latest),
            reason="recorded",
            workflow_task_finish_event_id=3,
            request_id=str(uuid4()),
        )
    )
    return await ends(engine, run)


async def _request_of(engine: Engine, run: Run) -> dict[str, Any]:
    """The argument of the latest execution."""
    client = engine.env.client
    latest = (await client.get_workflow_handle(run.id).describe()).run_id
    history = await client.get_workflow_handle(run.id, run_id=latest).fetch_history()
    payloads = history.events[0].workflow_execution_started_event_attributes.input.payloads
    request: dict[str, Any] = (await client.data_converter.decode(payloads))[0]
    return request if request["carried"] else {}


@shape
async def a_limit_reached(engine: Engine, world: World) -> Run:
    run = await engine.start(agent(limits=Limits(max_turns=2)), asks(call("look")))
    return await ends(engine, run, "incomplete")


@shape
async def out_of_time(engine: Engine, world: World) -> Run:
    run = await engine.start(agent(limits=Limits(wall_time=timedelta(seconds=1))), asks(call("wait")), says())
    await asyncio.wait_for(world.entered.wait(), 20)
    return await ends(engine, run, "incomplete")


@shape
async def failed(engine: Engine, world: World) -> Run:
    run = await engine.start(agent(), asks(call("look")), ModelRejected("quota is used up"))
    return await ends(engine, run, "failed")


@shape
async def resumed(engine: Engine, world: World) -> Run:
    """After a run that was ended from outside while nobody knew whether its call had happened."""
    world.fail_next = [ConnectionError("reset by peer")]
    run = await engine.start(agent(), asks(call("pay", amount=9)), says())
    await run.approve(await run.next_approval(PATIENCE), by="ann")
    await waits_for(run, "unknown_outcome")
    await engine.env.client.get_workflow_handle(run.id).terminate("recorded")
    again = await engine.start(agent(), says("Paid."), input=None, resume_from=run.id)
    await again.resolve((await waits_for(again, "unknown_outcome")).id, "retry", by="ann")
    return await ends(engine, again)


@shape
async def an_unknown_agent(engine: Engine, world: World) -> Run:
    return await ends(engine, await engine.client.start("nobody", "Go."), "failed")


@shape
async def a_request_that_cannot_be_read(engine: Engine, world: World) -> Run:
    handle = await engine.env.client.start_workflow(
        RUN_WORKFLOW, {"input": "Hi."}, id="run_from-elsewhere", task_queue="horarium"
    )
    run = engine.client.run(handle.id)
    assert (await run.result(PATIENCE)).status == "failed"
    return run


@shape
async def voted_and_edited_while_it_continued(engine: Engine, world: World) -> Run:
    plan = [ApprovalRule(tools=("pay",), required=2, approvers=("ann", "bob", "cem"))]
    lines = (asks(call("pay", "a", amount=7), call("look", "b")), asks(call("look", "c")), says())
    run = await engine.start(agent(approvals=plan), *lines, continue_as_new_after=1)
    asked = await run.next_approval(PATIENCE)
    await run.approve(asked, by="ann")
    edited = await run.approve(asked, by="bob", arguments={"amount": 5})
    await run.approve(edited.approval, by="cem")
    return await ends(engine, run)


@shape
async def escalated_and_expired(engine: Engine, world: World) -> Run:
    rule = ApprovalRule(
        tools=("pay",),
        approvers=("ann",),
        expires_after=timedelta(milliseconds=500),
        on_expiry="escalate",
        escalate_to=("eva",),
    )
    run = await engine.start(agent(approvals=[rule]), asks(call("pay", "a", amount=7)), says())
    return await ends(engine, run)


@shape
async def released_by_plan_and_grant(engine: Engine, world: World) -> Run:
    plan = [
        ApprovalRule(tools=("pay",), when={"amount": {"maximum": 1}}, required=0),
        ApprovalRule(tools=("pay",), remember=RememberRule()),
    ]
    lines = [asks(call("pay", "a", amount=1)), asks(call("pay", "b", amount=7)), asks(call("pay", "c", amount=7))]
    run = await engine.start(agent(approvals=plan), *lines, says())
    asked = await run.next_approval(PATIENCE)
    await run.approve(asked, by="ann", remember=Remember(scope="run", lasts=timedelta(hours=1)))
    return await ends(engine, run)


@shape
async def a_stubborn_model_and_an_answer(engine: Engine, world: World) -> Run:
    lines = [asks(call("pay", id, amount=7)) for id in ("a", "b")]
    run = await engine.start(agent(), *lines, asks(call("pay", "c", amount=8)), says())
    await run.reject(await run.next_approval(PATIENCE), by="ann", comment="No.")
    await run.answer(await run.next_approval(PATIENCE), "It is paid.", by="ann")
    return await ends(engine, run)


@shape
async def questions_settled_by_update(engine: Engine, world: World) -> Run:
    world.fail_next.append(RuntimeError("the line was cut"))
    run = await engine.start(agent(), asks(call("pay", "a", amount=7)), says())
    await run.approve(await run.next_approval(PATIENCE), by="ann")
    unknown = await waits_for(run, "unknown_outcome")
    await run.resolve(unknown.id, "retry", by="ann", question=unknown.question)
    return await ends(engine, run)
