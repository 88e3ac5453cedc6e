"""A question as its reader sees it: what is asked, what became of it, and whether this reader may say something.

What is said here of who may decide is for the page alone: the run itself decides whose word counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

from horarium.client import Client
from horarium.definitions import RememberRule
from horarium.durations import words as length_in_words
from horarium.gateway.auth import Caller
from horarium.gateway.console.similar import Difference, difference
from horarium.gateway.roles import Role
from horarium.ledger.approvals import ApprovalRecord, QuestionKind
from horarium.ledger.inbox import Beside, Inbox
from horarium.ledger.notices import Shown
from horarium.ledger.reassignments import HandedOver, handed_over
from horarium.links import outcome
from horarium.people import is_among, same_person
from horarium.visible import editable_json, one_line

EFFECTS = {
    "read": "only reads",
    "idempotent": "changes something; twice is as once",
    "external": "changes something outside",
}
KINDS: dict[QuestionKind, str] = {
    "approval": "Approval",
    "unknown_outcome": "Unknown outcome",
    "held_step": "Held step",
}
LASTS = (timedelta(hours=1), timedelta(hours=8), timedelta(days=1), timedelta(days=7), timedelta(days=30))
SCOPES = {"run": "in this run", "thread": "in this thread", "agent": "in every run of this agent"}
_LISTED = 8


@dataclass(frozen=True, slots=True)
class Typed:
    """What was typed into the forms of a question and not obeyed."""

    arguments: str | None = None
    answer: str | None = None
    comment: str | None = None
    output: str | None = None
    verdict: str | None = None
    to: str | None = None


NOTHING_TYPED = Typed()


@dataclass(frozen=True)
class Asked:
    """One question in front of one reader. `last`: the last call like it that people decided on."""

    beside: Beside
    caller: Caller
    last: Shown | None
    typed: Typed = NOTHING_TYPED

    @property
    def shown(self) -> Shown:
        """The question, with what counts now."""
        return self.beside.shown

    @property
    def is_open(self) -> bool:
        """Whether it waits."""
        return self.shown.status == "pending"

    @property
    def title(self) -> str:
        """What it is about, on one line."""
        tool, agent = one_line(self.shown.tool), one_line(self.shown.agent)
        match self.shown.kind:
            case "approval":
                return f"{agent} wants to call {tool}"
            case "unknown_outcome":
                return f"Did {tool} of {agent} happen?"
            case "held_step":
                return f"{tool} of {agent} failed, and is held"

    @property
    def effect(self) -> str:
        """What the call may do to the world."""
        return EFFECTS.get(self.shown.effect, self.shown.effect)

    @cached_property
    def difference(self) -> Difference | None:
        """To the last call like it."""
        return difference(self.last.arguments, self.shown.arguments) if self.last is not None else None

    @cached_property
    def editable(self) -> str:
        """The arguments as they stand in the field where they are changed."""
        return self.typed.arguments or editable_json(self.shown.arguments)

    @property
    def rows(self) -> int:
        """How high that field is."""
        lines = sum(1 + len(line) // 60 for line in self.editable.splitlines())
        return min(max(lines + 1, 3), 18)

    @property
    def deciders(self) -> str:
        """Who may decide."""
        names = [one_line(name) for name in self.beside.approvers]
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        people = f"{', '.join(names[:_LISTED])}{more}" if names else "any approver"
        but = ", ".join(one_line(name) for name in self.beside.not_by)
        return people + (f", but not {but} (four eyes)" if but else "")

    @property
    def afterwards(self) -> str:
        """What happens at the deadline."""
        rule = self.beside.rule
        if rule is None or self.shown.expires_at is None:
            return ""
        then = rule.on_escalation_expiry if self.shown.escalated_at else rule.on_expiry
        match then:
            case "escalate":
                return f"then {', '.join(map(one_line, rule.escalate_to))} may decide as well"
            case "fail":
                return "then the run ends as failed"
            case _:
                return "then it is not done, and the model is told"

    @property
    def outcome(self) -> str:
        """How it ended, as a sentence."""
        return outcome(self.shown)

    @property
    def voted(self) -> bool:
        """Whether the reader has approved what is shown."""
        mine = (vote for vote in self.shown.votes if same_person(vote.by, self.caller.name))
        return any(vote.verdict == "approve" and vote.digest == self.shown.digest for vote in mine)

    @property
    def why_not(self) -> str | None:
        """Why the reader may not decide; None when he may."""
        return why_not(self.beside, self.caller)

    @property
    def may_reassign(self) -> bool:
        """Whether the reader may let others decide: whoever may decide, and an administrator."""
        rule, caller = self.beside.rule, self.caller
        if self.shown.kind != "approval" or not self.is_open or (rule is not None and not rule.reassign):
            return False
        is_admin = caller.role >= Role.ADMIN and not is_among(caller.name, self.beside.not_by)
        return self.why_not is None or is_admin

    @property
    def handed(self) -> HandedOver | None:
        """How it was last handed to others."""
        return next(reversed(handed_over(self.shown)), None)

    @property
    def remember(self) -> RememberRule | None:
        """What the plan lets a person release for longer than this call."""
        return self.beside.rule.remember if self.beside.rule is not None else None

    @property
    def lasts(self) -> list[tuple[int, str]]:
        """For how long, in seconds and in words."""
        if self.remember is None:
            return []
        longest = self.remember.longest
        offered = [*(one for one in LASTS if one < longest), longest]
        return [(int(one.total_seconds()), length_in_words(one)) for one in offered if one >= timedelta(seconds=1)]

    @property
    def scopes(self) -> list[tuple[str, str]]:
        """For which calls."""
        return [(scope, SCOPES[scope]) for scope in self.remember.scopes] if self.remember is not None else []


def why_not(beside: Beside, caller: Caller) -> str | None:
    """Why somebody may not decide; None when he may."""
    if caller.role < Role.APPROVER:
        return "To decide you need the role approver."
    if is_among(caller.name, beside.not_by):
        return "You started this run, and whoever did may not decide on it (four eyes)."
    if beside.approvers and not is_among(caller.name, beside.approvers):
        return f"Others decide on this; {one_line(caller.name)} is not asked."
    return None


async def asked(client: Client, caller: Caller, records: Sequence[ApprovalRecord]) -> list[Asked]:
    """These questions in front of a reader. What was decided is compared where it is shown alone."""
    inbox = Inbox(client.require_ledger())
    found: list[Asked] = []
    for beside in await inbox.beside(records):
        last = beside.last
        if len(records) == 1 and beside.shown.status != "pending" and beside.shown.kind == "approval":
            last = await inbox.last_before(records[0])
        found.append(Asked(beside, caller, last if beside.shown.kind == "approval" else None))
    return found
