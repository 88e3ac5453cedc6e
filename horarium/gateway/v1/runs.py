"""Runs over HTTP: start, list, look at, talk to, end, and go on with."""

from __future__ import annotations

import asyncio
from datetime import datetime
from itertools import chain
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from horarium.client import Run
from horarium.contract import (
    MAX_FUNCTIONS,
    MAX_MESSAGE_CHARS,
    CallerFunction,
    ResolutionState,
    ResolutionVerdict,
    Status,
    Text,
)
from horarium.definitions import Limits
from horarium.errors import ConfigError, NotFound
from horarium.gateway.context import Approver, Operator, TheClient, Viewer
from horarium.gateway.v1.answers import errors
from horarium.gateway.v1.fields import Answer, Flag, Request, Whole, page_end
from horarium.gateway.v1.paging import Cursor, Limit, Page, cursor_of, read_cursor
from horarium.gateway.v1.run_views import (
    RunDetail,
    RunView,
    StepDetail,
    StepView,
    run_detail,
    run_view,
    step_detail,
    step_view,
)
from horarium.ids import RUN_ID, step_id
from horarium.ledger.journal import Journal
from horarium.memories import FeedbackVerdict

MAX_INPUT_CHARS = 500_000
MAX_TOOL_OUTPUT_CHARS = 4_000_000
router = APIRouter(prefix="/v1/runs", tags=["runs"])

RunId = Annotated[str, Path(pattern=RUN_ID.pattern, description="Of a run.")]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x20-\x7e]+$",
        description="The same key with the same request is the same run, however often it is sent.",
    ),
]
_Label = Annotated[Text, Field(max_length=64)]
_Value = Annotated[Text, Field(max_length=512)]
Metadata = Annotated[dict[_Label, _Value], Field(max_length=16, description="Stored with the run, and shown.")]


def _numbers(said: object) -> object:
    """A definition's file may have `"5"` for 5; in JSON each has its own."""
    for name, value in said.items() if isinstance(said, dict) else ():
        if isinstance(value, bool) or (isinstance(value, str) and name not in ("max_cost_usd", "wall_time")):
            raise ValueError(f"`{name}` is a number")
    return said


RunLimits = Annotated[Limits, BeforeValidator(_numbers)]


class CallBody(Request):
    """One call, made without a model, as the approval plan says."""

    tool: Text = Field(min_length=1, max_length=64, description="One of the agent's.")
    arguments: dict[str, Any] = Field(default={}, description="They have to fit the tool's schema; the run says.")


class FunctionBody(Request):
    """A tool that you carry out: when the model calls it, the run waits for `POST /v1/runs/{run}/tool-outputs`."""

    type: Literal["function"] = "function"
    name: Text = Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z_][a-zA-Z0-9_\-]{0,63}$")
    description: Text | None = Field(default=None, max_length=20_000, description="What the model is told of it.")
    parameters: dict[str, Any] | None = Field(default=None, description="JSON Schema of the arguments, an object.")
    strict: Flag | None = Field(default=None, description="Accepted; arguments always have to fit the parameters.")

    def as_function(self) -> CallerFunction:
        """As the engine has it."""
        given = {"parameters": self.parameters} if self.parameters else {}
        return CallerFunction(name=self.name, description=self.description or "", **given)


class StartRun(Request):
    """A run to start. Either it is asked something (`input`), or it is to make one call (`call`)."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [{"agent": "log-triage", "input": "Read build.log.", "metadata": {"build": "4711"}}]
        },
    )

    agent: Text = Field(min_length=1, max_length=80, description="Its name; with `call` also `toolbox:NAME`.")
    input: Text | None = Field(
        default=None,
        max_length=MAX_INPUT_CHARS,
        description="What is asked. Null: the last message of the thread is to be answered.",
    )
    call: CallBody | None = None
    thread: Text | None = Field(
        default=None, pattern=RUN_ID.pattern, description="The conversation to go on with. Null: a new one."
    )
    version: Whole | None = Field(default=None, ge=1, le=1_000_000, description="Of the agent. Null: the newest.")
    limits: RunLimits | None = Field(default=None, description="Instead of the agent's own.")
    metadata: Metadata = Field(default={})
    functions: list[FunctionBody] = Field(
        default=[], max_length=MAX_FUNCTIONS, description="Tools that you carry out, besides the agent's own."
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.call is not None and (self.input, self.thread, self.limits, self.functions) != (None, None, None, []):
            raise ValueError("`call` has no input, thread, limits or functions besides it")
        return self


class ToolOutputsBody(Request):
    """What came of calls that the run has you carry out."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"examples": [{"outputs": {"call_01JD8M5Q0V7X3T2N9B6C4H1KZE_3": '{"celsius": -4}'}}]},
    )

    outputs: dict[Annotated[Text, Field(max_length=300)], Annotated[Text, Field(max_length=MAX_TOOL_OUTPUT_CHARS)]] = (
        Field(
            min_length=1,
            max_length=MAX_FUNCTIONS,
            description="By the id of the call, as `waiting_for` has it. Calls that are left out go on waiting.",
        )
    )


