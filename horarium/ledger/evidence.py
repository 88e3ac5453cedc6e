"""What the ledger has of one run, row by row: for the file that is handed to somebody who does not see the ledger.

Rows are given as they are stored and not as today's models read them: a digest is of what was written down then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, and_, or_, select

from horarium.errors import RunNotFound
from horarium.ledger.audit import AuditRecord, AuditTrail
from horarium.ledger.database import Ledger, Statements
from horarium.ledger.schema import (
    agent_versions,
    approvals,
    edits,
    grants,
    memory_uses,
    run_statuses,
    run_toolsets,
    runs,
    steps,
    ticks,
    tools,
    toolsets,
    votes,
    workspace_files,
    workspace_versions,
)
from horarium.ledger.threads import ThreadMessage, Threads

Row = dict[str, Any]
MOST_ENTRIES = 1_000  # of the audit trail at once
LOOKS = 5  # at a run that people are deciding about just now
_AT_ONCE = 500  # names in one statement


@dataclass(frozen=True, slots=True)
class RunRows:
    """Everything about one run.

    `messages` are those of its thread up to the last one of its own; `audit` has all entries up to number `audit_upto`,
    at least.
    """

    run: Row
    statuses: list[Row]
    agent: Row | None
    toolset: Row | None
    tools: list[Row]
    steps: list[Row]
    messages: list[ThreadMessage]
    approvals: list[Row]
    votes: list[Row]
    edits: list[Row]
    grants: list[Row]
    memories: list[Row]
    files: list[Row]
    versions: list[Row]
    tick: Row | None
    audit: list[AuditRecord]
    audit_upto: int
    children: list[str]


class RunEvidence:
    """The evidence of a ledger's runs."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def tenant_of(self, run_id: str, tenant: str | None) -> str:
        """Whose a run is; `tenant`: whose it has to be, None for anybody's.

        Raises:
            RunNotFound: There is none, or it is another tenant's.
        """
        async with self._ledger.read() as connection:
            found: str | None = await connection.scalar(select(runs.c.tenant).where(runs.c.id == run_id))
        if found is None or tenant not in (None, found):
            raise _no_run(run_id)
        return found

    async def of_run(self, run_id: str, *, tenant: str) -> RunRows:
        """All rows of a run. It is read first: of one that is closed, nothing is missing.

        What people say is written down together with an entry of the audit trail, so rows that were read between two
        looks at the same entries fit together, also while the run goes on.

        Raises:
            RunNotFound: There is none, or it is another tenant's.
        """
        for _ in range(LOOKS):
            head = await AuditTrail(self._ledger).head()
            before = await self._entries(run_id, tenant)
            rows = await self._rows(run_id, tenant, before, head.seq)
            if await self._entries(run_id, tenant) == before:
                break
        return rows

    async def _rows(self, run_id: str, tenant: str, entries: list[AuditRecord], upto: int) -> RunRows:
        async with self._ledger.read() as connection:
            found = await _rows(connection, select(runs).where(runs.c.id == run_id, runs.c.tenant == tenant))
            if not found:
                raise _no_run(run_id)
            run = found[0]
            own_steps = await _of_run(connection, steps, run_id, steps.c.number)
            asked = await _of_run(connection, approvals, run_id, approvals.c.step)
            ids = [row["id"] for row in asked]
            version = and_(agent_versions.c.name == run["agent"], agent_versions.c.version == (run["version"] or 0))
            pinned = select(toolsets.c.digest, toolsets.c.definition).join(
                run_toolsets, run_toolsets.c.digest == toolsets.c.digest
            )
            agent = await _rows(connection, select(agent_versions).where(version))
            toolset = await _rows(connection, pinned.where(run_toolsets.c.run_id == run_id))
            names = sorted({row["name"] for row in own_steps if row["kind"] in ("tool_call", "handoff")})
            catalogue = await _among(connection, select(tools), tools.c.name, names)
            said = await _among(connection, select(votes).order_by(votes.c.number), votes.c.approval_id, ids)
            changed = await _among(connection, select(edits).order_by(edits.c.at), edits.c.approval_id, ids)
            by = [row["decided_by"] for row in asked if row["decided_via"] == "grant" and row["decided_by"]]
            granted = await _grants(connection, tenant, ids, [name.rpartition(":")[2] for name in by])
            versions = await _of_run(connection, workspace_versions, run_id, workspace_versions.c.version)
            files = await _files(connection, run["thread_id"], [row["version"] for row in versions])
            below = select(runs.c.id).where(runs.c.parent_run == run_id, runs.c.tenant == tenant)
            children = await connection.scalars(below.order_by(runs.c.parent_step, runs.c.created_at))
            tick = await _rows(connection, select(ticks).where(ticks.c.id == run["tick"], ticks.c.tenant == tenant))
            statuses = await _of_run(connection, run_statuses, run_id, run_statuses.c.seq)
            memories = await _of_run(connection, memory_uses, run_id, memory_uses.c.step)
        # It opens a connection of its own: who holds one meanwhile may wait for itself.
        messages = await self._messages(run["thread_id"], run_id)
        return RunRows(
            run=run,
            statuses=statuses,
            agent=agent[0] if agent else None,
            toolset=toolset[0] if toolset else None,
            tools=catalogue,
            steps=own_steps,
            messages=messages,
            approvals=asked,
            votes=said,
            edits=changed,
            grants=granted,
            memories=memories,
            files=files,
            versions=versions,
            tick=tick[0] if tick else None,
            audit=entries,
            audit_upto=upto,
            children=list(children),
        )

    async def _messages(self, thread: str, run: str) -> list[ThreadMessage]:
        found = await Threads(self._ledger).read(thread)
        last = max((index for index, message in enumerate(found) if message.run_id == run), default=-1)
        return found[: last + 1]

    async def _entries(self, run: str, tenant: str) -> list[AuditRecord]:
        trail, found = AuditTrail(self._ledger), list[AuditRecord]()
        while page := await trail.entries(after=found[-1].seq if found else 0, run=run, limit=MOST_ENTRIES):
            found += page
        return [entry for entry in found if entry.tenant == tenant]


