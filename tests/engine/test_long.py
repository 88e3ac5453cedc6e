"""There is no longest run, and no turn costs more to keep than the ones before it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import TextClause, text
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner

from activities.models.base import ModelRequest, RequestedCall, Turn
from horarium.definitions import Agent, Limits
from horarium.tools import tool
from tests.support.engine import Engine, Said, running_engine, says
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes

pytestmark = in_both_modes


@tool(effect="read")
async def look(turn: int) -> str:
    """Look at something."""
    return "y" * 1000


def calls_until(turns: int) -> Said:
    def line(request: ModelRequest) -> Turn:
        done = sum(1 for message in request.messages if message.role == "assistant")
        if done >= turns:
            return says("x" * 1000)
        return Turn(calls=(RequestedCall("call", "look", json.dumps({"turn": done})),), model="test")

    return line


async def stored_bytes(engine: Engine, turns: int) -> tuple[int, str]:
    """What a run of so many turns adds to the ledger, and how it ended."""
    before = await size(engine)
    agent = Agent("walker", model="scripted:lines", tools=[look], limits=Limits(max_turns=turns + 1))
    run = await engine.start(agent, calls_until(turns))
    result = await run.result(timedelta(seconds=100))
    assert (result.turns, result.steps) == (turns + 1, 2 * turns + 1)
    return await size(engine) - before, result.status


async def size(engine: Engine) -> int:
    async with engine.ledger.read() as connection:
        pages = await connection.scalar(_pragma("page_count"))
        free = await connection.scalar(_pragma("freelist_count"))
        return int(pages - free) * int(await connection.scalar(_pragma("page_size")))


def _pragma(name: str) -> TextClause:
    return text(f"PRAGMA {name}")


@pytest.mark.slow
async def test_a_run_of_a_thousand_turns_completes_and_stores_as_much_a_turn_as_a_short_one(
    env: WorkflowEnvironment, tmp_path: Path
) -> None:
    async with running_engine(env, tmp_path, [look], runner=UnsandboxedWorkflowRunner()) as engine:
        short, _ = await stored_bytes(engine, 100)
        long, status = await stored_bytes(engine, 1000)

    assert status == "completed"
    assert long / 1000 == pytest.approx(short / 100, rel=0.1)
