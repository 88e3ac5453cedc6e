"""Errors over HTTP, in one place: every error of ours has a status, and its answer is problem+json (RFC 9457)."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from horarium import errors
from horarium.errors import HorariumError
from horarium.gateway.refusals import BadDelivery, BadSignature
from horarium.gateway.roles import NotAllowed
from horarium.gateway.watching import TooManyWatchers

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"

# The first that fits holds, so what is special comes before what is general.
STATUSES: tuple[tuple[type[HorariumError], int], ...] = (
    (BadSignature, 401),
    (BadDelivery, 422),
    (NotAllowed, 403),
    (TooManyWatchers, 429),
    (errors.NotAnApprover, 403),
    (errors.ApprovalExpired, 410),
    (errors.ApprovalWithdrawn, 410),
    (errors.LinkExpired, 410),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.Unreachable, 503),
    (errors.ModelUnavailable, 503),
    (errors.ConfigError, 422),
    (errors.ArgumentsRejected, 422),
    (errors.WorkspaceError, 422),
    (errors.StepBlocked, 409),
    (HorariumError, 400),
)


class Problem(BaseModel):
    """What a caller is told when something was not done."""

    type: str = Field(description="`https://horarium.invalid/problems/<code>`: a name, not a page.")
    title: str
    status: int
    code: str = Field(description="Stable; branch on this.")
    detail: str = Field(description="A sentence for a person.")
    hint: str | None = Field(default=None, description="What to do next.")
    errors: list[dict[str, Any]] | None = Field(default=None, description="Of a request that is wrong: where, and why.")


def status_of(error: HorariumError) -> int:
    """The HTTP status of an error of ours."""
    return next(status for kind, status in STATUSES if isinstance(error, kind))


def problem(
    status: int, code: str, detail: str, *, hint: str | None = None, errors: list[dict[str, Any]] | None = None
) -> JSONResponse:
    """The answer."""
    body = Problem(
        type=f"https://horarium.invalid/problems/{code}",
        title=code.replace("_", " ").capitalize(),
        status=status,
        code=code,
        detail=detail,
        hint=hint,
        errors=errors,
    )
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse(body.model_dump(exclude_none=True), status, media_type=MEDIA_TYPE, headers=headers)


def as_problem(error: HorariumError) -> Problem:
    """One of our errors, where it is a part of an answer."""
    message = str(error.args[0]) if error.args else str(error)
    return Problem(
        type=f"https://horarium.invalid/problems/{error.code}",
        title=error.code.replace("_", " ").capitalize(),
        status=status_of(error),
        code=error.code,
        detail=message,
        hint=error.hint,
    )


def install(app: FastAPI) -> None:
    """Answer every error of the application so."""

    @app.exception_handler(HorariumError)
    async def ours(_request: Request, error: HorariumError) -> JSONResponse:
        message = str(error.args[0]) if error.args else str(error)
        return problem(status_of(error), error.code, message, hint=getattr(error, "hint", None))

    @app.exception_handler(RequestValidationError)
    async def wrong(_request: Request, error: RequestValidationError) -> JSONResponse:
        found = [{"where": ".".join(str(part) for part in item["loc"]), "why": item["msg"]} for item in error.errors()]
        return problem(422, "bad_request", "The request is not as it should be.", errors=jsonable_encoder(found))

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> JSONResponse:
        codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
        answer = problem(error.status_code, codes.get(error.status_code, "http_error"), str(error.detail))
        answer.headers.update(error.headers or {})
        if error.status_code == 405:
            answer.headers["Allow"] = ", ".join(_allowed(request))
        return answer

    @app.exception_handler(DBAPIError)
    @app.exception_handler(OSError)
    async def away(_request: Request, error: Exception) -> JSONResponse:
        log.warning("gateway.ledger_away", error=type(error).__name__)
        return problem(503, "unreachable", "The ledger does not answer. Try again.")


def _allowed(request: Request) -> list[str]:
    """The methods that this address has in any route; Starlette names those of the first."""
    routes = request.app.routes
    return [
        method
        for method in ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
