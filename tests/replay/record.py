"""Records the histories that the replay test reads: `python -m tests.replay.record [shape …]`.

Each file is one execution as the server exports it, nothing added or removed. Once runs of a released version are in
flight, what is there stays: add a shape, and let the workflow read both.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import structlog
from temporalio.client import WorkflowHistory
from temporalio.common import SearchAttributeKey
from temporalio.testing import WorkflowEnvironment

from horarium.contract import SEARCH_ATTRIBUTES
from horarium.conversion import data_converter
from horarium.leaving import leave
from horarium.settings import GatewaySettings, Settings
from tests.engine.conftest import World, beside_python
from tests.replay.all_shapes import GATEWAYS, SHAPES
from tests.support.engine import TUNING, running_engine

HISTORIES = Path(__file__).resolve().parents[1] / "histories"
IDENTITY = "recorder"  # else it is the process and the host


async def record(names: list[str], folder: Path = HISTORIES) -> list[Path]:
    """Play these shapes, and save what they leave; a run that continued as new leaves one file for each execution."""
    written = []
    async with await recording_server() as env:
        for name in names:
            histories = await play(env, name)
            for old in (folder / f"{name}.json", *folder.glob(f"{name}.*.json")):
                old.unlink(missing_ok=True)
            for number, history in enumerate(histories, 1):
                file = folder / (f"{name}.{number}.json" if len(histories) > 1 else f"{name}.json")
                file.write_text(f"{history.to_json()}\n", "utf-8")
                written.append(file)
    return written


def recording_server() -> Coroutine[Any, Any, WorkflowEnvironment]:
    """The real development server, and a client that says nothing of the machine it is on."""
    return WorkflowEnvironment.start_local(
        identity=IDENTITY,
        dev_server_existing_path=beside_python("temporal"),
        dev_server_extra_args=list(TUNING),
        data_converter=data_converter,
        search_attributes=[SearchAttributeKey.for_keyword(name) for name in SEARCH_ATTRIBUTES],
    )


async def play(env: WorkflowEnvironment, name: str) -> list[WorkflowHistory]:
    """Play one shape; the history of each of its executions, in order."""
    world = World()
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(root=Path(scratch), gateway=GATEWAYS.get(name, GatewaySettings()))
        async with running_engine(env, Path(scratch), world.tools(), settings=settings) as engine:  # type: ignore[arg-type]
            try:
                run = await SHAPES[name](engine, world)
            finally:
                world.released.set()  # or a tool that still waits would keep its worker
            return [history async for history in executions(env, run.id)][::-1]


async def executions(env: WorkflowEnvironment, run_id: str) -> AsyncIterator[WorkflowHistory]:
    """Every execution of a run, the last first."""
    execution: str | None = (await env.client.get_workflow_handle(run_id).describe()).run_id
    while execution:
        history = await env.client.get_workflow_handle(run_id, run_id=execution).fetch_history()
        yield history
        execution = history.events[0].workflow_execution_started_event_attributes.continued_execution_run_id


if __name__ == "__main__":
    logging.disable()  # the failures are the point
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    for path in asyncio.run(record(sys.argv[1:] or list(SHAPES))):
        print(f"{path.relative_to(HISTORIES.parent)}: {path.stat().st_size:,} bytes")
    leave(0)
