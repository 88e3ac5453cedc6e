"""The evidence of a run as a signed file, from a ledger and a project's keys."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from horarium.evidence.gathering import gathered
from horarium.evidence.keys import EvidenceKey
from horarium.evidence.sealing import seal
from horarium.ledger.database import Ledger
from horarium.ledger.evidence import RunEvidence
from horarium.ledger.toolworkers import own_version
from horarium.proof import KeyRing
from horarium.settings import Settings


async def exported(
    ledger: Ledger,
    settings: Settings,
    run: str,
    *,
    whole: bool = False,
    by: str | None = None,
    tenant: str | None = None,
) -> str:
    """The text of the file; of a run that is still open, so far.

    Args:
        whole: With outputs whole that were cut for the model.
        by: Who wants it; it is in the file.
        tenant: Whose the run has to be; None for anybody's.

    Raises:
        RunNotFound: There is none, or it is another tenant's.
        TooLarge: It does not fit into one file.
        ConfigError: There is no key to sign with.
    """
    key = await asyncio.to_thread(EvidenceKey.of, settings)
    keys = await asyncio.to_thread(KeyRing.of(settings).public_only().all)
    owner = await RunEvidence(ledger).tenant_of(run, tenant)
    body = await gathered(ledger, run, tenant=owner, whole=whole, keys=keys)
    made = {"at": datetime.now(UTC).isoformat(timespec="microseconds"), "by": by, "engine": own_version()}
    return await asyncio.to_thread(seal, body, made, key)
