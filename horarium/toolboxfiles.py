"""Toolboxes on disk: `toolboxes/<name>.yaml`, and the OpenAPI documents that they name.

As with agents, all mistakes of all files are told at once, an edit counts from the next run on, and a broken edit
leaves the last good one in force. Documents that stand elsewhere are fetched by whoever publishes a version
(horarium/toolboxpublishing.py).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from pydantic import ValidationError

from horarium.definitions import Agent
from horarium.errors import ConfigError
from horarium.openapi import ReadDocument, read_document
from horarium.openapi_documents import MAX_DOCUMENT_BYTES, parse_document
from horarium.plans import plan_problems
from horarium.problems import explain, line_of, near_miss
from horarium.settings import Settings
from horarium.toolboxes import OpenApi, Toolbox
from horarium.yamlfiles import field_path, parse, read_text, secret_entries, secrets_in, shown

log = structlog.get_logger()

FOLDER = "toolboxes"
CHECK = "Correct them, then: horarium toolbox check"


@dataclass(frozen=True, slots=True)
class ToolboxFile:
    """A toolbox as its file says it, with what its documents in the project have, by label."""

    toolbox: Toolbox
    documents: Mapping[str, ReadDocument]

    @property
    def remote(self) -> dict[str, OpenApi]:
        """Its documents that stand elsewhere, by label."""
        return {label: api for label, api in self.toolbox.openapi.items() if api.is_remote}


@dataclass
class _Read:
    """What reading one file came to; `used` are all the files that it depends on."""

    file: ToolboxFile | None = None
    problems: list[str] = field(default_factory=list)
    used: tuple[Path, ...] = ()


def toolbox_files(settings: Settings) -> list[Path]:
    """The toolbox files of a project, by name."""
    folder = settings.root / FOLDER
    return sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])


def load_toolboxes(settings: Settings) -> dict[str, ToolboxFile]:
    """Read every toolbox.

    Raises:
        ConfigError: All mistakes of all files, a line each: file, line, field, near miss.
    """
    read = [_read(settings, file) for file in toolbox_files(settings)]
    problems = [problem for one in read for problem in one.problems]
    if problems:
        raise ConfigError("\n".join(problems), hint=CHECK)
    return {one.file.toolbox.name: one.file for one in read if one.file is not None}


class ToolboxFiles:
    """The toolboxes as the files are now; one object for each process that wants to notice edits."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seen: dict[Path, tuple[object, tuple[Path, ...], ToolboxFile | None]] = {}
        self._lock = threading.Lock()

    def current(self) -> dict[str, ToolboxFile]:
        """Every toolbox, each as its file was when it was last right; the same object as long as nothing changed."""
        with self._lock:
            files = toolbox_files(self._settings)
            for gone in self._seen.keys() - set(files):
                del self._seen[gone]
            for file in files:
                self._look(file)
            return {found.toolbox.name: found for _, _, found in self._seen.values() if found is not None}

    def _look(self, file: Path) -> None:
        mark, used, found = self._seen.get(file, (None, (), None))
        if mark is not None and mark == _mark(file, *used):
            return
        # The file is marked first: an edit while it is read is then seen the next time.
        before = _mark(file)
        read = _read(self._settings, file)
        for problem in read.problems:
            log.warning("toolbox.file_ignored", problem=problem, in_force="the last good one" if found else "none")
        self._seen[file] = ((*before, *_mark(*read.used)), read.used, read.file or found)


def check_parts(
    settings: Settings, files: Mapping[str, ToolboxFile], tools: Mapping[str, object], agents: Mapping[str, Agent]
) -> list[str]:
    """Say which toolboxes name tools or sub-agents that the project does not have; a line each."""
    problems: list[str] = []
    for found in files.values():
        file = settings.root / FOLDER / f"{found.toolbox.name}.yaml"
        text = file.read_text("utf-8", "replace") if file.is_file() else ""
        parts = (("tools", "tool", found.toolbox.tools, tools), ("agents", "agent", found.toolbox.agents, agents))
        for key, word, names, known in parts:
            for index, name in enumerate(names):
                if name not in known:
                    where = f"{shown(settings, file)}:{line_of(text, [key, index])}: {key}.{index}"
                    problems.append(f"{where}: there is no {word} {name!r}{near_miss(name, sorted(known))}")
    return problems


def _read(settings: Settings, file: Path) -> _Read:
    name = shown(settings, file)
    read = _Read()
    try:
        text = read_text(file, str(name))
        values = parse(text, name, like="tools: [lookup_customer]")
    except ConfigError as error:
        read.problems.append(error.message)
        return read
    if file.suffix == ".yml":
        read.problems.append(f"{name}:1: call this file {file.stem}.yaml")
    read.problems += secrets_in(text, name) + secret_entries(text, values, "metadata", name)
    values.setdefault("name", file.stem)
    if values["name"] != file.stem:
        line = line_of(text, ["name"])
        read.problems.append(f"{name}:{line}: name: is {values['name']!r}, but the file is called {file.name!r}")
    try:
        toolbox = Toolbox.model_validate(values)
    except ValidationError as error:
        read.problems += explain(error, Toolbox, name, text).splitlines()
        return read
    read.problems += _plan(settings, toolbox, name, text)
    documents = _documents(settings, toolbox, read, name, text)
    read.file = None if read.problems else ToolboxFile(toolbox, documents)
    return read


def _plan(settings: Settings, toolbox: Toolbox, name: Path, text: str) -> list[str]:
    """What is wrong with the approval plan, each with its line."""
    # A plan is judged as part of an agent; of this one only the plan matters.
    agent = Agent(toolbox.name, model="local", toolboxes=(toolbox.name,), approvals=toolbox.approvals)
    problems = []
    for problem in plan_problems(agent, settings):
        where, _, _ = problem.partition(": ")
        problems.append(f"{name}:{line_of(text, field_path(where))}: {problem}")
    return problems


def _documents(settings: Settings, toolbox: Toolbox, read: _Read, name: Path, text: str) -> dict[str, ReadDocument]:
    """The documents in the project, read; what is wrong with them goes to the file's problems."""
    documents: dict[str, ReadDocument] = {}
    for label, api in toolbox.openapi.items():
        if api.is_remote:
            continue
        where = f"{name}:{line_of(text, ['openapi', label, 'document'])}: openapi.{label}"
        root = settings.root.resolve()
        file = (root / api.document).resolve()
        if not file.is_relative_to(root):
            read.problems.append(f"{where}.document: {api.document!r} is outside of the project")
            continue
        read.used = (*read.used, file)
        if not file.is_file():
            beside = [
                str(shown(settings, other)) for other in (root / api.document).parent.glob("*") if other.is_file()
            ]
            miss = near_miss(api.document, beside)
            read.problems.append(f"{where}.document: there is no file {api.document!r}{miss}")
            continue
        try:
            with file.open("rb") as opened:
                data = opened.read(MAX_DOCUMENT_BYTES + 1)
            documents[label] = read_document(label, api, parse_document(data, api.document))
        except OSError as error:
            read.problems.append(f"{where}.document: {api.document!r} cannot be read: {error.strerror}")
        except ConfigError as error:
            read.problems.append(f"{where}: {error}")
    return documents


def _mark(*files: Path) -> tuple[object, ...]:
    return tuple(_stamp(file) for file in files)


def _stamp(file: Path) -> object:
    try:
        found = file.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)
