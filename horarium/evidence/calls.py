"""Whether a call has the digest of its tool, schema and arguments, by the schemas that a file has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from horarium.content import call_digest, digest

Row = dict[str, Any]


class Calls:
    """The calls of one run.

    Schemas that were pinned when it began are those of the time. One from the catalogue is of today: it counts once
    one call fits it, and until then nobody can tell whether the call was changed, or the tool.
    """

    def __init__(self, run: Row) -> None:
        pinned = [tool["spec"] for tool in run["toolset"]["definition"]["tools"]] if run["toolset"] is not None else []
        self._schemas = {tool["name"]: _schema_digest(tool) for tool in [*run["tools"], *pinned]}
        self._certain = {tool["name"] for tool in pinned}
        for tool, arguments, wanted in _said(run):
            if self._is_of(tool, arguments, wanted):
                self._certain.add(tool)

    def fits(self, tool: str, arguments: str | None, wanted: str) -> bool | None:
        """Whether the digest is of this call; None: nobody can tell."""
        if not arguments or tool not in self._certain:
            return None
        return self._is_of(tool, arguments, wanted)

    def _is_of(self, tool: str, arguments: str | None, wanted: str) -> bool:
        schema = self._schemas.get(tool)
        return bool(schema and arguments and call_digest(tool, schema, json.loads(arguments)) == wanted)


def _said(run: Row) -> Iterator[tuple[str, str | None, str]]:
    """Everything that a digest in the run is of."""
    for step in run["steps"]:
        if step["kind"] in ("tool_call", "handoff"):
            yield step["name"], step["arguments"], step["input_digest"]
    for approval in run["approvals"]:
        for one in (approval, *approval["edits"]):
            yield approval["tool"], one["arguments"], one["digest"]


def _schema_digest(spec: Row) -> str:
    return digest({"name": spec["name"], "parameters": spec["parameters"]})
