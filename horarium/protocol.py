"""What workflow and activities say to each other, engine and tool workers alike.

References, counts and short texts only: everything here is written into Temporal's history, several
times a turn. The content is in the ledger, under the step's id.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from horarium.contract import Decision, Reassignment, Resolution, RunRequest, Usage
from horarium.definition import Execution
from horarium.definitions import Limits, OnStepFailure, RememberRule
from horarium.tools import Effect

# Activity names; stored in histories, so they never change.
OPEN_RUN = "open_run"
CALL_MODEL = "call_model"
CALL_TOOL = "call_tool"
WRITE_MEMORY = "write_memory"
WRITE_MESSAGE = "write_message"
ASK_APPROVALS = "ask_approvals"
SETTLE_APPROVALS = "settle_approvals"
CHECK_DECISION = "check_decision"
CHECK_RESOLUTION = "check_resolution"
RECORD_VOTE = "record_vote"
ESCALATE = "escalate"
REASSIGN = "reassign"
OPEN_QUESTION = "open_question"
SETTLE_QUESTION = "settle_question"
SETTLE_STEP = "settle_step"
MARK_RUN = "mark_run"
CLOSE_RUN = "close_run"
NOTIFY = "notify"
DISCOVER_TOOLS = "discover_tools"
FIND_WORKER = "find_worker"
RECALL_MEMORY = "recall_memory"
DELIVER_MEMORIES = "deliver_memories"
COMPACT_THREAD = "compact_thread"
BEGIN_HANDOFF = "begin_handoff"
SETTLE_HANDOFF = "settle_handoff"
BEGIN_FUNCTION = "begin_function"
TAKE_OUTPUTS = "take_tool_outputs"
SETTLE_FUNCTION = "settle_function"
RUN_SEGMENT = "run_segment"
START_SEGMENT = "start_segment"

TOOLS_NOT_DISCOVERED = "tools_not_discovered"  # error code of `open_run`: discover them, then open again

NoticeEvent = Literal[
    "requested",
    "reminder",
    "escalated",
    "reassigned",
    "expired",
    "decided",
    "unknown_outcome",
    "held_step",
    "tool_unserved",
    "run_ended",
    "run_requires_action",
]

RUN_NOTICES: tuple[NoticeEvent, ...] = ("run_ended", "run_requires_action")

REVISION = 2
PREVIEW_CHARS = 500
NOTE_CHARS = 300


class Payload(BaseModel):
    """Base of the engine's own payloads."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Gate(Payload):
    """What stands between a call and its effect: the rule of the approval plan that fits, and when it does what.

    Whom it asks is left out: that may be hundreds, so it is looked up by the rule's name, and kept in the ledger.
    """

    rule: str = Field(default="default", description="`approvals.<n>` of the agent, or `default`.")
    required: int = 1
    four_eyes: bool = False
    expires_after: timedelta | None = None
    on_expiry: Literal["reject", "fail", "escalate"] | None = None
    on_escalation_expiry: Literal["reject", "fail"] = "reject"
    remind_every: timedelta | None = None
    remember: RememberRule | None = None


class Call(Payload):
    """One tool call of a turn: where its arguments stand and how to perform it."""

    id: str = Field(description="The call id, unique within the run.")
    tool: str
    digest: str = Field(description="Of tool, schema and arguments: what an approval binds to.")
    key: str = Field(description="Idempotency key.")
    source: str = Field(description="The step id of the model call that asked for it.")
    effect: Effect = Effect.READ
    gated: bool = Field(default=False, description="A person is asked first.")
    gate: Gate | None = Field(default=None, description="How; None: anybody may release it, and it does not expire.")
    released_by: str | None = Field(
        default=None, description="What releases it without asking: a grant's id, or `plan:<rule>`."
    )
    edited: bool = Field(default=False, description="The arguments are a person's; the digest is of them.")
    queue: str | None = Field(default=None, description="Task queue of the worker that serves it. None: the engine's.")
    timeout: timedelta = timedelta(minutes=5)
    preview: str = Field(default="", description="The arguments, cut; only of gated calls.")
    approved_in: str | None = Field(default=None, description="The approval that stands, of a resumed call.")
    agent: str | None = Field(default=None, description="The sub-agent that does it, in a run of its own.")
    function: bool = Field(default=False, description="Whoever started the run does it, and submits the output.")


