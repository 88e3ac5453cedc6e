"""A decision that is said again when its run has ended: whoever lost the answer is given it from the ledger.

The run itself answers a repeat as long as it is there. Edited arguments are not compared: their author is told who
decided, like everybody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from horarium.content import shorten
from horarium.contract import Approval, ApprovalState, ApprovalStatus, Decision, Reassignment, Verdict, Vote
from horarium.ids import step_id
from horarium.ledger.approvals import ApprovalRecord, VoteRecord
from horarium.people import same_person
from horarium.protocol import PREVIEW_CHARS


def said_before(
    said: Decision | Reassignment, found: ApprovalRecord, votes: Sequence[VoteRecord]
) -> ApprovalState | None:
    """The answer to a decision that this very person has made, and that counted; None: it was another one."""
    if isinstance(said, Reassignment) or said.arguments is not None or said.verdict != found.verdict:
        return None
    own = [vote for vote in votes if same_person(vote.by, said.by)]
    if not own or (own[-1].verdict, own[-1].digest) != (said.verdict, said.digest) or said.digest != found.digest:
        return None
    return ApprovalState(approval=_approval(found, votes), repeated=True)


def _approval(found: ApprovalRecord, votes: Sequence[VoteRecord]) -> Approval:
    given = (
        Vote(
            by=vote.by,
            verdict=cast("Verdict", vote.verdict),
            digest=vote.digest,
            at=vote.at,
            via=vote.via,
            key=vote.key,
            comment=vote.comment,
        )
        for vote in votes
    )
    return Approval(
        id=found.id,
        run=found.run_id,
        step=step_id(found.run_id, found.guards),
        tool=found.tool,
        effect=found.effect,
        digest=found.digest,
        preview=shorten(found.arguments, PREVIEW_CHARS),
        status=cast("ApprovalStatus", found.status),
        requested_at=found.requested_at,
        rule=found.rule,
        approvers=tuple(found.approvers),
        required=found.required,
        not_by=tuple(found.not_by),
        expires_at=found.expires_at,
        escalated=found.escalated_at is not None,
        reassigned=len(found.reassigned or ()),
        votes=tuple(given),
        decided_at=found.decided_at,
        decided_by=found.decided_by,
        comment=found.comment,
    )
