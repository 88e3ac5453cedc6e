"""Threads: conversations that outlive a run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import and_, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from horarium.errors import Conflict, ThreadBusy, ThreadNotFound
from horarium.ledger.database import Ledger, Prepared, Statements
from horarium.ledger.schema import approvals, edits, memories, messages, routines, runs, steps, threads, votes


@dataclass(frozen=True, slots=True)
class ThreadMessage:
    """One message. `output` and the rest are of the step whose content this is, if it is one's."""

    seq: int
    role: str
    text: str | None
    run_id: str | None
    step: int | None
    author: str | None
    created_at: datetime
    output: str | None
    note: str | None
    call_id: str | None
    step_status: str | None


_READ = Prepared(
    select(
        messages.c.seq,
        messages.c.role,
        messages.c.text,
        messages.c.run_id,
        messages.c.step,
        messages.c.author,
        messages.c.created_at,
        steps.c.output,
        steps.c.note,
        func.coalesce(steps.c.call_id, messages.c.call_id).label("call_id"),
        steps.c.status,
    )
    .join_from(
        messages, steps, and_(steps.c.run_id == messages.c.run_id, steps.c.number == messages.c.step), isouter=True
    )
    .where(messages.c.thread_id == bindparam("of_thread"), messages.c.seq > bindparam("after"))
    .order_by(messages.c.seq)
)


