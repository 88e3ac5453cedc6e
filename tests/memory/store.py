"""A Foundry project's memory stores on loopback, as far as the engine uses them, with switches for what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from tests.emulator.server import IDENTITY_HEADER, PROJECT, TOKEN, _listening

STORE = "desk"
Item = dict[str, Any]


@dataclass
class StoreEmulator:
    """One store. What it is told becomes a memory, word for word, when its update is looked at often enough."""

    memories: list[Item] = field(default_factory=list)
    updates: dict[str, Item] = field(default_factory=dict)
    posts: list[Item] = field(default_factory=list)
    looks: int = 0
    searches: list[Item] = field(default_factory=list)
    away: int | None = None  # the status that everything is answered with
    hangs: bool = False
    ends: str = "completed"
    looks_needed: int = 1
    forgets: int = 0  # how many updates it loses
    endpoint: str = ""
    identity: str = ""
    ca_file: Path = Path()

    def app(self) -> FastAPI:
        """The application."""
        app = FastAPI(openapi_url=None)
        base = f"{PROJECT}/memory_stores/{STORE}"
        app.get("/msi/token")(self._identity)
        app.post(f"{base}:update_memories")(self._update)
        app.get(f"{base}/updates/{{update}}")(self._look)
        app.post(f"{base}:search_memories")(self._search)
        return app

    async def _identity(self, request: Request) -> Response:
        if request.headers.get("x-identity-header") != IDENTITY_HEADER:
            return _problem(401, "unauthorized")
        expires = {"expires_on": "4102444800", "resource": "https://ai.azure.com", "token_type": "Bearer"}
        return JSONResponse({"access_token": TOKEN, **expires})

    async def _update(self, request: Request) -> Response:
        if refused := await self._refused(request):
            return refused
        body = await request.json()
        self.posts.append(body)
        update_id = f"upd_{len(self.posts)}"
        self.updates[update_id] = {**body, "looks": 0}
        return JSONResponse({"update_id": update_id, "status": "queued"}, 202)

    async def _look(self, update: str, request: Request) -> Response:
        if refused := await self._refused(request):
            return refused
        self.looks += 1
        if self.forgets > 0:
            self.forgets -= 1
            self.updates.pop(update, None)
        known = self.updates.get(update)
        if known is None:
            return _problem(404, "not_found")
        known["looks"] += 1
        if known["looks"] < self.looks_needed:
            return JSONResponse({"update_id": update, "status": "in_progress"})
        if self.ends != "completed":
            return JSONResponse({"update_id": update, "status": self.ends, "error": {"code": "content_filter"}})
        if known["looks"] == self.looks_needed:
            content = " / ".join(item["content"] for item in known["items"])
            self.memories.append(_memory(f"mem_{len(self.memories)}", known["scope"], content))
        result = {"memory_operations": [{"kind": "create", "memory_item": self.memories[-1]}], "usage": {}}
        return JSONResponse({"update_id": update, "status": "completed", "result": result})

    async def _search(self, request: Request) -> Response:
        if refused := await self._refused(request):
            return refused
        body = await request.json()
        self.searches.append(body)
        found = [{"memory_item": each} for each in self.memories if each["scope"] == body["scope"]]
        return JSONResponse({"search_id": "s1", "memories": found[: body["options"]["max_memories"]], "usage": {}})

    async def _refused(self, request: Request) -> Response | None:
        await request.body()  # before asking whether the client has gone, which would take it away unread
        if self.hangs:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(30):
                    while self.hangs and not await request.is_disconnected():
                        await asyncio.sleep(0.02)
        if self.away is not None:
            return _problem(self.away, "away")
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return _problem(401, "unauthorized")
        if request.headers.get("foundry-features") != "MemoryStores=V1Preview":
            return _problem(403, "preview_feature_required")
        return None if request.query_params.get("api-version") == "v1" else _problem(400, "api_version")


def _memory(identity: str, scope: str, content: str) -> Item:
    return {
        "memory_id": identity,
        "updated_at": 1795240000,
        "scope": scope,
        "content": content,
        "kind": "user_profile",
    }


def _problem(status: int, code: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": "secret words", "param": None, "type": "x"}}, status)


@contextlib.contextmanager
def served_store(folder: Path) -> Iterator[StoreEmulator]:
    """Run it on two ports of the loopback: the project over TLS, the identity endpoint without."""
    emulator = StoreEmulator()
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
