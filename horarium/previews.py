"""What a routine would do, in plain values: asked of the engine's calendar by whoever has it (`schedules/previews.py`).

The gateway is given it by the command that starts it, for the public package does not import the engine's folders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from horarium.routines import Routine


@dataclass(frozen=True, slots=True)
class Asked:
    """From when on, how far, how long each tick takes, and a time in which nobody works, if there is one."""

    start: datetime
    length: timedelta
    takes: timedelta
    outage: timedelta | None = None
    outage_at: datetime | None = None


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class PreviewedFire(_Frozen):
    """What becomes of one fire."""

    tick: str
    at: AwareDatetime
    triggers: tuple[str, ...]
    note: str | None = Field(default=None, description="What a clock change does to it.")
    fate: Literal["runs", "skipped", "missed", "cancelled"]
    because: Literal["not_done", "waits_already", "too_many", "too_late"] | None = None
    other: AwareDatetime | None = Field(
        default=None, description="Time of the fire whose tick is in its way, or ended it."
    )
    perhaps_missed: bool = Field(default=False, description="Jitter decides whether it is still in time.")
    begins_at: AwareDatetime | None = None
    ends_at: AwareDatetime | None = None
    ending: Literal["done", "timeout", "cancelled", "terminated"] | None = None


class NoFire(_Frozen):
    """A time that the clock skips, and a trigger that then does not fire."""

    at: AwareDatetime
    triggers: tuple[str, ...]
    note: str


class Preview(_Frozen):
    """What a routine would do."""

    start: AwareDatetime
    end: AwareDatetime = Field(description="Where the reckoning ends.")
    whole: bool = Field(
        description="False: there are more fires than are reckoned, and `end` is after the last of them."
    )
    outage_start: AwareDatetime | None = None
    outage_end: AwareDatetime | None = None
    fires: tuple[PreviewedFire, ...]
    no_fires: tuple[NoFire, ...]


Previewer = Callable[[Routine, Asked], Preview]
"""Works it out. It computes and blocks: call it in a thread. Raises ConfigError for a trigger that cannot be used."""
