"""What a parent's step and its model are told of a sub-agent's run, however that ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from horarium.content import shorten
from horarium.contract import Usage
from horarium.ledger.journal import StepRecord
from horarium.ledger.runs import RunRecord
from horarium.protocol import NOTE_CHARS, ToolOutcome
from horarium.stepping import outcome_of

FAILED = "sub_agent_failed"
TOLD = ("sub_agent_incomplete", "handoff_refused")  # never the run's failure: what was used up is the model's to judge
SAID_CHARS = 8_000  # of what a run that did not complete had said last


@dataclass(frozen=True, slots=True)
class Ended:
    """A sub-agent's run that has ended, and the last that its model said in it."""

    run: RunRecord
    said: str
    cancelled: bool = False  # because its parent was


class Told(NamedTuple):
    """How the parent's step is settled."""

    status: Literal["completed", "failed", "cancelled"]
    output: str
    code: str | None = None
    message: str | None = None


def ended_words(ended: Ended) -> Told:
    """How the parent's step is settled: with the whole answer, or with what happened and what was left undone."""
    run = ended.run
    if run.status == "completed":
        # A completed run may have left a step of which nobody knows whether it was done; its message says so.
        more = f"\n\n[{run.message}]" if run.message else ""
        return Told("completed", f"{ended.said}{more}", message=_short(run.message) if run.message else None)
    so_far = f"\nWhat it had said last:\n{shorten(ended.said, SAID_CHARS)}" if ended.said.strip() else ""
    because = run.message or run.reason or run.status
    if ended.cancelled:
        return Told("cancelled", f"Not done: the run was cancelled.{so_far}", "cancelled", _short(because))
    match run.status:
        case "incomplete":
            words = (
                f"Not finished: {run.agent} stopped at a limit. {because} What it had not done by then is left undone."
            )
            return Told("failed", f"{words}{so_far}", "sub_agent_incomplete", _short(f"{run.agent}: {because}"))
        case "cancelled":
            words = f"Not finished: somebody cancelled the run of {run.agent}. What it had not done is left undone."
            return Told("cancelled", f"{words}{so_far}", "sub_agent_cancelled", _short(f"{run.agent}: {because}"))
        case _:
            words = f"Not finished: {run.agent} failed. {because} What it had not done by then is left undone."
            return Told("failed", f"{words}{so_far}", FAILED, _short(f"{run.agent} failed: {because}"))


def in_a_circle(agent: str, path: Sequence[str]) -> str:
    """Why a task is not handed to an agent that is at work on it already; for the model."""
    chain = " > ".join([*path, agent])
    return (
        f"Not done: {agent} is above you in this very work ({chain}), so a task for it would go round in a circle. "
        "Do the work yourself, or say what you could not do."
    )


def outcome_told(record: StepRecord, *, handoffs: int = 0) -> ToolOutcome:
    """What the parent's workflow is told of the settled step; an adopted one used nothing in this run."""
    usage = Usage(
        input_tokens=record.input_tokens, output_tokens=record.output_tokens, cost_micro_usd=record.cost_micro_usd
    )
    outcome = outcome_of(record)
    return outcome.model_copy(
        update={
            "told": outcome.told or record.code in TOLD,
            "usage": usage if record.attempts else None,
            "handoffs": handoffs,
        }
    )


def _short(words: str) -> str:
    return shorten(words, NOTE_CHARS)
