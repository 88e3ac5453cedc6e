"""The state directory of the embedded stack: usable, with room, and owned by one `horarium up` at a time.

The lock is the kernel's, so a crash releases it. The server inherits it: as long as one still writes to its file,
whoever started it, no second one is started on that file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from horarium.errors import AlreadyRunning, ConfigError
from horarium.settings import Settings
from horarium.stack import LOCK_FILE, is_alive, read_stack

LEAST_FREE_BYTES = 50 * 1024 * 1024
ORPHAN_SECONDS = 5.0  # a server that lost its supervisor dies at once, but not in no time


@contextlib.contextmanager
def owned(settings: Settings) -> Iterator[int]:
    """Own the state directory; gives the lock's file descriptor.

    Raises:
        ConfigError: The directory cannot be written, or there is no room.
        AlreadyRunning: Another `horarium up` owns it; names its process and address.
    """
    check_room(settings.state)
    with (settings.state / LOCK_FILE).open("a+", encoding="utf-8") as lock:
        deadline = time.monotonic() + ORPHAN_SECONDS
        while not _locked(lock.fileno()):
            lock.seek(0)
            pid = lock.read().strip()
            alive = pid.isdecimal() and is_alive(int(pid))
            if alive or time.monotonic() > deadline:
                raise _already(settings, pid, alive=alive)
            time.sleep(0.05)
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield lock.fileno()


def check_room(state: Path, *, least_bytes: int = LEAST_FREE_BYTES) -> None:
    """Make the directory, and write to it, before anything is started that would break on it half-way.

    Raises:
        ConfigError: It cannot be written, or there is no room.
    """
    probe = state / f".probe-{os.getpid()}"
    try:
        state.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0" * 4096)
        free = shutil.disk_usage(state).free
    except OSError as error:
        raise ConfigError(
            f"The state directory {state} cannot be written: {error.strerror}.",
            hint="Make room or mend its rights, or start in a project elsewhere.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    if free < least_bytes:
        raise ConfigError(
            f"The disk of {state} has {free >> 20:,} MiB free; the stack needs {least_bytes >> 20:,} MiB to start.",
            hint="Make room. Runs that were accepted go on afterwards.",
        )


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _already(settings: Settings, pid: str, *, alive: bool) -> AlreadyRunning:
    if not alive:
        return AlreadyRunning(
            f"A server that an earlier `horarium up` left behind still uses {settings.state}.",
            hint="End it: it is a process called `temporal`.",
        )
    stack = read_stack(settings)
    where = f"at {stack.address}" if stack else "and is starting"
    return AlreadyRunning(
        f"`horarium up` runs here already: process {pid}, {where}.", hint=f"Use it, or stop it: kill -INT {pid}"
    )