class OutputsTaken(Answer):
    """The outputs are the calls' own now."""

    run: str
    taken: list[str] = Field(description="Ids of the calls.")
    repeated: list[str] = Field(description="Those of them that had this very output before.")


class ResumeRun(Request):
    """How a run is to be continued."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": [{}]})

    input: Text | None = Field(default=None, max_length=MAX_INPUT_CHARS, description="Something more to say first.")
    version: Whole | None = Field(default=None, ge=1, le=1_000_000, description="Of the agent. Null: the newest.")
    limits: RunLimits | None = None
    metadata: Metadata = Field(default={})


class MessageBody(Request):
    """A message to a run in progress."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra={"examples": [{"text": "The header belongs to libcairo2-dev."}]}
    )

    text: Text = Field(min_length=1, max_length=MAX_MESSAGE_CHARS)


class ResolveBody(Request):
    """How to go on with a held step, or one whose outcome nobody knows."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"examples": [{"step": 5, "verdict": "supply", "output": '{"ticket": 17}'}]},
    )

    step: Whole = Field(ge=1, le=1_000_000, description="Its number.")
    verdict: ResolutionVerdict = Field(
        description="retry: do it (again). supply: `output` is its result. skip: leave it undone. fail: end the run."
    )
    output: Text | None = Field(default=None, max_length=MAX_MESSAGE_CHARS)
    comment: Text | None = Field(default=None, max_length=2_000)


class FeedbackBody(Request):
    """How a run did."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra={"examples": [{"verdict": "positive", "note": "Well found."}]}
    )

    verdict: FeedbackVerdict
    note: Text | None = Field(default=None, max_length=2_000)


class FeedbackView(Answer):
    """What feedback changed in what is remembered."""

    run: str
    verdict: FeedbackVerdict
    changed: list[str] = Field(description="Ids of the memories that count now, or no longer.")


class Accepted(Answer):
    """It was passed on to the run."""

    run: str


@router.post("", operation_id="runs_start", status_code=201, responses=errors(404, 409, 413))
async def start(body: StartRun, response: Response, client: TheClient, caller: Operator, key: Key = None) -> RunView:
    """Start a run. Safe to repeat with an `Idempotency-Key`."""
    common: dict[str, Any] = {
        "key": key,
        "version": body.version,
        "tenant": caller.tenant,
        "requested_by": caller.name,
        "metadata": body.metadata,
    }
    if not body.agent.startswith("toolbox:"):
        await client.agent(body.agent, body.version)
    if body.call is not None:
        run = await client.call(body.agent, body.call.tool, body.call.arguments, **common)
    elif body.agent.startswith("toolbox:"):
        raise ConfigError("A toolbox is asked nothing; it makes calls.", hint="Say which: `call`.")
    elif body.input is None and body.thread is None:
        raise ConfigError("Nothing is asked.", hint="Give `input`, `call`, or a `thread` that ends with a question.")
    else:
        functions = [function.as_function() for function in body.functions]
        run = await client.start(
            body.agent, body.input, thread=body.thread, limits=body.limits, functions=functions, **common
        )
    return await _started(run, response)


