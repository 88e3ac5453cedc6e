"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from horarium.errors import AgentNotFound, HorariumError
from horarium.gateway.problems import status_of

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str = Field(description="A sentence for a person, with what to do.")
    type: str = Field(description="`invalid_request_error`, `permission_error` or `server_error`.")
    param: str | None = Field(default=None, description="The parameter that it is about.")
    code: str | None = Field(default=None, description="Stable; branch on this.")


class ErrorAnswer(BaseModel):
    """An error in OpenAI's shape."""

    error: ErrorBody


class BadParameter(HorariumError):
    """A parameter of the request that cannot be honoured."""

    code = "invalid_value"

    def __init__(self, param: str, message: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.error_code = code


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for its `responses=`."""
    words = {
        400: "The request is not as it should be; `param` says where.",
        401: "An API key is needed, or the one given does not count.",
        403: "The caller's role is too small, or somebody else has to decide.",
        404: "It is not there, or it is another tenant's.",
        409: "It contradicts what already stands.",
        413: "The body is larger than it may be.",
        421: "The Host header is none of the gateway's names.",
        429: "There are as many of it at once as there may be. Try again later.",
        503: "A server that it needs does not answer. Safe to try again.",
    }
    always = (400, 401, 403, 421, 429, 503)
    return {s: {"model": ErrorAnswer, "description": words[s]} for s in sorted({*always, *statuses})}


def answer(status: int, message: str, code: str | None = None, param: str | None = None) -> JSONResponse:
    """The answer. A request that is wrong in itself is a 400 in this protocol; 422 stands for nothing in it."""
    status = 400 if status == 422 else status
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    body = ErrorAnswer(error=ErrorBody(message=message, type=kind, param=param, code=code))
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse(body.model_dump(), status, headers=headers)


def told(error: HorariumError) -> JSONResponse:
    """An error of ours."""
    if isinstance(error, BadParameter):
        return answer(400, str(error), error.error_code, error.param)
    if isinstance(error, AgentNotFound):
        return answer(404, str(error), "model_not_found", "model")
    return answer(status_of(error), str(error), error.code)


def wrong(error: RequestValidationError) -> JSONResponse:
    """What is wrong with a request, by the first thing that is."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
    if first["type"] == "extra_forbidden":
        return answer(400, f"Unknown parameter: '{where}'.", "unknown_parameter", where)
    if first["type"] == "missing":
        return answer(400, f"Missing required parameter: '{where}'.", "missing_required_parameter", where)
    if first["type"] == "json_invalid":
        return answer(400, "The body is no JSON.", "invalid_json")
    return answer(400, f"Invalid value of '{where}': {first['msg']}.", "invalid_value", where or None)
