"""The wire contract: what a service in any language needs to know to use Horarium.

Names of workflows, signals, updates, queries, queues and search attributes, and the JSON that goes
with each. `docs/contract.md` is generated from here. Fields may be added to a model, never removed or
given another meaning; the strings never change.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from horarium.definitions import Limits
from horarium.structured import a_schema

# Names
RUN_WORKFLOW = "AgentRun"
NOTICE_WORKFLOW = "HorariumNotice"
TICK_WORKFLOW = "RoutineTick"
ROUTINE_ORDER_WORKFLOW = "RoutineOrder"
ROUTINE_ALERT_WORKFLOW = "HorariumRoutineAlert"
ROUTINE_WATCH_WORKFLOW = "HorariumRoutineWatch"
MEMORY_WORKFLOW = "HorariumMemory"
ENGINE_QUEUE = "horarium"
TOOL_QUEUE_PREFIX = "horarium-tools-"

UPDATE_DECIDE = "decide"
UPDATE_REASSIGN = "reassign"
SIGNAL_APPROVE = "approve"
SIGNAL_REJECT = "reject"
SIGNAL_MESSAGE = "message"
SIGNAL_TOOL_OUTPUTS = "submit_tool_outputs"
SIGNAL_RESOLVE = "resolve"
UPDATE_RESOLVE = "resolve"
SIGNAL_SUB_RUN = "sub_run"
QUERY_STATUS = "status"
QUERY_APPROVALS = "approvals"
QUERY_STEPS = "steps"

SEARCH_AGENT = "HorariumAgent"
SEARCH_STATUS = "HorariumStatus"
SEARCH_THREAD = "HorariumThread"
SEARCH_TENANT = "HorariumTenant"
SEARCH_ROUTINE = "HorariumRoutine"
SEARCH_ATTRIBUTES = (SEARCH_AGENT, SEARCH_STATUS, SEARCH_THREAD, SEARCH_TENANT, SEARCH_ROUTINE)

# Sizes
MAX_INLINE_INPUT_CHARS = 16_000
MAX_OUTPUT_CHARS = 4_000
MAX_MESSAGE_CHARS = 16_000
MAX_ARGUMENT_CHARS = 16_000
MAX_FUNCTIONS = 128
MAX_REASSIGNED_TO = 50
MAX_INLINE_FUNCTION_CHARS = 16_000
MAX_TICK_ID_CHARS = 200
MAX_EVENT_DEPTH = 100

Status = Literal[
    "queued", "in_progress", "requires_action", "completed", "incomplete", "failed", "cancelled", "expired"
]
OPEN_STATUSES: tuple[Status, ...] = ("queued", "in_progress", "requires_action")
StepKind = Literal["model_call", "tool_call", "memory_write", "handoff", "approval"]
StepStatus = Literal["claimed", "completed", "failed", "rejected", "skipped", "cancelled", "unknown", "pending"]
Verdict = Literal["approve", "reject", "answer"]
ResolutionVerdict = Literal["retry", "supply", "skip", "fail"]
ApprovalStatus = Literal["pending", "approved", "rejected", "answered", "expired", "withdrawn"]
GrantScope = Literal["run", "thread", "agent"]
TickStatus = Literal["queued", "running", "parked", "completed", "failed", "skipped", "cancelled", "missed"]
OPEN_TICK_STATUSES: tuple[TickStatus, ...] = ("queued", "running", "parked")
TickSource = Literal["schedule", "event", "manual", "backfill"]
RoutineAction = Literal["put", "delete", "pause", "resume", "run", "backfill", "fire"]


def _a_storable_text(text: str) -> str:
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds a character that cannot be stored (NUL, or half of a surrogate pair)")
    return text


def _a_name(name: str) -> str:
    if not name.strip():
        raise ValueError("is blank; say who")
    return name


def _a_calendar_time(at: datetime) -> datetime:
    at = at.astimezone(UTC) if 1 < at.year < 9999 else at
    if not 1970 <= at.year <= 9000:
        raise ValueError("is not between the years 1970 and 9000")
    return at


def _as_storable(event: dict[str, Any]) -> dict[str, Any]:
    """What cannot be stored is replaced and not refused: whoever sets off a tick repeats what others wrote."""
    return {_replaced(name): _storable(value, 1) for name, value in event.items()}


def _storable(value: Any, depth: int) -> Any:
    if depth > MAX_EVENT_DEPTH:
        raise ValueError(f"is nested deeper than {MAX_EVENT_DEPTH}")
    match value:
        case str():
            return _replaced(value)
        case float() if not math.isfinite(value):
            return str(value)
        case dict():
            return {_replaced(str(name)): _storable(item, depth + 1) for name, item in value.items()}
        case list() | tuple():
            return [_storable(item, depth + 1) for item in value]
        case _:
            return value


def _replaced(text: str) -> str:
    return text.replace("\x00", "\ufffd").encode("utf-8", "surrogatepass").decode("utf-8", "replace")


Text = Annotated[str, AfterValidator(_a_storable_text)]
Moment = Annotated[AwareDatetime, AfterValidator(_a_calendar_time)]
Name = Annotated[Text, AfterValidator(_a_name)]


class Wire(BaseModel):
    """Base of what crosses the wire: unknown fields are ignored, so that old and new can talk."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class DirectCall(Wire):
    """A call that whoever starts the run asks for, and no model."""

    tool: Text | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="One of the agent's tools. None: no call is made; its tools are looked up, and the run completes.",
    )
    arguments: dict[str, Any] | None = Field(
        default=None, description="They stay in Temporal's history; the Python client puts them into the ledger."
    )


