"""A gateway in front of the test's engine, and the official client of whoever calls it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
import pytest

from activities.models.base import ModelRequest, OnText, Turn
from horarium.definitions import Agent
from horarium.gateway.serving import Serving
from horarium.ledger.agents import Agents
from horarium.ledger.api_keys import ApiKeys
from tests.gateway.conftest import PATIENT, Serve, engine, env, serve, world
from tests.support.engine import Engine, Said, says

__all__ = ["engine", "env", "serve", "world"]

CLERK = Agent("clerk", model="scripted:test", tools=["look", "pay", "ship", "refuse", "wait"])
STRICT = PATIENT.model_copy(update={"anonymous": False})


@dataclass
class Desk:
    """An agent that is served, and clients of it."""

    engine: Engine
    serving: Serving
    keys: dict[str, str]
    stack: AsyncExitStack

    async def client(self, who: str = "approver", at: str = "/v1", **more: Any) -> openai.AsyncOpenAI:
        """The official client, in somebody's name."""
        client = openai.AsyncOpenAI(
            api_key=self.keys.get(who, who), base_url=self.serving.url + at, max_retries=0, timeout=30, **more
        )
        return await self.stack.enter_async_context(client)

    async def http(self, who: str = "admin") -> httpx2.AsyncClient:
        """A plain client, in somebody's name."""
        client = httpx2.AsyncClient(
            base_url=self.serving.url, headers={"Authorization": f"Bearer {self.keys[who]}"}, timeout=30
        )
        return await self.stack.enter_async_context(client)

    def says(self, *lines: Said) -> None:
        """What the agent's model says next."""
        self.engine.model.lines[:] = list(lines)
        self.engine.model.requests.clear()

    async def until(self, client: openai.AsyncOpenAI, response: str, status: str) -> Any:
        """Poll until a response has a status."""
        async with asyncio.timeout(30):
            while (found := await client.responses.retrieve(response)).status != status:
                await asyncio.sleep(0.05)
            return found


@pytest.fixture
async def desk(engine: Engine, serve: Serve) -> AsyncIterator[Desk]:
    keys = {}
    for who in ("viewer", "operator", "approver", "admin"):
        keys[who] = await _key(engine, who, "default", who)
    keys["stranger"] = await _key(engine, "stranger", "elsewhere", "admin")
    await Agents(engine.ledger).register(CLERK)
    engine.model.lines[:] = [says()]
    async with AsyncExitStack() as stack:
        yield Desk(engine, await serve(STRICT), keys, stack)


async def _key(engine: Engine, name: str, tenant: str, role: str) -> str:
    _, secret = await ApiKeys(engine.ledger).create(name, (f"role:{role}",), tenant=tenant)
    return secret


class Speaking:
    """A model that speaks its text bit by bit: each next bit when the test says so."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.said: asyncio.Queue[str | None] = asyncio.Queue()

    async def generate(self, request: ModelRequest, on_text: OnText | None = None) -> Turn:
        text = ""
        while (more := await self.said.get()) is not None:
            text += more
            if on_text is not None:
                await on_text(text)
        return says(text)


@pytest.fixture
def speaking(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Speaking]:
    monkeypatch.setattr("activities.call_model.SHOW_EVERY", 0.0)

    def begin() -> Speaking:
        speaker = Speaking(engine)
        monkeypatch.setattr(engine.model, "generate", speaker.generate)
        return speaker

    return begin
