"""Everything a run is between two events: one small model, so that it can be handed over there."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, Field

from horarium.contract import Resolution, StepSummary, Usage, Waiting
from horarium.definitions import Limits
from horarium.protocol import Ballot, Call

CallPhase = Literal["asking", "asked", "running", "given", "refusing", "held", "unknown", "settling", "settled"]


class CallState(BaseModel):
    """One call of the current turn."""

    number: int
    call: Call
    phase: CallPhase
    question: int | None = Field(default=None, description="Number of the approval step.")
    ballots: tuple[Ballot, ...] = ()
    expires_at: datetime | None = None
    remind_at: datetime | None = None
    told: int = Field(default=0, description="Notices so far; each is told apart by its number.")
    escalated: bool = False
    expired: bool = False
    permit: int = 0
    again: Resolution | None = None
    was: Literal["held", "unknown"] = Field(default="held", description="Before a person said: do it again.")
    message: str | None = None
    limits: Limits | None = Field(default=None, description="Of the sub-agent's run, when it is handed to one.")
    sub_waits: tuple[Waiting, ...] = Field(default=(), description="What the sub-agent's run waits for.")
    unserved: bool = Field(default=False, description="No tool worker has taken it so far.")
    submitted: bool = Field(default=False, description="Whoever started the run has carried it out.")

    @property
    def waits_for_people(self) -> bool:
        if self.phase == "running":
            return self.unserved or bool(self.sub_waits)
        return self.phase in ("asked", "given", "held", "unknown")

    @property
    def in_flight(self) -> bool:
        return self.phase in ("asking", "running", "refusing", "settling")


class Ending(BaseModel):
    """How the run will end once nothing is in flight."""

    status: Literal["completed", "incomplete", "failed", "cancelled"]
    reason: str | None = None
    message: str | None = None


class MachineState(BaseModel):
    """Everything a run is between two events."""

    next_number: int = 1
    turns: int = 0
    usage: Usage = Usage()
    malformed: int = 0
    note: str | None = None
    last_digest: str | None = None
    repeats: int = 0
    refusals: dict[str, str] = Field(default={}, description="Digest of a call that people refused, to their words.")
    procedure_done: int = 0
    answered: list[str] = []
    messages: list[str] = []
    calls: list[CallState] = []
    tool_calls: int = 0
    model: Literal["none", "running", "held"] = "none"
    model_number: int = 0
    model_permit: int = 0
    model_sent: tuple[int, int] = (0, 0)
    recalling: int | None = Field(default=None, description="Number of the step that does.")
    recalled: int | None = Field(default=None, description="Number of the step that did.")
    wants_compaction: bool = False
    compacting: int | None = Field(default=None, description="Number of the step that does.")
    compacted: bool = Field(default=False, description="Since the last turn that counted.")
    handoffs: int = 0
    remembering: bool = False
    remembered: bool = False
    ending: Ending | None = None
    closed: bool = False
    output: str = ""
    output_truncated: bool = False
    steps: list[StepSummary] = []
    active: timedelta = timedelta(0)
    active_since: datetime | None = None
