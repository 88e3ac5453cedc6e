"""What is kept of servers' words, on each database."""

from __future__ import annotations

import asyncio
import uuid

from horarium.ledger.audit import AuditTrail
from horarium.ledger.database import Ledger
from horarium.ledger.trusted_tools import Said, TrustedTools
from horarium.mcpservers import McpServer


def _server(**more: str) -> McpServer:
    return McpServer(url=f"https://{uuid.uuid4().hex}.example.com/mcp", **more)


def _said(tool: str, words: str = "Close a ticket.") -> Said:
    return Said(
        tool, f"sha256:{words.encode('utf-8', 'surrogatepass').hex():0<64.64}", {"name": tool, "description": words}
    )


async def test_runs_that_begin_at_once_meet_a_server_together(ledger: Ledger) -> None:
    server, said = _server(), [_said(f"tool_{number}") for number in range(20)]

    met = await asyncio.gather(*(TrustedTools(ledger).meet("tickets", server, said) for _ in range(8)))

    assert all([tool.state for tool in known] == ["trusted"] * 20 for known in met)
    assert len(await TrustedTools(ledger).list(server.key)) == 20


async def test_two_that_meet_other_words_at_once_trust_the_first_alone(ledger: Ledger) -> None:
    server, tools = _server(), TrustedTools(ledger)

    met = await asyncio.gather(*(tools.meet("tickets", server, [_said("close", words)]) for words in ("one", "two")))

    assert sorted(known[0].state for known in met) in (["changed", "trusted"], ["changed", "changed"])


async def test_words_that_a_database_cannot_hold_are_met_all_the_same(ledger: Ledger) -> None:
    server, tools = _server(), TrustedTools(ledger)

    (known,) = await tools.meet("tickets", server, [_said("close", "a\x00b\ud800c")])

    assert known.state == "trusted"
    assert (await tools.list(server.key))[0].seen["description"] == "a\ufffdb\ufffdc"


async def test_the_same_tool_name_at_another_server_is_another_tool(ledger: Ledger) -> None:
    tools, one, other = TrustedTools(ledger), _server(), _server(trust="review")
    await tools.meet("tickets", one, [_said("close")])

    (known,) = await tools.meet("tickets", other, [_said("close")])

    assert known.state == "new"


async def test_a_decision_says_who_trusted_which_words(ledger: Ledger) -> None:
    tools, server = TrustedTools(ledger), _server(trust="review")
    (known,) = await tools.meet("tickets", server, [_said("close")])

    trusted = await tools.trust(known.server, "close", known.seen_digest, "ana")

    assert (trusted.state, trusted.trusted_by, trusted.trusted) == ("trusted", "ana", known.seen)
    entry = (await AuditTrail(ledger).entries(newest=True))[-1]
    assert entry.data == {"by": "ana", "server": server.key, "digest": known.seen_digest}
