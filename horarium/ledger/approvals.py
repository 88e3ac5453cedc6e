"""Approvals as evidence: who was asked, and who decided what, when, by which way, on which arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite

from horarium.errors import ApprovalNotFound
from horarium.ledger.database import Ledger
from horarium.ledger.schema import approvals, steps
from horarium.protocol import ApprovalOutcome, ApprovalRequest


@dataclass(frozen=True, slots=True)
class ApprovalRecord:
    """One approval as the ledger has it. `arguments` are the exact ones, as canonical JSON."""

    id: str
    run_id: str
    step: int
    guards: int
    tool: str
    effect: str
    digest: str
    arguments: str
    status: str
    requested_at: datetime
    decided_at: datetime | None
    decided_by: str | None
    decided_via: str | None
    comment: str | None


class Approvals:
    """The approvals of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert

    async def ask(self, run_id: str, requests: Sequence[tuple[ApprovalRequest, str]], requested_at: datetime) -> None:
        """Write questions down, each with its exact arguments. Safe to repeat."""
        async with self._ledger.write() as connection:
            for request, arguments in requests:
                call = request.call
                await connection.execute(
                    self._insert(approvals)
                    .values(
                        id=request.id,
                        run_id=run_id,
                        step=request.number,
                        guards=request.guards,
                        tool=call.tool,
                        effect=call.effect.value,
                        digest=call.digest,
                        arguments=arguments,
                        status="pending",
                        requested_at=requested_at,
                    )
                    .on_conflict_do_nothing()
                )
                await connection.execute(
                    self._insert(steps)
                    .values(
                        run_id=run_id,
                        number=request.number,
                        kind="approval",
                        name=call.tool,
                        status="pending",
                        effect="read",
                        call_id=call.id,
                        input_digest=call.digest,
                        claimed_at=requested_at,
                    )
                    .on_conflict_do_nothing()
                )

    async def settle(self, run_id: str, outcome: ApprovalOutcome) -> None:
        """Write down that a question ended without releasing its call. The first outcome stands."""
        async with self._ledger.write() as connection:
            done = await connection.execute(
                update(approvals)
                .where(approvals.c.id == outcome.id, approvals.c.status == "pending")
                .values(
                    status=outcome.status,
                    decided_at=outcome.at,
                    decided_by=outcome.by,
                    decided_via=outcome.via,
                    comment=outcome.comment,
                )
            )
            if done.rowcount == 0:
                return
            await connection.execute(
                update(steps)
                .where(steps.c.run_id == run_id, steps.c.number == outcome.number, steps.c.status == "pending")
                .values(
                    status="completed" if outcome.status == "rejected" else "cancelled",
                    by=outcome.by,
                    output=outcome.status,
                    settled_at=outcome.at,
                )
            )

    async def get(self, approval: str) -> ApprovalRecord:
        """One approval.

        Raises:
            ApprovalNotFound: There is none of this id.
        """
        async with self._ledger.read() as connection:
            row = (await connection.execute(select(approvals).where(approvals.c.id == approval))).first()
        if row is None:
            raise ApprovalNotFound(f"There is no approval {approval!r}.")
        return ApprovalRecord(*row)

    async def of_run(self, run_id: str) -> list[ApprovalRecord]:
        """The approvals of a run, in the order they were asked."""
        async with self._ledger.read() as connection:
            rows = await connection.execute(
                select(approvals).where(approvals.c.run_id == run_id).order_by(approvals.c.step)
            )
            return [ApprovalRecord(*row) for row in rows]

    async def list(self, *, status: str | None = "pending", limit: int = 50) -> list[ApprovalRecord]:
        """Approvals over all runs, newest first."""
        query = select(approvals).order_by(approvals.c.requested_at.desc()).limit(limit)
        if status is not None:
            query = query.where(approvals.c.status == status)
        async with self._ledger.read() as connection:
            return [ApprovalRecord(*row) for row in await connection.execute(query)]
