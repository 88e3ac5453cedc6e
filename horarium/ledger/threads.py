"""Threads: conversations that outlive a run.

A run that has a thread open is its only writer; without one, messages are placed and forks made under the lock of the
thread's row. A fork shows the same steps as the thread that it was made of: their content goes with the last that does.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import and_, bindparam, func, insert, literal, literal_column, null, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from horarium.content import clean_text
from horarium.errors import Conflict, NotFound, ThreadBusy, ThreadNotFound
from horarium.ids import new_message_ref, new_thread_id
from horarium.ledger.database import Ledger, Prepared, Statements
from horarium.ledger.forgetting import forget_thread
from horarium.ledger.lineage import threads_below
from horarium.ledger.schema import Instant, messages, routines, steps, summaries, threads
from horarium.ledger.workspaces import Workspaces
from horarium.turns import StoredCall, stored_turn

MOST_LISTED = 500


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
    input_tokens: int | None = None
    output_tokens: int | None = None

    @property
    def said(self) -> str:
        """What was said, in words: the text, a model's text, or a tool's output as the model was shown it."""
        if self.role == "assistant":
            return stored_turn(self.output or "{}").text
        return (self.text if self.text is not None else self.output) or ""

    @property
    def calls(self) -> tuple[StoredCall, ...]:
        """What the model asked for, of a turn of its."""
        return stored_turn(self.output or "{}").calls if self.role == "assistant" else ()


@dataclass(frozen=True, slots=True)
class ThreadRecord:
    """One thread. `messages` counts those that have a place; `last_message_at` is of the last that was written."""

    id: str
    tenant: str
    open_run: str | None
    created_at: datetime
    forked_from: str | None
    forked_at: int | None
    messages: int
    last_message_at: datetime | None


_MESSAGES = (
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
        steps.c.input_tokens,
        steps.c.output_tokens,
    )
    .join_from(
        messages, steps, and_(steps.c.run_id == messages.c.run_id, steps.c.number == messages.c.step), isouter=True
    )
    .where(messages.c.thread_id == bindparam("of_thread"), messages.c.seq > bindparam("after"))
    .order_by(messages.c.seq)
)
_READ = Prepared(_MESSAGES)
_READ_SOME = Prepared(_MESSAGES.limit(bindparam("most")).offset(literal_column("0")))
_REFS = select(messages.c.ref).where(messages.c.thread_id == bindparam("of_thread"), messages.c.ref.is_not(None))
_QUEUED = Prepared(_REFS.where(messages.c.seq.is_(None)).order_by(messages.c.id))
_PLACED_REFS = Prepared(_REFS.where(messages.c.seq.is_not(None)))
_OF_THREAD = threads.c.id == bindparam("of_thread")
_TENANT = Prepared(select(threads.c.tenant, threads.c.deleted_at).where(_OF_THREAD).with_for_update())
_OCCUPY = Prepared(
    update(threads)
    .where(_OF_THREAD, or_(threads.c.open_run.is_(None), threads.c.open_run == bindparam("of_run")))
    .values(open_run=bindparam("of_run"))
    .returning(threads.c.id)
)
_HOLDER = Prepared(select(threads.c.open_run).where(_OF_THREAD))
_RELEASE = Prepared(
    update(threads).where(threads.c.open_run == bindparam("of_run")).values(open_run=null()).returning(threads.c.id)
)
_IS_THERE = Prepared(select(threads.c.id).where(_OF_THREAD, threads.c.deleted_at.is_(None)))
_PLACED = (messages.c.thread_id == threads.c.id, messages.c.seq.is_not(None))
_RECORD = select(
    threads.c.id,
    threads.c.tenant,
    threads.c.open_run,
    threads.c.created_at,
    threads.c.forked_from,
    threads.c.forked_at,
    select(func.count()).where(*_PLACED).scalar_subquery(),
    select(func.max(messages.c.created_at)).where(*_PLACED).scalar_subquery(),
).where(threads.c.deleted_at.is_(None))


def _making(insert_into: Any) -> Prepared:
    given: dict[str, Any] = {name: bindparam(name) for name in ("id", "tenant", "created_at")}
    return Prepared(insert_into(threads).values(given).on_conflict_do_nothing().returning(threads.c.id))


def _queueing(insert_into: Any) -> Prepared:
    given: dict[str, Any] = {
        name: bindparam(name) for name in ("thread_id", "text", "run_id", "author", "ref", "created_at")
    }
    statement = insert_into(messages).values(role=literal_column("'user'"), **given)
    return Prepared(statement.on_conflict_do_nothing().returning(messages.c.id))


# By whether the ledger is SQLite's: the two databases have their own words for a conflict.
_MAKE = {True: _making(sqlite.insert), False: _making(postgresql.insert)}
_QUEUE = {True: _queueing(sqlite.insert), False: _queueing(postgresql.insert)}


class Threads:
    """The threads of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._workspaces = Workspaces(ledger)

    async def ensure(self, connection: Statements, thread: str, tenant: str) -> None:
        """Make the thread unless it is there.

        Raises:
            ThreadNotFound: It was deleted, or is another tenant's.
        """
        rows = await connection.run(_TENANT, of_thread=thread)
        if not rows:
            make = _MAKE[self._ledger.is_sqlite]
            if await connection.run(make, id=thread, tenant=tenant, created_at=datetime.now(UTC)):
                return
            rows = await connection.run(_TENANT, of_thread=thread)  # somebody else has made it meanwhile
        if rows[0] != (tenant, None):
            raise ThreadNotFound(f"There is no thread {thread!r}.", hint="Leave `thread` out to begin a new one.")

    async def occupy(self, connection: Statements, thread: str, run_id: str) -> None:
        """Give the thread to a run; it is then its only writer.

        Raises:
            ThreadBusy: Another run has it.
        """
        if not await connection.run(_OCCUPY, of_thread=thread, of_run=run_id):
            rows = await connection.run(_HOLDER, of_thread=thread)
            other = rows[0][0] if rows else None
            raise ThreadBusy(
                f"Thread {thread!r} has an open run, {other}.",
                hint=f'Send it a message instead: horarium runs message {other} "…"',
            )

    async def holder(self, thread: str) -> str | None:
        """The run that has the thread open."""
        async with self._ledger.read() as connection:
            rows = await connection.run(_HOLDER, of_thread=thread)
        return rows[0][0] if rows else None

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

    async def get(self, thread: str, *, tenant: str | None = None) -> ThreadRecord:
        """One thread; `tenant`: whose it has to be, None for anybody's.

        Raises:
            ThreadNotFound: There is none of this id, it was deleted, or it is another tenant's.
        """
        async with self._ledger.read() as connection:
            row = (await connection.execute(_RECORD.where(threads.c.id == thread))).first()
        if row is None or tenant not in (None, row.tenant):
            raise _no_thread(thread)
        return ThreadRecord(*row)

    async def read(self, thread: str, *, after: int = -1, limit: int | None = None) -> list[ThreadMessage]:
        """The messages after place `after`, oldest first: all of them, or the first `limit`."""
        async with self._ledger.read() as connection:
            given = {"of_thread": thread, "after": after}
            rows = (
                await connection.run(_READ, **given)
                if limit is None
                else await connection.run(_READ_SOME, **given, most=limit)
            )
            return [ThreadMessage(*row) for row in rows]

    async def list(
        self, *, tenant: str | None = None, before: str | None = None, limit: int = 50
    ) -> list[ThreadRecord]:
        """Threads that were not deleted, the newest first; `before`: the last one of the page before this."""
        query = _RECORD.order_by(threads.c.created_at.desc(), threads.c.id.desc()).limit(min(limit, MOST_LISTED))
        if tenant is not None:
            query = query.where(threads.c.tenant == tenant)
        async with self._ledger.read() as connection:
            if before is not None:
                row = (await connection.execute(select(threads).where(threads.c.id == before))).first()
                if row is None or tenant not in (None, row.tenant):
                    raise _no_thread(before)
                at = literal(row.created_at, Instant)
                older = and_(threads.c.created_at == at, threads.c.id < before)
                query = query.where(or_(threads.c.created_at < at, older))
            return [ThreadRecord(*row) for row in await connection.execute(query)]

    async def append(
        self,
        thread: str,
        text: str,
        *,
        role: Literal["user", "system"] = "user",
        author: str | None = None,
        tenant: str | None = None,
    ) -> int:
        """Place a message at the end of a thread that no run has open; the next run reads it. Returns its place.

        Raises:
            ThreadNotFound: There is none, or it is another tenant's.
            ThreadBusy: A run has it open.
            Conflict: Its last turn has calls without an answer, which has to come first.
        """
        async with self._ledger.write() as connection:
            row = await _locked(connection, thread, tenant)
            if row.open_run is not None:
                raise ThreadBusy(
                    f"Thread {thread!r} has an open run, {row.open_run}.",
                    hint=f'Send it a message instead: horarium runs message {row.open_run} "…"',
                )
            last = await _last_place(connection, thread)
            if last is not None:
                turn = await _turn_at(connection, thread, last)
                if turn is not None and not turn.answered:
                    raise Conflict(
                        f"The last turn of thread {thread!r} has calls without an answer.",
                        hint=f"Go on with run {turn.run_id} (resume_from), or fork the thread: "
                        f"horarium threads fork {thread}",
                    )
            place = 0 if last is None else last + 1
            await connection.execute(
                insert(messages).values(
                    thread_id=thread,
                    seq=place,
                    role=role,
                    text=clean_text(text)[0],
                    author=author,
                    ref=new_message_ref(),
                    created_at=datetime.now(UTC),
                )
            )
        return place

    async def fork(self, thread: str, *, at: int | None = None, tenant: str | None = None) -> ThreadRecord:
        """Make a new thread of the messages up to and with place `at`; None: as much as is whole.

        A turn is never cut from the answers to its calls: a place between them is moved to the last of the answers.
        Summaries that stand for no more than what is copied come along; standing grants do not.

        Raises:
            ThreadNotFound: There is none, or it is another tenant's.
            NotFound: No message has this place.
            Conflict: The turn at that place has calls without an answer, or nothing was said at all.
        """
        fork = new_thread_id()
        async with self._ledger.write() as connection:
            row = await _locked(connection, thread, tenant)
            end = await _whole_end(connection, thread, at)
            await connection.execute(
                insert(threads).values(
                    id=fork, tenant=row.tenant, created_at=datetime.now(UTC), forked_from=thread, forked_at=end
                )
            )
            copied = [column for column in messages.c if column.name not in ("id", "thread_id")]
            mine = select(literal(fork), *copied).where(messages.c.thread_id == thread, messages.c.seq <= end)
            await connection.execute(
                insert(messages).from_select(["thread_id", *(c.name for c in copied)], mine.order_by(messages.c.seq))
            )
            kept = [column for column in summaries.c if column.name != "thread_id"]
            known = select(literal(fork), *kept).where(summaries.c.thread_id == thread, summaries.c.upto <= end)
            await connection.execute(insert(summaries).from_select(["thread_id", *(c.name for c in kept)], known))
            await self._workspaces.fork_within(connection, thread, fork, upto=None if at is None else end)
        return await self.get(fork)

    async def queue(self, thread: str, ref: str, text: str, run_id: str | None, author: str | None) -> None:
        """Keep a message for the next turn of a run; the same `ref` twice is one message."""
        async with self._ledger.write() as connection:
            await self.queue_within(connection, thread, ref, text, run_id, author)

    async def sent(self, thread: str, execution: str, *, placed: bool = False) -> tuple[str, ...]:
        """The messages that one execution of a run was sent, by their `ref`: those that wait for a turn, or had one."""
        async with self._ledger.read() as connection:
            rows = await connection.run(_PLACED_REFS if placed else _QUEUED, of_thread=thread)
        return tuple(ref for (ref,) in rows if ref.startswith(f"{execution}/"))

    async def queue_within(
        self, connection: Statements, thread: str, ref: str, text: str, run_id: str | None, author: str | None
    ) -> None:
        """As `queue`, in a transaction that does more.

        Raises:
            ThreadNotFound: There is none, or it was deleted.
        """
        if not await connection.run(_IS_THERE, of_thread=thread):
            raise _no_thread(thread)
        await connection.run(
            _QUEUE[self._ledger.is_sqlite],
            thread_id=thread,
            text=text,
            run_id=run_id,
            author=author,
            ref=ref,
            created_at=datetime.now(UTC),
        )

    async def delete(self, thread: str, *, by: str | None = None, tenant: str | None = None) -> None:
        """Remove everything that was said in a thread: messages, arguments, outputs, blobs, summaries, memories.

        The threads of the sub-agents that its runs handed tasks to go with it. Runs and steps stay as evidence that
        something was done, without what; the audit says who deleted it. What a fork shows as well stays until that is
        deleted too.

        Raises:
            ThreadNotFound: There is none, or it is another tenant's.
            Conflict: A run has it open, or one of its sub-agents' threads.
        """
        now = datetime.now(UTC)
        async with self._ledger.write() as connection:
            blobs = set(await forget_thread(connection, thread, by=by, tenant=tenant, at=now))
            below = await threads_below(connection, thread)
            for other in below:
                blobs |= set(await forget_thread(connection, other, by=by, tenant=tenant, at=now))
            for gone in (thread, *below):
                await self._workspaces.delete_within(connection, gone)
        for blob in sorted(blobs):
            await self._ledger.blobs.delete(blob)
        await self._workspaces.sweep()

    async def last_places(self, thread: str, run_id: str) -> tuple[int | None, int | None]:
        """Where what a run said or was asked ends in a thread, and where the thread ends."""
        last = select(func.max(messages.c.seq)).where(messages.c.thread_id == thread)
        async with self._ledger.read() as connection:
            return await connection.scalar(last.where(messages.c.run_id == run_id)), await connection.scalar(last)

    async def create(self, thread: str, tenant: str) -> None:
        """Make a thread with nothing in it; the same twice is one.

        Raises:
            ThreadNotFound: It was deleted, or is another tenant's.
        """
        async with self._ledger.write() as connection:
            await self.ensure(connection, thread, tenant)

    async def size(self, thread: str) -> int:
        """Number of messages."""
        async with self._ledger.read() as connection:
            return int(
                await connection.scalar(
                    select(func.count()).where(messages.c.thread_id == thread, messages.c.seq.is_not(None))
                )
                or 0
            )


