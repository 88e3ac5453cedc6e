"""A run's small bookkeeping in the ledger: messages that came in, whether it waits, how it ended.

Each is short and safe to repeat, so the workflow runs them as local activities: a few rows, no
trip over a task queue.
"""

from __future__ import annotations

from datetime import UTC, datetime

from temporalio import activity
from temporalio.client import Client as TemporalClient
from temporalio.service import RPCError, RPCStatusCode

from activities.run_notices import run_event
from horarium.content import shorten
from horarium.contract import MAX_OUTPUT_CHARS
from horarium.directcalls import call_step
from horarium.errors import Conflict
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Journal
from horarium.ledger.runs import Runs
from horarium.ledger.threads import Threads
from horarium.ledger.ticks import Ticks
from horarium.protocol import (
    CLOSE_RUN,
    MARK_RUN,
    WRITE_MESSAGE,
    ClosedRun,
    CloseRun,
    MarkRun,
    WriteMessage,
)
from horarium.settings import Settings, told_of_runs
from horarium.tick_protocol import SIGNAL_ADMITTED, SIGNAL_ATTEMPT


class Bookkeeping:
    """The bookkeeping activities and what they need."""

    def __init__(self, ledger: Ledger, temporal: TemporalClient, settings: Settings) -> None:
        self._runs = Runs(ledger)
        self._threads = Threads(ledger)
        self._ticks = Ticks(ledger)
        self._temporal = temporal
        self._journal = Journal(ledger)
        self._settings = settings

    @activity.defn(name=WRITE_MESSAGE)
    async def write_message(self, message: WriteMessage) -> None:
        """Keep a message that was sent to a run, for its next turn.

        Raises:
            Conflict: It is another run's thread.
        """
        if (await self._runs.get(message.run)).thread_id != message.thread:
            raise Conflict(f"Thread {message.thread} is not the one of run {message.run}.")
        await self._threads.queue(message.thread, message.id, message.text, message.run, message.by)

    @activity.defn(name=MARK_RUN)
    async def mark_run(self, marking: MarkRun) -> None:
        """Show an open run's status in lists."""
        await self._runs.mark(marking.run, marking.status)
        parked = marking.status == "requires_action"
        found = await self._ticks.parked(marking.run, parked=parked, at=datetime.now(UTC))
        if found is not None:
            await self._tell(found.tick, SIGNAL_ATTEMPT, parked)
            for tick in found.next:
                await self._tell(tick, SIGNAL_ADMITTED)

    async def _tell(self, tick: str, signal: str, *said: object) -> None:
        """A tick's clocks stand still while people are waited for, and another one may begin meanwhile."""
        try:
            await self._temporal.get_workflow_handle(tick).signal(signal, args=list(said))
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise

    @activity.defn(name=CLOSE_RUN)
    async def close_run(self, closing: CloseRun) -> ClosedRun | None:
        """Write down how the run ended, and give its thread back."""
        await self._runs.close(
            closing.run,
            closing.status,
            reason=closing.reason,
            message=closing.message,
            turns=closing.turns,
            steps=closing.steps,
            usage=closing.usage,
        )
        tells = await self._tells(closing)
        if not closing.wants_output:
            return ClosedRun(output=None, tells=True) if tells else None
        step = call_step(await self._journal.of_run(closing.run))
        if step is None or step.status != "completed" or step.output is None:
            return ClosedRun(tells=tells)
        cut = step.output_blob is not None or len(step.output) > MAX_OUTPUT_CHARS
        return ClosedRun(output=shorten(step.output, MAX_OUTPUT_CHARS), output_truncated=cut, tells=tells)

    async def _tells(self, closing: CloseRun) -> bool:
        """Whether a program is told of this end. A sub-agent's run is its parent's affair."""
        if not self._settings.gateway.webhooks:
            return False
        written = await self._runs.asked(closing.run)  # one that could not be opened may not be written down
        if written is None or written.run.parent_run is not None:
            return False
        return bool(told_of_runs(self._settings, written.run.tenant, run_event(closing.status)))
