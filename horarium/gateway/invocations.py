"""Invocations: JSON to an agent, and JSON back, without a protocol of its own around it.

An invocation is a run, so one that was not waited for to its end is looked at as any other.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from horarium.content import clean_text, digest
from horarium.contract import OPEN_STATUSES, RunResult
from horarium.definitions import ENDPOINT_PREFIX
from horarium.errors import AgentNotFound, HorariumError, ThreadBusy
from horarium.gateway.context import Operator, TheClient, Viewer
from horarium.gateway.problems import problem
from horarium.gateway.responses.names import ResponseName
from horarium.gateway.responses.routes import declared
from horarium.gateway.responses.watching import wait
from horarium.gateway.v1.answers import errors
from horarium.ids import thread_id_for_session
from horarium.schemas import Miss, problems

SESSION = "x-agent-session-id"
RUN = "x-agent-invocation-id"
MOST_MISSES = 20  # that a caller is told of at once
_ANY_JSON = {"application/json": {"schema": {}, "example": {"city": "Salzburg"}}}
_HEADERS = {
    RUN: {"schema": {"type": "string"}, "description": "The run."},
    SESSION: {"schema": {"type": "string"}, "description": "As it was given."},
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The agent's answer.", "content": _ANY_JSON, "headers": _HEADERS},
    502: {**errors()[400], "description": "The run ended without an answer; `detail` says why."},
}


class NoJson(HorariumError):
    """A body that is no JSON."""

    code = "no_json"


class NotYet(BaseModel):
    """The answer of an invocation whose run goes on: it waits for people, or takes longer than a request may."""

    run: str = Field(description="Look at it: GET /v1/runs/{run}.")
    status: str


class InvocationSchema(BaseModel):
    """What goes in and what comes out."""

    input: dict[str, Any] | None = Field(description="JSON Schema. null: any JSON.")
    output: dict[str, Any] | None = Field(description="JSON Schema. null: JSON if the agent writes some, else a text.")


def _bound(request: Request) -> str:
    """The hosted agent, or the one in the path."""
    hosted: str | None = getattr(request.app.state, "agent", None)
    return hosted or str(request.path_params["agent_name"])


def invocations_router(path: str, label: str) -> APIRouter:
    """The one route, at a path; `label` ends its operation id."""
    router = APIRouter(tags=["invocations"], dependencies=declared(path))

    @router.post(
        path,
        operation_id=f"invocations_create{label}",
        responses={**_ANSWERS, 202: {"model": NotYet, "description": "It goes on."}, **errors(404, 409, 413)},
        openapi_extra={"requestBody": {"required": True, "content": _ANY_JSON}},
    )
    async def invoke(
        request: Request,
        client: TheClient,
        caller: Operator,
        name: Annotated[str, Depends(_bound)],
        session: Annotated[
            str | None,
            Header(alias=SESSION, min_length=1, max_length=200, description="The same is the same conversation."),
        ] = None,
        idempotency_key: Annotated[
            str | None,
            Header(alias="Idempotency-Key", min_length=1, max_length=180, description="The same is one run."),
        ] = None,
    ) -> Response:
        """Hand JSON to an agent, and get its answer: the JSON that it wrote, or its text as a JSON string."""
        if name.startswith(ENDPOINT_PREFIX):
            raise AgentNotFound(f"There is no agent {name!r}.")
        given = _read(await request.body())
        schema = (await client.agent(name)).agent.input_schema
        misses = problems(schema, given, MOST_MISSES) if schema is not None else ()
        if misses:
            return _unfit(misses)
        run = await client.start(
            name,
            clean_text(given if isinstance(given, str) else json.dumps(given, ensure_ascii=False))[0],
            key=f"invocations/{digest([name, session, idempotency_key])}" if idempotency_key else None,
            thread=thread_id_for_session(caller.tenant, name, session) if session else None,
            tenant=caller.tenant,
            requested_by=caller.name,
        )
        headers = {RUN: run.id, **({SESSION: session} if session else {})}
        part = await wait(client, ResponseName(run.id), gone=request.is_disconnected)
        if part.run.status in OPEN_STATUSES:
            # A question is there a moment before the run shows that it waits.
            waiting = NotYet(run=run.id, status="requires_action" if part.waits_for_answers else part.run.status)
            return JSONResponse(waiting.model_dump(), 202, headers=headers)
        return await _answered(await run.result(timedelta(seconds=10)), await run.output(), headers)

    @router.get(
        f"{path}/schema",
        operation_id=f"invocations_schema{label}",
        responses=errors(404),
    )
    async def schema(client: TheClient, caller: Viewer, name: Annotated[str, Depends(_bound)]) -> InvocationSchema:
        """What an agent is handed, and what it answers, as JSON Schemas."""
        if name.startswith(ENDPOINT_PREFIX):
            raise AgentNotFound(f"There is no agent {name!r}.")
        agent = (await client.agent(name)).agent
        return InvocationSchema(input=agent.input_schema, output=agent.output_schema)

    return router


def _unfit(misses: tuple[Miss, ...]) -> Response:
    return problem(
        422,
        "bad_input",
        f"The body does not fit the agent's input schema: {misses[0]}",
        hint="GET the same path with /schema at its end shows it.",
        errors=[{"where": ".".join(map(str, ("body", *miss.where))), "why": miss.why} for miss in misses],
    )


async def _answered(result: RunResult, output: str, headers: dict[str, str]) -> Response:
    if result.status != "completed":
        words = result.message or f"The run ended {result.status}."
        busy = result.reason == ThreadBusy.code  # another invocation of the session has not ended
        refused = problem(
            409 if busy else 502,
            result.reason or result.status,
            words,
            hint=f"See why: horarium runs show {result.run}",
        )
        refused.headers.update(headers)
        return refused
    return JSONResponse(_as_json(output), headers=headers)


def _as_json(output: str) -> Any:
    try:
        return json.loads(output, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return output


def _read(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise NoJson("The body is no JSON.", hint="Send any JSON value; text in quotes.") from error


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
