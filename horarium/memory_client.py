"""The client's memories: looked at and changed in the ledger. What a store elsewhere is told goes over Temporal."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from temporalio.client import Client as TemporalClient
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from horarium import contract
from horarium.errors import ConfigError, Unreachable
from horarium.ids import memory_workflow_id
from horarium.ledger.database import Ledger
from horarium.ledger.memories import Memories
from horarium.ledger.memory_care import MemoryCare
from horarium.ledger.memory_lessons import Lessons
from horarium.ledger.memory_outbox import Delivery, DeliveryStatus, Outbox
from horarium.memories import FedBack, FeedbackVerdict, Memory, MemoryKind, MemoryStatus, Undone
from horarium.people import plain
from horarium.protocol import DeliverMemories

SOMEBODY = "somebody"  # gave feedback, and did not say who


class MemoryClient(ABC):
    """The part of `Client` that is about memories. `tenant` None: whose they are does not matter."""

    temporal: TemporalClient

    @abstractmethod
    def require_ledger(self) -> Ledger:
        """The ledger."""

    async def feedback(
        self,
        run: str,
        verdict: FeedbackVerdict,
        note: str | None = None,
        *,
        by: str | None = None,
        tenant: str | None = None,
    ) -> FedBack:
        """Say that a run that has ended did well, or not; the last word counts.

        positive: what it taught and waited is told to later runs. negative: what it alone taught is withdrawn.

        Raises:
            RunNotFound: There is none, or it is another tenant's.
            Conflict: It is still open.
            Unreachable: Temporal does not answer, and a store elsewhere has to be told. Give it again.
        """
        if verdict not in ("positive", "negative"):
            raise ConfigError(f"Feedback is 'positive' or 'negative', not {verdict!r}.")
        fed = await Lessons(self.require_ledger()).feedback(run, verdict, by or SOMEBODY, note, tenant)
        if fed.deliver:
            await self._deliver(run)
        return fed

    async def memories(
        self,
        *,
        kind: MemoryKind | None = None,
        scope: str | None = None,
        user: str | None = None,
        status: Sequence[MemoryStatus] = (),
        run: str | None = None,
        text: str | None = None,
        tenant: str | None = None,
        before: tuple[datetime, str] | None = None,
        limit: int = 100,
    ) -> list[Memory]:
        """Memories, the newest first; with `status`, those with such a version; with `run`, those that it taught.

        `text`: part of its subject, or of what a version says. `before`: when the last of the page before was made,
        and its id.
        """
        return await Memories(self.require_ledger()).list(
            tenant=tenant,
            kind=kind,
            scope=scope,
            owner=plain(user) if user is not None else None,
            status=status,
            run=run,
            text=text,
            before=before,
            limit=limit,
        )

    async def memory(self, memory: str, *, tenant: str | None = None) -> Memory:
        """One memory with all its versions.

        Raises:
            MemoryNotFound: There is none, or it is another tenant's. So for all below.
        """
        return await Memories(self.require_ledger()).get(memory, tenant=tenant)

    async def memory_uses(self, memory: str, *, tenant: str | None = None) -> list[tuple[str, int]]:
        """The runs that were told of a memory, and of which version; the oldest first."""
        memories = Memories(self.require_ledger())
        await memories.get(memory, tenant=tenant)
        return await memories.uses(memory)

    async def review_memory(
        self,
        memory: str,
        verdict: Literal["accept", "reject"],
        *,
        by: str,
        version: int | None = None,
        note: str | None = None,
        tenant: str | None = None,
    ) -> Memory:
        """Let what waits (quarantined, or a candidate) be told to later runs, or never.

        `version`: the one that was looked at; a run may have taught another since.

        Raises:
            Conflict: Nothing of it waits, or another version does.
        """
        care = MemoryCare(self.require_ledger())
        return await care.review(memory, verdict, by, version=version, note=note, tenant=tenant)

    async def edit_memory(self, memory: str, text: str, *, by: str, tenant: str | None = None) -> Memory:
        """Have it say something else; it holds at once, and can be undone."""
        return await MemoryCare(self.require_ledger()).edit(memory, text, by, tenant=tenant)

    async def undo_memory(self, memory: str, *, by: str, tenant: str | None = None) -> Undone:
        """Take back what holds now: the version before it holds again, or none. Says which runs had used it.

        Raises:
            Conflict: No version holds.
        """
        return await MemoryCare(self.require_ledger()).undo(memory, by, tenant=tenant)

    async def delete_memory(self, memory: str, *, by: str, tenant: str | None = None) -> tuple[str, ...]:
        """Remove it with all its versions; the runs that had been told of it."""
        return await MemoryCare(self.require_ledger()).delete(memory, by, tenant=tenant)

    async def memory_deliveries(
        self, *, status: Sequence[DeliveryStatus] = (), tenant: str | None = None, limit: int = 100
    ) -> list[Delivery]:
        """What runs left for a memory store elsewhere, the newest first."""
        return await Outbox(self.require_ledger()).list(tenant=tenant, status=status, limit=limit)

    async def review_delivery(
        self, run: str, verdict: Literal["accept", "reject"], *, by: str, tenant: str | None = None
    ) -> None:
        """As `review_memory`, for what a run left for a memory store elsewhere.

        Raises:
            MemoryNotFound: Nothing that it left waits.
            Unreachable: Temporal does not answer. Deliver it later: `deliver_memories`.
        """
        if await MemoryCare(self.require_ledger()).review_delivery(run, verdict, by, tenant=tenant):
            await self._deliver(run)

    async def deliver_memories(self, *, tenant: str | None = None) -> int:
        """See to it that all that waits for a store elsewhere is being delivered; how many that are. Safe to repeat."""
        waiting = await self.memory_deliveries(status=("pending", "sent"), tenant=tenant, limit=10_000)
        for delivery in waiting:
            await self._deliver(delivery.run_id)
        return len(waiting)

    async def _deliver(self, run: str) -> None:
        try:
            with contextlib.suppress(WorkflowAlreadyStartedError):
                await self.temporal.start_workflow(
                    contract.MEMORY_WORKFLOW,
                    DeliverMemories(run=run),
                    id=memory_workflow_id(run),
                    task_queue=contract.ENGINE_QUEUE,
                    id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                )
        except RPCError as error:
            raise Unreachable(
                f"Temporal does not answer: {error.message}.", hint="Then: horarium memory deliveries --deliver"
            ) from error
