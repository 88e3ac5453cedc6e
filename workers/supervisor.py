"""`horarium up`: the embedded stack, and the supervisor that restarts what dies.

The children have sessions of their own, so Ctrl-C reaches only the supervisor, which stops them in
order: workers first, so that they can still report, then the server. They die with the supervisor, whatever kills it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from horarium.connection import connect
from horarium.errors import AlreadyRunning, ConfigError, HorariumError, Unreachable
from horarium.ledger.database import Ledger
from horarium.project import clashing_imports, load_agents
from horarium.settings import Settings
from horarium.stack import Process, Stack, read_stack, stack_file, write_stack
from workers.health import OK, health_server
from workers.server import DEFAULT_PORT, HOST, free_port, server_command

log = structlog.get_logger()

START_SECONDS = 60.0
STOP_SECONDS = 5.0  # beyond a worker's own grace time
LONG_ENOUGH = 20.0  # seconds; what lived longer is restarted at once when it dies
MOST_DELAY = 15.0
LEAST_FREE_BYTES = 20 * 1024 * 1024
_PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    """One process that is kept running."""

    name: str
    command: list[str]
    log_file: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    deaths: int = 0
    restart_at: float = field(default=0.0)

    def start(self) -> None:
        """Start it, with its output added to its log."""
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        self.started_at = time.monotonic()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def as_process(self) -> Process | None:
        return Process(name=self.name, pid=self.process.pid) if self.process is not None and self.running else None

    def stop(self, patience: float) -> None:
        """Ask it to end; after `patience` seconds, end it."""
        if self.process is None or not self.running:
            return
        self.process.terminate()
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Supervisor:
    """One embedded stack."""

    def __init__(
        self,
        settings: Settings,
        *,
        workers: int = 1,
        port: int | None = None,
        health_port: int | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self._settings = settings
        self._say = say
        self._workers = workers
        self._port = port
        self._health_port = health_port
        self._stopping = asyncio.Event()
        self._server: Child | None = None
        self._children: list[Child] = []
        self._stack: Stack | None = None

    async def run(self) -> None:
        """Start everything, keep it running until SIGINT or SIGTERM, stop everything.

        Raises:
            AlreadyRunning: Another stack has this state directory.
            ConfigError: The project or its state directory cannot be used; nothing was started.
            Unreachable: The server did not come up.
        """
        with _locked(self._settings):
            load_agents(self._settings)
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, self._stopping.set)
            try:
                await self._start()
                await self._watch()
            finally:
                await asyncio.to_thread(self._stop)
                stack_file(self._settings).unlink(missing_ok=True)

    async def _start(self) -> None:
        settings = self._settings
        logs = settings.state / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        port = self._wanted_port(self._port, DEFAULT_PORT)
        ui_port = free_port(port + 1000)
        health_port = self._wanted_port(self._health_port, 8233 if ui_port != 8233 else 8234)
        self._stack = Stack(
            pid=os.getpid(),
            address=f"{HOST}:{port}",
            namespace=settings.temporal.namespace,
            ui=f"http://{HOST}:{ui_port}",
            health=f"http://{HOST}:{health_port}",
        )
        environment = {"HORARIUM_TEMPORAL__ADDRESS": self._stack.address}
        command = server_command(port, settings.state / "temporal.db", ui_port=ui_port)
        self._server = Child("server", command, logs / "server.log", {})
        self._server.start()
        await self._until_server_answers(self._server)
        ledger = await Ledger.open(settings)
        await ledger.close()
        self._children = self._worker_children(logs, environment)
        for child in self._children:
            child.start()
        self._write()
        self._health = health_server(self._checks, health_port)
        self._serving = asyncio.create_task(self._health.serve())
        await self._until_ready()
        self._say(f"Temporal   {self._stack.address}   (its own UI: {self._stack.ui})")
        self._say(f"Health     {self._stack.health}/readyz")
        self._say(f"State      {settings.state}")
        self._say("Ready. Ctrl-C stops everything; what is in flight goes on at the next start.")

    def _wanted_port(self, said: int | None, default: int) -> int:
        if said is None:
            return free_port(default)
        if free_port(said) != said:
            raise ConfigError(f"Port {said} is taken.", hint="Leave --port out to use any free one.")
        return said

    def _worker_children(self, logs: Path, environment: Mapping[str, str]) -> list[Child]:
        root = str(self._settings.root)
        command = [sys.executable, "-m", "horarium", "worker", "--directory", root]
        children: list[Child] = []
        if tools_apart(self._settings, self._say):
            children.append(Child("tool-worker", [*command, "--tools"], logs / "tool-worker.log", environment))
        for index in range(self._workers):
            name = "worker" if index == 0 else f"worker-{index + 1}"
            children.append(Child(name, command, logs / f"{name}.log", environment))
        return children

    async def _until_server_answers(self, server: Child) -> None:
        deadline = time.monotonic() + START_SECONDS
        address = self._stack.address if self._stack else ""
        while True:
            if not server.running:
                tail = _tail(server.log_file)
                raise Unreachable(f"The Temporal server ended at once: {tail}", hint=f"See {server.log_file}")
            with contextlib.suppress(Unreachable):
                await connect(self._settings, address=address)
                return
            if time.monotonic() > deadline:
                raise Unreachable("The Temporal server does not answer.", hint=f"See {server.log_file}")
            await asyncio.sleep(0.1)

    async def _until_ready(self) -> None:
        """Wait until every worker polls; one that cannot start says why in its log."""
        deadline = time.monotonic() + START_SECONDS
        while not self._stopping.is_set():
            if all(value == OK for value in (await self._checks()).values()):
                return
            ended = next((child for child in self._children if not child.running), None)
            if ended is not None:
                raise ConfigError(
                    f"The {ended.name} ended at once: {_tail(ended.log_file)}", hint=f"See {ended.log_file}"
                )
            if time.monotonic() > deadline:
                raise Unreachable("The workers did not come up.", hint=f"See {self._settings.state / 'logs'}")
            await asyncio.sleep(0.1)

    async def _watch(self) -> None:
        while not self._stopping.is_set():
            for child in [self._server, *self._children]:
                if child is not None:
                    self._look_after(child)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 0.1)

    def _look_after(self, child: Child) -> None:
        if child.running:
            return
        now = time.monotonic()
        if child.restart_at == 0.0:
            code = child.process.returncode if child.process else None
            child.deaths = 1 if now - child.started_at > LONG_ENOUGH else child.deaths + 1
            delay = 0.0 if child.deaths <= 2 else min(2.0 ** (child.deaths - 3), MOST_DELAY)
            child.restart_at = now + delay
            after = f" in {delay:.0f} s" if delay else ""
            self._say(f"{child.name} {_ending(code)}; starting it again{after}")
        if now >= child.restart_at:
            child.restart_at = 0.0
            child.start()
            self._write()

    def _write(self) -> None:
        if self._stack is None:
            return
        by_name = {child.name: child.as_process for child in self._children}
        self._stack = self._stack.model_copy(
            update={
                "server": self._server.as_process if self._server else None,
                "worker": by_name.get("worker"),
                "tool_worker": by_name.get("tool-worker"),
                "more_workers": tuple(
                    process for name, process in by_name.items() if name.startswith("worker-") and process
                ),
            }
        )
        write_stack(self._settings, self._stack)

    async def _checks(self) -> Mapping[str, str]:
        found = {"server": OK, "ledger": OK}
        address = self._stack.address if self._stack else ""
        try:
            temporal = await connect(self._settings, address=address)
            await asyncio.wait_for(temporal.service_client.check_health(), 3)
        except (HorariumError, TimeoutError, RuntimeError) as error:
            found["server"] = str(error)
        try:
            await (await Ledger.open(self._settings)).close()
        except HorariumError as error:
            found["ledger"] = str(error)
        for child in self._children:
            found[child.name] = OK if child.running and _serves(child) else "is starting"
        return found

    def _stop(self) -> None:
        if hasattr(self, "_health"):
            self._health.should_exit = True
        self._say("Stopping.")
        patience = self._settings.worker.grace.total_seconds() + STOP_SECONDS
        for child in self._children:
            if child.process is not None and child.running:
                child.process.terminate()
        for child in self._children:
            child.stop(patience)
        if self._server is not None:
            self._server.stop(STOP_SECONDS)


def tools_apart(settings: Settings, say: Callable[[str], None]) -> bool:
    """Whether the project's tools need a process of their own; says why when that was not asked for."""
    if settings.tools.process == "own":
        return True
    clashes = clashing_imports(settings)
    if not clashes:
        return False
    if settings.tools.process == "engine":
        raise ConfigError(
            "\n".join(str(clash) for clash in clashes),
            hint='Give the tools a process of their own: [tools] process = "own" in horarium.toml',
        )
    for clash in clashes:
        say(str(clash))
    say("So the tools run in a process of their own.")
    return True


