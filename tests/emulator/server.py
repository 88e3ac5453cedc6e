"""The emulator itself: an application with switches for faults, served over TLS, and its identity endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from tests.emulator.wire import Item, chat_chunks, message, response, response_events

PROJECT = "/api/projects/p"
TOKEN = "emulated-token"
IDENTITY_HEADER = "emulated-identity"
REASONING = re.compile(r"^(o\d|gpt-5(?!.*chat))")


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request, instead of an answer."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    code: str | None = None
    param: str | None = None
    cut_after: int | None = None  # events, then the connection is closed
    stall_after: int | None = None  # events, then silence
    stall_first: bool = False  # silence before the status line
    ends: str | None = None  # failed or incomplete
    reason: str | None = None


@dataclass
class FoundryEmulator:
    """A project with deployments. Answers are given in the order in which they were put into `answers`."""

    deployments: dict[str, str] = field(default_factory=lambda: {"main": "gpt-5.3", "old": "gpt-4.1"})
    answers: list[list[Item]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    asked: list[Item] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    token_requests: list[dict[str, str]] = field(default_factory=list)
    lookups: int = 0
    token: str = TOKEN
    closed_early: threading.Event = field(default_factory=threading.Event)
    endpoint: str = ""
    identity: str = ""
    ca_file: Path = Path()

    def app(self) -> FastAPI:
        """The application."""
        app = FastAPI(openapi_url=None)
        app.get("/msi/token")(self._identity)
        app.get(f"{PROJECT}/deployments/{{name}}")(self._deployment)
        app.get(f"{PROJECT}/deployments")(self._list)
        app.get(f"{PROJECT}/openai/v1/models/{{name}}")(self._model)
        app.post(f"{PROJECT}/openai/v1/responses")(self._responses)
        app.post(f"{PROJECT}/openai/v1/chat/completions")(self._chat)
        return app

    async def _identity(self, request: Request) -> Response:
        self.token_requests.append(dict(request.query_params))
        if request.headers.get("x-identity-header") != IDENTITY_HEADER:
            return _problem(401, "unauthorized")
        expires = {"expires_on": "4102444800", "resource": "https://ai.azure.com", "token_type": "Bearer"}
        return JSONResponse({"access_token": self.token, **expires})

    async def _list(self, request: Request) -> Response:
        if refused := self._unauthorised(request):
            return refused
        return JSONResponse({"value": [_deployed(name, model) for name, model in self.deployments.items()]})

    async def _deployment(self, name: str, request: Request) -> Response:
        self.lookups += 1
        if refused := self._unauthorised(request):
            return refused
        if name not in self.deployments:
            return _problem(404, "DeploymentNotFound")
        return JSONResponse(_deployed(name, self.deployments[name]))

    async def _model(self, name: str, request: Request) -> Response:
        if refused := self._unauthorised(request):
            return refused
        return JSONResponse({"id": name, "object": "model", "created": 1795240000, "owned_by": "emulator"})

    async def _responses(self, request: Request) -> Response:
        body, fault, refused = await self._taken(request)
        if refused is not None:
            return refused
        model = self.deployments.get(body["model"])
        if model is None:
            return _problem(404, "DeploymentNotFound")
        if problem := _wrong(body, model):
            return problem
        output = self.answers.pop(0) if self.answers else [message("Hello from the emulator.")]
        ends = fault.ends or "completed"
        details = {"error": fault.reason} if ends == "failed" else {"incomplete": fault.reason}
        whole = response(body, model, output, status=ends, **details)
        if not body.get("stream"):
            return JSONResponse(whole)
        return self._streamed(response_events(whole), fault)

    async def _chat(self, request: Request) -> Response:
        body, fault, refused = await self._taken(request)
        if refused is not None:
            return refused
        model = self.deployments.get(body["model"]) or str(body["model"])
        if REASONING.match(model) and "max_tokens" in body:
            return _problem(400, "unsupported_parameter", "max_tokens")
        output = self.answers.pop(0) if self.answers else [message("Hello from the emulator.")]
        return self._streamed(chat_chunks(model, output, fault.reason), fault)

    async def _taken(self, request: Request) -> tuple[Item, Fault, Response | None]:
        body = await request.json()
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        fault = self.faults.pop(0) if self.faults else Fault()
        refused = self._unauthorised(request)
        if fault.status is not None:
            refused = _problem(fault.status, fault.code or "some_code", fault.param, headers=fault.headers)
        if fault.stall_first:
            await self._silence(request)
        return body, fault, refused

    async def _silence(self, request: Request) -> None:
        """Say nothing until the client has gone; a minute at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60):
                while not await request.is_disconnected():
                    await asyncio.sleep(0.02)
                self.closed_early.set()

    def _unauthorised(self, request: Request) -> Response | None:
        given = request.headers.get("authorization")
        return None if given == f"Bearer {TOKEN}" else _problem(401, "invalid_api_key", message=f"bad key {given}")

    def _streamed(self, events: Iterator[str], fault: Fault) -> Response:
        async def send() -> AsyncIterator[str]:
            try:
                for number, event in enumerate(events):
                    if number == fault.cut_after:
                        return
                    if number == fault.stall_after:
                        await asyncio.sleep(60)
                    yield event
            except asyncio.CancelledError:
                self.closed_early.set()
                raise

        return StreamingResponse(send(), media_type="text/event-stream")


