"""Every answer that says no, in the shape that whoever asked at this address can read.

OpenAI's clients want `{"error": …}` and make their own exceptions of it; everything else is problem+json. Chosen by
the path alone, so that what is refused before a route is reached, or has none, is answered the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from horarium.errors import HorariumError
from horarium.gateway.problems import problem, status_of
from horarium.gateway.responses.errors import answer, told, wrong

log = structlog.get_logger()

# At the root is a hosted agent.
_OPENAI = re.compile(r"^(?:/v1(?:/agents/[^/]+)?/(?:responses|conversations|models)|/responses)(?:/|$)")


def speaks_openai(path: str) -> bool:
    """Whether OpenAI's clients ask here."""
    return _OPENAI.match(path) is not None


def refusal(
    path: str,
    status: int,
    code: str,
    message: str,
    *,
    hint: str | None = None,
    errors: list[dict[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A refusal of what was asked at `path`."""
    if speaks_openai(path):
        made = answer(status, f"{message} {hint}" if hint else message, code)
    else:
        made = problem(status, code, message, hint=hint, errors=errors)
    made.headers.update(headers or {})
    return made


def install(app: FastAPI) -> None:
    """Answer every error of the application so."""

    @app.exception_handler(HorariumError)
    async def ours(request: Request, error: HorariumError) -> JSONResponse:
        if speaks_openai(request.url.path):
            return told(error)
        message = str(error.args[0]) if error.args else str(error)
        return problem(status_of(error), error.code, message, hint=getattr(error, "hint", None))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        if speaks_openai(request.url.path):
            return wrong(error)
        found = [{"where": ".".join(str(part) for part in item["loc"]), "why": item["msg"]} for item in error.errors()]
        return problem(422, "bad_request", "The request is not as it should be.", errors=jsonable_encoder(found))

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> JSONResponse:
        codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
        code = codes.get(error.status_code, "http_error")
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_allowed(request))
        return refusal(request.url.path, error.status_code, code, _in_words(request, error), headers=headers)

    @app.exception_handler(DBAPIError)
    @app.exception_handler(OSError)
    async def away(request: Request, error: Exception) -> JSONResponse:
        log.warning("gateway.ledger_away", error=type(error).__name__)
        return refusal(request.url.path, 503, "unreachable", "The ledger does not answer. Try again.")


def _in_words(request: Request, error: HTTPException) -> str:
    """Starlette's own are two words and no help."""
    where = f"{request.method} {request.url.path}"
    if error.status_code == 404 and error.detail == "Not Found":
        return f"There is nothing at {where}."
    return f"{where} is not something that can be done." if error.status_code == 405 else str(error.detail)


def _allowed(request: Request) -> list[str]:
    """The methods that this address has in any route; Starlette names those of the first."""
    routes = request.app.routes
    itself = [route for route in iter_route_contexts(routes) if route.path == request.url.path]
    if itself:  # what stands in the place of an id is none
        return sorted({method for route in itself for method in route.methods or ()})
    return [
        method
        for method in ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
