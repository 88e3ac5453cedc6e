"""Who gave an order, proved by a signature and written down; where proof is required, no other order is obeyed."""

from __future__ import annotations

from datetime import UTC, datetime

from horarium.contract import RoutineOrder
from horarium.errors import HorariumError, ProofInvalid
from horarium.ledger.audit import AuditEntry, append, entry_named
from horarium.ledger.database import Ledger
from horarium.proof import KeyRing
from horarium.settings import Settings


class OrderProofs:
    """Verifies orders, and keeps the evidence."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self._settings = settings

    async def verify(self, order: RoutineOrder, order_id: str, execution: str, at: datetime) -> None:
        """See that whoever is said to give the order does, where that has to be proved. Safe to repeat.

        An event needs no proof, as it comes from services that only know that something happened. Whatever brings a
        proof has to bring a good one.

        Args:
            execution: Which of the workflows of this id gives it: a proof is good for one.
            at: When it was given.

        Raises:
            ProofInvalid: It is not proved, or its proof was used before.
        """
        if order.proof is None and (order.action == "fire" or not self._settings.approvals.require_proof):
            return
        try:
            key = KeyRing.of(self._settings).public_only().verify(order_id, order, at)
            await self._keep(order, order_id, execution, key)
        except HorariumError as error:
            await self._refused(order, order_id, execution, error)
            raise

    async def _keep(self, order: RoutineOrder, order_id: str, execution: str, key: str) -> None:
        nonce = order.proof.nonce if order.proof is not None else ""
        once = f"order:{key}:{nonce}"
        proof = order.proof.model_dump(mode="json") if order.proof is not None else None
        entry = AuditEntry(
            kind="routine.ordered",
            at=datetime.now(UTC),
            tenant=order.tenant,
            subject=order.routine,
            data=_said(order, order_id) | {"execution": execution, "key": key, "proof": proof},
            once=once,
        )
        async with self._ledger.write() as connection:
            await append(connection, entry)
            kept = await entry_named(connection, once)
        if kept is not None and kept.data.get("execution") != execution:
            raise ProofInvalid("Its proof was used by another order before.", hint="Give it again.")

    async def _refused(self, order: RoutineOrder, order_id: str, execution: str, error: HorariumError) -> None:
        proof = order.proof.model_dump(mode="json") if order.proof is not None else None
        entry = AuditEntry(
            kind="routine.refused",
            at=datetime.now(UTC),
            tenant=order.tenant,
            subject=order.routine,
            data=_said(order, order_id) | {"code": error.code, "reason": str(error), "proof": proof},
            once=f"refused:{execution}",
        )
        async with self._ledger.write() as connection:
            await append(connection, entry)


def _said(order: RoutineOrder, order_id: str) -> dict[str, str | None]:
    return {"order": order_id[:200], "action": order.action, "by": order.by}
