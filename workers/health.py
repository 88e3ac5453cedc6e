"""The health endpoint: is the process alive, and can the stack do its work. On loopback only."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from workers.server import HOST

Checks = Callable[[], Awaitable[Mapping[str, str]]]
OK = "ok"


def health_app(checks: Checks) -> Starlette:
    """`/healthz` answers while the process lives; `/readyz` asks `checks`, and is 503 unless all say ok."""

    async def alive(_request: Request) -> JSONResponse:
        return JSONResponse({"status": OK})

    async def ready(_request: Request) -> JSONResponse:
        found = dict(await checks())
        good = all(value == OK for value in found.values())
        return JSONResponse({"status": OK if good else "not ready", **found}, status_code=200 if good else 503)

    # A web page that rebinds its name to 127.0.0.1 sends its own Host.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=[Route("/healthz", alive), Route("/readyz", ready)], middleware=[hosts])


class _Server(uvicorn.Server):
    """Leaves signals to the supervisor."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


@contextlib.asynccontextmanager
async def serving_health(checks: Checks, listener: socket.socket) -> AsyncIterator[None]:
    """Serve on a socket that is bound already, as long as the block runs."""
    config = uvicorn.Config(
        health_app(checks), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task
