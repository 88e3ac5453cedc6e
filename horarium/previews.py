"""What a routine would do, in plain values: asked of the engine's calendar by whoever has it (`schedules/previews.py`).

The gateway is given it by the command that starts it, for the public package does not import the engine's folders.
How a preview is said is here too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from horarium.routine_words import length
from horarium.routines import Routine


@dataclass(frozen=True, slots=True)
class Asked:
    """From when on, how far, how long each tick takes, and a time in which nobody works, if there is one.

    `most`: fires that are reckoned; None: as many as the calendar takes on.
    """

    start: datetime
    length: timedelta
    takes: timedelta
    outage: timedelta | None = None
    outage_at: datetime | None = None
    most: int | None = None


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class TriggerWords(_Frozen):
    """One of the things that set a routine off."""

    name: str
    words: str = Field(description="When it fires; or why it cannot any more.")
    time_zone: str


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
    opens_at: AwareDatetime | None = Field(default=None, description="When somebody is there to begin it.")
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
    triggers: tuple[TriggerWords, ...] = ()


Previewer = Callable[[Routine, Asked], Preview]
"""Works it out. It computes and blocks: call it in a thread. Raises ConfigError for a trigger that cannot be used."""


def what_happens(routine: Routine, fire: PreviewedFire, near: Callable[[datetime | None], str]) -> str:
    """What becomes of a fire, and why; `near` says a time that belongs to it."""
    other, opens = near(fire.other), fire.opens_at or fire.at
    match fire.fate:
        case "missed":
            return f"missed: {length(opens - fire.at)} late, and `catch_up` is {length(routine.catch_up)}"
        case "skipped" if fire.because == "waits_already":
            return f"skipped: the tick of {other} waits already"
        case "skipped" if fire.because == "too_many":
            return "skipped: too many ticks wait already"
        case "skipped":
            when = f", at {near(fire.opens_at)}" if fire.opens_at != fire.at else ""
            return f"skipped{when}: the tick of {other} is not done"
        case "cancelled":
            return f"does not begin: the tick of {other} takes its place"
        case "runs":
            return _runs(routine, fire, near)


def _runs(routine: Routine, fire: PreviewedFire, near: Callable[[datetime | None], str]) -> str:
    begins, end = fire.begins_at or fire.at, near(fire.ends_at)
    said, since = "runs", ""
    if begins != fire.at:
        since = f" {near(begins)}"
        said = f"runs late by {length(begins - fire.at)}," if begins == fire.opens_at else "waits, runs"
    match fire.ending:
        case "done":
            said += f"{since} to {end}" if since else f", until {end}"
        case "timeout":
            said += f"{since}, fails at {end}: `timeout` is {length(routine.timeout)}"
        case "cancelled" | "terminated":
            said += f"{since}, until the tick of {near(fire.other)} ends it"
    return said + (", or is missed: a matter of moments" if fire.perhaps_missed else "")
