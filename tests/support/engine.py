"""An engine for tests: the real workflow and activities on a real server; only the model says what the test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from temporalio.testing import WorkflowEnvironment
from temporalio.worker import WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.models.base import ModelRequest, OnText, RequestedCall, Turn
from activities.models.router import Models
from horarium.client import Client, Run
from horarium.definitions import Agent, ModelSettings
from horarium.ledger.database import Ledger
from horarium.project import Project
from horarium.settings import Settings
from horarium.tools import Tool
from tests.support.ledgers import open_ledger
from workers.engine import serve_engine

PATIENCE = timedelta(seconds=30)
TUNING = (
    *("--dynamic-config-value", "history.transferProcessorMaxPollRPS=10000"),
    *("--dynamic-config-value", "history.timerProcessorMaxPollRPS=2000"),
    *("--dynamic-config-value", 'history.timerProcessorMaxTimeShift="50ms"'),
    # Else the server waits until an execution is a second old before it continues as new.
    *("--dynamic-config-value", 'history.workflowIdReuseMinimalInterval="0s"'),
)
Said = Turn | Exception | Callable[[ModelRequest], Turn | Awaitable[Turn]]


class _CheckedOnce(SandboxedWorkflowRunner):
    """A sandbox that checks each workflow's imports once in a process, and not again for every engine of a test."""

    checked: ClassVar[set[type]] = set()

    def prepare_workflow(self, defn: Any) -> None:
        if defn.cls not in self.checked:
            super().prepare_workflow(defn)
            self.checked.add(defn.cls)


def sandbox() -> WorkflowRunner:
    """Where tests run workflow code: a clock, a file or a die in it fails the test."""
    return _CheckedOnce(
        restrictions=SandboxRestrictions.default.with_passthrough_modules(
            "horarium", "pydantic", "pydantic_core", "annotated_types", "jsonschema", "yaml", "structlog", "ulid"
        )
    )


def call(tool: str, id: str = "call_1", /, **arguments: Any) -> RequestedCall:
    """A tool call as a model writes it."""
    return RequestedCall(id, tool, json.dumps(arguments))


def asks(*calls: RequestedCall, tokens: tuple[int, int] = (10, 5)) -> Turn:
    """A turn that calls tools."""
    return Turn(calls=calls, input_tokens=tokens[0], output_tokens=tokens[1], model="test")


def says(text: str = "Done.", **more: Any) -> Turn:
    """A turn that answers."""
    return Turn(text=text, input_tokens=10, output_tokens=5, model="test", **more)


@dataclass
class ModelForTests:
    """Says its lines in order, and keeps what it was asked; the last line is said again and again."""

    lines: list[Said] = field(default_factory=list)
    requests: list[ModelRequest] = field(default_factory=list)

    async def generate(self, request: ModelRequest, on_text: OnText | None = None) -> Turn:
        self.requests.append(request)
        line = self.lines.pop(0) if len(self.lines) > 1 else self.lines[0]
        if isinstance(line, Exception):
            raise line
        if isinstance(line, Turn):
            return line
        said = line(request)
        return said if isinstance(said, Turn) else await said

    async def window(self, model: str, settings: ModelSettings) -> int | None:
        return None

    async def check(self, model: str) -> str:
        return "ready"

    async def close(self) -> None:
        return None

    def heard(self, turn: int = -1) -> list[tuple[str, str]]:
        """Role and text of every message of one request."""
        return [(message.role, message.text) for message in self.requests[turn].messages]


@dataclass
class Engine:
    """A running engine and everything a test needs of it."""

    client: Client
    ledger: Ledger
    model: ModelForTests
    settings: Settings
    env: WorkflowEnvironment

    async def start(self, agent: Agent, *lines: Said, input: str | None = "Go.", **options: Any) -> Run:
        """Start a run whose model says these lines."""
        if lines:
            self.model.lines[:] = list(lines)
            self.model.requests.clear()
        return await self.client.start(agent, input, **options)

    async def finish(self, run: Run) -> Any:
        """Wait for the end of a run."""
        return await run.result(PATIENCE)

    async def until(self, run: Run, status: str) -> Any:
        """Wait until the run has a status."""
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while (now := await run.status()).status != status:
                await asyncio.sleep(0.02)
            return now


@asynccontextmanager
async def running_engine(
    env: WorkflowEnvironment,
    directory: Path,
    tools: Sequence[Tool],
    *,
    settings: Settings | None = None,
    runner: WorkflowRunner | None = None,
) -> AsyncIterator[Engine]:
    """An engine worker in this process, on `env`, with its ledger in `directory`."""
    settings = settings or Settings(root=directory)
    ledger = await open_ledger(settings)
    model = ModelForTests()
    models = Models(settings)
    models.register("scripted", model)
    stop = asyncio.Event()
    project = Project(settings=settings, agents={}, tools={tool.name: tool for tool in tools})
    serving = asyncio.create_task(
        serve_engine(env.client, ledger, settings, project, stop, models=models, runner=runner or sandbox())
    )
    try:
        yield Engine(Client(env.client, ledger, settings), ledger, model, settings, env)
    finally:
        stop.set()
        await asyncio.wait_for(serving, 30)
        await ledger.close()
