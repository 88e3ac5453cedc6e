"""What a workflow has asked of a tool worker, as Temporal has it.

A tool worker elsewhere says only where it was asked. What it was asked is read here, from the history: the call, its
approval and the queue are then the workflow's word and not the worker's.
"""

from __future__ import annotations

from dataclasses import dataclass

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryReverseRequest
from temporalio.client import Client as TemporalClient
from temporalio.service import RPCError, RPCStatusCode

from horarium.errors import RunNotFound, StepBlocked, Unreachable
from horarium.protocol import CALL_TOOL, ToolStep

PAGE = 20  # events; what is asked now is among the last of them
_ENDED = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
}


@dataclass(frozen=True, slots=True)
class AskedOf:
    """The call that is asked for now, and of which queue."""

    step: ToolStep
    queue: str


async def asked_for(temporal: TemporalClient, workflow: str, execution: str, activity: str) -> AskedOf:
    """Look up what an activity that is not over was asked.

    Raises:
        RunNotFound: There is no such workflow.
        StepBlocked: It asked for no such thing, or does not wait for it any more.
        Unreachable: Temporal does not answer.
    """
    over: set[int] = set()
    page = b""
    while True:
        request = GetWorkflowExecutionHistoryReverseRequest(
            namespace=temporal.namespace,
            execution=WorkflowExecution(workflow_id=workflow, run_id=execution),
            maximum_page_size=PAGE,
            next_page_token=page,
        )
        try:
            answer = await temporal.workflow_service.get_workflow_execution_history_reverse(request)
        except RPCError as error:
            if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
                raise RunNotFound(f"There is no run {workflow!r}.") from error
            raise Unreachable("Temporal does not answer.", hint="Try again.") from error
        for event in answer.history.events:
            if event.event_type in _ENDED:
                raise StepBlocked(f"Run {workflow!r} has gone on: it does not wait for this call any more.")
            over.update(_ends(event))
            asked = event.activity_task_scheduled_event_attributes
            if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED and asked.activity_id == activity:
                if event.event_id in over or asked.activity_type.name != CALL_TOOL:
                    raise StepBlocked(f"Run {workflow!r} does not wait for this call.")
                (step,) = await temporal.data_converter.decode(asked.input.payloads, [ToolStep])
                return AskedOf(step, asked.task_queue.name)
        page = answer.next_page_token
        if not page:
            raise StepBlocked(f"Run {workflow!r} never asked for this call.")


def _ends(event: HistoryEvent) -> set[int]:
    """Which scheduled activity ends with this event, going back in time."""
    for name in ("completed", "failed", "timed_out", "canceled"):
        field = f"activity_task_{name}_event_attributes"
        if event.HasField(field):  # type: ignore[arg-type]
            return {getattr(event, field).scheduled_event_id}
    return set()
