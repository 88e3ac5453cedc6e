"""The schedule that sets the watch off: made by whichever worker starts first, and left alone from then on."""

from __future__ import annotations

from datetime import timedelta

import structlog
from temporalio.client import Client as TemporalClient
from temporalio.client import (
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
)
from temporalio.service import RPCError

from horarium.client import TASK_TIMEOUT
from horarium.contract import ENGINE_QUEUE, ROUTINE_WATCH_WORKFLOW
from horarium.watch_protocol import WATCH_EVERY, WATCH_SCHEDULE

log = structlog.get_logger()

PATIENCE = timedelta(seconds=5)
CATCH_UP = timedelta(minutes=1)  # one look sees all that an outage did


async def keep_watch(temporal: TemporalClient) -> None:
    """Make the schedule unless it is there; one request. Whoever paused it by hand finds it still paused."""
    action = ScheduleActionStartWorkflow(
        ROUTINE_WATCH_WORKFLOW,
        id=WATCH_SCHEDULE,
        task_queue=ENGINE_QUEUE,
        task_timeout=TASK_TIMEOUT,
        # No execution timeout: a look that an outage holds up is how the next one knows of the outage.
        static_summary="Looks for ticks that did not come, or do not end",
    )
    schedule = Schedule(
        action=action,
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=WATCH_EVERY)]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCH_UP),
        state=ScheduleState(note="Horarium's own: looks for late and lost ticks. Leave it running."),
    )
    try:
        await temporal.create_schedule(WATCH_SCHEDULE, schedule, rpc_timeout=PATIENCE)
    except ScheduleAlreadyRunningError:
        return
    except RPCError as error:  # a worker without a watch is better than none; `horarium doctor` shows it
        log.warning("watch.not_kept", problem=error.message)
        return
    log.info("watch.kept", schedule=WATCH_SCHEDULE)
