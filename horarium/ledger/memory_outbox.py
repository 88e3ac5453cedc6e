"""The outbox: what a memory store elsewhere is to be told of a run, kept here first so that no outage loses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import insert, select, update

from horarium.ledger.database import Ledger, Statements
from horarium.ledger.schema import memory_outbox

DeliveryStatus = Literal["pending", "sent", "delivered", "failed", "candidate", "quarantined", "rejected", "withdrawn"]
HELD_BACK: tuple[DeliveryStatus, ...] = ("candidate", "quarantined")


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one run leaves for a store elsewhere. `update_id`: the store has taken it, and works on it."""

    run_id: str
    tenant: str
    store: str
    scope: str
    items: list[dict[str, Any]]
    status: DeliveryStatus
    update_id: str | None = None
    message: str | None = None
    created_at: datetime | None = None
    changed_at: datetime | None = None


class Outbox:
    """The deliveries of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def get(self, run: str) -> Delivery | None:
        """What a run left; None: nothing."""
        async with self._ledger.read() as connection:
            row = (await connection.execute(select(memory_outbox).where(memory_outbox.c.run_id == run))).first()
        return Delivery(*row) if row is not None else None

    async def list(
        self,
        *,
        tenant: str | None = None,
        status: Sequence[DeliveryStatus] = (),
        before: datetime | None = None,
        limit: int = 100,
    ) -> list[Delivery]:
        """Deliveries, the newest first; with `before`, those that are older."""
        query = select(memory_outbox).order_by(memory_outbox.c.created_at.desc()).limit(limit)
        if tenant is not None:
            query = query.where(memory_outbox.c.tenant == tenant)
        if status:
            query = query.where(memory_outbox.c.status.in_(status))
        if before is not None:
            query = query.where(memory_outbox.c.created_at < before)
        async with self._ledger.read() as connection:
            return [Delivery(*row) for row in await connection.execute(query)]

    async def sent(self, delivery: Delivery, update_id: str) -> Delivery:
        """The store has taken it: from now on it is asked how far it is, and not told again."""
        await self._set(delivery.run_id, status="sent", update_id=update_id, message=None)
        return replace(delivery, status="sent", update_id=update_id)

    async def again(self, delivery: Delivery, message: str) -> None:
        """The store no longer knows of it: it has to be told again."""
        await self._set(delivery.run_id, status="pending", update_id=None, message=message)

    async def waits(self, delivery: Delivery, message: str) -> None:
        """The store does not answer; say so to whoever looks."""
        await self._set(delivery.run_id, message=message)

    async def delivered(self, delivery: Delivery, message: str) -> None:
        """Done; what was said is not kept twice."""
        await self._set(delivery.run_id, status="delivered", items=[], message=message)

    async def failed(self, delivery: Delivery, message: str) -> None:
        """The store refused it, and will again."""
        await self._set(delivery.run_id, status="failed", message=message)

    async def _set(self, run: str, **values: Any) -> None:
        async with self._ledger.write() as connection:
            await connection.execute(
                update(memory_outbox)
                .where(memory_outbox.c.run_id == run, memory_outbox.c.status.in_(("pending", "sent")))
                .values(changed_at=datetime.now(UTC), **values)
            )


async def keep_delivery(connection: Statements, delivery: Delivery, now: datetime) -> str:
    """Within a transaction: put it in the outbox; its status."""
    await connection.execute(
        insert(memory_outbox).values(
            run_id=delivery.run_id,
            tenant=delivery.tenant,
            store=delivery.store,
            scope=delivery.scope,
            items=delivery.items,
            status=delivery.status,
            message=delivery.message,
            created_at=now,
            changed_at=now,
        )
    )
    return delivery.status


async def release(connection: Statements, run: str, held: Sequence[DeliveryStatus], now: datetime) -> bool:
    """Within a transaction: what was held back so may go out now; whether there was something, or still is."""
    await connection.execute(
        update(memory_outbox)
        .where(memory_outbox.c.run_id == run, memory_outbox.c.status.in_(held))
        .values(status="pending", message=None, changed_at=now)
    )
    query = select(memory_outbox.c.status).where(memory_outbox.c.run_id == run)
    return await connection.scalar(query) in ("pending", "sent")


async def hold_back(connection: Statements, run: str, status: Literal["rejected", "withdrawn"], now: datetime) -> bool:
    """Within a transaction: what did not go out yet never will; whether there was something."""
    done = await connection.execute(
        update(memory_outbox)
        .where(memory_outbox.c.run_id == run, memory_outbox.c.status.in_(("pending", *HELD_BACK)))
        .values(status=status, changed_at=now, **({"items": []} if status == "rejected" else {}))
    )
    return bool(done.rowcount)
