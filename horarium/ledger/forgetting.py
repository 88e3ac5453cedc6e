"""Deleting a thread: everything that was said goes, that something was done stays.

A fork shows steps of the thread that it was made of, so a step is emptied when the last thread that shows it goes: with
its own thread, or later with the fork.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, ScalarSelect, Select, and_, delete, func, or_, select, tuple_, update

from horarium.errors import Conflict, ThreadNotFound
from horarium.ledger.audit import AuditEntry, append
from horarium.ledger.database import Statements
from horarium.ledger.memories import forget_runs
from horarium.ledger.schema import (
    approvals,
    edits,
    function_calls,
    messages,
    run_functions,
    runs,
    steps,
    summaries,
    threads,
    votes,
)

_LOCK = 7_206_019  # any number, the same in every process: two deletions at once would each leave a step to the other
_STEP = tuple_(steps.c.run_id, steps.c.number)


async def forget_thread(
    connection: Statements, thread: str, *, by: str | None, tenant: str | None, at: datetime
) -> Sequence[str]:
    """Within a transaction: empty a thread and what only it shows; the blobs that nothing refers to any more.

    Raises:
        ThreadNotFound: There is none, or it is another tenant's.
        Conflict: A run has it open.
    """
    await connection.lock(_LOCK)
    row = (await connection.execute(select(threads).where(threads.c.id == thread).with_for_update())).first()
    if row is None or row.deleted_at is not None or tenant not in (None, row.tenant):
        raise ThreadNotFound(f"There is no thread {thread!r}.")
    if row.open_run is not None:
        raise Conflict(
            f"Run {row.open_run} has thread {thread!r} open.",
            hint=f"End it first: horarium runs cancel {row.open_run}",
        )
    own = select(runs.c.id).where(runs.c.thread_id == thread).scalar_subquery()
    said = await connection.scalar(select(func.count()).where(messages.c.thread_id == thread))
    blobs = await _empty_steps(connection, thread) | await _forget_functions(connection, own)
    await connection.execute(delete(messages).where(messages.c.thread_id == thread))
    await connection.execute(delete(summaries).where(summaries.c.thread_id == thread))
    await connection.execute(
        update(approvals).where(approvals.c.run_id.in_(own)).values(arguments="", text=None, comment=None)
    )
    asked = select(approvals.c.id).where(approvals.c.run_id.in_(own))
    await connection.execute(delete(edits).where(edits.c.approval_id.in_(asked)))
    await connection.execute(update(votes).where(votes.c.approval_id.in_(asked)).values(comment=None))
    await forget_runs(connection, own)
    await connection.execute(update(runs).where(runs.c.thread_id == thread).values(message=None, metadata={}))
    await connection.execute(update(threads).where(threads.c.id == thread).values(deleted_at=at))
    still = set(await connection.scalars(select(steps.c.output_blob).where(steps.c.output_blob.in_(blobs))))
    data = {"by": by, "messages": said}
    await append(
        connection,
        AuditEntry(
            kind="thread.deleted", at=at, tenant=row.tenant, subject=thread, data=data, once=f"thread-deleted:{thread}"
        ),
    )
    return sorted(blobs - still)


async def _forget_functions(connection: Statements, own: ScalarSelect[str]) -> set[str]:
    """What the callers of runs sent along and in, as far as it became no step's output; the blobs of it."""
    mine = function_calls.c.run_id.in_(own)
    query = select(function_calls.c.output_blob).where(mine, function_calls.c.output_blob.is_not(None))
    blobs = set(await connection.scalars(query))
    await connection.execute(update(function_calls).where(mine).values(output=None, output_blob=None, digest=None))
    await connection.execute(delete(run_functions).where(run_functions.c.run_id.in_(own)))
    return blobs


async def _empty_steps(connection: Statements, thread: str) -> set[str]:
    """Empty the steps of the thread's runs, and those that it shows of threads that are gone; their blobs."""
    own = steps.c.run_id.in_(select(runs.c.id).where(runs.c.thread_id == thread))
    going = and_(or_(own, _left_to(thread)), ~_shown_elsewhere(thread))
    blobs = set(await connection.scalars(select(steps.c.output_blob).where(going, steps.c.output_blob.is_not(None))))
    # Without its token an attempt that still runs somewhere cannot bring content back.
    emptied = {name: None for name in ("arguments", "output", "output_blob", "message", "note", "partial", "token")}
    await connection.execute(update(steps).where(going).values(**emptied))
    return blobs


def _left_to(thread: str) -> ColumnElement[bool]:
    """A step of a thread that was deleted, shown by this one, its fork."""
    gone = select(runs.c.id).join(threads, threads.c.id == runs.c.thread_id).where(threads.c.deleted_at.is_not(None))
    return and_(_STEP.in_(_shown(messages.c.thread_id == thread)), steps.c.run_id.in_(gone))


def _shown_elsewhere(thread: str) -> ColumnElement[bool]:
    forks = select(threads.c.id).where(threads.c.forked_from.is_not(None), threads.c.id != thread)
    return _STEP.in_(_shown(messages.c.thread_id.in_(forks)))


def _shown(by: ColumnElement[bool]) -> Select[tuple[str, int]]:
    return select(messages.c.run_id, messages.c.step).where(by, messages.c.step.is_not(None))