class CallerFunction(Wire):
    """A tool that whoever started the run carries out: when the model calls it, the run waits for its output."""

    name: str = Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_\-]{0,63}$", description="No other tool of the agent's has it.")
    description: Text = Field(default="", max_length=20_000, description="What the model is told of it.")
    parameters: dict[str, Any] = Field(
        default={"type": "object", "properties": {}}, description="JSON Schema of the arguments, an object."
    )


def _short_enough(functions: tuple[CallerFunction, ...]) -> tuple[CallerFunction, ...]:
    if sum(len(function.model_dump_json()) for function in functions) > MAX_INLINE_FUNCTION_CHARS:
        raise ValueError(f"all functions together may have {MAX_INLINE_FUNCTION_CHARS:,} characters of JSON")
    return functions


class RunRequest(Wire):
    """The one argument of the `AgentRun` workflow. Its workflow id is the run's id."""

    agent: str = Field(description="The agent's name.")
    input: str | None = Field(
        default=None,
        max_length=MAX_INLINE_INPUT_CHARS,
        description="What the person asks. It stays in Temporal's history; put longer or private text into the ledger "
        "with the Python client, which does so by itself.",
    )
    version: int | None = Field(default=None, ge=1, description="Of the agent. None: the newest.")
    thread: str | None = Field(default=None, description="The conversation to go on with. None: a new one.")
    tenant: str = Field(default="default", max_length=64, description="Whose run it is.")
    requested_by: str | None = Field(default=None, max_length=200, description="Who started it.")
    resume_from: str | None = Field(
        default=None, description="A run that ended early: continue after its last settled step."
    )
    limits: Limits | None = Field(default=None, description="Instead of the agent's own.")
    metadata: dict[str, str] = Field(
        default={}, description="Yours; shown and stored, at most 16 entries.", max_length=16
    )
    continue_as_new_after: int | None = Field(
        default=None,
        ge=1,
        description="Steps before the workflow continues as new. None: when Temporal suggests it.",
    )
    parent: str | None = Field(
        default=None, description="The engine's own: the step, `run_…/0007`, that handed this run its task."
    )
    call: DirectCall | None = Field(
        default=None, description="Instead of `input`: make this one call, gated and kept as a model's, and complete."
    )
    functions: Annotated[tuple[CallerFunction, ...], AfterValidator(_short_enough)] = Field(
        default=(),
        max_length=MAX_FUNCTIONS,
        description="Tools that whoever starts the run carries out, for this run besides the agent's own; longer ones "
        "through the Python client.",
    )
    output_schema: Annotated[dict[str, Any], AfterValidator(a_schema)] | None = Field(
        default=None,
        description="JSON Schema that the final answer has to fit, instead of the agent's own; at most 16 KiB.",
    )
    carried: dict[str, Any] | None = Field(
        default=None, description="The engine's own, when it continues as new. Leave it out."
    )


