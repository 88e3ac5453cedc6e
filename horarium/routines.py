"""What a routine is: an agent, its input, what sets it off, and what follows when it fails.

A definition only: when a cron line fires is in `schedules/`, what a tick does in `workflows/routine_tick.py`.
Frozen like every definition; a tick goes on with the one that it was opened with.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, model_validator

from horarium.content import digest
from horarium.definition import Definition, Duration, a_name
from horarium.definitions import bound_problem
from horarium.durations import words
from horarium.secrets import SecretReference

OnFailure = Literal["alert", "retry", "skip"]
Overlap = Literal["skip", "buffer_one", "buffer_all", "cancel_other", "terminate_other", "allow_all"]
Unattended = Literal["ask", "deny", "hold_next"]

MOST_LATE = timedelta(days=365)


class CronTrigger(Definition):
    """Fires on a cron line, read as croniter reads it, in a time zone."""

    cron: str = Field(min_length=1, max_length=200, description="Five fields; a sixth is seconds, a seventh years.")
    time_zone: str = Field(default="UTC", min_length=1, max_length=64, description="An IANA name.")
    repeat: Literal["once", "both"] = Field(
        default="once", description="When the clock goes back over a fixed hour: fire the first time, or both times."
    )
    gap: Literal["fire", "skip"] = Field(
        default="fire", description="A local time that the clock skips: fire right after the gap, or not that day."
    )


class EveryTrigger(Definition):
    """Fires at a fixed distance, whatever clocks show; counted from 1970 UTC, moved by `offset`."""

    every: Duration = Field(ge=timedelta(seconds=1), le=MOST_LATE)
    offset: Duration = Field(default=timedelta(0), ge=timedelta(0))

    @model_validator(mode="after")
    def _whole_seconds(self) -> EveryTrigger:
        for name, value in (("every", self.every), ("offset", self.offset)):
            if value.microseconds:
                raise ValueError(f"`{name}` must be whole seconds")
        if self.offset >= self.every:
            raise ValueError("`offset` is not shorter than `every`")
        return self


class AtTrigger(Definition):
    """Fires once, at an instant."""

    at: Annotated[AwareDatetime, AfterValidator(lambda at: at.astimezone(UTC).replace(microsecond=0))]


class EventTrigger(Definition):
    """Fires when another service says that something happened."""

    event: str = Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]*$")


_KINDS: dict[str, type[Definition]] = {
    "cron": CronTrigger,
    "every": EveryTrigger,
    "at": AtTrigger,
    "event": EventTrigger,
}


def _a_trigger(value: Any) -> Any:
    """Take the kind from the field that only it has, so that a mistake is told of that kind and of no other."""
    if not isinstance(value, dict):
        return value
    kinds = [name for name in _KINDS if name in value]
    if len(kinds) != 1:
        raise ValueError("a trigger has exactly one of `cron`, `every`, `at` and `event`")
    return _KINDS[kinds[0]].model_validate(value)


Trigger = Annotated[CronTrigger | EveryTrigger | AtTrigger | EventTrigger, BeforeValidator(_a_trigger)]


class Retry(Definition):
    """The ladder of `on_failure: retry`: each attempt goes on at the last settled step of the one before."""

    attempts: int = Field(default=3, ge=2, le=100, description="Altogether, the first one counted.")
    first: Duration = Field(default=timedelta(minutes=1), ge=timedelta(0), description="Before the second attempt.")
    factor: float = Field(default=3, ge=1, le=100, description="Each wait is so many times the one before.")
    most: Duration = Field(default=timedelta(minutes=15), ge=timedelta(0), description="The longest wait.")

    def wait(self, failed: int) -> timedelta:
        """How long to wait after this many failed attempts."""
        seconds = self.first.total_seconds() * min(self.factor ** (failed - 1), 1e9)
        return min(timedelta(seconds=min(seconds, 1e9)), self.most)


class Preapproved(Definition):
    """A standing grant of the routine: calls of a tool that nobody is asked about."""

    tool: str = Field(min_length=1, max_length=64)
    when: dict[str, dict[str, Any]] = Field(
        default={}, description="JSON Schema keywords for arguments. All have to fit, and an argument must be there."
    )

    @model_validator(mode="after")
    def _bounds(self) -> Preapproved:
        problems = [f"`when.{name}`: {found}" for name, bound in self.when.items() if (found := bound_problem(bound))]
        if problems:
            raise ValueError("; ".join(problems))
        return self


class Routine(Definition):
    """An agent that runs by itself: when, with what input, and what follows when it fails."""

    name: Annotated[str, AfterValidator(a_name)]
    agent: str = Field(min_length=1, max_length=63)
    version: int | None = Field(default=None, ge=1, description="Of the agent. None: the newest, at each tick.")
    description: str = Field(default="", max_length=2_000)
    triggers: dict[Annotated[str, AfterValidator(a_name)], Trigger] = Field(default={}, max_length=20)
    input: str = Field(
        min_length=1,
        max_length=64_000,
        description="A Jinja template; it knows `previous`, `last`, `state`, `tick` and `event`.",
    )
    conversation: Literal["new", "continue"] = "new"
    timeout: Duration = Field(
        default=timedelta(hours=1),
        gt=timedelta(0),
        le=timedelta(days=30),
        description="Of a tick, all attempts and the waits between them; waiting for people is not counted.",
    )
    attempt_timeout: Duration | None = Field(
        default=None, gt=timedelta(0), description="Of one attempt; waiting for people is not counted."
    )
    on_failure: OnFailure = "alert"
    retry: Retry | None = Field(default=None, description="With `on_failure: retry`. None: its defaults.")
    alert: tuple[SecretReference, ...] = Field(
        default=(), max_length=20, description="Apprise addresses, besides those in the settings."
    )
    pause_after: int | None = Field(default=None, ge=1, description="Failed ticks in a row. None: never.")
    unattended: Unattended = Field(
        default="ask",
        description="At an approval: ask: wait; deny: reject at once, and tell the model so; "
        "hold_next: wait, and let no other tick begin meanwhile.",
    )
    preapproved: tuple[Preapproved, ...] = Field(default=(), max_length=50)
    overlap: Overlap = Field(default="skip", description="What a tick does while another one is not done.")
    catch_up: Duration = Field(
        default=timedelta(hours=1),
        ge=timedelta(0),
        le=timedelta(days=365),
        description="How late a tick may begin after an outage; later it is missed, and said to be.",
    )
    jitter: Duration = Field(default=timedelta(0), ge=timedelta(0), le=timedelta(days=1))
    late_after: Duration | None = Field(
        default=None, gt=timedelta(0), description="Alert when a tick has not begun, or not ended, so long after."
    )
    start: AwareDatetime | None = Field(default=None, description="No fire before.")
    end: AwareDatetime | None = Field(default=None, description="No fire after.")
    enabled: bool = True
    tenant: str = Field(default="default", min_length=1, max_length=64)
    requested_by: str | None = Field(
        default=None, max_length=200, description="Who its runs are started by. None: `routine:<name>`."
    )
    labels: dict[str, str] = Field(default={}, max_length=16)

    @model_validator(mode="after")
    def _can_be_kept(self) -> Routine:
        problems = list(self._problems())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        if self.retry is not None and self.on_failure != "retry":
            yield f"`retry` without `on_failure: retry` (it is {self.on_failure}): nothing would be retried"
        if self.start is not None and self.end is not None and self.start >= self.end:
            yield "`end` is not after `start`: it would never fire"
        if self.attempt_timeout is not None and self.attempt_timeout > self.timeout:
            yield "`attempt_timeout` is longer than `timeout`, which covers all attempts"
        if self.conversation == "continue" and self.overlap == "allow_all":
            yield "`conversation: continue` with `overlap: allow_all`: one conversation has one run at a time"
        if self.jitter > self.catch_up:
            yield f"`jitter` is longer than `catch_up` ({words(self.catch_up) or '0s'}): spread ticks would be missed"
        tools = [item.tool for item in self.preapproved if not item.when]
        if len(set(tools)) != len(tools):
            yield "`preapproved` has a tool twice"

    @property
    def digest(self) -> str:
        """Digest of the whole definition."""
        return digest(self.model_dump(mode="json"))

    @property
    def ladder(self) -> Retry | None:
        """The retries, when there are any."""
        return (self.retry or Retry()) if self.on_failure == "retry" else None

    @property
    def starter(self) -> str:
        """Who its runs are started by; four eyes keep that person out."""
        return self.requested_by or f"routine:{self.name}"

    @property
    def timed(self) -> list[str]:
        """The triggers that have a schedule: all that do not wait for an event."""
        return sorted(name for name, trigger in self.triggers.items() if not isinstance(trigger, EventTrigger))

    def schedule_id(self, trigger: str) -> str:
        """The id of the Temporal schedule of one trigger."""
        return f"routine.{self.name}.{trigger}"


def tick_id(routine: str, at: datetime) -> str:
    """The id of the tick of a scheduled time, in whole seconds: the workflow id that Temporal's scheduler gives."""
    return f"routine.{routine}-{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
