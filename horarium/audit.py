"""The audit trail's arithmetic: what an entry's hash covers, and whether an exported trail is whole.

Needs the exported file and nothing else, so that somebody who does not trust the ledger, or us, can check it. A chain
proves that its entries belong together; who can write the whole ledger can make a whole new chain. So keep a hash
somewhere else, and give it back as `head` or `anchor`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

from horarium.content import canonical

BEGINNING = f"sha256:{'0' * 64}"  # what the first entry follows
HASHED = ("seq", "at", "kind", "tenant", "run", "subject", "data", "previous")

Flaw = Literal[
    "unreadable", "changed", "missing", "reordered", "repeated", "inserted", "replaced", "cut", "longer", "unanchored"
]


class AuditProblem(BaseModel):
    """The first thing that is wrong with a trail."""

    model_config = ConfigDict(frozen=True)

    line: int | None = Field(description="Of the file, from 1. None: what is wrong stands on no line, like a lost end.")
    flaw: Flaw
    message: str


class AuditReport(BaseModel):
    """What became of a check. The figures are of the entries before the problem, when there is one."""

    model_config = ConfigDict(frozen=True)

    entries: int
    head: str = Field(description="The hash of the last entry.")
    problem: AuditProblem | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def intact(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem is None


def entry_hash(entry: Mapping[str, Any]) -> str:
    """The hash of an entry: over the canonical JSON of what it says and of the hash before it.

    Raises:
        ValueError: It holds what cannot be hashed, such as half a surrogate pair.
    """
    text = canonical({name: entry[name] for name in HASHED})
    # Strictly, unlike `content.digest`: a character that is replaced on the way could stand for another.
    return f"sha256:{hashlib.sha256(text.encode('utf-8')).hexdigest()}"


def verify(lines: Iterable[str], *, head: str | None = None, anchor: str | None = None) -> AuditReport:
    """Check an exported trail, from its first entry on; it is read once and never held whole.

    Args:
        lines: JSON Lines. The order of fields and the spaces do not matter, blank lines neither.
        head: The hash that the trail has to end with; without it nobody can see that its end was cut off.
        anchor: A hash kept from an earlier export; it has to be in the trail, which may have grown since.
    """
    chain = _Chain({wanted for wanted in (head, anchor) if wanted is not None})
    rest = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    for number, line in rest:
        try:
            problem = chain.take(number, _parsed(line))
        except _Wrong as wrong:
            problem = wrong.at(number)
        if problem is not None:
            if problem.flaw == "missing":
                problem = _reordered(problem, chain.entries + 1, rest) or problem
            return chain.report(problem)
    return chain.report(chain.ends_wrong(head, anchor))


class _Wrong(Exception):
    """What is wrong with a line, taken by itself."""

    def __init__(self, flaw: Flaw, reason: str) -> None:
        super().__init__(reason)
        self.flaw: Flaw = flaw

    def at(self, number: int) -> AuditProblem:
        return AuditProblem(line=number, flaw=self.flaw, message=f"Line {number} {self}.")


class _Chain:
    """How far the trail is good."""

    def __init__(self, wanted: set[str]) -> None:
        self.entries = 0
        self.head = BEGINNING
        self.line = 0
        self._wanted = wanted
        self._met = {BEGINNING: 0}

    def take(self, number: int, entry: Mapping[str, Any]) -> AuditProblem | None:
        """Add the entry of a line, or say why it does not come next."""
        seq, expected = entry["seq"], self.entries + 1
        if seq > expected:
            lost = f"entry {expected} is" if seq == expected + 1 else f"entries {expected} to {seq - 1} are"
            return AuditProblem(line=number, flaw="missing", message=f"Line {number} is entry {seq}: {lost} missing.")
        if seq < expected:
            return self._once_more(number, entry)
        if entry["previous"] != self.head:
            return self._not_joined(number)
        self.entries, self.head, self.line = seq, entry["hash"], number
        if self.head in self._wanted:
            self._met[self.head] = seq
        return None

    def _once_more(self, number: int, entry: Mapping[str, Any]) -> AuditProblem:
        seq = entry["seq"]
        if seq == self.entries and entry["hash"] != self.head:
            message = f"Lines {self.line} and {number} are both entry {seq}: one of them was inserted."
            return AuditProblem(line=number, flaw="inserted", message=message)
        return AuditProblem(line=number, flaw="repeated", message=f"Line {number} is entry {seq} once more.")

    def _not_joined(self, number: int) -> AuditProblem:
        if self.entries == 0:
            message = f"Line {number} is entry 1 and does not begin a chain: it was replaced."
            return AuditProblem(line=number, flaw="replaced", message=message)
        message = f"Line {self.line} is not what line {number} follows: it was replaced, or changed and hashed anew."
        return AuditProblem(line=self.line, flaw="replaced", message=message)

    def ends_wrong(self, head: str | None, anchor: str | None) -> AuditProblem | None:
        """What is wrong with a trail of good lines, by the hashes that were kept elsewhere."""
        if head is not None and head != self.head and head in self._met:
            followers = self.entries - self._met[head]
            message = f"The head is entry {self._met[head]} and {followers} more follow it: this is a longer trail."
            return AuditProblem(line=None, flaw="longer", message=message)
        if head is not None and head != self.head:
            message = (
                f"No entry has the hash {head}: after entry {self.entries} the end was cut off, or all was replaced."
            )
            return AuditProblem(line=None, flaw="cut", message=message)
        if anchor is not None and anchor not in self._met:
            message = f"No entry has the hash {anchor}: the trail was written anew, or cut off before it."
            return AuditProblem(line=None, flaw="unanchored", message=message)
        return None

    def report(self, problem: AuditProblem | None) -> AuditReport:
        return AuditReport(entries=self.entries, head=self.head, problem=problem)


def _parsed(line: str) -> dict[str, Any]:
    """An entry that is well-formed and has the hash of what it says.

    Raises:
        _Wrong: It is not, or has not.
    """
    try:
        entry = json.loads(line, object_pairs_hook=_no_name_twice, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _Wrong("unreadable", f"is not valid JSON ({error})") from error
    if not isinstance(entry, dict) or set(entry) != {*HASHED, "hash"}:
        raise _Wrong("unreadable", f"is no entry: an entry has exactly the fields {', '.join(HASHED)} and hash")
    if type(entry["seq"]) is not int or entry["seq"] < 1:
        raise _Wrong("unreadable", "is no entry: its seq is no number from 1")
    try:
        found = entry_hash(entry)
    except (ValueError, RecursionError) as error:
        raise _Wrong("changed", f"was changed: it holds what no entry can hold ({error})") from error
    if found != entry["hash"]:
        raise _Wrong("changed", f"was changed: what it says has the hash {found}")
    return entry


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Readers differ in which of the two they take, so one of them would show what was not hashed.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands in an object twice")
    return found


def _no_number(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def _reordered(problem: AuditProblem, wanted: int, rest: Iterator[tuple[int, str]]) -> AuditProblem | None:
    """The problem in other words, when the missing entry stands further down."""
    for number, line in rest:
        try:
            found = _parsed(line)["seq"]
        except _Wrong:
            continue
        if found == wanted:
            message = f"Line {problem.line} is not entry {wanted}, which stands on line {number}: lines were reordered."
            return AuditProblem(line=problem.line, flaw="reordered", message=message)
    return None
