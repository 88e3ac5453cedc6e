"""What the bench measures on: one tuned server, and on it Horarium's worker, a tool worker and the bare one.

Each in a process of its own, all on one project in a temporary directory.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from typing import Literal
from uuid import uuid4

from temporalio.client import WorkflowExecutionStatus

from bench.bare import KILOBYTE, QUEUE, BareLoop, Loop, Nothing
from horarium.client import Run
from horarium.contract import Approval
from horarium.definition import Execution
from horarium.ids import split_step_id
from horarium.settings import SETTINGS_FILE, STATE_DIR
from tests.support.stack import Stack, running_stack, until

LONGEST = timedelta(minutes=10)  # any one run
TASK_TABLES = ("transfer_tasks", "visibility_tasks")
TASKS_LEFT = 60  # a server at rest keeps a few
SERVER_TIDIES = 150.0  # seconds it takes at most to clear its task tables

ACTS = 101  # calls that one run of `acts` asks for
LOOKS = 10  # at memory, in half a second
STILL = 100_000  # bytes between them, of a worker that does nothing

TURNS = {5: "five", 10: "ten", 50: "fifty", 100: "hundred", 1_000: "thousand", 10_000: "myriad"}
IN_SEGMENTS = "-segments"  # after the name of an agent: the same, carried out in segments


class Rig:
    """The running processes, and how to do and weigh one run on each."""

    def __init__(self, stack: Stack, bare: subprocess.Popen[bytes]) -> None:
        self.stack = stack
        self.bare_process = bare
        self.starts = stack.directory / "starts.log"
        self._settings = (stack.directory / SETTINGS_FILE).read_text("utf-8")

    # ---- runs

    async def start(self, agent: str) -> Run:
        """Start a run of the bench's own agent of this name."""
        return await self.stack.client.start(agent, KILOBYTE)

    async def run(self, turns: int, *, agent: str | None = None) -> str:
        """One run of Horarium, to its end.

        Raises:
            RuntimeError: It did not complete, so its time means nothing.
        """
        run = await self.start(agent or TURNS[turns])
        result = await run.result(LONGEST)
        if result.status != "completed" or result.turns != turns + 1:
            raise RuntimeError(f"{run.id}: {result.status} after {result.turns} turns: {result.message}")
        return run.id

    async def bare(self, turns: int, to: Literal["each", "model"] = "each") -> str:
        """One run of the bare workflow, to its end."""
        run_id = f"bare-{uuid4().hex}"
        temporal = self.stack.client.temporal
        handle = await temporal.start_workflow(BareLoop.run, Loop(turns=turns, to=to), id=run_id, task_queue=QUEUE)
        await asyncio.wait_for(handle.result(), LONGEST.total_seconds())
        return run_id

    async def nothing(self) -> None:
        """One workflow that does nothing, to its end."""
        temporal = self.stack.client.temporal
        handle = await temporal.start_workflow(Nothing.run, id=f"nothing-{uuid4().hex}", task_queue=QUEUE)
        await asyncio.wait_for(handle.result(), LONGEST.total_seconds())

    # ---- weights

    async def history_bytes(self, workflow_id: str) -> int:
        """Of the whole chain, when the run continued as new; looked up until the server lists it as ended."""
        temporal = self.stack.client.temporal
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            found = [item async for item in temporal.list_workflows(f"WorkflowId = '{workflow_id}'")]
            if found and all(item.status is not WorkflowExecutionStatus.RUNNING for item in found):
                total = 0
                for item in found:
                    shown = await temporal.get_workflow_handle(workflow_id, run_id=item.run_id).describe()
                    total += shown.raw_description.workflow_execution_info.history_size_bytes
                return total
            await asyncio.sleep(0.1)
        raise TimeoutError(f"The server does not list {workflow_id} as ended.")

    def stored_bytes(self) -> int:
        """What the server's file, the ledger and the blobs take together, write-ahead logs included."""
        state = self.stack.directory / STATE_DIR
        blobs = sum(item.stat().st_size for item in (state / "blobs").rglob("*") if item.is_file())
        return _database_bytes(self.stack.server_file) + _database_bytes(state / "ledger.db") + blobs

    async def tidied(self) -> None:
        """Wait until the server has cleared the task tables of what has ended, so that only what lasts is weighed."""

        def at_rest() -> bool:
            with closing(sqlite3.connect(self.stack.server_file, timeout=5)) as connection:
                counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TASK_TABLES]
            return bool(max(counts) <= TASKS_LEFT)

        await until(at_rest, "the server has cleared its task tables", timeout=SERVER_TIDIES)

    async def worker_bytes(self) -> int:
        """What the engine worker's process has in memory (RSS), once that has come to rest. Linux alone says it."""
        file = Path(f"/proc/{self.stack.worker_process().pid}/statm")
        seen: list[int] = []

        def at_rest() -> bool:
            seen.append(int(file.read_text("ascii").split()[1]) * resource.getpagesize())
            latest = seen[-LOOKS:]
            return len(latest) == LOOKS and max(latest) - min(latest) <= STILL

        await until(at_rest, "the worker's memory has come to rest", timeout=30)
        return seen[-1]

    # ---- the worker

    def set_worker(self, *, max_cached_runs: int | None = None) -> None:
        """What the next worker reads in the project's settings; None: the default."""
        lines = "" if max_cached_runs is None else f"[worker]\nmax_cached_runs = {max_cached_runs}\n"
        (self.stack.directory / SETTINGS_FILE).write_text(self._settings + lines, "utf-8")

    async def restart_worker(self, *, max_cached_runs: int | None = None) -> None:
        """Kill the worker, and wait until a new one serves."""
        self.stack.kill_worker()
        self.set_worker(max_cached_runs=max_cached_runs)
        self.stack.start_worker()
        await self.stack.worker_ready()

    @asynccontextmanager
    async def another_worker(self) -> AsyncIterator[None]:
        """A second engine worker beside the first, as long as the context lasts."""
        process = self.stack.spawn([sys.executable, "-m", "horarium", "worker"], "second")
        try:
            await until(lambda: "worker.started" in self.stack.log_of("second"), "the second worker serves", process)
            yield
        finally:
            process.terminate()
            process.wait(30)

    # ---- moments

    def started(self) -> list[float]:
        """When each timed tool call began, on the machine's monotonic clock."""
        if not self.starts.exists():
            return []
        return [float(line.split()[0]) for line in self.starts.read_text("utf-8").splitlines()]

    def effects(self) -> Counter[str]:
        """How many timed tool calls each run began."""
        steps = (line.split()[1] for line in self.starts.read_text("utf-8").splitlines())
        return Counter(split_step_id(step)[0] for step in steps)

    async def next_start(self, after: float) -> float:
        """The first timed tool call that began after this moment."""
        await until(lambda: any(moment > after for moment in self.started()), "a step begins", timeout=60)
        return next(moment for moment in self.started() if moment > after)

    async def pending(self, run: Run) -> Approval:
        """The approval that a run waits for."""
        return await run.next_approval(timedelta(seconds=60))


