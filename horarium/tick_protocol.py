"""What the workflow of a tick and its activities say to each other: references and short texts only.

The tick itself is in the ledger, with the definition that it was opened with; each payload names it by its id.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field

from horarium.contract import RunRequest, TickRequest, TickStatus
from horarium.protocol import Payload
from horarium.routines import OnFailure, Retry, Unattended

# Activity names; stored in histories, so they never change.
OPEN_TICK = "open_tick"
ADMIT_TICK = "admit_tick"
OPEN_ATTEMPT = "open_attempt"
END_ATTEMPT = "end_attempt"
LOOK_AT_ATTEMPT = "look_at_attempt"
CLOSE_TICK = "close_tick"
OBEY_ORDER = "obey_order"
SEND_ALERT = "send_alert"
WATCH_ROUTINES = "watch_routines"

# Signals of a tick that are the engine's own: each says that the ledger has news, and no more. Whoever reaches
# Temporal can send them, so what they say is asked of the ledger.
SIGNAL_ADMITTED = "admitted"
SIGNAL_ATTEMPT = "attempt"

AlertEvent = Literal["failed", "recovered", "not_fired", "not_finished", "parked", "paused"]


class OpenTick(Payload):
    """Argument of `open_tick`."""

    tick: str
    execution: str = Field(description="The workflow's first run id.")
    request: TickRequest
    scheduled_at: datetime
    at: datetime = Field(description="Now, in workflow time.")


class TickPlan(Payload):
    """Result of `open_tick` and `admit_tick`: whether the tick goes on, and how."""

    decision: Literal["run", "wait", "end"] = Field(description="end: it was skipped, or done before.")
    status: TickStatus = "running"
    reason: str | None = None
    message: str | None = None
    agent: str = ""
    timeout: timedelta = timedelta(hours=1)
    attempt_timeout: timedelta | None = None
    on_failure: OnFailure = "alert"
    retry: Retry | None = None
    unattended: Unattended = "ask"


class AdmitTick(Payload):
    """Argument of `admit_tick`."""

    tick: str
    at: datetime


class OpenAttempt(Payload):
    """Argument of `open_attempt`."""

    tick: str
    number: int = Field(description="From 1.")
    at: datetime


class Attempt(Payload):
    """Result of `open_attempt`: the run to start, or why there is none."""

    run: str | None = None
    request: RunRequest | None = None
    code: str | None = None
    message: str | None = None


class EndAttempt(Payload):
    """Argument of `end_attempt`: one attempt failed, and another one follows."""

    tick: str
    number: int
    code: str
    message: str
    next_try_at: datetime
    at: datetime


class LookAtAttempt(Payload):
    """Argument of `look_at_attempt`: whether the run of an attempt waits for people."""

    tick: str
    number: int
    at: datetime


class AttemptNow(Payload):
    """Result of `look_at_attempt`."""

    parked: bool = False


class CloseTick(Payload):
    """Argument of `close_tick`."""

    tick: str
    status: Literal["completed", "failed", "cancelled"]
    code: str | None = None
    message: str | None = None
    output: str = Field(default="", description="The final answer, cut.")
    at: datetime


class Alert(Payload):
    """Argument of `send_alert`: what people are told of a routine; the content is in the ledger."""

    event: AlertEvent
    routine: str
    tick: str | None = None
    occurrence: str = Field(description="Told once for each.")
    at: datetime

    @property
    def workflow_id(self) -> str:
        """The workflow that tells it; there is one for each occurrence."""
        return f"routine-alert.{self.routine}.{self.event}.{self.occurrence}"


class ClosedTick(Payload):
    """Result of `close_tick`: of what people are told. It has been handed on."""

    alerts: tuple[Alert, ...] = ()


class WatchRoutines(Payload):
    """Argument of `watch_routines`."""

    at: datetime


class Watched(Payload):
    """Result of `watch_routines`."""

    alerts: tuple[Alert, ...] = ()
    missed: int = 0
    resumed: int = 0
    renewed: int = 0
    repaired: int = 0
