"""The client's toolboxes. They are the project's: no tenant has its own."""

from __future__ import annotations

from abc import ABC, abstractmethod

from horarium.ledger.database import Ledger
from horarium.ledger.toolboxes import DefaultVersion, Toolboxes, ToolboxVersion


class ToolboxClient(ABC):
    """The part of `Client` that is about toolboxes."""

    @abstractmethod
    def require_ledger(self) -> Ledger:
        """The ledger."""

    async def toolboxes(self) -> list[DefaultVersion]:
        """Which version of each toolbox counts, by name."""
        toolboxes = Toolboxes(self.require_ledger())
        return [await toolboxes.default(name) for name in await toolboxes.names()]

    async def toolbox(self, name: str, version: int | None = None) -> ToolboxVersion:
        """One version of a toolbox, or the one that counts.

        Raises:
            ToolboxNotFound: There is none. So for all below.
        """
        return await Toolboxes(self.require_ledger()).get(name, version)

    async def toolbox_default(self, name: str) -> DefaultVersion:
        """Which version of a toolbox counts, and where a rollback goes."""
        return await Toolboxes(self.require_ledger()).default(name)

    async def toolbox_versions(self, name: str) -> list[ToolboxVersion]:
        """Every version of a toolbox, the oldest first."""
        return await Toolboxes(self.require_ledger()).versions(name)

    async def promote_toolbox(self, name: str, version: int, *, by: str) -> DefaultVersion:
        """Let this version count from the next run on. Safe to repeat."""
        return await Toolboxes(self.require_ledger()).promote(name, version, by)

    async def rollback_toolbox(self, name: str, *, by: str) -> DefaultVersion:
        """Go back to the version that counted before the last promotion, once.

        Raises:
            Conflict: Nothing was promoted since the last rollback.
        """
        return await Toolboxes(self.require_ledger()).rollback(name, by)
