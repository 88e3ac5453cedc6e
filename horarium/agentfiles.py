"""Agents on disk: `agents/<name>.yaml`, their prompts in text files beside them.

People edit these files while runs go on. So all mistakes of all files are told at once, and an edit counts from
the next run on: what changed is read again, and a broken edit leaves the last good one in force.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from horarium import embeddings
from horarium.definitions import Agent
from horarium.errors import ConfigError
from horarium.plans import plan_problems
from horarium.problems import explain, line_of, near_miss
from horarium.settings import Settings
from horarium.tools import ToolSpec
from horarium.yamlfiles import field_path, parse, read_text, secret_entries, secrets_in, shown

log = structlog.get_logger()

PROMPT_FIELD = "instructions_file"


class _AgentFile(Agent):
    """The fields of a file, for near misses."""

    instructions_file: str | None = None


@dataclass
class _Read:
    """What reading one file came to; `prompt` is the text file it names, there or not."""

    agent: Agent | None = None
    problems: list[str] = field(default_factory=list)
    prompt: Path | None = None


def agent_files(settings: Settings) -> list[Path]:
    """The agent files of a project, by name."""
    folder = settings.root / "agents"
    return sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])


def load_agents(settings: Settings) -> dict[str, Agent]:
    """Read every agent.

    Raises:
        ConfigError: All mistakes of all files, a line each: file, line, field, near miss.
    """
    read = [_read(settings, file) for file in agent_files(settings)]
    problems = [problem for one in read for problem in one.problems]
    agents = {one.agent.name: one.agent for one in read if one.agent is not None}
    # Of a file with mistakes of its own nobody knows whom it would name.
    problems = problems or check_sub_agents(settings, agents)
    if problems:
        raise ConfigError("\n".join(problems), hint="Correct them, then: horarium agents validate")
    return agents


def load_agent(settings: Settings, file: Path) -> Agent:
    """Read one agent.

    Raises:
        ConfigError: All its mistakes, a line each.
    """
    read = _read(settings, file)
    if read.agent is None:
        raise ConfigError("\n".join(read.problems), hint="Correct them, then: horarium agents validate")
    return read.agent


def check_sub_agents(settings: Settings, agents: Mapping[str, Agent]) -> list[str]:
    """Say which agents name sub-agents that are not there, or that lead back to themselves; a line each."""
    problems: list[str] = []
    for agent in agents.values():
        file = settings.root / "agents" / f"{agent.name}.yaml"
        for index, name in enumerate(agent.agents):
            circle = _circle(agents, (agent.name, name))
            if name in agents and circle is None:
                continue
            text = file.read_text("utf-8", "replace") if file.is_file() else ""
            said = f"there is no agent {name!r}{near_miss(name, list(agents))}"
            if circle is not None:
                said = f"its sub-agents go round in a circle: {' > '.join(circle)}"
            where = f"{shown(settings, file)}:{_line_of_item(text, 'agents', name)}"
            problems.append(f"{where}: agents.{index}: {said}")
    return problems


def _circle(agents: Mapping[str, Agent], path: tuple[str, ...]) -> tuple[str, ...] | None:
    """The way from the first agent of a path back to it, on from the last; None when there is none."""
    ahead, seen = [path], {path[0]}
    while ahead:
        way = ahead.pop()
        if way[-1] == path[0]:
            return way
        if way[-1] not in seen and way[-1] in agents:
            seen.add(way[-1])
            ahead += [(*way, name) for name in agents[way[-1]].agents]
    return None


def check_tools(settings: Settings, agents: Mapping[str, Agent], known: Iterable[str]) -> list[str]:
    """Say which agents name tools that are not among `known`; a line each, with the near miss."""
    names = sorted(known)
    problems: list[str] = []
    for agent in agents.values():
        file = settings.root / "agents" / f"{agent.name}.yaml"
        text = file.read_text("utf-8", "replace") if file.is_file() else ""
        for index, tool in enumerate(agent.tools):
            if tool not in names:
                where = f"{shown(settings, file)}:{_line_of_item(text, 'tools', tool)}"
                problems.append(f"{where}: tools.{index}: there is no tool {tool!r}{near_miss(tool, names)}")
    return problems


def check_toolboxes(settings: Settings, agents: Mapping[str, Agent], known: Iterable[str]) -> list[str]:
    """Say which agents name toolboxes that are not among `known`; a line each, with the near miss."""
    names = sorted(known)
    problems: list[str] = []
    for agent in agents.values():
        file = settings.root / "agents" / f"{agent.name}.yaml"
        text = file.read_text("utf-8", "replace") if file.is_file() else ""
        for index, reference in enumerate(agent.toolboxes):
            name = reference.partition("@")[0]
            if name not in names:
                where = f"{shown(settings, file)}:{_line_of_item(text, 'toolboxes', reference)}"
                problems.append(f"{where}: toolboxes.{index}: there is no toolbox {name!r}{near_miss(name, names)}")
    return problems


def check_plans(settings: Settings, agents: Mapping[str, Agent], tools: Mapping[str, ToolSpec]) -> list[str]:
    """Say where approval plans name arguments that these tools do not take; a line each, with the near miss."""
    problems: list[str] = []
    for agent in agents.values():
        file = settings.root / "agents" / f"{agent.name}.yaml"
        text = file.read_text("utf-8", "replace") if file.is_file() else ""
        known = set(plan_problems(agent, settings))  # told when the file was read
        names = {} if agent.finds_tools else tools  # what else it has is known when a run begins
        found = [problem for problem in plan_problems(agent, settings, tools=names) if problem not in known]
        problems += [_with_line(problem, shown(settings, file), text) for problem in found]
    return problems


def check_rankings(settings: Settings, agents: Mapping[str, Agent]) -> list[str]:
    """Say which agents rank by a model that is not installed; a line each."""
    if embeddings.installed():
        return []
    problems: list[str] = []
    for agent in agents.values():
        file = settings.root / "agents" / f"{agent.name}.yaml"
        text = file.read_text("utf-8", "replace") if file.is_file() else ""
        said = f"is `embedding`, and {embeddings.MISSING}: {embeddings.INSTALL}"
        found = [f"{part}.ranking: {said}" for part in agent.by_meaning]
        problems += [_with_line(problem, shown(settings, file), text) for problem in found]
    return problems


class AgentFiles:
    """The agents as the files are now; one object for each process that wants to notice edits."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seen: dict[Path, tuple[object, Path | None, Agent | None]] = {}
        self._lock = threading.Lock()

    def current(self) -> dict[str, Agent]:
        """Every agent, each as its file was when it was last right."""
        with self._lock:
            files = agent_files(self._settings)
            for gone in self._seen.keys() - set(files):
                del self._seen[gone]
            for file in files:
                self._look(file)
            return {agent.name: agent for _, _, agent in self._seen.values() if agent is not None}

    def _look(self, file: Path) -> None:
        mark, prompt, agent = self._seen.get(file, (None, None, None))
        if mark is not None and mark == _mark(file, prompt):
            return
        # The mark is taken first: an edit while the file is read is then seen the next time.
        before = _stamp(file)
        read = _read(self._settings, file)
        for problem in read.problems:
            log.warning("agent.file_ignored", problem=problem, in_force="the last good one" if agent else "none")
        self._seen[file] = ((before, _stamp(read.prompt)), read.prompt, read.agent or agent)


