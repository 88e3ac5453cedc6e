"""A web page whose name suddenly means this machine gets nothing from any port that `horarium up` opens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from tests.stack.conftest import AGENT, SCRIPT, Up, Write, greet, processes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
LISTENING = "0A"  # in /proc/net/tcp
PATHS = ("/", "/metrics", "/healthz", "/readyz", "/v1/runs", "/inbox", "/toolboxes/shop/mcp", "/api/v1/namespaces")


def ports_of(pids: list[int]) -> dict[int, int]:
    """The ports that these processes listen on, each with its process."""
    found = {}
    for pid in pids:
        sockets = {str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()}
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING and f"socket:[{fields[9]}]" in sockets:
                    found[int(fields[1].rpartition(":")[2], 16)] = pid
    return found


async def answer(port: int, path: str, host: str, method: str = "GET") -> tuple[int | None, str]:
    """What a port answers in HTTP, and its status; None when it speaks something else."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            lines = (f"{method} {path} HTTP/1.1", f"Host: {host}", "Content-Length: 0", "Connection: close", "", "")
            writer.write("\r\n".join(lines).encode())
            await writer.drain()
            text = (await reader.read()).decode("utf-8", "replace")
            writer.close()
    except (OSError, TimeoutError):
        return None, ""
    return (int(text.split()[1]) if text.startswith("HTTP/1.") else None), text


async def test_no_port_answers_to_a_name_that_is_not_ours(write: Write, up: Callable[..., Up]) -> None:
    settings = write(agents__hello=AGENT, scripts__hello=SCRIPT)
    stack = await up(settings).ready()
    run = await greet(settings)
    ports = ports_of(processes(stack))
    own = {int(str(url).rpartition(":")[2].strip("/")) for url in (stack.address, stack.health, stack.gateway)}
    assert own <= set(ports)

    let_in = {}
    for port, path, method in product(ports, PATHS, ("GET", "POST")):
        status, text = await answer(port, path, f"evil.example:{port}", method)
        if status is not None and not 400 <= status < 500:
            let_in[port, path] = text

    # Temporal's development server has counters for whoever asks, and no way to switch them off.
    assert [path for _, path in let_in] in ([], ["/metrics"])
    assert not own & {port for port, _ in let_in}
    assert not any(word in text for text in let_in.values() for word in (run, "hello", "Good morning"))
    gateway = int(str(stack.gateway).rpartition(":")[2])
    assert (await answer(gateway, "/v1/runs", f"127.0.0.1:{gateway}"))[0] == 200
