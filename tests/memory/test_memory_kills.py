"""kill -9 within the step that learns: whatever it had done, there is one set of memories at the end."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from temporalio.testing import ActivityEnvironment, WorkflowEnvironment

from activities.catalog import Catalog
from activities.memory import MemoryWriter
from activities.models.router import Models
from horarium.definitions import Agent, Memory
from horarium.ledger.memories import Memories
from horarium.ledger.schema import steps
from horarium.protocol import WriteMemory
from tests.support.engine import Engine, running_engine, says
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes
from tests.support.stack import running_stack, until

pytestmark = in_both_modes

AGENT = """
model: scripted:scripts/clerk.yaml
memory:
  scope: desk
  kinds: [user, procedural, summary]
  extraction: scripted:scripts/learn.yaml
  rubric: {check: "rubrics/desk.py:good"}
"""
LEARNED = {
    "facts": [{"subject": "Units", "text": "Prefers metric units."}],
    "procedures": [{"subject": "Invoices", "text": "Look first."}],
    "summary": "All went well.",
}
# The first time that it is asked it kills the worker that asks, which has paid for the extraction by then.
RUBRIC = """
import os, pathlib, signal

def good(run):
    mark = pathlib.Path(__file__).with_name("asked")
    if not mark.exists():
        mark.touch()
        os.kill(os.getppid(), signal.SIGKILL)
    return True
"""


@pytest.mark.slow
async def test_a_worker_that_is_killed_while_it_learns_leaves_one_set_of_memories(tmp_path: Path) -> None:
    (tmp_path / "rubrics").mkdir()
    (tmp_path / "rubrics" / "desk.py").write_text(RUBRIC)
    turn = {"text": json.dumps(LEARNED), "input_tokens": 7, "output_tokens": 3}
    scripts = {"clerk.yaml": json.dumps([{"text": "Done."}]), "learn.yaml": json.dumps([turn])}
    async with running_stack(tmp_path, agents={"clerk": AGENT}, scripts=scripts) as stack:
        run = await stack.client.start("clerk", "Go.", requested_by="ana")
        killed = stack.worker_process()
        await until(lambda: killed.poll() is not None, "the worker is killed")
        stack.start_worker()

        result = await run.result(timedelta(seconds=40))

        (step,) = [step for step in await run.steps() if step.kind == "memory_write"]
        found = await stack.client.memories()
    assert (result.status, step.status, step.attempts) == ("completed", "completed", 2)
    kinds = [(memory.kind, memory.shown.status, memory.shown.version) for memory in found]
    assert sorted(kinds) == [("procedural", "active", 1), ("summary", "active", 1), ("user", "active", 1)]


async def test_an_attempt_that_died_after_it_wrote_is_settled_with_what_was_written(
    env: WorkflowEnvironment, tmp_path: Path
) -> None:
    agent = Agent("clerk", model="scripted:x", memory=Memory(scope="desk", kinds=("user", "summary")))
    async with running_engine(env, tmp_path, []) as engine:
        run = await engine.start(agent, says(), says(json.dumps({"facts": LEARNED["facts"]})), requested_by="ana")
        await engine.finish(run)
        before = (await run.steps())[-1]
        await _unsettle(engine, run.id, before.number)
        catalog, models = Catalog(engine.ledger, []), Models(engine.settings)  # which would find no script to ask
        writer = MemoryWriter(engine.ledger, models, catalog, engine.settings)

        again = WriteMemory(run=run.id, agent="clerk", version=1, tenant="default", number=before.number)
        told = await asyncio.wait_for(ActivityEnvironment().run(writer.write_memory, again), 20)

        after = (await run.steps())[-1]
        found = await Memories(engine.ledger).list()
    assert (after.status, after.output, after.input_tokens) == ("completed", before.output, before.input_tokens)
    assert told.usage.input_tokens == 10
    assert [len(memory.versions) for memory in found] == [1, 1]


async def _unsettle(engine: Engine, run: str, number: int) -> None:
    """As a worker leaves a step that died before it could settle it."""
    async with engine.ledger.write() as connection:
        values = {"status": "claimed", "output": None, "settled_at": None, "input_tokens": 0}
        await connection.execute(update(steps).where(steps.c.run_id == run, steps.c.number == number).values(**values))
