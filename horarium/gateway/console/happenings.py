"""What happened to a question, from the audit trail, in words: who said what, when, by which way, and if it counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from horarium.ledger.audit import AuditRecord
from horarium.visible import one_line, visible

_PLAIN = {
    "approval.reminded": "People were reminded.",
    "approval.expired": "Nobody decided in time.",
    "approval.withdrawn": "It was withdrawn: the run no longer waits for it.",
    "question.opened": "The question was opened.",
    "question.withdrawn": "It was withdrawn: the run no longer waits for it.",
    "grant.used": "A standing grant released it; nobody was asked.",
    "effect.released": "The plan released it; nobody was asked.",
    "effect.refused": "Something tried to do it without a release. Nothing was done.",
}
_SAID = {"approve": "approved", "reject": "rejected", "answer": "answered instead"}


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened. `said`: a person's own words."""

    at: datetime
    text: str
    how: str
    said: str | None


def happenings(entries: Iterable[AuditRecord]) -> list[Happening]:
    """In the order in which they happened."""
    return [_happening(entry) for entry in sorted(entries, key=lambda entry: entry.seq)]


def _happening(entry: AuditRecord) -> Happening:
    data: Mapping[str, Any] = entry.data if isinstance(entry.data, dict) else {}
    said = data.get("comment")
    return Happening(entry.at, _text(entry.kind, data), _how(data), visible(said) if isinstance(said, str) else None)


def _text(kind: str, data: Mapping[str, Any]) -> str:
    by = one_line(str(data.get("by") or "somebody"))
    verdict = str(data.get("verdict") or "")
    match kind:
        case "approval.requested":
            return f"Asked: {_people(data.get('approvers')) or 'any approver'}, {data.get('required', 1)} to approve."
        case "approval.escalated":
            return f"Escalated: {_people(data.get('to'))} may decide."
        case "approval.reassigned":
            admin = ", an administrator," if data.get("as_admin") else ""
            return f"{by}{admin} handed it over: {_people(data.get('approvers'))} may decide."
        case "approval.edited":
            return f"{by} changed the arguments."
        case "approval.voted" | "approval.decided":
            return f"{by} {_SAID.get(verdict, verdict)}."
        case "question.resolved":
            return f"{by} settled it: {verdict}."
        case "link.used":
            return f"{by} used a link to {verdict}."
        case "decision.refused":
            return f"{by} said {verdict}. It did not count: {visible(str(data.get('reason') or ''))}"
        case "notice.failed":
            problems = data.get("problems")
            return f"Somebody could not be told: {_people(problems)}"
        case _:
            return _PLAIN.get(kind, kind)


def _people(names: Any) -> str:
    return ", ".join(one_line(str(name)) for name in names) if isinstance(names, list) else ""


def _how(data: Mapping[str, Any]) -> str:
    parts = []
    if data.get("via"):
        parts.append(f"by {data['via']}")
    if data.get("identity"):
        parts.append("proven" if data["identity"] == "proven" else "the name is a claim")
    return ", ".join(parts)
