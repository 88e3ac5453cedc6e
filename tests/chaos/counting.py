"""What the book and the ledger say about each other, after the last kill."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from horarium.audit import AuditReport, verify
from horarium.client import Client
from horarium.ids import step_id
from horarium.ledger.approvals import ApprovalRecord, Approvals
from horarium.ledger.audit import AuditTrail
from horarium.ledger.journal import StepRecord
from tests.chaos.book import KINDS, Entry, Story

ALL = 1_000_000
VERIFIED = "Verified afterwards."

Wanted = Mapping[str, set[tuple[str, str]]]
"""For each completed run the (tool, ref) effects that its model asked for."""


@dataclass(slots=True)
class Evidence:
    """What the engine has written: its ledger, its audit trail, its logs."""

    steps: dict[str, StepRecord]
    questions: list[ApprovalRecord]
    released: dict[str, str]
    trail: AuditReport
    entries: Counter[tuple[str, str]]
    told_unknown: set[str]

    @classmethod
    async def of(cls, client: Client, runs: list[str], logs: Path, prefix: str = "") -> Evidence:
        """All of it.

        Args:
            runs: The ids.
            logs: The directory with the output of the processes.
            prefix: Of the names of tools that a server offers; the book has them without.
        """
        ledger = client.require_ledger()
        steps = [
            replace(step, name=step.name.removeprefix(prefix)) for run in runs for step in await client.run(run).steps()
        ]
        questions = [
            replace(row, tool=row.tool.removeprefix(prefix)) for row in await client.approvals(status=None, limit=ALL)
        ]
        lines = [line async for line in AuditTrail(ledger).export()]
        said = [json.loads(line) for line in lines]
        return cls(
            steps={step_id(step.run_id, step.number): step for step in steps},
            questions=questions,
            released={row.id: await _released(Approvals(ledger), row) for row in questions if row.kind == "approval"},
            trail=verify(lines),
            entries=Counter((entry["kind"], entry["subject"]) for entry in said),
            told_unknown={step for file in logs.glob("*.log") for step in _told_unknown(file)},
        )

    @property
    def approvals(self) -> dict[str, ApprovalRecord]:
        """By the step that each guards."""
        return {_step(row): row for row in self.questions if row.kind == "approval"}

    @property
    def unknown(self) -> list[ApprovalRecord]:
        """The questions about outcomes that nobody knows."""
        return [row for row in self.questions if row.kind == "unknown_outcome"]


@dataclass(slots=True)
class Findings:
    """The figures, and the lists that should be empty."""

    effects: Counter[str] = field(default_factory=Counter)
    sent_again: int = 0
    approvals: Counter[str] = field(default_factory=Counter)
    edited: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    probed: Counter[str] = field(default_factory=Counter)
    verified: int = 0
    audit_entries: int = 0
    twice: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    unapproved: list[str] = field(default_factory=list)
    guessed: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    divided: list[str] = field(default_factory=list)
    trail: list[str] = field(default_factory=list)


def count(story: Story, evidence: Evidence, wanted: Wanted, answers: Mapping[str, set[tuple[str, str]]]) -> Findings:
    """Compare.

    Args:
        story: What happened.
        evidence: What the engine says of it.
        wanted: What the completed runs were to do.
        answers: For each approval, every (status, digest) that a person was answered.
    """
    approvals = evidence.approvals
    return Findings(
        effects=Counter(KINDS[tool] for _, tool, _ in {entry.asked for entry in story.done}),
        sent_again=len([entry for entry in story.done if entry.tool == "put"]) - len(_keys(story, "put")),
        approvals=Counter(row.status for row in approvals.values()),
        edited=sum(row.status == "approved" and row.decided_digest != row.digest for row in approvals.values()),
        unknown=Counter(row.verdict or row.status for row in evidence.unknown),
        probed=story.answers,
        verified=sum(step.message == VERIFIED for step in evidence.steps.values()),
        audit_entries=evidence.trail.entries,
        twice=_twice(story),
        lost=_lost(story, evidence, wanted),
        unapproved=[words for entry in story.done for words in _unapproved(entry, evidence, approvals)],
        guessed=_guessed(story, evidence),
        unseen=_unseen(story, evidence),
        left=_left(evidence, wanted),
        divided=_divided(evidence, answers),
        trail=_trail(evidence),
    )


def _twice(story: Story) -> list[str]:
    done: defaultdict[tuple[str, str, str], list[Entry]] = defaultdict(list)
    for entry in story.done:
        done[entry.asked].append(entry)
    found = [f"{what}: {len(all_)} times" for what, all_ in done.items() if what[1] != "put" and len(all_) > 1]
    # A store that knows the key has applied it as often as there are keys.
    keys = {what: {entry.key for entry in all_} for what, all_ in done.items()}
    found += [f"{what}: with {len(used)} keys" for what, used in keys.items() if len(used) > 1]
    steps = Counter(key for key, _ in {(entry.key, entry.step) for entry in story.done})
    return found + [f"the key {key} was given to {steps[key]} steps" for key in steps if steps[key] > 1]


def _lost(story: Story, evidence: Evidence, wanted: Wanted) -> list[str]:
    keys = {key for tool in KINDS for key in _keys(story, tool)}
    done = {entry.asked for entry in story.done}
    completed = [step for step in evidence.steps.values() if step.kind == "tool_call" and step.status == "completed"]
    found = [
        f"{step.name} of {step.run_id}/{step.number:04d}: completed, but not in the book"
        for step in completed
        if step.effect != "read" and step.key not in keys
    ]
    rejected = {
        (row.run_id, row.tool, json.loads(row.arguments)["ref"])
        for row in evidence.approvals.values()
        if row.status == "rejected"
    }
    owed = {(run, tool, ref) for run, effects in wanted.items() for tool, ref in effects}
    return found + [f"{what}: the run completed without it" for what in sorted(owed - done - rejected)]


def _unapproved(entry: Entry, evidence: Evidence, approvals: Mapping[str, ApprovalRecord]) -> list[str]:
    what = f"{entry.tool} {entry.ref} of {entry.step}"
    row = approvals.get(entry.step)
    if row is None or row.status != "approved" or row.decided_at is None:
        return [f"{what}: its approval is {row.status if row else 'not there'}"]
    found = [f"{what}: in that moment the ledger had it {entry.released}"] if entry.released != "approved" else []
    if row.decided_at > datetime.fromtimestamp(entry.at, UTC):
        found.append(f"{what}: approved only at {row.decided_at}")
    if json.loads(evidence.released[row.id])["ref"] != entry.ref:
        found.append(f"{what}: released was {evidence.released[row.id]}")
    return found if entry.approved else [*found, f"{what}: nobody had approved that"]


def _guessed(story: Story, evidence: Evidence) -> list[str]:
    """An external call is begun again only by a person's word or the probe's, and settled only by who knows."""
    retries = Counter(_step(row) for row in evidence.unknown if row.verdict == "retry")
    found: list[str] = []
    for id_, step in evidence.steps.items():
        if step.kind != "tool_call" or step.effect != "external":
            continue
        probed = story.probed.get(id_, Counter())
        permitted = 1 + retries[id_] + probed["not happened"]
        if story.begun[id_] > permitted:
            found.append(f"{step.name} of {id_}: begun {story.begun[id_]} times, permitted {permitted}")
        knows = id_ in story.returned or step.by is not None or (step.message == VERIFIED and probed["happened"])
        if step.status == "completed" and not knows:
            found.append(f"{step.name} of {id_}: completed, and nobody had said so")
    return found


def _unseen(story: Story, evidence: Evidence) -> list[str]:
    """Outcomes that nobody knew and nobody was asked about; and those that were asked about without need."""
    asked = {_step(row) for row in evidence.unknown}
    found = [
        f"{step}: unknown, and not in the inbox"
        for step in sorted(evidence.told_unknown - asked)
        # A probe that could not tell at first may have told the next attempt, before anybody was asked.
        if not (story.probed[step]["happened"] or story.probed[step]["not happened"])
    ]
    for row in evidence.unknown:
        if row.tool == "put" or (row.tool == "pay" and not story.probed[_step(row)]["cannot tell"]):
            found.append(f"{row.tool} of {_step(row)}: a person was asked what could be known")
        if row.arguments != evidence.released[evidence.approvals[_step(row)].id]:
            found.append(f"{row.tool} of {_step(row)}: the inbox shows {row.arguments}, not what was released")
    return found


def _left(evidence: Evidence, wanted: Wanted) -> list[str]:
    """What still waits, or ended in another way than by a person's word or the tool's."""
    ended = {"approval": ("approved", "rejected"), "unknown_outcome": ("resolved",)}
    found = [
        f"{step.name} of {id_} is {step.status} ({step.message})"
        for id_, step in evidence.steps.items()
        if step.run_id in wanted and step.kind == "tool_call" and step.status not in ("completed", "rejected")
    ]
    return found + [
        f"{row.kind} {row.id} of {_step(row)} is {row.status}"
        for row in evidence.questions
        if row.status == "pending" or (row.run_id in wanted and row.status not in ended.get(row.kind, ()))
    ]


def _divided(evidence: Evidence, answers: Mapping[str, set[tuple[str, str]]]) -> list[str]:
    stands = {row.id: {(row.status, row.decided_digest)} for row in evidence.questions if row.status != "pending"}
    return [
        f"{id_}: people were told {sorted(told)}, the ledger has {stands[id_]}"
        for id_, told in answers.items()
        if len(told) > 1 or (id_ in stands and told != stands[id_])
    ]


def _trail(evidence: Evidence) -> list[str]:
    problem = evidence.trail.problem
    found = [problem.message] if problem is not None else []
    for row in evidence.questions:
        kinds = ("approval.requested", "approval.decided") if row.kind == "approval" else _OF_QUESTIONS
        expected = {kinds[0]: 1, kinds[1]: int(row.status != "pending")}
        counted = {kind: evidence.entries[kind, row.id] for kind in kinds}
        if counted != expected and row.status != "withdrawn":
            found.append(f"{row.id} is {row.status}, and the trail has {counted}")
    return found


_OF_QUESTIONS = ("question.opened", "question.resolved")


async def _released(approvals: Approvals, row: ApprovalRecord) -> str:
    """The arguments that were released: those that were asked for, or a person's."""
    digest = row.decided_digest
    edited = await approvals.edited(row.id, digest) if digest not in (None, row.digest) else None
    return edited if edited is not None else row.arguments


def _told_unknown(log: Path) -> list[str]:
    lines: list[Any] = [json.loads(line) for line in log.read_bytes().splitlines() if b'"tool.outcome_unknown"' in line]
    return [step_id(line["run"], line["step"]) for line in lines]


def _keys(story: Story, tool: str) -> set[str]:
    return {entry.key for entry in story.done if entry.tool == tool}


def _step(row: ApprovalRecord) -> str:
    return step_id(row.run_id, row.guards)
