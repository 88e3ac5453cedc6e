"""What a tool worker without a ledger and the gateway say to each other, below `/v1/steps`.

Spoken by releases of this package that may differ, so fields are added and never change, and unknown ones are passed
over. What a tool made or is given (arguments, state, schemas, output) travels as text: it has numbers and depths that
the gateway's JSON refuses.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from horarium.protocol import NOTE_CHARS, ToolOutcome

CLAIMS, SETTLEMENTS, RETURNS = "/v1/steps/claims", "/v1/steps/settlements", "/v1/steps/returns"
TAKEOVERS, UNKNOWNS = "/v1/steps/takeovers", "/v1/steps/unknowns"
OUTPUTS, WORKERS = "/v1/steps/outputs", "/v1/steps/workers"
ATTEMPT_HEADER = "Horarium-Attempt"  # of an upload; a secret, so it is not in an address
CODE_CHARS = 100
INLINE_CHARS = 64_000  # of an output; a longer one is uploaded before it is settled

Group = Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-.]{1,63}$", description="Of tool workers.")]
Attempt = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=300)]


class Said(BaseModel):
    """Base of both directions."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class StepRef(Said):
    """One attempt at one step, and where Temporal has that it is asked for."""

    group: Group
    run: Name
    number: int = Field(ge=1, le=2**31 - 1)
    attempt: Attempt = Field(description="Random, of this attempt alone; the same in all that it asks.")
    workflow: Name = Field(description="Which asks; only the run itself may.")
    execution: Name
    activity: Name

    def token(self, tenant: str) -> str:
        """What the claim is held with. It cannot be had from another tenant's key, or for another group or step."""
        text = "\n".join((tenant, self.group, self.run, str(self.number), self.attempt))
        return f"r{hashlib.sha256(text.encode()).hexdigest()[:48]}"


class Claiming(StepRef):
    """Asks for a claim."""

    spec: str = Field(max_length=500_000, description="JSON: the tool as it is here.")
    wants_state: bool = False


class Claimed(Said):
    """What it came to, as in `stepping.Begun`."""

    arguments: str = Field(default="{}", description="JSON.")
    held: bool = False
    attempts: int = 0
    failures: int = 0
    outcome: ToolOutcome | None = None
    unclear: str = ""
    holder: str | None = Field(default=None, description="Whose claim it is, when it is unclear.")
    state: str | None = Field(default=None, description="JSON. None: the run is of no routine.")


class Settling(StepRef):
    """Asks for a settlement. `upload`: the digest of an output that was put before; then `output` does not count."""

    status: Literal["completed", "failed", "cancelled"]
    output: str = Field(default="", max_length=INLINE_CHARS)
    upload: Digest | None = None
    binary: bool = False
    changes: tuple[Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")], ...] = Field(
        default=(), max_length=10, description="What was made storable before it was sent."
    )
    code: str | None = Field(default=None, max_length=CODE_CHARS)
    message: str | None = Field(default=None, max_length=NOTE_CHARS)
    state: str | None = Field(default=None, max_length=200_000, description="JSON: `set`, a mapping, and `gone`, keys.")


class Returning(StepRef):
    """Gives a claim back. `failed`: after an attempt; else before anything was tried."""

    failed: bool = False
    message: str | None = Field(default=None, max_length=NOTE_CHARS)


class TakingOver(StepRef):
    """Asks for the claim of an attempt before."""

    holder: str | None = Field(default=None, max_length=100, description="As `Claimed` named it, before the probe.")


class TellingUnknown(StepRef):
    """Says that nobody knows whether it happened."""

    message: str = Field(max_length=NOTE_CHARS)


class Holding(Said):
    """How often it was tried."""

    attempts: int = 0
    failures: int = 0


class WorkerSaid(Said):
    """A process that serves tools, as it says so itself. Its times are the gateway's."""

    group: Group
    host: str = Field(min_length=1, max_length=200)
    pid: int = Field(ge=0, le=2**31 - 1)
    version: str = Field(max_length=40)
    python: str = Field(max_length=20)
    tools: dict[str, str] = Field(max_length=1_000)


class Arriving(WorkerSaid):
    """A process and its tools."""

    specs: tuple[str, ...] = Field(max_length=1_000, description="JSON, one for each.")


class Other(Said):
    """Another process that lives: of the same group, or the engine's."""

    id: str
    group: str | None = Field(description="None: the engine.")
    host: str
    pid: int
    version: str
    tools: dict[str, str]


class Others(Said):
    """What a worker is told that arrives."""

    data: tuple[Other, ...] = ()
