"""The tool `find_tools`, and which tools a turn shows: the few that fit the conversation."""

from __future__ import annotations

from horarium.performing import Performer


def find_tools_performer(run: str) -> Performer:
    """What answers `find_tools` in a run."""
    raise NotImplementedError
