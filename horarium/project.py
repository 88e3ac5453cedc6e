"""A project on disk: its agents in `agents/*.yaml`, their prompts in text files, its tools in `tools/*.py`."""

from __future__ import annotations

import ast
import builtins
import contextlib
import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog
import yaml
from pydantic import ValidationError

from horarium.definitions import Agent
from horarium.engine import ENGINE_NAMES, engine_root
from horarium.errors import ConfigError, ToolImportClash
from horarium.problems import explain, line_of, near_miss
from horarium.settings import Settings
from horarium.tools import Tool

log = structlog.get_logger()

MAX_FILE_BYTES = 256 * 1024
MAX_ALIASES = 50
_SECRET = re.compile(
    r"\b(sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|xox[abp]-[A-Za-z0-9-]{10,})\b"
)


@dataclass(frozen=True, slots=True)
class Clash:
    """A file that imports a top-level name which is the engine's in the engine's process."""

    file: Path
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: imports {self.name!r}, which is a name of the engine"


@dataclass(frozen=True, slots=True)
class Project:
    """A project as one process sees it; `tools` is empty where another process serves them."""

    settings: Settings
    agents: Mapping[str, Agent]
    tools: Mapping[str, Tool]

    @classmethod
    def load(cls, settings: Settings, *, with_tools: bool) -> Project:
        """Read the project's files.

        Raises:
            ConfigError: All mistakes of all agent files, or the first of a tool file.
        """
        return cls(settings, load_agents(settings), load_tools(settings) if with_tools else {})


# ---- agents


def load_agents(settings: Settings) -> dict[str, Agent]:
    """Read every agent.

    Raises:
        ConfigError: All mistakes of all files, a line each: file, line, field, near miss.
    """
    agents: dict[str, Agent] = {}
    problems: list[str] = []
    for file in agent_files(settings):
        try:
            agent = load_agent(settings, file)
            agents[agent.name] = agent
        except ConfigError as error:
            problems.append(error.message)
    if problems:
        raise ConfigError("\n".join(problems), hint="Correct them, then: horarium agents validate")
    return agents


def agent_files(settings: Settings) -> list[Path]:
    """The agent files of a project, by name."""
    folder = settings.root / "agents"
    return sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])


def load_agent(settings: Settings, file: Path) -> Agent:
    """Read one agent.

    Raises:
        ConfigError: Its mistakes, a line each.
    """
    shown = _shown(settings, file)
    text = _read(file, shown)
    values = _parse(text, shown)
    secret = _SECRET.search(text)
    if secret:
        line = text[: secret.start()].count("\n") + 1
        raise ConfigError(f"{shown}:{line}: this looks like a secret; put it into an environment variable.")
    prompt = values.pop("instructions_file", None)
    if prompt is not None:
        line = line_of(text, ["instructions_file"])
        if "instructions" in values:
            raise ConfigError(f"{shown}:{line}: instructions_file: give either this or `instructions`, not both")
        values["instructions"] = _prompt(settings, str(prompt), f"{shown}:{line}: instructions_file")
    values.setdefault("name", file.stem)
    try:
        agent = Agent.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, Agent, shown, text)) from error
    if agent.name != file.stem:
        line = line_of(text, ["name"])
        raise ConfigError(f"{shown}:{line}: name: is {agent.name!r}, but the file is called {file.name!r}")
    return agent


def check_tools(settings: Settings, agents: Mapping[str, Agent], known: Iterable[str]) -> list[str]:
    """Say which agents name tools that do not exist; a line each, with the near miss."""
    names = sorted(known)
    problems: list[str] = []
    for agent in agents.values():
        file = settings.root / "agents" / f"{agent.name}.yaml"
        text = file.read_text("utf-8") if file.exists() else ""
        for index, tool in enumerate(agent.tools):
            if tool not in names:
                line = line_of(text, ["tools"])
                problems.append(
                    f"{_shown(settings, file)}:{line}: tools.{index}: there is no tool {tool!r}{near_miss(tool, names)}"
                )
    return problems


class AgentFiles:
    """The agents of a project as they are now: files that changed are read again, a broken edit is ignored."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seen: dict[Path, tuple[object, Agent | None]] = {}

    def current(self) -> dict[str, Agent]:
        """Every agent whose file was right when it was last read."""
        for file in agent_files(self._settings):
            mark = self._mark(file)
            before = self._seen.get(file)
            if before is not None and before[0] == mark:
                continue
            agent = before[1] if before is not None else None
            try:
                agent = load_agent(self._settings, file)
            except ConfigError as error:
                log.warning("agent.file_ignored", file=str(file), problem=error.message)
            self._seen[file] = (mark, agent)
        return {agent.name: agent for _, agent in self._seen.values() if agent is not None}

    def _mark(self, file: Path) -> object:
        """What changes when the agent may have changed: the file itself, and any prompt."""
        try:
            prompts = sorted((self._settings.root / "prompts").glob("**/*"))
            return [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in (file, *prompts)]
        except OSError:
            return None


def _read(file: Path, shown: Path) -> str:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{shown}:1: the file is larger than {MAX_FILE_BYTES // 1024} KiB")
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown}:1: is not UTF-8 text") from error
    except OSError as error:
        raise ConfigError(f"{shown}:1: cannot be read: {error.strerror}") from error


def _parse(text: str, shown: Path) -> dict[str, Any]:
    try:
        values = yaml.load(text, Loader=_StrictLoader)  # noqa: S506  (a SafeLoader, only stricter)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{shown}:{line}: {error.problem or 'is not valid YAML'}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{shown}:1: is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{shown}:1: must be a mapping of fields, like `name: {shown.stem}`")
    return values


def _prompt(settings: Settings, name: str, where: str) -> str:
    file = (settings.root / name).resolve()
    if not file.is_relative_to(settings.root.resolve()):
        raise ConfigError(f"{where}: {name!r} is outside of the project")
    try:
        return _read(file, Path(name)).strip()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}") from error


def _shown(settings: Settings, file: Path) -> Path:
    return file.relative_to(settings.root) if file.is_relative_to(settings.root) else file


class _StrictLoader(yaml.SafeLoader):
    """Plain data only; a key twice is an error, and so is a heap of aliases."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > MAX_ALIASES:
                raise yaml.MarkedYAMLError(problem=f"has more than {MAX_ALIASES} aliases")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict):
                raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"{key!r} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# ---- tools


