"""What routes about routines take and give."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from horarium.contract import MAX_INLINE_INPUT_CHARS, RoutineAction, TickSource, TickStatus
from horarium.definition import Duration
from horarium.gateway.v1.fields import Answer, Moment, Number, Request, SchemaOf, Time
from horarium.ledger.routines import ManagedBy, RoutineRecord
from horarium.ledger.ticks import TickRecord
from horarium.routines import Routine

EVENT = r"^[A-Za-z0-9][A-Za-z0-9_.:/-]*$"
NOT_SAID = ("name", "tenant", "requested_by")  # the address says the name, and the caller's key the others
Definition = Annotated[dict[str, Any], SchemaOf(Routine, without=NOT_SAID)]
MORNINGS: dict[str, Any] = {
    "agent": "triage",
    "triggers": {"mornings": {"cron": "0 6 * * 1-5", "time_zone": "Europe/London"}},
    "input": "Triage the issues opened since {{ previous.started_at }}.",
    "timeout": "30m",
    "on_failure": "retry",
}


def example(**values: Any) -> ConfigDict:
    """The configuration of a request with this example."""
    return ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": [values]})


class RoutineSummary(Answer):
    """One routine, in a list."""

    name: str
    agent: str
    description: str
    paused: bool
    pause_note: str | None
    paused_until: Time | None
    paused_by: str | None
    failures: int = Field(description="Failed ticks in a row.")
    failing_since: Time | None
    held_by: str | None = Field(description="A tick that waits for people, and lets no other begin meanwhile.")
    last_tick: str | None
    previous_tick: str | None = Field(description="The last one that completed.")
    managed_by: ManagedBy = Field(description="files: `horarium apply` has the last word on it.")
    changed_at: Time
    changed_by: str | None


class RoutineDetail(RoutineSummary):
    """One routine, as it is meant to be and with what it remembers."""

    definition: Annotated[dict[str, Any], SchemaOf(Routine)]
    state: dict[str, Any] = Field(description="What its ticks hand on.")
    thread: str | None = Field(description="With `conversation: continue`.")
    deployed: bool = Field(description="Whether Temporal's schedules are what the definition says.")
    created_at: Time


class Ordered(Answer):
    """What became of an order."""

    action: RoutineAction
    routine: str | None
    changed: bool = Field(description="false: it was so before.")
    ticks: list[str] = Field(description="Ids of the ticks that were started.")
    message: str


class Tick(Answer):
    """One firing of a routine."""

    id: str
    routine: str
    trigger: str | None
    source: TickSource
    status: TickStatus
    reason: str | None
    message: str | None
    scheduled_at: Time
    opened_at: Time | None
    started_at: Time | None
    closed_at: Time | None
    attempts: int
    next_try_at: Time | None
    run: str | None = Field(description="Its last attempt.")
    thread: str | None
    output: str | None
    turns: int
    input_tokens: int
    output_tokens: int
    cost_micro_usd: int


class Pause(Request):
    """Why, and until when."""

    model_config = example(note="The archive moves house.", until="2026-12-01T09:00:00Z")

    note: str | None = Field(default=None, max_length=2_000)
    until: Moment | None = Field(default=None, description="It resumes by itself. null: when somebody says so.")


class RunNow(Request):
    """What a tick is given that somebody starts."""

    model_config = example(input="Triage all of last week.")

    input: str | None = Field(
        default=None, min_length=1, max_length=MAX_INLINE_INPUT_CHARS, description="Instead of the template."
    )


class Backfill(Request):
    """A range of time whose fires are made up for."""

    model_config = example(start="2026-11-20T00:00:00Z", end="2026-11-21T00:00:00Z")

    start: Moment
    end: Moment

    @model_validator(mode="after")
    def _in_order(self) -> Backfill:
        if self.start >= self.end:
            raise ValueError("`end` is not after `start`")
        return self


class Event(Request):
    """Something that happened."""

    model_config = example(event="github.issue.opened", payload={"number": 7, "title": "It does not start"})

    event: str = Field(min_length=1, max_length=200, pattern=EVENT)
    payload: dict[str, Any] = Field(
        default={}, description="What templates get as `event`; at most 16,000 characters of JSON."
    )


class PreviewRequest(Request):
    """How far to look, and what to suppose."""

    model_config = example(days=4, outage="2h", definition=MORNINGS)

    start: Moment | None = Field(default=None, description="null: now.")
    days: Number = Field(default=7, ge=0.01, le=366)
    takes: Duration | None = Field(
        default=None,
        gt=timedelta(0),
        le=timedelta(days=30),
        description="How long each tick takes. null: as the last ones did, or 30 s.",
    )
    outage: Duration | None = Field(
        default=None, gt=timedelta(0), le=timedelta(days=366), description="Nobody works for so long."
    )
    outage_at: Moment | None = Field(default=None, description="When that begins. null: at the first fire.")
    definition: Definition | None = Field(default=None, description="Not saved yet. null: the routine as it stands.")


def summary(record: RoutineRecord) -> RoutineSummary:
    """A routine, in a list."""
    routine = record.routine
    return RoutineSummary(
        name=record.name,
        agent=routine.agent,
        description=routine.description,
        paused=bool(record.paused),
        pause_note=record.pause_note,
        paused_until=record.paused_until,
        paused_by=record.paused_by,
        failures=record.failures,
        failing_since=record.failing_since,
        held_by=record.held_by,
        last_tick=record.last_tick,
        previous_tick=record.previous_tick,
        managed_by=record.managed_by,
        changed_at=record.changed_at,
        changed_by=record.changed_by,
    )


def detail(record: RoutineRecord) -> RoutineDetail:
    """A routine, whole."""
    return RoutineDetail(
        **dict(summary(record)),
        definition=dict(record.definition),
        state=dict(record.state),
        thread=record.thread_id,
        deployed=record.applied == record.generation,
        created_at=record.created_at,
    )


def tick(record: TickRecord) -> Tick:
    """A tick."""
    same = {name: getattr(record, name) for name in Tick.model_fields if name not in ("run", "thread")}
    return Tick(**same, run=record.run_id, thread=record.thread_id)
