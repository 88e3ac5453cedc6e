"""Toolbox versions, which never change, and the one of each toolbox that counts when nobody names another."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from horarium.content import digest
from horarium.errors import Conflict, ToolboxNotFound
from horarium.ledger.audit import AuditEntry, append
from horarium.ledger.database import Ledger, Statements
from horarium.ledger.schema import toolbox_versions, toolboxes
from horarium.openapi import Operation
from horarium.problems import near_miss
from horarium.toolboxes import Toolbox

Operations = Mapping[str, Sequence[Operation]]
"""The operations of a toolbox's documents, by their label."""

KEPT_VERSIONS = 100
EVERYBODY = "default"  # toolboxes belong to the project, so their changes are told in its tenant


@dataclass(frozen=True, slots=True)
class ToolboxVersion:
    """One version of a toolbox, numbered from 1, with the operations of its documents as they were then."""

    toolbox: Toolbox
    version: int
    created_at: datetime
    operations: Operations

    @property
    def reference(self) -> str:
        """As an agent names exactly this one: `crm@2`."""
        return f"{self.toolbox.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class DefaultVersion:
    """Which version of a toolbox counts, and since when; `previous` is where a rollback goes."""

    name: str
    version: int
    previous: int | None
    changed_at: datetime
    changed_by: str | None