@contextlib.contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    state = settings.state
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / "lock").open("a")
        probe = state / ".probe"
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
        room = os.statvfs(state)
        if room.f_bavail * room.f_frsize < LEAST_FREE_BYTES:
            raise ConfigError(f"The disk of {state} is full.", hint="Make room; nothing was started.")
    except OSError as error:
        raise ConfigError(
            f"{state} cannot be written: {error.strerror}.", hint="Make room, or mend its rights."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        stack = read_stack(settings)
        who = f"process {stack.pid}, at {stack.address}" if stack else "another process"
        raise AlreadyRunning(
            f"A stack runs on {state} already: {who}.", hint="Use it, or stop it with Ctrl-C where it was started."
        ) from error
    try:
        yield
    finally:
        lock.close()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _serves(child: Child) -> bool:
    """A worker says `worker.started`, with its process id, as soon as it polls."""
    pid = f'"pid": {child.process.pid if child.process else 0}'.encode()
    with contextlib.suppress(OSError):
        return any(
            b"worker.started" in line and pid in line for line in child.log_file.read_bytes().splitlines()[-200:]
        )
    return False


def _tail(file: Path) -> str:
    with contextlib.suppress(OSError):
        lines = [line for line in file.read_text("utf-8", "replace").splitlines() if line.strip()]
        return " / ".join(lines[-3:])
    return ""


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"
