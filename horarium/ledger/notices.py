"""What people are told of a question, and what they have been told already.

Content is read here, at the moment of telling: arguments, votes and edits never travel through Temporal's history.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from horarium.content import digest
from horarium.ledger.approvals import ApprovalRecord, Approvals, EditRecord, VoteRecord, approval_row, note
from horarium.ledger.database import Ledger
from horarium.ledger.schema import edits, notices


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown(ApprovalRecord):
    """A question as a person is shown it: its digest and arguments are those that count now.

    Once a vote has counted for arguments that a person changed, they are that person's, `edited_by`.
    """

    edited_by: str | None
    votes: tuple[VoteRecord, ...]

    @property
    def approvals_given(self) -> int:
        """How many have approved what is shown now; a change of the arguments begins anew."""
        return sum(vote.verdict == "approve" and vote.digest == self.digest for vote in self.votes)


class Told(NamedTuple):
    """The name of one message to one address; the address is a secret, so only its reference is known by its digest."""

    id: str
    address: str

    @classmethod
    def of(cls, event: str, subject: str, occurrence: int, address: str) -> Told:
        """The same for the same message and address, whenever it is asked."""
        where = digest(address)
        return cls(digest([event, subject, occurrence, where]), where)


class Notices:
    """What a ledger knows of telling people."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._approvals = Approvals(ledger)
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert

    async def shown(self, question: str) -> Shown:
        """A question with its exact arguments and every vote.

        Raises:
            ApprovalNotFound: There is none of this id.
        """
        record = await self._approvals.get(question)
        votes = await self._approvals.votes(question)
        async with self._ledger.read() as connection:
            found = await connection.execute(select(edits).where(edits.c.approval_id == question))
            return as_shown(record, votes, [EditRecord(*row) for row in found])

    async def sent(self, ids: Collection[str]) -> set[str]:
        """Which of these messages went out."""
        async with self._ledger.read() as connection:
            found = await connection.execute(select(notices.c.id).where(notices.c.id.in_(ids)))
            return {row[0] for row in found.fetchall()}

    async def record(self, told: Told, at: datetime) -> None:
        """Note that a message went out. Safe to repeat."""
        async with self._ledger.write() as connection:
            values = {"id": told.id, "address": told.address, "sent_at": at}
            await connection.execute(self._insert(notices).values(**values).on_conflict_do_nothing())

    async def failed(self, question: str, what: str, problems: Sequence[str], at: datetime) -> None:
        """Write into the audit trail, once, that somebody could not be told."""
        async with self._ledger.write() as connection:
            row = await approval_row(connection, question)
            if row is not None:
                data = {"notice": what, "problems": list(problems)}
                await note(connection, "notice.failed", row, at, data, once=f":{what}")

    async def reminded(self, question: str, occurrence: int, at: datetime) -> None:
        """Write into the audit trail, once, that people were reminded."""
        async with self._ledger.write() as connection:
            row = await approval_row(connection, question)
            if row is not None:
                await note(connection, "approval.reminded", row, at, {}, once=f":{occurrence}")


def as_shown(record: ApprovalRecord, votes: Sequence[VoteRecord], edits: Iterable[EditRecord]) -> Shown:
    """A question with what counts now, of its votes, in order, and of the ways that people changed its arguments."""
    counts = record.decided_digest or _voted_for(votes) or record.digest
    edit = next((edit for edit in edits if edit.digest == counts and counts != record.digest), None)
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    if edit is not None:
        values |= {"digest": edit.digest, "arguments": edit.arguments}
    return Shown(**values, edited_by=edit.by if edit is not None else None, votes=tuple(votes))


def _voted_for(votes: Sequence[VoteRecord]) -> str | None:
    """The digest of the latest approval: what an edit counts for, while others still have to approve it."""
    return next((vote.digest for vote in reversed(votes) if vote.verdict == "approve"), None)
