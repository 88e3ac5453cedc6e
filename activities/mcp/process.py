"""A server that is a program of this machine: started with little, spoken to over its pipes, never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import mcp_types as types
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage

from activities.mcp.faults import MOST_BYTES, fault
from horarium.content import shorten
from horarium.errors import ConfigError
from horarium.secrets import redact

log = structlog.get_logger()

INHERITED = ("PATH", "HOME")
EXIT_SECONDS = 2.0  # to end by itself when nobody speaks to it any more, and again after SIGTERM
LINE_CHARS = 2_000  # of one line of stderr
_PIECE = 1 << 16
_END = 256  # characters at each end of a line that is too long, where its id stands
# It reads until our end of the pipe closes, which the kernel does however we die; then the whole group goes, also what
# the server itself started (npx and uvx start the real one).
_GUARD = 'read -r _; kill -9 -"$0"'
_ID = re.compile(rb'^\{"jsonrpc":\s?"2\.0",\s?"id":\s?(\d+),|,\s?"id":\s?(\d+)\}$')

Streams = AsyncIterator[
    tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]
]


@asynccontextmanager
async def process_transport(
    command: Sequence[str],
    *,
    label: str,
    environment: Mapping[str, str],
    directory: Path,
    said: deque[str],
    is_open: Callable[[], bool],
    on_end: Callable[[], None],
) -> Streams:
    """Start the program and speak to it; ended with all that it started.

    Args:
        label: The server's name, for the log.
        environment: Besides PATH and HOME, secrets looked up already.
        said: Gets the last lines of its stderr.
        is_open: Whether it is being spoken to already. Many say at length what they do not understand of the first
            message, which asks for the newest protocol.
        on_end: Called when it closes its output.

    Raises:
        ConfigError: There is no such program, or it cannot be started.
    """
    process = await _started(command, environment, directory)
    guard = await _guard(process.pid)
    send_read, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write, receive_written = anyio.create_memory_object_stream[SessionMessage](0)
    tasks = [
        asyncio.create_task(_listen(process, send_read, on_end)),
        asyncio.create_task(_speak(process, receive_written)),
        asyncio.create_task(_log(process, label, said, is_open)),
    ]
    try:
        yield read, write
    finally:
        try:
            with anyio.CancelScope(shield=True):
                await _end(process)
        finally:
            _kill_group(process.pid, signal.SIGKILL)
            for task in tasks:
                task.cancel()
            for stream in (read, write, send_read, receive_written):
                stream.close()
            with contextlib.suppress(ProcessLookupError):
                guard.kill()
            await guard.wait()


async def _started(
    command: Sequence[str], environment: Mapping[str, str], directory: Path
) -> asyncio.subprocess.Process:
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=inherited | dict(environment),
            cwd=directory,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(
            f"{command[0]!r} cannot be started in {directory}: {why}.",
            hint="Look at `command` and `cwd` of this server.",
        ) from error


async def _guard(group: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", _GUARD, str(group), stdin=asyncio.subprocess.PIPE, env={}, start_new_session=True
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    for last in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_exited(process), EXIT_SECONDS)
            return
        _kill_group(process.pid, last)


async def _exited(process: asyncio.subprocess.Process) -> None:
    while process.returncode is None:  # noqa: ASYNC110 - `wait()` also waits for whoever inherited its pipes
        await asyncio.sleep(0.01)


def _kill_group(group: int, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, how)


async def _listen(
    process: asyncio.subprocess.Process,
    to: MemoryObjectSendStream[SessionMessage | Exception],
    on_end: Callable[[], None],
) -> None:
    try:
        async with to:
            async for line in _lines(process):
                message = _message(line)
                if message is not None:
                    await to.send(SessionMessage(message))
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        return
    finally:
        on_end()


class TooLong(bytes):
    """Both ends of a line that is too long."""


async def _lines(process: asyncio.subprocess.Process) -> AsyncIterator[bytes]:
    if process.stdout is None:
        return
    kept: list[bytes] = []
    size, end = 0, b""
    while part := await process.stdout.read(_PIECE):
        first, *more = part.split(b"\n")
        for number, piece in enumerate((first, *more)):
            if number:
                yield TooLong(kept[0][:_END] + end) if size > MOST_BYTES else b"".join(kept)
                kept, size, end = [], 0, b""
            if not piece:
                continue
            size += len(piece)
            if size <= MOST_BYTES:
                kept.append(piece)
            else:
                del kept[1:]
            end = (end + piece)[-_END:]


def _message(line: bytes) -> types.JSONRPCMessage | None:
    if isinstance(line, TooLong):
        found = _ID.search(line.strip())
        if found is None:
            log.warning("mcp.message_too_long", begins=redact(repr(line[:_END])))
            raise OSError("a message is too long, and does not say what it answers")
        error = fault("too_large", f"Its answer has more than {MOST_BYTES:,} bytes.")
        return types.JSONRPCError(jsonrpc="2.0", id=int(found[1] or found[2]), error=error)
    if not line.strip():
        return None
    try:
        return types.jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError:
        log.warning("mcp.not_a_message", line=redact(shorten(line.decode("utf-8", "replace"), 200)))
        return None


async def _speak(process: asyncio.subprocess.Process, written: MemoryObjectReceiveStream[SessionMessage]) -> None:
    if process.stdin is None:
        return
    with contextlib.suppress(anyio.ClosedResourceError, OSError):
        async for item in written:
            line = item.message.model_dump_json(by_alias=True, exclude_unset=True)
            process.stdin.write(f"{line}\n".encode("utf-8", "replace"))
            await process.stdin.drain()


async def _log(process: asyncio.subprocess.Process, label: str, said: deque[str], is_open: Callable[[], bool]) -> None:
    if process.stderr is None:
        return
    rest = b""
    while part := await process.stderr.read(_PIECE):
        *lines, rest = (rest + part).split(b"\n")
        rest = rest[-_PIECE:]
        for line in lines:
            text = redact(shorten(line.decode("utf-8", "replace").rstrip(), LINE_CHARS))
            if text:
                said.append(text)
                (log.info if is_open() else log.debug)("mcp.stderr", server=label, line=text)
