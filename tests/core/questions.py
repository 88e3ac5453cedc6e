"""Questions, votes and edits as rows, for tests of what is said about them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert, update

from horarium.content import canonical, digest
from horarium.ids import approval_id, step_id
from horarium.ledger.database import Ledger
from horarium.ledger.schema import approvals, edits, votes
from tests.core.ledgers import NOON, open_run

ARGUMENTS = {"invoice": 7, "amount": 1200}


async def ask(ledger: Ledger, *, arguments: Any = None, **more: Any) -> str:
    """A question of a run of its own; its id."""
    run = await open_run(ledger, requested_by="mia")
    question = approval_id(step_id(run, 3))
    given = ARGUMENTS if arguments is None else arguments
    row = {
        "id": question,
        "kind": "approval",
        "run_id": run,
        "tenant": "default",
        "agent": "clerk",
        "step": 3,
        "guards": 2,
        "tool": "pay",
        "effect": "external",
        "digest": digest(given),
        "arguments": canonical(given),
        "rule": "approvals.1",
        "approvers": ["ana"],
        "not_by": [],
        "required": 1,
        "requested_by": "mia",
        "status": "pending",
        "requested_at": NOON,
        "expires_at": NOON + timedelta(hours=8),
    }
    async with ledger.write() as connection:
        await connection.execute(insert(approvals).values(**{**row, **more}))
    return question


async def change(ledger: Ledger, question: str, **values: Any) -> None:
    """Anything that happened to a question."""
    async with ledger.write() as connection:
        await connection.execute(update(approvals).where(approvals.c.id == question).values(**values))


async def decide(ledger: Ledger, question: str, by: str, verdict: str = "approved", **more: Any) -> None:
    """A question that somebody ended."""
    await change(
        ledger,
        question,
        status=verdict,
        decided_by=by,
        decided_at=NOON + timedelta(minutes=5),
        decided_via="update",
        **more,
    )


async def vote(ledger: Ledger, question: str, by: str, *, arguments: Any = None, number: int = 1) -> None:
    """An approval that does not decide yet."""
    async with ledger.write() as connection:
        await connection.execute(
            insert(votes).values(
                approval_id=question,
                number=number,
                by=by,
                verdict="approve",
                digest=digest(ARGUMENTS if arguments is None else arguments),
                at=NOON,
                via="update",
            )
        )


async def edit(ledger: Ledger, question: str, arguments: Any, by: str, at: datetime = NOON) -> None:
    """Arguments that a person changed."""
    async with ledger.write() as connection:
        values = {"digest": digest(arguments), "arguments": canonical(arguments), "by": by, "at": at}
        await connection.execute(insert(edits).values(approval_id=question, **values))