def _read(settings: Settings, file: Path) -> _Read:
    name = shown(settings, file)
    read = _Read()
    try:
        text = read_text(file, str(name))
        values = parse(text, name, like="model: local")
    except ConfigError as error:
        read.problems.append(error.message)
        return read
    if file.suffix == ".yml":
        read.problems.append(f"{name}:1: call this file {file.stem}.yaml")
    read.problems += secrets_in(text, name) + secret_entries(text, values, "metadata", name)
    _take_prompt(settings, values, read, name, text)
    values.setdefault("name", file.stem)
    if values["name"] != file.stem:
        line = line_of(text, ["name"])
        read.problems.append(f"{name}:{line}: name: is {values['name']!r}, but the file is called {file.name!r}")
    try:
        agent = Agent.model_validate(values)
    except ValidationError as error:
        read.problems += explain(error, _AgentFile, name, text).splitlines()
    else:
        read.problems += _plan(settings, agent, name, text)
        read.agent = None if read.problems else agent
    return read


def _plan(settings: Settings, agent: Agent, name: Path, text: str) -> list[str]:
    """What is wrong with the approval plan, each with its line."""
    return [_with_line(problem, name, text) for problem in plan_problems(agent, settings)]


def _with_line(problem: str, name: Path, text: str) -> str:
    field, _, _ = problem.partition(": ")
    return f"{name}:{line_of(text, field_path(field))}: {problem}"


def _take_prompt(settings: Settings, values: dict[Any, Any], read: _Read, name: Path, text: str) -> None:
    """Put the text of the file that `instructions_file` names in its place."""
    if PROMPT_FIELD not in values:
        return
    said = values.pop(PROMPT_FIELD)
    where = f"{name}:{line_of(text, [PROMPT_FIELD])}: {PROMPT_FIELD}"
    if "instructions" in values:
        read.problems.append(f"{where}: give either this or `instructions`, not both")
        return
    if not isinstance(said, str) or not said:
        read.problems.append(f"{where}: must be the path of a text file, from the project's directory on")
        return
    root = settings.root.resolve()
    file = (root / said).resolve()
    if not file.is_relative_to(root):
        read.problems.append(f"{where}: {said!r} is outside of the project")
        return
    read.prompt = file
    if not file.is_file():
        beside = [str(shown(settings, other)) for other in (root / said).parent.glob("*") if other.is_file()]
        read.problems.append(f"{where}: there is no file {said!r}{near_miss(said, beside)}")
        return
    try:
        prompt = read_text(file, said).strip()
    except ConfigError as error:
        read.problems.append(f"{where}: {error.message}")
        return
    read.problems += secrets_in(prompt, Path(said))
    values["instructions"] = prompt


def _mark(file: Path, prompt: Path | None) -> object:
    return (_stamp(file), _stamp(prompt))


def _stamp(file: Path | None) -> object:
    try:
        found = os.stat(file) if file is not None else None  # noqa: PTH116 - None is no path
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None


def _line_of_item(text: str, key: str, item: str) -> int:
    start = line_of(text, [key])
    lines = text.splitlines()
    word = re.compile(rf"(?<![\w-]){re.escape(item)}(?![\w-])")
    return next((number for number in range(start, len(lines) + 1) if word.search(lines[number - 1])), start)
