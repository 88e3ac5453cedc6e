"""A whole stack on a temporary project: a real server, real worker processes, a connected client.

For tests that kill things. Every process is a child of the test and dies with the context; what it
wrote is in `<project>/logs`. Nothing here waits without an end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from horarium.client import Client
from horarium.errors import Unreachable
from horarium.settings import SETTINGS_FILE, STATE_DIR, Settings
from tests.support.ledgers import lay_out
from workers.server import free_port, server_command

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE = 40.0  # seconds, for a process to come up on a busy machine
LOOK_EVERY = 0.05

Role = Literal["engine", "tools"]
"""Which worker: the engine's, or the one that serves the project's tools in a process of their own."""


class Stack:
    """The processes of one project, and a client that is connected to them."""

    def __init__(self, directory: Path, port: int, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.port = port
        self.client: Client
        self._environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), **environment}
        self._server: subprocess.Popen[bytes] | None = None
        self._workers: dict[Role, subprocess.Popen[bytes]] = {}
        self._starts = 0

    @property
    def address(self) -> str:
        """Of the server."""
        return f"127.0.0.1:{self.port}"

    @property
    def settings(self) -> Settings:
        """Those of the project."""
        return Settings.load(self.directory)

    @property
    def server_file(self) -> Path:
        """The SQLite file that the server keeps all it knows in."""
        return self.directory / STATE_DIR / "temporal.db"

    # ---- the server

    async def start_server(self) -> None:
        """Start the server on the project's file and port, and wait until it answers."""
        self.server_file.parent.mkdir(parents=True, exist_ok=True)
        self._server = self.spawn(server_command(self.port, self.server_file), "server")
        await until(self._server_answers, "the server answers", self._server)

    def kill_server(self) -> None:
        """SIGKILL: no goodbye."""
        _kill(self._server)

    async def _server_answers(self) -> bool:
        try:
            client = await Client.connect(self.settings, ledger=False)
        except Unreachable:
            return False
        return bool(await client.temporal.service_client.check_health())

    # ---- workers

    def start_worker(self, role: Role = "engine") -> None:
        """Start a worker; it serves a moment later (`worker_ready`)."""
        arguments = ["worker"] if role == "engine" else ["worker", "--tools"]
        self._workers[role] = self.spawn([sys.executable, "-m", "horarium", *arguments], role)

    async def worker_ready(self, role: Role = "engine") -> None:
        """Wait until the worker last started says that it serves."""
        process = self._workers[role]
        log = self._log(role)
        try:
            await until(lambda: _says(log, b"worker.started"), f"the {role} worker serves", process)
        except AssertionError as error:
            raise AssertionError(f"{error} It said: …{self.log_of(role)[-2_000:]}") from error

    def kill_worker(self, role: Role = "engine") -> None:
        """SIGKILL: no goodbye."""
        _kill(self._workers.pop(role, None))

    def stop_worker(self, role: Role = "engine", *, timeout: float = 30) -> int:
        """SIGTERM, and the exit code."""
        process = self._workers.pop(role)
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout)

    def worker_process(self, role: Role = "engine") -> subprocess.Popen[bytes]:
        """The worker's process, to look at."""
        return self._workers[role]

    # ---- the rest

    def close(self) -> None:
        """Kill everything that still runs."""
        for process in (*self._workers.values(), self._server):
            _kill(process)

    def log_of(self, name: str) -> str:
        """What the process of this role (or `server`) last started has written."""
        return self._log(name).read_text("utf-8", "replace")

    def _log(self, name: str) -> Path:
        return max((self.directory / "logs").glob(f"*-{name}.log"))

    def spawn(self, command: list[str], name: str) -> subprocess.Popen[bytes]:
        """Start any process in the project's directory, its output in a log of this name; the caller ends it."""
        self._starts += 1
        log = self.directory / "logs" / f"{self._starts:05d}-{name}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as output:
            return subprocess.Popen(
                command, cwd=self.directory, env=self._environment, stdout=output, stderr=subprocess.STDOUT
            )


@asynccontextmanager
async def running_stack(
    directory: Path,
    *,
    agents: Mapping[str, str] | None = None,
    tools_source: str = "",
    scripts: Mapping[str, str] | None = None,
    settings: str = "",
    environment: Mapping[str, str] | None = None,
    workers: tuple[Role, ...] = ("engine",),
) -> AsyncIterator[Stack]:
    """Write a project into `directory`, start its server and workers, and connect.

    Args:
        directory: Of the project; made when it is not there.
        agents: YAML by name, for `agents/<name>.yaml`.
        tools_source: Python, for `tools/project_tools.py`.
        scripts: Turns by file name, for `scripts/<name>`; an agent's model is then `scripted:scripts/<name>`.
        settings: TOML, added to `horarium.toml`. `[temporal]` is there already.
        environment: Added to that of every process.
        workers: Which to start.
    """
    stack = Stack(directory, free_port(), environment or {})
    _write_project(stack, agents or {}, tools_source, scripts or {}, settings)
    try:
        await stack.start_server()
        await lay_out(stack.settings)
        stack.client = await Client.connect(stack.settings)
        try:
            for role in workers:
                stack.start_worker(role)
            for role in workers:
                await stack.worker_ready(role)
            yield stack
        finally:
            await stack.client.close()
    finally:
        stack.close()


def _write_project(
    stack: Stack, agents: Mapping[str, str], tools_source: str, scripts: Mapping[str, str], settings: str
) -> None:
    root = stack.directory
    files = {
        SETTINGS_FILE: f'[temporal]\naddress = "{stack.address}"\n\n{settings}',
        **{f"agents/{name}.yaml": text for name, text in agents.items()},
        **{f"scripts/{name}": text for name, text in scripts.items()},
        **({"tools/project_tools.py": tools_source} if tools_source else {}),
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")


async def until(
    holds: Callable[[], bool | Awaitable[bool]],
    what: str,
    process: subprocess.Popen[bytes] | None = None,
    timeout: float = PATIENCE,
) -> None:
    """Wait until something holds; for a process's sake, no longer than it lives.

    Raises:
        AssertionError: It did not in time, or the process ended first.
    """
    deadline = time.monotonic() + timeout
    while True:
        held = holds()
        if held if isinstance(held, bool) else await held:
            return
        if process is not None and process.poll() is not None:
            raise AssertionError(f"Waited until {what}, but the process ended with {process.returncode}.")
        if time.monotonic() > deadline:
            raise AssertionError(f"Waited {timeout:.0f} s until {what}.")
        await asyncio.sleep(LOOK_EVERY)


def scratch() -> Path:
    """A new directory, for programs; tests take pytest's `tmp_path`."""
    return Path(tempfile.mkdtemp(prefix="horarium-"))


def _says(log: Path, words: bytes) -> bool:
    return words in log.read_bytes()


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.poll() is None:
        process.kill()
        process.wait(10)
