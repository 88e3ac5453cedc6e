"""The step that recalls, when a run begins, what is remembered of its user, its work and its earlier conversations."""

from __future__ import annotations

from temporalio import activity

from activities.catalog import Catalog
from horarium.ledger.database import Ledger
from horarium.protocol import RECALL_MEMORY, Recall, Recalled
from horarium.settings import Settings


class Recalling:
    """The activity `recall_memory` and what it needs."""

    def __init__(self, ledger: Ledger, catalog: Catalog, settings: Settings) -> None:
        self._ledger = ledger
        self._catalog = catalog
        self._settings = settings

    @activity.defn(name=RECALL_MEMORY)
    async def recall_memory(self, recalling: Recall) -> Recalled:
        """Look up what fits the run's input and keep it as the step's output."""
        raise NotImplementedError
