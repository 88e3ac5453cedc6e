"""How the CLI says things: times, durations, statuses, money, and text that may be hostile (horarium/visible.py)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from horarium.contract import Status, Waiting
from horarium.durations import words as duration_words
from horarium.ids import step_id
from horarium.ledger.approvals import ApprovalRecord
from horarium.ledger.journal import StepRecord
from horarium.ledger.runs import RunRecord
from horarium.people import in_words
from horarium.visible import exact_json as exact_json
from horarium.visible import harmless as harmless
from horarium.visible import one_line as one_line
from horarium.visible import visible as visible

STATUS: dict[Status, str] = {
    "queued": "queued, not begun yet",
    "in_progress": "in progress",
    "requires_action": "waiting for a person",
    "completed": "completed",
    "incomplete": "stopped at a limit",
    "failed": "failed",
    "cancelled": "cancelled",
    "expired": "expired",
}
STEP_KIND = {
    "model_call": "model",
    "tool_call": "tool",
    "memory_write": "memory",
    "handoff": "handoff",
    "approval": "approval",
}
STEP_STATUS = {"claimed": "running", "completed": "done", "pending": "waiting"}


def when(moment: datetime | None, *, now: datetime | None = None) -> str:
    """`2026-11-21 07:30:12 GMT (3 minutes ago)`, in the local zone; `-` for none."""
    if moment is None:
        return "-"
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z} ({age(moment, now=now)})"


def age(moment: datetime, *, now: datetime | None = None) -> str:
    """`just now`, `3 minutes ago`, `in 2 days`."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if abs(seconds) >= size:
            amount = plural(int(abs(seconds) // size), unit)
            return f"{amount} ago" if seconds > 0 else f"in {amount}"
    return "just now"


def plural(number: int, noun: str) -> str:
    """`1 step`, `1,200 steps`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def span(start: datetime | None, end: datetime | None) -> str:
    """How long it took; `-` while it is not known."""
    return "-" if start is None or end is None else duration_words(max(end - start, timedelta(0))) or "0s"


def money(cost_micro_usd: int) -> str:
    """`$0.0123`; empty for nothing, because then there was no price."""
    return f"${cost_micro_usd / 1_000_000:.4f}" if cost_micro_usd else ""


def tokens(input_tokens: int, output_tokens: int) -> str:
    """`1,234+56`: in and out; `-` for none."""
    return f"{input_tokens:,}+{output_tokens:,}" if input_tokens or output_tokens else "-"


def step_status(step: StepRecord) -> str:
    """The status of a step in a word; an approval that was decided says how."""
    if step.kind == "approval" and step.status == "completed":
        return step.output or "decided"
    return STEP_STATUS.get(step.status, step.status)


def note(step: StepRecord) -> str:
    """What else there is to say of a step, on one line: what went wrong, who settled it, what was cut."""
    said = [one_line(step.message)] if step.message else []
    if step.by:
        said.append(f"by {one_line(in_words(step.by))}")
    if step.output_blob and step.output_bytes is not None:
        said.append(f"output of {step.output_bytes:,} bytes kept whole")
    if step.changes:
        said.append(f"made storable: {step.changes.replace(',', ', ').replace('_', ' ')}")
    return "; ".join(said)


def status(record: RunRecord) -> str:
    """The run's status in plain words, with the reason when there is one."""
    said = STATUS.get(record.status, record.status)
    return f"{said} ({record.reason})" if record.reason and record.reason != record.status else said


def waiting(record: RunRecord, steps: Sequence[StepRecord], approvals: Iterable[ApprovalRecord]) -> list[Waiting]:
    """What an open run waits for, as far as the ledger knows; the run itself knows better, when it can be asked."""
    if record.closed_at is not None:
        return []
    found = [_asked(item) for item in approvals if item.status == "pending"]
    known = {item.id for item in found}
    found += [
        Waiting(
            kind="unknown_outcome",
            id=step_id(step.run_id, step.number),
            tool=step.name,
            text=f"Nobody knows whether {step.name} was done: find out, then retry, supply, skip or fail it.",
        )
        for step in steps
        if step.status == "unknown" and step_id(step.run_id, step.number) not in known
    ]
    failed = [step for step in steps if step.status == "failed"]
    if record.status == "requires_action" and not found and failed:
        step = failed[-1]
        text = f"{step.name} failed: {step.message}. Retry, supply, skip or fail it."
        tool = step.name if step.kind == "tool_call" else None
        found.append(Waiting(kind="held_step", id=step_id(step.run_id, step.number), tool=tool, text=text))
    return found


def _asked(item: ApprovalRecord) -> Waiting:
    if item.kind == "approval":
        text = f"Approve or reject {item.tool}."
        return Waiting(kind="approval", id=item.id, question=item.id, tool=item.tool, text=text)
    step = step_id(item.run_id, item.guards)
    return Waiting(kind=item.kind, id=step, question=item.id, tool=item.tool, text=item.text or "")
