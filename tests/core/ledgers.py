"""Short ways to say what a ledger test is about."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from horarium.contract import RunRequest
from horarium.ids import new_run_id, new_thread_id
from horarium.ledger.approvals import Approvals, Asking
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Held, Journal, StepClaim
from horarium.ledger.runs import Runs
from horarium.protocol import ApprovalRequest
from horarium.tools import Effect

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


async def open_run(ledger: Ledger, *, thread: str | None = None, input: str | None = "Go.", **more: Any) -> str:
    """A run that is open, on a thread of its own unless said otherwise."""
    run = new_run_id()
    request = RunRequest(agent="clerk", input=input, **more)
    await Runs(ledger).open(run, thread or new_thread_id(), request, 1)
    return run


async def thread_of(ledger: Ledger, run: str) -> str:
    """The thread of a run."""
    return (await Runs(ledger).get(run)).thread_id


def step(run: str, number: int = 2, effect: Effect = Effect.READ, **more: Any) -> StepClaim:
    """A tool step."""
    named = {"call_id": f"call_{number}", "input_digest": "sha256:in", "arguments": '{"n":1}', **more}
    key = f"horarium/{run}/{number}"
    return StepClaim(run, number, "tool_call", "look", effect, **{"key": key, **named})


async def held(journal: Journal, claim: StepClaim, **more: Any) -> Held:
    """Claim, and be the one who performs it."""
    claimed = await journal.claim(claim, **more)
    assert isinstance(claimed, Held)
    return claimed


def again(claim: StepClaim, permit: int) -> StepClaim:
    """The same step, with a person's word that it is to be done (again)."""
    return replace(claim, permit=permit)


async def ask(ledger: Ledger, run: str, request: ApprovalRequest, arguments: str) -> None:
    """A question to people, as the engine writes it down."""
    await Approvals(ledger).ask(run, "default", "clerk", [Asking(request=request, arguments=arguments)], NOON)
