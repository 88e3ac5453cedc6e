"""Which run handed its task to which: from a sub-agent's run up to the one that a person or a routine started."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, select

from horarium.ledger.database import Prepared, Statements
from horarium.ledger.schema import runs, threads

MOST_LEVELS = 12  # more than limits allow, so that a loop in the rows ends
_PARENT = Prepared(select(runs.c.parent_run).where(runs.c.id == bindparam("of_run")))


async def topmost(connection: Statements, run: str) -> str:
    """The run at the top; itself, when nobody handed it its task."""
    for _ in range(MOST_LEVELS):
        rows = await connection.run(_PARENT, of_run=run)
        if not rows or rows[0][0] is None:
            break
        run = rows[0][0]
    return run


async def runs_below(connection: Statements, run: str) -> int:
    """How many runs of sub-agents there were below a run, at any depth."""
    count, level = 0, [run]
    for _ in range(MOST_LEVELS):
        found = await connection.execute(select(runs.c.id).where(runs.c.parent_run.in_(level)))
        level = [row[0] for row in found.fetchall()]
        if not level:
            break
        count += len(level)
    return count


async def threads_below(connection: Statements, thread: str) -> Sequence[str]:
    """The threads, not deleted so far, of all sub-agents' runs below those of a thread."""
    found: set[str] = set()
    level = {thread}
    for _ in range(MOST_LEVELS):
        parents = select(runs.c.id).where(runs.c.thread_id.in_(level))
        query = select(runs.c.thread_id).where(runs.c.parent_run.in_(parents)).distinct()
        level = set(await connection.scalars(query)) - found - {thread}
        if not level:
            break
        found |= level
    kept = select(threads.c.id).where(threads.c.id.in_(found), threads.c.deleted_at.is_(None))
    return sorted(await connection.scalars(kept))
