"""The inbox: what waits for people over all runs, and deciding on many at once.

What many approve at once is looked at twice: before a call that writes is released, a page lists every exact call.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, get_args
from urllib.parse import urlencode

from fastapi import Depends, Query, Request
from starlette.responses import Response

from horarium.client import Client
from horarium.contract import Text
from horarium.errors import ApprovalNotFound, HorariumError
from horarium.gateway.auth import Caller
from horarium.gateway.console.asked import KINDS, Asked, asked
from horarium.gateway.console.forms import Form, TheForm
from horarium.gateway.console.page import page
from horarium.gateway.console.questions import (
    BadAnswer,
    decided_words,
    read,
    reassigned_words,
    reassignment_of,
    written,
)
from horarium.gateway.console.routing import pages
from horarium.gateway.context import Approver, TheClient, Viewer
from horarium.gateway.problems import as_problem
from horarium.gateway.v1 import approvals
from horarium.gateway.v1.approvals import DecideMany, Outcome, QuestionStatus, ReassignBody
from horarium.gateway.v1.paging import Cursor, cursor_of, read_cursor
from horarium.ledger.approvals import ApprovalRecord, Approvals, QuestionKind
from horarium.people import is_among

ON_A_PAGE = 25
MOST_LOOKED_AT = 2_000  # questions, to find those that one person may decide
VERDICTS = ("approve", "reject")
REASSIGN = "reassign"
STATUSES: tuple[QuestionStatus, ...] = get_args(QuestionStatus)
router = pages()


@dataclass(frozen=True, slots=True)
class Filters:
    """What is looked for. `mine`: only what the reader may decide."""

    status: QuestionStatus = "pending"
    kind: QuestionKind | None = None
    agent: str | None = None
    tool: str | None = None
    text: str | None = None
    mine: bool = False

    @property
    def query(self) -> str:
        """As part of an address."""
        said = {"kind": self.kind, "agent": self.agent, "tool": self.tool, "q": self.text}
        said |= {"mine": "1" if self.mine else None, "status": None if self.status == "pending" else self.status}
        return urlencode({name: value for name, value in said.items() if value})


def _filters(
    status: Annotated[str, Query(max_length=20)] = "",
    kind: Annotated[str, Query(max_length=20)] = "",
    agent: Annotated[Text, Query(max_length=80)] = "",
    tool: Annotated[Text, Query(max_length=80)] = "",
    q: Annotated[Text, Query(max_length=200)] = "",
    mine: Annotated[str, Query(max_length=5)] = "",
) -> Filters:
    """A field that was left as it is comes as an empty text."""
    return Filters(
        status=next((known for known in STATUSES if known == status), "pending"),
        kind=next((known for known in KINDS if known == kind), None),
        agent=agent.strip() or None,
        tool=tool.strip() or None,
        text=q.strip() or None,
        mine=bool(mine),
    )


@router.get("/inbox")
async def inbox(
    request: Request,
    client: TheClient,
    caller: Viewer,
    filters: Annotated[Filters, Depends(_filters)],
    cursor: Cursor = None,
) -> Response:
    """What waits for people, newest first."""
    store = Approvals(client.require_ledger())
    place = read_cursor(cursor, datetime, str)
    found = await _found(store, caller, filters, (place[0], place[1]) if place is not None else None)
    questions = await asked(client, caller, found[:ON_A_PAGE])
    waiting = await store.count(tenant=caller.tenant)
    askers = await store.askers(tenant=caller.tenant, status=filters.status)
    following = found[ON_A_PAGE - 1] if len(found) > ON_A_PAGE else None
    return page(
        request,
        "inbox.html",
        title=f"({waiting:,}) Inbox" if waiting else "Inbox",
        waiting=waiting,
        questions=questions,
        choosable=Counter(one.shown.tool for one in questions if is_choosable(one)),
        filters=filters,
        kinds=KINDS,
        statuses=STATUSES,
        agents=sorted({agent for agent, _ in askers}),
        tools=sorted({tool for _, tool in askers}),
        next=_older(filters, following) if following is not None else None,
    )


@router.post("/inbox/decide")
async def decide_many(request: Request, form: TheForm, client: TheClient, caller: Approver) -> Response:
    """Approve, reject or reassign all that were chosen; each has its own outcome."""
    verdict = form["verdict"]
    chosen = _chosen(form)
    if verdict not in (*VERDICTS, REASSIGN):
        raise BadAnswer(f"Many are approved, rejected or reassigned, and not {verdict!r}.")
    if verdict != REASSIGN and form.get("to") is not None:  # Enter in that field presses the first button
        raise BadAnswer(
            "You wrote who decides instead.", hint="To let them decide, press Reassign; else leave it empty."
        )
    found = await asyncio.gather(*(_shown(client, caller, question) for question, _ in chosen))
    questions = await asked(client, caller, [record for record in found if record is not None])
    writes = any(one.shown.effect != "read" for one in questions)
    if verdict == "approve" and writes and "confirmed" not in form:
        return _confirm(request, form, questions, dict(chosen))
    if verdict == REASSIGN:
        bodies = [(one, reassignment_of(form, digest)) for one, digest in chosen]
        outcomes = await asyncio.gather(*(_reassigned(client, caller, one, body) for one, body in bodies))
        return _became(request, form, outcomes, questions)
    decisions = [
        {"approval": question, "digest": digest, "verdict": verdict, "comment": form.get("comment")}
        for question, digest in chosen
    ]
    decided = (await approvals.decide_many(read(DecideMany, decisions=decisions), client, caller)).data
    await asyncio.gather(*(written(client, one.decided) for one in decided if one.decided is not None))
    return _became(request, form, decided, questions)


def _became(request: Request, form: Form, outcomes: Sequence[Outcome], questions: Sequence[Asked]) -> Response:
    reassigned = form["verdict"] == REASSIGN
    return page(
        request,
        "outcomes.html",
        title="What became of them",
        outcomes=[_in_words(one, questions, reassigned=reassigned) for one in outcomes],
        back=form.get("back") or "/inbox",
    )


async def _reassigned(client: Client, caller: Caller, question: str, body: ReassignBody) -> Outcome:
    try:
        state = await approvals.reassign(question, body, client, caller)
    except HorariumError as error:
        problem = as_problem(error)
        return Outcome(approval=question, status=problem.status, problem=problem)
    return Outcome(approval=question, status=200, decided=state)


def is_choosable(question: Asked) -> bool:
    """Whether its reader may decide on it together with others."""
    return question.is_open and question.shown.kind == "approval" and question.why_not is None


def _confirm(request: Request, form: Form, questions: Sequence[Asked], digests: dict[str, str]) -> Response:
    """Every exact call, once more. What was changed since it was chosen is left out, and said."""
    same = [one for one in questions if one.is_open and one.shown.digest == digests[one.shown.id]]
    return page(
        request,
        "confirm.html",
        title=f"Approve {len(same)} calls?" if len(same) != 1 else "Approve 1 call?",
        questions=same,
        left_out=[one for one in questions if one not in same],
        comment=form.get("comment"),
        back=form.get("back") or "/inbox",
    )


def _chosen(form: Form) -> list[tuple[str, str]]:
    """Id and digest of each that was chosen, once."""
    pairs = (value.partition(" ") for value in form.all("chosen"))
    chosen = list({question: digest for question, _, digest in pairs}.items())
    if not chosen:
        raise BadAnswer("Nothing was chosen.", hint="Tick the boxes of what you decide on.")
    if len(chosen) > approvals.MOST_AT_ONCE:
        raise BadAnswer(f"At most {approvals.MOST_AT_ONCE} are decided on at once.")
    return chosen


async def _shown(client: Client, caller: Caller, question: str) -> ApprovalRecord | None:
    try:
        return await client.approval(question, tenant=caller.tenant)
    except ApprovalNotFound:
        return None  # deciding on it says so


def _in_words(outcome: Outcome, questions: Sequence[Asked], *, reassigned: bool) -> dict[str, str | None]:
    question = next((one for one in questions if one.shown.id == outcome.approval), None)
    problem = outcome.problem
    text = problem.detail if problem is not None else None
    status = "not done"
    if outcome.decided is not None:
        status = "reassigned" if reassigned else outcome.decided.approval.status
        text = reassigned_words(outcome.decided) if reassigned else decided_words(outcome.decided)
    return {
        "id": outcome.approval,
        "title": question.title if question is not None else outcome.approval,
        "arguments": question.shown.arguments if question is not None else None,
        "status": status,
        "text": text,
        "hint": problem.hint if problem is not None else None,
    }


async def _found(
    store: Approvals, caller: Caller, filters: Filters, before: tuple[datetime, str] | None
) -> list[ApprovalRecord]:
    """One page and one more, so that it is known whether there are older ones."""
    wanted = ON_A_PAGE + 1
    found: list[ApprovalRecord] = []
    step = 200 if filters.mine else wanted
    for _ in range(MOST_LOOKED_AT // step):
        some = await store.list(
            status=filters.status,
            tenant=caller.tenant,
            kind=filters.kind,
            agent=filters.agent,
            tool=filters.tool,
            text=filters.text,
            before=before,
            limit=step,
        )
        found += (one for one in some if not filters.mine or _is_mine(one, caller))
        if len(some) < step or len(found) >= wanted:
            break
        before = (some[-1].requested_at, some[-1].id)
    return found[:wanted]


def _is_mine(question: ApprovalRecord, caller: Caller) -> bool:
    is_asked = not question.approvers or is_among(caller.name, question.approvers)
    return is_asked and not is_among(caller.name, question.not_by)


def _older(filters: Filters, last: ApprovalRecord) -> str:
    cursor = urlencode({"cursor": cursor_of(last.requested_at.isoformat(), last.id)})
    return f"/inbox?{filters.query}&{cursor}" if filters.query else f"/inbox?{cursor}"
