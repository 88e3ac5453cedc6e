"""What is in a workspace at one version, and what one call changed in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Entry(NamedTuple):
    """One file. `digest` names its content in the blob store."""

    size: int
    digest: str
    executable: bool


Manifest = dict[str, Entry]
"""Name to file. There are no directories in it: one is where a file needs it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a workspace may hold."""

    max_bytes: int = 1 << 30
    max_files: int = 10_000
    max_file_bytes: int = 1 << 28


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be recorded: files that are new or other, and files that are gone, since version `base`.

    `base` None: on whatever there is, as by a person who uploads a file. `upload` names the contents that were stored
    for it; `notes` is what whoever made it should know.
    """

    thread: str
    base: int | None
    set: Manifest = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    upload: str | None = None
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.set or self.gone or self.notes)


def difference(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> tuple[Manifest, frozenset[str]]:
    """Files that are new or other in `after`, and the names that are no longer in it."""
    changed = {name: entry for name, entry in after.items() if before.get(name) != entry}
    return changed, frozenset(before.keys() - after.keys())


def in_the_way(names: Iterable[str], others: Iterable[str]) -> set[str]:
    """Those of `others` that cannot be files beside `names`: a file is where the other needs a directory."""
    wanted = set(names)
    needed = {directory for name in wanted for directory in directories_of(name)}
    return {
        other
        for other in others
        if other not in wanted and (other in needed or any(directory in wanted for directory in directories_of(other)))
    }


def directories_of(name: str) -> list[str]:
    """The directories on the way to a file, the outermost first."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def some(names: Iterable[str], most: int = 3) -> str:
    """A few of the names, and how many more there are."""
    ordered = sorted("".join(char if char.isprintable() else "\ufffd" for char in name) for name in names)
    shown = ", ".join(name if len(name) <= 80 else f"{name[:79]}…" for name in ordered[:most])
    return shown + (f" and {len(ordered) - most} more" if len(ordered) > most else "")
