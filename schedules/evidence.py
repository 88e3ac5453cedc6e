"""Why a tick did not come, and whether one is still alive, as far as Temporal knows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import WorkflowExecutionStatus
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest, ListWorkflowExecutionsRequest
from temporalio.client import Client as TemporalClient
from temporalio.client import ScheduleDescription
from temporalio.service import RPCError, RPCStatusCode

from horarium.contract import TICK_WORKFLOW
from horarium.ledger.routines import RoutineRecord
from horarium.visible import one_line
from horarium.watch_protocol import WATCH_EVERY, WATCH_SCHEDULE
from schedules.expected import Fire

SILENCE = WATCH_EVERY * 2.5  # between two looks: nobody was there
MOMENT = timedelta(seconds=5)  # from a tick's time to its first word
MOST_ASKED = 3  # workflows of one routine that are looked for in one look; the others are told alike
_PAGE = 1_000
_CLOSED = {
    WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_COMPLETED: "ended",
    WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_FAILED: "failed",
    WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_CANCELED: "was cancelled",
    WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_TERMINATED: "was terminated",
    WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_TIMED_OUT: "timed out",
}

Reason = tuple[str, str]  # a code, and words


class Evidence:
    """What one look of the watch asks Temporal, each thing once."""

    def __init__(self, temporal: TemporalClient, at: datetime) -> None:
        self._temporal = temporal
        self._at = at
        self._looks: list[datetime] | None = None

    async def reasons(self, record: RoutineRecord, missing: Sequence[Fire]) -> dict[str, Reason]:
        """Why these fires of a routine did not come, by tick."""
        if self._looks is None:
            self._looks = await self._looked()
        wrong = {trigger: await self._schedule(record, trigger) for trigger in {fire.trigger for fire in missing}}
        found: dict[str, Reason] = {}
        unexplained: list[Fire] = []
        for fire in missing:
            why = wrong[fire.trigger] or outage(self._looks, fire.at, record.routine.jitter)
            if why is None:
                unexplained.append(fire)
            else:
                found[fire.id] = why
        last: Reason | None = None
        for number, fire in enumerate(unexplained):
            if last is None or number < MOST_ASKED:
                last = await self._started(fire)
            found[fire.id] = last
        return found

    async def _looked(self) -> list[datetime]:
        """When the watch has looked lately, this time counted."""
        description = await _described(self._temporal, WATCH_SCHEDULE)
        recent = description.info.recent_actions if description is not None else ()
        return sorted({*(action.started_at for action in recent if action.started_at < self._at), self._at})

    async def _schedule(self, record: RoutineRecord, trigger: str) -> Reason | None:
        description = await _described(self._temporal, record.routine.schedule_id(trigger))
        if description is None:
            return "no_schedule", f"Temporal has no schedule for the trigger {trigger!r}. Make it: horarium apply"
        if description.schedule.state.paused:
            note = description.schedule.state.note
            said = f" ({one_line(note)[:200]})" if note else ""
            return "paused_in_temporal", f"Its schedule was paused by hand in Temporal{said}."
        return None

    async def _started(self, fire: Fire) -> Reason:
        if await _status(self._temporal, fire.id) is None:
            return "not_started", "Temporal did not start it at its time."
        return "not_opened", "Temporal started it, and no worker has taken it up."


def outage(looks: Sequence[datetime], at: datetime, jitter: timedelta = timedelta(0)) -> Reason | None:
    """Between which two looks nobody was there, while a tick of this time should have begun."""
    for before, after in pairwise(looks):
        if after - before > SILENCE and at <= after and before - MOMENT <= at + jitter:
            return "engine_down", f"The engine was down, or out of reach, from {_clock(before)} to {_clock(after)} UTC."
    return None


async def running_ticks(temporal: TemporalClient) -> set[str]:
    """The ticks that run; what began within the last seconds may be missing."""
    found: set[str] = set()
    # Not through the client: it cannot read a workflow that was paused by hand.
    request = ListWorkflowExecutionsRequest(
        namespace=temporal.namespace,
        page_size=_PAGE,
        query=f"WorkflowType = '{TICK_WORKFLOW}' AND ExecutionStatus = 'Running'",
    )
    while True:
        page = await temporal.workflow_service.list_workflow_executions(request)
        found.update(item.execution.workflow_id for item in page.executions)
        if not page.next_page_token:
            return found
        request.next_page_token = page.next_page_token


async def gone(temporal: TemporalClient, workflow: str) -> str | None:
    """What became of a workflow that runs no more, in words; None while it does."""
    status = await _status(temporal, workflow)
    if status is None:
        return "is not there any more"
    return _CLOSED.get(status)


async def _status(temporal: TemporalClient, workflow: str) -> WorkflowExecutionStatus.ValueType | None:
    request = DescribeWorkflowExecutionRequest(
        namespace=temporal.namespace, execution=WorkflowExecution(workflow_id=workflow)
    )
    try:
        answer = await temporal.workflow_service.describe_workflow_execution(request)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    return answer.workflow_execution_info.status


async def _described(temporal: TemporalClient, schedule: str) -> ScheduleDescription | None:
    try:
        return await temporal.get_schedule_handle(schedule).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"
