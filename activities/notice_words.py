"""What a notice says: to people in plain words, and to programs as a webhook's body.

Both carry the exact arguments, whole: who decides on a summary decides on what somebody else made of it. Everything
that a model, a tool or another person wrote is made visible first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from horarium.ledger.notices import Shown
from horarium.ledger.reassignments import HandedOver, handed_over
from horarium.links import instant, outcome
from horarium.protocol import Notice, NoticeEvent
from horarium.visible import exact_json, one_line, visible

ASKING: tuple[NoticeEvent, ...] = ("requested", "reminder", "escalated", "reassigned")
_EFFECT = {
    "read": "it only reads",
    "idempotent": "it changes something; doing it twice is the same as doing it once",
    "external": "it changes something outside, and may not be undone",
}
_WEBHOOK = {"reminder": "reminded"}


@dataclass(frozen=True, slots=True)
class Words:
    """One message."""

    title: str
    body: str


def words(notice: Notice, shown: Shown, link: str | None, *, personal: bool = False) -> Words:
    """The message to people. `link` leads to where it is decided; a personal one decides for its reader alone."""
    body = "\n".join(
        [*_lead(notice, shown), "", *_facts(shown), "", *_arguments(shown), "", *_way(shown, link, personal)]
    )
    return Words(_title(notice.event, shown), body)


def handed_by(notice: Notice, shown: Shown) -> HandedOver | None:
    """The reassignment that is told of; each is told once."""
    handed = handed_over(shown)
    return handed[notice.occurrence - 1] if 0 < notice.occurrence <= len(handed) else None


def webhook_body(notice: Notice, shown: Shown, now: datetime, link: str | None) -> str:
    """The JSON for programs: as Standard Webhooks has it, with everything an approver is shown."""
    subject = "approval" if shown.kind == "approval" else "question"
    return json.dumps(
        {
            "type": f"{subject}.{_WEBHOOK.get(notice.event, notice.event)}",
            "timestamp": _stamp(_happened(notice.event, shown) or now),
            "data": {**_data(shown), "occurrence": notice.occurrence, "link": link},
        }
    )


# ---- to people


def _title(event: NoticeEvent, shown: Shown) -> str:
    tool, agent = one_line(shown.tool), one_line(shown.agent)
    match event:
        case "requested":
            return f"Approve {tool}? {agent} asks"
        case "reminder":
            return f"Still waiting: approve {tool}? {agent} asks"
        case "escalated":
            return f"Escalated to you: approve {tool}? {agent} asks"
        case "reassigned":
            return f"Handed to you: approve {tool}? {agent} asks"
        case "expired":
            return f"Nobody decided in time: {tool} of {agent}"
        case "decided":
            return f"{shown.status.capitalize()}: {tool} of {agent}"
        case "unknown_outcome":
            return f"Did it happen? {tool} of {agent}"
        case "held_step":
            return f"Held: {tool} of {agent} failed"
        case "tool_unserved" | "run_ended" | "run_requires_action":
            raise ValueError(f"{event} is about no question")


def _lead(notice: Notice, shown: Shown) -> Iterator[str]:
    tool, agent = one_line(shown.tool), one_line(shown.agent)
    match notice.event:
        case "requested" | "reminder":
            yield f"The agent {agent} wants to call {tool} ({_EFFECT.get(shown.effect, shown.effect)})."
            yield "It is not done before a person approves it."
        case "escalated":
            yield f"Nobody has decided in time whether the agent {agent} may call {tool}, so you are asked."
            yield "It is not done before a person approves it."
        case "reassigned":
            handed = handed_by(notice, shown)
            by = one_line(handed.said.by) if handed is not None else "Somebody"
            yield f"{by} asks you to decide whether the agent {agent} may call {tool}."
            yield "It is not done before a person approves it."
            if handed is not None and handed.said.comment:
                yield f"{by} says: {visible(handed.said.comment)}"
        case "expired":
            yield f"Nobody decided in time whether the agent {agent} may call {tool}. It was not called."
        case "decided":
            yield outcome(shown)
        case "unknown_outcome":
            yield f"{tool} was begun, and nobody knows whether it happened. Find out, then say so."
        case "held_step":
            yield f"{tool} failed for good. The run waits for a person to say how to go on."
        case _:
            pass
    if shown.text and notice.event in ("unknown_outcome", "held_step"):
        yield visible(shown.text)
    if shown.comment:
        yield f"Reason given: {visible(shown.comment)}"


def _facts(shown: Shown) -> Iterator[str]:
    by = f", started by {one_line(shown.requested_by)}" if shown.requested_by else ""
    yield f"Run: {one_line(shown.run_id)} of agent {one_line(shown.agent)}{by}"
    if shown.path:
        yield f"Handed down: {one_line(shown.path)}"
    yield f"Question: {shown.id}, asked at {instant(shown.requested_at)}"
    if shown.status == "pending":
        yield f"Who may decide: {', '.join(map(one_line, shown.approvers)) or 'anybody'}"
        if shown.required > 1:
            yield f"Approvals: {shown.approvals_given} of {shown.required}"
        yield f"Until: {instant(shown.expires_at)}" if shown.expires_at else "Until: it waits for ever"
    for vote in shown.votes:
        said = f": {visible(vote.comment)}" if vote.comment else ""
        yield f"Vote: {one_line(vote.by)}, {vote.verdict}, {instant(vote.at)}{said}"


def _arguments(shown: Shown) -> Iterator[str]:
    by = f", as {one_line(shown.edited_by)} changed them" if shown.edited_by else ""
    yield f"Exact arguments of {one_line(shown.tool)}{by}:"
    yield exact_json(shown.arguments)
    yield f"Digest: {shown.digest}"


def _way(shown: Shown, link: str | None, personal: bool) -> Iterator[str]:
    if link is None:
        yield f"See it with: horarium approvals show {shown.id}"
    elif personal:
        yield f"Decide here: {link}"
        yield "This link decides in your name, once. Do not pass it on."
    else:
        yield f"{'Decide here' if shown.status == 'pending' else 'See it here'}: {link}"


# ---- to programs


def _happened(event: NoticeEvent, shown: Shown) -> datetime | None:
    match event:
        case "requested" | "unknown_outcome" | "held_step":
            return shown.requested_at
        case "escalated":
            return shown.escalated_at
        case "decided" | "expired":
            return shown.decided_at
        case "reminder" | "reassigned" | "tool_unserved" | "run_ended" | "run_requires_action":
            return None


def _data(shown: Shown) -> dict[str, Any]:
    return {
        "id": shown.id,
        "kind": shown.kind,
        "run": shown.run_id,
        "tenant": shown.tenant,
        "agent": shown.agent,
        "path": shown.path,
        "tool": shown.tool,
        "effect": shown.effect,
        "digest": shown.digest,
        "arguments": _parsed(shown.arguments),
        "edited_by": shown.edited_by,
        "text": shown.text,
        "rule": shown.rule,
        "approvers": list(shown.approvers),
        "required": shown.required,
        "requested_by": shown.requested_by,
        "status": shown.status,
        "requested_at": _stamp(shown.requested_at),
        "expires_at": _stamp(shown.expires_at),
        "escalated": shown.escalated_at is not None,
        "reassigned": [
            {"by": one.said.by, "at": _stamp(one.at), "comment": one.said.comment} for one in handed_over(shown)
        ],
        "votes": [
            {
                "by": vote.by,
                "verdict": vote.verdict,
                "digest": vote.digest,
                "at": _stamp(vote.at),
                "comment": vote.comment,
            }
            for vote in shown.votes
        ],
        "verdict": shown.verdict,
        "decided_by": shown.decided_by,
        "decided_at": _stamp(shown.decided_at),
        "comment": shown.comment,
    }


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:  # deleted with its thread
        return None


def _stamp(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
