"""Runs and steps as they are shown over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from pydantic import ConfigDict, Field

from horarium.client import Client
from horarium.content import shorten
from horarium.contract import Status, StepKind, StepStatus, Usage
from horarium.errors import HorariumError
from horarium.gateway.results import in_words
from horarium.gateway.v1.fields import Answer, Time
from horarium.ids import step_id
from horarium.ledger.approvals import ApprovalRecord
from horarium.ledger.functions import FunctionCall, Functions
from horarium.ledger.journal import StepRecord
from horarium.ledger.runs import RunRecord
from horarium.structured import KEPT
from horarium.turns import stored_turn

PREVIEW_CHARS = 1_000
WHOLE_BYTES = 1_000_000  # of an output within JSON; more has to be downloaded
MOST_WAITING = 50
MOST_SUB_RUNS = 100
MOST_LEVELS = 10  # of sub-agents that are looked through for what a run waits for
GLANCE = 2.0  # seconds for a look at a run that is only a nicety

RUN_EXAMPLE: dict[str, Any] = {
    "id": "run_01JD8M5Q0V7X3T2N9B6C4H1KZE",
    "agent": "log-triage",
    "version": 3,
    "status": "requires_action",
    "thread": "thr_6D0Y…",
    "requested_by": "ci",
    "metadata": {"build": "4711"},
    "turns": 2,
    "steps": 4,
    "usage": {"input_tokens": 344, "output_tokens": 132, "cost_micro_usd": 0},
    "created_at": "2026-11-21T09:29:55Z",
    "opened_at": "2026-11-21T09:29:55Z",
}
STEP_EXAMPLE: dict[str, Any] = {
    "id": "run_01JD8M5Q0V7X3T2N9B6C4H1KZE/0003",
    "number": 3,
    "kind": "tool_call",
    "name": "read_log",
    "status": "completed",
    "effect": "read",
    "call_id": "call_1",
    "arguments": '{"name":"build.log"}',
    "output": "cairo/cairo.h: No such file or directory",
    "attempts": 1,
    "failures": 0,
    "usage": {"input_tokens": 0, "output_tokens": 0, "cost_micro_usd": 0},
    "claimed_at": "2026-11-21T09:29:57Z",
    "settled_at": "2026-11-21T09:29:57Z",
}


class RunView(Answer):
    """A run."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [RUN_EXAMPLE]})

    id: str
    agent: str
    version: int | None = Field(description="Of the agent; null while it is not known: the newest.")
    status: Status
    reason: str | None = Field(default=None, description="A code: why it did not complete.")
    message: str | None = Field(default=None, description="The reason in words.")
    thread: str
    requested_by: str | None = None
    resume_from: str | None = Field(default=None, description="The run that this one continues.")
    tick: str | None = Field(default=None, description="The tick of a routine of which it is an attempt.")
    parent_run: str | None = Field(default=None, description="The run that handed it its task.")
    path: list[str] | None = Field(default=None, description="The agents from the topmost run down to this one's.")
    metadata: dict[str, str] = Field(default={})
    turns: int = Field(description="Counted when it ends.")
    steps: int = Field(description="Counted when it ends.")
    usage: Usage
    created_at: Time
    opened_at: Time | None = None
    closed_at: Time | None = None


class WaitingView(Answer):
    """What a run waits for."""

    kind: str = Field(description="approval, unknown_outcome, held_step, function_call, or as the run itself says it.")
    id: str | None = Field(
        default=None,
        description="Of the question in the inbox: see `/v1/approvals/{id}`; of a `function_call`: for "
        "`/v1/runs/{run}/tool-outputs`.",
    )
    run: str = Field(description="Whose question it is: this run's, or that of a sub-agent.")
    tool: str | None = None
    expires_at: Time | None = None
    text: str = Field(description="In words.")


