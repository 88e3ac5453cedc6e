"""The inbox over HTTP: approvals, steps whose outcome nobody knows, and steps that are held.

Whoever calls decides, under the name of their key; the client signs for them where proof is required.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Path, Query
from pydantic import ConfigDict, Field, model_validator

from horarium.client import Client
from horarium.contract import (
    MAX_MESSAGE_CHARS,
    MAX_REASSIGNED_TO,
    ApprovalState,
    Decision,
    Name,
    Reassignment,
    Remember,
    ResolutionState,
    ResolutionVerdict,
    Text,
    Verdict,
)
from horarium.errors import Conflict, HorariumError
from horarium.gateway.auth import Caller
from horarium.gateway.context import Approver, TheClient, Viewer
from horarium.gateway.problems import Problem, as_problem
from horarium.gateway.results import in_words
from horarium.gateway.roles import Role
from horarium.gateway.v1.answers import errors
from horarium.gateway.v1.fields import Answer, Request, Time, Whole, page_end
from horarium.gateway.v1.paging import Cursor, Limit, Page, cursor_of, read_cursor
from horarium.ids import step_id
from horarium.ledger.approvals import ApprovalRecord, QuestionKind, VoteRecord
from horarium.ledger.reassignments import HandedOver, handed_over
from horarium.people import is_among

MOST_AT_ONCE = 100
router = APIRouter(prefix="/v1/approvals", tags=["approvals"])

ApprovalId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_]{1,40}$", description="Of a question in the inbox.")]
QuestionStatus = Literal["pending", "approved", "rejected", "answered", "expired", "withdrawn", "resolved"]
DIGEST = "sha256:9f2c4be1…"
EXAMPLE: dict[str, Any] = {
    "id": "apr_7Q2X…",
    "kind": "approval",
    "run": "run_01JD8M5Q0V7X3T2N9B6C4H1KZE",
    "agent": "log-triage",
    "step": "run_01JD8M5Q0V7X3T2N9B6C4H1KZE/0005",
    "tool": "open_ticket",
    "effect": "external",
    "digest": DIGEST,
    "arguments": '{"severity":"high","title":"cairo/cairo.h: No such file or directory"}',
    "status": "pending",
    "rule": "open_ticket",
    "approvers": ["maria"],
    "not_by": [],
    "required": 1,
    "requested_at": "2026-11-21T09:30:00Z",
    "text": "open_ticket waits for an approver (maria): approval apr_7Q2X….",
}


class QuestionView(Answer):
    """A question to people."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [EXAMPLE]})

    id: str
    kind: QuestionKind
    run: str
    agent: str
    path: str | None = Field(default=None, description="The agents from the topmost run down to this one's.")
    step: str = Field(description="The call, or the step, that it is about.")
    tool: str
    effect: str
    digest: str = Field(description="Send it back with the decision: it binds to these very arguments.")
    arguments: str = Field(description="The exact arguments, as canonical JSON.")
    text: str = Field(description="What is asked, in words.")
    status: str
    rule: str = Field(description="The rule of the agent's approval plan that asks.")
    approvers: list[str] = Field(description="Who may decide; empty: any approver.")
    not_by: list[str] = Field(description="Who may not: whoever started the run (four eyes).")
    required: int = Field(description="How many have to approve. One rejection rejects.")
    requested_by: str | None = None
    requested_at: Time
    expires_at: Time | None = None
    escalated_at: Time | None = None
    decided_at: Time | None = None
    decided_by: str | None = None
    decided_via: str | None = None
    verdict: str | None = None
    comment: str | None = None


class VoteView(Answer):
    """One person's word."""

    by: str
    verdict: str
    digest: str = Field(description="Of the arguments it was about.")
    at: Time
    via: str
    key: str | None = Field(default=None, description="The key that proved who it was. Null: the name is a claim.")
    comment: str | None = None


class EditView(Answer):
    """The arguments as a person changed them."""

    arguments: str = Field(description="Canonical JSON.")
    digest: str
    by: str
    at: Time


class ReassignmentView(Answer):
    """How an approval was handed to others."""

    by: str
    as_admin: bool = Field(description="Whether it was an administrator who was not among those who decided.")
    to: list[str] = Field(description="As it was said: people, and roles as `role:<name>`.")
    approvers: list[str] = Field(description="Who decided from then on.")
    at: Time
    key: str | None = Field(default=None, description="The key that proved who it was. Null: the name is a claim.")
    comment: str | None = None


class QuestionDetail(QuestionView):
    """A question, with who said what on it so far."""

    votes: list[VoteView] = Field(default=[])
    reassigned: list[ReassignmentView] = Field(default=[], description="Who handed it to whom, in order.")
    edit: EditView | None = Field(default=None, description="How a person changed the arguments last.")


