"""Telling a memory store elsewhere what a run left, for as long as it takes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from horarium import contract, protocol


@workflow.defn(name=contract.MEMORY_WORKFLOW)
class MemoryDelivery:
    """What one run left in its outbox."""

    @workflow.run
    async def run(self, delivery: Any = None) -> None:
        """Deliver all of it; a store that is away is asked again, seldomer and seldomer, for ever."""
        await workflow.execute_activity(
            protocol.DELIVER_MEMORIES,
            protocol.DeliverMemories.model_validate(delivery),
            start_to_close_timeout=timedelta(minutes=10),
            heartbeat_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=15)),
        )
