"""Reading the logs of this project, and nothing else: a path that leads out of `logs/` is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from horarium import ToolError, tool

LOGS = Path(__file__).resolve().parent.parent / "logs"
LINES_BEFORE = 2
LINES_AFTER = 4
MAX_PLACES = 5
MAX_LINE_CHARS = 300
_ERROR = re.compile(r"\b(fatal error|error|undefined reference|Traceback|FAILED|panic)\b")


@tool(effect="read")
def read_log(path: str) -> str:
    """Show the places of a log where something went wrong, with the lines around them.

    Args:
        path: The log's name, e.g. build.log.
    """
    file = (LOGS / path.removeprefix("logs/")).resolve()
    if not file.is_relative_to(LOGS) or not file.is_file():
        known = ", ".join(sorted(str(log.relative_to(LOGS)) for log in LOGS.rglob("*.log")))
        raise ToolError(f"There is no log {path!r}. There are: {known}.")
    lines = file.read_text("utf-8", errors="replace").splitlines()
    places = list(islice(_places(lines), MAX_PLACES))
    found = "\n…\n".join(_shown(lines, place) for place in places)
    return f"{path}, {len(lines)} lines.\n\n{found or 'Nothing in it looks like an error.'}"


def _places(lines: list[str]) -> Iterator[range]:
    shown_up_to = 0
    for number, line in enumerate(lines):
        if number >= shown_up_to and _ERROR.search(line):
            shown_up_to = min(number + LINES_AFTER + 1, len(lines))
            yield range(max(number - LINES_BEFORE, 0), shown_up_to)


def _shown(lines: list[str], place: range) -> str:
    return "\n".join(lines[number][:MAX_LINE_CHARS] for number in place)
