"""The approval desk: open questions of one run, and which decisions count.

Pure: time comes in, nothing goes out. The same checks serve the update, which can refuse before
history is written, and the signals, which cannot answer.
"""

from __future__ import annotations

from datetime import datetime

from horarium.contract import Approval, ApprovalState, Decision
from horarium.errors import ApprovalAlreadyDecided, ApprovalNotFound, Conflict, DigestMismatch

_VERDICT = {"approve": "approved", "reject": "rejected"}


class ApprovalDesk:
    """The approvals of a run, by id, in the order they were asked."""

    def __init__(self, approvals: list[Approval] | None = None) -> None:
        self._approvals = {approval.id: approval for approval in approvals or []}

    def open(self, approval: Approval) -> None:
        """Begin to accept decisions on a question; one that is open already stays as it is."""
        self._approvals.setdefault(approval.id, approval)

    def check(self, decision: Decision) -> Approval:
        """The approval that a decision is about, if the decision may count.

        Raises:
            ApprovalNotFound: The run never asked this.
            DigestMismatch: It was made on other arguments.
            ApprovalAlreadyDecided: The other verdict was there first; names who decided.
            Conflict: The question was withdrawn, or the decision has no verdict.
        """
        approval = self._approvals.get(decision.approval)
        if approval is None:
            raise ApprovalNotFound(
                f"This run has no approval {decision.approval!r}.", hint="See the open ones with the query 'approvals'."
            )
        if decision.digest != approval.digest:
            raise DigestMismatch(
                f"The decision on {approval.id} was made on other arguments ({decision.digest}) than those that wait "
                f"({approval.digest}).",
                hint="Look at the approval again and decide on what it shows now.",
            )
        if decision.verdict is None:
            raise Conflict("The decision has no verdict.", hint="Say approve or reject.")
        if approval.status == "withdrawn":
            raise Conflict(f"Approval {approval.id} was withdrawn: the run no longer waits for it.")
        if approval.status != "pending" and approval.status != _VERDICT[decision.verdict]:
            raise ApprovalAlreadyDecided(
                f"Approval {approval.id} was already {approval.status} by {approval.decided_by}."
            )
        return approval

    def decide(self, decision: Decision, at: datetime) -> ApprovalState:
        """Take a decision. The first that counts wins; the same again changes nothing.

        Raises:
            HorariumError: As `check`.
        """
        approval = self.check(decision)
        if approval.status != "pending":
            return ApprovalState(approval=approval, repeated=True)
        verdict = _VERDICT[decision.verdict or "reject"]
        decided = approval.model_copy(
            update={"status": verdict, "decided_at": at, "decided_by": decision.by, "comment": decision.comment}
        )
        self._approvals[approval.id] = decided
        return ApprovalState(approval=decided)

    def withdraw(self, approval_id: str, at: datetime) -> None:
        """The run no longer waits for this; late decisions are told so."""
        approval = self._approvals.get(approval_id)
        if approval is not None and approval.status == "pending":
            self._approvals[approval_id] = approval.model_copy(update={"status": "withdrawn", "decided_at": at})

    def all(self) -> list[Approval]:
        """Every approval, oldest first."""
        return list(self._approvals.values())

    def carried(self, keep: int = 20) -> list[Approval]:
        """What the next execution needs: all pending ones, and the latest decided ones for late decisions."""
        approvals = self.all()
        latest = {approval.id for approval in approvals[-keep:]}
        return [approval for approval in approvals if approval.status == "pending" or approval.id in latest]
