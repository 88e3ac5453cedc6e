"""A call that no worker takes: what people are told of it, and where its tool is served by now.

There is no question to decide here, so no approver is asked; it is said to whoever is told of everything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from temporalio import activity

from activities.notice_words import Words
from horarium.contract import ENGINE_QUEUE, TOOL_QUEUE_PREFIX
from horarium.errors import ToolUnavailable
from horarium.ids import split_step_id
from horarium.ledger.agents import ToolCatalog
from horarium.ledger.database import Ledger
from horarium.ledger.runs import Runs
from horarium.ledger.schema import steps
from horarium.ledger.toolsets import Toolsets
from horarium.ledger.toolworkers import ToolWorkers
from horarium.links import instant
from horarium.protocol import FIND_WORKER, FindWorker, Notice, WorkerFound
from horarium.toolsets import PythonSource
from horarium.visible import one_line


@dataclass(frozen=True, slots=True)
class Unserved:
    """A call that waits for a worker."""

    step: str
    run: str
    tenant: str
    agent: str
    tool: str
    group: str
    requested_by: str | None
    last_seen: datetime | None
    """When a worker of its group was heard of last; None: not in the last days."""
    last_place: str | None


class Whereabouts:
    """The activity `find_worker` and what it needs."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @activity.defn(name=FIND_WORKER)
    async def find_worker(self, wanted: FindWorker) -> WorkerFound:
        """Look where a tool is served now: a call that nobody takes may have been meant for a group that is gone.

        Raises:
            ToolUnavailable: Nobody ever announced it.
        """
        queue = await _queue(self._ledger, wanted.run, wanted.tool)
        return WorkerFound(queue=None if queue == ENGINE_QUEUE else queue)


async def unserved(ledger: Ledger, notice: Notice) -> Unserved | None:
    """The call that a notice is about; None when it waits no more.

    Raises:
        RunNotFound: There is no such run.
        ToolUnavailable: There is no such tool.
    """
    run_id, number = split_step_id(notice.subject)
    run = await Runs(ledger).get(run_id)
    if run.closed_at is not None or await _taken(ledger, run_id, number, notice.occurrence):
        return None
    queue = await _queue(ledger, run_id, notice.tool)
    if not queue.startswith(TOOL_QUEUE_PREFIX):
        return None  # the engine serves it by now
    known = [worker for worker in await ToolWorkers(ledger).all() if worker.queue == queue]
    last = max(known, key=lambda worker: worker.seen_at, default=None)
    return Unserved(
        step=notice.subject,
        run=run_id,
        tenant=run.tenant,
        agent=run.agent,
        tool=notice.tool,
        group=queue.removeprefix(TOOL_QUEUE_PREFIX),
        requested_by=run.requested_by,
        last_seen=last.seen_at if last else None,
        last_place=last.place if last else None,
    )


def unserved_words(call: Unserved) -> Words:
    """The message to people."""
    tool, agent, group = one_line(call.tool), one_line(call.agent), one_line(call.group)
    by = f", started by {one_line(call.requested_by)}" if call.requested_by else ""
    seen = (
        f"It was heard of last at {instant(call.last_seen)}: process {one_line(call.last_place)}."
        if call.last_seen and call.last_place
        else "Nothing was heard of it in the last days."
    )
    body = [
        f"The agent {agent} has called {tool}, and no worker takes the call. Nothing is done before one does.",
        f"Start the tool worker {group!r}, and the run goes on by itself. {seen}",
        "",
        f"Run: {one_line(call.run)} of agent {agent}{by}",
        f"Step: {one_line(call.step)}",
        "",
        "See who serves what: horarium doctor",
        f"Or stop the run: horarium runs cancel {one_line(call.run)}",
    ]
    return Words(f"No worker serves {tool} of {agent}", "\n".join(body))


def unserved_body(call: Unserved, now: datetime) -> str:
    """The JSON for programs."""
    data = {
        "id": call.step,
        "kind": "tool_worker",
        "run": call.run,
        "tenant": call.tenant,
        "agent": call.agent,
        "tool": call.tool,
        "group": call.group,
        "requested_by": call.requested_by,
        "last_seen": call.last_seen.isoformat() if call.last_seen else None,
    }
    return json.dumps({"type": "tool.unserved", "timestamp": now.isoformat(), "data": data})


async def _taken(ledger: Ledger, run: str, number: int, permit: int) -> bool:
    async with ledger.read() as connection:
        claimed = await connection.scalar(
            select(steps.c.permit).where(
                steps.c.run_id == run, steps.c.number == number, steps.c.claimed_at.isnot(None)
            )
        )
    return claimed is not None and int(claimed) >= permit


async def _queue(ledger: Ledger, run: str, name: str) -> str:
    """Where a tool is served: from the ledger, because whoever reaches Temporal can say anything in a payload."""
    served = await ToolCatalog(ledger).all()
    pinned = await Toolsets(ledger).tool(run, name)
    announced = pinned.source.tool if pinned is not None and isinstance(pinned.source, PythonSource) else name
    found = served.get(announced)
    if found is None:
        raise ToolUnavailable(f"Nobody ever served {one_line(name)!r}, which run {one_line(run)} has called.")
    return found.queue
