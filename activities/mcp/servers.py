"""MCP servers, spoken to: what they offer when a run begins, and calling it."""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from typing import Any

import mcp_types as types
import structlog
from mcp.shared.dispatcher import ProgressFnT
from temporalio import activity

from activities.mcp.connection import Connection
from activities.mcp.connections import Connections
from activities.mcp.faults import MOST_BYTES, AnswerTooLarge
from activities.mcp.listing import pinned, said_of, said_of_all
from activities.mcp.results import value_of
from horarium.errors import ConfigError, ToolChanged, ToolError, ToolNotReached, ToolUnavailable
from horarium.ledger.database import Ledger
from horarium.ledger.trusted_tools import KnownTool, TrustedTools
from horarium.mcpservers import McpServer
from horarium.performing import Performer
from horarium.settings import Settings
from horarium.tools import NotPerformed, Performed, ToolContext, ToolSpec
from horarium.toolsets import McpSource, PinnedTool

log = structlog.get_logger()

TOO_LARGE = (
    f"[The tool has done what it was asked to. Its answer has more than {MOST_BYTES // 2**20} MB, so it was not read. "
    "If the tool can answer with less, ask for less next time; do not repeat the call for its effect.]"
)


class Servers:
    """The MCP servers of this process's runs; one object for each process."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._trusted = TrustedTools(ledger)
        self._connections = Connections(settings.root)

    async def of_server(self, label: str, server: McpServer) -> list[PinnedTool]:
        """What a server offers, as somebody trusts it.

        Raises:
            ToolUnavailable: It does not answer; worth another attempt.
            ToolChanged: It says other things of a tool than somebody trusted, or has one that nobody has looked at.
            ConfigError: It refuses us, cannot be started, or what it says cannot be used.
        """
        try:
            tools = await self._connections.ask(label, server, lambda connection: connection.tools(fresh=True))
        except ToolNotReached as error:
            raise ToolUnavailable(f"The MCP server {label!r} does not answer: {error}") from error
        except ToolError as error:
            raise ConfigError(f"The MCP server {label!r} cannot be used: {error}") from error
        said = said_of_all(label, [tool for tool in tools.values() if server.offers(tool.name)])
        found = [pinned(label, server, item) for item in said]
        known = await self._trusted.meet(label, server, said)
        untrusted = [tool for tool in known if tool.state != "trusted"]
        if untrusted:
            raise _changed(untrusted)
        return found

    def performer(self, pinned: PinnedTool, source: McpSource) -> Performer:
        """What calls one of its tools."""
        return McpPerformer(self._connections, pinned, source)

    async def close(self) -> None:
        """Close every connection."""
        await self._connections.close()


class McpPerformer:
    """One tool of a server, as a run has it pinned."""

    def __init__(self, connections: Connections, pinned: PinnedTool, source: McpSource) -> None:
        self._connections = connections
        self._pinned = pinned
        self._source = source

    @property
    def spec(self) -> ToolSpec:
        """As it was when the run began."""
        return self._pinned.spec

    async def perform(self, arguments: Mapping[str, Any], context: ToolContext) -> Any:
        """Call it, once; a second time only where the server has said that it did nothing."""
        source, progressed = self._source, _heartbeat(self.spec.name)

        async def question(connection: Connection) -> types.CallToolResult:
            await self._says_the_same(connection)
            return await connection.call(
                source.tool,
                arguments,
                key=context.idempotency_key,
                timeout=self.spec.timeout,
                on_progress=progressed,
            )

        try:
            return value_of(await self._connections.ask(source.label, source.server, question))
        except ConfigError as error:
            raise ToolError(str(error)) from error
        except AnswerTooLarge as error:
            log.warning("mcp.answer_too_large", tool=self.spec.name, error=str(error))
            return TOO_LARGE

    async def verify(self, arguments: Mapping[str, Any], context: ToolContext) -> Performed | NotPerformed | None:
        """The protocol has no question for this."""
        return None

    async def _says_the_same(self, connection: Connection) -> None:
        """Look whether the tool is still what the run began with.

        Raises:
            ToolError: It is not; the call is not made.
        """
        tool = (await connection.tools()).get(self._source.tool)
        if tool is None:
            raise ToolError(f"The server no longer has the tool {self._source.tool!r}. Go on without it.")
        if said_of(tool).digest != self._pinned.said_digest:
            log.warning("mcp.tool_changed", server=self._source.label, tool=self._source.tool)
            raise ToolError(
                f"The server says something else of {self._source.tool!r} than when this run began, so it was not "
                "called. Do not call it again in this run; go on without it, or say that somebody has to look at it."
            )


def _heartbeat(tool: str) -> ProgressFnT:
    """Progress is told as it comes to Temporal, where people see it; numbers only, words are content."""
    here = contextvars.copy_context()

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        log.debug("mcp.progress", tool=tool, progress=progress, total=total)
        if here.run(activity.in_activity):
            here.run(activity.heartbeat, {"progress": progress, "total": total})

    return progressed


def _changed(tools: list[KnownTool]) -> ToolChanged:
    names = ", ".join(repr(tool.tool) for tool in tools[:5]) + (f" and {len(tools) - 5} more" * (len(tools) > 5))
    label, only = tools[0].label, tools[0].tool if len(tools) == 1 else "TOOL"
    what = (
        f"Nobody has looked yet at what {label!r} says of {names}"
        if all(tool.state == "new" for tool in tools)
        else f"The server {label!r} says something else of {names} than what was trusted"
    )
    return ToolChanged(
        f"{what}.",
        hint=f"Compare it: horarium tools changes. Then trust it: horarium tools trust {label} {only} --by NAME",
    )