class RunDetail(RunView):
    """A run, with what it waits for and what came of it."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [{**RUN_EXAMPLE, "in_words": "open_ticket waits for an approver (maria): approval apr_7Q2X…."}]
        },
    )

    in_words: str = Field(description="Where it is, in a sentence.")
    waiting_for: list[WaitingView] = Field(default=[])
    sub_runs: list[RunView] = Field(default=[], description="Runs of sub-agents that it started; at most 100.")
    output: str | None = Field(default=None, description="The final answer, when it has ended.")


class CallView(Answer):
    """A call that a model asked for."""

    id: str
    name: str
    arguments: str = Field(description="JSON, as the model wrote it.")
    problem: str | None = Field(default=None, description="Why it was not made.")


class StepView(Answer):
    """A step; long texts are cut."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [STEP_EXAMPLE]})

    id: str
    number: int
    kind: StepKind
    name: str
    status: StepStatus
    effect: str
    call_id: str | None = None
    input_digest: str | None = Field(default=None, description="Of tool, schema and arguments.")
    arguments: str | None = Field(default=None, description="JSON.")
    output: str | None = Field(default=None, description="As the model was shown it; of a model call, what it said.")
    calls: list[CallView] = Field(default=[], description="What the model asked for.")
    cut: bool = Field(default=False, description="Whether `arguments`, `output` or `calls` are not whole.")
    output_bytes: int | None = None
    code: str | None = None
    message: str | None = None
    note: str | None = None
    by: str | None = Field(default=None, description="The person who settled it, when one did.")
    model: str | None = None
    attempts: int
    failures: int
    untrusted: bool = Field(default=False, description="Whether strangers wrote its output.")
    usage: Usage
    claimed_at: Time | None = None
    settled_at: Time | None = None


class StepDetail(StepView):
    """A step with its whole arguments and output."""

    is_binary: bool = Field(default=False, description="Then, or when `cut`, the output is at `…/output`.")


def run_view(record: RunRecord) -> RunView:
    """A run as it is shown."""
    return RunView(**_run_fields(record))


def step_view(record: StepRecord) -> StepView:
    """A step as it is shown in lists and events."""
    fields, cut = _step_fields(record, PREVIEW_CHARS)
    return StepView(**fields, cut=cut)


async def step_detail(client: Client, record: StepRecord) -> StepDetail:
    """A step, whole."""
    fields, _ = _step_fields(record, None)
    cut = is_binary = False
    if record.output_blob is not None:
        is_binary = "binary" in (record.changes or "").split(",")
        if is_binary or (record.output_bytes or 0) > WHOLE_BYTES:
            cut = True
        else:
            data = await client.require_ledger().blobs.get(record.output_blob)
            fields["output"] = data.decode("utf-8", "replace")
    return StepDetail(**fields, cut=cut, is_binary=is_binary)


async def run_detail(client: Client, record: RunRecord) -> RunDetail:
    """A run, with what can be said of it."""
    waiting = await waiting_for(client, record) if record.status == "requires_action" else []
    below = await client.runs(tenant=record.tenant, parent=record.id, limit=MOST_SUB_RUNS)
    return RunDetail(
        **_run_fields(record),
        in_words=_status_in_words(record, waiting),
        waiting_for=waiting,
        sub_runs=[run_view(one) for one in below],
        output=await client.run(record.id).output() if record.closed_at is not None else None,
    )


async def waiting_for(client: Client, record: RunRecord) -> list[WaitingView]:
    """What a run, or one of its sub-agents, waits for: from the ledger, else in its own words."""
    found: list[WaitingView] = []
    level = [record]
    for _ in range(MOST_LEVELS):
        below: list[RunRecord] = []
        for run in level:
            found += questions_in_words(
                await client.approvals(run=run.id, tenant=record.tenant, limit=MOST_WAITING - len(found))
            )
            found += calls_in_words(await Functions(client.require_ledger()).calls(run.id))
            if len(found) >= MOST_WAITING:
                return found[:MOST_WAITING]
            below += await client.runs(status=("requires_action",), tenant=record.tenant, parent=run.id, limit=50)
        level = below
    if found:
        return found
    try:
        async with asyncio.timeout(GLANCE):
            told = (await client.run(record.id).status()).waiting_for
    except (HorariumError, TimeoutError):
        return []
    return [
        WaitingView(kind=one.kind, id=one.question, run=record.id, tool=one.tool, text=one.text)
        for one in told[:MOST_WAITING]
    ]