class RememberBody(Request):
    """A standing grant that comes with an approval, where the plan lets a person give one."""

    scope: Literal["run", "thread", "agent"]
    lasts_seconds: Whole = Field(ge=1, le=366 * 24 * 3600, description="The plan has the longest.")
    bounds: dict[str, Any] = Field(
        default={}, description="JSON Schema keywords for each argument; empty: exactly the arguments that were shown."
    )


class DecideBody(Request):
    """A decision on what was shown."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"examples": [{"digest": DIGEST, "verdict": "approve", "comment": "Fine."}]},
    )

    digest: Text = Field(min_length=1, max_length=80, description="The digest that was shown.")
    verdict: Verdict
    comment: Text | None = Field(default=None, max_length=2_000)
    arguments: dict[str, Any] | None = Field(default=None, description="With approve: instead of those shown.")
    answer: Text | None = Field(
        default=None, max_length=MAX_MESSAGE_CHARS, description="With answer: what the model is told instead."
    )
    remember: RememberBody | None = None

    @model_validator(mode="after")
    def _fits_the_verdict(self) -> Self:
        if self.verdict != "approve" and (self.arguments is not None or self.remember is not None):
            raise ValueError("`arguments` and `remember` come with the verdict approve")
        if (self.verdict == "answer") != (self.answer is not None):
            raise ValueError("`answer` comes with the verdict answer")
        return self


class OneOfMany(DecideBody):
    """A decision on one question."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"examples": [{"approval": "apr_7Q2X", "digest": DIGEST, "verdict": "reject"}]},
    )

    approval: str = Field(pattern=r"^[A-Za-z0-9_]{1,40}$")


class DecideMany(Request):
    """Decisions on many questions. One that does not count stops no other."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [{"decisions": [{"approval": "apr_7Q2X", "digest": DIGEST, "verdict": "reject"}]}]
        },
    )

    decisions: list[OneOfMany] = Field(min_length=1, max_length=MOST_AT_ONCE)


class ReassignBody(Request):
    """Others who decide, in place of those who were asked."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"examples": [{"digest": DIGEST, "to": ["bruno"], "comment": "I am on leave."}]},
    )

    digest: Text = Field(min_length=1, max_length=80, description="The digest that was shown.")
    to: list[Annotated[Name, Field(min_length=1, max_length=200)]] = Field(
        min_length=1, max_length=MAX_REASSIGNED_TO, description="People, and roles as `role:<name>`."
    )
    comment: Text | None = Field(default=None, max_length=2_000, description="For those who decide from now on.")


class Outcome(Answer):
    """What became of one decision."""

    approval: str
    status: int = Field(description="As the answer to this decision alone would have had.")
    decided: ApprovalState | None = None
    problem: Problem | None = None


class Outcomes(Answer):
    """What became of each, in their order."""

    data: list[Outcome]


