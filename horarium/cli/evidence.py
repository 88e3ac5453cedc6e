"""What the ledger holds of runs, steps and approvals, as JSON with stable keys and as text for people.

The JSON uses the names of the wire contract, so that what a script reads here it can send there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.text import Text

from horarium.cli import words
from horarium.contract import RunStatus, Waiting
from horarium.directcalls import CALLER
from horarium.ids import step_id
from horarium.ledger.approvals import ApprovalRecord, Approvals, VoteRecord
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Journal, StepRecord
from horarium.ledger.reassignments import handed_over
from horarium.ledger.runs import RunRecord
from horarium.ledger.summaries import SUMMARY_STEP
from horarium.ledger.threads import Threads
from horarium.turns import stored_turn

NO_TURNS = (SUMMARY_STEP, CALLER)
STYLES = {
    "completed": "green",
    "failed": "red",
    "rejected": "red",
    "unknown": "bold yellow",
    "pending": "yellow",
    "requires_action": "bold yellow",
    "incomplete": "yellow",
    "claimed": "dim",
    "cancelled": "dim",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """All there is to see of one run."""

    run: RunRecord
    steps: list[StepRecord]
    approvals: list[ApprovalRecord]
    waiting: tuple[Waiting, ...]
    output: str

    @classmethod
    async def read(
        cls, ledger: Ledger, run: RunRecord, now: RunStatus | None = None, below: Sequence[Waiting] = ()
    ) -> Evidence:
        """Read it; `now` is what the run itself says, where it could be asked, `below` what its sub-agents ask."""
        steps = await Journal(ledger).of_run(run.id)
        approvals = await Approvals(ledger).of_run(run.id)
        waiting = now.waiting_for if now else (*words.waiting(run, steps, approvals), *below)
        return cls(run, steps, approvals, waiting, await final_answer(ledger, run))

    def json(self) -> dict[str, Any]:
        """One object: `run`, `waiting_for`, `steps`, `approvals`, and `output`, the final answer."""
        # The run's own figures are written when it ends; until then they are counted from its steps.
        so_far = {} if self.run.closed_at else {"turns": self.turns, "steps": len(self.steps), "usage": self.usage}
        return {
            "run": run_json(self.run) | so_far,
            "waiting_for": [item.model_dump(mode="json") for item in self.waiting],
            "steps": [step_json(step) for step in self.steps],
            "approvals": [approval_json(approval) for approval in self.approvals],
            "output": self.output,
        }

    @property
    def turns(self) -> int:
        """Turns of the model so far; neither a summary nor a caller's word is one."""
        turns = (step for step in self.steps if step.kind == "model_call" and step.name not in NO_TURNS)
        return self.run.turns or sum(step.status == "completed" for step in turns)

    @property
    def usage(self) -> dict[str, int]:
        """Tokens and cost so far."""
        keys = ("input_tokens", "output_tokens", "cost_micro_usd")
        return {key: sum(getattr(step, key) for step in self.steps) for key in keys}

    def header(self) -> Iterator[tuple[str, str]]:
        """What is said above the steps: a word, and its value."""
        run, usage = self.run, self.usage
        yield "status", words.status(run)
        if run.message:
            yield "because", words.one_line(run.message)
        for waiting in self.waiting:
            yield "waits for", f"{words.one_line(waiting.text)} ({waiting.id})"
        yield "agent", run.agent + (f"@{run.version}" if run.version else "")
        if run.path and run.parent_run and run.parent_step:
            yield "handed by", f"{step_id(run.parent_run, run.parent_step)}, as {' > '.join(run.path)}"
        yield "thread", run.thread_id
        yield (
            "started",
            words.when(run.created_at) + (f" by {words.one_line(run.requested_by)}" if run.requested_by else ""),
        )
        if run.closed_at:
            yield "ended", f"{words.when(run.closed_at)}, after {words.span(run.created_at, run.closed_at)}"
        if run.resume_from:
            yield "resumes", run.resume_from
        for key, value in run.metadata.items():
            yield "metadata", f"{words.one_line(key)} = {words.one_line(value)}"
        counts = f"{words.plural(self.turns, 'turn')}, {words.plural(len(self.steps), 'step')}"
        spent = f"{usage['input_tokens']:,} tokens in, {usage['output_tokens']:,} out"
        cost = words.money(usage["cost_micro_usd"])
        yield "used", f"{counts}, {spent}" + (f", {cost}" if cost else "")


