"""One alert of a routine: its own workflow, so that a mail server that is away keeps no tick from ending."""

from __future__ import annotations

import contextlib
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from horarium import contract, tick_protocol

RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=2), backoff_coefficient=3, maximum_interval=timedelta(minutes=15)
)
PATIENCE = timedelta(hours=24)


@workflow.defn(name=contract.ROUTINE_ALERT_WORKFLOW)
class RoutineAlert:
    """Tell people of a routine at every address, each once; for a day, as long as one of them does not answer."""

    @workflow.run
    async def run(self, alert: tick_protocol.Alert) -> None:
        """Try until it is sent.

        Raises:
            ActivityError: An address did not take it within a day, or never will.
        """
        await workflow.execute_activity(
            tick_protocol.SEND_ALERT,
            alert,
            start_to_close_timeout=timedelta(minutes=2),
            schedule_to_close_timeout=PATIENCE,
            retry_policy=RETRY,
            summary=f"{alert.routine}: {alert.event}",
        )


async def tell(alert: tick_protocol.Alert) -> None:
    """From another workflow: hand an alert on, once for each occurrence, whoever finds it."""
    with contextlib.suppress(WorkflowAlreadyStartedError):
        await workflow.start_child_workflow(
            contract.ROUTINE_ALERT_WORKFLOW,
            alert,
            id=alert.workflow_id,
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            static_summary=f"{alert.routine}: {alert.event}",
        )
