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
import yaml
from pydantic import ValidationError

from horarium.definitions import Agent
from horarium.errors import ConfigError
from horarium.plans import plan_problems
from horarium.problems import explain, line_of, near_miss
from horarium.secrets import REFERENCE
from horarium.settings import Settings

log = structlog.get_logger()

MAX_FILE_BYTES = 256 * 1024
MAX_ALIASES = 10  # each may repeat what holds the others, so their effect multiplies
PROMPT_FIELD = "instructions_file"
_SECRET = re.compile(
    r"\b(?:sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|AKIA[0-9A-Z]{16}|xox[abpr]-[A-Za-z0-9-]{10,}"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.)|-----BEGIN [A-Z ]*PRIVATE KEY"
)
_SECRET_KEY = re.compile(r"(?i)pass(word|wd|phrase)|secret|token$|api[-_]?key|credential")


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
    if problems:
        raise ConfigError("\n".join(problems), hint="Correct them, then: horarium agents validate")
    return {one.agent.name: one.agent for one in read if one.agent is not None}


def load_agent(settings: Settings, file: Path) -> Agent:
    """Read one agent.

    Raises:
        ConfigError: All its mistakes, a line each.
    """
    read = _read(settings, file)
    if read.agent is None:
        raise ConfigError("\n".join(read.problems), hint="Correct them, then: horarium agents validate")
    return read.agent


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


def shown(settings: Settings, file: Path) -> Path:
    """A path as people know it: from the project's directory on."""
    return file.relative_to(settings.root) if file.is_relative_to(settings.root) else file


def _read(settings: Settings, file: Path) -> _Read:
    name = shown(settings, file)
    read = _Read()
    try:
        text = _text(file, str(name))
        values = _parse(text, name)
    except ConfigError as error:
        read.problems.append(error.message)
        return read
    if file.suffix == ".yml":
        read.problems.append(f"{name}:1: call this file {file.stem}.yaml")
    read.problems += _secrets(text, values, name)
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
    found: list[str] = []
    for problem in plan_problems(agent, settings):
        field, _, _ = problem.partition(": ")
        path = [int(part) if part.isdigit() else part for part in field.split(".")]
        found.append(f"{name}:{line_of(text, path)}: {problem}")
    return found


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
        prompt = _text(file, said).strip()
    except ConfigError as error:
        read.problems.append(f"{where}: {error.message}")
        return
    read.problems += _secrets(prompt, {}, Path(said))
    values["instructions"] = prompt


def _secrets(text: str, values: Mapping[Any, Any], name: Path) -> list[str]:
    advice = "put it into an environment variable, and name that: ${MY_SECRET}"
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: this looks like a secret; {advice}"
        for match in _SECRET.finditer(text)
    ]
    metadata = values.get("metadata")
    for key, value in metadata.items() if isinstance(metadata, Mapping) else ():
        written = isinstance(value, str) and not REFERENCE.match(value)
        if _SECRET_KEY.search(str(key)) and written and not _SECRET.search(value):
            found.append(f"{name}:{line_of(text, ['metadata', str(key)])}: metadata.{key}: is a secret here; {advice}")
    return found


def _text(file: Path, name: str) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(f"{name}:1: is larger than {MAX_FILE_BYTES // 1024} KiB")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: is not UTF-8 text") from error
    except OSError as error:
        raise ConfigError(f"{name}:1: cannot be read: {error.strerror}") from error


def _parse(text: str, name: Path) -> dict[Any, Any]:
    try:
        values = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader, only stricter
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{name}:{line}: {error.problem or 'is not valid YAML'}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}:1: is not valid YAML: {str(error).splitlines()[0]}") from error
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{name}:1: is nested too deeply, or holds a value that cannot be") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{name}:1: must be a mapping of fields, like `model: local`")
    return values


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


class _StrictLoader(yaml.SafeLoader):
    """Plain data only; a key twice is an error, and so is a heap of aliases."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Count aliases before they are followed."""
        if self.check_event(yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > MAX_ALIASES:
                mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                raise yaml.MarkedYAMLError(problem=f"has more than {MAX_ALIASES} aliases", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that is given twice, of which YAML would silently take the last."""
        seen: set[Any] = set()
        for key_node, _ in getattr(node, "value", ()):
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key_node.start_mark)
            if key_node.value in seen:
                problem = f"{key_node.value!r} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)