async def _rows(connection: Statements, query: Select[Any]) -> list[Row]:
    names = [column.name for column in query.selected_columns]
    return [dict(zip(names, row, strict=True)) for row in await connection.execute(query)]


async def _of_run(connection: Statements, table: Table, run: str, order: ColumnElement[Any]) -> list[Row]:
    return await _rows(connection, select(table).where(table.c.run_id == run).order_by(order))


async def _among(connection: Statements, query: Select[Any], column: Any, names: Sequence[Any]) -> list[Row]:
    found: list[Row] = []
    for start in range(0, len(names), _AT_ONCE):
        found += await _rows(connection, query.where(column.in_(names[start : start + _AT_ONCE])))
    return found


async def _grants(connection: Statements, tenant: str, asked: list[str], used: list[str]) -> list[Row]:
    """Those that came with approvals of the run, and those that released its calls."""
    own = select(grants).where(grants.c.tenant == tenant)
    found = await _among(connection, own, grants.c.granted_in, asked)
    found += await _among(connection, own, grants.c.id, sorted(set(used)))
    return list({row["id"]: row for row in found}.values())


async def _files(connection: Statements, thread: str, versions: list[int]) -> list[Row]:
    """Files of the workspace that became so, or ceased to be so, with one of these versions."""
    if not versions:
        return []
    made, ended = workspace_files.c.since, workspace_files.c.until
    touched = or_(made.between(versions[0], versions[-1]), ended.between(versions[0], versions[-1]))
    query = select(workspace_files).where(workspace_files.c.thread_id == thread, touched)
    return await _rows(connection, query.order_by(workspace_files.c.path, made))


def _no_run(run_id: str) -> RunNotFound:
    return RunNotFound(f"There is no run {run_id!r}.", hint="See which there are: horarium runs list")
