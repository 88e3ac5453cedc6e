"""Figures about a whole ledger for the pages about agents and health: counted over bounded spans, never step by step.

Looks only. A run's usage has that of its sub-agents in it, so a tenant's sum is over topmost runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, case, func, literal_column, select, text

from horarium.contract import OPEN_STATUSES, OPEN_TICK_STATUSES
from horarium.ledger.database import Ledger
from horarium.ledger.schema import approvals, memories, memory_versions, routines, runs, steps, ticks
from horarium.memories import PENDING

LATEST_RUNS = 500  # of an agent, in which failures of its tools are looked for
MESSAGE_CHARS = 300


@dataclass(frozen=True, slots=True)
class Used:
    """What runs have used. One that is open is counted when it ends."""

    runs: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_micro_usd: int = 0


@dataclass(frozen=True, slots=True)
class ToolFailure:
    """The last call of a tool that failed, and how many did."""

    tool: str
    number: int
    run: str
    step: int
    code: str | None
    message: str | None
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Questions to people that nobody has answered."""

    questions: int = 0
    due: int = 0
    oldest: datetime | None = None
    next_deadline: datetime | None = None


@dataclass(frozen=True, slots=True)
class Timetable:
    """How far the watch over the schedules is, and what it found."""

    watched_until: datetime | None = None
    missed: int = 0
    failed: int = 0
    open: int = 0
    not_applied: int = 0


@dataclass(frozen=True, slots=True)
class Store:
    """The database itself."""

    kind: str
    revision: str | None
    bytes: int | None


class Figures:
    """Counts in one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def used_by_agents(self, tenant: str, since: datetime) -> dict[str, Used]:
        """What the runs of each agent that began since then have used, with those of their sub-agents."""
        query = select(runs.c.agent, *_USED).where(runs.c.tenant == tenant, runs.c.created_at >= since)
        async with self._ledger.read() as connection:
            rows = await connection.execute(query.group_by(runs.c.agent))
            return {agent: Used(*map(int, numbers)) for agent, *numbers in rows}

    async def used_by(self, agent: str, tenant: str, since: datetime) -> Used:
        """As `used_by_agents`, of one."""
        mine = and_(runs.c.agent == agent, runs.c.tenant == tenant, runs.c.created_at >= since)
        return await self._used(mine)

    async def used(self, tenant: str, since: datetime) -> Used:
        """What a tenant's runs that began since then have used."""
        return await self._used(and_(runs.c.tenant == tenant, runs.c.created_at >= since, runs.c.parent_run.is_(None)))

    async def _used(self, which: ColumnElement[bool]) -> Used:
        async with self._ledger.read() as connection:
            return Used(*map(int, (await connection.execute(select(*_USED).where(which))).one()))

    async def statuses(self, tenant: str, since: datetime) -> Mapping[str, int]:
        """How many runs of a tenant are open, by status, and how those that began since then ended."""
        number = func.count()
        still = select(runs.c.status, number).where(runs.c.tenant == tenant, runs.c.status.in_(OPEN_STATUSES))
        ended = select(runs.c.status, number).where(
            runs.c.tenant == tenant, runs.c.created_at >= since, runs.c.status.not_in(OPEN_STATUSES)
        )
        found: dict[str, int] = {}
        async with self._ledger.read() as connection:
            for query in (still, ended):
                found |= {status: int(n) for status, n in await connection.execute(query.group_by(runs.c.status))}
        return found

    async def tool_failures(self, agent: str, tenant: str, since: datetime) -> dict[str, ToolFailure]:
        """The last failed call of each tool in the latest runs of an agent."""
        latest = (
            select(runs.c.id)
            .where(runs.c.tenant == tenant, runs.c.agent == agent, runs.c.created_at >= since)
            .order_by(runs.c.created_at.desc())
            .limit(LATEST_RUNS)
        )
        failed = and_(steps.c.run_id.in_(latest), steps.c.kind == "tool_call", steps.c.status == "failed")
        times = func.row_number().over(partition_by=steps.c.name, order_by=steps.c.settled_at.desc()).label("place")
        number = func.count().over(partition_by=steps.c.name).label("number")
        said = func.substr(steps.c.message, 1, MESSAGE_CHARS).label("message")
        found = (
            select(steps.c.name, number, steps.c.run_id, steps.c.number.label("step"), steps.c.code, said)
            .add_columns(steps.c.settled_at, times)
            .where(failed)
            .subquery()
        )
        columns = [column for column in found.c if column.name != "place"]
        async with self._ledger.read() as connection:
            rows = await connection.execute(select(*columns).where(found.c.place == 1))
            return {row[0]: ToolFailure(*row) for row in rows}

    async def waiting(self, tenant: str, due_before: datetime) -> Waiting:
        """What waits for people."""
        query = select(
            func.count(),
            func.coalesce(func.sum(case((approvals.c.expires_at <= due_before, 1), else_=0)), 0),
            func.min(approvals.c.requested_at),
            func.min(approvals.c.expires_at),
        ).where(approvals.c.status == "pending", approvals.c.tenant == tenant)
        async with self._ledger.read() as connection:
            number, due, oldest, deadline = (await connection.execute(query)).one()
        return Waiting(int(number), int(due), oldest, deadline)

    async def memories_waiting(self, tenant: str) -> int:
        """How many memories have a version that waits for a review."""
        query = (
            select(func.count(memories.c.id.distinct()))
            .join(memory_versions, memory_versions.c.memory_id == memories.c.id)
            .where(memories.c.tenant == tenant, memory_versions.c.status.in_(PENDING))
        )
        async with self._ledger.read() as connection:
            return int(await connection.scalar(query) or 0)

    async def timetable(self, tenant: str, since: datetime) -> Timetable:
        """How a tenant's routines are kept."""
        alive = and_(routines.c.tenant == tenant, routines.c.deleted_at.is_(None))
        behind = func.coalesce(func.sum(case((routines.c.applied < routines.c.generation, 1), else_=0)), 0)
        watched = select(func.min(routines.c.watched_until), behind).where(alive)
        fates = (
            select(ticks.c.status, func.count())
            .where(ticks.c.tenant == tenant, ticks.c.scheduled_at >= since)
            .group_by(ticks.c.status)
        )
        async with self._ledger.read() as connection:
            until, not_applied = (await connection.execute(watched)).one()
            found = {status: int(number) for status, number in await connection.execute(fates)}
        still = sum(found.get(status, 0) for status in OPEN_TICK_STATUSES)
        return Timetable(until, found.get("missed", 0), found.get("failed", 0), still, int(not_applied))

    async def store(self) -> Store:
        """What database it is, how far its tables are, and how large it is."""
        size = (
            "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
            if self._ledger.is_sqlite
            else "SELECT pg_database_size(current_database())"
        )
        async with self._ledger.read() as connection:
            revision = await connection.scalar(text("SELECT version_num FROM alembic_version"))
            number = await connection.scalar(text(size))
        return Store("SQLite" if self._ledger.is_sqlite else "PostgreSQL", revision, int(number))


_NOT_WELL = ("failed", "expired")
_USED = (
    func.count(),
    func.coalesce(func.sum(case((runs.c.status.in_(_NOT_WELL), 1), else_=0)), literal_column("0")),
    *(func.coalesce(func.sum(runs.c[name]), literal_column("0")) for name in Used.__slots__[2:]),
)
