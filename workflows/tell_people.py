"""One notice to people: its own small workflow, so that a mail server that is away keeps no run from ending."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from horarium import contract, protocol

RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=2), backoff_coefficient=3, maximum_interval=timedelta(minutes=15)
)
PATIENCE = timedelta(hours=24)
HEARTBEAT = timedelta(seconds=3)  # a worker that died in the middle is not waited for


@workflow.defn(name=contract.NOTICE_WORKFLOW)
class TellPeople:
    """Send a notice to every address, each once; for a day, as long as one of them does not answer."""

    @workflow.run
    async def run(self, notice: protocol.Notice) -> None:
        """Try until it is sent.

        Raises:
            ActivityError: An address did not take it within a day, or never will.
        """
        await workflow.execute_activity(
            protocol.NOTIFY,
            notice,
            start_to_close_timeout=timedelta(minutes=2),
            schedule_to_close_timeout=PATIENCE,
            heartbeat_timeout=HEARTBEAT if notice.event in protocol.RUN_NOTICES else None,
            retry_policy=RETRY,
            summary=notice.event,
        )
