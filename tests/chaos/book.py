"""The book: what really happened, told by the tools and the people themselves, outside the engine.

The engine has its ledger; this is what the ledger is checked against.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

KINDS = {"post": "external", "pay": "external, with a probe", "put": "idempotent"}
EDITED = "~"


@dataclass(frozen=True, slots=True)
class Entry:
    """One effect that was done. `released`: what the ledger said of its approval in that moment."""

    tool: str
    ref: str
    run: str
    step: str
    key: str
    released: str | None
    at: float
    approved: bool = field(default=False)

    @property
    def asked(self) -> tuple[str, str, str]:
        """What the model asked for, whatever a person made of it."""
        return self.run, self.tool, self.ref.partition(EDITED)[0]


@dataclass(slots=True)
class Story:
    """All that stands in the book."""

    done: list[Entry] = field(default_factory=list)
    begun: Counter[str] = field(default_factory=Counter)
    returned: set[str] = field(default_factory=set)
    probed: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def answers(self) -> Counter[str]:
        """What the probes answered."""
        return sum(self.probed.values(), Counter())


class Book:
    """The append-only file that tools and people write."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def approving(self, step: str, ref: str) -> None:
        """Say that somebody is about to approve this step, on these arguments; written before it is sent."""
        book = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(book, (json.dumps({"event": "approving", "step": step, "ref": ref}) + "\n").encode())
        finally:
            os.close(book)

    def read(self) -> Story:
        """All of it."""
        story = Story()
        approved: set[tuple[str, str]] = set()
        for line in self._lines():
            said = json.loads(line)
            step = said["step"]
            match said["event"]:
                case "approving":
                    approved.add((step, said["ref"]))
                case "begun":
                    story.begun[step] += 1
                case "returned":
                    story.returned.add(step)
                case "probed":
                    story.probed[step][said["answer"]] += 1
                case "done":
                    names = ("tool", "ref", "run", "step", "key", "released", "at")
                    known = (step, said["ref"]) in approved
                    story.done.append(Entry(**{name: said[name] for name in names}, approved=known))
        return story

    def happened(self, step: str) -> str | None:
        """What a person finds who looks whether a step's effect happened: the receipt."""
        wanted = json.dumps(step).encode()
        lines = (json.loads(line) for line in self._lines() if wanted in line)
        return next((f"{line['tool']} {line['ref']}: done" for line in lines if line["event"] == "done"), None)

    def _lines(self) -> list[bytes]:
        return self.file.read_bytes().splitlines() if self.file.exists() else []
