"""Whether strangers may have had a say in a run, so that what it teaches has to be looked at first.

Followed by threads and not by runs: what any run of a conversation read is still in view of the next, and what a
sub-agent read comes back as its answer.
"""

from __future__ import annotations

from sqlalchemy import select

from horarium.ledger.database import Ledger, Statements
from horarium.ledger.schema import messages, runs, steps, threads
from horarium.people import plain

MOST_THREADS = 1_000  # a family larger than this is not looked through: it counts as touched


async def touched_by_strangers(ledger: Ledger, run: str) -> bool:
    """Whether a step with untrusted output is in the run's thread, where that was forked from, or in a run of its
    family: sub-agents', however deep, and those that it is a sub-agent of.
    """
    async with ledger.read() as connection:
        waiting = [await connection.scalar(select(runs.c.thread_id).where(runs.c.id == run))]
        seen: set[str] = set()
        while waiting:
            thread = waiting.pop()
            if thread is None or thread in seen:
                continue
            seen.add(thread)
            if len(seen) > MOST_THREADS or await _untrusted(connection, thread):
                return True
            waiting += await _family(connection, thread)
    return False


async def others_spoke(ledger: Ledger, run: str, owner: str) -> bool:
    """Whether somebody else than the user that a run is for has sent it a message: it says nothing of that user."""
    query = select(messages.c.author).where(messages.c.run_id == run, messages.c.author.is_not(None))
    async with ledger.read() as connection:
        return any(plain(author)[:200] != owner for author in await connection.scalars(query.distinct()))


async def _untrusted(connection: Statements, thread: str) -> bool:
    own = select(runs.c.id).where(runs.c.thread_id == thread)
    copied = select(messages.c.run_id).where(messages.c.thread_id == thread, messages.c.run_id.is_not(None))
    for of_runs in (own, copied):
        query = select(steps.c.run_id).where(steps.c.run_id.in_(of_runs), steps.c.untrusted == 1).limit(1)
        if await connection.scalar(query) is not None:
            return True
    return False


async def _family(connection: Statements, thread: str) -> list[str]:
    own = select(runs.c.id).where(runs.c.thread_id == thread)
    above = select(runs.c.parent_run).where(runs.c.thread_id == thread, runs.c.parent_run.is_not(None))
    found: list[str] = []
    for query in (
        select(runs.c.thread_id).where(runs.c.parent_run.in_(own)),
        select(runs.c.thread_id).where(runs.c.id.in_(above)),
        select(threads.c.forked_from).where(threads.c.id == thread, threads.c.forked_from.is_not(None)),
    ):
        found += list(await connection.scalars(query.distinct()))
    return found
