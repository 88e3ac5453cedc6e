"""A gateway that asks for keys, and one key for each role in one tenant, and an admin's in another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from horarium.gateway.serving import Serving
from horarium.ledger.api_keys import ApiKeys
from horarium.settings import GatewaySettings
from schedules.previews import preview
from tests.gateway.conftest import PATIENT, Serve
from tests.support.engine import Engine

ROLES = ("viewer", "operator", "approver", "admin")
STRANGER = "stranger"  # an admin, of another tenant
STRICT = PATIENT.model_copy(update={"anonymous": False})


@dataclass
class Rest:
    """A served gateway, called in somebody's name."""

    engine: Engine
    serving: Serving
    keys: dict[str, str]
    http: httpx2.AsyncClient

    async def __call__(self, method: str, path: str, who: str | None = "admin", **more: Any) -> httpx2.Response:
        """One request; `who`: a role, `stranger`, or nobody."""
        headers = {"Authorization": f"Bearer {self.keys[who]}"} if who is not None else {}
        return await self.http.request(method, path, headers={**headers, **more.pop("headers", {})}, **more)

    async def ok(self, method: str, path: str, who: str = "admin", **more: Any) -> Any:
        """The JSON of an answer that is good."""
        answer = await self(method, path, who, **more)
        assert answer.is_success, (answer.status_code, answer.text)
        return answer.json()

    async def pages(self, path: str, limit: int, who: str = "admin") -> list[list[Any]]:
        """Every page of a list."""
        found: list[list[Any]] = []
        cursor: str | None = None
        while cursor is not None or not found:
            query = {"limit": limit} | ({"cursor": cursor} if cursor else {})
            page = await self.ok("GET", path, who, params=query)
            found.append(page["data"])
            cursor = page["next"]
        return found


@asynccontextmanager
async def rest_of(engine: Engine, serve: Serve, settings: GatewaySettings = STRICT) -> AsyncIterator[Rest]:
    """Serve it, with the engine's calendar."""
    keys = {}
    for who in (*ROLES, STRANGER):
        scope = f"role:{who}" if who in ROLES else "role:admin"
        tenant = "default" if who in ROLES else "elsewhere"
        _, keys[who] = await ApiKeys(engine.ledger).create(who, (scope,), tenant=tenant)
    serving = await serve(settings, preview=preview)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{serving.port}", timeout=60) as http:
        yield Rest(engine, serving, keys, http)