STEP_COLUMNS = ("#", "kind", "name", "status", "tries", "took", "tokens", "note")


def step_row(step: StepRecord) -> tuple[str, ...]:
    """One row under `STEP_COLUMNS`."""
    return (
        str(step.number),
        words.STEP_KIND.get(step.kind, step.kind),
        words.one_line(step.name),
        words.step_status(step),
        str(step.attempts) if step.attempts else "-",
        words.span(step.claimed_at, step.settled_at),
        words.tokens(step.input_tokens, step.output_tokens),
        words.note(step),
    )


async def final_answer(ledger: Ledger, run: RunRecord) -> str:
    """The whole last thing the model said in a run that has ended; empty when there is none."""
    if run.closed_at is None:
        return ""
    for message in reversed(await Threads(ledger).read(run.thread_id)):
        if message.role == "assistant" and message.run_id == run.id:
            return stored_turn(message.output or "{}").text
    return ""


def run_json(run: RunRecord) -> dict[str, Any]:
    """A run, with the keys of the contract's `RunResult` and what else the ledger knows."""
    return {
        "run": run.id,
        "thread": run.thread_id,
        "agent": run.agent,
        "version": run.version,
        "status": run.status,
        "reason": run.reason,
        "message": run.message,
        "turns": run.turns,
        "steps": run.steps,
        "usage": {
            "input_tokens": run.input_tokens,
            "output_tokens": run.output_tokens,
            "cost_micro_usd": run.cost_micro_usd,
        },
        "tenant": run.tenant,
        "key": run.key,
        "requested_by": run.requested_by,
        "resume_from": run.resume_from,
        "parent": step_id(run.parent_run, run.parent_step) if run.parent_run and run.parent_step else None,
        "path": run.path,
        "metadata": run.metadata,
        "created_at": moment(run.created_at),
        "opened_at": moment(run.opened_at),
        "closed_at": moment(run.closed_at),
    }


def step_json(step: StepRecord) -> dict[str, Any]:
    """A step, with its content."""
    return {
        "id": step_id(step.run_id, step.number),
        "run": step.run_id,
        "number": step.number,
        "kind": step.kind,
        "name": step.name,
        "status": step.status,
        "effect": step.effect,
        "attempts": step.attempts,
        "failures": step.failures,
        "arguments": _parsed(step.arguments),
        "output": step.output,
        "output_bytes": step.output_bytes,
        "output_blob": step.output_blob,
        "changes": step.changes.split(",") if step.changes else [],
        "code": step.code,
        "message": step.message,
        "by": step.by,
        "model": step.model,
        "idempotency_key": step.key,
        "digest": step.input_digest,
        "usage": {
            "input_tokens": step.input_tokens,
            "output_tokens": step.output_tokens,
            "cost_micro_usd": step.cost_micro_usd,
        },
        "claimed_at": moment(step.claimed_at),
        "settled_at": moment(step.settled_at),
    }


def approval_json(approval: ApprovalRecord, votes: Sequence[VoteRecord] = ()) -> dict[str, Any]:
    """A question of the inbox, with the keys of the contract's `Approval`, and the exact `arguments`."""
    return {
        "id": approval.id,
        "kind": approval.kind,
        "run": approval.run_id,
        "agent": approval.agent,
        "path": approval.path,
        "tenant": approval.tenant,
        "step": step_id(approval.run_id, approval.guards),
        "tool": approval.tool,
        "effect": approval.effect,
        "digest": approval.digest,
        "arguments": _parsed(approval.arguments),
        "text": approval.text,
        "rule": approval.rule,
        "approvers": approval.approvers,
        "not_by": approval.not_by,
        "required": approval.required,
        "requested_by": approval.requested_by,
        "status": approval.status,
        "requested_at": moment(approval.requested_at),
        "expires_at": moment(approval.expires_at),
        "escalated_at": moment(approval.escalated_at),
        "decided_at": moment(approval.decided_at),
        "decided_by": approval.decided_by,
        "decided_via": approval.decided_via,
        "decided_digest": approval.decided_digest,
        "verdict": approval.verdict,
        "comment": approval.comment,
        "reassigned": [handed.model_dump(mode="json") for handed in handed_over(approval)],
        "votes": [vote_json(vote) for vote in votes],
    }


