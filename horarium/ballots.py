"""Whose words they are, verified where they are written down or acted on, whatever the caller says of them.

Whoever reaches Temporal's port can ask for our activities with a payload of his own. So each verifies for itself, and
only what was verified is recorded as proven. A proof has to be in time when it is recorded; from then on the ledger
says so, and the effect may come later than the proof's end.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from horarium.contract import Reassignment, Resolution
from horarium.errors import ApprovalNotFound, HorariumError, ProofInvalid
from horarium.ledger.approvals import Approvals
from horarium.ledger.reassignments import handed_over
from horarium.proof import KeyRing
from horarium.protocol import Ballot


class Witness:
    """What one process knows of who said what."""

    def __init__(self, approvals: Approvals, keys: KeyRing, *, required: bool) -> None:
        """`required`: what is not proved does not count; else it counts as a claim."""
        self._approvals = approvals
        self._keys = keys
        self.required = required

    async def of_ballot(
        self, run: str, approval: str, ballot: Ballot, digest: str, arguments: dict[str, Any] | None = None
    ) -> Ballot:
        """The ballot with the key that proves it here, or with none.

        Args:
            digest: Of the call that it is to release, or to refuse.
            arguments: Those of that call, where they are at hand; else the ledger's.

        Raises:
            ProofInvalid: Proof is required, and this is none for exactly that; or those who decide now were named by
                somebody whose word does not count.
        """
        if self.required:
            await self._were_named(approval)
        try:
            key: str | None = await self._ballot_key(run, approval, ballot, digest, arguments)
        except HorariumError:
            if self.required:
                raise
            key = None
        return ballot.model_copy(update={"key": key})

    async def of_resolution(self, run: str, question: str, said: Resolution, at: datetime) -> str | None:
        """The key that proves who settled this question, or none.

        Raises:
            ProofInvalid: Proof is required, and this is none for exactly that.
        """
        try:
            if said.question != question:
                raise ProofInvalid("It answers another question.")
            recorded = await self._approvals.resolution_recorded_at(question, said)
            return self._keys.verify(run, said, max(at, datetime.now(UTC)), recorded_at=recorded)
        except HorariumError:
            if self.required:
                raise
            return None

    def of_reassignment(self, run: str, said: Reassignment, at: datetime) -> str | None:
        """The key that proves who handed an approval to others, or none.

        Raises:
            ProofInvalid: Proof is required, and this is none for exactly that.
        """
        try:
            return self._keys.verify(run, said, max(at, datetime.now(UTC)))
        except HorariumError:
            if self.required:
                raise
            return None

    async def _were_named(self, approval: str) -> None:
        """Verify, from the last one back, who handed an approval to those who decide now: a key may be revoked since.

        Each may do so because the one before named them; an administrator may without.
        """
        try:
            asked = await self._approvals.get(approval)
        except ApprovalNotFound:
            return
        for handed in reversed(handed_over(asked)):
            try:
                self._keys.verify(asked.run_id, handed.said, datetime.now(UTC), recorded_at=handed.at)
            except ProofInvalid as error:
                raise ProofInvalid(
                    f"{handed.said.by} handed {approval} to others, which does not count: {error.message}",
                    hint="Have an administrator name who decides.",
                ) from error
            if handed.said.as_admin:
                return

    async def _ballot_key(
        self, run: str, approval: str, ballot: Ballot, digest: str, arguments: dict[str, Any] | None
    ) -> str:
        # Whatever arguments the ballot brings: what counts is what would be done.
        said = ballot.decision.model_copy(update={"arguments": None})
        if said.approval != approval:
            raise ProofInvalid("It is about another approval.")
        at = max(ballot.at, datetime.now(UTC))
        if said.proof is None:
            return self._keys.verify(run, said, at)  # which says so
        recorded = await self._approvals.ballot_recorded_at(approval, ballot, digest)
        if said.verdict != "approve":
            return self._keys.verify(run, said, at, recorded_at=recorded)
        # Who was shown other arguments than these has released these only by giving them.
        if said.digest == digest and not ballot.edits:
            try:
                return self._keys.verify(run, said, at, recorded_at=recorded)
            except ProofInvalid as error:
                first = error
        else:
            first = None
        given = said.model_copy(update={"arguments": await self._given(approval, digest, arguments)})
        try:
            return self._keys.verify(run, given, at, recorded_at=recorded)
        except ProofInvalid as error:
            raise first or error from None

    async def _given(self, approval: str, digest: str, arguments: dict[str, Any] | None) -> dict[str, Any] | None:
        if arguments is not None:
            return arguments
        text = await self._approvals.arguments_of(approval, digest)
        found: dict[str, Any] | None = json.loads(text) if text is not None else None
        return found