class Threads:
    """The threads of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert

    async def ensure(self, connection: Statements, thread: str, tenant: str) -> None:
        """Make the thread unless it is there.

        Raises:
            ThreadNotFound: It was deleted, or is another tenant's.
        """
        await connection.execute(
            self._insert(threads)
            .values(id=thread, tenant=tenant, created_at=datetime.now(UTC))
            .on_conflict_do_nothing()
        )
        row = (
            await connection.execute(
                select(threads.c.tenant, threads.c.deleted_at).where(threads.c.id == thread).with_for_update()
            )
        ).one()
        if row.tenant != tenant or row.deleted_at is not None:
            raise ThreadNotFound(f"There is no thread {thread!r}.", hint="Leave `thread` out to begin a new one.")

    async def occupy(self, connection: Statements, thread: str, run_id: str) -> None:
        """Give the thread to a run; it is then its only writer.

        Raises:
            ThreadBusy: Another run has it.
        """
        done = await connection.execute(
            update(threads)
            .where(threads.c.id == thread, or_(threads.c.open_run.is_(None), threads.c.open_run == run_id))
            .values(open_run=run_id)
        )
        if done.rowcount == 0:
            other = await connection.scalar(select(threads.c.open_run).where(threads.c.id == thread))
            raise ThreadBusy(
                f"Thread {thread!r} has an open run, {other}.",
                hint=f'Send it a message instead: horarium runs message {other} "…"',
            )

    async def holder(self, thread: str) -> str | None:
        """The run that has the thread open."""
        async with self._ledger.read() as connection:
            found: str | None = await connection.scalar(select(threads.c.open_run).where(threads.c.id == thread))
            return found

    async def is_gone(self, thread: str, tenant: str) -> bool:
        """Whether no run of the tenant can go on with it: it was deleted, or is another's."""
        async with self._ledger.read() as connection:
            query = select(threads.c.tenant, threads.c.deleted_at).where(threads.c.id == thread)
            row = (await connection.execute(query)).first()
        return row is not None and (row.tenant != tenant or row.deleted_at is not None)

    async def leave(self, thread: str) -> None:
        """Have no routine go on with it: the next tick begins a new one."""
        async with self._ledger.write() as connection:
            await connection.execute(update(routines).where(routines.c.thread_id == thread).values(thread_id=None))

    async def read(self, thread: str, *, after: int = -1) -> list[ThreadMessage]:
        """The messages after place `after`, oldest first."""
        async with self._ledger.read() as connection:
            return [ThreadMessage(*row) for row in await connection.run(_READ, of_thread=thread, after=after)]

    async def queue(self, thread: str, ref: str, text: str, run_id: str | None, author: str | None) -> None:
        """Keep a message for the next turn of a run; the same `ref` twice is one message."""
        async with self._ledger.write() as connection:
            await self.queue_within(connection, thread, ref, text, run_id, author)

    async def queue_within(
        self, connection: Statements, thread: str, ref: str, text: str, run_id: str | None, author: str | None
    ) -> None:
        """As `queue`, in a transaction that does more."""
        await connection.execute(
            self._insert(messages)
            .values(
                thread_id=thread,
                role="user",
                text=text,
                run_id=run_id,
                author=author,
                ref=ref,
                created_at=datetime.now(UTC),
            )
            .on_conflict_do_nothing()
        )

    async def delete(self, thread: str) -> None:
        """Remove everything that was said in a thread: messages, arguments, outputs, blobs, memories.

        Runs and steps stay as evidence that something was done, without what.

        Raises:
            ThreadNotFound: There is none.
            Conflict: A run has it open.
        """
        async with self._ledger.write() as connection:
            row = (await connection.execute(select(threads).where(threads.c.id == thread).with_for_update())).first()
            if row is None or row.deleted_at is not None:
                raise ThreadNotFound(f"There is no thread {thread!r}.")
            if row.open_run is not None:
                raise Conflict(
                    f"Run {row.open_run} has thread {thread!r} open.",
                    hint=f"End it first: horarium runs cancel {row.open_run}",
                )
            own = select(runs.c.id).where(runs.c.thread_id == thread).scalar_subquery()
            blobs = set(
                await connection.scalars(
                    select(steps.c.output_blob).where(steps.c.run_id.in_(own), steps.c.output_blob.is_not(None))
                )
            )
            await connection.execute(delete(messages).where(messages.c.thread_id == thread))
            await connection.execute(
                update(steps)
                .where(steps.c.run_id.in_(own))
                # Without its token an attempt that still runs somewhere cannot bring content back.
                .values(
                    arguments=None, output=None, output_blob=None, message=None, note=None, partial=None, token=None
                )
            )
            await connection.execute(
                update(approvals).where(approvals.c.run_id.in_(own)).values(arguments="", text=None, comment=None)
            )
            asked = select(approvals.c.id).where(approvals.c.run_id.in_(own))
            await connection.execute(delete(edits).where(edits.c.approval_id.in_(asked)))
            await connection.execute(update(votes).where(votes.c.approval_id.in_(asked)).values(comment=None))
            await connection.execute(delete(memories).where(memories.c.run_id.in_(own)))
            await connection.execute(update(runs).where(runs.c.thread_id == thread).values(message=None, metadata={}))
            await connection.execute(update(threads).where(threads.c.id == thread).values(deleted_at=datetime.now(UTC)))
            still = set(await connection.scalars(select(steps.c.output_blob).where(steps.c.output_blob.in_(blobs))))
        for blob in blobs - still:
            await self._ledger.blobs.delete(blob)

    async def size(self, thread: str) -> int:
        """Number of messages."""
        async with self._ledger.read() as connection:
            return int(
                await connection.scalar(
                    select(func.count()).where(messages.c.thread_id == thread, messages.c.seq.is_not(None))
                )
                or 0
            )


async def release(connection: Statements, run_id: str) -> None:
    """Within a transaction: the run no longer has its thread."""
    await connection.execute(update(threads).where(threads.c.open_run == run_id).values(open_run=None))


async def queue_input(connection: Statements, thread: str, run_id: str, text: str | None, author: str | None) -> None:
    """Within a transaction: keep what a run was asked, unless it was kept before the run was started."""
    ref = f"{run_id}/input"
    if text is None or await connection.scalar(
        select(func.count()).where(messages.c.thread_id == thread, messages.c.ref == ref)
    ):
        return
    await connection.execute(
        insert(messages).values(
            thread_id=thread,
            role="user",
            text=text,
            run_id=run_id,
            author=author,
            ref=ref,
            created_at=datetime.now(UTC),
        )
    )


async def queued_refs(connection: Statements, thread: str) -> tuple[str, ...]:
    """Within a transaction: the messages nobody has read yet, oldest first."""
    refs = await connection.scalars(
        select(messages.c.ref).where(messages.c.thread_id == thread, messages.c.seq.is_(None)).order_by(messages.c.id)
    )
    return tuple(ref for ref in refs if ref is not None)
