"""What a run's machine wants done: its driver carries each out, and each comes back as one event."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from horarium.contract import Resolution
from horarium.definitions import Limits
from horarium.protocol import ApprovalOutcome, ApprovalRequest, Ballot, Call, NoticeEvent


@dataclass(frozen=True, slots=True)
class CallModel:
    """Ask the model for its next turn."""

    number: int
    answered: tuple[str, ...]
    messages: tuple[str, ...]
    note: str | None
    offer: str | None
    closing: bool
    permit: int
    required: bool = False
    recalled: int | None = None
    compacted: bool = False


@dataclass(frozen=True, slots=True)
class CallTool:
    """Perform one call, under the decision that released it."""

    number: int
    call: Call
    approval: str | None
    ballots: tuple[Ballot, ...]
    permit: int
    again: Resolution | None


@dataclass(frozen=True, slots=True)
class HandOff:
    """Have a sub-agent perform one call, in a run of its own with these limits."""

    number: int
    call: Call
    approval: str | None
    ballots: tuple[Ballot, ...]
    permit: int
    again: Resolution | None
    limits: Limits


@dataclass(frozen=True, slots=True)
class BeginFunction:
    """Give one call to whoever started the run."""

    number: int
    call: Call


@dataclass(frozen=True, slots=True)
class SettleFunction:
    """Settle such a call: its output is there, or is not waited for any longer."""

    number: int
    call: Call
    ended: Literal["expired", "withdrawn"] | None


@dataclass(frozen=True, slots=True)
class Recall:
    """Look up what is remembered, before the first turn."""

    number: int


@dataclass(frozen=True, slots=True)
class Compact:
    """Have the older part of the conversation summarised."""

    number: int


@dataclass(frozen=True, slots=True)
class AskPeople:
    """Put questions to people."""

    requests: tuple[ApprovalRequest, ...]


@dataclass(frozen=True, slots=True)
class AskAgain:
    """The worker that was to make the call did not accept the decision: the question is open again."""

    approval: str
    why: str


@dataclass(frozen=True, slots=True)
class Escalate:
    """Nobody decided in time: let others decide as well, until `expires_at`."""

    number: int
    approval: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Tell:
    """Let people know."""

    event: NoticeEvent
    subject: str
    occurrence: int = 0
    tool: str = ""


@dataclass(frozen=True, slots=True)
class Inquire:
    """Put a question that only a person can settle into the inbox."""

    question: str
    kind: Literal["unknown_outcome", "held_step"]
    number: int
    call: Call | None
    text: str


@dataclass(frozen=True, slots=True)
class SettleInquiry:
    """Write down how a person settled a question."""

    question: str
    resolution: Resolution
    via: Literal["update", "signal"]
    key: str | None


@dataclass(frozen=True, slots=True)
class SettleApprovals:
    """Write down rejections, answers, expiries and withdrawals, and settle the calls they were about."""

    outcomes: tuple[ApprovalOutcome, ...]


@dataclass(frozen=True, slots=True)
class SettleCall:
    """Write down how a call was settled without being made: by a person, now or when it was asked for before."""

    number: int
    call: Call
    status: Literal["completed", "skipped", "rejected"]
    output: str
    by: str | None
    comment: str | None
    resolution: Resolution | None = None


@dataclass(frozen=True, slots=True)
class StopSteps:
    """Ask these steps, in flight, to stop; each still comes back."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Remember:
    """Leave a memory of the run."""

    number: int


@dataclass(frozen=True, slots=True)
class Close:
    """End the run."""

    status: Literal["completed", "incomplete", "failed", "cancelled"]
    reason: str | None
    message: str | None


Command = (
    CallModel
    | CallTool
    | HandOff
    | BeginFunction
    | SettleFunction
    | Recall
    | Compact
    | AskPeople
    | AskAgain
    | Escalate
    | Tell
    | Inquire
    | SettleInquiry
    | SettleApprovals
    | SettleCall
    | StopSteps
    | Remember
    | Close
)