def _wrong(body: Item, model: str) -> Response | None:
    refused = (
        {"temperature": "temperature", "top_p": "top_p"}
        if REASONING.match(model)
        else {"reasoning": "reasoning.effort"}
    )
    for parameter, named in refused.items():
        if parameter in body:
            return _problem(400, "unsupported_parameter", named)
    items = [item for item in body["input"] if isinstance(item, dict)]
    calls = {item["call_id"] for item in items if item.get("type") == "function_call"}
    outputs = {item["call_id"] for item in items if item.get("type") == "function_call_output"}
    return None if calls == outputs else _problem(400, "invalid_request_error", "input")


def _deployed(name: str, model: str) -> dict[str, Any]:
    return {
        "type": "ModelDeployment",
        "name": name,
        "modelName": model,
        "modelVersion": "1",
        "modelPublisher": "OpenAI",
        "capabilities": {},
        "sku": {"capacity": 1, "family": "", "name": "GlobalStandard", "size": "", "tier": ""},
    }


def _problem(
    status: int, code: str, param: str | None = None, *, message: str = "secret prompt text", headers: Any = None
) -> Response:
    error = {"code": code, "message": message, "param": param, "type": "invalid_request_error"}
    return JSONResponse({"error": error}, status, headers=headers)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[FoundryEmulator]:
    """Run an emulator on two ports of the loopback: the project over TLS, the identity endpoint without."""
    emulator = FoundryEmulator()
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    emulator.ca_file, chain, key = folder / "ca.pem", folder / "chain.pem", folder / "key.pem"
    authority.cert_pem.write_to_path(str(emulator.ca_file))
    certificate.private_key_pem.write_to_path(str(key))
    for index, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(str(chain), append=index > 0)
    app = emulator.app()
    with (
        _listening(app, ssl_certfile=str(chain), ssl_keyfile=str(key)) as secure,
        _listening(app) as plain,
    ):
        emulator.endpoint = f"https://127.0.0.1:{secure}{PROJECT}"
        emulator.identity = f"http://127.0.0.1:{plain}/msi/token"
        yield emulator


@contextlib.contextmanager
def _listening(app: FastAPI, **tls: Any) -> Iterator[int]:
    config = uvicorn.Config(
        app, "127.0.0.1", 0, lifespan="off", log_level="critical", timeout_graceful_shutdown=1, **tls
    )
    server = uvicorn.Server(config)
    started = threading.Event()

    async def serve() -> None:
        running = asyncio.create_task(server.serve())
        while not server.started and not running.done():
            await asyncio.sleep(0.005)
        started.set()
        await running

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    if not started.wait(20) or not server.started:
        raise RuntimeError("the emulator did not start")
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
