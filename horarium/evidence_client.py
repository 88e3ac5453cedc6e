"""The client's evidence: one signed file of a run, and the difference of two runs or ticks; from the ledger."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from horarium.errors import ConfigError
from horarium.evidence import sides
from horarium.evidence.exporting import exported
from horarium.evidence.keys import EvidenceKey
from horarium.ledger.database import Ledger
from horarium.settings import Settings
from horarium.tickdiff import Difference


class EvidenceClient(ABC):
    """The part of `Client` that is about evidence.

    `tenant`: whose a run or tick has to be, None for anybody's.
    """

    settings: Settings | None

    @abstractmethod
    def require_ledger(self) -> Ledger:
        """The ledger."""

    async def evidence(
        self, run_id: str, *, whole: bool = False, by: str | None = None, tenant: str | None = None
    ) -> str:
        """The signed evidence of a run, as the text of a file; of one that is still open, so far.

        Args:
            whole: With outputs whole that were cut for the model.
            by: Who wants it; it is in the file.

        Raises:
            RunNotFound: There is none, or it is another tenant's.
            TooLarge: It does not fit into one file.
            ConfigError: There is no key to sign with.
        """
        return await exported(self.require_ledger(), self._needed_settings(), run_id, whole=whole, by=by, tenant=tenant)

    async def evidence_key(self) -> EvidenceKey:
        """The project's key for evidence: whoever verifies pins its public part.

        Raises:
            ConfigError: It cannot be read or made.
        """
        return await asyncio.to_thread(EvidenceKey.of, self._needed_settings())

    async def diff_runs(self, before: str, after: str, *, tenant: str | None = None) -> Difference:
        """What is different between two runs.

        Raises:
            RunNotFound: There is none, or it is another tenant's.
        """
        return await sides.diff_runs(self.require_ledger(), before, after, tenant=tenant)

    async def diff_ticks(
        self, routine: str, before: str | None = None, after: str | None = None, *, tenant: str | None = None
    ) -> Difference:
        """What is different between two ticks of a routine, by default the last two that began.

        Args:
            before: Its id, or as much of it as is unique; None: the last that began before `after`.
            after: As `before`; None: the last that began.

        Raises:
            RoutineNotFound: There is no such tick of this routine.
            NotFound: It has no two such ticks yet.
        """
        return await sides.diff_ticks(self.require_ledger(), routine, before, after, tenant=tenant)

    def _needed_settings(self) -> Settings:
        if self.settings is None:
            raise ConfigError("This client has no settings, so no key for evidence.", hint="Use Client.connect(…).")
        return self.settings
