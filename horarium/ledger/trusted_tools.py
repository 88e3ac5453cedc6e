"""What MCP servers say of their tools, and what of it somebody trusts.

A tool's description is read by the model, so whoever can change it can tell the model what to do. What was trusted is
kept whole; what a server says otherwise is kept beside it, and no run begins with it until somebody has looked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite

from horarium.content import clean_json, shorten
from horarium.errors import ToolUnavailable
from horarium.ledger.audit import AuditEntry, append
from horarium.ledger.database import Ledger
from horarium.ledger.schema import trusted_tools
from horarium.mcpservers import McpServer

FIRST_USE = "first_use"
SEEN_AGAIN = timedelta(hours=1)  # how old "seen at" may get, so that most runs begin without a write
TENANT = "default"  # in the audit trail: servers are the project's, not a tenant's

State = Literal["trusted", "changed", "new"]


@dataclass(frozen=True, slots=True)
class Said:
    """What a server says of one of its tools, and the digest of that."""

    tool: str
    digest: str
    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class KnownTool:
    """A tool as it was trusted, and as it was seen last."""

    server: str
    tool: str
    label: str
    address: str
    trusted_digest: str | None
    trusted: dict[str, Any] | None
    trusted_at: datetime | None
    trusted_by: str | None
    seen_digest: str
    seen: dict[str, Any]
    seen_at: datetime

    @property
    def state(self) -> State:
        """Whether runs begin with what the server says now."""
        if self.trusted_digest is None:
            return "new"
        return "trusted" if self.trusted_digest == self.seen_digest else "changed"


class TrustedTools:
    """The tools of a ledger's MCP servers."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert

    async def meet(self, label: str, server: McpServer, said: Sequence[Said]) -> list[KnownTool]:
        """Note what a server says of these tools; what was never seen is trusted where the definition says so.

        Returns:
            Each of them, as it is trusted and as it was just said.
        """
        now = datetime.now(UTC)
        known = {tool.tool: tool for tool in await self.list(server.key)}
        news = [item for item in said if item.tool not in known]
        others = [item for item in said if item.tool in known and _is_news(known[item.tool], item, now)]
        if news or others:
            async with self._ledger.write() as connection:
                for item in news:
                    values = _row(item, now)
                    trust = _trust(item.digest, values["seen"], now, FIRST_USE) if server.trust == FIRST_USE else {}
                    await connection.execute(
                        self._insert(trusted_tools)
                        .values(
                            server=server.key, tool=item.tool, label=label, address=server.address, **values, **trust
                        )
                        # Somebody met it a moment ago, and maybe heard other words: what is trusted is theirs.
                        .on_conflict_do_update(index_elements=["server", "tool"], set_=values)
                    )
                for item in others:
                    await connection.execute(
                        update(trusted_tools)
                        .where(trusted_tools.c.server == server.key, trusted_tools.c.tool == item.tool)
                        .values(**_row(item, now))
                    )
            known = {tool.tool: tool for tool in await self.list(server.key)}
        return [replace(known[item.tool], seen_digest=item.digest, seen=item.content) for item in said]

    async def list(self, server: str | None = None) -> list[KnownTool]:
        """All tools that were ever seen, or those of one server, by address and name."""
        query = select(trusted_tools).order_by(trusted_tools.c.address, trusted_tools.c.tool)
        if server is not None:
            query = query.where(trusted_tools.c.server == server)
        async with self._ledger.read() as connection:
            return [KnownTool(**row._mapping) for row in await connection.execute(query)]

    async def trust(self, server: str, tool: str, seen_digest: str, by: str) -> KnownTool:
        """Trust what the server says of a tool, as somebody has looked at it: `seen_digest` is what they saw.

        Raises:
            ToolUnavailable: No such tool was ever seen there, or it says something else by now.
        """
        now = datetime.now(UTC)
        async with self._ledger.write() as connection:
            done = await connection.execute(
                update(trusted_tools)
                .where(
                    trusted_tools.c.server == server,
                    trusted_tools.c.tool == tool,
                    trusted_tools.c.seen_digest == seen_digest,
                )
                .values(
                    trusted_digest=trusted_tools.c.seen_digest,
                    trusted=trusted_tools.c.seen,
                    trusted_at=now,
                    trusted_by=shorten(by, 200),
                )
            )
            if done.rowcount == 0:
                raise ToolUnavailable(
                    f"The server says something else of {tool!r} by now, or no such tool was ever seen there.",
                    hint="Look again: horarium tools changes",
                )
            await append(
                connection,
                AuditEntry(
                    kind="tool.trusted",
                    at=now,
                    tenant=TENANT,
                    subject=tool,
                    data={"by": by, "server": server, "digest": seen_digest},
                ),
            )
        return next(known for known in await self.list(server) if known.tool == tool)


def _is_news(known: KnownTool, said: Said, now: datetime) -> bool:
    return known.seen_digest != said.digest or now - known.seen_at > SEEN_AGAIN


def _row(said: Said, now: datetime) -> dict[str, Any]:
    return {"seen_digest": said.digest, "seen": clean_json(said.content), "seen_at": now}


def _trust(digest: str, content: dict[str, Any], now: datetime, by: str) -> dict[str, Any]:
    return {"trusted_digest": digest, "trusted": content, "trusted_at": now, "trusted_by": by}
