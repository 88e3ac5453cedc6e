"""The engine on a real server, without tools of its own; and a ledger on each database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment

from tests.core.conftest import kind, ledger, new_settings, postgres
from tests.engine.conftest import env
from tests.support.engine import Engine, running_engine

__all__ = ["env", "kind", "ledger", "new_settings", "postgres"]


@pytest.fixture
async def engine(env: WorkflowEnvironment, tmp_path: Path) -> AsyncIterator[Engine]:
    async with running_engine(env, tmp_path, []) as engine:
        yield engine
