"""Programs are told how a run ended, or that it waits: as signed webhooks, with ids and no content."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import structlog
from temporalio.exceptions import ApplicationError

from activities.sending import Sender
from horarium.contract import OPEN_STATUSES, Status
from horarium.ledger.database import Ledger
from horarium.ledger.notices import Told
from horarium.ledger.runs import RunRecord, Runs
from horarium.protocol import Notice
from horarium.settings import RunEvent, Settings, told_of_runs
from horarium.toolhost import heartbeating

log = structlog.get_logger()

_EVENTS: dict[Status, RunEvent] = {
    "completed": "run.completed",
    "incomplete": "run.incomplete",
    "failed": "run.failed",
    "expired": "run.failed",
    "cancelled": "run.cancelled",
    "requires_action": "run.requires_action",
}
_OURS = "horarium."  # metadata that the engine keeps with a run


def run_event(status: Status) -> RunEvent:
    """What webhooks are told of a run with this status."""
    return _EVENTS[status]


class RunNotices:
    """Tells webhooks about runs; a part of the activity `notify`."""

    def __init__(self, ledger: Ledger, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._runs = Runs(ledger)
        self._settings = settings
        self._clock = clock
        self._sender = Sender(ledger, clock, section="gateway")

    async def tell(self, notice: Notice) -> None:
        """Send one event to every webhook that has not had it. Safe to repeat; `webhook-id` is the same each time.

        Raises:
            RunNotFound: There is no such run.
            ApplicationError: Some webhooks did not take it, or the ledger does not know the end yet; to be tried again.
        """
        async with heartbeating():
            await self._tell(notice)

    async def _tell(self, notice: Notice) -> None:
        run = await self._runs.get(notice.run)
        ended = notice.event == "run_ended"
        if ended and run.status in OPEN_STATUSES:
            raise ApplicationError(
                f"The ledger does not know yet how {run.id} ended.",
                type="notice_early",
                next_retry_delay=timedelta(seconds=1),
            )
        event = run_event(run.status if ended else "requires_action")
        told = partial(Told.of, event, run.id, notice.occurrence)
        body = self._body(run, event, (run.closed_at if ended else notice.at) or self._clock())
        about = [event, run.id, notice.occurrence]
        sent = await self._sender.deliver(
            self._sender.program(f"gateway.webhooks {number}", webhook, told, about, body)
            for number, webhook in told_of_runs(self._settings, run.tenant, event)
        )
        if sent.problems:
            log.warning("notice.failed", notice=event, subject=run.id, problems=sent.problems)
            raise ApplicationError(sent.words, type="notice_failed")

    def _body(self, run: RunRecord, event: RunEvent, at: datetime) -> str:
        links = self._settings.approvals.links
        waits = event == "run.requires_action"  # whatever became of it since
        data = {
            "run": run.id,
            "agent": run.agent,
            "version": run.version,
            "status": "requires_action" if waits else run.status,
            "reason": None if waits else run.reason,
            "thread": run.thread_id,
            "tick": run.tick,
            "metadata": {name: value for name, value in run.metadata.items() if not name.startswith(_OURS)},
            "requested_by": run.requested_by,
            "url": f"{links.rstrip('/')}/runs/{run.id}" if links else None,
        }
        return json.dumps({"type": event, "timestamp": at.isoformat(), "data": data})
