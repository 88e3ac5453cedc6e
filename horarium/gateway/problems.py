"""Errors over HTTP, in one place: every error of ours has a status, and a problem (RFC 9457) that says what it is."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from horarium import errors
from horarium.errors import HorariumError
from horarium.gateway.refusals import BadDelivery, BadSignature
from horarium.gateway.roles import NotAllowed
from horarium.gateway.watching import TooManyWatchers

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
