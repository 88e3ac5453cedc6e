"""What a run is told of: its machine takes one of these at a time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from horarium import protocol
from horarium.contract import Resolution, Usage, Waiting
from horarium.protocol import Ballot, Call, ModelReply, ToolOutcome


@dataclass(frozen=True, slots=True)
class ModelReplied:
    """`CallModel` came back."""

    number: int
    reply: ModelReply


@dataclass(frozen=True, slots=True)
class ToolSettled:
    """A call is settled: `CallTool`, `HandOff`, `SettleCall` or `SettleFunction` came back; or `BeginFunction` did."""

    number: int
    outcome: ToolOutcome


@dataclass(frozen=True, slots=True)
class ToolUnserved:
    """No worker has taken a call so far; it goes on waiting for one."""

    number: int


@dataclass(frozen=True, slots=True)
class SubRunWaits:
    """The run of a sub-agent waits for these (of kind `sub_agent`); for nothing any more when empty."""

    number: int
    waiting_for: tuple[Waiting, ...]


@dataclass(frozen=True, slots=True)
class FunctionBegun:
    """`BeginFunction` came back: whoever started the run sees the call."""

    number: int
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class OutputSubmitted:
    """The ledger has the output of such a call."""

    number: int


@dataclass(frozen=True, slots=True)
class Recalled:
    """`Recall` came back."""

    number: int
    ok: bool


@dataclass(frozen=True, slots=True)
class Compacted:
    """`Compact` came back."""

    number: int
    result: protocol.Compacted


@dataclass(frozen=True, slots=True)
class Asked:
    """`AskPeople` came back: decisions may arrive now, except on what was released or denied without one."""

    numbers: tuple[int, ...]
    released: tuple[int, ...] = ()
    at: datetime | None = None
    denied: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Decided:
    """An approval is decided: by these ballots, on this call when a person changed it."""

    approval: str
    ballots: tuple[Ballot, ...]
    edited: Call | None = None


@dataclass(frozen=True, slots=True)
class Escalated:
    """`Escalate` came back: others may decide as well."""

    number: int


@dataclass(frozen=True, slots=True)
class Refused:
    """`SettleApprovals` came back: these tool steps are settled, unmade."""

    numbers: tuple[int, ...]
    again: tuple[tuple[int, str], ...] = ()  # of these the word did not count, and why: nothing was settled


@dataclass(frozen=True, slots=True)
class Resolved:
    """A person says how to go on with a held step or an unknown outcome; checked by `may_resolve`."""

    resolution: Resolution
    via: Literal["update", "signal"] = "signal"
    key: str | None = None


@dataclass(frozen=True, slots=True)
class MessageQueued:
    """Somebody sent a message; the ledger has it under `ref`."""

    ref: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """`Remember` came back. Finding and judging may have asked models."""

    number: int
    ok: bool
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The run is to end now."""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing happened but time."""


Event = (
    ModelReplied
    | ToolSettled
    | ToolUnserved
    | SubRunWaits
    | FunctionBegun
    | OutputSubmitted
    | Recalled
    | Compacted
    | Asked
    | Decided
    | Escalated
    | Refused
    | Resolved
    | MessageQueued
    | Remembered
    | CancelRequested
    | TimePassed
)


def next_event(events: deque[Event]) -> Event:
    """The next event to handle: the oldest, but the clock after all others, so that a decision in time counts."""
    for _ in range(len(events)):
        if not isinstance(events[0], TimePassed):
            break
        events.rotate(-1)
    return events.popleft()
