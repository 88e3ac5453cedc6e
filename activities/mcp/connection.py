"""One open connection to an MCP server, and what can be asked over it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from importlib.metadata import version
from typing import Any

import mcp_types as types
import structlog
from mcp import Client
from mcp.client.session import IncomingMessage
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError
from pydantic import TypeAdapter, ValidationError

from activities.mcp.endpoint import Endpoint
from activities.mcp.faults import AnswerLost, SessionGone, kind_of, meaning
from activities.mcp.http import http_client, http_transport
from activities.mcp.process import process_transport
from horarium.errors import ConfigError, ToolError, ToolNotReached
from horarium.secrets import redact

log = structlog.get_logger()

OPEN_SECONDS = 30.0  # some are fetched by npx or uvx before they start
LIST_SECONDS = 30.0
LISTED = 60.0  # seconds; of the newest protocol a connection does not notice when its server is another one by now
IDLE = timedelta(minutes=5)
MOST_PAGES = 100
MOST_TOOLS = 1_000
MOST_LISTED = 16 * 1024 * 1024  # characters of all pages
KEY = "horarium/idempotency-key"

_ME = types.Implementation(name="horarium", version=version("horarium"))
# Asked for as it is: the SDK would raise when an answer misses the output schema, after the tool has acted.
_RESULT: TypeAdapter[types.CallToolResult | types.InputRequiredResult] = TypeAdapter(
    types.CallToolResult | types.InputRequiredResult
)


class Connection:
    """A session with a server, in a task of its own; closed when it is not used for some minutes."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.label = endpoint.label
        self._endpoint = endpoint
        self._users = 0
        self._retired = False
        self._used_at = time.monotonic()
        self._stop = asyncio.Event()
        self._said: deque[str] = deque(maxlen=5)
        self._tools: dict[str, types.Tool] | None = None
        self._listed_at = 0.0
        self._listing = asyncio.Lock()
        self._ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        # Of the activity that happens to open it, nothing may stay.
        self._task = asyncio.create_task(self._serve(), context=contextvars.Context())

    @property
    def usable(self) -> bool:
        """Whether something may be begun over it; also while it is still being opened."""
        return self.open and not self._retired and not self._stop.is_set()

    @property
    def open(self) -> bool:
        """Whether there is still something to close."""
        return not self._task.done()

    async def opened(self) -> None:
        """Wait until it is open.

        Raises:
            ToolNotReached: The server does not answer.
            ToolError: It refuses us.
            ConfigError: It cannot be started.
        """
        await asyncio.shield(self._ready)

    def retire(self) -> None:
        """Nobody begins anything over it any more; it is closed when the last call over it has ended."""
        self._retired = True
        if self._users == 0:
            self._stop.set()

    async def close(self) -> None:
        """End the session; a program of this machine is ended with it."""
        self._stop.set()
        if not self._ready.done():
            self._task.cancel()
        await asyncio.wait({self._task})

    async def tools(self, *, fresh: bool = False) -> dict[str, types.Tool]:
        """What the server offers, by name; asked again after a minute, and when it says that this has changed.

        Raises:
            ToolNotReached: It does not answer.
            ToolError: It refuses us, or offers more than anybody could use.
        """
        known = self._tools
        async with self._using() as client, self._listing:
            old = time.monotonic() - self._listed_at > LISTED
            # Somebody else may have asked while we waited.
            if self._tools is None or old or (fresh and self._tools is known):
                self._tools = await self._list(client)
                self._listed_at = time.monotonic()
            return self._tools

    async def call(
        self, tool: str, arguments: Mapping[str, Any], *, key: str, timeout: timedelta, on_progress: ProgressFnT
    ) -> types.CallToolResult:
        """Call a tool, once. Cancelling tells the server.

        Raises:
            ToolError, ToolNotReached, SessionGone: It was not done.
            TimeoutError, AnswerTooLarge, AnswerLost: It may have been done, or was.
        """
        async with self._using() as client:
            params = types.CallToolRequestParams(name=tool, arguments=dict(arguments), _meta={KEY: key})
            try:
                result = await client.session.send_request(
                    types.CallToolRequest(params=params),
                    _RESULT,
                    request_read_timeout_seconds=timeout.total_seconds(),
                    progress_callback=on_progress,
                )
            except MCPError as error:
                if error.code == types.HEADER_MISMATCH:
                    self._tools = None
                raise meaning(error, tool) from error
            except ValidationError as error:
                raise AnswerLost(f"The server's answer cannot be read: {_first(error)}") from error
        if isinstance(result, types.InputRequiredResult):
            raise ToolError(f"{tool!r} wants to ask somebody something first, which is not supported here.")
        return result

    async def _list(self, client: Client) -> dict[str, types.Tool]:
        found: dict[str, types.Tool] = {}
        cursor: str | None = None
        size = 0
        try:
            async with asyncio.timeout(LIST_SECONDS):
                for _ in range(MOST_PAGES):
                    params = types.PaginatedRequestParams(cursor=cursor) if cursor is not None else None
                    page = await client.session.list_tools(params=params)
                    for tool in page.tools:
                        if tool.name in found:
                            raise ToolError(f"The server {self.label!r} has two tools {tool.name!r}.")
                        found[tool.name] = tool
                    cursor = page.next_cursor
                    size += len(page.model_dump_json())
                    if size > MOST_LISTED:
                        raise ToolError(f"The server {self.label!r} says more of its tools than anybody could read.")
                    if len(found) > MOST_TOOLS:
                        raise ToolError(f"The server {self.label!r} has more than {MOST_TOOLS:,} tools.")
                    if not cursor:
                        return found
        except MCPError as error:
            raise self._not_listed(error) from error
        except ValidationError as error:
            raise ToolError(f"The list of tools of {self.label!r} cannot be read: {_first(error)}") from error
        except TimeoutError:
            raise ToolNotReached(f"{self.label!r} did not list its tools within {LIST_SECONDS:g} s.") from None
        raise ToolError(f"The list of tools of {self.label!r} does not end.")

    def _not_listed(self, error: MCPError) -> Exception:
        meant = meaning(error, "tools/list")
        # A list is only looked at, so whatever went wrong, nothing was done.
        return (
            meant if isinstance(meant, ToolError | SessionGone) else ToolNotReached(f"{self.label!r}: {error.message}")
        )

    @asynccontextmanager
    async def _using(self) -> AsyncIterator[Client]:
        self._users += 1
        try:
            client = await asyncio.shield(self._ready)
            if self._stop.is_set() or not self.open:
                raise SessionGone(f"The connection to {self.label!r} was closed.")
            yield client
        finally:
            self._users -= 1
            self._used_at = time.monotonic()
            if self._retired and self._users == 0:
                self._stop.set()

    # ---- the task

    async def _serve(self) -> None:
        try:
            async with self._transport() as transport:
                client = Client(
                    transport,
                    cache=None,
                    client_info=_ME,
                    message_handler=self._heard,
                    read_timeout_seconds=OPEN_SECONDS,
                )
                async with asyncio.timeout(OPEN_SECONDS):
                    await client.__aenter__()
                try:
                    self._ready.set_result(client)
                    log.info("mcp.connected", server=self.label, protocol=client.protocol_version)
                    await self._until_idle()
                finally:
                    self._stop.set()
                    await client.__aexit__(None, None, None)
        except Exception as error:
            if self._ready.done():
                log.warning("mcp.connection_broke", server=self.label, error=redact(_words(error)))
            else:
                self._ready.set_exception(self._not_opened(_innermost(error)))
                self._ready.exception()  # whoever opened it may have been cancelled meanwhile
        finally:
            if not self._ready.done():
                self._ready.set_exception(ToolNotReached(f"The connection to {self.label!r} was closed."))
                self._ready.exception()
            self._stop.set()

    @asynccontextmanager
    async def _transport(self) -> AsyncIterator[AbstractAsyncContextManager[Any]]:
        endpoint = self._endpoint
        if endpoint.url is None:
            yield self._process()
            return
        async with http_client(endpoint.url, endpoint.values, private_network=endpoint.private_network) as client:
            yield http_transport(endpoint.url, client)

    def _process(self) -> AbstractAsyncContextManager[Any]:
        endpoint = self._endpoint
        return process_transport(
            endpoint.command,
            label=endpoint.label,
            environment=endpoint.values,
            directory=endpoint.directory,
            said=self._said,
            is_open=self._ready.done,
            on_end=self._stop.set,
        )

    async def _until_idle(self) -> None:
        while not self._stop.is_set():
            rest = IDLE.total_seconds() - (time.monotonic() - self._used_at)
            if rest <= 0 and self._users == 0:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), max(rest, 1.0))

    async def _heard(self, message: IncomingMessage) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._tools = None

    def _not_opened(self, error: BaseException) -> Exception:
        said = f" It said: {self._said[-1]}" if self._said else ""
        if isinstance(error, ConfigError):
            return error
        if isinstance(error, MCPError) and kind_of(error) == "refused":
            return ToolError(f"{self.label!r}: {error.message}")
        if isinstance(error, TimeoutError):
            return ToolNotReached(f"{self.label!r} did not begin to speak within {OPEN_SECONDS:g} s.{said}")
        return ToolNotReached(f"{self.label!r} cannot be spoken to: {_words(error)}{said}")


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _words(error: BaseException) -> str:
    error = _innermost(error)
    return str(error) or type(error).__name__
