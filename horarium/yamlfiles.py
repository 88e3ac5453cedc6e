"""YAML files that people write: agents and routines. Read strictly, and every mistake has a file and a line.

Plain data only; a key that stands twice is an error, because YAML would silently take the last. What looks like a
secret is refused before anything else is done with the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from horarium.errors import ConfigError
from horarium.problems import line_of
from horarium.secrets import REFERENCE
from horarium.settings import Settings

MAX_FILE_BYTES = 256 * 1024
MAX_ALIASES = 10  # each may repeat what holds the others, so their effect multiplies
ADVICE = "put it into an environment variable, and name that: ${MY_SECRET}"
_SECRET = re.compile(
    r"\b(?:sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|AKIA[0-9A-Z]{16}|xox[abpr]-[A-Za-z0-9-]{10,}"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.)|-----BEGIN [A-Z ]*PRIVATE KEY"
)
_SECRET_KEY = re.compile(r"(?i)pass(word|wd|phrase)|secret|token$|api[-_]?key|credential")

FieldPath = Sequence[str | int]


def shown(settings: Settings, file: Path) -> Path:
    """A path as people know it: from the project's directory on."""
    return file.relative_to(settings.root) if file.is_relative_to(settings.root) else file


def read_text(file: Path, name: str) -> str:
    """The text of a file; `name` is what it is called in errors.

    Raises:
        ConfigError: It cannot be read, is too large, or is not UTF-8.
    """
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


def parse(text: str, name: Path, *, like: str) -> dict[Any, Any]:
    """The fields of a file; `like` is an example of one, for those who wrote something else.

    Raises:
        ConfigError: It is no mapping in strict YAML; names the line.
    """
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
        raise ConfigError(f"{name}:1: must be a mapping of fields, like `{like}`")
    return values


def secrets_in(text: str, name: Path) -> list[str]:
    """Where text looks like a secret, a line each."""
    return [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: this looks like a secret; {ADVICE}"
        for match in _SECRET.finditer(text)
    ]


def secret_entries(text: str, values: Mapping[Any, Any], field: str, name: Path) -> list[str]:
    """Entries of the mapping `field` whose key says that they are a secret, and which are no reference to one."""
    entries = values.get(field)
    return [
        f"{name}:{line_of(text, [field, str(key)])}: {field}.{key}: is a secret here; {ADVICE}"
        for key, value in (entries.items() if isinstance(entries, Mapping) else ())
        if _SECRET_KEY.search(str(key))
        and isinstance(value, str)
        and not REFERENCE.match(value)
        and not _SECRET.search(value)
    ]


def field_path(field: str) -> list[str | int]:
    """`approvals.0.tools` as the keys and positions that lead there."""
    return [int(part) if part.isdigit() else part for part in field.split(".")]


def line_in_text(text: str, field: str, line: int) -> int:
    """The file's line of a line (from 1) of the text that a field holds; of folded text, only about that."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        node = None
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value == field and isinstance(value, yaml.ScalarNode):
            begins = value.start_mark.line + (1 if value.style in ("|", ">") else 0)
            return int(min(begins + line, max(value.end_mark.line, begins + 1)))
    return line_of(text, [field])


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


def yaml_of(values: Mapping[str, Any]) -> str:
    """The fields of a routine as its file has them; the name is the file's."""
    fields = {name: value for name, value in values.items() if name != "name"}
    return yaml.dump(fields, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, so that people can go on writing them."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)
