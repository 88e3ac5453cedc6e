"""Runs and their steps in words: what a status means, what a run waits for, and how far an effect is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from horarium.client import Client
from horarium.directcalls import from_text
from horarium.errors import ApprovalNotFound
from horarium.gateway.console.words import span
from horarium.gateway.v1.run_views import WaitingView
from horarium.ledger.approvals import ApprovalRecord
from horarium.tools import Effect

RUN_STATUS = {
    "queued": "queued",
    "in_progress": "in progress",
    "requires_action": "waiting",
    "completed": "completed",
    "incomplete": "stopped at a limit",
    "failed": "failed",
    "cancelled": "cancelled",
    "expired": "expired",
}
STEP_STATUS = {"claimed": "running", "completed": "done", "pending": "waiting"}
KINDS = {  # a sign for the eye, and the word
    "model_call": ("◇", "model"),
    "tool_call": ("▸", "tool"),
    "memory_write": ("▤", "memory"),
    "handoff": ("↳", "agent"),
    "approval": ("☑", "approval"),
}
MOST_SAID = 10  # questions that are said one by one
EffectState = Literal["read", "planned", "sent", "confirmed", "failed", "not done", "unknown"]


@dataclass(frozen=True, slots=True)
class Waits:
    """One thing that a run waits for. `people`: None where it is for nobody in particular, or for no person."""

    text: str
    people: str | None = None
    verb: str = ""
    tool: str | None = None
    until: datetime | None = None
    question: str | None = None
    run: str | None = None
    open_since: datetime | None = None


def effect_state(kind: str, status: str, effect: str) -> EffectState | None:
    """How far the effect of a step is; None: it is none that could have one.

    planned: it waits, and nothing was sent. sent: it is being performed. confirmed: its outcome is known.
    unknown: nobody knows whether it happened.
    """
    if kind not in ("tool_call", "handoff"):
        return "planned" if kind == "approval" and status == "pending" else None
    if effect == Effect.READ.value:
        return "read"
    match status:
        case "pending":
            return "planned"
        case "claimed":
            return "sent"
        case "completed":
            return "confirmed"
        case "failed":
            return "failed"
        case "unknown":
            return "unknown"
    return "not done"


def step_status(kind: str, status: str, output: str | None) -> str:
    """The status of a step in a word; an approval that was decided says how."""
    if kind == "approval" and status == "completed":
        return (output or "decided").replace("_", " ")
    return STEP_STATUS.get(status, status)


def took(start: datetime | None, end: datetime | None) -> str:
    """How long a step took, to the millisecond where it was short; empty: it is not over."""
    if start is None or end is None:
        return ""
    seconds = max((end - start).total_seconds(), 0.0)
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else span(start, end)


async def waits_of(client: Client, waiting: Sequence[WaitingView], *, tenant: str) -> list[Waits]:
    """What a run waits for, with who may decide and until when."""
    found = []
    for one in waiting[:MOST_SAID]:
        if one.id is None or one.kind not in ("approval", "unknown_outcome", "held_step"):
            found.append(Waits(one.text, tool=one.tool, until=one.expires_at, run=one.run))
            continue
        try:
            found.append(_of_question(await client.approval(one.id, tenant=tenant)))
        except ApprovalNotFound:
            found.append(Waits(one.text, tool=one.tool, run=one.run))
    return found


def _of_question(asked: ApprovalRecord) -> Waits:
    people = _people(asked.approvers) or ("an approver" if asked.kind == "approval" else "a person")
    verbs = {
        "approval": "to approve",
        "unknown_outcome": "to find out whether this was done:",
        "held_step": "to say how to go on with",
    }
    return Waits(
        asked.text or "",
        people=people,
        verb=verbs[asked.kind],
        tool=asked.tool,
        until=asked.expires_at,
        question=asked.id,
        run=asked.run_id,
        open_since=asked.requested_at,
    )


def _people(names: Sequence[str]) -> str:
    shown = list(names[:4])
    if len(names) > 4:
        return f"{', '.join(shown)} or {len(names) - 4} others"
    return " or ".join((", ".join(shown[:-1]), shown[-1])) if len(shown) > 1 else "".join(shown)


def asked_in_words(text: str | None) -> str:
    """What a run was asked, for one line: of a direct call, the call."""
    if text is None:
        return ""
    call = from_text(text) if text.startswith("{") else None
    if call is not None:
        return f"{call.tool or 'a tool'} {json.dumps(call.arguments, ensure_ascii=False)}"
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
