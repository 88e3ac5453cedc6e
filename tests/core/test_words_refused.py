"""A person's word that an activity does not take, because it is not proved: the question stays open, as it was."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from horarium.ids import approval_id, question_id, step_id
from tests.core.test_desk import NOON, decision, question
from tests.core.test_machine import Story, call, kinds, plan
from workflows import commands as cmd
from workflows import events as ev
from workflows.desk import ApprovalDesk


@pytest.fixture
def asked() -> Story:
    """A run that waits for people's word on one call; its step is number 3."""
    story = Story(plan(revision=1))
    story.turn(call("pay"))
    story(ev.Asked((3,)))
    return story


@pytest.mark.parametrize("verdict", ["reject", "answer"])
def test_a_refusal_that_was_not_taken_leaves_the_call_to_be_decided(asked: Story, verdict: Any) -> None:
    asked.decide(3, verdict)

    again = asked(ev.Refused((3,), ((3, "It carries no proof."),)))

    assert again == [cmd.AskAgain(approval_id(step_id("run_1", 3)), "It carries no proof.")]
    assert [item.kind for item in asked.machine.waiting_for()] == ["approval"]
    assert kinds(asked.decide(3, "approve")) == ["CallTool"]


def test_a_call_whose_rejection_was_not_taken_is_not_rejected_when_the_model_asks_again(asked: Story) -> None:
    asked.decide(3, "reject")
    asked(ev.Refused((3,), ((3, "It carries no proof."),)))
    asked.decide(3, "approve")
    asked.settle(3)

    assert kinds(asked.turn(call("pay"))) == ["AskPeople"]


def test_a_run_that_ends_withdraws_a_question_whose_refusal_was_not_taken(asked: Story) -> None:
    asked.decide(3, "reject")
    asked(ev.CancelRequested())

    again = asked(ev.Refused((3,), ((3, "It carries no proof."),)))

    assert kinds(again) == ["AskAgain", "SettleApprovals"]
    assert kinds(asked(ev.Refused((3,)))) == ["Close"]


@pytest.mark.parametrize("verdict", ["supply", "skip"])
def test_a_word_on_an_unknown_outcome_that_was_not_taken_leaves_the_same_question_open(
    asked: Story, verdict: Any
) -> None:
    asked.decide(3, "approve")
    asked.settle(3, "unknown")
    asked.resolve(3, verdict, output="Receipt 1")

    again = asked.settle(3, "refused", message="It carries no proof.")

    [inquiry] = again
    assert isinstance(inquiry, cmd.Inquire)
    assert (inquiry.question, inquiry.kind) == (question_id(step_id("run_1", 3), "unknown", 0), "unknown_outcome")
    assert [item.question for item in asked.machine.waiting_for()] == [inquiry.question]
    assert kinds(asked.resolve(3, "retry")) == ["SettleInquiry", "CallTool"]


def test_a_vote_that_could_not_be_recorded_is_taken_back_and_the_others_stand() -> None:
    desk = ApprovalDesk([question(required=4)])
    for minute, by in enumerate(("ann", "mallory", "bob")):
        desk.decide(decision(by=by), NOON + timedelta(minutes=minute))

    desk.retract("apr_1", "mallory")

    approval = desk.get("apr_1")
    assert approval is not None
    assert [vote.by for vote in approval.votes] == ["ann", "bob"]
    assert desk.decide(decision(by="cleo"), NOON).state.approval.status == "pending"
    taken = desk.decide(decision(by="dora"), NOON)
    assert (taken.state.approval.status, taken.state.approval.decided_by) == ("approved", "ann, bob, cleo, dora")
    assert [ballot.decision.by for ballot in taken.ballots] == ["ann", "bob", "cleo", "dora"]


def test_a_claim_that_is_proven_later_is_one_vote_with_its_key() -> None:
    desk = ApprovalDesk([question(required=2)])
    desk.decide(decision(), NOON)

    assert not desk.decide(decision(by=" Ann "), NOON + timedelta(minutes=1), key="key_1").state.repeated
    assert desk.decide(decision(), NOON + timedelta(minutes=2), key="key_2").state.repeated
    assert desk.decide(decision(), NOON + timedelta(minutes=2)).state.repeated

    approval = desk.get("apr_1")
    assert approval is not None
    assert [(vote.by, vote.key) for vote in approval.votes] == [(" Ann ", "key_1")]
    assert approval.status == "pending"
    taken = desk.decide(decision(by="bob"), NOON)
    assert [(ballot.decision.by, ballot.key) for ballot in taken.ballots] == [(" Ann ", "key_1"), ("bob", None)]