def tool_files(settings: Settings) -> list[Path]:
    """The tool files of a project, by name."""
    return sorted(file for file in (settings.root / "tools").glob("*.py") if not file.name.startswith("_"))


def load_tools(settings: Settings, *, in_engine: bool = False) -> dict[str, Tool]:
    """Import the project's tools.

    Args:
        in_engine: This process runs the engine, so its four names are refused to everybody else.

    Raises:
        ConfigError: A file that cannot be imported, or a name twice.
        ToolImportClash: A tool, or something that it imports, wants a name of the engine.
    """
    tools: dict[str, Tool] = {}
    origin: dict[str, Path] = {}
    root = str(settings.root)
    if root not in sys.path:
        sys.path.append(root)  # last: the project's own packages, but never before anything installed
    for file in tool_files(settings):
        with _guarded() if in_engine else contextlib.nullcontext():
            module = _import(settings, file)
        for value in vars(module).values():
            if not isinstance(value, Tool):
                continue
            if value.name in tools and tools[value.name] is not value:
                raise ConfigError(
                    f"Two tools are called {value.name!r}: in {_shown(settings, origin[value.name])} and in "
                    f"{_shown(settings, file)}.",
                    hint="Rename one: @tool(name=…)",
                )
            tools[value.name], origin[value.name] = value, file
    return tools


def clashing_imports(settings: Settings) -> tuple[Clash, ...]:
    """Find, without importing anything, what in the tools wants a name of the engine.

    Also looks into functions, and into the project's own modules that the tools import.
    """
    clashes: list[Clash] = []
    seen: set[Path] = set()
    waiting = tool_files(settings)
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        for name, line in _imports(file):
            if name.split(".")[0] in ENGINE_NAMES:
                clashes.append(Clash(_shown(settings, file), line, name.split(".")[0]))
            else:
                waiting += _own_module(settings, name)
    return tuple(sorted(clashes, key=str))


def _imports(file: Path) -> Iterator[tuple[str, int]]:
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError, ValueError):
        return  # importing it says better what is wrong
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _own_module(settings: Settings, name: str) -> list[Path]:
    base = settings.root.joinpath(*name.split("."))
    return [file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()]


def _import(settings: Settings, file: Path) -> ModuleType:
    # A name of its own, so that no tool file can be taken for, or hide, an installed module.
    mark = hashlib.sha256(str(file).encode()).hexdigest()[:8]
    name = f"horarium_tools_{mark}_{re.sub(r'[^0-9A-Za-z_]', '_', file.stem)}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{_shown(settings, file)} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ConfigError:
        sys.modules.pop(name, None)
        raise
    except Exception as error:
        sys.modules.pop(name, None)
        line = next((frame.lineno for frame in _frames(error) if frame.filename == str(file)), 1)
        raise ConfigError(
            f"{_shown(settings, file)}:{line}: importing this tool file ended with {type(error).__name__}: {error}",
            hint="Correct it, or install what it needs.",
        ) from error
    return module


@dataclass(frozen=True, slots=True)
class _Frame:
    filename: str
    lineno: int


def _frames(error: BaseException) -> list[_Frame]:
    if isinstance(error, SyntaxError) and error.filename:
        return [_Frame(error.filename, error.lineno or 1)]
    frames: list[_Frame] = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(_Frame(trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    return frames


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    """While tools are imported into the engine's process: nobody but the engine gets the engine's names."""
    real, ours = builtins.__import__, (str(engine_root()), str(Path(__file__).parent))

    def guarded(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level == 0 and name.split(".")[0] in ENGINE_NAMES:
            importer = str((globals or {}).get("__file__") or "?")
            inside = any(importer.startswith(f"{root}/{folder}") for root in ours for folder in ENGINE_NAMES)
            if not inside and not importer.startswith(ours[1]):
                raise ToolImportClash(
                    f"{importer} imports {name.split('.')[0]!r}, which is a name of the engine in this process.",
                    hint='Give the tools a process of their own: [tools] process = "own" in horarium.toml',
                )
        return real(name, globals, locals, fromlist, level)

    builtins.__import__ = guarded
    try:
        yield
    finally:
        builtins.__import__ = real
