"""kill -9 of the Temporal server, and of everything at once: what was written down is where it goes on."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from horarium.contract import SIGNAL_APPROVE, Decision
from horarium.errors import HorariumError
from tests.crash.rig import PATIENCE, begin_all, completed, crash_stack, of_kind, settled_before, wait_for
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes
from tests.support.stack import Stack, until
from workers.server import server_binary

pytestmark = pytest.mark.slow

# On tools that may be done twice as on those that may not, in the middle and waiting for a person.
CALLS = [("look", "inside"), ("put", "inside"), ("pay", "after")]


@in_both_modes
async def test_a_server_that_was_killed_goes_on_from_its_file(tmp_path: Path) -> None:
    async with crash_stack(tmp_path) as (stack, book):
        runs = await begin_all(stack.client, *CALLS)
        asked = await stack.client.start("post-through", "Go.")
        approval = await asked.next_approval(PATIENCE)
        await asyncio.gather(*(book.stands(run, tool, ref) for (tool, ref), run in runs.items()))

        stack.kill_server()
        away = asyncio.Event()
        starting = asyncio.create_task(start_until_it_is_taken(stack, "order-7", away))
        book.go()
        await asyncio.wait_for(away.wait(), PATIENCE.total_seconds())
        await stack.start_server()

        key = await starting
        again = (await stack.client.start("look-through", "Go.", key="order-7")).id
        await asked.approve(approval, by="ann")
        for run in (*runs.values(), asked, stack.client.run(key)):
            await completed(run)
            settled_before(await run.steps())
        workflows = [item.id async for item in stack.client.temporal.list_workflows()]

    assert key == again
    assert workflows.count(key) == 1
    assert len(book.lines(asked, event="done", tool="post")) == 1
    assert len(book.lines(runs["pay", "after"], event="done", tool="pay")) == 1
    # The worker lived on, so what it had done without a server to tell counts.
    assert len(book.lines(runs["put", "inside"], event="done", tool="put")) == 1
    assert len(book.lines(stack.client.run(key), event="done", tool="look")) == 2


async def start_until_it_is_taken(stack: Stack, key: str, away: asyncio.Event) -> str:
    """What a service does that gets no answer: it starts again, with the same key."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            try:
                run = await asyncio.wait_for(stack.client.start("look-through", "Go.", key=key), 1)
            except (HorariumError, TimeoutError):
                away.set()
                await asyncio.sleep(0.05)
                continue
            return run.id


@in_both_modes
async def test_after_the_death_of_everything_the_runs_go_on(tmp_path: Path) -> None:
    async with crash_stack(tmp_path) as (stack, book):
        runs = await begin_all(stack.client, *CALLS, ("post", "after"))
        asked = await stack.client.start("post-through", "Go.")
        approval = await asked.next_approval(PATIENCE)
        await asyncio.gather(*(book.stands(run, tool, ref) for (tool, ref), run in runs.items()))

        stack.kill_server()
        stack.kill_worker()
        book.go()
        await stack.start_server()
        stack.start_worker()

        step = await wait_for(runs["post", "after"], "unknown_outcome")
        await runs["post", "after"].resolve(step, "supply", output="It was posted.", by="ann")
        await asked.approve(approval, by="ann")
        for run in (*runs.values(), asked):
            await completed(run)
            settled_before(await run.steps())

    keys = {call: book.effects(run, call[0]) for call, run in runs.items()}
    assert {call: len(found) for call, found in keys.items()} == {
        ("look", "inside"): 2,
        ("put", "inside"): 1,
        ("pay", "after"): 1,
        ("post", "after"): 1,
    }
    assert len(book.effects(asked, "post")) == 1


async def test_an_approval_of_something_else_straight_at_the_port_does_nothing(tmp_path: Path) -> None:
    async with crash_stack(tmp_path) as (stack, book):
        run = await stack.client.start("post-through", "Go.")
        approval = await run.next_approval(PATIENCE)

        other = Decision(approval=approval.id, digest="sha256:" + "0" * 64, by="mallory")
        await asyncio.to_thread(signal_from_a_shell, stack, run.id, other)
        refused: list[str] = []

        async def was_refused() -> bool:
            refused[:] = (await run.status()).refused_signals
            return bool(refused)

        await until(was_refused, "the signal is refused")
        assert (await run.status()).status == "requires_action"
        assert book.effects(run, "post") == []

        right = Decision(approval=approval.id, digest=approval.digest, by="ann")
        await asyncio.to_thread(signal_from_a_shell, stack, run.id, right)
        await completed(run)
        steps = await run.steps()
    assert "mallory" not in {step.by for step in steps}
    assert [step.by for step in of_kind(steps, "approval")] == ["ann"]
    assert len(book.effects(run, "post")) == 1


def signal_from_a_shell(stack: Stack, run_id: str, decision: Decision) -> None:
    command = [server_binary(), "workflow", "signal", "--address", stack.address, "--workflow-id", run_id]
    command += ["--name", SIGNAL_APPROVE, "--input", decision.model_dump_json()]
    subprocess.run(command, check=True, capture_output=True, timeout=20)
