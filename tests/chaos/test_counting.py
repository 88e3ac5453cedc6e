"""The counting of the chaos finds each thing that must not be: a chaos that finds nothing has looked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from horarium.audit import BEGINNING, AuditProblem, AuditReport
from horarium.ledger.approvals import ApprovalRecord
from horarium.ledger.journal import StepRecord
from tests.chaos.book import Book, Entry, Story
from tests.chaos.counting import Evidence, Findings, count

RUN, STEP, KEY = "run_1", "run_1/0003", "horarium/run_1/call_1.1"
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
DONE = Entry("post", "a", RUN, STEP, KEY, "approved", NOON.timestamp() + 1, approved=True)
DIGEST = "sha256:1"


def approval(**changes: object) -> ApprovalRecord:
    """The question about the one call."""
    texts = dict.fromkeys(("requested_by", "text", "expires_at", "escalated_at", "comment", "path"))
    row = ApprovalRecord(
        **texts,
        id="apr_1",
        kind="approval",
        run_id=RUN,
        tenant="default",
        agent="posts",
        step=2,
        guards=3,
        tool="post",
        effect="external",
        digest=DIGEST,
        arguments='{"ref":"a"}',
        rule="default",
        approvers=[],
        not_by=[],
        required=1,
        status="approved",
        requested_at=NOON,
        decided_at=NOON,
        decided_by="ann",
        decided_via="update",
        decided_digest=DIGEST,
        verdict="approve",
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def unknown(**changes: object) -> ApprovalRecord:
    """The question whether it happened, settled."""
    return approval(**{"id": "apr_2", "kind": "unknown_outcome", "status": "resolved", "verdict": "retry", **changes})


def step(**changes: object) -> StepRecord:
    """The one call."""
    nothing = dict.fromkeys(StepRecord.__slots__)
    zeros = dict.fromkeys(("failures", "permit", "input_tokens", "output_tokens", "cost_micro_usd"), 0)
    said = {"run_id": RUN, "number": 3, "kind": "tool_call", "name": "post", "status": "completed", "key": KEY}
    return StepRecord(**{**nothing, **zeros, **said, "effect": "external", "attempts": 1, **changes})  # type: ignore[arg-type]


def story() -> Story:
    """It was begun, done, and said so."""
    return Story(done=[DONE], begun=Counter({STEP: 1}), returned={STEP})


def evidence(*questions: ApprovalRecord, trail: AuditProblem | None = None, **changes: object) -> Evidence:
    """What the engine wrote about it."""
    rows = list(questions) or [approval()]
    kinds = {"approval": ("requested", "decided"), "unknown_outcome": ("opened", "resolved")}
    names = {"approval": "approval", "unknown_outcome": "question"}
    return Evidence(
        steps={STEP: step(**changes)},
        questions=rows,
        released={row.id: row.arguments for row in rows if row.kind == "approval"},
        trail=AuditReport(entries=2, head=BEGINNING, problem=trail),
        entries=Counter((f"{names[row.kind]}.{kind}", row.id) for row in rows for kind in kinds[row.kind]),
        told_unknown=set(),
    )


def found(told: Story, written: Evidence, answers: dict[str, set[tuple[str, str]]] | None = None) -> Findings:
    """What counting finds, where the run completed and was to post a."""
    return count(told, written, {RUN: {("post", "a")}}, answers or {})


def problems(findings: Findings) -> set[str]:
    """The names of the lists that are not empty."""
    lists = ("twice", "lost", "unapproved", "guessed", "unseen", "left", "divided", "trail")
    return {name for name in lists if getattr(findings, name)}


def test_where_all_went_well_nothing_is_found() -> None:
    assert problems(found(story(), evidence())) == set()


def _again(told: Story) -> None:
    told.done.append(DONE)
    told.begun[STEP] += 1


@pytest.mark.parametrize(
    ("happens", "expected"),
    [
        (_again, {"twice", "guessed"}),
        (lambda told: told.done.append(replace(DONE, key="another")), {"twice"}),
        (lambda told: told.done.clear(), {"lost"}),
        (lambda told: told.done.__setitem__(0, replace(DONE, approved=False)), {"unapproved"}),
        (lambda told: told.done.__setitem__(0, replace(DONE, released="pending")), {"unapproved"}),
        (lambda told: told.done.__setitem__(0, replace(DONE, at=DONE.at - 2)), {"unapproved"}),
        (lambda told: told.done.__setitem__(0, replace(DONE, ref="a~editor")), {"unapproved"}),
        (lambda told: told.returned.clear(), {"guessed"}),
    ],
    ids=["twice", "new-key", "lost", "not-approved", "not-recorded", "too-early", "other-arguments", "guessed"],
)
def test_what_must_not_happen_is_found(happens: Callable[[Story], None], expected: set[str]) -> None:
    told = story()

    happens(told)

    assert problems(found(told, evidence())) == expected


CUT = AuditProblem(line=1, flaw="changed", message="Line 1 was changed.")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (evidence(approval(status="rejected")), {"unapproved"}),
        (evidence(approval(status="withdrawn")), {"unapproved", "left"}),
        (evidence(status="unknown"), {"left"}),
        (evidence(approval(), unknown(status="pending", verdict=None)), {"left", "trail"}),
        (evidence(approval(), unknown(arguments='{"ref":"b"}')), {"unseen"}),
        (evidence(approval(), unknown(tool="pay")), {"unseen"}),
        (replace(evidence(), told_unknown={STEP}), {"unseen"}),
        (replace(evidence(), entries=Counter({("approval.requested", "apr_1"): 1})), {"trail"}),
        (evidence(trail=CUT), {"trail"}),
    ],
    ids=["rejected", "withdrawn", "unknown", "waits", "shown-wrong", "no-need", "not-asked", "not-in-trail", "cut"],
)
def test_what_must_not_be_written_is_found(written: Evidence, expected: set[str]) -> None:
    assert problems(found(story(), written)) == expected


def test_two_people_who_were_both_told_that_they_won_are_found() -> None:
    answers = {"apr_1": {("approved", DIGEST), ("rejected", DIGEST)}}

    assert problems(found(story(), evidence(), answers)) == {"divided"}


def test_a_call_that_a_person_had_done_again_is_no_guess() -> None:
    told = story()
    told.begun[STEP] += 1

    assert problems(found(told, evidence(approval(), unknown()))) == set()


def test_the_book_knows_whether_somebody_had_approved_these_arguments_before(tmp_path: Path) -> None:
    book = Book(tmp_path / "book.jsonl")
    line = '{"event": "done", "run": "r", "step": "s", "key": "k", "tool": "post", "ref": "b", "released": "approved"'
    book.approving("s", "a")
    with book.file.open("a") as file:
        file.write(line + ', "at": 1}\n')
    book.approving("s", "b")

    assert [entry.approved for entry in book.read().done] == [False]
    assert book.happened("s") == "post b: done"
