"""Agent versions, which never change, and the tools that workers announce."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import bindparam, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from horarium.contract import ENGINE_QUEUE
from horarium.definitions import Agent
from horarium.errors import AgentNotFound
from horarium.ledger.database import Ledger, Prepared, Statements
from horarium.ledger.schema import agent_versions, tools
from horarium.problems import near_miss
from horarium.tools import ToolSpec

KEPT_VERSIONS = 500
_NEWEST = Prepared(select(func.max(agent_versions.c.version)).where(agent_versions.c.name == bindparam("of_name")))
_ONE = Prepared(
    select(agent_versions.c.definition, agent_versions.c.created_at).where(
        agent_versions.c.name == bindparam("of_name"), agent_versions.c.version == bindparam("of_version")
    )
)


@dataclass(frozen=True, slots=True)
class AgentVersion:
    """One version of an agent, numbered from 1."""

    agent: Agent
    version: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ServedTool:
    """A tool and the task queue of the worker that serves it.

    `agent` does it when it is a sub-agent's, and whoever started the run when it is a `function`.
    """

    spec: ToolSpec
    queue: str
    seen_at: datetime | None = None
    agent: str | None = None
    function: bool = False


class Agents:
    """The agent versions of a ledger. Which is the newest is asked each time; what one says never changes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: OrderedDict[tuple[str, int], AgentVersion] = OrderedDict()
        self._same: dict[str, tuple[Agent, AgentVersion]] = {}  # by name: a definition, and the version that it is

    async def register(self, agent: Agent) -> int:
        """Make the definition the newest version of its agent, unless it is that already. Returns its number."""
        while True:
            latest = await self._latest(agent.name)
            if latest is not None and self._is_same(agent, latest):
                return latest.version
            try:
                async with self._ledger.write() as connection:
                    version = (latest.version if latest else 0) + 1
                    await connection.execute(
                        insert(agent_versions).values(
                            name=agent.name,
                            version=version,
                            digest=agent.digest,
                            definition=agent.model_dump(mode="json"),
                            created_at=datetime.now(UTC),
                        )
                    )
                    return version
            except IntegrityError:
                continue  # another worker registered at the same moment; look again

    def _is_same(self, agent: Agent, version: AgentVersion) -> bool:
        """Whether a definition is this version; digests cost enough not to compare the same two at every run."""
        before = self._same.get(agent.name)
        if before is not None and before[0] is agent and before[1] is version:
            return True
        same = version.agent.digest == agent.digest
        if same:
            self._same[agent.name] = (agent, version)
        return same

    async def get(self, name: str, version: int | None = None) -> AgentVersion:
        """One version, or the newest.

        Raises:
            AgentNotFound: No such agent, or not in this version; names the near miss.
        """
        found = await self._latest(name) if version is None else await self._one(name, version)
        if found is None:
            names = await self.names()
            if name in names:
                hint = f"See which there are: horarium agents show {name}"
                raise AgentNotFound(f"Agent {name!r} has no version {version}.", hint=hint)
            missing = f"There is no agent {name!r}{near_miss(name, names) or '.'}"
            raise AgentNotFound(missing, hint="See which there are, and which files are new: horarium agents list")
        return found

    async def names(self) -> list[str]:
        """The names of all agents."""
        async with self._ledger.read() as connection:
            rows = await connection.scalars(select(agent_versions.c.name).distinct().order_by(agent_versions.c.name))
            return list(rows)

    async def versions(self, name: str, *, before: int | None = None, limit: int = 100) -> list[AgentVersion]:
        """Versions of an agent, the newest first; those `before` a number.

        Raises:
            AgentNotFound: There is no such agent.
        """
        await self.get(name)
        query = select(agent_versions).where(agent_versions.c.name == name)
        if before is not None:
            query = query.where(agent_versions.c.version < before)
        async with self._ledger.read() as connection:
            rows = await connection.execute(query.order_by(agent_versions.c.version.desc()).limit(limit))
            return [AgentVersion(Agent.model_validate(row.definition), row.version, row.created_at) for row in rows]

    async def newest(self) -> list[AgentVersion]:
        """The newest version of every agent, by name."""
        return [await self.get(name) for name in await self.names()]

    async def _latest(self, name: str) -> AgentVersion | None:
        async with self._ledger.read() as connection:
            version = (await connection.run(_NEWEST, of_name=name))[0][0]
        return None if version is None else await self._one(name, version)

    async def _one(self, name: str, version: int) -> AgentVersion | None:
        known = self._known.get((name, version))
        if known is not None:
            return known
        async with self._ledger.read() as connection:
            rows = await connection.run(_ONE, of_name=name, of_version=version)
        if not rows:
            return None
        definition, created_at = rows[0]
        found = self._known[name, version] = AgentVersion(Agent.model_validate(definition), version, created_at)
        if len(self._known) > KEPT_VERSIONS:
            self._known.popitem(last=False)
        return found


class ToolCatalog:
    """Which tools are served, and on which queue."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert

    async def announce(self, specs: Iterable[ToolSpec], queue: str = ENGINE_QUEUE) -> None:
        """Say that these tools are served on this queue, from now on by whoever says so last."""
        async with self._ledger.write() as connection:
            await self.announce_within(connection, specs, queue, datetime.now(UTC))

    async def announce_within(
        self, connection: Statements, specs: Iterable[ToolSpec], queue: str, now: datetime
    ) -> None:
        """As `announce`, in the caller's transaction; who may say so is looked at there (`ToolWorkers.arrive`)."""
        for spec in specs:
            values = {"queue": queue, "spec": spec.model_dump(mode="json"), "seen_at": now}
            statement = self._insert(tools).values(name=spec.name, **values)
            await connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))

    async def all(self) -> dict[str, ServedTool]:
        """Every tool that was ever announced, by name."""
        async with self._ledger.read() as connection:
            rows = await connection.execute(select(tools))
            return {row.name: ServedTool(ToolSpec.model_validate(row.spec), row.queue, row.seen_at) for row in rows}
