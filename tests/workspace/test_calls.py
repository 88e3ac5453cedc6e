"""Workspaces in runs, on the real engine: what a settled call left is what the next one finds."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.testing import WorkflowEnvironment

from horarium import ToolContext, ToolError, tool
from horarium.definitions import Agent
from horarium.settings import Settings, WorkspacesSettings
from horarium.tools import Tool
from tests.support.engine import Engine, asks, call, running_engine, says


@tool(effect="idempotent")
def write(name: str, text: str, context: ToolContext) -> str:
    """Write a file."""
    context.workspace.write_text(name, text)
    return "written"


@tool(effect="read")
async def read(name: str, context: ToolContext) -> str:
    """Read a file, from the tools' own loop."""
    return context.workspace.read_text(name)


@tool(effect="read")
def files(context: ToolContext) -> list[str]:
    """List the files."""
    return list(context.workspace.list())


@tool(effect="external")
def post(size: int, context: ToolContext) -> str:
    """Post a letter, and keep a copy of this size."""
    (Path(context.workspace) / "copy").write_bytes(bytes(size))
    return "posted"


@tool(effect="external")
def post_to(name: str, context: ToolContext) -> str:
    """Post a letter, and then look for a file."""
    return context.workspace.read_text(name)


@tool(effect="read")
def break_off(context: ToolContext) -> str:
    """Write, and then say that it was not done."""
    context.workspace.write_text("half", "x")
    raise ToolError("It was not done.")


@tool(effect="read", timeout=timedelta(seconds=0.5), attempts=1)
def linger(context: ToolContext) -> str:
    """Write on after nobody waits any more."""
    here = Path(context.workspace)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            (here / "late").write_text("late")
        except FileNotFoundError:
            break
        time.sleep(0.01)
    return "late"


TOOLS: list[Tool] = [write, read, files, post, post_to, break_off, linger]
WRITER = Agent(
    "writer",
    model="scripted:turns.yaml",
    tools=[each.name for each in TOOLS],
    approvals=[{"tools": ["*"], "required": 0}],
)


@pytest.fixture
async def engine(env: WorkflowEnvironment, tmp_path: Path) -> AsyncIterator[Engine]:
    settings = Settings(root=tmp_path, workspaces=WorkspacesSettings(max_file_bytes=1_000))
    async with running_engine(env, tmp_path, TOOLS, settings=settings) as engine:
        yield engine


async def told(engine: Engine, *calls: Any, thread: str | None = None) -> tuple[Any, list[Any]]:
    """The run of these calls, one after the other, and its tool steps."""
    lines = [asks(each) for each in calls]
    run = await engine.start(WRITER, *lines, says(), thread=thread)
    assert (await engine.finish(run)).status == "completed"
    return run, [step for step in await run.steps() if step.kind == "tool_call"]


async def thread_of(run: Any) -> str:
    return str((await run.status()).thread)


async def test_a_file_is_there_for_the_next_call_and_for_the_next_run(engine: Engine):
    run, steps = await told(engine, call("write", name="a/b.txt", text="hello"), call("read", "call_2", name="a/b.txt"))
    assert [step.output for step in steps] == ["written", "hello"]

    thread = await thread_of(run)
    _, steps = await told(engine, call("read", "call_3", name="a/b.txt"), thread=thread)

    assert steps[0].output == "hello"
    versions = await engine.client.workspace_versions(thread)
    assert [(version.version, version.run_id, version.files) for version in versions] == [(1, run.id, 1)]
    # Another thread has other files.
    _, steps = await told(engine, call("files"))
    assert steps[0].output == "[]"


async def test_calls_of_one_turn_each_leave_their_file(engine: Engine):
    calls = [call("write", f"call_{number}", name=f"{number}", text="x") for number in range(8)]
    run = await engine.start(WRITER, asks(*calls), asks(call("files", "call_9")), says())
    assert (await engine.finish(run)).status == "completed"

    assert (await run.steps())[-2].output == str([str(number) for number in range(8)]).replace("'", '"')


