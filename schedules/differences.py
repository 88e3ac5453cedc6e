"""What deploying would change: routines as they should be, against the ledger and against Temporal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from temporalio.client import Client as TemporalClient

from horarium.ledger.agents import ToolCatalog
from horarium.ledger.database import Ledger
from horarium.ledger.grants import Grant, Grants, routine_grants
from horarium.ledger.routines import RoutineRecord, Routines
from horarium.routines import Routine
from schedules.drift import PREFIX, Drift, drift, listed, look

Action = Literal["create", "update", "delete", "unchanged"]
_NOTHING = object()


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field of a definition; `None` for a side on which it is not there, or not set."""

    field: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class Change:
    """What deploying would do about one routine."""

    routine: str
    action: Action
    definition: Routine | None = None
    fields: tuple[FieldChange, ...] = ()
    drift: tuple[Drift, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return self.action == "unchanged" and not self.drift


@dataclass(frozen=True, slots=True)
class Plan:
    """What deploying would do. `kept` and `strangers` are what it would leave alone, for want of `prune`."""

    changes: tuple[Change, ...]
    kept: tuple[str, ...] = ()  # routines that were deployed from files which are gone
    strangers: tuple[str, ...] = ()  # schedules named like a routine's, of none that this ledger ever had
    doomed: tuple[str, ...] = ()  # strangers that will be deleted
    revoked: tuple[Grant, ...] = ()  # preapproved, but a person revoked it: stays so

    @property
    def empty(self) -> bool:
        """Whether everything is as it should be."""
        return not self.doomed and all(change.empty for change in self.changes)

    def count(self, action: Action) -> int:
        """How many routines it creates, updates, deletes, or finds unchanged and well."""
        return sum(change.action == action and (action != "unchanged" or change.empty) for change in self.changes)

    @property
    def repairs(self) -> int:
        """How many routines are as defined, but not so in Temporal."""
        return sum(change.action == "unchanged" and bool(change.drift) for change in self.changes)


async def differences(
    ledger: Ledger,
    temporal: TemporalClient,
    wanted: Mapping[str, Routine],
    *,
    whole: bool,
    prune: bool,
    now: datetime,
) -> Plan:
    """Compare.

    Args:
        wanted: Routines as their files have them, by name.
        whole: These are all files there are: look at every routine, and at what no file has.
        prune: Delete what was deployed from files that are gone, and schedules that belong to nothing.

    Raises:
        Unreachable: Temporal does not answer.
    """
    rows = {row.name: row for row in await Routines(ledger).list(deleted=True)}
    alive = {name: row for name, row in rows.items() if row.deleted_at is None}
    gone = sorted(name for name, row in alive.items() if name not in wanted and row.managed_by == "files")
    looked_at = [row for name, row in rows.items() if whole or name in wanted]
    in_temporal = set(await listed(temporal))
    prefixes = tuple(f"{PREFIX}{name}." for name in rows)
    unknown = {item for item in in_temporal if not item.startswith(prefixes)} if whole else set()
    there = await look(temporal, _ids(looked_at, in_temporal) | unknown)
    strangers = tuple(sorted(item for item in unknown if there[item] is not None))
    schemas = {name: tool.spec.schema_digest for name, tool in (await ToolCatalog(ledger).all()).items()}
    grants = await Grants(ledger).of_routines()
    changes = [Change(name, "create", wanted[name]) for name in wanted if name not in alive]
    revoked: list[Grant] = []
    for row in looked_at:
        found = await drift(temporal, row, {key: there[key] for key in _ids([row], in_temporal)}, now)
        standing, withdrawn = _granted(row, grants.get(row.name, []), schemas)
        changes += _change(row, wanted.get(row.name), tuple([*found, *standing]), pruned=prune and row.name in gone)
        revoked += withdrawn
    return Plan(
        changes=tuple(sorted(changes, key=lambda change: change.routine)),
        kept=() if prune or not whole else tuple(gone),
        strangers=() if prune else strangers,
        doomed=strangers if prune else (),
        revoked=tuple(revoked),
    )


def changed_fields(old: Routine, new: Routine) -> Iterator[FieldChange]:
    """The fields in which two definitions differ, down to where they part."""
    yield from _parting((), old.model_dump(), new.model_dump())


def _change(row: RoutineRecord, new: Routine | None, found: tuple[Drift, ...], *, pruned: bool) -> list[Change]:
    if row.deleted_at is not None:
        # What a routine that comes back finds of its former self is set right as it is created.
        return [] if new is not None or not found else [Change(row.name, "unchanged", drift=found)]
    if pruned:
        return [Change(row.name, "delete")]
    if new is None:
        return [Change(row.name, "unchanged", drift=found)]
    fields = list(changed_fields(row.routine, new))
    if row.managed_by != "files":
        fields.append(FieldChange("managed_by", row.managed_by, "files"))
    if not fields:
        return [Change(row.name, "unchanged", new, drift=found)]
    # The row's own drift goes with the update; only what people did in Temporal is worth a word.
    return [Change(row.name, "update", new, tuple(fields), tuple(item for item in found if item.kind != "grants"))]


def _ids(rows: Iterable[RoutineRecord], in_temporal: Iterable[str]) -> set[str]:
    """The schedules that rows mean or name, and those in Temporal that are called like theirs."""
    ids: set[str] = set()
    for row in rows:
        routine = row.routine
        ids |= {routine.schedule_id(trigger) for trigger in row.schedules}
        ids |= {item for item in in_temporal if item.startswith(routine.schedule_id(""))}
        if row.deleted_at is None:
            ids |= {routine.schedule_id(trigger) for trigger in routine.timed}
    return ids


def _granted(row: RoutineRecord, there: Sequence[Grant], schemas: Mapping[str, str]) -> tuple[list[Drift], list[Grant]]:
    """Where a routine's standing grants are not those that it preapproves, and which of these a person revoked."""
    meant = routine_grants(row.routine, schemas) if row.deleted_at is None else {}
    known = {grant.id: grant for grant in there}
    found = [
        Drift("grants", tool, "is preapproved, but not granted as its arguments are now")
        for made, (tool, _) in meant.items()
        if made not in known or known[made].revoked_by == f"routine:{row.name}"
    ]
    found += [
        Drift("grants", grant.tool, "is granted, but not preapproved so any more")
        for grant in there
        if grant.id not in meant and grant.revoked_at is None
    ]
    mine = [known[made] for made in meant if made in known]
    return found, [grant for grant in mine if grant.revoked_by not in (None, f"routine:{row.name}")]


def _parting(path: tuple[str, ...], old: Any, new: Any) -> Iterator[FieldChange]:
    if old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from _parting((*path, str(name)), old.get(name, _NOTHING), new.get(name, _NOTHING))
        return
    yield FieldChange(".".join(path), None if old is _NOTHING else old, None if new is _NOTHING else new)
