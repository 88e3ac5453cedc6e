"""Tools on disk: `tools/*.py` of a project, imported without getting into anybody's way.

A tool file is user code in a process that may be the engine's. Its module gets a name that nothing else has; its
imports are looked through before (`clashing_imports`) and while (`load_tools(in_engine=True)`) they happen, as one
that asks for `workflows` and gets the engine's would break far from its cause.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from horarium.engine import ENGINE_NAMES
from horarium.errors import ConfigError, ToolImportClash
from horarium.settings import Settings
from horarium.tools import Tool
from horarium.yamlfiles import shown

OWN_PROCESS = 'Give the tools a process of their own: [tools] process = "own" in horarium.toml'


@dataclass(frozen=True, slots=True)
class Clash:
    """A line that imports a top-level name which is the engine's in the engine's process."""

    file: Path
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: imports {self.name!r}, which is a name of the engine"


def tool_files(settings: Settings) -> list[Path]:
    """The tool files of a project, by name; those that begin with `_` are only helpers of others."""
    return sorted(file for file in (settings.root / "tools").glob("*.py") if not file.name.startswith("_"))


def load_tools(settings: Settings, *, in_engine: bool = False) -> dict[str, Tool]:
    """Import the project's tools. They may import packages of the project's directory.

    Args:
        settings: Of the project.
        in_engine: This process runs the engine, so its names are refused to everybody else.

    Raises:
        ConfigError: Files that cannot be imported, or a name twice; a line each.
        ToolImportClash: A tool, or something that it imports, wants a name of the engine.
    """
    root = str(settings.root)
    if root not in sys.path:
        # In the engine last, so that nothing of the project can stand before what is installed.
        sys.path.insert(len(sys.path) if in_engine else 0, root)
    tools: dict[str, Tool] = {}
    origin: dict[str, Path] = {}
    problems: list[str] = []
    for file in tool_files(settings):
        try:
            module = _import(settings, file, in_engine=in_engine)
        except ToolImportClash:
            raise
        except ConfigError as error:
            problems.append(error.message)
            continue
        for value in list(vars(module).values()):
            if isinstance(value, Tool) and not _same(tools.setdefault(value.name, value), value):
                both = f"in {shown(settings, origin[value.name])} and in {shown(settings, file)}"
                problems.append(f"Two tools are called {value.name!r}: {both}; rename one: @tool(name=…)")
            if isinstance(value, Tool):
                origin.setdefault(value.name, file)
    if problems:
        raise ConfigError("\n".join(problems), hint="Correct them, then: horarium agents validate")
    return tools


def clashing_imports(settings: Settings) -> tuple[Clash, ...]:
    """Find, without importing anything, what in the tools wants a name of the engine.

    Looks into functions too, and into the project's own modules that the tools import, and so on.
    """
    clashes: set[Clash] = set()
    seen: set[Path] = set()
    waiting = tool_files(settings)
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        for name, line in _imports(settings, file):
            top = name.partition(".")[0]
            if top in ENGINE_NAMES:
                clashes.add(Clash(shown(settings, file), line, top))
            else:
                waiting += _own_modules(settings, name)
    return tuple(sorted(clashes, key=lambda clash: (str(clash.file), clash.line, clash.name)))


def _imports(settings: Settings, file: Path) -> Iterator[tuple[str, int]]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return  # importing it says better what is wrong
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from ((alias.name, node.lineno) for alias in node.names)
            case ast.ImportFrom():
                base = _absolute(settings, file, node)
                yield from ((".".join(filter(None, (base, alias.name))), node.lineno) for alias in node.names)
            case ast.Call(func=ast.Name(id="__import__") | ast.Attribute(attr="import_module"), args=[first, *_]):
                if isinstance(first, ast.Constant) and isinstance(first.value, str) and first.value[:1] != ".":
                    yield first.value, node.lineno


def _absolute(settings: Settings, file: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    folder = file.relative_to(settings.root).parts[: -node.level]
    return ".".join((*folder, *filter(None, (node.module,))))


def _own_modules(settings: Settings, name: str) -> list[Path]:
    """The files of the project that importing this name runs: the packages on the way, and the module."""
    parts = name.split(".")
    found: list[Path] = []
    for depth in range(1, len(parts) + 1):
        base = settings.root.joinpath(*parts[:depth])
        found += (file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file())
    return found


def _import(settings: Settings, file: Path, *, in_engine: bool) -> ModuleType:
    mark = hashlib.sha256(str(file).encode()).hexdigest()[:8]
    name = f"horarium_tools_{mark}_{re.sub(r'[^0-9A-Za-z_]', '_', file.stem)}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{shown(settings, file)}:1: cannot be imported")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    guard = _Guard(shown(settings, file))
    try:
        # What a tool prints while it is imported must not get between a command's results.
        with contextlib.redirect_stdout(sys.stderr), guard if in_engine else contextlib.nullcontext():
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        if guard.clash is not None:
            raise guard.clash from error
        where = _place(settings, file, error)
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ConfigError(f"{where}: importing {shown(settings, file)} ended with {reason}") from error
    if guard.clash is not None:  # somebody caught it; what they imported instead is not what they wanted
        raise guard.clash
    return module


def _place(settings: Settings, file: Path, error: BaseException) -> str:
    """File and line, in the project, nearest to where it broke."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{shown(settings, Path(error.filename))}:{error.lineno or 1}"
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(settings.root)
    ]
    return f"{shown(settings, Path(own[-1].filename))}:{own[-1].lineno}" if own else f"{shown(settings, file)}:1"


def _same(one: Tool, other: Tool) -> bool:
    """Whether two objects are one tool, which another file imported under another module's name."""
    codes = [getattr(tool.function, "__code__", None) for tool in (one, other)]
    places = [(code.co_filename, code.co_firstlineno) if code else None for code in codes]
    return one is other or (places[0] is not None and places[0] == places[1])


class _Guard:
    """While it is entered, nobody but the engine gets the engine's names."""

    def __init__(self, tool_file: Path) -> None:
        self.clash: ToolImportClash | None = None
        self._tool_file = tool_file

    def __enter__(self) -> None:
        self._real = builtins.__import__
        builtins.__import__ = self._import

    def __exit__(self, *_: object) -> None:
        builtins.__import__ = self._real

    def _import(self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        top = name.partition(".")[0]
        importer = str((globals or {}).get("__name__") or "?")
        if level == 0 and top in ENGINE_NAMES and importer.partition(".")[0] not in ("horarium", *ENGINE_NAMES):
            file = (globals or {}).get("__file__") or importer
            self.clash = ToolImportClash(
                f"{self._tool_file} needs {file}, which imports {top!r}: in this process that is the engine's name.",
                hint=OWN_PROCESS,
            )
            raise self.clash
        return self._real(name, globals, locals, fromlist, level)
