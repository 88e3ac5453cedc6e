"""The approval desk: open questions of one run, and which decisions count.

Pure: time comes in, nothing goes out. The same checks serve the update, which can refuse before
history is written, and the signals, which cannot answer.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from horarium.content import shorten
from horarium.contract import Approval, ApprovalState, ApprovalStatus, Decision, Reassignment, Verdict, Vote
from horarium.definitions import RememberRule
from horarium.edits import check_edit
from horarium.errors import (
    ApprovalAlreadyDecided,
    ApprovalExpired,
    ApprovalNotFound,
    ApprovalWithdrawn,
    Conflict,
    DigestMismatch,
    NotAnApprover,
    ReassignmentRefused,
)
from horarium.people import is_among, same_person
from horarium.protocol import Ballot, Call

_STATUS: dict[Verdict, ApprovalStatus] = {"approve": "approved", "reject": "rejected", "answer": "answered"}
_NOUN: dict[Verdict, str] = {"approve": "an approval", "reject": "a rejection", "answer": "an answer"}
CARRIED_COMMENT = 200
CARRIED_PREVIEWS = 12_000  # characters of all of them
LOOK_AGAIN = "Look at the approval again and decide on what it shows now."


class Question(BaseModel):
    """One approval, and what the desk needs besides what everybody is shown."""

    approval: Approval
    asked_digest: str
    remember: RememberRule | None = None
    escalates: bool = False  # when its time is over, unless it did before: then nobody is late yet
    ballots: tuple[Ballot, ...] = ()
    edited: Call | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """A decision that was taken: what stands now, and when that ends the question, all that counted for it."""

    state: ApprovalState
    ballots: tuple[Ballot, ...] = ()
    edited: Call | None = None


class ApprovalDesk:
    """The approvals of a run, by id, in the order they were asked."""

    def __init__(self, questions: list[Question] | None = None) -> None:
        self._questions = {question.approval.id: question for question in questions or []}

    def open(self, approval: Approval, remember: RememberRule | None = None, *, escalates: bool = False) -> None:
        """Begin to accept decisions on a question; one that is open already stays as it is."""
        question = Question(approval=approval, asked_digest=approval.digest, remember=remember, escalates=escalates)
        self._questions.setdefault(approval.id, question)

    def check(self, decision: Decision, at: datetime) -> Approval:
        """The approval that a decision is about, if the decision may count.

        Who is not listed where the list was cut may count: see `knows`. And while a question is escalated, whoever
        decides may: see `is_escalating`.

        Raises:
            ApprovalNotFound: The run never asked this.
            ApprovalExpired, ApprovalWithdrawn: Nobody is asked any more.
            ApprovalAlreadyDecided: Another verdict was there first; names who decided.
            DigestMismatch: It was made on other arguments.
            NotAnApprover: The plan lets others decide.
            ArgumentsRejected: Edited arguments hold what cannot be kept as it is.
            Conflict: The decision contradicts itself.
        """
        question = self._asked(decision.approval)
        _consistent(decision, question)
        approval = question.approval
        if approval.status != "pending":
            _check_ended(question, decision)
            return approval
        escalating = self.is_escalating(approval.id, at)
        if approval.expires_at is not None and at >= approval.expires_at and not escalating:
            raise _expired(approval)
        if decision.digest != approval.digest and not _repeats(question, decision):
            raise DigestMismatch(
                f"The decision on {approval.id} was made on other arguments ({decision.digest}) than those that wait "
                f"({approval.digest}).",
                hint=LOOK_AGAIN,
            )
        if not escalating:
            _may_decide(approval, decision.by)
        return approval

    def check_reassignment(self, said: Reassignment, at: datetime) -> Approval:
        """The approval that somebody hands to others, if that may count; who was named is not known here.

        Raises:
            ApprovalNotFound: The run never asked this.
            ApprovalExpired, ApprovalWithdrawn, ApprovalAlreadyDecided: Nobody is asked any more.
            DigestMismatch: Other arguments were shown.
            NotAnApprover: Others decide, and so say who does.
            ReassignmentRefused: It is being escalated.
        """
        question = self._asked(said.approval)
        approval = question.approval
        _is_pending(approval)
        if self.is_escalating(approval.id, at):
            raise ReassignmentRefused(f"Approval {approval.id} is being escalated.", hint="Try again in a moment.")
        if approval.expires_at is not None and at >= approval.expires_at:
            raise _expired(approval)
        if said.digest != approval.digest:
            raise DigestMismatch(f"What was shown of {approval.id} is not what waits.", hint=LOOK_AGAIN)
        _may_decide(approval, said.by, listed=not said.as_admin)
        return approval

    def reassign(
        self, said: Reassignment, people: tuple[str, ...], times: int, *, more: int = 0
    ) -> tuple[ApprovalState, bool]:
        """Others decide from now on; votes that were given stand, because whoever gave one is among them.

        Returns:
            What stands now, and whether it changed.

        Raises:
            ApprovalExpired, ApprovalWithdrawn, ApprovalAlreadyDecided: Nobody is asked any more.
        """
        approval = self._asked(said.approval).approval
        _is_pending(approval)
        if times <= approval.reassigned:
            return ApprovalState(approval=approval, repeated=True), False
        changed = {"approvers": people, "more_approvers": more, "reassigned": times, "reassigned_by": said.by}
        self._change(approval.id, changed)
        return ApprovalState(approval=self._asked(approval.id).approval), True

    def knows(self, approval_id: str, by: str) -> bool:
        """Whether `check` can tell if this person may decide; else the ledger has to be asked."""
        approval = self.get(approval_id)
        return approval is None or approval.more_approvers == 0 or is_among(by, approval.approvers)

    def is_escalating(self, approval_id: str, at: datetime) -> bool:
        """Whether others are about to be asked: nobody decided in time, and it is not known yet who may from now on."""
        question = self._questions.get(approval_id)
        if question is None or not question.escalates or question.approval.status != "pending":
            return False
        return question.approval.expires_at is not None and at >= question.approval.expires_at

    def decide(
        self,
        decision: Decision,
        at: datetime,
        *,
        via: Literal["update", "signal"] = "update",
        key: str | None = None,
        edited: Call | None = None,
    ) -> Taken:
        """Take a decision. The first that counts wins; the same again changes nothing.

        Args:
            key: The key that proved who decided.
            edited: The call with the person's arguments. Earlier approvals were of other arguments, so
                they no longer count.

        Raises:
            HorariumError: As `check`.
        """
        approval = self.check(decision, at)
        question = self._questions[approval.id]
        if self.is_escalating(approval.id, at):
            raise Conflict(f"Approval {approval.id} is being escalated.", hint="Decide again in a moment.")
        if approval.status != "pending" or (_repeats(question, decision) and not _proves(question, decision, key)):
            return Taken(ApprovalState(approval=approval, repeated=True))
        if _repeats(question, decision):  # what was a claim is proven now, and counts as that from here on
            question = self._forget(question, decision.by)
            approval = question.approval
        verdict = decision.verdict or "reject"
        kept = decision.model_copy(update={"arguments": None})
        edits = decision.arguments is not None
        ballots = (*question.ballots, Ballot(decision=kept, at=at, via=via, key=key, edits=edits))
        digest = edited.digest if edited else approval.digest
        vote = Vote(by=decision.by, verdict=verdict, digest=digest, at=at, via=via, key=key, comment=decision.comment)
        votes = (*approval.votes, vote)
        changed: dict[str, object] = {"votes": votes, "digest": digest}
        if digest != approval.digest:
            changed["edited_by"] = decision.by
            changed["preview"] = edited.preview if edited else approval.preview
            ballots = ballots[-1:]
        # Those who approved these arguments since they were last changed: only their ballots release the call.
        people = _people(ballots)
        ended = verdict != "approve" or len(people) >= approval.required
        if ended:
            changed |= {
                "status": _STATUS[verdict],
                "decided_at": at,
                "decided_by": ", ".join(people) if verdict == "approve" else decision.by,
                "comment": decision.comment,
            }
        decided = approval.model_copy(update=changed)
        call = edited or question.edited
        counted = ballots if verdict == "approve" else ballots[-1:]
        # A question that has ended needs its ballots no more, and an answer may be long.
        self._questions[approval.id] = question.model_copy(
            update={"approval": decided, "ballots": () if ended else ballots, "edited": call}
        )
        return Taken(ApprovalState(approval=decided), counted if ended else (), call)

    def retract(self, approval_id: str, by: str) -> None:
        """This person's vote could not be recorded, so it does not count."""
        question = self._questions.get(approval_id)
        if question is not None and question.approval.status == "pending":
            self._forget(question, by)

    def may_settle(self, approval_id: str, by: str) -> None:
        """Whether a person may say what became of the call that this approval released: whoever may release it.

        Raises:
            NotAnApprover: The plan lets others decide.
        """
        approval = self.get(approval_id)
        if approval is not None:
            _may_decide(approval, by)

    def withdraw(self, approval_id: str, at: datetime) -> None:
        """The run no longer waits for this; late decisions are told so."""
        self._end(approval_id, "withdrawn", at)

    def take_back(self, approval_id: str, at: datetime) -> None:
        """A decision came as the run stopped waiting: it released nothing.

        Raises:
            ApprovalWithdrawn: Always, so that whoever decided is told.
        """
        fresh = {"status": "withdrawn", "decided_at": at, "decided_by": None, "comment": None}
        self._change(approval_id, fresh)
        raise ApprovalWithdrawn(f"Approval {approval_id} was withdrawn: the run ended before the decision counted.")

    def expire(self, approval_id: str, at: datetime) -> None:
        """Nobody decided in time."""
        self._end(approval_id, "expired", at)

    def escalate(self, approval_id: str, people: tuple[str, ...], expires_at: datetime, *, more: int = 0) -> None:
        """These people, and `more`, may decide from now on, until then; votes that were given stand."""
        changed = {"approvers": people, "more_approvers": more, "expires_at": expires_at, "escalated": True}
        self._change(approval_id, changed)
        question = self._questions.get(approval_id)
        if question is not None:
            self._questions[approval_id] = question.model_copy(update={"escalates": False})

    def reopen(self, approval_id: str) -> None:
        """The effect's worker did not accept what was decided: ask again, from no votes."""
        question = self._questions.get(approval_id)
        if question is not None:
            # An edit that was made stays: its digest is what people are shown now.
            fresh = {"status": "pending", "decided_at": None, "decided_by": None, "comment": None, "votes": ()}
            approval = question.approval.model_copy(update=fresh)
            self._questions[approval_id] = question.model_copy(update={"approval": approval, "ballots": ()})

    def get(self, approval_id: str) -> Approval | None:
        """One approval, if it was ever asked."""
        question = self._questions.get(approval_id)
        return question.approval if question else None

    def all(self) -> list[Approval]:
        """Every approval, oldest first."""
        return [question.approval for question in self._questions.values()]

    def carried(self, keep: int = 20, also: Collection[str] = ()) -> list[Question]:
        """What the next execution needs: all pending ones, those of `also`, and the latest for late decisions."""
        questions = list(self._questions.values())
        ids = {question.approval.id for question in questions[-keep:]}.union(also)
        kept = [item for item in questions if item.approval.status == "pending" or item.approval.id in ids]
        return [_shortened(item, CARRIED_PREVIEWS // len(kept)) for item in kept]

    def _asked(self, approval_id: str) -> Question:
        question = self._questions.get(approval_id)
        if question is None:
            raise ApprovalNotFound(
                f"This run has no approval {approval_id!r}.", hint="See the open ones with the query 'approvals'."
            )
        return question

    def _end(self, approval_id: str, status: ApprovalStatus, at: datetime) -> None:
        approval = self.get(approval_id)
        if approval is not None and approval.status == "pending":
            self._change(approval_id, {"status": status, "decided_at": at})

    def _forget(self, question: Question, by: str) -> Question:
        """The question without the latest vote of this person."""
        approval = question.approval
        last = next((vote for vote in reversed(approval.votes) if same_person(vote.by, by)), None)
        votes = tuple(vote for vote in approval.votes if vote is not last)
        ballots = tuple(
            one for one in question.ballots if not (last and one.at == last.at and same_person(one.decision.by, by))
        )
        approval = approval.model_copy(update={"votes": votes})
        forgotten = question.model_copy(update={"approval": approval, "ballots": ballots})
        self._questions[approval.id] = forgotten
        return forgotten

    def _change(self, approval_id: str, changed: dict[str, object]) -> None:
        question = self._questions.get(approval_id)
        if question is not None:
            approval = question.approval.model_copy(update=changed)
            self._questions[approval_id] = question.model_copy(update={"approval": approval})


def _shortened(question: Question, preview: int) -> Question:
    """Long comments and whole arguments are in the ledger; what is carried stays small."""
    approval = question.approval
    votes = tuple(vote.model_copy(update={"comment": _cut(vote.comment)}) for vote in approval.votes)
    cut = {"votes": votes, "comment": _cut(approval.comment), "preview": shorten(approval.preview, preview)}
    ballots = tuple(_without_long_comment(ballot) for ballot in question.ballots)
    edited = question.edited.model_copy(update={"preview": ""}) if question.edited else None
    shown = approval.model_copy(update=cut)
    return question.model_copy(update={"approval": shown, "ballots": ballots, "edited": edited})


def _without_long_comment(ballot: Ballot) -> Ballot:
    """A comment that was signed stays whole: the effect's worker verifies it."""
    if ballot.decision.proof is not None:
        return ballot
    decision = ballot.decision.model_copy(update={"comment": _cut(ballot.decision.comment)})
    return ballot.model_copy(update={"decision": decision})


def _cut(comment: str | None) -> str | None:
    return None if comment is None else shorten(comment, CARRIED_COMMENT)


def _consistent(decision: Decision, question: Question) -> None:
    """Refuse what no approval could take, whatever its state."""
    if decision.verdict is None:
        raise Conflict("The decision has no verdict.", hint="Say approve, reject or answer.")
    if decision.verdict == "answer" and not decision.answer:
        raise Conflict("An answer needs a text.", hint="Give it in `answer`; the model is told it instead of a result.")
    for name, fits, value in (
        ("arguments", "approve", decision.arguments),
        ("remember", "approve", decision.remember),
        ("answer", "answer", decision.answer),
    ):
        if value is not None and decision.verdict != fits:
            raise Conflict(f"{_NOUN[decision.verdict].capitalize()} takes no `{name}`.", hint="Leave it out.")
    if decision.arguments is not None:
        check_edit(decision.arguments)  # here already: on its way to an activity, NaN would become null
    if decision.remember is not None:
        _may_remember(decision, question)


def _may_remember(decision: Decision, question: Question) -> None:
    asked, rule = decision.remember, question.remember
    if asked is None:
        return
    if rule is None:
        raise NotAnApprover(
            f"The approval plan lets nobody release {question.approval.tool!r} for longer than one call.",
            hint="Leave `remember` out, or give the rule a `remember`.",
        )
    if asked.scope not in rule.scopes or asked.lasts > rule.longest:
        raise NotAnApprover(
            f"The plan allows a standing grant for {', '.join(rule.scopes)}, for at most {rule.longest}; "
            f"this one is for {asked.scope}, for {asked.lasts}.",
            hint="Choose a narrower one.",
        )


def _check_ended(question: Question, decision: Decision) -> None:
    approval = question.approval
    _is_asked(approval)
    if decision.digest not in (question.asked_digest, approval.digest):
        raise DigestMismatch(f"The decision on {approval.id} was made on other arguments.", hint=LOOK_AGAIN)
    same = approval.status == _STATUS[decision.verdict or "reject"]
    # Somebody else's edit, or another answer, is another decision; the same person's again is a repeat.
    own_words = decision.arguments is not None or decision.answer is not None
    if not same or (own_words and not any(same_person(vote.by, decision.by) for vote in approval.votes)):
        raise ApprovalAlreadyDecided(f"Approval {approval.id} was already {approval.status} by {approval.decided_by}.")


def _is_asked(approval: Approval) -> None:
    if approval.status == "withdrawn":
        raise ApprovalWithdrawn(f"Approval {approval.id} was withdrawn: the run no longer waits for it.")
    if approval.status == "expired":
        raise _expired(approval)


def _is_pending(approval: Approval) -> None:
    _is_asked(approval)
    if approval.status != "pending":
        raise ApprovalAlreadyDecided(f"Approval {approval.id} was already {approval.status} by {approval.decided_by}.")


def _expired(approval: Approval) -> ApprovalExpired:
    when = f" at {approval.expires_at:%Y-%m-%d %H:%M:%S} UTC" if approval.expires_at else ""
    return ApprovalExpired(f"Approval {approval.id} expired{when}: nobody had decided.")


def _may_decide(approval: Approval, by: str, *, listed: bool = True) -> None:
    if is_among(by, approval.not_by):
        raise NotAnApprover(
            f"{by} started this run; its approval plan wants a second pair of eyes.",
            hint="Somebody else has to decide.",
        )
    if listed and approval.approvers and approval.more_approvers == 0 and not is_among(by, approval.approvers):
        raise NotAnApprover(f"{by} may not decide this.", hint=f"These may: {', '.join(approval.approvers[:10])}.")


def _repeats(question: Question, decision: Decision) -> bool:
    """Whether this person has said exactly this before, on a question that still waits for others."""
    last = next((vote for vote in reversed(question.approval.votes) if same_person(vote.by, decision.by)), None)
    if last is None or last.verdict != decision.verdict:
        return False
    if decision.arguments is not None:  # an edit changes the digest, so what was decided on is no longer what waits
        edited_by = question.approval.edited_by
        return edited_by is not None and same_person(edited_by, decision.by) and decision.digest != last.digest
    return last.digest == question.approval.digest and decision.digest == question.approval.digest


def _proves(question: Question, decision: Decision, key: str | None) -> bool:
    """Whether a repeat brings a proof for what was a claim."""
    last = next((vote for vote in reversed(question.approval.votes) if same_person(vote.by, decision.by)), None)
    return key is not None and decision.arguments is None and last is not None and last.key is None


def _people(ballots: tuple[Ballot, ...]) -> tuple[str, ...]:
    """The different people who gave these, by the names they gave."""
    found: list[str] = []
    for ballot in ballots:
        if not is_among(ballot.decision.by, found):
            found.append(ballot.decision.by)
    return tuple(found)