class ResolveQuestion(Request):
    """How to go on with what a question is about."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": [{"verdict": "retry"}]})

    verdict: ResolutionVerdict = Field(
        description="retry: do it (again). supply: `output` is its result. skip: leave it undone. fail: end the run."
    )
    output: Text | None = Field(default=None, max_length=MAX_MESSAGE_CHARS)
    comment: Text | None = Field(default=None, max_length=2_000)


@router.get("", operation_id="approvals_list", responses=errors())
async def listed(
    client: TheClient,
    caller: Viewer,
    status: Annotated[QuestionStatus | Literal["all"], Query()] = "pending",
    kind: QuestionKind | None = None,
    run: Annotated[Text | None, Query(max_length=200)] = None,
    agent: Annotated[Text | None, Query(max_length=80)] = None,
    tool: Annotated[Text | None, Query(max_length=80)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[QuestionView]:
    """The inbox over all runs, newest first: what waits for people, unless another status is asked for."""
    place = read_cursor(cursor, datetime, str)
    found = await client.approvals(
        status=None if status == "all" else status,
        tenant=caller.tenant,
        kind=kind,
        run=run,
        agent=agent,
        tool=tool,
        before=(place[0], place[1]) if place is not None else None,
        limit=limit + 1,
    )
    shown, following = page_end(found, limit, lambda one: cursor_of(one.requested_at.isoformat(), one.id))
    return Page(data=[QuestionView(**_fields(one)) for one in shown], next=following)


@router.post("/batch", operation_id="approvals_decide_many", responses=errors(413))
async def decide_many(body: DecideMany, client: TheClient, caller: Approver) -> Outcomes:
    """Decide on many, as the caller; each has its own outcome."""
    outcomes = await asyncio.gather(*(_outcome(client, caller, one) for one in body.decisions))
    return Outcomes(data=list(outcomes))


@router.get("/{approval}", operation_id="approvals_get", responses=errors(404))
async def get(approval: ApprovalId, client: TheClient, caller: Viewer) -> QuestionDetail:
    """One question: exactly what is asked, of whom, and who said what so far."""
    found = await client.approval(approval, tenant=caller.tenant)
    edit = await client.edit_of(approval)
    return QuestionDetail(
        **_fields(found),
        votes=[_vote(one) for one in await client.votes(approval)],
        reassigned=[_reassignment(one) for one in handed_over(found)],
        edit=EditView.model_validate(edit) if edit is not None else None,
    )


@router.post("/{approval}/decide", operation_id="approvals_decide", responses=errors(404, 409, 410, 413))
async def decide(approval: ApprovalId, body: DecideBody, client: TheClient, caller: Approver) -> ApprovalState:
    """Approve, reject, or answer, as the caller. The same decision twice is one; another one then is refused."""
    return await _decide(client, caller, approval, body)


@router.post("/{approval}/reassign", operation_id="approvals_reassign", responses=errors(404, 409, 410, 413))
async def reassign(approval: ApprovalId, body: ReassignBody, client: TheClient, caller: Approver) -> ApprovalState:
    """Let others decide, as the caller, who may decide on it or is an admin. Votes that were given stand."""
    found = await client.approval(approval, tenant=caller.tenant)
    if found.kind != "approval":
        raise Conflict(f"{approval} is no approval: whoever may approve its call resolves it.")
    return await client.reassign(
        found.run_id,
        Reassignment(
            approval=approval,
            digest=body.digest,
            to=tuple(body.to),
            by=caller.name,
            as_admin=caller.role >= Role.ADMIN and bool(found.approvers) and not is_among(caller.name, found.approvers),
            comment=body.comment,
        ),
    )


@router.post("/{approval}/resolve", operation_id="approvals_resolve", responses=errors(404, 409, 410, 413))
async def resolve(approval: ApprovalId, body: ResolveQuestion, client: TheClient, caller: Approver) -> ResolutionState:
    """Say how to go on with a held step or an unknown outcome, as the caller."""
    found = await client.approval(approval, tenant=caller.tenant)
    if found.kind == "approval":
        raise Conflict(f"{approval} is an approval: it is decided.", hint="Send it to …/decide.")
    return await client.run(found.run_id).resolve(
        step_id(found.run_id, found.guards),
        body.verdict,
        by=caller.name,
        output=body.output,
        comment=body.comment,
        question=found.id,
    )


async def _decide(client: Client, caller: Caller, approval: str, body: DecideBody) -> ApprovalState:
    found = await client.approval(approval, tenant=caller.tenant)
    if found.kind != "approval":
        raise Conflict(f"{approval} is no approval: it is resolved.", hint="Send it to …/resolve.")
    remember = body.remember
    return await client.decide(
        found.run_id,
        Decision(
            approval=approval,
            digest=body.digest,
            by=caller.name,
            verdict=body.verdict,
            comment=body.comment,
            arguments=body.arguments,
            answer=body.answer,
            remember=Remember(
                scope=remember.scope, lasts=timedelta(seconds=remember.lasts_seconds), bounds=remember.bounds
            )
            if remember is not None
            else None,
        ),
    )


async def _outcome(client: Client, caller: Caller, body: OneOfMany) -> Outcome:
    try:
        return Outcome(approval=body.approval, status=200, decided=await _decide(client, caller, body.approval, body))
    except HorariumError as error:
        problem = as_problem(error)
        return Outcome(approval=body.approval, status=problem.status, problem=problem)


def _vote(vote: VoteRecord) -> VoteView:
    return VoteView.model_validate(vote)


def _reassignment(handed: HandedOver) -> ReassignmentView:
    said = handed.said
    return ReassignmentView(
        by=said.by,
        as_admin=said.as_admin,
        to=list(said.to),
        approvers=list(handed.people),
        at=handed.at,
        key=handed.key,
        comment=said.comment,
    )


def _fields(record: ApprovalRecord) -> dict[str, Any]:
    same = (
        *("id", "kind", "agent", "path", "tool", "effect", "digest", "arguments", "status", "rule", "approvers"),
        *("not_by", "required", "requested_by", "requested_at", "expires_at", "escalated_at", "decided_at"),
        *("decided_by", "decided_via", "verdict", "comment"),
    )
    return {
        **{name: getattr(record, name) for name in same},
        "run": record.run_id,
        "step": step_id(record.run_id, record.guards),
        "text": record.text or in_words(record),
    }
