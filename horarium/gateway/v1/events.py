"""The events of a run as they happen, as server-sent events.

Each event but the text has an id; with it as `Last-Event-ID` the stream goes on after that event, from any gateway, as
both come from the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import DBAPIError

from horarium.contract import Status
from horarium.errors import RunNotFound
from horarium.gateway.auth import Caller
from horarium.gateway.context import TheClient, Viewer
from horarium.gateway.story import Story, Told
from horarium.gateway.v1.answers import errors
from horarium.gateway.v1.fields import Answer, Time
from horarium.gateway.v1.paging import BadCursor
from horarium.gateway.v1.run_views import RunView, StepView, WaitingView, questions_in_words, run_view, step_view
from horarium.gateway.v1.runs import RunId
from horarium.gateway.watching import News, TheWatches, Watches
from horarium.ids import step_id

log = structlog.get_logger()

SILENCE = 15.0  # seconds without an event after which a comment is sent, so that nobody takes the line for dead
LONGEST = 600.0  # seconds; then its client comes again, and its key is looked at again
router = APIRouter(prefix="/v1/runs", tags=["runs"])

STREAM = """retry: 1000

id: 1-0-
event: status
data: {"run":"run_01JD8M…","status":"queued","at":"2026-11-21T09:29:55Z"}

id: 2-0-1c0
event: step.begun
data: {"run":"run_01JD8M…","step":{"id":"run_01JD8M…/0001","number":1,"kind":"model_call","status":"claimed"}}

event: text
data: {"step":"run_01JD8M…/0001","number":1,"offset":0,"delta":"The build"}

"""


class StatusEvent(Answer):
    """`status`: the run has this status now. What it waits for is said with its present status only."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={"examples": [{"run": "run_…", "status": "queued", "at": "2026-11-21T09:29:55Z"}]},
    )

    run: str
    status: Status
    at: Time
    waiting_for: list[WaitingView] = Field(default=[])


class StepEvent(Answer):
    """`step.begun`, `step.unknown`, `step.settled`: a step as it is now."""

    run: str
    step: StepView
    waiting_for: list[WaitingView] = Field(default=[], description="Of an approval that is open: the question.")


class TextEvent(Answer):
    """`text`: what the model has written, as it comes. Best effort; the settled step has the whole."""

    step: str
    number: int
    offset: int = Field(description="Where in the text of the step it belongs; 0 begins anew.")
    delta: str


EVENTS = (StatusEvent, StepEvent, TextEvent, RunView)  # what the data of one is
_NAMES = ("status", "step.begun", "step.unknown", "step.settled", "text", "end")


def _schema() -> dict[str, Any]:
    """Of one event, as those who read streams have it."""
    data = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in EVENTS]
    return {
        "type": "object",
        "description": "Of each event.",
        "required": ["event", "data"],
        "properties": {
            "event": {"enum": list(_NAMES)},
            "id": {"type": "string", "description": "For `Last-Event-ID`. Text has none."},
            "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": data}},
        },
    }


@router.get(
    "/{run}/events",
    operation_id="runs_events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events: `status`, `step.begun`, `step.unknown`, `step.settled`, `text`, and `end` with the "
            "run when it has ended; then the stream ends. Comments keep the line open.",
            "content": {"text/event-stream": {"schema": _schema(), "example": STREAM}},
        },
        204: {"description": "All was told up to the end: there is nothing more to come."},
        **errors(404, 429),
    },
)
async def events(
    run: RunId,
    client: TheClient,
    watches: TheWatches,
    caller: Viewer,
    last_event_id: Annotated[str | None, Header(max_length=20_000, description="Go on after this event.")] = None,
    # As long as an address may be, however it is written.
    after: Annotated[
        str | None, Query(max_length=5_000, description="As `Last-Event-ID`, which wins, and may be longer.")
    ] = None,
) -> Response:
    """Watch a run: everything that happened, then everything that happens, each thing once, to its end."""
    await client.run_record(run, tenant=caller.tenant)
    story = _story(last_event_id or after)
    if story.ended:
        return Response(status_code=204)
    watches.check_room(caller)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff"}
    return StreamingResponse(_stream(watches, run, story, caller), media_type="text/event-stream", headers=headers)


async def _stream(watches: Watches, run: str, story: Story, caller: Caller) -> AsyncIterator[str]:
    deadline = asyncio.get_running_loop().time() + LONGEST
    yield "retry: 1000\n\n"
    try:
        async with aclosing(watches.watch(run, story, caller, SILENCE)) as watching:
            async for news in watching:
                yield ": still here\n\n" if news is None else _event(news)
                if asyncio.get_running_loop().time() > deadline:
                    return
    except (DBAPIError, OSError, RunNotFound) as error:  # its client comes again, and goes on where this ends
        log.warning("gateway.stream_ended", run=run, error=type(error).__name__)


def _event(news: News) -> str:
    what = news.what
    if not isinstance(what, Told):
        named = step_id(what.step.run_id, what.step.number)
        return _frame("text", TextEvent(step=named, number=what.step.number, offset=what.offset, delta=what.delta))
    if what.status is not None:
        now = what.status.status == news.run.status == "requires_action"
        waiting = questions_in_words(news.questions) if now else []
        status = StatusEvent(run=news.run.id, status=what.status.status, at=what.status.at, waiting_for=waiting)
        return _frame(what.kind, status, what.place)
    if what.step is not None:
        mine = [one for one in news.questions if one.step == what.step.number and what.step.kind == "approval"]
        step = StepEvent(run=news.run.id, step=step_view(what.step), waiting_for=questions_in_words(mine))
        return _frame(what.kind, step, what.place)
    return _frame(what.kind, run_view(news.run), what.place)


def _frame(kind: str, data: BaseModel, place: str | None = None) -> str:
    # One line: JSON has no line ends, and U+2028 and its like end no line here.
    told = data.model_dump_json(exclude_defaults=False)
    return (f"id: {place}\n" if place is not None else "") + f"event: {kind}\ndata: {told}\n\n"


def _story(place: str | None) -> Story:
    if not place:
        return Story()
    story = Story.at(place)
    if story is None:
        raise BadCursor("That is no event of ours.", hint="Begin without one.")
    return story
