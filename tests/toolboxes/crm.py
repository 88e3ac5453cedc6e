"""A small HTTP API of this machine, for tests: what it is asked, and what it is told to answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

Answer = Callable[[Request], Awaitable[Response]]


@dataclass
class Crm:
    """The API, running; `answer` stands in for all its operations when it is set."""

    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    tickets: dict[str, str] = field(default_factory=lambda: {"7": "open"})
    done: dict[str, str] = field(default_factory=dict)
    answer: Answer | None = None

    def forget(self) -> None:
        """Begin anew, for the next test."""
        fresh = Crm(self.url)
        self.__dict__.update(fresh.__dict__)

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        query = f"?{request.url.query}" if request.url.query else ""
        self.asked.append((request.method, request.scope["raw_path"].decode() + query))
        self.headers.append(dict(request.headers))
        self.bodies.append(await request.body())
        if self.answer is not None:
            return await self.answer(request)
        ticket = request.url.path.split("/")[2] if request.url.path.startswith("/tickets/") else ""
        if request.method == "GET" and ticket in self.tickets:
            return JSONResponse({"id": ticket, "state": self.tickets[ticket]})
        if request.method == "POST" and ticket in self.tickets:
            self.done.setdefault(request.headers.get("idempotency-key", ""), ticket)
            self.tickets[ticket] = "closed"
            return JSONResponse({"id": ticket, "state": "closed"})
        return JSONResponse({"error": f"there is no ticket {ticket!r}"}, 404)


@asynccontextmanager
async def running_crm() -> AsyncIterator[Crm]:
    """The API on a port of this machine."""
    crm = Crm()
    app = FastAPI()
    app.add_route("/{path:path}", crm.handle, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    try:
        async with asyncio.timeout(10):
            while not server.started:
                await asyncio.sleep(0.01)
        crm.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield crm
    finally:
        server.should_exit = server.force_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await serving


def document_of(url: str) -> dict[str, Any]:
    """The API's own description."""
    ticket = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    reason = {"type": "object", "properties": {"reason": {"type": "string"}}, "required": ["reason"]}
    return {
        "openapi": "3.1.0",
        "servers": [{"url": url}],
        "paths": {
            "/tickets/{id}": {
                "parameters": [ticket],
                "get": {"operationId": "getTicket", "summary": "Look at a ticket."},
            },
            "/tickets/{id}/close": {
                "parameters": [ticket],
                "post": {
                    "operationId": "closeTicket",
                    "summary": "Close a ticket.",
                    "requestBody": {"required": True, "content": {"application/json": {"schema": reason}}},
                },
            },
        },
    }
