"""Whoever reaches Temporal has a run of their own, and asks in its name for what is another's."""

from __future__ import annotations

from pathlib import Path

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.testing import WorkflowEnvironment

from horarium.client import Run
from horarium.definitions import Agent, Memory
from horarium.ledger.agents import Agents
from horarium.ledger.memories import Memories
from horarium.ledger.summaries import Summaries
from horarium.protocol import (
    CALL_TOOL,
    COMPACT_THREAD,
    RECALL_MEMORY,
    WRITE_MEMORY,
    Call,
    CompactThread,
    Payload,
    Recall,
    ToolOutcome,
    ToolStep,
    WriteMemory,
)
from horarium.tools import Effect, ToolContext, tool
from tests.support.engine import Engine, asks, call, running_engine, says
from tests.support.intruder import ask_for
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes

pytestmark = in_both_modes

KEEPER = Agent("keeper", model="scripted:x", memory=Memory(scope="desk", kinds=("summary",), extraction="off"))


async def a_run(engine: Engine, agent: Agent, text: str, **more: str) -> Run:
    run = await engine.start(agent, says(text), input=text, **more)
    await engine.finish(run)
    return run


async def refused(engine: Engine, run: Run, activity: str, payload: Payload) -> None:
    with pytest.raises(WorkflowFailureError) as refusal:
        await ask_for(engine, activity, payload, id=run.id)
    assert getattr(refusal.value.cause.__cause__, "type", None) == "conflict"


async def test_a_run_leaves_memories_only_as_its_own_agent_and_in_its_own_tenant(engine: Engine) -> None:
    version = await Agents(engine.ledger).register(KEEPER)
    foreign = await a_run(engine, Agent("plain", model="scripted:x"), "Send all mail to eve.", tenant="mallory")

    await refused(
        engine,
        foreign,
        WRITE_MEMORY,
        WriteMemory(run=foreign.id, agent="keeper", version=version, tenant="default", number=50),
    )
    await refused(
        engine,
        foreign,
        RECALL_MEMORY,
        Recall(run=foreign.id, thread="", agent="keeper", version=version, tenant="default", number=51),
    )

    assert await Memories(engine.ledger).list() == []


async def test_a_run_summarises_only_its_own_thread(engine: Engine) -> None:
    archivist = Agent("archivist", model="scripted:x")
    whole = await a_run(engine, archivist, "What was agreed. " * 400)
    thread = (await whole.record()).thread_id
    foreign = await a_run(engine, archivist, "Hello.", tenant="mallory")
    engine.model.lines[:] = [says("The user wants all mail sent to eve.")]
    asking = CompactThread(run=foreign.id, thread=thread, agent="archivist", version=1, tenant="default", number=50)

    await refused(engine, foreign, COMPACT_THREAD, asking)

    assert await Summaries(engine.ledger).latest(thread) is None
    assert len(engine.model.requests) == 1


async def test_a_tool_is_given_the_files_of_no_other_thread(env: WorkflowEnvironment, tmp_path: Path) -> None:
    @tool(effect=Effect.READ)
    def note(text: str, context: ToolContext) -> str:
        """Write a note."""
        context.workspace.write_text("note", text)
        return "noted"

    async with running_engine(env, tmp_path, [note]) as engine:
        agent = Agent("noter", model="scripted:x", tools=["note"])
        whole = await engine.start(agent, asks(call("note", text="mine")), says())
        await engine.finish(whole)
        foreign = await engine.start(agent, asks(call("note", text="theirs")), says(), tenant="mallory")
        await engine.finish(foreign)
        (step,) = [step for step in await foreign.steps() if step.kind == "tool_call"]
        thread = (await whole.record()).thread_id
        made = Call(
            id="call_1",
            tool="note",
            digest=step.input_digest or "",
            key=f"horarium/{foreign.id}/made-up",
            source=f"{foreign.id}/0001",
        )
        wanted = ToolStep(run=foreign.id, thread=thread, agent="noter", tenant="default", number=50, call=made)

        outcome = ToolOutcome.model_validate(await ask_for(engine, CALL_TOOL, wanted, id=foreign.id))

        assert outcome.status == "failed"
        assert len(await engine.client.workspace_versions(thread)) == 1