class Usage(Wire):
    """What a run or step has used. Tokens are counted by the provider."""

    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    cost_micro_usd: int = Field(default=0, ge=0, description="Millionths of a dollar; 0 without a price.")

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost_micro_usd=self.cost_micro_usd + other.cost_micro_usd,
        )


class RunResult(Wire):
    """What a run ended with; the result of the workflow, or the first detail of its failure."""

    run: str
    thread: str
    agent: str
    version: int
    status: Status
    reason: str | None = Field(
        default=None, description="Why it ended, when not completed: a limit's name, or an error's code."
    )
    message: str | None = Field(default=None, description="The reason in words.")
    output: str = Field(
        default="",
        max_length=MAX_OUTPUT_CHARS,
        description="The final answer, cut; the ledger has the whole.",
    )
    output_truncated: bool = False
    turns: int = 0
    steps: int = 0
    usage: Usage = Usage()


class Waiting(Wire):
    """What a run in `requires_action` waits for."""

    kind: Literal["approval", "unknown_outcome", "held_step", "sub_agent", "tool_worker", "function_call"]
    id: str = Field(
        description="The approval's id, the step's, with `sub_agent` that of the run that asks, or with "
        "`function_call` the call's, for `submit_tool_outputs`."
    )
    question: str | None = Field(default=None, description="Its id in the inbox.")
    tool: str | None = None
    text: str = Field(description="In words.")


class SubRun(Wire):
    """Payload of the engine's own signal `sub_run`: what the run of a sub-agent waits for, told to its parent."""

    run: str
    step: str = Field(description="The parent's.")
    waiting_for: tuple[Waiting, ...] = Field(default=(), max_length=50)


class RunStatus(Wire):
    """Answer of the query `status`."""

    run: str
    thread: str | None
    agent: str
    version: int | None
    status: Status
    reason: str | None = None
    waiting_for: tuple[Waiting, ...] = ()
    turns: int = 0
    steps: int = 0
    usage: Usage = Usage()
    refused_signals: tuple[str, ...] = Field(default=(), description="The latest signals that did not count, and why.")


class Proof(Wire):
    """Who signed a decision, or an order about a routine; `horarium.proof` says over what.

    Made by the gateway, after it has authenticated the person, or by a service that holds an approver key.
    """

    key: str = Field(max_length=40, description="Id of the key that signed.")
    expires_at: datetime = Field(description="It must be carried out before.")
    nonce: str = Field(min_length=8, max_length=64)
    signature: str = Field(max_length=200, description="Ed25519 over the statement, base64url without padding.")


class Remember(Wire):
    """With an approval: release such calls from now on, where the approval plan lets a person say so."""

    scope: GrantScope = Field(description="Calls of this run, of this thread, or of any run of this agent.")
    lasts: timedelta = Field(gt=timedelta(0), description="How long; the plan has the longest.")
    bounds: dict[str, Any] = Field(
        default={}, description="JSON Schema keywords for each argument; empty: exactly the arguments that were shown."
    )


class Vote(Wire):
    """One person's word on an approval."""

    by: str
    verdict: Verdict
    digest: str = Field(description="Of the arguments it was about.")
    at: datetime
    via: str = Field(description="update or signal.")
    key: str | None = Field(default=None, description="The key that proved who it was. None: the name is a claim.")
    comment: str | None = None


class Approval(Wire):
    """One pending or decided question; the query `approvals` answers with a list of them."""

    id: str
    run: str
    step: str = Field(description="The tool call it guards.")
    tool: str
    effect: str
    digest: str = Field(description="Send it back with the decision: it binds to these very arguments.")
    preview: str = Field(description="The arguments as JSON, cut at 500 characters; the ledger has the whole.")
    status: ApprovalStatus
    requested_at: datetime
    rule: str = Field(default="default", description="The rule of the agent's approval plan that asks.")
    approvers: tuple[str, ...] = Field(default=(), description="Who may decide; empty: anybody.")
    more_approvers: int = Field(
        default=0, description="How many may decide besides those in `approvers`, which is cut; the ledger has all."
    )
    required: int = Field(default=1, description="How many have to approve. One rejection rejects.")
    not_by: tuple[str, ...] = Field(default=(), description="Who may not: whoever started the run (four eyes).")
    expires_at: datetime | None = None
    escalated: bool = False
    reassigned: int = Field(default=0, description="How often it was handed to others.")
    reassigned_by: str | None = Field(default=None, description="Who did so last.")
    edited_by: str | None = Field(default=None, description="Who changed the arguments; the digest is of theirs.")
    votes: tuple[Vote, ...] = ()
    decided_at: datetime | None = None
    decided_by: str | None = None
    comment: str | None = None