def _database_bytes(file: Path) -> int:
    with closing(sqlite3.connect(file, timeout=5)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
    return int((pages - free) * size)


@asynccontextmanager
async def running_rig(directory: Path) -> AsyncIterator[Rig]:
    """Everything started and served; ended with the context."""
    scripts = {f"{name}.yaml": script(turns, "read") for turns, name in TURNS.items()}
    scripts |= {"apart.yaml": script(100, "read_apart"), "tick.yaml": script(2_000, "tick")}
    scripts |= {"dawdle.yaml": script(1, "dawdle"), "act.yaml": script(1, "act"), "acts.yaml": script(ACTS, "act")}
    tools = {"apart": "read_apart", "tick": "tick", "dawdle": "dawdle", "act": "act", "acts": "act"}
    names = [file.removesuffix(".yaml") for file in scripts]
    agents = {name: _agent(name, tools.get(name, "read")) for name in names}
    agents |= {f"{name}{IN_SEGMENTS}": _agent(name, tools.get(name, "read"), execution="segments") for name in names}
    async with running_stack(
        directory,
        agents=agents,
        tools_source=(Path(__file__).parent / "project_tools.py").read_text("utf-8"),
        scripts=scripts,
    ) as stack:
        bare = stack.spawn([sys.executable, "-m", "bench.bare", stack.address], "bare")
        apart = stack.spawn([sys.executable, "-m", "bench.apart"], "apart")
        rig = Rig(stack, bare)
        try:
            await asyncio.wait_for(rig.bare(1), 60)
            await asyncio.wait_for(rig.run(100, agent="apart"), 60)
            yield rig
        finally:
            for process in (bare, apart):
                process.kill()
                process.wait(10)


def script(turns: int, tool: str) -> str:
    """What the fake model says: a kilobyte and a call each turn, and at the end a kilobyte alone."""
    turn = {"turns": turns, "tool": tool, "arguments": {"n": "{n}"}, "said": KILOBYTE, "text": KILOBYTE}
    return json.dumps({"generate": turn})


def _agent(script: str, tool: str, *, execution: Execution = "steps") -> str:
    name = script if execution == "steps" else f"{script}{IN_SEGMENTS}"
    limits = "limits: {max_turns: 100000, wall_time: 3h}"
    return f"name: {name}\nmodel: scripted:scripts/{script}.yaml\ntools: [{tool}]\n{limits}\nexecution: {execution}\n"