@dataclass(frozen=True, slots=True)
class _Turn:
    """A turn of the model and the answers to its calls: the places of both ends."""

    start: int
    end: int
    answered: bool
    run_id: str | None


def _no_thread(thread: str) -> ThreadNotFound:
    return ThreadNotFound(f"There is no thread {thread!r}.", hint="See which there are: horarium threads list")


async def _locked(connection: Statements, thread: str, tenant: str | None) -> Any:
    row = (await connection.execute(select(threads).where(threads.c.id == thread).with_for_update())).first()
    if row is None or row.deleted_at is not None or tenant not in (None, row.tenant):
        raise _no_thread(thread)
    return row


async def _last_place(connection: Statements, thread: str, *, upto: int | None = None, role: str | None = None) -> Any:
    query = select(func.max(messages.c.seq)).where(messages.c.thread_id == thread)
    if upto is not None:
        query = query.where(messages.c.seq <= upto)
    if role is not None:
        query = query.where(messages.c.role == role)
    return await connection.scalar(query)


async def _turn_at(connection: Statements, thread: str, place: int) -> _Turn | None:
    """The last turn that begins at or before a place; None when the model has said nothing so far."""
    start = await _last_place(connection, thread, upto=place, role="assistant")
    if start is None:
        return None
    later = (messages.c.thread_id == thread, messages.c.seq > start, messages.c.role != "tool")
    next_one = await connection.scalar(select(func.min(messages.c.seq)).where(*later))
    given = {"of_thread": thread, "after": start - 1}
    rows = (
        await connection.run(_READ, **given)
        if next_one is None
        else await connection.run(_READ_SOME, **given, most=next_one - start)
    )
    said, *after = [ThreadMessage(*row) for row in rows]
    open_calls = {call.id for call in stored_turn(said.output or "{}").calls}
    end = said.seq
    for message in after:
        open_calls.discard(message.call_id or "")
        end = message.seq
    return _Turn(start, end, not open_calls, said.run_id)


