"""The activity `deliver_memories`: what a run left in the outbox is brought to the store elsewhere.

The store has no idempotency keys. So the id of what it took is in the ledger before anything else is done, and from
then on it is only looked at; only a crash between its answer and our writing can tell it twice, and then it finds that
it knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from horarium.content import shorten
from horarium.errors import ConfigError, Conflict, HorariumError
from horarium.ids import memory_workflow_id
from horarium.ledger.database import Ledger
from horarium.ledger.memory_outbox import Delivery, Outbox
from horarium.protocol import DELIVER_MEMORIES, NOTE_CHARS, DeliverMemories
from horarium.settings import Settings
from horarium.toolhost import heartbeating

if TYPE_CHECKING:
    from activities.memory_foundry import FoundryMemory

log = structlog.get_logger()
T = TypeVar("T")


class MemoryDeliverer:
    """The activity `deliver_memories` and what it needs. Close it."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._outbox = Outbox(ledger)
        self._settings = settings
        self._store: FoundryMemory | None = None

    @activity.defn(name=DELIVER_MEMORIES)
    async def deliver_memories(self, delivering: DeliverMemories) -> None:
        """Tell the store, once, and wait until it is done with it.

        Raises:
            ApplicationError: The store is away; the next attempt goes on where this one is.
            Conflict: Another workflow asks: two of them at once would tell the store twice.
        """
        mine = memory_workflow_id(delivering.run)
        if activity.info().workflow_id != mine:
            raise Conflict(f"Workflow {activity.info().workflow_id} asked for what is asked for by {mine} alone.")
        async with heartbeating():
            with structlog.contextvars.bound_contextvars(run=delivering.run):
                delivery = await self._outbox.get(delivering.run)
                if delivery is not None and delivery.status in ("pending", "sent"):
                    await self._deliver(delivery)

    async def close(self) -> None:
        """Close the connection."""
        if self._store is not None:
            await self._store.close()

    async def _deliver(self, delivery: Delivery) -> None:
        from activities.memory_foundry import FoundryMemory, StoreRefused, UpdateLost  # its packages are an extra

        try:
            store = self._store = self._store or FoundryMemory(self._settings)
            if delivery.update_id is None:
                update_id = await store.start(delivery.store, delivery.scope, delivery.items)
                delivery = await _kept(lambda: self._outbox.sent(delivery, update_id))
            while True:
                update = await store.look(delivery.store, delivery.update_id or "")
                if update.done:
                    break
                await asyncio.sleep(self._settings.memory.foundry.poll.total_seconds())
        except StoreRefused as error:
            log.warning("memory.refused", error=str(error))
            await self._outbox.failed(delivery, _words(error))
            return
        except UpdateLost as error:
            await self._outbox.again(delivery, _words(error))
            raise ApplicationError(_words(error), type=error.code) from error
        except (HorariumError, ConfigError) as error:
            await self._outbox.waits(delivery, _words(error))
            raise ApplicationError(_words(error), type=error.code) from error
        await self._outbox.delivered(delivery, update.message)
        log.info("memory.delivered", store=delivery.store)


async def _kept(write: Callable[[], Awaitable[T]]) -> T:
    """What the store took has to be written down even when this attempt is being cancelled."""
    return await asyncio.shield(asyncio.ensure_future(write()))


def _words(error: HorariumError) -> str:
    return shorten(str(error), NOTE_CHARS)
