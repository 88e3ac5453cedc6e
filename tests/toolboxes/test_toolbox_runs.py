"""Runs with toolboxes: a Python tool and an operation of a real HTTP server, behind the same approvals and journal."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.testing import WorkflowEnvironment

from horarium.client import Run
from horarium.contract import ENGINE_QUEUE, RUN_WORKFLOW, DirectCall, RunRequest
from horarium.definitions import Agent, ApprovalRule
from horarium.ids import new_run_id
from horarium.ledger.agents import Agents
from horarium.ledger.toolboxes import Toolboxes
from horarium.ledger.toolsets import Toolsets
from horarium.protocol import DISCOVER_TOOLS, DiscoverTools
from horarium.settings import Settings
from tests.engine.conftest import World, env, world
from tests.mcp.rig import BANK
from tests.support.cast import Cast, hands
from tests.support.engine import PATIENCE, Engine, asks, call, running_engine, says
from tests.support.intruder import ask_for
from tests.toolboxes.crm import Crm, document_of, running_crm

__all__ = ["env", "world"]

SUPPORT = """\
tools: [look]
openapi:
  crm: {document: crm.json}
"""


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Crm]:
    async with running_crm() as crm:
        yield crm


@pytest.fixture
def crm(running: Crm) -> Crm:
    running.forget()
    return running


@pytest.fixture
def project(tmp_path: Path, crm: Crm) -> Settings:
    (tmp_path / "toolboxes").mkdir()
    (tmp_path / "crm.json").write_text(json.dumps(document_of(crm.url)))
    (tmp_path / "toolboxes" / "support.yaml").write_text(SUPPORT)
    return Settings(root=tmp_path)


@pytest.fixture
async def engine(env: WorkflowEnvironment, project: Settings, world: World) -> AsyncIterator[Engine]:
    tools = world.tools()
    async with running_engine(env, project.root, tools, settings=project) as engine:  # type: ignore[arg-type]
        yield engine


def clerk(toolbox: str = "support", **more: object) -> Agent:
    return Agent("clerk", model="scripted:lines", toolboxes=[toolbox], **more)  # type: ignore[arg-type]


CLOSE = call("crm__closeTicket", "close", id="7", body={"reason": "answered"})


async def test_an_agent_uses_a_python_tool_and_an_operation_and_the_post_waits_for_a_person(
    engine: Engine, crm: Crm, world: World
) -> None:
    looks = asks(call("look", "a", what="sky"), call("crm__getTicket", "b", id="7"))
    run = await engine.start(clerk(), looks, asks(CLOSE), says("Closed."))
    approval = await run.next_approval(PATIENCE)
    assert (crm.asked, world.looks) == ([("GET", "/tickets/7")], 1)
    assert json.loads(approval.preview or "") == {"id": "7", "body": {"reason": "answered"}}

    await run.approve(approval, by="ana")

    result = await engine.finish(run)
    assert (result.status, result.output) == ("completed", "Closed.")
    assert crm.asked[1:] == [("POST", "/tickets/7/close")]
    steps = {step.name: step for step in await run.steps() if step.kind == "tool_call"}
    assert json.loads(steps["crm__getTicket"].output or "") == {"id": "7", "state": "open"}
    assert (steps["crm__getTicket"].effect, steps["crm__closeTicket"].effect) == ("read", "external")
    assert crm.headers[1]["idempotency-key"].startswith(f"horarium/{run.id}/close")
    shown = {tool.name for tool in engine.model.requests[0].tools}
    assert shown == {"look", "crm__getTicket", "crm__closeTicket"}


async def test_a_refusal_of_the_api_is_told_to_the_model_and_a_lost_answer_asks_a_person(
    engine: Engine, crm: Crm
) -> None:
    plan = [ApprovalRule(tools=("crm__*",), required=0)]
    gone = call("crm__closeTicket", "gone", id="9", body={"reason": "x"})
    run = await engine.start(clerk(approvals=plan), asks(gone), says("There is none."))

    assert (await engine.finish(run)).status == "completed"
    assert "HTTP 404" in engine.model.heard()[-1][1]
    assert "there is no ticket '9'" in engine.model.heard()[-1][1]

    async def break_down(request: object) -> object:
        raise RuntimeError("after it was done")

    crm.answer = break_down  # type: ignore[assignment]
    run = await engine.start(clerk(approvals=plan), asks(CLOSE), says())
    asked = await engine.until(run, "requires_action")
    assert asked.waiting_for[0].kind == "unknown_outcome"
    await run.cancel()


async def test_a_run_keeps_the_version_it_began_with_while_another_is_promoted_and_rolled_back(
    engine: Engine, crm: Crm, project: Settings
) -> None:
    def change(text: str) -> None:
        (project.root / "toolboxes" / "support.yaml").write_text(text)

    async def shown(run: Run) -> tuple[set[str], str | None]:
        found = await Toolsets(engine.ledger).of_run(run.id)
        assert found is not None
        return {tool.spec.name for tool in found.toolset.tools}, found.toolset.tools[0].toolbox

    toolboxes = Toolboxes(engine.ledger)
    waits = await engine.start(clerk(), asks(CLOSE), says("Closed."))
    approval = await waits.next_approval(PATIENCE)
    change("tools: [look]\n")
    before = await engine.start(clerk(), says())
    await engine.finish(before)
    assert await shown(before) == ({"look", "crm__getTicket", "crm__closeTicket"}, "support@1")

    await toolboxes.promote("support", 2, "ana")
    promoted = await engine.start(clerk(), says())
    await engine.finish(promoted)
    fixed = await engine.start(clerk("support@1"), says())
    await engine.finish(fixed)
    await toolboxes.rollback("support", "ana")
    back = await engine.start(clerk(), says())
    await engine.finish(back)

    assert await shown(promoted) == ({"look"}, "support@2")
    assert (await shown(fixed))[1] == "support@1"
    assert (await shown(back))[1] == "support@1"
    engine.model.lines[:] = [says("Closed.")]
    await waits.approve(approval, by="ana")
    assert (await engine.finish(waits)).output == "Closed."
    assert crm.tickets == {"7": "closed"}
    assert await shown(waits) == ({"look", "crm__getTicket", "crm__closeTicket"}, "support@1")


async def test_an_unknown_toolbox_ends_the_run_with_its_name(engine: Engine) -> None:
    for reference, why in (("suport", "did you mean 'support'"), ("support@7", "has no version 7")):
        run = await engine.start(clerk(reference), says())

        result = await engine.finish(run)

        assert (result.status, result.reason) == ("failed", "toolbox_not_found")
        assert why in (result.message or "")


async def test_a_toolbox_brings_servers_and_sub_agents_and_their_tools_know_where_they_came_from(
    engine: Engine, crm: Crm, project: Settings
) -> None:
    bank = {"command": [sys.executable, str(BANK), str(project.root / "book")], "tools": ["act"]}
    text = json.dumps({"tools": ["look"], "mcp": {"bank": bank}, "agents": ["researcher"]})
    (project.root / "toolboxes" / "whole.yaml").write_text(text)
    cast = Cast(engine)
    await cast.agent("researcher", says("It is blue."))
    chief = await cast.agent(
        "chief",
        asks(call("bank__act", "act", ref="r1"), hands("researcher", "What is the sky?", "ask")),
        says("All done."),
        toolboxes=["whole"],
    )

    run = await engine.client.start(chief, "Go.")
    await run.approve(await run.next_approval(PATIENCE), by="ana")

    assert (await engine.finish(run)).output == "All done."
    steps = {step.name: (step.kind, step.status) for step in await run.steps() if step.kind != "model_call"}
    assert steps["bank__act"] == ("tool_call", "completed")
    assert steps["researcher"] == ("handoff", "completed")
    found = await Toolsets(engine.ledger).of_run(run.id)
    assert found is not None
    pinned = {tool.spec.name: (tool.source.kind, tool.toolbox) for tool in found.toolset.tools}
    assert pinned == {
        "look": ("python", "whole@1"),
        "bank__act": ("mcp", "whole@1"),
        "researcher": ("agent", "whole@1"),
    }


@pytest.mark.parametrize("when", ["before", "after"])
async def test_tools_that_a_stranger_has_pinned_for_another_agent_are_none_of_a_run(
    engine: Engine, crm: Crm, when: str
) -> None:
    await Agents(engine.ledger).register(clerk())
    free = ApprovalRule(tools=("*",), required=0)
    (engine.settings.root / "toolboxes" / "reading.yaml").write_text("tools: [look]")
    own = {"toolboxes": ["reading"]} if when == "before" else {"tools": ["look"]}
    reader = Agent("reader", model="scripted:lines", approvals=[free], **own)  # type: ignore[arg-type]
    await Agents(engine.ledger).register(reader)
    made_up = new_run_id()
    pinning = DiscoverTools(run=made_up, request=RunRequest(agent="clerk"))
    calling = DirectCall(tool="crm__closeTicket", arguments={"id": "7", "body": {"reason": "x"}})

    if when == "before":
        await ask_for(engine, DISCOVER_TOOLS, pinning, id=made_up)
        request = RunRequest(agent="reader", call=calling)
    else:
        request = RunRequest(agent="reader", call=DirectCall(tool="look", arguments={}))
    await engine.env.client.start_workflow(RUN_WORKFLOW, request, id=made_up, task_queue=ENGINE_QUEUE)
    result = await engine.client.run(made_up).result(PATIENCE)

    if when == "before":
        assert (result.status, result.reason) == ("failed", "conflict")
    else:
        assert result.status == "completed"
        with pytest.raises(WorkflowFailureError):
            await ask_for(engine, DISCOVER_TOOLS, pinning, id=made_up)
        assert await Toolsets(engine.ledger).of_run(made_up) is None
    assert crm.asked == []