async def _whole_end(connection: Statements, thread: str, at: int | None) -> int:
    """The last place that a fork at `at` has."""
    last = await _last_place(connection, thread)
    if last is None:
        raise Conflict(f"Nothing was said in thread {thread!r} so far.", hint="Begin a new one instead.")
    wanted = int(last) if at is None else at
    if not 0 <= wanted <= last:
        raise NotFound(f"Thread {thread!r} has no message {wanted}; its last is {last}.")
    turn = await _turn_at(connection, thread, wanted)
    if turn is None or wanted > turn.end:
        return wanted
    if turn.answered:
        return turn.end
    if turn.start == 0:
        raise Conflict(f"The first turn of thread {thread!r} has calls without an answer.", hint="Wait for its run.")
    if at is None:
        return turn.start - 1
    raise Conflict(
        f"The turn at message {wanted} of thread {thread!r} has calls without an answer.",
        hint=f"Fork before it: horarium threads fork {thread} --at {turn.start - 1}",
    )


async def release(connection: Statements, run_id: str) -> None:
    """Within a transaction: the run no longer has its thread."""
    await connection.run(_RELEASE, of_run=run_id)


async def queued_refs(connection: Statements, thread: str) -> tuple[str, ...]:
    """Within a transaction: the messages nobody has read yet, oldest first."""
    return tuple(ref for (ref,) in await connection.run(_QUEUED, of_thread=thread))