async def test_a_name_that_leads_out_is_told_to_the_model_at_once(engine: Engine):
    run, steps = await told(
        engine, call("write", name="../../evil", text="x"), call("read", "call_2", name="/etc/passwd")
    )

    assert [(step.status, step.attempts) for step in steps] == [("failed", 1)] * 2
    assert "leads up" in steps[0].output
    assert "absolute" in steps[1].output
    assert await engine.client.workspace_versions(await thread_of(run)) == []


async def test_of_a_call_that_was_not_done_nothing_is_kept(engine: Engine):
    run, steps = await told(engine, call("break_off"), call("files", "call_2"))

    assert [(step.status, step.output) for step in steps][1:] == [("completed", "[]")]
    assert await engine.client.workspace_versions(await thread_of(run)) == []


async def test_a_call_over_the_quota_fails_in_clear_words_and_nothing_of_it_is_kept(engine: Engine):
    big = "x" * 1_001
    _, steps = await told(engine, call("write", name="big", text=big), call("files", "call_2"))

    assert steps[0].status == "failed"
    assert "1,000 bytes" in steps[0].output
    assert steps[1].output == "[]"


async def test_an_external_call_over_the_quota_was_done_and_says_that_its_files_were_not_kept(engine: Engine):
    run, steps = await told(engine, call("post", size=10), call("post", "call_2", size=1_001), call("files", "call_3"))

    assert [(step.status, step.output) for step in steps[:2]] == [("completed", "posted")] * 2
    assert steps[0].note is None
    assert "A file may have 1,000 bytes" in steps[1].note
    assert "the rest of it was done" in steps[1].note
    heard = [text for role, text in engine.model.heard() if role == "tool"]
    assert "A file may have 1,000 bytes" in heard[1]
    found = await engine.client.workspace_files(await thread_of(run))
    assert [(file.name, file.size) for file in found] == [("copy", 10)]


async def test_an_external_call_that_broke_on_a_name_may_have_happened(engine: Engine):
    run = await engine.start(WRITER, asks(call("post_to", name="../x")), says())

    status = await engine.until(run, "requires_action")

    assert [item.kind for item in status.waiting_for] == ["unknown_outcome"]
    await run.cancel()
    await engine.finish(run)


async def test_what_a_tool_writes_after_its_time_is_over_is_nowhere(engine: Engine):
    run, steps = await told(engine, call("linger"), call("files", "call_2"))

    assert [step.status for step in steps] == ["failed", "completed"]
    assert steps[1].output == "[]"
    assert await engine.client.workspace_versions(await thread_of(run)) == []


async def test_another_host_with_the_same_ledger_and_blobs_goes_on_with_the_files(
    env: WorkflowEnvironment, tmp_path: Path
):
    here = Settings(root=tmp_path / "here")
    shared = {"url": f"sqlite:///{here.state / 'ledger.db'}", "blobs": here.blobs_url}
    async with running_engine(env, here.root, TOOLS, settings=here) as engine:
        run, _ = await told(engine, call("write", name="a", text="from here"))
        thread = await thread_of(run)

    there = Settings(root=tmp_path / "there", ledger=shared)
    async with running_engine(env, there.root, TOOLS, settings=there) as engine:
        _, steps = await told(engine, call("read", "call_2", name="a"), thread=thread)

    assert steps[0].output == "from here"
    assert [path.name for path in there.workspaces_dir.iterdir()] == [thread]


async def test_a_run_sees_what_a_person_puts_there_meanwhile(engine: Engine):
    run, _ = await told(engine, call("write", name="question", text="?"))
    thread = await thread_of(run)

    await engine.client.upload_file(thread, "answer", b"42", by="ana")
    _, steps = await told(engine, call("read", "call_2", name="answer"), call("files", "call_3"), thread=thread)

    assert [step.output for step in steps] == ["42", '["answer", "question"]']
