"""The workflow of today reads what runs wrote before it, step for step; else every run in flight would be stuck."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, WorkflowRunner

from horarium import protocol
from horarium.conversion import data_converter
from tests.replay.all_shapes import SHAPES
from tests.replay.record import HISTORIES, play, recording_server
from tests.support.engine import sandbox
from workflows.agent_run import AgentRun
from workflows.routine_tick import RoutineTick

FILES = sorted(HISTORIES.glob("*.json"))
RUNNERS: dict[str, Callable[[], WorkflowRunner]] = {"sandboxed": sandbox, "unsandboxed": UnsandboxedWorkflowRunner}
MOST_BYTES = 100_000


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
async def test_a_saved_history_is_read_as_it_was_written(file: Path, runner: str) -> None:
    await replay(saved(file), RUNNERS[runner]())


def test_every_shape_is_saved_and_nothing_of_the_machine_that_recorded_it() -> None:
    assert {file.name.partition(".")[0] for file in FILES} == set(SHAPES)
    for file in FILES:
        text = file.read_text("utf-8")
        # An execution that was reset says so in the server's own name.
        assert set(re.findall(r'"identity": "([^"]*)"', text)) - {"history-service"} == {"recorder"}
        assert "stackTrace" not in text
        assert len(text) < MOST_BYTES


def without_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AgentRun, "_mark", lambda self, status: None)


def with_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "CALL_TOOL", "perform_tool")


def with_a_wait_before_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = AgentRun._ask

    async def later(self: AgentRun, command: Any) -> None:
        await workflow.sleep(1)
        await ask(self, command)

    monkeypatch.setattr(AgentRun, "_ask", later)


@pytest.mark.parametrize("change", [without_a_line, with_another_name, with_a_wait_before_asking])
async def test_a_workflow_that_was_changed_cannot_read_it(
    change: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    history = saved(HISTORIES / "parallel_approvals_one_rejected.json")
    change(monkeypatch)

    with pytest.raises(workflow.NondeterminismError):
        await replay(history, UnsandboxedWorkflowRunner())


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[WorkflowEnvironment]:
    async with await recording_server() as env:
        yield env


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
async def test_what_a_run_of_today_writes_can_be_read_again(server: WorkflowEnvironment, name: str) -> None:
    for history in await play(server, name):
        await replay(WorkflowHistory.from_json(history.workflow_id, history.to_json()), UnsandboxedWorkflowRunner())


def saved(file: Path) -> WorkflowHistory:
    events = json.loads(file.read_text("utf-8"))
    # The run's own id: the workflow takes it for the ids of its steps.
    return WorkflowHistory.from_json(
        events["events"][0]["workflowExecutionStartedEventAttributes"]["workflowId"], events
    )


async def replay(history: WorkflowHistory, runner: WorkflowRunner) -> None:
    replayer = Replayer(workflows=[AgentRun, RoutineTick], data_converter=data_converter, workflow_runner=runner)
    await replayer.replay_workflow(history)
