"""One question: all that is known of it, and the orders by which a person answers it.

What is not obeyed comes back with what was typed, on the page of its question.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import quote

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.responses import RedirectResponse, Response

from horarium.client import Client
from horarium.contract import ApprovalState
from horarium.errors import HorariumError
from horarium.gateway.auth import Caller
from horarium.gateway.bodies import check_depth
from horarium.gateway.console.asked import Typed, asked
from horarium.gateway.console.forms import Form, TheForm
from horarium.gateway.console.happenings import Happening, happenings
from horarium.gateway.console.page import page, said
from horarium.gateway.console.routing import pages
from horarium.gateway.context import Approver, TheClient, Viewer
from horarium.gateway.problems import status_of
from horarium.gateway.v1 import approvals
from horarium.gateway.v1.approvals import DecideBody, ReassignBody, ResolveQuestion
from horarium.ledger.approvals import ApprovalRecord
from horarium.ledger.audit import AuditTrail
from horarium.ledger.journal import Journal, StepRecord
from horarium.visible import one_line

MOST_HISTORY = 200  # entries of the audit trail
WRITTEN_WITHIN = timedelta(seconds=2)  # a run writes down what it has accepted
LOOK_EVERY = 0.03  # seconds
_RESOLVED = {
    "retry": "it is done (again)",
    "supply": "what you wrote is its result",
    "skip": "it is left undone, and the model is told",
    "fail": "the run ends",
}
B = TypeVar("B", bound=BaseModel)
router = pages()


class BadAnswer(HorariumError):
    """What was typed into a form cannot be sent."""

    code = "bad_answer"


@router.get("/inbox/{question}")
async def see(request: Request, question: str, client: TheClient, caller: Viewer) -> Response:
    """One question."""
    return await _page(request, client, caller, await client.approval(question, tenant=caller.tenant))


@router.get("/approvals/{question}")
async def from_message(question: str, _caller: Viewer) -> Response:
    """Where the messages to people lead."""
    return RedirectResponse(f"/inbox/{quote(question, safe='')}", 303)


@router.post("/inbox/{question}/decide")
async def decide(request: Request, question: str, form: TheForm, client: TheClient, caller: Approver) -> Response:
    """Approve, reject or answer."""
    found = await client.approval(question, tenant=caller.tenant)
    try:
        state = await approvals.decide(question, decision_of(form), client, caller)
    except HorariumError as error:
        return await _page(request, client, caller, found, form=form, problem=error)
    await written(client, state)
    return said(request, decided_words(state), back=form.get("back") or f"/inbox/{question}")


@router.post("/inbox/{question}/reassign")
async def reassign(request: Request, question: str, form: TheForm, client: TheClient, caller: Approver) -> Response:
    """Let others decide."""
    found = await client.approval(question, tenant=caller.tenant)
    try:
        state = await approvals.reassign(question, reassignment_of(form, form["digest"]), client, caller)
    except HorariumError as error:
        return await _page(request, client, caller, found, form=form, problem=error)
    return said(request, reassigned_words(state), back=form.get("back") or f"/inbox/{question}")


@router.post("/inbox/{question}/resolve")
async def resolve(request: Request, question: str, form: TheForm, client: TheClient, caller: Approver) -> Response:
    """Say what became of a step, or how to go on with it."""
    found = await client.approval(question, tenant=caller.tenant)
    try:
        body = read(ResolveQuestion, verdict=form["verdict"], output=form.get("output"), comment=form.get("comment"))
        state = await approvals.resolve(question, body, client, caller)
    except HorariumError as error:
        return await _page(request, client, caller, found, form=form, problem=error)
    await _until_settled(client, question)
    text = f"{found.tool} of {found.agent} is settled: {_RESOLVED[state.verdict]}."
    return said(request, text, back=form.get("back") or f"/inbox/{question}")


def decision_of(form: Form) -> DecideBody:
    """What a form says.

    Raises:
        BadAnswer: It cannot be sent so.
    """
    fields: dict[str, Any] = {"digest": form["digest"], "verdict": form["verdict"], "comment": form.get("comment")}
    if "arguments" in form:
        fields["arguments"] = arguments_of(form.get("arguments") or "")
    if fields["verdict"] == "answer":
        fields["answer"] = form.get("answer")
        if fields["answer"] is None:
            raise BadAnswer("The answer is empty.", hint="Write what the model is told instead of a result.")
    if fields["verdict"] == "approve" and form.get("remember") is not None:
        lasts = form["lasts"]
        whole = lasts.isdecimal() and len(lasts) < 10
        fields["remember"] = {"scope": form["remember"], "lasts_seconds": int(lasts) if whole else lasts}
    return read(DecideBody, **fields)


def reassignment_of(form: Form, digest: str) -> ReassignBody:
    """To whom a form hands what has this digest: names with commas, or one on each line.

    Raises:
        BadAnswer: It names nobody, or what cannot be a name.
    """
    names = [name for part in (form.get("to") or "").splitlines() for name in part.split(",")]
    to = [name.strip() for name in names if name.strip()]
    if not to:
        raise BadAnswer("It names nobody.", hint="Write who decides instead: bruno, role:finance")
    return read(ReassignBody, digest=digest, to=to, comment=form.get("comment"))


def arguments_of(text: str) -> dict[str, Any]:
    """Arguments as a person typed them.

    Raises:
        BadAnswer: They are no JSON object, or one with a name twice.
    """
    try:
        arguments = json.loads(text, object_pairs_hook=_no_name_twice)
        check_depth(arguments)  # deeper than the run itself can read is asked, and never answered
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadAnswer(f"The arguments are no JSON: {error.msg} at {where}.") from error
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"The arguments cannot be read: {error}.") from error
    if not isinstance(arguments, dict):
        raise BadAnswer("The arguments are no JSON object: they begin with { and end with }.")
    return arguments


def read(kind: type[B], **fields: Any) -> B:
    """A body of the REST routes, from a form.

    Raises:
        BadAnswer: It cannot be one.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadAnswer(f"{where or 'The form'}: {first['msg']}.") from None


