"""What is remembered, in plain values: lessons that a run teaches, memories and their versions, how a run is judged.

Nothing here touches a database or a model. A rubric's check is given a `JudgedRun`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from horarium.people import plain

MemoryKind = Literal["user", "procedural", "summary"]
MemoryStatus = Literal["active", "candidate", "quarantined", "rejected", "withdrawn", "undone"]
FeedbackVerdict = Literal["positive", "negative"]
KINDS: tuple[MemoryKind, ...] = ("user", "procedural", "summary")
PENDING: tuple[MemoryStatus, ...] = ("quarantined", "candidate")  # what a person may still accept
TAKEN_BACK: tuple[MemoryStatus, ...] = ("rejected", "withdrawn", "undone")

SUBJECT_CHARS = 200
TEXT_CHARS = 2_000
CANDIDATE_LASTS = timedelta(days=30)
_MOST_WORDS = 40
_WORD = re.compile(r"[^\W_]+")
# Words that say nothing of what a text is about, as far as they are longer than two letters.
_EMPTY = frozenset(
    (
        *("about", "all", "and", "any", "are", "but", "can", "did", "does", "for", "from", "had", "has", "have", "how"),
        *(
            "into",
            "its",
            "may",
            "not",
            "now",
            "off",
            "our",
            "out",
            "per",
            "she",
            "that",
            "the",
            "their",
            "them",
            "then",
        ),
        *("there", "they", "this", "was", "were", "what", "when", "where", "which", "who", "why", "will", "with"),
        *("would", "you", "your"),
    )
)


@dataclass(frozen=True, slots=True)
class Lesson:
    """One thing that a run taught: what it is about, and what is to be known of it."""

    kind: MemoryKind
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a rubric said of a run. `score` None: it could not be judged."""

    passed: bool
    by: str | None = None
    score: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class MemoryVersion:
    """One version of a memory. `run_id` None: a person wrote it. Times are UTC."""

    memory_id: str
    version: int
    status: MemoryStatus
    text: str
    run_id: str | None
    agent: str | None
    model: str | None
    score: float | None
    judged_by: str | None
    reason: str | None
    changed_by: str | None
    created_at: datetime
    renewed_at: datetime
    expires_at: datetime | None

    def holds(self, at: datetime) -> bool:
        """Whether runs may be told of it."""
        return self.status == "active" and (self.expires_at is None or self.expires_at > at)


@dataclass(frozen=True, slots=True)
class Memory:
    """One memory: what it is about and whose, with all its versions, oldest first."""

    id: str
    tenant: str
    kind: MemoryKind
    scope: str
    owner: str
    subject: str
    created_at: datetime
    versions: tuple[MemoryVersion, ...] = ()
    sources: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def current(self) -> MemoryVersion | None:
        """The newest active version."""
        return next((version for version in reversed(self.versions) if version.status == "active"), None)

    @property
    def pending(self) -> MemoryVersion | None:
        """The newest version that waits for a person."""
        return next((version for version in reversed(self.versions) if version.status in PENDING), None)

    @property
    def shown(self) -> MemoryVersion:
        """What stands for it in lists: what holds, else what waits, else the last."""
        return self.current or self.pending or self.versions[-1]


@dataclass(frozen=True, slots=True)
class Known:
    """A memory as a run is told of it."""

    id: str
    version: int
    kind: MemoryKind
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Undone:
    """What undoing did: which version no longer holds, which holds again, and the runs that had used it."""

    memory: Memory
    undone: int
    restored: int | None
    used_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FedBack:
    """What feedback on a run changed: memories and versions, and whether something now goes to a store elsewhere."""

    run: str
    changed: tuple[tuple[str, int, MemoryStatus], ...] = ()
    deliver: bool = False


@dataclass(frozen=True, slots=True)
class JudgedStep:
    """One step of a run that is judged. `arguments` and `output` are None where there are none."""

    kind: str
    name: str
    status: str
    arguments: Any = None
    output: str | None = None


@dataclass(frozen=True, slots=True)
class JudgedRun:
    """A run as a rubric's check sees it."""

    id: str
    agent: str
    input: str
    output: str
    steps: tuple[JudgedStep, ...] = ()

    def called(self, tool: str) -> bool:
        """Whether a call of this tool was completed."""
        return any(step.kind == "tool_call" and step.name == tool and step.status == "completed" for step in self.steps)


def folded(subject: str) -> str:
    """What all spellings of one subject have in common."""
    return plain(" ".join(subject.split()))[:SUBJECT_CHARS]


def same_words(one: str, other: str) -> bool:
    """Whether two texts differ in case and spaces alone."""
    return " ".join(one.casefold().split()) == " ".join(other.casefold().split())


def query_words(text: str) -> tuple[str, ...]:
    """The words of a text that are worth looking for, each once, in order; a plural without its s."""
    found: dict[str, None] = {}
    for word in _WORD.findall(plain(" ".join(text[:20_000].split()))):
        telling = len(word) > 2 or word.isdigit() or not word.isascii()
        if telling and word not in _EMPTY:
            found[word[:-1] if len(word) > 4 and word.endswith("s") else word] = None
        if len(found) == _MOST_WORDS:
            break
    return tuple(found)
