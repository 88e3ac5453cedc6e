"""An order about a routine, from whoever can start a workflow: obeyed by one activity, answered by its result."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from horarium import contract, tick_protocol
    from horarium.errors import ProofInvalid

RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=200),
    maximum_interval=timedelta(seconds=10),
    non_retryable_error_types=[ProofInvalid.code],
)
PATIENCE = timedelta(minutes=10)
HEARTBEAT = timedelta(seconds=20)  # a backfill of a thousand ticks takes its time, a dead worker must not


@workflow.defn(name=contract.ROUTINE_ORDER_WORKFLOW)
class ObeyedOrder:
    """One order, obeyed once; safe to give again."""

    @workflow.run
    async def run(self, order: contract.RoutineOrder) -> contract.RoutineOrdered:
        """Obey it.

        Raises:
            ApplicationError: It cannot be obeyed; its type is an error's code.
        """
        try:
            ordered: contract.RoutineOrdered = await workflow.execute_activity(
                tick_protocol.OBEY_ORDER,
                order,
                result_type=contract.RoutineOrdered,
                schedule_to_close_timeout=PATIENCE,
                heartbeat_timeout=HEARTBEAT,
                retry_policy=RETRY,
                summary=f"{order.action} {order.routine or order.event or ''}".strip(),
            )
        except ActivityError as error:
            cause = error.cause
            if isinstance(cause, ApplicationError):
                raise ApplicationError(cause.message, *cause.details, type=cause.type, non_retryable=True) from None
            raise
        return ordered
