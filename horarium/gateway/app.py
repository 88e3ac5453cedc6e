"""The gateway: REST, the Responses protocol, MCP endpoints and the console behind one gate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import Scope

from horarium.client import Client
from horarium.gateway import answering, hosted, openapi
from horarium.gateway.auth import Gate, anybody
from horarium.gateway.bodies import Bodies
from horarium.gateway.console import install as console
from horarium.gateway.invocations import invocations_router
from horarium.gateway.mcp import mcp_endpoints
from horarium.gateway.oidc import oidc_of
from horarium.gateway.ratelimits import RateLimits
from horarium.gateway.responses import conversations, models
from horarium.gateway.responses.routes import responses_router
from horarium.gateway.sessions import Sessions
from horarium.gateway.v1 import (
    agents,
    approvals,
    audit,
    differences,
    events,
    evidence,
    keys,
    memories,
    routines,
    runs,
    steps,
    threads,
    toolboxes,
    webhooks,
    workspaces,
)
from horarium.ledger.api_keys import ApiKeys
from horarium.ledger.toolworkers import own_version
from horarium.link_secret import link_secret
from horarium.previews import Previewer
from horarium.settings import Settings


def _is_unspoken(scope: Scope) -> bool:
    """Whether an address is as good as somebody's word: a link to an approval, a provider's answer. No trace has it."""
    return str(scope["path"]).startswith(("/approve/", "/sign-in"))


def gateway_app(
    client: Client,
    settings: Settings,
    *,
    port: int,
    served: Collection[str] | None = None,
    anonymous: bool,
    preview: Previewer | None = None,
    agent: str | None = None,
) -> FastAPI:
    """The ASGI application.

    Whoever stops it sets `app.state.calls.leaving` first, so that the runs of its clients go on.

    Args:
        client: With a ledger.
        settings: Of the project.
        port: It listens on; part of the Host headers that it answers.
        served: Names of the toolboxes that have an MCP endpoint; None: all.
        anonymous: Whoever has no key is let in; only where nobody else can reach the port.
        preview: Of the engine's calendar; None: it has no previews of routines.
        agent: Serve this one, as a hosted agent, and nothing else.
    """
    client = client.with_patience(settings.gateway.start_patience)
    mcp = mcp_endpoints(client, settings.gateway, served)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with mcp.manager.run():
            yield

    sessions = Sessions(link_secret(settings), settings.gateway.session_lasts, port=port) if agent is None else None
    limits = RateLimits(settings.gateway.limits, settings.gateway.proxies)
    oidc = oidc_of(settings)
    gate = Middleware(
        Gate,
        keys=ApiKeys(client.require_ledger()),
        port=port,
        hosts=settings.gateway.hosts,
        origins=settings.gateway.origins,
        anybody=anybody(require_proof=settings.approvals.require_proof) if anonymous else None,
        limits=limits,
        sessions=sessions,
        oidc=oidc,
    )
    below = "/v1/" if agent is None else "/"
    bodies = Middleware(Bodies, most_bytes=settings.gateway.max_body_bytes, below=below)
    app = FastAPI(
        title="Horarium",
        version=own_version(),
        middleware=[gate, bodies],
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy it would lead from https to http, and a client's key after it
        routes=mcp.routes,
        telemetry={"exclude": _is_unspoken, "auto_configure": False},
    )
    app.state.preview, app.state.limits, app.state.oidc, app.state.served = preview, limits, oidc, served
    app.state.client, app.state.settings, app.state.calls = client, settings, mcp.calls
    answering.install(app)
    openapi.install(app)
    if agent is not None:
        hosted.install(app, client, agent)
        return app
    for place, label in (("/v1", ""), ("/v1/agents/{agent_name}", "_of_agent")):
        app.include_router(responses_router(place, label))
    app.include_router(invocations_router("/v1/agents/{agent_name}/invocations", ""))
    app.include_router(conversations.router)
    app.include_router(models.router)
    app.include_router(steps.router)
    for noun in (runs, events, threads, approvals, evidence, differences):
        app.include_router(noun.router)
    for noun in (agents, routines, toolboxes, memories, workspaces, audit, keys, webhooks):
        app.include_router(noun.router)
    if sessions is not None:
        console.install(app, sessions, port=port)
    return app