class Ballot(Payload):
    """A decision that counted, and how it came. Edited arguments are left out: the ledger has them."""

    decision: Decision
    at: datetime
    via: Literal["update", "signal"]
    key: str | None = Field(default=None, description="The key that proved who decided. None: the name is a claim.")
    edits: bool = Field(default=False, description="The decision came with arguments, the same or others.")


class RunPlan(Payload):
    """What opening a run settles: everything the workflow may not look up itself."""

    run: str
    thread: str
    agent: str
    version: int
    limits: Limits
    on_step_failure: OnStepFailure
    procedure: tuple[str, ...] = ()
    choice: str | None = Field(
        default=None, description="The tool that has to be called before any other; `*`: whichever. None: none has to."
    )
    remembers: bool = False
    revision: int = Field(
        default=0,
        description="Of the workflow's behaviour; what a run was opened with it keeps. 1: inbox, refusals. "
        "2: the first segment begins in the first workflow task.",
    )
    require_proof: bool = False
    notifies: bool = Field(default=False, description="There are addresses to tell of approvals.")
    not_by: tuple[str, ...] = Field(default=(), description="Who started the run, and the one that it resumes.")
    model_timeout: timedelta
    continue_as_new_after: int | None = None
    heartbeat_timeout: timedelta
    pending: tuple[Call, ...] = Field(default=(), description="Calls of a resumed run that still are to be made.")
    answered: tuple[str, ...] = Field(default=(), description="Steps of a resumed run the model has not seen yet.")
    messages: tuple[str, ...] = Field(default=(), description="What was asked, when the pending calls come first.")
    procedure_done: int = 0
    recalls: bool = Field(default=False, description="Memories are recalled before the first turn.")
    calls_only: bool = Field(
        default=False, description="No model is asked: the run makes its pending calls and completes."
    )
    next_number: int = Field(
        default=1, description="Of the first step to come: 2 when opening has written down what the caller asked for."
    )
    parent: str | None = Field(default=None, description="The run that handed this one its task; verified.")
    parent_step: int | None = None
    unserved_after: timedelta = Field(
        default=timedelta(seconds=10), description="A call that no tool worker takes for so long is told of."
    )
    structured: bool = Field(
        default=False, description="The final answer has to fit a schema, which the ledger has with the run."
    )
    tells_runs: bool = Field(default=False, description="Programs are told when the run waits.")
    execution: Execution = Field(default="steps", description="Each step an activity, or many of them in one.")


class DiscoverTools(Payload):
    """Argument of `discover_tools`."""

    run: str
    request: RunRequest


class FindWorker(Payload):
    """Argument of `find_worker`: where a tool is served now."""

    run: str
    tool: str


class WorkerFound(Payload):
    """Result of `find_worker`."""

    queue: str | None = Field(description="None: the engine's own.")


class Segment(Payload):
    """Argument of `run_segment`: the run's plan, the machine's state and the commands to begin with."""

    run: str
    tenant: str
    carried: list[dict[str, Any]] | str
    stop: bool = Field(
        default=False, description="The run was cancelled: settle what an attempt before has begun, and nothing more."
    )


class SegmentDone(Payload):
    """Result of `run_segment`: the machine's state, and the commands that it has not begun."""

    carried: list[dict[str, Any]] | str
    messages: tuple[str, ...] = Field(default=(), description="Of those that were sent meanwhile, what it has taken.")
    final: ModelReply | None = Field(
        default=None, description="The turn that would end the run, not handled yet: a message may have come before it."
    )


