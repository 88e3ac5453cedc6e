"""Words for toolboxes: what a version has, how two differ, and how a file stands to what counts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import yaml

from horarium.cli import words
from horarium.ledger.toolboxes import DefaultVersion, Operations, ToolboxVersion
from horarium.mcpservers import SEPARATOR
from horarium.openapi import Operation
from horarium.toolboxes import Toolbox
from horarium.toolboxfiles import ToolboxFile
from horarium.tools import ToolSpec

ABOUT_CHARS = 120
_NOT_YET = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ToolLine:
    """One tool of a version, or one server whose tools are found when a run begins."""

    name: str
    kind: str
    effect: str
    about: str

    def json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)


def unpublished(file: ToolboxFile) -> ToolboxVersion:
    """A file as the version that it would become."""
    return ToolboxVersion(file.toolbox, 0, _NOT_YET, {label: read.operations for label, read in file.documents.items()})


def tools(version: ToolboxVersion, served: Mapping[str, ToolSpec]) -> Iterator[ToolLine]:
    """What a version has."""
    toolbox = version.toolbox
    for name in toolbox.tools:
        spec = served.get(name)
        effect = spec.effect.value if spec else "-"
        yield ToolLine(name, "python", effect, _about(spec.description) if spec else "served by no worker so far")
    for label, server in toolbox.mcp.items():
        yield ToolLine(f"{label}__*", "mcp", "-", server.url or " ".join(server.command))
    for label, operations in version.operations.items():
        for operation in operations:
            yield ToolLine(
                f"{label}{SEPARATOR}{operation.name}", "openapi", operation.effect.value, _about(operation.description)
            )
    for name in toolbox.agents:
        yield ToolLine(name, "agent", "-", "a sub-agent")


def parts(version: ToolboxVersion) -> str:
    """`2 Python tools, 12 operations, 1 MCP server`."""
    toolbox = version.toolbox
    counted = (
        (len(toolbox.tools), "Python tool"),
        (sum(len(operations) for operations in version.operations.values()), "operation"),
        (len(toolbox.mcp), "MCP server"),
        (len(toolbox.agents), "sub-agent"),
    )
    return ", ".join(words.plural(number, noun) for number, noun in counted if number)


def default(found: DefaultVersion, shown: int) -> str:
    """Which version counts, seen from one of them."""
    by = f", by {words.one_line(found.changed_by)}" if found.changed_by else ""
    since = f"since {words.when(found.changed_at)}{by}"
    return f"this one, {since}" if found.version == shown else f"version {found.version}, {since}"


def state(file: ToolboxFile | None, versions: Sequence[ToolboxVersion], counts: DefaultVersion | None) -> str:
    """How the file stands to the versions: whether what it says counts."""
    if file is None:
        return "only in the ledger"
    version = next((version.version for version in reversed(versions) if _says(file, version)), None)
    if version is None or counts is None:
        return "changed, no version yet" if versions else "new"
    return "current" if version == counts.version else f"version {version} waits: promote it"


def _says(file: ToolboxFile, version: ToolboxVersion) -> bool:
    """Whether a version is what the file says; documents that stand elsewhere are not looked at."""
    here = all(tuple(version.operations.get(label, ())) == read.operations for label, read in file.documents.items())
    return here and version.toolbox == file.toolbox


def changes(old: ToolboxVersion, new: ToolboxVersion) -> list[str]:
    """What came, went and changed, a line each."""
    before, after = _known(old), _known(new)
    found = [f"- {name}" for name in before if name not in after]
    found += [f"+ {name}{_effect(after[name])}" for name in after if name not in before]
    for name, now in after.items():
        then = before.get(name)
        if isinstance(now, Operation) and isinstance(then, Operation) and now != then:
            found.append(f"~ {name}: {', '.join(_changed(then, now))}")
    return found


def lines(old: ToolboxVersion, new: ToolboxVersion) -> list[str]:
    """The definitions' lines that differ, with a few around them."""
    before, after = _yaml(old.toolbox).splitlines(), _yaml(new.toolbox).splitlines()
    return list(difflib.unified_diff(before, after, old.reference, new.reference, lineterm="", n=2))


def _known(version: ToolboxVersion) -> dict[str, Operation | None]:
    operations: Operations = version.operations
    named = {f"{label}{SEPARATOR}{item.name}": item for label, found in operations.items() for item in found}
    others = [*version.toolbox.tools, *(f"{label}__*" for label in version.toolbox.mcp), *version.toolbox.agents]
    return {**dict.fromkeys(others), **named}


def _changed(then: Operation, now: Operation) -> Iterator[str]:
    if then.effect is not now.effect:
        yield f"effect {then.effect.value} -> {now.effect.value}"
    if (then.method, then.path, then.base_url) != (now.method, now.path, now.base_url):
        yield f"now {now.method.upper()} {now.base_url}{now.path}"
    if then.parameters != now.parameters or then.arguments != now.arguments or then.body != now.body:
        yield "arguments"
    if then.description != now.description:
        yield "description"
    if then.said_openly is not now.said_openly:
        yield "who says where it is"


def _effect(operation: Operation | None) -> str:
    return f" ({operation.effect.value})" if operation is not None else ""


def _about(description: str) -> str:
    first = description.strip().partition("\n")[0]
    return first if len(first) <= ABOUT_CHARS else f"{first[: ABOUT_CHARS - 1]}…"


def _yaml(toolbox: Toolbox) -> str:
    said = toolbox.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True)
