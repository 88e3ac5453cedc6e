"""The gateway: REST, the Responses protocol, MCP endpoints and the console behind one gate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware

from horarium.client import Client
from horarium.gateway import problems
from horarium.gateway.auth import Gate
from horarium.gateway.mcp import mcp_endpoints
from horarium.ledger.api_keys import ApiKeys
from horarium.ledger.toolworkers import own_version
from horarium.settings import Settings


def gateway_app(
    client: Client, settings: Settings, *, port: int, served: Collection[str] | None = None, anonymous: bool
) -> FastAPI:
    """The ASGI application.

    Whoever stops it sets `app.state.calls.leaving` first, so that the runs of its clients go on.

    Args:
        client: With a ledger.
        settings: Of the project.
        port: It listens on; part of the Host headers that it answers.
        served: Names of the toolboxes that have an MCP endpoint; None: all.
        anonymous: Whoever has no key is let in; only where nobody else can reach the port.
    """
    mcp = mcp_endpoints(client, settings.gateway, served)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with mcp.manager.run():
            yield

    gate = Middleware(
        Gate,
        keys=ApiKeys(client.require_ledger()),
        port=port,
        hosts=settings.gateway.hosts,
        origins=settings.gateway.origins,
        anonymous=anonymous,
    )
    app = FastAPI(
        title="Horarium",
        version=own_version(),
        middleware=[gate],
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        routes=mcp.routes,
    )
    app.state.client, app.state.settings, app.state.calls = client, settings, mcp.calls
    problems.install(app)
    return app
