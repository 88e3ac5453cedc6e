"""Which one-use links were used: signing alone does not stop a second use.

A use is reserved before its decision is sent and settled after it was accepted, so that a person whose decision got
lost on the way can send the same one again, and nobody can send another.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite

from horarium.ledger.approvals import approval_row, note
from horarium.ledger.database import Ledger
from horarium.ledger.schema import links


@dataclass(frozen=True, slots=True)
class LinkUse:
    """What a link was used for. Not settled: the decision may not have arrived."""

    jti: str
    approval_id: str
    used_by: str
    used_at: datetime
    verdict: str
    settled_at: datetime | None


class LinkUses:
    """The used links of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert

    async def get(self, jti: str) -> LinkUse | None:
        """What a link was used for; None: it is unused."""
        async with self._ledger.read() as connection:
            row = (await connection.execute(select(links).where(links.c.jti == jti))).first()
        return None if row is None else LinkUse(*row)

    async def reserve(self, use: LinkUse) -> LinkUse:
        """Use a link, unless it is used: what stands then is the first use, and is returned."""
        async with self._ledger.write(durable=True) as connection:
            values = {name: getattr(use, name) for name in LinkUse.__slots__}
            await connection.execute(self._insert(links).values(**values).on_conflict_do_nothing())
            row = (await connection.execute(select(links).where(links.c.jti == use.jti))).one()
        return LinkUse(*row)

    async def settle(self, jti: str, at: datetime) -> None:
        """Note that the decision was accepted: the link is spent. Safe to repeat."""
        async with self._ledger.write() as connection:
            done = await connection.execute(
                update(links).where(links.c.jti == jti, links.c.settled_at.is_(None)).values(settled_at=at)
            )
            if done.rowcount == 0:
                return
            use = LinkUse(*(await connection.execute(select(links).where(links.c.jti == jti))).one())
            row = await approval_row(connection, use.approval_id)
            if row is not None:
                data = {"by": use.used_by, "verdict": use.verdict, "link": jti}
                await note(connection, "link.used", row, at, data, once=f":{jti}")