class Decision(Wire):
    """Payload of the signals `approve` and `reject` and of the update `decide`."""

    approval: str = Field(description="The approval's id.")
    digest: str = Field(description="The digest that was shown.")
    by: Name = Field(min_length=1, max_length=200, description="Who decides.")
    verdict: Verdict | None = Field(default=None, description="Needed by `decide`; the signals imply it.")
    comment: Text | None = Field(
        default=None, max_length=2_000, description="The model is told, when it is a rejection."
    )
    arguments: dict[str, Any] | None = Field(
        default=None,
        description="With `approve`: these instead of the ones that were shown. They are checked like a model's, at "
        "most 16,000 characters of JSON, kept as the person's, and the model is told.",
    )
    answer: Text | None = Field(
        default=None,
        max_length=MAX_MESSAGE_CHARS,
        description="With `answer`: what the model is told instead of a result. The call is not made.",
    )
    remember: Remember | None = Field(default=None, description="With `approve`: a standing grant as well.")
    proof: Proof | None = Field(default=None, description="Needed where the worker requires proof.")


class Reassignment(Wire):
    """Payload of the update `reassign`: others decide on an open approval, in place of those who were asked.

    Whoever may decide may do so. What the plan wants besides stays: how many approve, four eyes, until when. Votes that
    were given stand, and whoever gave one stays among those who decide.
    """

    approval: str = Field(description="The approval's id.")
    digest: str = Field(description="The digest that was shown.")
    to: tuple[Annotated[Name, Field(max_length=200)], ...] = Field(
        min_length=1,
        max_length=MAX_REASSIGNED_TO,
        description="Who decides from now on: people, and roles as `role:<name>`.",
    )
    by: Name = Field(min_length=1, max_length=200, description="Who says so.")
    as_admin: bool = Field(
        default=False,
        description="Whoever says so is an administrator, and need not be among those who decide. Where proof is "
        "required, with a key that may sign for anybody.",
    )
    comment: Text | None = Field(default=None, max_length=2_000, description="For those who decide from now on.")
    proof: Proof | None = Field(default=None, description="Needed where the worker requires proof.")


class ApprovalState(Wire):
    """Answer of the updates `decide` and `reassign`."""

    approval: Approval
    repeated: bool = Field(default=False, description="The same had been said before; nothing changed.")


class Message(Wire):
    """Payload of the signal `message`: more input for a run in progress, read before its next turn."""

    text: Text = Field(min_length=1, max_length=MAX_MESSAGE_CHARS)
    by: Text | None = Field(default=None, max_length=200)


class ToolOutputs(Wire):
    """Payload of the signal `submit_tool_outputs`: what came of calls that whoever started the run carries out.

    The first output of a call stands. Calls that are not named here go on waiting.
    """

    outputs: dict[str, Text | None] = Field(
        min_length=1,
        max_length=MAX_FUNCTIONS,
        description="By the call's id, as `status` has it. Null: the ledger has it, where the Python client puts it.",
    )
    by: Text | None = Field(default=None, max_length=200, description="Who carried them out.")

    @model_validator(mode="after")
    def _are_short(self) -> Self:
        if sum(len(text or "") for text in self.outputs.values()) > MAX_MESSAGE_CHARS:
            raise ValueError(f"all outputs together may have {MAX_MESSAGE_CHARS:,} characters")
        return self


