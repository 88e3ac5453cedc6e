"""One look at a run: what has changed since a place in it. It costs little: some follow many runs at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import bindparam, literal_column, or_, select

from horarium.errors import RunNotFound
from horarium.ledger.database import Ledger, Prepared
from horarium.ledger.journal import StepRecord
from horarium.ledger.run_statuses import StatusChange, statuses_since
from horarium.ledger.runs import RunRecord
from horarium.ledger.schema import runs, steps

PAGE = 500
_RUN = Prepared(select(runs).where(runs.c.id == bindparam("of_run")))
_STEPS = Prepared(
    select(steps)
    .where(steps.c.run_id == bindparam("of_run"), steps.c.number > bindparam("after"))
    .order_by(steps.c.number)
    .limit(bindparam("most"))
    .offset(literal_column("0"))
)
_STEP = Prepared(select(steps).where(steps.c.run_id == bindparam("of_run"), steps.c.number == bindparam("number")))


@dataclass(frozen=True, slots=True)
class Look:
    """A run as it is, its statuses and steps since some place. The run was read first: closed, nothing is missing."""

    run: RunRecord
    statuses: tuple[StatusChange, ...]
    steps: tuple[StepRecord, ...]
    is_whole: bool
    """Whether no more steps follow."""


class Looking:
    """Looks at the runs of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def look(self, run_id: str, *, status: int, step: int, again: Iterable[int] = ()) -> Look:
        """The statuses after number `status`, at most `PAGE` steps after number `step`, and those of `again`.

        Raises:
            RunNotFound: There is none of this id.
        """
        async with self._ledger.read() as connection:
            found = await connection.run(_RUN, of_run=run_id)
            if not found:
                raise RunNotFound(f"There is no run {run_id!r}.")
            statuses = await statuses_since(connection, run_id, status)
            rows = [row for n in again for row in await connection.run(_STEP, of_run=run_id, number=n)]
            following = await connection.run(_STEPS, of_run=run_id, after=step, most=PAGE)
        found_steps = tuple(StepRecord(*row) for row in (*rows, *following))
        return Look(RunRecord(*found[0]), tuple(statuses), found_steps, len(following) < PAGE)

    async def unsettled_for_good(self, run_id: str) -> list[int]:
        """Numbers of the steps that a person may have done again, or has: failed, unknown, or done again already."""
        query = select(steps.c.number).where(
            steps.c.run_id == run_id, or_(steps.c.status.in_(("failed", "unknown")), steps.c.permit > 0)
        )
        async with self._ledger.read() as connection:
            return sorted(await connection.scalars(query))
