"""Operations of HTTP APIs as tools."""

from __future__ import annotations

from horarium.performing import Performer
from horarium.settings import Settings
from horarium.toolsets import OpenApiSource, PinnedTool


class OpenApiTools:
    """The HTTP APIs of this process's runs; one object for each process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def performer(self, pinned: PinnedTool, source: OpenApiSource) -> Performer:
        """What makes the request of one operation."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close every connection."""
