"""Which processes serve tools: where they are, what they announced, and when they were heard of last.

A tool belongs to the queue that announced it. Another queue gets it only when nobody lives there any more, so that
no worker takes over another's calls unnoticed.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from ulid import ULID

from horarium.content import digest
from horarium.contract import ENGINE_QUEUE, TOOL_QUEUE_PREFIX
from horarium.errors import ToolTaken
from horarium.ledger.agents import ToolCatalog
from horarium.ledger.database import Ledger, Statements
from horarium.ledger.schema import tool_workers, tools
from horarium.stack import is_alive
from horarium.tools import ToolSpec

STALE_AFTER = timedelta(minutes=1)  # of hosts whose clocks agree to some seconds; a worker says so every ten
KEPT = timedelta(days=2)  # rows of workers that are gone
_LOCK = 7_206_031  # any number, the same in every process of ours


@dataclass(frozen=True, slots=True)
class ToolWorker:
    """One process that serves tools, the engine's among them."""

    id: str
    queue: str
    host: str
    pid: int
    version: str
    python: str
    digest: str
    tools: Mapping[str, str]
    """Name to the digest of its whole spec."""
    started_at: datetime
    seen_at: datetime
    stopped_at: datetime | None = None

    @classmethod
    def this_process(cls, specs: Iterable[ToolSpec], queue: str) -> ToolWorker:
        """What there is to say of this one."""
        served = {spec.name: digest(spec.model_dump(mode="json")) for spec in specs}
        now = datetime.now(UTC)
        return cls(
            id=f"wrk_{ULID()}",
            queue=queue,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=own_version(),
            python=platform.python_version(),
            digest=digest(served),
            tools=served,
            started_at=now,
            seen_at=now,
        )

    def lives(self, now: datetime) -> bool:
        """Whether it was heard of lately; of a process of this host also whether there is one."""
        if self.stopped_at is not None or now - self.seen_at > STALE_AFTER:
            return False
        return self.host != socket.gethostname() or is_alive(self.pid)

    @property
    def place(self) -> str:
        """`pid@host`, as Temporal names it too."""
        return f"{self.pid}@{self.host}"


class ToolWorkers:
    """The processes of a ledger that serve tools."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._catalog = ToolCatalog(ledger)
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert

    async def arrive(self, worker: ToolWorker, specs: Sequence[ToolSpec]) -> list[ToolWorker]:
        """Announce a worker and its tools, also again. Returns the others that live.

        Raises:
            ToolTaken: Another queue has one of the tools, and a worker that lives; nothing was announced.
        """
        async with self._ledger.write() as connection:
            await connection.lock(_LOCK)  # two queues that announce at once must see each other
            living = await _living(connection, worker.started_at)
            await _not_taken(connection, worker, living)
            await self._catalog.announce_within(connection, specs, worker.queue, worker.started_at)
            gone = worker.started_at - KEPT
            await connection.execute(delete(tool_workers).where(tool_workers.c.seen_at < gone))
            await connection.execute(self._insert(tool_workers).values(**_values(worker)).on_conflict_do_nothing())
        return living

    async def seen(self, worker: ToolWorker, now: datetime) -> None:
        """Note that a worker lives; one whose row was cleared away is written down again."""
        async with self._ledger.write() as connection:
            values = _values(worker) | {"seen_at": now}
            statement = self._insert(tool_workers).values(**values)
            own = tool_workers.c.queue == worker.queue
            again = statement.on_conflict_do_update(index_elements=["id"], set_={"seen_at": now}, where=own)
            await connection.execute(again)

    async def left(self, worker: ToolWorker, now: datetime) -> None:
        """Note that a worker ended by itself, and will not be back."""
        async with self._ledger.write() as connection:
            gone = update(tool_workers).where(tool_workers.c.id == worker.id, tool_workers.c.queue == worker.queue)
            await connection.execute(gone.values(seen_at=now, stopped_at=now))

    async def all(self) -> list[ToolWorker]:
        """Every worker of the last days, the latest first."""
        async with self._ledger.read() as connection:
            rows = await connection.execute(select(tool_workers).order_by(tool_workers.c.started_at.desc()))
            return [ToolWorker(**row._mapping) for row in rows]


def differing(worker: ToolWorker, others: Iterable[ToolWorker]) -> dict[str, list[ToolWorker]]:
    """Tools that others of its queue serve with another description, schema or effect, or do not serve at all."""
    found: dict[str, list[ToolWorker]] = {}
    for other in others:
        if other.queue != worker.queue or other.id == worker.id or other.digest == worker.digest:
            continue
        for name in sorted({*worker.tools, *other.tools}):
            if worker.tools.get(name) != other.tools.get(name):
                found.setdefault(name, []).append(other)
    return found


def other_release(mine: str, theirs: str) -> bool:
    """Whether two versions of this package differ in more than the last number: they may not understand each other."""
    return mine.split(".")[:2] != theirs.split(".")[:2]


def own_version() -> str:
    """Of this package, here."""
    try:
        return version("horarium")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0"


async def _living(connection: Statements, now: datetime) -> list[ToolWorker]:
    query = select(tool_workers).where(tool_workers.c.stopped_at.is_(None), tool_workers.c.seen_at > now - STALE_AFTER)
    rows = await connection.execute(query)
    return [worker for row in rows if (worker := ToolWorker(**row._mapping)).lives(now)]


async def _not_taken(connection: Statements, worker: ToolWorker, living: Sequence[ToolWorker]) -> None:
    names = list(worker.tools)
    rows = await connection.execute(select(tools.c.name, tools.c.queue).where(tools.c.name.in_(names)))
    for name, queue in rows.all():
        owner = next((other for other in living if other.queue == queue and name in other.tools), None)
        if queue != worker.queue and owner is not None:
            raise ToolTaken(
                f"The tool {name!r} is served by {group_of(queue)} already, by process {owner.pid} on {owner.host}; "
                f"{group_of(worker.queue)} cannot have it as well.",
                hint="Give one of the two another name, serve both from workers of one group, or stop that worker "
                "first: a tool moves when nobody serves it any more.",
            )


def group_of(queue: str) -> str:
    """A queue in words."""
    return "the engine worker" if queue == ENGINE_QUEUE else f"tool worker {queue.removeprefix(TOOL_QUEUE_PREFIX)!r}"


def _values(worker: ToolWorker) -> dict[str, Any]:
    return {field.name: getattr(worker, field.name) for field in fields(worker)}
