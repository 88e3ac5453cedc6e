"""The state of a routine, as a tool sees it: a small JSON object that outlives the tick.

What a tool changes is written down with the step's outcome, in one transaction, and handed to the next tick only when
this one completes. So a tool that is tried again, or a tick that fails, leaves no half of a change behind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, MutableMapping
from copy import deepcopy
from typing import Any

from horarium.content import canonical, clean_json
from horarium.errors import ToolError

MAX_STATE_CHARS = 32_000
_GONE = object()


class RoutineState(MutableMapping[str, Any]):
    """Of the tick that the call is in; of any other run it is empty and cannot be written."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        """`values`: None where the run is not of a routine."""
        self._values = dict(values or {})
        self._writable = values is not None
        self._changes: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        """A copy: to change what is inside of it, set it again."""
        return deepcopy(self._values[key])

    def __setitem__(self, key: str, value: Any) -> None:
        """Set a value that JSON has.

        Raises:
            ToolError: It has not, the state would be too large, or the run is not of a routine.
        """
        self._check(key)
        try:
            kept = clean_json(json.loads(canonical(value)))
        except (TypeError, ValueError, RecursionError) as error:
            raise ToolError(f"The state cannot keep {key!r}: {error}. Give it plain JSON.") from error
        if len(canonical({**self._values, key: kept})) > MAX_STATE_CHARS:
            raise ToolError(
                f"The state would have more than {MAX_STATE_CHARS:,} characters; keep large things elsewhere."
            )
        self._values[key] = self._changes[key] = kept

    def __delitem__(self, key: str) -> None:
        self._check(key)
        del self._values[key]
        self._changes[key] = _GONE

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def _check(self, key: str) -> None:
        if not self._writable:
            raise ToolError("This run is not of a routine: there is no state to keep anything in.")
        if not isinstance(key, str):
            raise ToolError(f"A key of the state is text, not {type(key).__name__}.")

    @property
    def writable(self) -> bool:
        """Whether the run is of a routine."""
        return self._writable

    @property
    def changed(self) -> bool:
        """Whether there is anything to write down."""
        return bool(self._changes)

    def merged_into(self, before: Mapping[str, Any] | None) -> dict[str, Any]:
        """These changes after earlier ones: `set`, a mapping, and `gone`, a list of keys."""
        said = before or {}
        gone = {key for key, value in self._changes.items() if value is _GONE}
        kept = {**said.get("set", {}), **self._changes}
        return {
            "set": {key: value for key, value in kept.items() if key not in gone},
            "gone": sorted(gone.union(said.get("gone", ())) - (self._changes.keys() - gone)),
        }

    def applied_to(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """These values with the changes: key by key, so that calls of one turn do not undo each other's."""
        return {key: value for key, value in {**values, **self._changes}.items() if value is not _GONE}
