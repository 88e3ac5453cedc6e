"""`horarium up`: the embedded stack, and the supervisor that starts again what dies.

The children have sessions of their own, so Ctrl-C reaches only the supervisor, which stops them in order: workers and
gateway first, so that they can still report, then the server. They die with the supervisor, whatever kills it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from temporalio.client import Client as TemporalClient
from temporalio.service import RPCError

from horarium.connection import connect
from horarium.contract import ENGINE_QUEUE, TOOL_QUEUE_PREFIX
from horarium.engine import engine_root
from horarium.errors import ConfigError, HorariumError, Unreachable
from horarium.ledger.database import Ledger
from horarium.pollers import polling
from horarium.project import load_agents, load_toolboxes, tools_apart
from horarium.settings import Settings
from horarium.stack import GATEWAY_PORT, Stack, answers_http, stack_file, write_stack
from workers.child import Child
from workers.health import OK, serving_health
from workers.server import DEFAULT_PORT, HOST, Ports, bound, exactly, free_port, server_command
from workers.statedir import owned

START_SECONDS = 60.0
STOP_SECONDS = 5.0  # beyond a worker's own grace time
CHECK_SECONDS = 3.0
LOOK_EVERY = 0.05
HEALTH_PORT = 7280


class Supervisor:
    """One embedded stack."""

    def __init__(
        self,
        settings: Settings,
        *,
        workers: int = 1,
        port: int | None = None,
        health_port: int | None = None,
        gateway_port: int | None = None,
        ui: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        self._settings = settings
        self._say = say
        self._workers = workers
        self._port = port
        self._health_port = health_port
        self._gateway_port = gateway_port
        self._with_ui = ui
        self._stopping = asyncio.Event()
        self._signals = 0
        self._children: list[Child] = []
        self._ports = Ports()
        self._temporal: TemporalClient | None = None
        self._ledger: Ledger | None = None
        self._gateway_url = ""

    async def run(self) -> None:
        """Start everything, keep it running until SIGINT or SIGTERM, stop everything.

        Raises:
            AlreadyRunning: Another stack has this state directory.
            ConfigError: The project or its state directory cannot be used.
            Unreachable: The server or the ledger did not come up.
        """
        settings = self._settings
        if settings.temporal.address or settings.temporal.profile:
            raise ConfigError(
                "The settings name a Temporal server, so there is none to start here.",
                hint="Start a worker for it: horarium worker (or unset [temporal] address, HORARIUM_TEMPORAL__ADDRESS)",
            )
        load_agents(settings)
        load_toolboxes(settings)
        apart, clashes = tools_apart(settings)
        for clash in clashes:
            self._say(f"{clash}.")
        if clashes:
            self._say("So the tools run in a process of their own.")
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._stop_said)
        with owned(settings) as lock, self._health_socket() as health:
            stack = self._planned(health)
            self._gateway_url = str(stack.gateway)
            try:
                async with serving_health(self._checks, health):
                    await self._start(stack, lock, apart=apart)
                    await self._keep(stack)
            finally:
                stack_file(settings).unlink(missing_ok=True)
                await asyncio.to_thread(self._stop)
                if self._ledger is not None:
                    await self._ledger.close()

    # ---- starting

    def _health_socket(self) -> socket.socket:
        return bound(HEALTH_PORT if self._health_port is None else exactly(self._health_port))

    def _planned(self, health: socket.socket) -> Stack:
        port = self._ports.take(DEFAULT_PORT) if self._port is None else self._ports.exactly(self._port)
        return Stack(
            pid=os.getpid(),
            address=f"{HOST}:{port}",
            namespace=self._settings.temporal.namespace,
            ui=f"http://{HOST}:{free_port(port + 1000)}" if self._with_ui else None,
            health=f"http://{HOST}:{health.getsockname()[1]}",
            gateway=f"http://{HOST}:{self._port_of_gateway()}",
        )

    def _port_of_gateway(self) -> int:
        wanted = self._gateway_port
        return self._ports.take(GATEWAY_PORT) if wanted is None else self._ports.exactly(wanted)

    async def _start(self, stack: Stack, lock: int, *, apart: bool) -> None:
        logs = self._settings.state / "logs"
        logs.mkdir(exist_ok=True)
        self._ledger = await Ledger.open(self._settings)
        command = server_command(
            int(stack.address.rpartition(":")[2]),
            self._settings.state / "temporal.db",
            ui_port=int(stack.ui.rpartition(":")[2]) if stack.ui else None,
            namespace=stack.namespace,
        )
        server = Child("server", command, logs / "server.log", inherits=(lock,))
        self._children.append(server)
        server.start()
        await self._until("server", lambda: self._answers(stack), "The Temporal server does not answer.")
        if self._stopping.is_set():
            return
        serving = self._serving_children(logs, stack, apart=apart)
        self._children += serving
        for child in serving:
            child.start()
        await self._until(serving[0].name, self._all_ready, "The workers, or the gateway, do not serve.")
        if self._stopping.is_set():
            return
        self._write(stack)
        self._say(f"Temporal   {stack.address}" + (f"   (its own UI: {stack.ui})" if stack.ui else ""))
        self._say(f"Console    {stack.gateway}   (REST and the other protocols: {stack.gateway}/v1/)")
        self._say(f"Health     {stack.health}/readyz")
        self._say(f"State      {self._settings.state}")
        self._say("Ready. Ctrl-C stops everything; what is in flight goes on at the next start.")

    def _serving_children(self, logs: Path, stack: Stack, *, apart: bool) -> list[Child]:
        environment = {"HORARIUM_TEMPORAL__ADDRESS": stack.address, **_importable()}
        # -P: a file of the project that is called like a standard module must not take its place.
        program, project = [sys.executable, "-P", "-m", "horarium"], ["--directory", str(self._settings.root)]
        command = [*program, "worker", *project]
        names = ["worker", *(f"worker-{number}" for number in range(2, self._workers + 1))]
        commands = {name: command for name in names}
        if apart:
            commands["tool-worker"] = [*command, "--tools"]
        port = str(stack.gateway).rpartition(":")[2]
        commands["gateway"] = [*program, "gateway", *project, "--host", HOST, "--port", port]
        return [
            Child(name, arguments, logs / f"{name}.log", environment, self._settings.root)
            for name, arguments in commands.items()
        ]

    async def _until(self, what: str, holds: Callable[[], object], otherwise: str) -> None:
        """Wait until something holds, unless it is to stop, something dies, or it takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while not self._stopping.is_set():
            held = holds()
            if await held if asyncio.iscoroutine(held) else held:
                return
            for child in self._children:
                if not child.running:
                    raise self._ended(child)
            if time.monotonic() > deadline:
                raise Unreachable(otherwise, hint=f"See {self._settings.state / 'logs' / what}.log")
            await asyncio.sleep(LOOK_EVERY)

    def _ended(self, child: Child) -> HorariumError:
        code = child.process.returncode if child.process is not None else None
        kind = Unreachable if code == 3 or child.name == "server" else ConfigError
        return kind(f"The {child.name} {child.ending}:\n{child.said()}", hint=f"Its log: {child.log_file}")

    async def _answers(self, stack: Stack) -> bool:
        try:
            self._temporal = await connect(self._settings, address=stack.address)
            return await self._temporal.service_client.check_health()
        except (Unreachable, RPCError):
            return False

    async def _all_ready(self) -> bool:
        return all(value == OK for value in (await self._checks()).values())

    # ---- running

    async def _keep(self, stack: Stack) -> None:
        while not self._stopping.is_set():
            for child in self._children:
                pid = child.pid
                news = child.revive()
                if news:
                    self._say(news)
                if child.pid != pid:
                    self._write(stack)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), LOOK_EVERY)

    def _write(self, stack: Stack) -> None:
        now = {child.name: child.as_process for child in self._children}
        more = tuple(process for name, process in now.items() if name.startswith("worker-") and process)
        running = {
            "server": now["server"],
            "worker": now.get("worker"),
            "tool_worker": now.get("tool-worker"),
            "gateway_process": now.get("gateway"),
            "more_workers": more,
        }
        # On a full disk the file is stale for a while; that must not take the stack down.
        with contextlib.suppress(OSError):
            write_stack(self._settings, stack.model_copy(update=running))

    async def _checks(self) -> Mapping[str, str]:
        """What `/readyz` says: each part, and `ok` or what is wrong with it."""
        server, ledger = await asyncio.gather(self._check_server(), self._check_ledger())
        workers, gateway = await asyncio.gather(self._check_workers(server), self._check_gateway())
        return {"server": server, "ledger": ledger, **workers, "gateway": gateway}

    async def _check_server(self) -> str:
        if self._temporal is None:
            return "is starting"
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                return OK if await self._temporal.service_client.check_health() else "does not serve"
        except (RPCError, TimeoutError):
            return "does not answer"

    async def _check_ledger(self) -> str:
        if self._ledger is None:
            return "is starting"
        try:
            async with asyncio.timeout(CHECK_SECONDS), self._ledger.read() as connection:
                await connection.scalar(select(1))
        except TimeoutError:
            return "does not answer"
        except SQLAlchemyError as error:
            return str(getattr(error, "orig", None) or error).splitlines()[0]
        return OK

    async def _check_workers(self, server: str) -> dict[str, str]:
        """A worker is ready when the server has it among those who ask for work."""
        workers = [child for child in self._children if child.name not in ("server", "gateway")]
        if self._temporal is None or server != OK:
            return {child.name: "cannot reach the server" for child in workers} or {"worker": "is not started"}
        tools = f"{TOOL_QUEUE_PREFIX}{self._settings.tools.name}"
        found: dict[str, str] = {}
        for child in workers:
            queue = tools if child.name == "tool-worker" else ENGINE_QUEUE
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    asking = await polling(self._temporal, queue)
            except (RPCError, TimeoutError):
                asking = frozenset()
            ready = child.pid and f"{child.pid}@{socket.gethostname()}" in asking
            found[child.name] = OK if ready else "is starting" if child.running else child.ending
        return found or {"worker": "is not started"}

    async def _check_gateway(self) -> str:
        child = next((child for child in self._children if child.name == "gateway"), None)
        if child is None:
            return "is not started"
        if not child.running:
            return child.ending
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                return OK if await answers_http(self._gateway_url) else "is starting"
        except TimeoutError:
            return "does not answer"

    # ---- stopping

    def _stop_said(self) -> None:
        self._signals += 1
        self._stopping.set()
        if self._signals == 1:
            self._say("Stopping …")
        else:
            for child in self._children:
                if child.process is not None and child.running:
                    child.process.kill()

    def _stop(self) -> None:
        servers = [child for child in self._children if child.name == "server"]
        workers = [child for child in self._children if child.name != "server"]
        for children, grace in ((workers, self._settings.worker.grace.total_seconds()), (servers, STOP_SECONDS)):
            deadline = time.monotonic() + grace + STOP_SECONDS
            for child in children:
                child.terminate()
            for child in children:
                child.end(max(0.1, deadline - time.monotonic()))


def _importable() -> dict[str, str]:
    """A checkout that is run without being installed has to be found by the children, too."""
    try:
        importlib.metadata.version("horarium")
    except importlib.metadata.PackageNotFoundError:
        paths = [str(engine_root()), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(paths)}
    return {}
