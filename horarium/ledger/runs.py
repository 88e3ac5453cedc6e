"""Runs: who started what, and how it ended. What happens in between is the journal's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, delete, func, literal, literal_column, null, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from horarium.content import digest
from horarium.contract import RunRequest, Status, Usage
from horarium.errors import Conflict, RunExists, RunNotFound
from horarium.ids import thread_id_for_run
from horarium.ledger.approvals import withdraw_open
from horarium.ledger.database import Ledger, Prepared, Statements
from horarium.ledger.functions import Functions, RunFunctions
from horarium.ledger.journal import Answered, append_messages, leave_nothing_claimed
from horarium.ledger.lineage import runs_below
from horarium.ledger.run_statuses import note_status
from horarium.ledger.schema import Instant, messages, runs, steps, ticks
from horarium.ledger.threads import Threads, queued_refs, release

SEARCHED = 20_000  # runs, for a text
_OF_RUN = runs.c.id == bindparam("of_run")
_GET = Prepared(select(runs).where(_OF_RUN))
_ASKED = Prepared(
    select(*runs.c, messages.c.text)
    .join_from(
        runs,
        messages,
        and_(messages.c.thread_id == runs.c.thread_id, messages.c.ref == bindparam("of_ref")),
        isouter=True,
    )
    .where(_OF_RUN)
)
_HAS_MESSAGES = Prepared(
    select(messages.c.id)
    .where(messages.c.thread_id == bindparam("of_thread"))
    .limit(literal_column("1"))
    .offset(literal_column("0"))
)
_BEGIN = Prepared(
    update(runs)
    .where(_OF_RUN)
    .values(
        status=literal_column("'in_progress'"),
        message=null(),
        version=bindparam("as_version"),
        opened_at=func.coalesce(runs.c.opened_at, bindparam("now", type_=Instant)),
    )
    .returning(runs.c.id)
)
_USED = ("turns", "steps", "input_tokens", "output_tokens", "cost_micro_usd")
_END = Prepared(
    update(runs)
    .where(_OF_RUN, runs.c.closed_at.is_(None))
    .values({name: bindparam(name) for name in ("status", "reason", "message", *_USED, "closed_at")})
    .returning(runs.c.id)
)


def _writing_down(insert_into: Any) -> Prepared:
    names = ("id", "tenant", "key", "request_digest", "thread_id", "agent", "version", "requested_by", "resume_from")
    more = ("tick", "metadata", "created_at", "parent_run", "parent_step", "path")
    given: dict[str, Any] = {name: bindparam(name) for name in (*names, *more)}
    zeros: dict[str, Any] = dict.fromkeys(_USED, literal_column("0"))
    statement = insert_into(runs).values(status=literal_column("'queued'"), **zeros, **given)
    return Prepared(statement.on_conflict_do_nothing(index_elements=["id"]).returning(*runs.c))


# By whether the ledger is SQLite's: the two databases have their own words for a conflict.
_WRITE_DOWN = {True: _writing_down(sqlite.insert), False: _writing_down(postgresql.insert)}


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run as the ledger has it. Times are UTC."""

    id: str
    tenant: str
    key: str | None
    request_digest: str | None
    thread_id: str
    agent: str
    version: int | None
    status: Status
    reason: str | None
    message: str | None
    requested_by: str | None
    resume_from: str | None
    tick: str | None
    metadata: dict[str, str]
    turns: int
    steps: int
    input_tokens: int
    output_tokens: int
    cost_micro_usd: int
    created_at: datetime
    opened_at: datetime | None
    closed_at: datetime | None
    parent_run: str | None
    parent_step: int | None
    path: list[str] | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A run that is written down, and its input; None when it has none, or its thread was deleted."""

    run: RunRecord
    input: str | None


class Runs:
    """The runs of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._threads = Threads(ledger)

    async def create(
        self,
        run_id: str,
        request: RunRequest,
        *,
        key: str | None,
        request_digest: str,
        tick: str | None = None,
        functions: RunFunctions | None = None,
    ) -> RunRecord:
        """Write a run down before it is started, with what it was asked; the same twice is one.

        `tick`: the tick of which it is an attempt. It brings the routine's grants, so a request cannot name it.
        `functions`: those that whoever starts it carries out.

        Raises:
            RunExists: This id stands for another request.
            ThreadNotFound: The thread was deleted, or is another tenant's.
        """
        thread = request.thread or thread_id_for_run(run_id)
        async with self._ledger.write() as connection:
            await self._threads.ensure(connection, thread, request.tenant)
            record = await self._ensure(connection, run_id, thread, request, key, request_digest, tick)
            if record.request_digest not in (None, request_digest):
                raise RunExists(
                    f"The key {key!r} was used before for another request, by run {record.id}.",
                    hint=f"Use a new key, or look at it: horarium runs show {record.id}",
                )
            if functions is not None and (functions.functions or functions.choice):
                await Functions(self._ledger).keep_within(connection, run_id, functions)
            # In the same transaction: a run that is written down has its input.
            if request.input is not None:
                await self._threads.queue_within(
                    connection, record.thread_id, f"{run_id}/input", request.input, run_id, request.requested_by
                )
        return record

    async def create_below(
        self, run_id: str, request: RunRequest, task: str | None, *, parent: RunRecord, step: int
    ) -> RunRecord:
        """Write the run of a sub-agent down, with its task, before it is started; the same twice is one.

        Raises:
            RunExists: This id stands for another run.
        """
        thread = thread_id_for_run(run_id)
        path = [*(parent.path or [parent.agent]), request.agent]
        below = {"parent_run": parent.id, "parent_step": step, "path": path}
        async with self._ledger.write() as connection:
            await self._threads.ensure(connection, thread, request.tenant)
            record = await self._ensure(connection, run_id, thread, request, None, handed_digest(request), below=below)
            if (record.parent_run, record.parent_step, record.agent) != (parent.id, step, request.agent):
                raise RunExists(f"Run {run_id} is there already, and is no sub-agent's of {parent.id}.")
            if task is not None:
                await self._threads.queue_within(
                    connection, record.thread_id, f"{run_id}/input", task, run_id, request.requested_by
                )
        return record

    async def earlier_below(self, key: str, run_id: str) -> RunRecord | None:
        """The latest run, other than this one, that a sub-agent's call with this idempotency key was handed to."""
        query = (
            select(runs)
            .join(steps, and_(steps.c.run_id == runs.c.parent_run, steps.c.number == runs.c.parent_step))
            .where(steps.c.key == key, runs.c.id != run_id)
            .order_by(runs.c.created_at.desc(), runs.c.id.desc())
            .limit(1)
        )
        async with self._ledger.read() as connection:
            row = (await connection.execute(query)).first()
        return RunRecord(*row) if row is not None else None

    async def children(self, run_id: str) -> list[RunRecord]:
        """The runs of sub-agents that a run started, oldest first."""
        async with self._ledger.read() as connection:
            query = select(runs).where(runs.c.parent_run == run_id).order_by(runs.c.parent_step, runs.c.created_at)
            return [RunRecord(*row) for row in await connection.execute(query)]

    async def below(self, run_id: str) -> int:
        """How many runs of sub-agents there were below a run, at any depth."""
        async with self._ledger.read() as connection:
            return await runs_below(connection, run_id)

    async def spent(self, run_id: str) -> Usage:
        """What the steps of a run have used: of one that could not say so itself at its end."""
        counted = (steps.c.input_tokens, steps.c.output_tokens, steps.c.cost_micro_usd)
        query = select(*(func.coalesce(func.sum(column), 0) for column in counted)).where(steps.c.run_id == run_id)
        async with self._ledger.read() as connection:
            tokens_in, tokens_out, cost = (await connection.execute(query)).one()
        return Usage(input_tokens=int(tokens_in), output_tokens=int(tokens_out), cost_micro_usd=int(cost))

    async def read_strangers(self, thread: str) -> bool:
        """Whether a step of any run of a thread brought in what strangers wrote."""
        query = select(steps.c.number).join(runs, runs.c.id == steps.c.run_id)
        async with self._ledger.read() as connection:
            found = await connection.scalar(query.where(runs.c.thread_id == thread, steps.c.untrusted == 1).limit(1))
        return found is not None

    async def asked(self, run_id: str) -> Asked | None:
        """What a run that may have been written down was asked; None when it was not."""
        async with self._ledger.read() as connection:
            rows = await connection.run(_ASKED, of_run=run_id, of_ref=f"{run_id}/input")
        if not rows:
            return None
        *record, text = rows[0]
        return Asked(RunRecord(*record), text)

    async def opened_as(self, run_id: str, agent: str, version: int, *, thread: str | None = None) -> RunRecord:
        """A run that was opened with this agent, and in this thread: what somebody says of it in a payload is checked.

        Raises:
            Conflict: It was opened with something else.
            RunNotFound: There is none.
        """
        record = await self.get(run_id)
        if (record.agent, record.version) != (agent, version) or thread not in (None, record.thread_id):
            of = f"version {version} of {agent!r}" + (f" in thread {thread}" if thread is not None else "")
            raise Conflict(f"Run {run_id} was not opened with {of}.")
        return record

    async def drop_unread(self, tick: str) -> None:
        """Take out of their threads what runs of a tick were asked that never opened: nobody answers it any more."""
        async with self._ledger.write() as connection:
            query = select(runs.c.id, runs.c.thread_id).where(runs.c.tick == tick, runs.c.opened_at.is_(None))
            for row in (await connection.execute(query)).fetchall():
                mine = and_(messages.c.thread_id == row.thread_id, messages.c.ref == f"{row.id}/input")
                await connection.execute(delete(messages).where(mine, messages.c.seq.is_(None)))

    async def open(
        self,
        run_id: str,
        thread: str,
        request: RunRequest,
        version: int,
        *,
        answered: Sequence[str] = (),
        owes_calls: bool = False,
    ) -> tuple[str, ...]:
        """Begin: occupy the thread, and bring it up to date with what was asked. Safe to repeat.

        A run that owes calls of the run it resumes must answer these first; then what was asked stays queued.

        Returns:
            The refs of the messages that stay queued, oldest first.

        Raises:
            ThreadBusy: Another run has the thread open.
            ThreadNotFound: The thread was deleted, or is another tenant's.
            Conflict: There is nothing to answer.
        """
        async with self._ledger.write() as connection:
            await self._threads.ensure(connection, thread, request.tenant)
            record = await self._ensure(connection, run_id, thread, request, None, None)
            if record.thread_id != thread:
                await _move(connection, run_id, record.thread_id, thread)
            await self._threads.occupy(connection, thread, run_id)
            if request.input is not None:
                await self._threads.queue_within(
                    connection, thread, f"{run_id}/input", request.input, run_id, request.requested_by
                )
            queued = await queued_refs(connection, thread)
            if not owes_calls and record.opened_at is None:
                append = [Answered("tool", step=step) for step in answered]
                append += [Answered("user", ref=ref) for ref in queued]
                await append_messages(connection, thread, run_id, append, datetime.now(UTC))
                if not append and not await connection.run(_HAS_MESSAGES, of_thread=thread):
                    raise Conflict("Nothing was asked.", hint="Give the run an input.")
            await connection.run(_BEGIN, of_run=run_id, as_version=version, now=datetime.now(UTC))
            await note_status(connection, run_id, "in_progress")
            return queued if owes_calls else ()

    async def held_up(self, run_id: str, why: str) -> None:
        """Say why a run cannot begin for now; gone when it begins."""
        waits = and_(runs.c.id == run_id, runs.c.opened_at.is_(None), runs.c.closed_at.is_(None))
        async with self._ledger.write() as connection:
            await connection.execute(update(runs).where(waits).values(message=why))

    async def close(
        self,
        run_id: str,
        status: Status,
        *,
        reason: str | None,
        message: str | None,
        turns: int,
        steps: int,
        usage: Usage,
    ) -> None:
        """End, and release the thread. Safe to repeat."""
        async with self._ledger.write() as connection:
            now = datetime.now(UTC)
            closed = await connection.run(
                _END,
                of_run=run_id,
                status=status,
                reason=reason,
                message=message,
                turns=turns,
                steps=steps,
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cost_micro_usd=usage.cost_micro_usd,
                closed_at=now,
            )
            if closed:
                await note_status(connection, run_id, status)
            await leave_nothing_claimed(connection, run_id, now)
            await withdraw_open(connection, run_id, now)
            await release(connection, run_id)

    async def close_gone(self, run_id: str) -> None:
        """Write down that a run was ended from outside and could not say so itself; its thread is free again."""
        async with self._ledger.write() as connection:
            now = datetime.now(UTC)
            closed = await connection.execute(
                update(runs)
                .where(runs.c.id == run_id, runs.c.closed_at.is_(None))
                .values(
                    status="failed",
                    reason="terminated",
                    message="The run was ended from outside, in Temporal.",
                    closed_at=now,
                )
            )
            if closed.rowcount:
                await note_status(connection, run_id, "failed")
            await leave_nothing_claimed(connection, run_id, now)
            await withdraw_open(connection, run_id, now)
            await release(connection, run_id)

    async def mark(self, run_id: str, status: Status) -> None:
        """Show an open run's status in lists."""
        async with self._ledger.write() as connection:
            marked = await connection.execute(
                update(runs).where(runs.c.id == run_id, runs.c.closed_at.is_(None)).values(status=status)
            )
            if marked.rowcount:
                await note_status(connection, run_id, status)

    async def annotate(self, run_id: str, metadata: Mapping[str, str]) -> None:
        """Add to what is stored with a run; what a run was started with is not changed in Temporal."""
        async with self._ledger.write() as connection:
            query = select(runs.c.metadata).where(runs.c.id == run_id).with_for_update()
            before = await connection.scalar(query) or {}
            await connection.execute(
                update(runs).where(runs.c.id == run_id).values(metadata={**before, **dict(metadata)})
            )

    async def get(self, run_id: str) -> RunRecord:
        """One run.

        Raises:
            RunNotFound: There is none of this id.
        """
        async with self._ledger.read() as connection:
            rows = await connection.run(_GET, of_run=run_id)
        if not rows:
            raise RunNotFound(f"There is no run {run_id!r}.", hint="See which there are: horarium runs list")
        return RunRecord(*rows[0])

    async def list(
        self,
        *,
        status: Sequence[Status] = (),
        agent: str | None = None,
        tenant: str | None = None,
        thread: str | None = None,
        tick: str | None = None,
        routine: str | None = None,
        parent: str | None = None,
        requested_by: str | None = None,
        text: str | None = None,
        below: bool = True,
        before: tuple[datetime, str] | None = None,
        limit: int = 50,
    ) -> list[RunRecord]:
        """The latest runs, newest first; without those of sub-agents when `below` is False.

        Args:
            text: Part of its id, or of what it was asked; looked for in the latest `SEARCHED` runs of the tenant.
            before: Time of creation and id of the last run of the page before this one.
        """
        query = select(runs).order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(limit)
        if before is not None:
            at = literal(before[0], Instant)
            query = query.where(or_(runs.c.created_at < at, and_(runs.c.created_at == at, runs.c.id < before[1])))
        if routine is not None:
            query = query.where(runs.c.tick.in_(select(ticks.c.id).where(ticks.c.routine == routine)))
        if status:
            query = query.where(runs.c.status.in_(status))
        if not below:
            query = query.where(runs.c.parent_run.is_(None))
        if text is not None:
            query = query.where(_has_text(text, tenant))
        wanted = (
            (runs.c.agent, agent),
            (runs.c.tenant, tenant),
            (runs.c.thread_id, thread),
            (runs.c.tick, tick),
            (runs.c.parent_run, parent),
            (runs.c.requested_by, requested_by),
        )
        for column, value in wanted:
            if value is not None:
                query = query.where(column == value)
        async with self._ledger.read() as connection:
            return [RunRecord(*row) for row in await connection.execute(query)]

    async def _ensure(
        self,
        connection: Statements,
        run_id: str,
        thread: str,
        request: RunRequest,
        key: str | None,
        request_digest: str | None,
        tick: str | None = None,
        below: Mapping[str, Any] | None = None,
    ) -> RunRecord:
        found = await connection.run(_GET, of_run=run_id)
        if found:
            return RunRecord(*found[0])
        values: dict[str, Any] = {
            "id": run_id,
            "tenant": request.tenant,
            "key": key,
            "request_digest": request_digest,
            "thread_id": thread,
            "agent": request.agent,
            "version": request.version,
            "requested_by": request.requested_by,
            "resume_from": request.resume_from,
            "tick": tick,
            "metadata": request.metadata,
            "created_at": datetime.now(UTC),
            **(below or dict.fromkeys(("parent_run", "parent_step", "path"))),
        }
        fresh = await connection.run(_WRITE_DOWN[self._ledger.is_sqlite], **values)
        if fresh:
            await note_status(connection, run_id, "queued")
        return RunRecord(*(fresh or await connection.run(_GET, of_run=run_id))[0])


def _has_text(text: str, tenant: str | None) -> ColumnElement[bool]:
    latest = select(runs.c.id).order_by(runs.c.created_at.desc()).limit(SEARCHED)
    if tenant is not None:
        latest = latest.where(runs.c.tenant == tenant)
    asked = select(messages.c.id).where(
        messages.c.thread_id == runs.c.thread_id,
        messages.c.ref == runs.c.id + "/input",
        messages.c.text.icontains(text, autoescape=True),
    )
    return and_(runs.c.id.in_(latest), or_(runs.c.id.icontains(text, autoescape=True), asked.exists()))


def handed_digest(request: RunRequest) -> str:
    """Of what a sub-agent's run is started with, but for its task: nobody else can start it with anything else."""
    return digest(request.model_dump(mode="json", exclude={"input", "carried"}, exclude_defaults=True))


async def _move(connection: Statements, run_id: str, before: str, thread: str) -> None:
    """A run that goes on with another was written down before it was known in which thread."""
    await connection.execute(update(runs).where(runs.c.id == run_id).values(thread_id=thread))
    await connection.execute(
        update(messages)
        .where(messages.c.thread_id == before, messages.c.ref == f"{run_id}/input")
        .values(thread_id=thread)
    )
