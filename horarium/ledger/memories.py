"""Memories: short notes that outlive a thread, each with the run it came from."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from horarium.ledger.database import Ledger
from horarium.ledger.schema import memories


class Memories:
    """The memories of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert

    async def write(self, tenant: str, scope: str, run_id: str, text: str) -> None:
        """Keep a note; a run leaves one, however often it says so."""
        async with self._ledger.write() as connection:
            await connection.execute(
                self._insert(memories)
                .values(tenant=tenant, scope=scope, run_id=run_id, text=text, created_at=datetime.now(UTC))
                .on_conflict_do_nothing()
            )

    async def latest(self, tenant: str, scope: str, limit: int) -> list[str]:
        """The latest notes of a scope, oldest first."""
        query = (
            select(memories.c.text)
            .where(memories.c.tenant == tenant, memories.c.scope == scope)
            .order_by(memories.c.id.desc())
            .limit(limit)
        )
        async with self._ledger.read() as connection:
            return list(reversed(list(await connection.scalars(query))))
