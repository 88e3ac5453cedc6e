"""The page behind a link from a message: one approval, for one person, to decide on once.

Looking changes nothing, however often, because whatever scans mail follows links. The token is in the address of the
page alone: it is in no log, no referrer, and in nothing that the page loads.
"""

from __future__ import annotations

from dataclasses import replace

from fastapi import Request
from starlette.responses import Response

from horarium.client import Client
from horarium.contract import Verdict
from horarium.errors import HorariumError
from horarium.gateway.auth import Caller
from horarium.gateway.console.asked import NOTHING_TYPED, Asked, Typed, asked
from horarium.gateway.console.forms import TheForm
from horarium.gateway.console.page import page, said
from horarium.gateway.console.questions import BadAnswer, decided_words, typed_in, written
from horarium.gateway.console.routing import pages
from horarium.gateway.context import TheClient, TheSettings
from horarium.gateway.problems import status_of
from horarium.links import Links, LinkView
from horarium.settings import Settings

VERDICTS: tuple[Verdict, ...] = ("approve", "reject", "answer")
# The token is in the path, so no request may name more than the host it came from. With `no-referrer` a browser would
# not say its Origin with the form either.
REFERRER = "strict-origin"
router = pages()


@router.api_route("/approve/{token}", methods=["GET", "HEAD"])
async def see(request: Request, token: str, client: TheClient, settings: TheSettings) -> Response:
    """What the link is about."""
    return await _page(request, token, client, settings)


@router.post("/approve/{token}")
async def decide(request: Request, token: str, form: TheForm, client: TheClient, settings: TheSettings) -> Response:
    """Decide, once, as the person for whom the link was made."""
    links = Links.of(settings, client.require_ledger())
    try:
        verdict = next((one for one in VERDICTS if one == form["verdict"]), None)
        if verdict is None:
            raise BadAnswer("A link approves, rejects or answers.")
        answer = form.get("answer") if verdict == "answer" else None
        if verdict == "answer" and answer is None:
            raise BadAnswer("The answer is empty.", hint="Write what the model is told instead of a result.")
        view = await links.peek(token)
        async with links.consume(token, verdict, form.get("comment"), answer=answer) as decision:
            state = await client.decide(view.approval.run_id, decision)
    except HorariumError as error:
        return await _page(request, token, client, settings, problem=error, typed=typed_in(form))
    await written(client, state)
    return said(request, f"Thank you. {decided_words(state)}", back=f"/approve/{token}")


async def _page(
    request: Request,
    token: str,
    client: Client,
    settings: Settings,
    *,
    problem: HorariumError | None = None,
    typed: Typed = NOTHING_TYPED,
) -> Response:
    view: LinkView | None = None
    question: Asked | None = None
    try:
        view = await Links.of(settings, client.require_ledger()).peek(token)
        question = replace(await _question(client, view), typed=typed)
    except HorariumError as error:
        problem = problem or error
    answer_page = page(
        request,
        "link.html",
        200 if problem is None else status_of(problem),
        title=question.title if question is not None else "A link to an approval",
        view=view,
        question=question,
        problem=problem,
    )
    answer_page.headers["Referrer-Policy"] = REFERRER
    return answer_page


async def _question(client: Client, view: LinkView) -> Asked:
    """As the person of the link sees it; with the very arguments that the link is about."""
    record = await client.approval(view.approval.id)
    reader = Caller(name=view.approver, tenant=record.tenant, key=None)
    [found] = await asked(client, reader, [record])
    return replace(found, beside=replace(found.beside, shown=view.approval))