def vote_json(vote: VoteRecord) -> dict[str, Any]:
    """One person's word."""
    return {
        "by": vote.by,
        "verdict": vote.verdict,
        "digest": vote.digest,
        "at": moment(vote.at),
        "via": vote.via,
        "key": vote.key,
        "identity": "proven" if vote.key else "claimed",
        "comment": vote.comment,
    }


TITLES = {"approval": "Approval", "unknown_outcome": "Unknown outcome", "held_step": "Held step"}


def approval_lines(approval: ApprovalRecord, votes: Sequence[VoteRecord] = ()) -> Iterator[Text]:
    """A question for a person to judge: everything, exactly."""
    yield Text(f"{TITLES[approval.kind]} {approval.id}", style="bold")
    if approval.text:
        yield Text(f"  {words.one_line(approval.text)}")
    for name, value in _approval_header(approval):
        yield Text(f"  {name:<10}{value}")
    for vote in votes:
        said = f"{vote.verdict} by {words.one_line(vote.by)} ({'proven' if vote.key else 'claimed'}, {vote.via})"
        because = f": {words.one_line(vote.comment)}" if vote.comment else ""
        yield Text(f"  {'vote':<10}{words.when(vote.at)} {said}{because}")
    yield Text("  arguments")
    for line in words.exact_json(approval.arguments).splitlines():
        yield Text(f"    {line}")


def _approval_header(approval: ApprovalRecord) -> Iterator[tuple[str, str]]:
    yield "status", approval.status
    yield "tool", f"{approval.tool} ({approval.effect})"
    yield "run", f"{approval.run_id}, step {approval.guards}, of {approval.agent}"
    if approval.path:
        yield "path", approval.path
    started = f", in a run that {words.one_line(approval.requested_by)} started" if approval.requested_by else ""
    yield "asked", f"{words.when(approval.requested_at)}{started}"
    if approval.expires_at is not None and approval.status == "pending":
        yield "until", words.when(approval.expires_at)
    if approval.kind == "approval":
        people = ", ".join(words.one_line(person) for person in approval.approvers) or "anybody"
        if approval.not_by:
            people += f", but not {', '.join(words.one_line(person) for person in approval.not_by)}"
        wanted = f"{approval.required} of {people}" if approval.required > 1 else people
        yield "who", wanted + (", since it was escalated" if approval.escalated_at else "")
        for handed in handed_over(approval):
            why = f": {words.one_line(handed.said.comment)}" if handed.said.comment else ""
            to = ", ".join(words.one_line(name) for name in handed.said.to)
            yield "handed on", f"{words.when(handed.at)} by {words.one_line(handed.said.by)} to {to}{why}"
    if approval.decided_at is not None:
        by = f" by {words.one_line(approval.decided_by)}" if approval.decided_by else ""
        via = f", by way of {approval.decided_via}" if approval.decided_via else ""
        yield "decided", f"{words.when(approval.decided_at)}{by}{via}"
    if approval.decided_digest and approval.decided_digest != approval.digest:
        yield "edited", f"released with other arguments: {approval.decided_digest}"
    if approval.comment:
        yield "comment", words.one_line(approval.comment)
    if approval.digest:
        yield "digest", approval.digest


def moment(value: datetime | None) -> str | None:
    """ISO 8601 in UTC."""
    return value.isoformat() if value else None


def _parsed(arguments: str | None) -> Any:
    try:
        return json.loads(arguments) if arguments else None
    except ValueError:
        return arguments
