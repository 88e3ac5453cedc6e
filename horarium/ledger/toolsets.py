"""Which tools were found for a run, and pinned for it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from horarium.errors import Conflict
from horarium.ledger.database import Ledger, Prepared
from horarium.ledger.schema import run_toolsets, runs, toolsets
from horarium.toolsets import PinnedTool, Toolset

KEPT_SETS = 200
KEPT_RUNS = 5_000
_OF_RUN = Prepared(  # asked at each call of a run that has nothing pinned
    select(run_toolsets.c.agent, run_toolsets.c.version, run_toolsets.c.digest).where(
        run_toolsets.c.run_id == bindparam("of_run")
    )
)


@dataclass(frozen=True, slots=True)
class FoundTools:
    """The tools that were found for a run, and the agent version they were found for."""

    agent: str
    version: int
    toolset: Toolset


class Toolsets:
    """The pinned tools of a ledger's runs; one object for each process. What is pinned never changes, so it is kept."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert
        self._sets: OrderedDict[str, Toolset] = OrderedDict()
        self._of_run: OrderedDict[str, tuple[str, int, str]] = OrderedDict()

    async def pin(self, run: str, agent: str, version: int, found: Toolset) -> FoundTools:
        """Say once and for all which tools a run has; the first word stands.

        Raises:
            Conflict: The run is of another agent, or was opened with another version.
        """
        now = datetime.now(UTC)
        async with self._ledger.write() as connection:
            row = (await connection.execute(select(runs.c.agent, runs.c.version).where(runs.c.id == run))).first()
            if row is not None and (row.agent != agent or row.version not in (None, version)):
                raise Conflict(
                    f"Run {run} is of agent {row.agent!r}: it has no tools of version {version} of {agent!r}."
                )
            await connection.execute(
                self._insert(toolsets)
                .values(digest=found.digest, definition=found.model_dump(mode="json"), created_at=now)
                .on_conflict_do_nothing()
            )
            await connection.execute(
                self._insert(run_toolsets)
                .values(run_id=run, digest=found.digest, agent=agent, version=version, created_at=now)
                .on_conflict_do_nothing()
            )
        return await self.of_run(run) or FoundTools(agent, version, found)

    async def of_run(self, run: str) -> FoundTools | None:
        """What was pinned for a run; None when nothing was."""
        known = self._of_run.get(run)
        if known is None:
            async with self._ledger.read() as connection:
                rows = await connection.run(_OF_RUN, of_run=run)
            if not rows:
                return None
            agent, version, digest = rows[0]
            known = self._of_run[run] = (agent, version, digest)
            if len(self._of_run) > KEPT_RUNS:
                self._of_run.popitem(last=False)
        agent, version, digest = known
        found = self._sets.get(digest)
        if found is None:
            async with self._ledger.read() as connection:
                definition = await connection.scalar(select(toolsets.c.definition).where(toolsets.c.digest == digest))
            found = self._sets[digest] = Toolset.model_validate(definition)
            if len(self._sets) > KEPT_SETS:
                self._sets.popitem(last=False)
        return FoundTools(agent, version, found)

    async def tool(self, run: str, name: str) -> PinnedTool | None:
        """One pinned tool of a run."""
        found = await self.of_run(run)
        return found.toolset.named(name) if found is not None else None
