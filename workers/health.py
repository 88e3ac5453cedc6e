"""The health endpoint: is the process alive, and can the stack do its work. On loopback only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

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


def health_server(checks: Checks, port: int) -> uvicorn.Server:
    """A server to be run with `await server.serve()` and stopped with `server.should_exit = True`."""
    config = uvicorn.Config(
        health_app(checks), host=HOST, port=port, log_level="warning", lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    return server
