"""Which decisions count: the desk's promises, one by one and then in any order."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horarium.contract import Approval, ApprovalState, Decision, Proof, Reassignment
from horarium.errors import (
    ApprovalAlreadyDecided,
    ApprovalExpired,
    ApprovalNotFound,
    ApprovalWithdrawn,
    ArgumentsRejected,
    Conflict,
    DigestMismatch,
    HorariumError,
    NotAnApprover,
    ReassignmentRefused,
)
from horarium.protocol import Call
from workflows.desk import ApprovalDesk, Question

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def question(id: str = "apr_1", digest: str = "sha256:one", **more: Any) -> Question:
    approval = Approval(
        id=id,
        run="run_1",
        step="run_1/0003",
        tool="pay",
        effect="external",
        digest=digest,
        preview='{"amount":7}',
        status="pending",
        requested_at=NOON,
        **more,
    )
    return Question(approval=approval, asked_digest=digest)


def decide(desk: ApprovalDesk, said: Decision, at: datetime = NOON) -> ApprovalState:
    return desk.decide(said, at).state


def decision(verdict: Any = "approve", *, by: str = "ann", id: str = "apr_1", digest: str = "sha256:one") -> Decision:
    return Decision(approval=id, digest=digest, by=by, verdict=verdict, comment=f"said {by}")


@pytest.fixture
def desk() -> ApprovalDesk:
    return ApprovalDesk([question()])


def test_the_first_decision_wins_and_is_kept_with_who_when_and_why(desk: ApprovalDesk) -> None:
    state = decide(desk, decision("reject", by="ann"), NOON)

    assert not state.repeated
    kept = desk.all()[0]
    assert (kept.status, kept.decided_by, kept.decided_at, kept.comment) == ("rejected", "ann", NOON, "said ann")
    assert state.approval == kept


@pytest.mark.parametrize("verdict", ["approve", "reject"])
def test_the_same_decision_again_changes_nothing_and_answers_the_same(desk: ApprovalDesk, verdict: str) -> None:
    first = decide(desk, decision(verdict, by="ann"), NOON)

    again = decide(desk, decision(verdict, by="bob"), NOON + timedelta(hours=1))

    assert again.repeated
    assert again.approval == first.approval
    assert desk.all() == [first.approval]


@pytest.mark.parametrize(("first", "second"), [("approve", "reject"), ("reject", "approve")])
def test_a_contradiction_is_refused_and_told_who_decided(desk: ApprovalDesk, first: str, second: str) -> None:
    stands = decide(desk, decision(first, by="ann"), NOON).approval

    with pytest.raises(ApprovalAlreadyDecided, match=f"already {stands.status} by ann"):
        decide(desk, decision(second, by="bob"), NOON)

    assert desk.all() == [stands]


def test_a_decision_on_other_arguments_does_not_count(desk: ApprovalDesk) -> None:
    with pytest.raises(DigestMismatch, match="sha256:two"):
        decide(desk, decision(digest="sha256:two"), NOON)

    assert desk.all() == [question().approval]


def test_a_decision_on_other_arguments_does_not_count_as_a_repeat_either(desk: ApprovalDesk) -> None:
    decide(desk, decision(), NOON)

    with pytest.raises(DigestMismatch):
        decide(desk, decision(digest="sha256:two"), NOON)


def test_an_approval_that_the_run_never_asked_for_is_not_found(desk: ApprovalDesk) -> None:
    with pytest.raises(ApprovalNotFound, match="apr_9"):
        decide(desk, decision(id="apr_9"), NOON)


def test_a_decision_without_a_verdict_is_refused(desk: ApprovalDesk) -> None:
    with pytest.raises(Conflict, match="no verdict"):
        decide(desk, decision(None), NOON)

    assert desk.all()[0].status == "pending"


@pytest.mark.parametrize("verdict", ["approve", "reject"])
def test_a_late_decision_on_a_withdrawn_question_is_told_so(desk: ApprovalDesk, verdict: str) -> None:
    desk.withdraw("apr_1", NOON)

    with pytest.raises(Conflict, match="withdrawn"):
        decide(desk, decision(verdict), NOON)


def test_what_was_decided_is_not_withdrawn(desk: ApprovalDesk) -> None:
    stands = decide(desk, decision(), NOON).approval

    desk.withdraw("apr_1", NOON)
    desk.withdraw("apr_9", NOON)

    assert desk.all() == [stands]


def test_a_question_that_is_asked_again_keeps_its_decision(desk: ApprovalDesk) -> None:
    stands = decide(desk, decision(), NOON).approval

    desk.open(question().approval)

    assert desk.all() == [stands]


def test_every_pending_question_is_carried_and_the_latest_decided_ones() -> None:
    desk = ApprovalDesk([question(f"apr_{number}") for number in range(30)])
    for number in range(30):
        if number not in (0, 7):
            decide(desk, decision(id=f"apr_{number}"), NOON)

    carried = ApprovalDesk(desk.carried(keep=5))

    assert [approval.id for approval in carried.all()] == ["apr_0", "apr_7", *(f"apr_{n}" for n in range(25, 30))]
    assert decide(carried, decision(id="apr_29"), NOON).repeated
    assert not decide(carried, decision(id="apr_0"), NOON).repeated


# ---- escalation, many people, edits


def escalating(**more: Any) -> ApprovalDesk:
    asked = question(approvers=("ann",), expires_at=NOON + HOUR, **more)
    return ApprovalDesk([asked.model_copy(update={"escalates": True})])


def test_while_others_are_about_to_be_asked_nobody_is_late() -> None:
    desk = escalating()

    for by in ("ann", "eva"):
        assert desk.check(decision(by=by), NOON + HOUR).status == "pending"
        with pytest.raises(Conflict, match="being escalated"):
            decide(desk, decision(by=by), NOON + HOUR)
    desk.escalate("apr_1", ("ann", "eva"), NOON + 2 * HOUR)

    with pytest.raises(NotAnApprover):
        decide(desk, decision(by="mallory"), NOON + HOUR)
    with pytest.raises(ApprovalExpired):
        decide(desk, decision(by="eva"), NOON + 2 * HOUR)
    assert decide(desk, decision(by="eva"), NOON + HOUR).approval.decided_by == "eva"


def test_before_its_time_is_over_a_question_that_escalates_is_one_for_its_own_people() -> None:
    with pytest.raises(NotAnApprover):
        decide(escalating(), decision(by="eva"), NOON)


def test_who_is_not_in_a_list_that_was_cut_is_looked_for_elsewhere() -> None:
    desk = ApprovalDesk([question(approvers=("ann",), more_approvers=499, not_by=("bob",))])

    assert (desk.knows("apr_1", "Ann"), desk.knows("apr_1", "eva")) == (True, False)
    assert desk.check(decision(by="eva"), NOON).status == "pending"
    with pytest.raises(NotAnApprover):
        desk.check(decision(by="bob"), NOON)


def test_approvals_from_before_an_edit_do_not_count_when_the_arguments_are_changed_back() -> None:
    desk = ApprovalDesk([question(required=2)])
    decide(desk, decision(by="ann"))
    desk.decide(edit("bob", "sha256:one"), NOON, edited=call("sha256:two"))

    back = desk.decide(edit("cem", "sha256:two"), NOON, edited=call("sha256:one"))

    assert (back.state.approval.status, back.ballots) == ("pending", ())
    taken = desk.decide(decision(by="bob"), NOON)
    assert (taken.state.approval.status, taken.state.approval.decided_by) == ("approved", "cem, bob")
    assert [ballot.decision.by for ballot in taken.ballots] == ["cem", "bob"]


def test_after_an_edit_people_are_shown_what_they_approve() -> None:
    desk = ApprovalDesk([question(required=2)])

    desk.decide(edit("bob", "sha256:one"), NOON, edited=call("sha256:two"))

    assert desk.all()[0].preview == "sha256:two as JSON"


@pytest.mark.parametrize("value", [math.nan, "a\x00b", "\ud83d"])
def test_an_edit_that_could_not_be_kept_is_refused_before_it_goes_anywhere(desk: ApprovalDesk, value: Any) -> None:
    said = decision().model_copy(update={"arguments": {"amount": value}})

    with pytest.raises(ArgumentsRejected, match="'amount'"):
        desk.check(said, NOON)


def test_what_is_carried_of_long_comments_and_arguments_is_short_except_what_was_signed() -> None:
    proof = Proof(key="key_1", expires_at=NOON, nonce="n" * 8, signature="s")
    asked = question(required=9)
    long = asked.approval.model_copy(update={"preview": "p" * 500})
    asked = asked.model_copy(update={"approval": long, "edited": call("sha256:one")})
    desk = ApprovalDesk([asked, *(question(f"apr_{n}") for n in range(2, 100))])
    for by in ("ann", "bob"):
        said = decision(by=by).model_copy(update={"comment": "c" * 2_000, "proof": proof if by == "bob" else None})
        desk.decide(said, NOON)

    first = desk.carried()[0]

    assert [len(ballot.decision.comment or "") for ballot in first.ballots] == [200, 2_000]
    assert len(first.approval.preview) == 12_000 // 99
    assert first.edited is not None
    assert first.edited.preview == ""


def edit(by: str, digest: str) -> Decision:
    return decision(by=by, digest=digest).model_copy(update={"arguments": {"amount": 1}})


def call(digest: str) -> Call:
    return Call(id="c", tool="pay", digest=digest, key="k", source="run_1/0001", preview=f"{digest} as JSON")


_decisions = st.lists(
    st.tuples(
        st.sampled_from(["approve", "reject", None]),
        st.sampled_from(["ann", "bob", "cem"]),
        st.sampled_from(["apr_1", "apr_2", "apr_9"]),
        st.sampled_from(["sha256:one", "sha256:two"]),
        st.booleans(),
    ),
    max_size=25,
)


@given(_decisions, st.lists(st.sampled_from(["apr_1", "apr_2"]), max_size=3))
def test_in_any_order_of_decisions_each_question_has_one_answer_that_never_changes(
    decisions: list[tuple[Any, str, str, str, bool]], withdrawn: list[str]
) -> None:
    desk = ApprovalDesk([question("apr_1"), question("apr_2")])
    answers: dict[str, Approval] = {}
    for at, (verdict, by, id, digest, carry) in enumerate(decisions):
        if carry:
            desk = ApprovalDesk([Question.model_validate(a.model_dump(mode="json")) for a in desk.carried()])
        if at == len(decisions) // 2:
            for one in withdrawn:
                desk.withdraw(one, NOON)
        try:
            state = decide(desk, decision(verdict, by=by, id=id, digest=digest), NOON)
        except HorariumError:
            pass
        else:
            assert state.repeated == (id in answers)
            assert answers.setdefault(id, state.approval) == state.approval
            assert digest == "sha256:one"
    for approval in desk.all():
        if approval.id in answers:
            assert approval == answers[approval.id]
        else:
            assert approval.status == ("withdrawn" if approval.id in withdrawn and decisions else "pending")


# ---- handed to others


def handing(by: str = "ann", *to: str, digest: str = "sha256:one", **more: Any) -> Reassignment:
    return Reassignment(approval="apr_1", digest=digest, to=to or ("bruno",), by=by, **more)


def test_others_decide_from_now_on_and_the_same_again_changes_nothing() -> None:
    desk = ApprovalDesk([question(approvers=("ann",), required=2, expires_at=NOON + HOUR)])

    assert desk.check_reassignment(handing(), NOON).id == "apr_1"
    state, changed = desk.reassign(handing(), ("bruno", "ben"), 1, more=3)
    again, changed_again = desk.reassign(handing(), ("bruno", "ben"), 1, more=3)

    assert (changed, changed_again, again.repeated) == (True, False, True)
    kept = ApprovalDesk([Question.model_validate(one.model_dump(mode="json")) for one in desk.carried()]).all()[0]
    assert kept == state.approval
    assert (kept.approvers, kept.more_approvers, kept.reassigned, kept.reassigned_by) == (("bruno", "ben"), 3, 1, "ann")
    assert (kept.required, kept.expires_at, kept.digest) == (2, NOON + HOUR, "sha256:one")


@pytest.mark.parametrize(
    ("said", "at", "error"),
    [
        (handing("eve"), NOON, NotAnApprover),
        (handing("zoe"), NOON, NotAnApprover),
        (handing("zoe", as_admin=True), NOON, NotAnApprover),
        (handing(digest="sha256:two"), NOON, DigestMismatch),
        (handing(), NOON + HOUR, ApprovalExpired),
        (handing().model_copy(update={"approval": "apr_9"}), NOON, ApprovalNotFound),
    ],
)
def test_a_reassignment_that_does_not_count_says_why(said: Reassignment, at: datetime, error: type[Exception]) -> None:
    desk = ApprovalDesk([question(approvers=("ann",), not_by=("zoe",), expires_at=NOON + HOUR)])

    with pytest.raises(error):
        desk.check_reassignment(said, at)
    assert desk.check_reassignment(handing("eve", as_admin=True), NOON).id == "apr_1"


def test_what_has_ended_or_is_being_escalated_is_handed_to_nobody() -> None:
    rule: dict[str, Any] = {"approvers": ("ann",), "expires_at": NOON + HOUR}
    for end, error in (
        (lambda desk: decide(desk, decision("reject")), ApprovalAlreadyDecided),
        (lambda desk: desk.withdraw("apr_1", NOON), ApprovalWithdrawn),
        (lambda desk: desk.expire("apr_1", NOON), ApprovalExpired),
    ):
        desk = ApprovalDesk([question(**rule)])
        end(desk)
        with pytest.raises(error):
            desk.check_reassignment(handing(), NOON)
        with pytest.raises(error):  # also when it ended while it was being written down
            desk.reassign(handing(), ("bruno",), 1)

    escalating = ApprovalDesk([question(**rule).model_copy(update={"escalates": True})])
    with pytest.raises(ReassignmentRefused, match="being escalated"):
        escalating.check_reassignment(handing(), NOON + HOUR)
    escalating.escalate("apr_1", ("ann", "bea"), NOON + 2 * HOUR)
    assert escalating.check_reassignment(handing("bea"), NOON + HOUR).approvers == ("ann", "bea")
