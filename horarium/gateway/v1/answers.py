"""What a route may answer besides its result, as its `responses=`: each error is a problem (RFC 9457)."""

from __future__ import annotations

from typing import Any

from horarium.gateway.problems import MEDIA_TYPE

WORDS = {
    400: "The request makes no sense, such as a cursor of another list.",
    401: "An API key is needed, or the one given is wrong, expired or revoked.",
    403: "The caller's role is too small.",
    404: "It is not there, or it is another tenant's.",
    409: "It contradicts what already stands.",
    410: "It could be decided for a time that is over.",
    411: "A body is needed.",
    413: "The body is larger than it may be.",
    421: "The Host header is none of the gateway's names.",
    422: "The request is not as it should be; `errors` says where.",
    429: "There are as many of it at once as there may be. Try again later.",
    503: "A server that it needs does not answer. Safe to try again.",
}
_ALWAYS = (400, 401, 403, 421, 422, 503)
_PROBLEM = {"$ref": "#/components/schemas/Problem"}


def errors(*more: int) -> dict[int | str, dict[str, Any]]:
    """The errors that every route has, and these."""
    return {
        status: {"description": WORDS[status], "content": {MEDIA_TYPE: {"schema": _PROBLEM}}}
        for status in sorted({*_ALWAYS, *more})
    }
