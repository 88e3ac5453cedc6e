"""The step that summarises the older part of a conversation, so that the rest fits the model's window."""

from __future__ import annotations

from temporalio import activity

from activities.catalog import Catalog
from activities.models.router import Models
from horarium.ledger.database import Ledger
from horarium.protocol import COMPACT_THREAD, Compacted, CompactThread


class Compaction:
    """The activity `compact_thread` and what it needs."""

    def __init__(self, ledger: Ledger, models: Models, catalog: Catalog) -> None:
        self._ledger = ledger
        self._models = models
        self._catalog = catalog

    @activity.defn(name=COMPACT_THREAD)
    async def compact_thread(self, compacting: CompactThread) -> Compacted:
        """Have the model summarise the older part; the full text stays in the ledger."""
        raise NotImplementedError