@router.get("", operation_id="runs_list", responses=errors())
async def listed(
    client: TheClient,
    caller: Viewer,
    status: Annotated[list[Status] | None, Query(description="May be repeated: any of them.")] = None,
    agent: Annotated[Text | None, Query(max_length=80)] = None,
    thread: Annotated[Text | None, Query(max_length=200)] = None,
    routine: Annotated[Text | None, Query(max_length=80, description="Attempts of its ticks.")] = None,
    tick: Annotated[Text | None, Query(max_length=200, description="Attempts of this tick.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[RunView]:
    """The runs, newest first."""
    place = read_cursor(cursor, datetime, str)
    found = await client.runs(
        status=status or (),
        agent=agent,
        thread=thread,
        routine=routine,
        tick=tick,
        tenant=caller.tenant,
        before=(place[0], place[1]) if place is not None else None,
        limit=limit + 1,
    )
    shown, following = page_end(found, limit, lambda run: cursor_of(run.created_at.isoformat(), run.id))
    return Page(data=[run_view(one) for one in shown], next=following)


@router.get("/{run}", operation_id="runs_get", responses=errors(404))
async def get(run: RunId, client: TheClient, caller: Viewer) -> RunDetail:
    """One run: where it is, what it waits for, and what came of it."""
    return await run_detail(client, await client.run_record(run, tenant=caller.tenant))


@router.get("/{run}/steps", operation_id="runs_steps", responses=errors(404))
async def steps(
    run: RunId, client: TheClient, caller: Viewer, limit: Limit = 100, cursor: Cursor = None
) -> Page[StepView]:
    """The steps of a run, in their order."""
    await client.run_record(run, tenant=caller.tenant)
    place = read_cursor(cursor, int)
    after = place[0] if place is not None else 0
    found = await Journal(client.require_ledger()).of_run(run, after=after, limit=limit + 1)
    shown, following = page_end(found, limit, lambda step: cursor_of(step.number))
    return Page(data=[step_view(one) for one in shown], next=following)


StepNumber = Annotated[int, Path(ge=1, le=1_000_000_000, description="Of a step of this run.")]


@router.get("/{run}/steps/{number}", operation_id="runs_step", responses=errors(404))
async def step(run: RunId, number: StepNumber, client: TheClient, caller: Viewer) -> StepDetail:
    """One step, with its whole arguments and output."""
    await client.run_record(run, tenant=caller.tenant)
    return await step_detail(client, await Journal(client.require_ledger()).get(run, number))


@router.get(
    "/{run}/steps/{number}/output",
    operation_id="runs_step_output",
    response_class=Response,
    responses={
        200: {
            "description": "The output, whole.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
        **errors(404),
    },
)
async def output(run: RunId, number: StepNumber, client: TheClient, caller: Viewer) -> Response:
    """The whole output of a step, as a file: whatever a tool returned, so it is never shown by a browser."""
    await client.run_record(run, tenant=caller.tenant)
    ledger = client.require_ledger()
    found = await Journal(ledger).get(run, number)
    if found.output is None:
        raise NotFound(f"Step {number} of run {run!r} has no output.")
    pieces = ledger.blobs.pieces(found.output_blob) if found.output_blob else iter((found.output.encode(),))
    first = await asyncio.to_thread(next, pieces, b"")  # what is not there is told before anything is sent
    headers = {
        "Content-Disposition": f'attachment; filename="step-{number}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    return StreamingResponse(chain((first,), pieces), media_type="application/octet-stream", headers=headers)


@router.post("/{run}/cancel", operation_id="runs_cancel", status_code=202, responses=errors(404, 409))
async def cancel(run: RunId, client: TheClient, caller: Operator) -> Accepted:
    """Have a run end now; what is in flight says first what became of it."""
    await client.run_record(run, tenant=caller.tenant)
    await client.run(run).cancel()
    return Accepted(run=run)


@router.post("/{run}/message", operation_id="runs_message", status_code=202, responses=errors(404, 409, 413))
async def message(run: RunId, body: MessageBody, client: TheClient, caller: Operator) -> Accepted:
    """Send a run more input; it is read before its next turn."""
    await client.run_record(run, tenant=caller.tenant)
    await client.run(run).message(body.text, by=caller.name)
    return Accepted(run=run)


@router.post("/{run}/tool-outputs", operation_id="runs_tool_outputs", status_code=202, responses=errors(404, 409, 413))
async def tool_outputs(run: RunId, body: ToolOutputsBody, client: TheClient, caller: Operator) -> OutputsTaken:
    """Give a run what came of calls that it has you carry out: all of these, or none.

    The first output of a call stands; the same once more changes nothing.
    """
    await client.run_record(run, tenant=caller.tenant)
    submitted = await client.run(run).submit_tool_outputs(body.outputs, by=caller.name)
    return OutputsTaken(run=run, taken=list(submitted.taken), repeated=list(submitted.repeated))


@router.post("/{run}/resolve", operation_id="runs_resolve", responses=errors(404, 409, 413))
async def resolve(run: RunId, body: ResolveBody, client: TheClient, caller: Approver) -> ResolutionState:
    """Say how to go on with a held step or an unknown outcome, as the caller."""
    await client.run_record(run, tenant=caller.tenant)
    found = await client.approvals(run=run, tenant=caller.tenant, limit=200)
    asked = next((one for one in found if one.guards == body.step and one.kind != "approval"), None)
    return await client.run(run).resolve(
        step_id(run, body.step),
        body.verdict,
        by=caller.name,
        output=body.output,
        comment=body.comment,
        question=asked.id if asked is not None else None,
    )


@router.post("/{run}/feedback", operation_id="runs_feedback", responses=errors(404, 409, 413))
async def feedback(run: RunId, body: FeedbackBody, client: TheClient, caller: Operator) -> FeedbackView:
    """Say that a run that has ended did well, or not: what it taught then counts, or no longer."""
    fed = await client.feedback(run, body.verdict, body.note, by=caller.name, tenant=caller.tenant)
    return FeedbackView(run=run, verdict=body.verdict, changed=sorted({memory for memory, _, _ in fed.changed}))


@router.post("/{run}/resume", operation_id="runs_resume", status_code=201, responses=errors(404, 409, 413))
async def resume(
    run: RunId, body: ResumeRun, response: Response, client: TheClient, caller: Operator, key: Key = None
) -> RunView:
    """Start a run that goes on where this one ended, after its last settled step."""
    record = await client.run_record(run, tenant=caller.tenant)
    started = await client.start(
        record.agent,
        body.input,
        key=key,
        version=body.version,
        tenant=caller.tenant,
        requested_by=caller.name,
        resume_from=run,
        limits=body.limits,
        metadata=body.metadata,
    )
    return await _started(started, response)


async def _started(run: Run, response: Response) -> RunView:
    response.headers["Location"] = f"/v1/runs/{run.id}"
    return run_view(await run.record())
