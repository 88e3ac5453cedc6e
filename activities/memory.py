"""The step `write_memory`: each completed run leaves a note for later runs of the same scope."""

from __future__ import annotations

from temporalio import activity

from activities.catalog import Catalog
from horarium.content import shorten
from horarium.ids import idempotency_key
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Journal, StepClaim, StepRecord
from horarium.ledger.memories import Memories
from horarium.ledger.runs import Runs
from horarium.ledger.threads import Threads
from horarium.protocol import WRITE_MEMORY, WriteMemory, WrittenMemory
from horarium.toolhost import heartbeating
from horarium.tools import Effect
from horarium.turns import stored_turn

ASKED_CHARS = 300
ANSWERED_CHARS = 700


class MemoryWriter:
    """The activity `write_memory` and what it needs."""

    def __init__(self, ledger: Ledger, catalog: Catalog) -> None:
        self._journal = Journal(ledger)
        self._memories = Memories(ledger)
        self._threads = Threads(ledger)
        self._runs = Runs(ledger)
        self._catalog = catalog

    @activity.defn(name=WRITE_MEMORY)
    async def write_memory(self, writing: WriteMemory) -> WrittenMemory:
        """Note what was asked in this run and how it was answered. Safe to repeat: a run leaves one note."""
        async with heartbeating():
            agent = (await self._catalog.agent(writing.agent, writing.version)).agent
            if agent.memory is None:
                return WrittenMemory()
            held = await self._journal.claim(
                StepClaim(
                    run_id=writing.run,
                    number=writing.number,
                    kind="memory_write",
                    name=agent.memory.scope,
                    effect=Effect.IDEMPOTENT,
                    key=idempotency_key(writing.run, "memory"),
                )
            )
            if isinstance(held, StepRecord):
                return WrittenMemory()
            note = await self._note(writing.run)
            await self._memories.write(writing.tenant, agent.memory.scope, writing.run, note)
            await self._journal.settle(held, "completed", note)
        return WrittenMemory()

    async def _note(self, run_id: str) -> str:
        run = await self._runs.get(run_id)
        messages = [m for m in await self._threads.read(run.thread_id) if m.run_id == run_id]
        asked = next((m.text for m in messages if m.role == "user" and m.text), "")
        answers = [stored_turn(m.output or "{}").text for m in messages if m.role == "assistant"]
        answered = next((text for text in reversed(answers) if text), "")
        day = run.created_at.date().isoformat()
        return f"{day}: asked: {shorten(asked, ASKED_CHARS)} — answered: {shorten(answered, ANSWERED_CHARS)}"
