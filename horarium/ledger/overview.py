"""What pages show of runs beyond their rows: what each was asked, how far it is, and the outline of its steps.

Looks only. Nothing here reads a step's content, so a run of a thousand turns costs little to be shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, func, select

from horarium.contract import StepKind, StepStatus
from horarium.ledger.database import Ledger
from horarium.ledger.run_statuses import StatusChange, statuses_since
from horarium.ledger.runs import RunRecord
from horarium.ledger.schema import approvals, messages, runs, steps

BEGINNING = 400  # characters of an input


@dataclass(frozen=True, slots=True)
class StepOutline:
    """A step without its content."""

    number: int
    kind: StepKind
    name: str
    status: StepStatus
    effect: str
    attempts: int
    failures: int
    permit: int
    output: str | None
    claimed_at: datetime | None
    settled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Progress:
    """What the steps of a run have used so far."""

    steps: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_micro_usd: int = 0


@dataclass(frozen=True, slots=True)
class QuestionTime:
    """When people were asked about a step, and when that was over."""

    id: str
    kind: str
    guards: int
    tool: str
    requested_at: datetime
    decided_at: datetime | None
    status: str


class Overview:
    """Looks at the runs of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def inputs(self, records: Sequence[RunRecord]) -> dict[str, str]:
        """How the input of each run begins; of a run without one, nothing."""
        if not records:
            return {}
        refs = {f"{record.id}/input": record.id for record in records}
        query = select(messages.c.ref, func.substr(messages.c.text, 1, BEGINNING)).where(
            messages.c.thread_id.in_({record.thread_id for record in records}), messages.c.ref.in_(refs)
        )
        async with self._ledger.read() as connection:
            return {refs[ref]: text for ref, text in await connection.execute(query) if text is not None}

    async def input(self, record: RunRecord) -> str | None:
        """What a run was asked, whole; None when it was asked nothing, or its thread was deleted."""
        mine = and_(messages.c.thread_id == record.thread_id, messages.c.ref == f"{record.id}/input")
        async with self._ledger.read() as connection:
            found: str | None = await connection.scalar(select(messages.c.text).where(mine))
            return found

    async def progress(self, records: Sequence[RunRecord]) -> Mapping[str, Progress]:
        """What each run has used: those that are open do not say so themselves yet."""
        found = {
            record.id: Progress(record.steps, record.input_tokens, record.output_tokens, record.cost_micro_usd)
            for record in records
        }
        open_runs = [record.id for record in records if record.closed_at is None]
        if open_runs:
            used = (func.coalesce(func.sum(column), 0) for column in _USED)
            query = select(steps.c.run_id, func.count(), *used).where(steps.c.run_id.in_(open_runs))
            async with self._ledger.read() as connection:
                for run, *numbers in await connection.execute(query.group_by(steps.c.run_id)):
                    found[run] = Progress(*map(int, numbers))
        return found

    async def outline(self, run_id: str, *, most: int) -> list[StepOutline]:
        """The first steps of a run, in order, without their content; of an approval, how it was decided."""
        said = func.substr(steps.c.output, 1, 20)
        columns = [said if name == "output" else steps.c[name] for name in StepOutline.__slots__]
        query = select(*columns).where(steps.c.run_id == run_id).order_by(steps.c.number).limit(most)
        async with self._ledger.read() as connection:
            return [StepOutline(*row) for row in await connection.execute(query)]

    async def questions(self, run_id: str, *, most: int) -> list[QuestionTime]:
        """When people were asked by a run, in order."""
        columns = [approvals.c[name] for name in QuestionTime.__slots__]
        query = select(*columns).where(approvals.c.run_id == run_id).order_by(approvals.c.requested_at).limit(most)
        async with self._ledger.read() as connection:
            return [QuestionTime(*row) for row in await connection.execute(query)]

    async def statuses(self, run_id: str) -> list[StatusChange]:
        """The statuses that a run has had, in order."""
        async with self._ledger.read() as connection:
            return await statuses_since(connection, run_id, 0)

    async def place_of(self, record: RunRecord, number: int) -> int | None:
        """The place in its thread of what a step said; None when it is not there, or not there any more."""
        query = select(func.max(messages.c.seq)).where(
            messages.c.thread_id == record.thread_id, messages.c.run_id == record.id, messages.c.step == number
        )
        async with self._ledger.read() as connection:
            found: int | None = await connection.scalar(query)
            return found

    async def resumed_by(self, record: RunRecord, *, most: int = 20) -> list[str]:
        """The runs that went on where this one ended, the latest first."""
        query = (
            select(runs.c.id)
            .where(runs.c.thread_id == record.thread_id, runs.c.resume_from == record.id)
            .order_by(runs.c.created_at.desc())
            .limit(most)
        )
        async with self._ledger.read() as connection:
            return list(await connection.scalars(query))


_USED = (steps.c.input_tokens, steps.c.output_tokens, steps.c.cost_micro_usd)
