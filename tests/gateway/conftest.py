"""The engine of the engine's tests, and toolboxes served in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client

from horarium.definitions import ApprovalRule
from horarium.gateway.results import KEY
from horarium.gateway.serving import Serving, serving
from horarium.ledger.toolboxes import Toolboxes
from horarium.settings import GatewaySettings, Settings
from horarium.toolboxes import Toolbox
from tests.engine.conftest import World, engine, env, world
from tests.support.engine import Engine

__all__ = ["engine", "env", "world"]

PATIENT = GatewaySettings(call_patience=timedelta(seconds=20))
SHOP = Toolbox(
    name="shop",
    description="A small shop.",
    tools=("look", "pay", "ship", "refuse", "wait"),
    approvals=(ApprovalRule(tools=("ship",), required=0),),
)


def keyed(key: object) -> Any:
    """The metadata of a call that has an idempotency key."""
    return {KEY: key}


def of_gateway(project: Settings, gateway: GatewaySettings) -> Settings:
    """A project's settings with these of the gateway."""
    return project.model_copy(update={"gateway": gateway})


Serve = Callable[..., Awaitable[Serving]]


@dataclass
class Shop:
    """A served toolbox, and how to reach it."""

    serving: Serving
    engine: Engine

    @property
    def url(self) -> str:
        """Of its default version."""
        return self.serving.address("shop")

    @asynccontextmanager
    async def client(self, key: str | None = None, url: str | None = None, **more: Any) -> AsyncIterator[McpClient]:
        """The official MCP client, connected."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
            transport = streamable_http_client(url or self.url, http_client=http)
            async with McpClient(transport, **more) as client:
                yield client


@pytest.fixture
async def serve(engine: Engine) -> AsyncIterator[Serve]:
    """Serve toolboxes in front of the test's engine."""
    async with AsyncExitStack() as stack:

        async def start(settings: GatewaySettings = PATIENT, **more: Any) -> Serving:
            return await stack.enter_async_context(
                serving(
                    engine.client, of_gateway(engine.settings, settings), **{"host": "127.0.0.1", "port": 0, **more}
                )
            )

        yield start


@pytest.fixture
async def shop(engine: Engine, world: World, serve: Serve) -> Shop:
    await Toolboxes(engine.ledger).register(SHOP)
    return Shop(await serve(), engine)
