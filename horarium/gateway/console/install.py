"""Puts the console into the gateway's application."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from horarium.gateway.auth import is_page
from horarium.gateway.console import (
    agents,
    assets,
    audit,
    calendar,
    inbox,
    keys,
    link_page,
    memory,
    questions,
    routine_orders,
    routine_page,
    routine_plans,
    routines,
    run_page,
    runs,
    sign_in,
    start,
    system,
    threads,
    ticks,
    toolboxes,
)
from horarium.gateway.console.page import loopback_hosts
from horarium.gateway.console.routing import error_page, pages
from horarium.gateway.sessions import Sessions

router = pages()


@router.get("/")
async def root(_request: Request) -> Response:
    """What waits for people comes first."""
    return RedirectResponse("/inbox", 303)


def install(app: FastAPI, sessions: Sessions, *, port: int) -> None:
    """Serve the pages."""
    app.state.sessions = sessions
    app.state.loopback_hosts = loopback_hosts(port)
    for noun in (
        assets,
        sign_in,
        inbox,
        questions,
        link_page,
        runs,
        run_page,
        start,
        threads,
        calendar,
        routines,
        routine_page,
        routine_plans,
        routine_orders,
        ticks,
        toolboxes,  # before the agents, below whose address they are
        agents,
        memory,
        system,
        audit,
        keys,
    ):
        app.include_router(noun.router)
    app.include_router(router)
    _lost(app)


def _lost(app: FastAPI) -> None:
    """Who looks for a page that there is not gets a page."""
    otherwise = app.exception_handlers[HTTPException]

    @app.exception_handler(HTTPException)
    async def lost(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404 and is_page(request.scope, request.headers):
            return error_page(request, 404, f"There is no page {request.url.path}.", None)
        answer: Response = await otherwise(request, error)  # type: ignore[misc]
        return answer