class SegmentStarted(Payload):
    """Result of `start_segment`; without one, the segment goes on as an activity of its own."""

    done: SegmentDone | None = None


class Recall(Payload):
    """Argument of `recall_memory`: what is known, for the first turn."""

    run: str
    thread: str
    agent: str
    version: int
    tenant: str
    number: int


class Recalled(Payload):
    """Result of `recall_memory`."""

    status: Literal["completed", "failed"] = "completed"
    message: str | None = None


class CompactThread(Payload):
    """Argument of `compact_thread`: have the model summarise the older part of a long conversation."""

    run: str
    thread: str
    agent: str
    version: int
    tenant: str
    number: int
    permit: int = 0


class Compacted(Payload):
    """Result of `compact_thread`."""

    status: Literal["completed", "failed"] = "completed"
    usage: Usage = Usage()
    code: str | None = None
    message: str | None = None


class BeginHandoff(Payload):
    """Argument of `begin_handoff`: claim the step, and put the task down for the sub-agent's run."""

    run: str
    thread: str
    agent: str
    tenant: str
    number: int
    call: Call
    approval: str | None = None
    ballots: tuple[Ballot, ...] = ()
    permit: int = 0
    again: Resolution | None = None
    limits: Limits = Field(description="What is left of the parent's, shared among the sub-agents of the turn.")


class Handoff(Payload):
    """Result of `begin_handoff`: the sub-agent's run to start, or the outcome when there is none to start."""

    run: str | None = None
    request: RunRequest | None = None
    outcome: ToolOutcome | None = Field(default=None, description="Settled before, refused, or failed.")


class SettleHandoff(Payload):
    """Argument of `settle_handoff`: the sub-agent's run has ended."""

    run: str
    number: int
    call: Call
    sub_run: str
    cancelled: bool = Field(default=False, description="Because the parent was cancelled.")


class BeginFunction(Payload):
    """Argument of `begin_function`: claim the step, and let whoever started the run see the call."""

    run: str
    number: int
    call: Call
    at: datetime


class FunctionBegun(Payload):
    """Result of `begin_function`."""

    expires_at: datetime | None = None
    outcome: ToolOutcome | None = Field(default=None, description="Settled before, or failed: nothing is waited for.")


class TakeOutputs(Payload):
    """Argument of `take_tool_outputs`: by the step's number, the text, or None when the ledger should have it."""

    run: str
    outputs: dict[int, str | None]
    by: str | None = None


class TakenOutputs(Payload):
    """Result of `take_tool_outputs`."""

    taken: tuple[int, ...] = Field(default=(), description="The steps that have an output now.")
    refused: dict[int, str] = Field(default={}, description="By the step's number: why it did not count.")


class SettleFunction(Payload):
    """Argument of `settle_function`: the call has an output, or is waited for no longer. An output that is there
    wins."""

    run: str
    number: int
    call: Call
    ended: Literal["expired", "withdrawn"] | None = None


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
    required: bool = Field(default=False, description="Some tool has to be called in this turn.")
    max_calls: int = 32
    permit: int = 0
    recalled: int | None = Field(default=None, description="The step that recalled memories.")
    compacted: bool = Field(default=False, description="A summary was tried since the last turn that counted.")
    structured: bool = Field(default=False, description="As in `RunPlan`.")


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
    compact: bool = Field(
        default=False,
        description="The conversation nears the end of the model's window, or, when failed, does not fit.",
    )


class ToolStep(Payload):
    """Argument of `call_tool`."""

    run: str
    thread: str = ""
    agent: str
    tenant: str
    number: int
    call: Call
    approval: str | None = Field(default=None, description="The approval's id, of a gated call.")
    ballots: tuple[Ballot, ...] = Field(
        default=(), description="The approvals that release it; recorded before anything is performed."
    )
    permit: int = Field(default=0, description="Raised each time a person says: do it (again).")
    again: Resolution | None = Field(default=None, description="The person's word that raised the permit.")


