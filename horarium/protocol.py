"""What workflow and activities say to each other, engine and tool workers alike.

References, counts and short texts only: everything here is written into Temporal's history, several
times a turn. The content is in the ledger, under the step's id.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from horarium.contract import Decision, RunRequest, Usage
from horarium.definitions import Limits, OnStepFailure
from horarium.tools import Effect

# Activity names; stored in histories, so they never change.
OPEN_RUN = "open_run"
CALL_MODEL = "call_model"
CALL_TOOL = "call_tool"
WRITE_MEMORY = "write_memory"
WRITE_MESSAGE = "write_message"
ASK_APPROVALS = "ask_approvals"
SETTLE_APPROVALS = "settle_approvals"
SETTLE_STEP = "settle_step"
MARK_RUN = "mark_run"
CLOSE_RUN = "close_run"

PREVIEW_CHARS = 500
NOTE_CHARS = 300


class Payload(BaseModel):
    """Base of the engine's own payloads."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Call(Payload):
    """One tool call of a turn: where its arguments stand and how to perform it."""

    id: str = Field(description="The call id, unique within the run.")
    tool: str
    digest: str = Field(description="Of tool, schema and arguments: what an approval binds to.")
    key: str = Field(description="Idempotency key.")
    source: str = Field(description="The step id of the model call that asked for it.")
    effect: Effect = Effect.READ
    gated: bool = Field(default=False, description="A person is asked first.")
    queue: str | None = Field(default=None, description="Task queue of the worker that serves it. None: the engine's.")
    timeout: timedelta = timedelta(minutes=5)
    preview: str = Field(default="", description="The arguments, cut; only of gated calls.")
    approved_in: str | None = Field(default=None, description="The approval that stands, of a resumed call.")


class RunPlan(Payload):
    """What opening a run settles: everything the workflow may not look up itself."""

    run: str
    thread: str
    agent: str
    version: int
    limits: Limits
    on_step_failure: OnStepFailure
    procedure: tuple[str, ...] = ()
    remembers: bool = False
    model_timeout: timedelta
    continue_as_new_after: int | None = None
    heartbeat_timeout: timedelta
    pending: tuple[Call, ...] = Field(default=(), description="Calls of a resumed run that still are to be made.")
    answered: tuple[str, ...] = Field(default=(), description="Steps of a resumed run the model has not seen yet.")
    messages: tuple[str, ...] = Field(default=(), description="What was asked, when the pending calls come first.")
    procedure_done: int = 0


class OpenRun(Payload):
    """Argument of `open_run`."""

    run: str
    request: RunRequest


class ModelStep(Payload):
    """Argument of `call_model`."""

    run: str
    thread: str
    agent: str
    version: int
    tenant: str
    number: int = Field(description="The step's number.")
    answered: tuple[str, ...] = Field(default=(), description="Settled tool steps to append to the thread, in order.")
    messages: tuple[str, ...] = Field(default=(), description="Queued messages (their ids) to append, in order.")
    note: str | None = Field(
        default=None, description="What the engine tells the model, e.g. why its turn did not count."
    )
    offer: str | None = Field(default=None, description="With a procedure: the one tool that is offered, and required.")
    closing: bool = Field(default=False, description="With a procedure that is done: offer no tool.")
    max_calls: int = 32
    permit: int = 0


class ModelReply(Payload):
    """Result of `call_model`."""

    status: Literal["completed", "failed"] = "completed"
    calls: tuple[Call, ...] = ()
    malformed: str | None = Field(default=None, description="Why the turn does not count; the model is told.")
    note: str | None = Field(default=None, description="What to tell the model with its next call.")
    finish: Literal["calls", "final", "length", "filtered", "malformed"] = "final"
    output: str = Field(default="", description="The final answer, cut; empty while there are calls.")
    output_truncated: bool = False
    usage: Usage = Usage()
    code: str | None = Field(default=None, description="Of the error, when failed.")
    message: str | None = None


class ToolStep(Payload):
    """Argument of `call_tool`."""

    run: str
    agent: str
    tenant: str
    number: int
    call: Call
    approval: str | None = Field(default=None, description="The approval's id, of a gated call.")
    decision: Decision | None = Field(default=None, description="Recorded before anything is performed.")
    decided_at: datetime | None = None
    decided_via: str | None = None
    permit: int = Field(default=0, description="Raised each time a person says: do it (again).")


class ToolOutcome(Payload):
    """Result of `call_tool` and of every other way in which a tool step settles."""

    status: Literal["completed", "failed", "unknown", "cancelled", "rejected", "skipped"]
    digest: str | None = Field(default=None, description="Of the output.")
    code: str | None = None
    message: str | None = Field(default=None, description="Short; the whole is in the ledger.")
    told: bool = Field(default=False, description="Failed on purpose (`ToolError`): always the model's to handle.")


class ApprovalRequest(Payload):
    """One question of `ask_approvals`."""

    id: str
    number: int = Field(description="Of the approval's own step.")
    guards: int = Field(description="Number of the tool step.")
    call: Call


class AskApprovals(Payload):
    """Argument of `ask_approvals`."""

    run: str
    requests: tuple[ApprovalRequest, ...]
    requested_at: datetime


class ApprovalOutcome(Payload):
    """How one approval ended, other than by an approved call (which `call_tool` records)."""

    id: str
    number: int
    guards: int
    call: Call
    status: Literal["rejected", "withdrawn"]
    by: str | None = None
    via: str | None = None
    comment: str | None = None
    at: datetime


class SettleApprovals(Payload):
    """Argument of `settle_approvals`: the tool steps they guard are settled with them."""

    run: str
    outcomes: tuple[ApprovalOutcome, ...]


class SettleStep(Payload):
    """Argument of `settle_step`: a person settled what the engine could not, or a call was never made."""

    run: str
    number: int
    call: Call
    status: Literal["completed", "skipped", "cancelled", "failed"]
    output: str
    by: str | None = None
    comment: str | None = None


class WriteMessage(Payload):
    """Argument of `write_message`."""

    id: str
    run: str
    thread: str
    text: str
    by: str | None = None


class WriteMemory(Payload):
    """Argument of `write_memory`."""

    run: str
    agent: str
    version: int
    tenant: str
    number: int


class CloseRun(Payload):
    """Argument of `close_run`."""

    run: str
    status: Literal["completed", "incomplete", "failed", "cancelled"]
    reason: str | None = None
    message: str | None = None
    turns: int = 0
    steps: int = 0
    usage: Usage = Usage()


class MarkRun(Payload):
    """Argument of `mark_run`: an open run's status, for lists."""

    run: str
    status: Literal["in_progress", "requires_action"]