def questions_in_words(questions: Iterable[ApprovalRecord]) -> list[WaitingView]:
    """Open questions as what a run waits for."""
    return [
        WaitingView(
            kind=one.kind, id=one.id, run=one.run_id, tool=one.tool, expires_at=one.expires_at, text=in_words(one)
        )
        for one in questions
    ]


def calls_in_words(calls: Iterable[FunctionCall]) -> list[WaitingView]:
    """Calls that whoever started a run carries out, as what it waits for; they are no questions of the inbox."""
    return [
        WaitingView(
            kind="function_call",
            id=call.call_id,
            run=call.run_id,
            tool=call.tool,
            expires_at=call.expires_at,
            text=f"Whoever started it carries out {call.tool} and submits the output of call {call.call_id}.",
        )
        for call in calls
        if call.waits
    ]


def _status_in_words(record: RunRecord, waiting: list[WaitingView]) -> str:
    match record.status:
        case "queued":
            return "It waits for an engine worker to take it up."
        case "in_progress":
            return "It is at work."
        case "requires_action":
            return " ".join(one.text for one in waiting) or "It waits."
        case "completed":
            return "It is done."
    because = record.message or record.reason
    return f"It is {record.status}" + (f": {because}" if because else ".")


def _run_fields(record: RunRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "agent": record.agent,
        "version": record.version,
        "status": record.status,
        "reason": record.reason,
        "message": record.message,
        "thread": record.thread_id,
        "requested_by": record.requested_by,
        "resume_from": record.resume_from,
        "tick": record.tick,
        "parent_run": record.parent_run,
        "path": record.path,
        "metadata": {name: value for name, value in record.metadata.items() if name != KEPT},
        "turns": record.turns,
        "steps": record.steps,
        "usage": Usage(
            input_tokens=record.input_tokens, output_tokens=record.output_tokens, cost_micro_usd=record.cost_micro_usd
        ),
        "created_at": record.created_at,
        "opened_at": record.opened_at,
        "closed_at": record.closed_at,
    }


def _step_fields(record: StepRecord, most: int | None) -> tuple[dict[str, Any], bool]:
    """The fields of a view, texts cut to `most` characters; and whether one was."""
    output, calls = record.output, list[CallView]()
    if record.kind == "model_call" and output and output.startswith("{"):
        try:
            turn = stored_turn(output)
        except ValueError:  # a direct call's turn, or one of ours in plain words
            pass
        else:
            output = turn.text
            calls = [CallView(**call.model_dump()) for call in turn.calls]
    cut = False

    def fitted(text: str | None) -> str | None:
        nonlocal cut
        if most is None or text is None or len(text) <= most:
            return text
        cut = True
        return shorten(text, most)

    fields: dict[str, Any] = {
        "id": step_id(record.run_id, record.number),
        "number": record.number,
        "kind": record.kind,
        "name": record.name,
        "status": record.status,
        "effect": record.effect,
        "call_id": record.call_id,
        "input_digest": record.input_digest,
        "arguments": fitted(record.arguments),
        "output": fitted(output),
        "calls": [one.model_copy(update={"arguments": fitted(one.arguments)}) for one in calls],
        "output_bytes": record.output_bytes,
        "code": record.code,
        "message": fitted(record.message),
        "note": fitted(record.note),
        "by": record.by,
        "model": record.model,
        "attempts": record.attempts,
        "failures": record.failures,
        "untrusted": bool(record.untrusted),
        "usage": Usage(
            input_tokens=record.input_tokens, output_tokens=record.output_tokens, cost_micro_usd=record.cost_micro_usd
        ),
        "claimed_at": record.claimed_at,
        "settled_at": record.settled_at,
    }
    return fields, cut or record.output_blob is not None
