"""Where the embedded stack of a project runs: what `horarium up` writes down, and everybody else reads.

A file can outlive the process that wrote it, so it counts only while its writer lives and owns the directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from horarium.errors import Unreachable
from horarium.settings import Settings

STACK_FILE = "stack.json"
LOCK_FILE = "lock"
GATEWAY_PORT = 7281


class Process(BaseModel):
    """One process of the stack."""

    model_config = ConfigDict(frozen=True)

    name: str
    pid: int


class Stack(BaseModel):
    """A stack that is ready, or was. `address` is `host:port`.

    `ui` (of Temporal, if wanted), `health` and `gateway` are URLs.
    """

    model_config = ConfigDict(frozen=True)

    pid: int
    address: str
    namespace: str
    ui: str | None = None
    health: str
    gateway: str | None = None
    server: Process | None = None
    worker: Process | None = None
    more_workers: tuple[Process, ...] = ()
    tool_worker: Process | None = None
    gateway_process: Process | None = None


def stack_file(settings: Settings) -> Path:
    """Where the stack of this project is written down."""
    return settings.state / STACK_FILE


def read_stack(settings: Settings) -> Stack | None:
    """The stack of this project, when one runs."""
    try:
        stack = Stack.model_validate_json(stack_file(settings).read_text("utf-8"))
    except (OSError, ValidationError):
        return None
    return stack if is_alive(stack.pid) and is_locked(settings) else None


def write_stack(settings: Settings, stack: Stack) -> None:
    """Write the stack down, whole or not at all."""
    file = stack_file(settings)
    part = file.with_suffix(".part")
    part.write_text(stack.model_dump_json(indent=2) + "\n", "utf-8")
    part.replace(file)


def is_locked(settings: Settings) -> bool:
    """Whether somebody owns the state directory."""
    with contextlib.suppress(FileNotFoundError), (settings.state / LOCK_FILE).open() as lock:
        try:
            # Shared, so that two who look do not take each other for the owner.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def is_alive(pid: int) -> bool:
    """Whether there is a process of this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


async def answers_http(url: str) -> bool:
    """Whether something answers at the root of a URL of this machine, whatever it says."""
    parts = urlsplit(url)
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except OSError:
        return False
    try:
        writer.write(f"HEAD / HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        return (await reader.readline()).startswith(b"HTTP/1.")
    except OSError:
        return False
    finally:
        writer.close()


def resolve_address(settings: Settings) -> str:
    """The server that the settings name, or this project's embedded one.

    Raises:
        Unreachable: Neither is there.
    """
    if settings.temporal.address is not None:
        return settings.temporal.address
    stack = read_stack(settings)
    if stack is None:
        raise Unreachable(f"Nothing runs for the project in {settings.root}.", hint="Start it: horarium up")
    return stack.address