class Toolboxes:
    """The toolboxes of a ledger. A version never changes, so what was read of it is kept."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert
        self._kept: OrderedDict[tuple[str, int], ToolboxVersion] = OrderedDict()

    async def register(self, toolbox: Toolbox, operations: Operations | None = None) -> int:
        """Make it a version of its toolbox, unless there is one that is the same. Returns its number.

        The first version becomes the default; a later one waits for somebody to promote it.

        Args:
            toolbox: The definition.
            operations: What its documents have, by label.
        """
        whole = _whole(toolbox, operations or {})
        now = datetime.now(UTC)
        while True:
            newest = await self._newest(toolbox.name)  # first: a version made after this has the number wanted below
            known = await self._same(toolbox.name, digest(whole))
            if known is not None:
                return known
            try:
                async with self._ledger.write() as connection:
                    version = newest + 1
                    values = {"name": toolbox.name, "version": version, "digest": digest(whole)}
                    await connection.execute(
                        insert(toolbox_versions).values(**values, definition=whole, created_at=now)
                    )
                    await connection.execute(
                        self._insert(toolboxes)
                        .values(name=toolbox.name, default_version=version, changed_at=now)
                        .on_conflict_do_nothing()
                    )
                    return version
            except IntegrityError:
                continue  # another worker registered at the same moment; look again

    async def get(self, name: str, version: int | None = None) -> ToolboxVersion:
        """One version, or the default.

        Raises:
            ToolboxNotFound: No such toolbox, or not in this version; names the near miss.
        """
        wanted = (await self.default(name)).version if version is None else version
        known = self._kept.get((name, wanted))
        if known is not None:
            return known
        async with self._ledger.read() as connection:
            row = (
                await connection.execute(
                    select(toolbox_versions).where(
                        toolbox_versions.c.name == name, toolbox_versions.c.version == wanted
                    )
                )
            ).first()
        if row is None:
            await self.default(name)
            raise _no_version(name, wanted)
        found = self._kept[name, wanted] = _version(row)
        if len(self._kept) > KEPT_VERSIONS:
            self._kept.popitem(last=False)
        return found

    async def default(self, name: str) -> DefaultVersion:
        """Which version counts when nobody names another.

        Raises:
            ToolboxNotFound: There is no toolbox of this name; names the near miss.
        """
        async with self._ledger.read() as connection:
            row = (await connection.execute(select(toolboxes).where(toolboxes.c.name == name))).first()
        if row is None:
            raise _not_there(name, await self.names())
        return DefaultVersion(row.name, row.default_version, row.previous_version, row.changed_at, row.changed_by)

    async def default_version(self, name: str) -> int:
        """The number of the default.

        Raises:
            ToolboxNotFound: There is no toolbox of this name.
        """
        return (await self.default(name)).version

    async def versions(self, name: str) -> list[ToolboxVersion]:
        """Every version, the oldest first.

        Raises:
            ToolboxNotFound: There is no toolbox of this name.
        """
        await self.default(name)
        async with self._ledger.read() as connection:
            rows = await connection.execute(
                select(toolbox_versions).where(toolbox_versions.c.name == name).order_by(toolbox_versions.c.version)
            )
            return [_version(row) for row in rows]

    async def names(self) -> list[str]:
        """The names of all toolboxes."""
        async with self._ledger.read() as connection:
            return list(await connection.scalars(select(toolboxes.c.name).order_by(toolboxes.c.name)))

    async def promote(self, name: str, version: int, by: str) -> DefaultVersion:
        """Let this version count from the next run on. Safe to repeat: what counts already stays as it is.

        Raises:
            ToolboxNotFound: There is no such toolbox, or not in this version.
        """
        async with self._ledger.write() as connection:
            standing = await self._locked(connection, name)
            there = select(toolbox_versions.c.version).where(
                toolbox_versions.c.name == name, toolbox_versions.c.version == version
            )
            if standing is not None and await connection.scalar(there) is None:
                raise _no_version(name, version)
            if standing is not None and standing != version:
                await self._point(connection, "toolbox.promoted", name, version, standing, by)
        return await self.default(name)

    async def rollback(self, name: str, by: str) -> DefaultVersion:
        """Go back to the version that counted before the last promotion, once.

        Raises:
            ToolboxNotFound: There is no such toolbox.
            Conflict: Nothing was promoted since the last rollback.
        """
        async with self._ledger.write() as connection:
            standing = await self._locked(connection, name)
            previous = await connection.scalar(select(toolboxes.c.previous_version).where(toolboxes.c.name == name))
            if standing is not None and previous is None:
                raise Conflict(
                    f"Toolbox {name!r} has nothing to go back to: version {standing} is the default, and no version "
                    "was promoted since.",
                    hint=f"Choose one: horarium toolbox versions {name}",
                )
            if standing is not None:
                await self._point(connection, "toolbox.rolled_back", name, int(previous), standing, by)
        return await self.default(name)

    async def _locked(self, connection: Statements, name: str) -> int | None:
        found = await connection.scalar(
            select(toolboxes.c.default_version).where(toolboxes.c.name == name).with_for_update()
        )
        return None if found is None else int(found)

    async def _point(self, connection: Statements, kind: Any, name: str, version: int, standing: int, by: str) -> None:
        now = datetime.now(UTC)
        previous = standing if kind == "toolbox.promoted" else None
        await connection.execute(
            update(toolboxes)
            .where(toolboxes.c.name == name)
            .values(default_version=version, previous_version=previous, changed_at=now, changed_by=by)
        )
        data = {"by": by, "version": version, "before": standing}
        await append(connection, AuditEntry(kind=kind, at=now, tenant=EVERYBODY, subject=name, data=data))

    async def _newest(self, name: str) -> int:
        query = select(func.max(toolbox_versions.c.version)).where(toolbox_versions.c.name == name)
        async with self._ledger.read() as connection:
            return int(await connection.scalar(query) or 0)

    async def _same(self, name: str, wanted: str) -> int | None:
        async with self._ledger.read() as connection:
            found = await connection.scalar(
                select(func.max(toolbox_versions.c.version)).where(
                    toolbox_versions.c.name == name, toolbox_versions.c.digest == wanted
                )
            )
        return None if found is None else int(found)


def _whole(toolbox: Toolbox, operations: Operations) -> dict[str, Any]:
    read = {label: [item.model_dump(mode="json") for item in found] for label, found in operations.items()}
    return {"toolbox": toolbox.model_dump(mode="json"), "operations": read}


def _version(row: Any) -> ToolboxVersion:
    read = row.definition["operations"]
    operations = {label: tuple(Operation.model_validate(item) for item in found) for label, found in read.items()}
    return ToolboxVersion(Toolbox.model_validate(row.definition["toolbox"]), row.version, row.created_at, operations)


def _not_there(name: str, names: Sequence[str]) -> ToolboxNotFound:
    missing = f"There is no toolbox {name!r}{near_miss(name, names) or '.'}"
    return ToolboxNotFound(missing, hint="See which there are: horarium toolbox list")


def _no_version(name: str, version: int) -> ToolboxNotFound:
    hint = f"See which there are: horarium toolbox versions {name}"
    return ToolboxNotFound(f"Toolbox {name!r} has no version {version}.", hint=hint)
