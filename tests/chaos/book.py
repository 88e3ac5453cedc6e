"""The book of effects: what really happened, told by the tools themselves, outside the engine.

The engine has its ledger; this is what the ledger is checked against.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from horarium.ledger.journal import StepRecord

EXTERNAL = ("post", "pay")


@dataclass(frozen=True, slots=True)
class Entry:
    """One effect that was done, and its place in the order of all lines."""

    place: int
    tool: str
    ref: str
    run: str
    step: str
    key: str


class Book:
    """The append-only file that tools and approvers write."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def approving(self, step: str) -> None:
        """Say that somebody is about to approve this step; written before the decision is sent."""
        book = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(book, (json.dumps({"event": "approving", "step": step}) + "\n").encode())
        finally:
            os.close(book)

    def read(self) -> tuple[list[Entry], dict[str, int]]:
        """All effects in order, and where the first approval of each step stands."""
        entries: list[Entry] = []
        approvals: dict[str, int] = {}
        lines = self.file.read_text("utf-8").splitlines() if self.file.exists() else []
        for place, line in enumerate(lines):
            said = json.loads(line)
            if said["event"] == "approving":
                approvals.setdefault(said["step"], place)
            else:
                entries.append(Entry(place, said["tool"], said["ref"], said["run"], said["step"], said["key"]))
        return entries, approvals

    def happened(self, step: str) -> Entry | None:
        """What a person finds who looks whether a step's effect happened."""
        return next((entry for entry in self.read()[0] if entry.step == step), None)


@dataclass(slots=True)
class Findings:
    """What the book and the ledger say about each other; the four lists should be empty."""

    effects: int = 0
    repeated_puts: int = 0
    twice: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    unapproved: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)


def audit(
    book: Book, steps: Iterable[StepRecord], completed: Iterable[tuple[str, Iterable[tuple[str, str]]]]
) -> Findings:
    """Compare the book with the ledger.

    Args:
        book: What happened.
        steps: Every step of the ledger.
        completed: Each completed run with the (tool, ref) effects that it cannot have completed without.
    """
    entries, approvals = book.read()
    found = Findings(effects=len({(entry.run, entry.tool, entry.ref) for entry in entries}))
    by_effect: dict[tuple[str, str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        by_effect[entry.run, entry.tool, entry.ref].append(entry)
        if approvals.get(entry.step, entry.place) >= entry.place:
            found.unapproved.append(f"{entry.tool} {entry.ref} of {entry.step}")
    for (run, tool, ref), done in by_effect.items():
        if tool in EXTERNAL and len(done) > 1:
            found.twice.append(f"{tool} {ref} of {run}: {len(done)} times")
        if len({entry.key for entry in done}) > 1:
            found.twice.append(f"{tool} {ref} of {run}: with {len({entry.key for entry in done})} keys")
        found.repeated_puts += len(done) - 1 if tool not in EXTERNAL else 0
    keys = {entry.key for entry in entries}
    for step in steps:
        if step.kind == "tool_call" and step.effect != "read" and step.status == "completed" and step.key not in keys:
            found.lost.append(f"{step.name} of {step.run_id}/{step.number:04d}: completed, but not in the book")
    for run, wanted in completed:
        missing = [f"{tool} {ref}" for tool, ref in wanted if (run, tool, ref) not in by_effect]
        found.lost += [f"{effect} of {run}: the run completed without it" for effect in missing]
    shared = [key for key, count in Counter(key for key, _ in {(e.key, e.step) for e in entries}).items() if count > 1]
    found.strange += [f"the key {key} was given to several steps" for key in shared]
    return found
