"""A real development server for the tests that ask one, and one with the engine's settings for routines deployed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from horarium.definitions import Agent
from horarium.ledger.agents import Agents
from horarium.ledger.database import Ledger
from horarium.settings import Settings
from tests.engine.conftest import beside_python, env
from tests.support.engine import TUNING
from tests.support.ledgers import open_ledger

__all__ = ["env"]


@pytest.fixture(scope="session")
async def temporal() -> AsyncIterator[Client]:
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=beside_python("temporal"),
        dev_server_extra_args=list(TUNING),
        dev_server_log_level="error",
    ) as environment:
        yield environment.client


@pytest.fixture
async def engine_temporal(env: WorkflowEnvironment) -> AsyncIterator[Client]:
    """A server as the engine has it; without any schedule when the test ends."""
    yield env.client
    async for row in await env.client.list_schedules():
        with contextlib.suppress(RPCError):  # gone, but still listed
            await env.client.get_schedule_handle(row.id).delete()


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """A ledger that knows an agent."""
    ledger = await open_ledger(Settings(root=tmp_path))
    await Agents(ledger).register(Agent("clerk", model="local", tools=("pay", "look")))
    yield ledger
    await ledger.close()
