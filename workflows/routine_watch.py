"""One look over all routines; Temporal's schedule `horarium.routine-watch` starts it every minute.

What is found is told in workflows of their own, and accounted for only then: a look that dies before is made again by
the next, which finds the same.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from horarium import contract, tick_protocol, watch_protocol
    from workflows.routine_alert import tell

AT_ONCE = 50  # alerts that are handed on together
RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=10))
LONGEST = timedelta(minutes=10)  # the next look does it better than this one's fortieth try


@workflow.defn(name=contract.ROUTINE_WATCH_WORKFLOW)
class RoutineWatch:
    """Look, hand the alerts on, account for them."""

    @workflow.run
    async def run(self) -> None:
        """Look once.

        Raises:
            ActivityError: The ledger or Temporal did not answer; the next look finds what this one has not.
        """
        looked = await workflow.execute_activity(
            tick_protocol.WATCH_ROUTINES,
            tick_protocol.WatchRoutines(at=workflow.now()),
            result_type=watch_protocol.Looked,
            start_to_close_timeout=timedelta(minutes=5),
            heartbeat_timeout=timedelta(seconds=10),
            schedule_to_close_timeout=LONGEST,
            retry_policy=RETRY,
        )
        for start in range(0, len(looked.alerts), AT_ONCE):
            await asyncio.gather(*map(tell, looked.alerts[start : start + AT_ONCE]))
        if looked.alerts or looked.until:
            await workflow.execute_activity(
                watch_protocol.ACCOUNT_ROUTINES,
                watch_protocol.Accounting(alerts=looked.alerts, until=looked.until),
                start_to_close_timeout=timedelta(minutes=1),
                schedule_to_close_timeout=LONGEST,
                retry_policy=RETRY,
            )
