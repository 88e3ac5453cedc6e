"""One agent, served as a hosted agent's container is expected to: `/responses`, `/invocations` and `/readiness`.

Whoever probes a container comes from anywhere and has no key, so `/readiness` is in front of the gate; it says yes or
no and nothing else.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from fastapi import FastAPI
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from temporalio.service import RPCError

from horarium.client import Client
from horarium.errors import HorariumError
from horarium.gateway.invocations import invocations_router
from horarium.gateway.responses.routes import responses_router

READINESS = "/readiness"
PATIENCE = 3.0  # seconds, for the ledger and Temporal together


class Readiness:
    """ASGI middleware: answers the probe, and passes everything else on."""

    def __init__(self, app: ASGIApp, client: Client, agent: str) -> None:
        self._app = app
        self._client = client
        self._agent = agent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] != READINESS or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        ready = await self._is_ready()
        answer = JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)
        await answer(scope, receive, send)

    async def _is_ready(self) -> bool:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._client.agent(self._agent)
                service = self._client.temporal.service_client
                return bool(await service.check_health(timeout=timedelta(seconds=PATIENCE)))
        except (HorariumError, RPCError, TimeoutError, OSError):
            return False


def install(app: FastAPI, client: Client, agent: str) -> None:
    """Have an application serve this agent, at its root."""
    app.state.agent = agent
    app.include_router(responses_router("", "_hosted"))
    app.include_router(invocations_router("/invocations", "_hosted"))
    app.add_middleware(Readiness, client=client, agent=agent)