class ToolOutcome(Payload):
    """Result of `call_tool` and of every other way in which a tool step settles."""

    status: Literal["completed", "failed", "unknown", "cancelled", "rejected", "skipped", "refused"] = Field(
        description="refused: the decision does not release it; nothing was begun, and people are asked again."
    )
    digest: str | None = Field(default=None, description="Of the output.")
    code: str | None = None
    message: str | None = Field(default=None, description="Short; the whole is in the ledger.")
    told: bool = Field(default=False, description="Failed on purpose (`ToolError`): always the model's to handle.")
    usage: Usage | None = Field(default=None, description="Of a sub-agent's run, with all below it.")
    handoffs: int = Field(default=0, description="Runs of sub-agents that there were below a sub-agent's.")


class ApprovalRequest(Payload):
    """One question of `ask_approvals`."""

    id: str
    number: int = Field(description="Of the approval's own step.")
    guards: int = Field(description="Number of the tool step.")
    call: Call


class AskApprovals(Payload):
    """Argument of `ask_approvals`."""

    run: str
    agent: str = ""
    tenant: str = "default"
    thread: str = ""
    not_by: tuple[str, ...] = Field(default=(), description="Who four eyes keep out.")
    requests: tuple[ApprovalRequest, ...]
    requested_at: datetime


class AskedApproval(Payload):
    """What became of one question."""

    guards: int
    people: tuple[str, ...] = Field(
        default=(), description="Who may decide, roles resolved; empty: anybody. Cut: the ledger has all."
    )
    more: int = Field(default=0, description="How many were cut.")
    released: bool = Field(default=False, description="A standing grant, or the plan itself, released the call.")
    denied: str | None = Field(
        default=None, description="Nobody is asked, as the routine says, and it is not made; what the model is told."
    )


class AskedApprovals(Payload):
    """Result of `ask_approvals`."""

    asked: tuple[AskedApproval, ...] = ()


class CheckDecision(Payload):
    """Argument of `check_decision`: what the workflow cannot check by itself."""

    run: str
    approval: str
    number: int = Field(description="Of the tool step.")
    call: Call
    decision: Decision
    at: datetime
    via: Literal["update", "signal"]


class CheckResolution(Payload):
    """Argument of `check_resolution`."""

    run: str
    resolution: Resolution
    at: datetime
    via: Literal["update", "signal"] | None = Field(default=None, description="None: met where the effect is.")


class Checked(Payload):
    """Result of `check_decision`, `check_resolution`, `record_vote` and `settle_question`."""

    key: str | None = Field(default=None, description="The key that proved who decided.")
    call: Call | None = Field(default=None, description="The call with the person's arguments.")
    code: str | None = Field(default=None, description="Of the error, when the decision does not count.")
    message: str | None = None


class RecordVote(Payload):
    """Argument of `record_vote`: a vote that counts and does not decide yet."""

    run: str
    approval: str
    ballot: Ballot
    digest: str


class Escalate(Payload):
    """Argument of `escalate`; its result is the people who may decide from now on."""

    run: str
    approval: str
    at: datetime
    expires_at: datetime


class Escalated(Payload):
    """Result of `escalate`."""

    people: tuple[str, ...] = Field(default=(), description="As in `AskedApproval`.")
    more: int = 0


class Reassign(Payload):
    """Argument of `reassign`."""

    run: str
    reassignment: Reassignment
    at: datetime


class Reassigned(Payload):
    """Result of `reassign`."""

    people: tuple[str, ...] = Field(default=(), description="As in `AskedApproval`.")
    more: int = 0
    times: int = Field(default=0, description="How often the approval was handed to others.")
    code: str | None = Field(default=None, description="Of the error, when it does not count.")
    message: str | None = None


