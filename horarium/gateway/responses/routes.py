"""The routes of the Responses protocol, at three places: `/v1`, an agent's own path, and the root of a hosted agent."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from horarium.client import Client
from horarium.errors import Conflict
from horarium.gateway.context import Admin, Operator, TheClient, Viewer
from horarium.gateway.responses.errors import BadParameter, errors
from horarium.gateway.responses.names import ResponseName, read_response
from horarium.gateway.responses.record import AskedFor, Part, Reader, find
from horarium.gateway.responses.requests import CreateResponse
from horarium.gateway.responses.starting import respond
from horarium.gateway.responses.waiting import as_shown
from horarium.gateway.responses.watching import TheStreams, wait
from horarium.ledger.runs import Runs

CANCELLING = timedelta(seconds=10)  # for what is in flight to say what became of it
_EVENT: dict[str, Any] = {
    "type": "object",
    "description": "Of each event; they are those of the protocol, in its order.",
    "required": ["event", "data"],
    "properties": {
        "event": {"type": "string", "description": "As `type` in the data."},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {
                "type": "object",
                "required": ["type", "sequence_number"],
                "properties": {"type": {"type": "string"}, "sequence_number": {"type": "integer"}},
            },
        },
    },
}
STREAM = {"text/event-stream": {"schema": _EVENT}}
_ASKED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The response, or with `stream` its events.", "content": STREAM}
}


class ResponseObject(BaseModel):
    """A response; its fields are those of OpenAI's `Response`."""

    model_config = {"extra": "allow"}

    id: str = Field(description="`resp_` and what the run's id has after `run_`.")
    object: Literal["response"]
    created_at: int = Field(description="Unix time.")
    status: str = Field(description="queued, in_progress, completed, incomplete, failed or cancelled.")
    model: str = Field(description="The agent.")
    output: list[dict[str, Any]]


class Deleted(BaseModel):
    """What was deleted."""

    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class InputItems(BaseModel):
    """What a response was asked."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool = False


Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key", min_length=1, max_length=180, description="The same key is the same response, once."
    ),
]


def _bound(request: Request) -> str | None:
    """Whose responses these are: the hosted agent's, the one's in the path; None: any agent's."""
    hosted: str | None = getattr(request.app.state, "agent", None)
    named: str | None = request.path_params.get("agent_name")
    return hosted or named


def _named(agent_name: Annotated[str, Path(description="The agent.")]) -> str:
    return agent_name


def declared(path: str) -> list[Any]:
    """Dependencies that have the document say which parameters a path has."""
    return [Depends(_named)] if "{agent_name}" in path else []


Bound = Annotated[str | None, Depends(_bound)]


def responses_router(prefix: str, label: str) -> APIRouter:
    """The routes under a prefix; `label` ends the operation ids, which are unique."""
    router = APIRouter(prefix=prefix, tags=["responses"], dependencies=declared(prefix))

    @router.post(
        "/responses",
        operation_id=f"responses_create{label}",
        response_model=ResponseObject,
        responses={**_ASKED, **errors(404, 409, 413)},
    )
    async def create(
        request: Request,
        body: CreateResponse,
        client: TheClient,
        caller: Operator,
        of: Bound,
        streams: TheStreams,
        idempotency_key: Key = None,
    ) -> Response:
        """Ask an agent, and wait for its answer, stream it, or come back for it.

        The response is a run: it goes on whatever becomes of the request.
        """
        if body.stream:
            streams.check_room(caller)
        name = await respond(client, caller, body, agent=of, key=idempotency_key)
        if body.stream:
            return streamed(streams.stream(name, caller))
        gone = request.is_disconnected
        part = await (Reader(client, name).read() if body.background else wait(client, name, gone=gone))
        return JSONResponse(await as_shown(client, part))

    @router.get(
        "/responses/{response_id}",
        operation_id=f"responses_get{label}",
        response_model=ResponseObject,
        responses={**_ASKED, **errors(404)},
    )
    async def get(
        response_id: str,
        client: TheClient,
        caller: Viewer,
        of: Bound,
        streams: TheStreams,
        stream_it: Annotated[bool, Query(alias="stream", description="Its events instead.")] = False,
        starting_after: Annotated[
            int | None, Query(ge=0, description="With `stream`: the number of the last event that is known.")
        ] = None,
    ) -> Response:
        """A response as it is now, or its events from any place on: from any process, also of one that has ended."""
        if starting_after is not None and not stream_it:
            raise BadParameter("starting_after", "Only with 'stream'.")
        part = await find(client, read_response(response_id), tenant=caller.tenant, agent=of)
        if stream_it:
            streams.check_room(caller)
            return streamed(streams.stream(part.name, caller, after=-1 if starting_after is None else starting_after))
        return JSONResponse(await as_shown(client, part))

    @router.post(
        "/responses/{response_id}/cancel",
        operation_id=f"responses_cancel{label}",
        response_model=ResponseObject,
        responses=errors(404),
    )
    async def cancel(response_id: str, client: TheClient, caller: Operator, of: Bound) -> Response:
        """End its run now; one that has ended stays as it is."""
        part = await find(client, read_response(response_id), tenant=caller.tenant, agent=of)
        return JSONResponse(await as_shown(client, await cancelled(client, part)))

    @router.delete("/responses/{response_id}", operation_id=f"responses_delete{label}", responses=errors(404, 409))
    async def delete(response_id: str, client: TheClient, caller: Admin, of: Bound) -> Deleted:
        """Retrieve it never again; with the last response of a thread, all that was said in it is removed."""
        part = await find(client, read_response(response_id), tenant=caller.tenant, agent=of)
        if part.run.closed_at is None:
            raise Conflict("It has not ended.", hint="Cancel it first.")
        gone = part.asked_for.model_copy(update={"deleted": True})
        await Runs(client.require_ledger()).annotate(part.run.id, gone.as_metadata())
        if not part.asked_for.in_conversation:
            rest = await client.runs(thread=part.run.thread_id, limit=1_000)
            if all(AskedFor.of(run).deleted for run in rest):
                await client.delete_thread(part.run.thread_id, by=caller.name, tenant=caller.tenant)
        return Deleted(id=response_id)

    @router.get(
        "/responses/{response_id}/input_items", operation_id=f"responses_input_items{label}", responses=errors(404)
    )
    async def input_items(response_id: str, client: TheClient, caller: Viewer, of: Bound) -> InputItems:
        """What it was asked, as the agent was given it, and what else was sent to its run."""
        part = await find(client, read_response(response_id), tenant=caller.tenant, agent=of)
        items = await _asked(client, part)
        ids = [item["id"] for item in items]
        return InputItems(data=items, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None)

    return router


async def cancelled(client: Client, part: Part) -> Part:
    """Cancel a response's run, and wait a moment until it says that it has ended."""
    if part.run.closed_at is None:
        with contextlib.suppress(Conflict):  # it ended meanwhile
            await client.run(part.run.id).cancel()
        with contextlib.suppress(TimeoutError):
            await client.run(part.run.id).result(CANCELLING)
    return await Reader(client, part.name).read()


async def _asked(client: Client, part: Part) -> list[dict[str, Any]]:
    if part.name.after is not None:
        return []
    return [
        {
            "type": "message",
            "id": ResponseName(part.run.id).item("msg_in", message.seq),
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_text", "text": message.said}],
        }
        for message in await client.thread(part.run.thread_id)
        if message.run_id == part.run.id and message.role == "user"
    ]


def streamed(events: AsyncIterator[str]) -> StreamingResponse:
    """Server-sent events that nothing on the way keeps back."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)
