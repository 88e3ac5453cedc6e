"""Approvals that were handed to others: who said so, by which proof, and who decided before and from then on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import update

from horarium.contract import Reassignment
from horarium.ledger.approvals import ApprovalRecord, approval_row, note
from horarium.ledger.database import Ledger
from horarium.ledger.schema import approvals


class HandedOver(BaseModel):
    """One reassignment as it was said, and what it came to. An empty `before`: anybody could decide."""

    model_config = ConfigDict(frozen=True)

    said: Reassignment
    at: datetime
    key: str | None
    before: tuple[str, ...]
    people: tuple[str, ...]


def handed_over(approval: ApprovalRecord) -> tuple[HandedOver, ...]:
    """How an approval went from hand to hand, in order."""
    return tuple(HandedOver.model_validate(one) for one in approval.reassigned or ())


class Reassignments:
    """Writes them down."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def record(self, approval: str, handed: HandedOver) -> int | None:
        """Let others decide. How often that happened to this approval; None when it waits for nobody any more."""
        async with self._ledger.write() as connection:
            row = await approval_row(connection, approval)
            if row is None or row["status"] != "pending":
                return None
            before: Sequence[dict[str, Any]] = row["reassigned"] or ()
            entry = handed.model_dump(mode="json")
            await connection.execute(
                update(approvals)
                .where(approvals.c.id == approval)
                .values(approvers=list(handed.people), reassigned=[*before, entry])
            )
            said, times = handed.said, len(before) + 1
            data = {
                "by": said.by,
                "identity": "proven" if handed.key else "claimed",
                "as_admin": said.as_admin,
                "digest": said.digest,
                "to": list(said.to),
                "from": list(handed.before),
                "approvers": list(handed.people),
                "key": handed.key,
                "comment": said.comment,
                "proof": entry["said"]["proof"],
            }
            await note(connection, "approval.reassigned", row, handed.at, data, once=f":{times}")
        return times