class ApprovalOutcome(Payload):
    """How one approval ended, other than by an approved call (which `call_tool` records)."""

    id: str
    number: int
    guards: int
    call: Call
    status: Literal["rejected", "answered", "expired", "withdrawn"]
    ballot: Ballot | None = Field(default=None, description="The person's word, when a person ended it.")
    at: datetime

    @property
    def by(self) -> str | None:
        """Who ended it, when a person did."""
        return self.ballot.decision.by if self.ballot else None

    @property
    def comment(self) -> str | None:
        """The person's reason."""
        return self.ballot.decision.comment if self.ballot else None


class SettleApprovals(Payload):
    """Argument of `settle_approvals`: the tool steps they guard are settled with them."""

    run: str
    outcomes: tuple[ApprovalOutcome, ...]


class SettledApprovals(Payload):
    """Result of `settle_approvals`."""

    refused: dict[int, str] = Field(
        default={}, description="By the tool step's number: whose word does not count here, and why. Nothing changed."
    )


class OpenQuestion(Payload):
    """Argument of `open_question`: something only a person can settle, for the same inbox as approvals."""

    id: str
    kind: Literal["unknown_outcome", "held_step"]
    run: str
    agent: str
    tenant: str
    number: int
    call: Call | None = Field(default=None, description="None: the step is a model call.")
    text: str
    at: datetime


class SettleQuestion(Payload):
    """Argument of `settle_question`."""

    id: str
    run: str
    resolution: Resolution
    at: datetime
    via: Literal["update", "signal"]
    key: str | None = None


class SettleStep(Payload):
    """Argument of `settle_step`: a person settled what the engine could not, or a call was never made."""

    run: str
    number: int
    call: Call
    status: Literal["completed", "skipped", "cancelled", "failed", "rejected"]
    output: str
    by: str | None = None
    comment: str | None = None
    resolution: Resolution | None = Field(default=None, description="The person's word; it may be signed.")


class WriteMessage(Payload):
    """Argument of `write_message`."""

    id: str
    run: str
    thread: str
    text: str
    by: str | None = None


class WrittenMemory(Payload):
    """Result of `write_memory`."""

    deliver: bool = Field(default=False, description="A store elsewhere has to be told, for as long as it takes.")
    usage: Usage = Usage()


class DeliverMemories(Payload):
    """Argument of the workflow `HorariumMemory` and of `deliver_memories`: tell a store elsewhere what a run left."""

    run: str


class WriteMemory(Payload):
    """Argument of `write_memory`."""

    run: str
    agent: str
    version: int
    tenant: str
    number: int


class CloseRun(Payload):
    """Argument of `close_run`."""

    wants_output: bool = Field(default=False, description="Of the call, in a run that only made one.")

    run: str
    status: Literal["completed", "incomplete", "failed", "cancelled"]
    reason: str | None = None
    message: str | None = None
    turns: int = 0
    steps: int = 0
    usage: Usage = Usage()


class ClosedRun(Payload):
    """Result of `close_run`, when the output was wanted or somebody is to be told."""

    output: str | None = Field(default="", description="Of the call that was made, cut. None: it was not wanted.")
    output_truncated: bool = False
    tells: bool = Field(default=False, description="Programs are told how it ended.")


class Notice(Payload):
    """Argument of `notify`: what people are told of; the content is in the ledger."""

    run: str
    subject: str = Field(description="The question's id; of `tool_unserved`: the step's; of `run_…`: the run's.")
    event: NoticeEvent
    occurrence: int = Field(
        default=0, description="Of reminders, of reassignments, and of the times that a run waits: which."
    )
    at: datetime | None = Field(default=None, description="When it happened; only of `run_…`.")
    tool: str = Field(default="", max_length=64, description="Of `tool_unserved`: which tool is called.")


class MarkRun(Payload):
    """Argument of `mark_run`: an open run's status, for lists."""

    run: str
    status: Literal["in_progress", "requires_action"]