def decided_words(state: ApprovalState) -> str:
    """What a decision came to."""
    approval = state.approval
    if approval.status == "pending":
        given = sum(vote.verdict == "approve" and vote.digest == approval.digest for vote in approval.votes)
        return f"Noted: {given} of {approval.required} approvals of {approval.tool}."
    before = "had been" if state.repeated else "is"
    return f"{approval.tool} {before} {approval.status}."


def reassigned_words(state: ApprovalState) -> str:
    """What a reassignment came to."""
    approval = state.approval
    people = ", ".join(map(one_line, approval.approvers))
    more = f" and {approval.more_approvers} more" if approval.more_approvers else ""
    return f"{people}{more} may decide on {approval.tool} now."


async def written(client: Client, state: ApprovalState) -> None:
    """Wait until the ledger says it as well: the run writes a decision down a moment after it has taken it."""
    if state.approval.status != "pending":
        await _until_settled(client, state.approval.id)


async def _until_settled(client: Client, question: str) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(WRITTEN_WITHIN.total_seconds()):
            while True:
                if (await client.approval(question)).status != "pending":
                    return
                await asyncio.sleep(LOOK_EVERY)


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


async def _page(
    request: Request,
    client: Client,
    caller: Caller,
    record: ApprovalRecord,
    *,
    form: Form | None = None,
    problem: HorariumError | None = None,
) -> Response:
    if problem is not None:  # somebody else may have answered it meanwhile
        record = await client.approval(record.id, tenant=caller.tenant)
    [question] = await asked(client, caller, [record])
    if form is not None:
        question = replace(question, typed=typed_in(form))
    return page(
        request,
        "question.html",
        200 if problem is None else status_of(problem),
        title=question.title,
        question=question,
        problem=problem,
        history=await _history(client, record),
        step=await _came_of_it(client, record) if record.status != "pending" else None,
        edit=await client.edit_of(record.id),
    )


def typed_in(form: Form) -> Typed:
    """What a form has, to show it again."""
    return Typed(**{field.name: form.get(field.name) for field in fields(Typed)})


async def _history(client: Client, record: ApprovalRecord) -> list[Happening]:
    trail = AuditTrail(client.require_ledger())
    entries = await trail.latest(tenant=record.tenant, run=record.run_id, subject=record.id, limit=MOST_HISTORY)
    return happenings(entries)


async def _came_of_it(client: Client, record: ApprovalRecord) -> StepRecord | None:
    """The step that was asked about, once it is more than a question."""
    steps = await Journal(client.require_ledger()).of_run(record.run_id, after=record.guards - 1, limit=1)
    return next((step for step in steps if step.number == record.guards), None)
