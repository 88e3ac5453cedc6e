"""What is wrong with a routine, beyond what its definition can know by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from horarium.definitions import Agent
from horarium.durations import words
from horarium.errors import ConfigError
from horarium.ledger.agents import Agents, ToolCatalog
from horarium.ledger.database import Ledger
from horarium.ledger.routines import Routines
from horarium.problems import near_miss
from horarium.routinechecks import Problem, preapproval_problems, template_problems
from horarium.routines import CronTrigger, EventTrigger, EveryTrigger, Routine, Trigger
from horarium.settings import Settings
from horarium.tools import ToolSpec
from schedules.specs import line_of, since_now, timing


@dataclass(frozen=True, slots=True)
class Known:
    """What a routine may name, and whose it is: agents, how many versions each has, tools, and routines' tenants."""

    agents: Mapping[str, Agent]
    versions: Mapping[str, int]
    tools: Mapping[str, ToolSpec]
    tenants: Mapping[str, str]

    @classmethod
    async def read(cls, ledger: Ledger, files: Mapping[str, Agent] | None = None) -> Self:
        """What the ledger knows; the agents of a project's files count before it does."""
        newest = await Agents(ledger).newest()
        stored = {item.agent.name: item.agent for item in newest}
        tools = {name: tool.spec for name, tool in (await ToolCatalog(ledger).all()).items()}
        versions = {item.agent.name: item.version for item in newest}
        tenants = {row.name: row.tenant for row in await Routines(ledger).list()}
        return cls(stored | dict(files or {}), versions, tools, tenants)


def routine_problems(routine: Routine, known: Known, settings: Settings) -> list[Problem]:
    """Everything that keeps a routine from being deployed."""
    return [
        *_about_tenant(routine, known),
        *_about_agent(routine, known),
        *template_problems(routine),
        *trigger_problems(routine, settings),
    ]


def trigger_problems(routine: Routine, settings: Settings) -> list[Problem]:
    """Triggers that cannot be kept: a cron line that means nothing, a zone that is none, fires too close together."""
    return [
        (("triggers", name, *path), problem)
        for name, trigger in routine.triggers.items()
        for path, problem in _about_trigger(routine, trigger, settings)
    ]


def _about_tenant(routine: Routine, known: Known) -> Iterator[Problem]:
    if known.tenants.get(routine.name, routine.tenant) != routine.tenant:
        yield ("tenant",), f"is {routine.tenant!r}, but a routine of this name is another tenant's; choose another name"


def _about_agent(routine: Routine, known: Known) -> Iterator[Problem]:
    agent = known.agents.get(routine.agent)
    if agent is None:
        yield ("agent",), f"there is no agent {routine.agent!r}{near_miss(routine.agent, sorted(known.agents))}"
        return
    newest = known.versions.get(routine.agent, 0)
    if routine.version is not None and routine.version > newest:
        has = f"its newest is {newest}" if newest else "no version of it was used so far"
        yield ("version",), f"agent {routine.agent!r} has no version {routine.version}; {has}"
    yield from preapproval_problems(routine, agent, known.tools)
    for index, item in enumerate(routine.preapproved):
        if item.tool in agent.tools and item.tool not in known.tools:
            problem = f"no worker has announced the tool {item.tool!r} yet; start one, with: horarium up"
            yield ("preapproved", index, "tool"), problem


def _about_trigger(routine: Routine, trigger: Trigger, settings: Settings) -> Iterator[tuple[tuple[str], str]]:
    if isinstance(trigger, EventTrigger):
        return
    kind = next(iter(type(trigger).model_fields))
    try:
        timing(routine, trigger, since_now(datetime.now(UTC)))
    except ConfigError as error:
        yield ("time_zone" if getattr(error, "kind", None) == "zone" else kind,), _sentence(error)
        return
    least, gap = settings.routines.min_interval, None
    if isinstance(trigger, EveryTrigger):
        gap = trigger.every
    elif isinstance(trigger, CronTrigger):
        gap = line_of(routine, trigger).least_gap()
    if gap is not None and gap < least:
        allowed = f"{words(least)} (`min_interval` in [routines] of horarium.toml)"
        yield (kind,), f"fires {words(gap)} after another fire, and the shortest time allowed is {allowed}"


def _sentence(error: ConfigError) -> str:
    said = f"{error.message} {error.hint}" if error.hint else error.message
    return (said[:1].lower() + said[1:]).rstrip(".")
