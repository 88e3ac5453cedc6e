"""What the workflow of the watch and its activities say to each other, and the names by which the watch is found."""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import Field

from horarium.protocol import Payload
from horarium.tick_protocol import Alert, Watched

WATCH_SCHEDULE = "horarium.routine-watch"
WATCH_EVERY = timedelta(minutes=1)
ACCOUNT_ROUTINES = "account_routines"  # the activity's name, stored in histories


class Looked(Watched):
    """Result of `watch_routines`. What is told of is accounted for only once the telling is sure."""

    until: dict[str, datetime] = Field(
        default={}, description="By routine: expected fires up to here are in its alert, or need none."
    )


class Accounting(Payload):
    """Argument of `account_routines`: the alerts that were handed on, and what they cover."""

    alerts: tuple[Alert, ...] = ()
    until: dict[str, datetime] = Field(default={})
