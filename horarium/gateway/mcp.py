"""Toolboxes as MCP endpoints, over streamable HTTP.

`/toolboxes/NAME/mcp` is the default version as it is when a session first asks, `/toolboxes/NAME/versions/N/mcp`
always that one. One server answers for all: which toolbox is meant, and who asks, is in each request.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import mcp_types as types
import structlog
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from sqlalchemy.exc import DBAPIError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from horarium.client import Client
from horarium.errors import HorariumError, ToolboxNotFound
from horarium.gateway import results
from horarium.gateway.auth import ANYBODY, CALLER, Caller
from horarium.gateway.calling import Calls
from horarium.gateway.listing import Endpoint, Listings, as_mcp
from horarium.ledger.toolworkers import own_version
from horarium.settings import GatewaySettings

log = structlog.get_logger()

MOST_KEY_CHARS = 200
INSTRUCTIONS = (
    "Calls may wait for a person's approval. One that takes too long is answered with the way to get its result later; "
    f'give each call a key of your own as "{results.KEY}" in `_meta`, and a call that is repeated is done once.'
)
Context = ServerRequestContext[Any, Any]


class Endpoints:
    """The MCP server of a ledger's toolboxes."""

    def __init__(self, client: Client, settings: GatewaySettings, served: Collection[str] | None) -> None:
        """`served`: names of the toolboxes; None: all that there are."""
        self.calls = Calls(client, settings)
        self._listings = Listings(client, settings.start_patience)
        self._served = served
        self._pins: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._most_pins = settings.max_sessions * 4
        self.server: Server[Any] = Server(
            "horarium",
            version=own_version(),
            instructions=INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
        )

    async def is_there(self, toolbox: str, version: int | None) -> bool:
        """Whether a toolbox, and this version of it, is served here."""
        if self._served is not None and toolbox not in self._served:
            return False
        try:
            counts = await self._listings.default_version(toolbox)
            await self._listings.endpoint(toolbox, counts if version is None else version)
        except ToolboxNotFound:
            return False
        return True

    async def _list_tools(
        self, context: Context, _params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        request, caller = _request(context)
        try:
            found = await self._listings.tools(await self._endpoint(request), caller.tenant)
        except (HorariumError, DBAPIError, OSError) as error:
            raise _told(error) from error
        return types.ListToolsResult(tools=[as_mcp(tool) for tool in found.values()])

    async def _call_tool(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        request, caller = _request(context)
        key = _key(context)

        async def tell(progress: float, message: str) -> None:
            """Nothing, to a client that wants no progress."""
            await context.session.report_progress(progress, message=message)

        try:
            endpoint = await self._endpoint(request)
            known = await self._listings.tools(endpoint, caller.tenant)
            if params.name not in known:
                raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
            return await self.calls.call(endpoint, params.name, params.arguments or {}, caller, key, tell)
        except HorariumError as error:
            return results.error(str(error))
        except (DBAPIError, OSError) as error:
            raise _told(error) from error

    async def _endpoint(self, request: Request) -> Endpoint:
        toolbox, version = request.path_params["name"], request.path_params.get("version")
        if version is None:
            version = await self._pinned(toolbox, request.headers.get("mcp-session-id"))
        return await self._listings.endpoint(toolbox, version)

    async def _pinned(self, toolbox: str, session: str | None) -> int:
        """A session goes on with the version that it met first, also when another one is promoted meanwhile."""
        if session is None:
            return await self._listings.default_version(toolbox)
        pin = (session, toolbox)
        if pin not in self._pins:
            self._pins[pin] = await self._listings.default_version(toolbox)
            while len(self._pins) > self._most_pins:
                self._pins.popitem(last=False)
        self._pins.move_to_end(pin)
        return self._pins[pin]


@dataclass(frozen=True, slots=True)
class McpEndpoints:
    """One MCP endpoint for each toolbox; `manager` has to run as long as the routes answer."""

    manager: StreamableHTTPSessionManager
    calls: Calls
    routes: list[BaseRoute]


def mcp_endpoints(client: Client, settings: GatewaySettings, served: Collection[str] | None) -> McpEndpoints:
    """`served`: names of the toolboxes; None: all that there are."""
    endpoints = Endpoints(client, settings, served)
    manager = StreamableHTTPSessionManager(
        endpoints.server, max_request_body_size=settings.max_body_bytes, max_sessions=settings.max_sessions
    )
    answer = _Answer(endpoints, manager)
    routes: list[BaseRoute] = [
        Route("/toolboxes/{name}/mcp", endpoint=answer),
        Route("/toolboxes/{name}/versions/{version:int}/mcp", endpoint=answer),
    ]
    return McpEndpoints(manager, endpoints.calls, routes)


class _Answer:
    """Hands a request for a toolbox that is there to the MCP sessions."""

    def __init__(self, endpoints: Endpoints, manager: StreamableHTTPSessionManager) -> None:
        self._endpoints = endpoints
        self._manager = manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path_params"]
        try:
            found = await self._endpoints.is_there(path["name"], path.get("version"))
        except (DBAPIError, OSError) as error:
            log.warning("gateway.ledger_away", error=type(error).__name__)
            await JSONResponse({"error": "The ledger does not answer. Try again."}, 503)(scope, receive, send)
            return
        if not found:
            await JSONResponse({"error": "There is no such toolbox here."}, 404)(scope, receive, send)
            return
        with contextlib.suppress(ClientDisconnect):
            await self._manager.handle_request(scope, receive, send)


def _request(context: Context) -> tuple[Request, Caller]:
    request = context.request
    if not isinstance(request, Request):
        raise MCPError(types.INTERNAL_ERROR, "The request did not come over HTTP.")
    return request, request.scope.get(CALLER, ANYBODY)


def _key(context: Context) -> str | None:
    key = (context.meta or {}).get(results.KEY)
    if key is None:
        return None
    if not isinstance(key, str) or not 0 < len(key) <= MOST_KEY_CHARS or not key.isprintable():
        raise MCPError(types.INVALID_PARAMS, f"{results.KEY} is a text of 1 to {MOST_KEY_CHARS} characters.")
    return key


def _told(error: Exception) -> MCPError:
    """What a client is told; what was unexpected stays in the log."""
    if isinstance(error, HorariumError):
        return MCPError(types.INTERNAL_ERROR, str(error))
    log.warning("gateway.broke", error=type(error).__name__)
    return MCPError(types.INTERNAL_ERROR, "The ledger does not answer. Try again.")
