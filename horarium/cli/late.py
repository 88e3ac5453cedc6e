"""Commands that are imported when they are called, so that none waits for what another one needs.

Most of the time that a short command takes is imports; a worker, which is started with a command too, is waited for
after every death of the one before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, slots=True)
class Late:
    """Where a command, or a group of them, is; and what the list of commands says of it without looking there."""

    where: str  # module:attribute, in horarium.cli
    says: str


class LateGroup(TyperGroup):
    """A group whose commands are named by `late`, in the order of its help."""

    late: ClassVar[Mapping[str, Late]] = {}

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        self.commands = _Imported(self.late)

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names; none is imported for this."""
        return list(self.late)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands into the help; none is imported for this either."""
        limit = formatter.width - 6 - max(map(len, self.late))
        rows = [
            (name, TyperCommand(name, help=late.says).get_short_help_str(limit)) for name, late in self.late.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class _Imported(MutableMapping[str, Any]):
    """Commands by name, each imported when it is asked for."""

    def __init__(self, late: Mapping[str, Late]) -> None:
        self._late = late
        self._found: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._found:
            self._found[name] = _found(name, self._late[name])
        return self._found[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._found[name] = command

    def __delitem__(self, name: str) -> None:
        raise TypeError("Commands are not taken away.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._late)

    def __len__(self) -> int:
        return len(self._late)


def _found(name: str, late: Late) -> Any:
    module, _, attribute = late.where.partition(":")
    found = getattr(import_module(f"horarium.cli.{module}"), attribute)
    around = typer.Typer(add_completion=False, rich_markup_mode=None)
    if isinstance(found, typer.Typer):
        around.add_typer(found, name=name)
    else:
        around.command(name)(found)
    return typer.main.get_group(around).commands[name]