class Resolution(Wire):
    """Payload of the signal `resolve`: how to go on with a held step or an unknown outcome.

    `retry`: do it (again), with the same key: say it when it did not happen. `supply`: it happened, or is not
    needed; `output` is its result. `skip`: leave it undone and tell the model. `fail`: end the run.
    """

    step: str = Field(description="The step's id.")
    question: str | None = Field(
        default=None,
        description="The id of the question in the inbox: binds the answer to this occurrence and no later one. "
        "Needed with a proof.",
    )
    verdict: ResolutionVerdict
    by: Name = Field(min_length=1, max_length=200)
    output: str | None = Field(default=None, max_length=MAX_MESSAGE_CHARS)
    comment: Text | None = Field(default=None, max_length=2_000)
    proof: Proof | None = Field(default=None, description="Needed where the worker requires proof.")


class ResolutionState(Wire):
    """Answer of the update `resolve`."""

    step: str
    verdict: ResolutionVerdict
    by: str
    repeated: bool = Field(default=False, description="The same answer had been given before; nothing changed.")


class StepSummary(Wire):
    """One row of the query `steps`, which has the latest 200; the ledger has all, with their content."""

    id: str
    kind: StepKind
    name: str
    status: StepStatus
    note: str | None = None


class TickRequest(Wire):
    """The one argument of the `RoutineTick` workflow, whose id is `routine.<name>-<scheduled time, UTC>`.

    Temporal's schedules start it. Another service asks for a tick with a `RoutineOrder`.
    """

    routine: Text = Field(min_length=1, max_length=63)
    trigger: Text | None = Field(
        default=None, max_length=63, description="The trigger's name. None: a person, by hand."
    )
    source: TickSource = "schedule"
    at: Moment | None = Field(
        default=None,
        description="Its scheduled time, with its offset. None: what Temporal's schedule says.",
    )
    event: Annotated[dict[str, Any], AfterValidator(_as_storable)] | None = Field(
        default=None, description="What happened, for the input template."
    )
    input: Text | None = Field(
        default=None, max_length=MAX_INLINE_INPUT_CHARS, description="Instead of the routine's template."
    )
    by: Name | None = Field(default=None, max_length=200, description="Who asked for it.")


class TickResult(Wire):
    """What a tick came to; the result of the `RoutineTick` workflow, which does not fail when its runs do."""

    tick: str
    routine: str
    status: TickStatus
    reason: str | None = Field(default=None, description="A code: why it did not complete.")
    message: str | None = Field(default=None, description="The reason in words.")
    attempts: int = 0
    run: str | None = Field(default=None, description="The latest attempt.")


class RoutineOrder(Wire):
    """The one argument of the `RoutineOrder` workflow: change a routine, or have it run."""

    action: RoutineAction = Field(
        description="put: create or update; delete; pause: no trigger fires; resume; run: now; backfill: the fires of "
        "a range of time; fire: an event, for every routine that waits for it."
    )
    routine: str | None = Field(default=None, max_length=63, description="Its name; not needed with `fire`.")
    definition: dict[str, Any] | None = Field(default=None, description="With `put`: the fields of a routine's file.")
    by: Name | None = Field(default=None, max_length=200, description="Who wants it.")
    tenant: str = Field(default="default", max_length=64)
    note: Text | None = Field(default=None, max_length=2_000, description="With `pause`: why.")
    until: datetime | None = Field(default=None, description="With `pause`: it resumes by itself.")
    input: Text | None = Field(default=None, max_length=MAX_INLINE_INPUT_CHARS, description="With `run`.")
    start: datetime | None = Field(default=None, description="With `backfill`: fires from here on.")
    end: datetime | None = Field(default=None, description="With `backfill`: fires up to here.")
    event: str | None = Field(default=None, max_length=200, description="With `fire`: the event's name.")
    payload: dict[str, Any] | None = Field(default=None, description="With `fire`: what the template gets as `event`.")
    key: str | None = Field(
        default=None, max_length=100, description="With `run` and `fire`: the same key sets a routine off once."
    )
    proof: Proof | None = Field(default=None, description="Needed where the worker requires proof, but with `fire`.")


class RoutineOrdered(Wire):
    """What an order came to; the result of the `RoutineOrder` workflow, or it fails with an error's code."""

    action: RoutineAction
    routine: str | None = None
    changed: bool = Field(default=False, description="False: it was so before.")
    ticks: tuple[str, ...] = Field(default=(), description="Ids of the ticks that were started.")
    message: str = Field(default="", description="In words.")
