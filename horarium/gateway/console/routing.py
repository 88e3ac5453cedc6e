"""Routes of the console: an error is a page, or, after an order, a word on top of the page it came from."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException

from horarium.errors import HorariumError, Unreachable
from horarium.gateway.console.forms import BadForm
from horarium.gateway.console.page import page, refused
from horarium.gateway.problems import status_of
from horarium.gateway.roles import NotAllowed

log = structlog.get_logger()


class PageRoute(APIRoute):
    """A route whose errors are for people."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with its errors caught."""
        handler = super().get_route_handler()

        async def caught(request: Request) -> Response:
            # PostgreSQL takes no such text, and would seem to be away.
            if "\x00" in request.scope["path"] or b"%00" in request.scope["query_string"]:
                return error_page(request, 422, "A name in the address has a character that no name has.", None)
            try:
                return await handler(request)
            except HorariumError as error:
                return _answer(request, error)
            except (DBAPIError, OSError) as error:
                log.warning("console.ledger_away", error=type(error).__name__)
                return _answer(request, Unreachable("The ledger does not answer.", hint="Load the page again."))
            except RequestValidationError as error:
                first = error.errors()[0]
                return error_page(request, 422, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}.", None)
            except HTTPException as error:
                return error_page(request, error.status_code, str(error.detail), None)

        return caught


def pages() -> APIRouter:
    """A router for pages: they are no part of the OpenAPI document."""
    return APIRouter(route_class=PageRoute, include_in_schema=False)


def _answer(request: Request, error: HorariumError) -> Response:
    if request.method == "POST" and not isinstance(error, NotAllowed | BadForm):
        return refused(request, error, back=_from(request))
    message = str(error.args[0]) if error.args else str(error)
    return error_page(request, status_of(error), message, error.hint)


def _from(request: Request) -> str:
    """The page of an order: without `Referer`, which ours do not send, the noun that the address begins with."""
    back = request.query_params.get("back")
    return back or "/" + urlsplit(str(request.url)).path.strip("/").partition("/")[0]


def error_page(request: Request, status: int, message: str, hint: str | None) -> Response:
    """An error, as a page."""
    return page(request, "error.html", status, title="Not done", message=message, hint=hint, status_code=status)
