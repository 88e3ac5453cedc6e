"""kill -9 of the engine worker in the middle of a call to an MCP server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from horarium.client import Run
from tests.crash.rig import wait_for
from tests.mcp.rig import Bank, bank
from tests.support.engine import PATIENCE
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes
from tests.support.stack import Stack, running_stack, until

pytestmark = pytest.mark.slow

SCRIPT = json.dumps([{"calls": [{"name": "bank__act", "arguments": {"ref": "stand_after"}}]}, {"text": "All done."}])


def _agent(there: Bank, **more: Any) -> str:
    server = there.server(**more).model_dump(mode="json", exclude_defaults=True)
    return json.dumps({"model": "scripted:script.yaml", "mcp": {"bank": server}})


async def _killed_after_the_effect(stack: Stack, there: Bank, agent: str) -> Run:
    """A run whose worker died after the server had acted and before it answered."""
    run = await stack.client.start(agent, "Go.")
    await run.approve(await run.next_approval(PATIENCE), by="ann")
    await there.says("done", "stand_after")
    stack.kill_worker()
    there.go()
    return run


def _project(directory: Path, there: Bank, **more: Any) -> dict[str, Any]:
    (directory / "script.yaml").write_text(SCRIPT)
    return {"agents": {"clerk": _agent(there, **more)}}


@in_both_modes
async def test_a_server_that_honours_the_key_acts_once_though_its_caller_was_killed(tmp_path: Path) -> None:
    with bank(tmp_path, "http", HONOURS="1") as there:
        await there.start()
        async with running_stack(tmp_path, **_project(tmp_path, there, effects={"act": "idempotent"})) as stack:
            run = await _killed_after_the_effect(stack, there, "clerk")
            stack.start_worker()
            await stack.worker_ready()

            assert (await run.result(PATIENCE)).status == "completed"
            step = next(step for step in await run.steps() if step.kind == "tool_call")

    assert (step.output, step.attempts) == ("stand_after: was done before", 2)
    assert [line["key"] for line in there.lines("done")] == [step.key]


@in_both_modes
@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_an_external_call_whose_caller_was_killed_is_asked_about_and_never_made_twice(
    tmp_path: Path, transport: Any
) -> None:
    with bank(tmp_path, transport) as there:
        await there.start()
        async with running_stack(tmp_path, **_project(tmp_path, there)) as stack:
            run = await _killed_after_the_effect(stack, there, "clerk")
            stack.start_worker()
            await stack.worker_ready()

            step = await wait_for(run, "unknown_outcome")
            await run.resolve(step, "supply", output="It is in the book.", by="ann")
            assert (await run.result(PATIENCE)).status == "completed"

    assert len(there.lines("done")) == 1
    assert len(there.lines("entered")) == 1


async def test_a_program_does_not_outlive_the_worker_that_was_killed(tmp_path: Path) -> None:
    with bank(tmp_path, "stdio") as there:
        project = _project(tmp_path, there)
        # Started by another program, as npx and uvx do it, and deaf to the end of its input.
        wrapped = json.loads(project["agents"]["clerk"])
        command = wrapped["mcp"]["bank"]["command"]
        wrapped["mcp"]["bank"]["command"] = [
            "/bin/sh",
            "-c",
            'sleep 600 & echo $! > sleeper; "$@"; wait',
            "sh",
            *command,
        ]
        async with running_stack(tmp_path, agents={"clerk": json.dumps(wrapped)}) as stack:
            run = await stack.client.start("clerk", "Go.")
            await run.approve(await run.next_approval(PATIENCE), by="ann")
            await there.says("done", "stand_after")
            sleeper = int((tmp_path / "sleeper").read_text())
            pids = [sleeper, there.lines("done")[0]["pid"]]
            assert all(_lives(pid) for pid in pids)

            stack.kill_worker()

            await until(lambda: not any(_lives(pid) for pid in pids), "all of its processes are gone", timeout=10)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
