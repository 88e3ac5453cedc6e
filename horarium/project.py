"""A project on disk: `agents/*.yaml` and their prompts, `tools/*.py`, `toolboxes/*.yaml`, and `routines/*.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from horarium.agentfiles import (
    AgentFiles,
    agent_files,
    check_plans,
    check_rankings,
    check_sub_agents,
    check_toolboxes,
    check_tools,
    load_agent,
    load_agents,
)
from horarium.definitions import Agent
from horarium.errors import ConfigError
from horarium.routinefiles import RoutineFile, load_routine_files, load_routines, routine_files
from horarium.settings import Settings
from horarium.toolboxfiles import ToolboxFile, load_toolboxes
from horarium.toolfiles import OWN_PROCESS, Clash, clashing_imports, load_tools
from horarium.tools import Tool

__all__ = [
    "AgentFiles",
    "Clash",
    "Project",
    "RoutineFile",
    "ToolboxFile",
    "agent_files",
    "check_plans",
    "check_rankings",
    "check_sub_agents",
    "check_toolboxes",
    "check_tools",
    "clashing_imports",
    "load_agent",
    "load_agents",
    "load_routine_files",
    "load_routines",
    "load_toolboxes",
    "load_tools",
    "routine_files",
    "tools_apart",
]


@dataclass(frozen=True, slots=True)
class Project:
    """A project as the engine sees it; `tools` is empty where another process serves them."""

    settings: Settings
    agents: Mapping[str, Agent]
    tools: Mapping[str, Tool]

    @classmethod
    def load(cls, settings: Settings, *, with_tools: bool) -> Self:
        """Read the project's files, in the engine's process.

        Raises:
            ConfigError: All mistakes of all files.
            ToolImportClash: A tool wants a name of the engine.
        """
        load_toolboxes(settings)  # for its mistakes: versions are made of the files as they are then
        return cls(settings, load_agents(settings), load_tools(settings, in_engine=True) if with_tools else {})


def tools_apart(settings: Settings) -> tuple[bool, tuple[Clash, ...]]:
    """Whether the project's tools get a process of their own, and the clashes that are the reason, if they are.

    Raises:
        ConfigError: They clash, and the settings want them in the engine.
    """
    if settings.tools.process == "own":
        return True, ()
    clashes = clashing_imports(settings)
    if clashes and settings.tools.process == "engine":
        raise ConfigError("\n".join(str(clash) for clash in clashes), hint=OWN_PROCESS)
    return bool(clashes), clashes
