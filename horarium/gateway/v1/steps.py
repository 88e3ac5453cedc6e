"""The step protocol for tool workers that have no ledger: a key with the scope `tools:<group>`, and nothing else.

The worker is not believed: what was asked is read from Temporal, what releases it is looked up in the ledger, and what
it returns is cleaned again. These routes are this package talking to itself, so the OpenAPI document leaves them out.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any

import anyio.to_thread
import structlog
from fastapi import APIRouter, Depends, Header, Path, Query, Request
from starlette.exceptions import HTTPException
from temporalio.exceptions import ApplicationError

from horarium.client import Client
from horarium.content import Cleaned, canonical, clean_json, clean_text, digest
from horarium.contract import ENGINE_QUEUE, TOOL_QUEUE_PREFIX
from horarium.errors import ConfigError, RunNotFound, StepBlocked, ToolError, ToolTaken
from horarium.gateway.asked import AskedOf, asked_for
from horarium.gateway.auth import ANYBODY, CALLER, Caller
from horarium.gateway.context import TheClient, TheSettings
from horarium.gateway.roles import NotAllowed
from horarium.ledger.agents import ToolCatalog
from horarium.ledger.blobs import Blobs, ContentChanged
from horarium.ledger.journal import SETTLED, Held, StepClaim, StepRecord
from horarium.ledger.runs import Runs
from horarium.ledger.toolworkers import ToolWorker, ToolWorkers, group_of
from horarium.proof import KeyRing
from horarium.protocol import ToolOutcome
from horarium.routine_state import RoutineState
from horarium.step_protocol import (
    ATTEMPT_HEADER,
    Arriving,
    Attempt,
    Claimed,
    Claiming,
    Digest,
    Group,
    Holding,
    Name,
    Other,
    Others,
    Returning,
    Settling,
    StepRef,
    TakingOver,
    TellingUnknown,
    WorkerSaid,
)
from horarium.stepping import Asked, LedgerSteps, outcome_of
from horarium.tools import Effect, ToolSpec

log = structlog.get_logger()

router = APIRouter(prefix="/v1/steps", include_in_schema=False)
IN_MEMORY = 1 << 20
INCOMING = "incoming"  # below the blobs: what was uploaded and is not settled yet
_CAREFUL = (Effect.READ, Effect.IDEMPOTENT, Effect.EXTERNAL)
WorkerId = Annotated[str, Path(pattern=r"^wrk_[0-9A-Z]{26}$")]


class Desk:
    """What all the routes need of one request."""

    def __init__(self, request: Request, client: TheClient, settings: TheSettings) -> None:
        self.client: Client = client
        self.settings = settings
        self.caller: Caller = request.scope.get(CALLER, ANYBODY)
        self.ledger = client.require_ledger()
        self.steps = _steps(request, client, settings)

    def may_serve(self, group: str) -> None:
        """Let nobody on who has no key for the group.

        Raises:
            NotAllowed: It is of another, or opens other things.
        """
        if not {group, "*"} & set(self.caller.tools):
            raise NotAllowed(
                f"This needs an API key for the tool worker {group!r}.",
                hint=f"Create one: horarium api-keys create --name NAME --tools {group}",
            )

    async def own_run(self, run: str) -> None:
        """Let nobody on whose run it is not.

        Raises:
            RunNotFound: It is another tenant's, or there is none.
        """
        if (await Runs(self.ledger).get(run)).tenant != self.caller.tenant:
            raise RunNotFound(f"There is no run {run!r}.")

    async def asked(self, ref: StepRef) -> AskedOf:
        """What the workflow asks of the group now.

        Raises:
            RunNotFound: There is no such workflow.
            StepBlocked: It asks for nothing of the kind.
        """
        found = await asked_for(self.client.temporal, ref.workflow, ref.execution, ref.activity)
        named = (found.step.run, found.step.number, found.queue)
        if named != (ref.run, ref.number, TOOL_QUEUE_PREFIX + ref.group):
            raise StepBlocked(f"Run {ref.workflow!r} asked for another call, or another worker.")
        return found

    async def held(self, ref: StepRef) -> StepRecord:
        """The step that this attempt holds or held, or that its run asks of it now.

        Raises:
            RunNotFound: The run is another tenant's, or there is none.
            StepBlocked: It does not hold it, and is not asked.
        """
        self.may_serve(ref.group)
        await self.own_run(ref.run)
        record = await self.steps.journal.get(ref.run, ref.number)
        if record.token != ref.token(self.caller.tenant):
            found = await self.asked(ref)
            if ref.workflow != ref.run:
                raise StepBlocked(f"Workflow {ref.workflow!r} asked for a step of run {ref.run!r}.")
            if found.step.call.tool != record.name:
                raise StepBlocked(f"Step {ref.run}/{ref.number:04d} is of another call.")
        return record

    def incoming(self, ref: StepRef) -> Blobs:
        """Where the attempt's upload is until it is settled; nobody else's is there."""
        return self.ledger.blobs.below(f"{INCOMING}/{ref.token(self.caller.tenant)}")


TheDesk = Annotated[Desk, Depends(Desk)]


@router.post("/claims")
async def claim(desk: TheDesk, said: Claiming) -> Claimed:
    """Claim a call. Asked twice by one attempt, it is answered twice the same."""
    desk.may_serve(said.group)
    await desk.own_run(said.run)
    found = await desk.asked(said)
    asked = Asked(found.step, _spec(said, found), said.workflow, wants_state=said.wants_state)
    try:
        begun = await desk.steps.of(asked, token=said.token(desk.caller.tenant)).begin()
    except ApplicationError as error:
        raise RunNotFound(error.message) from error
    log.info("step.claimed_remotely", key=desk.caller.key, group=said.group, run=said.run, step=said.number)
    if begun.outcome is not None:
        return Claimed(outcome=begun.outcome)
    return Claimed(
        arguments=canonical(dict(begun.arguments)),
        held=begun.held is not None,
        attempts=begun.held.attempt if begun.held else 0,
        failures=begun.held.failures if begun.held else 0,
        unclear=begun.unclear,
        holder=begun.holder,
        state=canonical(dict(begun.state)) if begun.state.writable else None,
    )


@router.put("/outputs/{digest}", status_code=204)
async def upload(
    desk: TheDesk,
    request: Request,
    digest: Annotated[Digest, Path()],
    group: Annotated[Group, Query()],
    run: Annotated[Name, Query()],
    number: Annotated[int, Query(ge=1, le=2**31 - 1)],
    attempt: Annotated[Attempt, Header(alias=ATTEMPT_HEADER)],
) -> None:
    """Take a long output, before its step is settled with it. Only of an attempt that holds the step."""
    ref = StepRef(group=group, run=run, number=number, attempt=attempt, workflow=run, execution=run, activity=run)
    desk.may_serve(group)
    await desk.own_run(run)
    if (await desk.steps.journal.get(run, number)).token != ref.token(desk.caller.tenant):
        raise StepBlocked(f"This attempt does not hold step {run}/{number:04d}.")
    most, size = desk.settings.tools.max_output_bytes, 0
    if int(request.headers.get("content-length", "0")) > most:
        raise HTTPException(413, f"An output has at most {most:,} bytes.")
    with SpooledTemporaryFile(max_size=IN_MEMORY) as file:
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise HTTPException(413, f"An output has at most {most:,} bytes.")
            await anyio.to_thread.run_sync(file.write, chunk)
        try:
            await anyio.to_thread.run_sync(desk.incoming(ref).put_file, digest, file)
        except ContentChanged as error:
            raise ConfigError("The output is not that of its digest.", hint="Send it again.") from error


@router.post("/settlements")
async def settle(desk: TheDesk, said: Settling) -> ToolOutcome:
    """Settle a step that the attempt holds; what stood first stands."""
    record = await desk.held(said)
    if record.status in SETTLED:
        return outcome_of(record)
    incoming = desk.incoming(said)
    settled = await desk.steps.journal.settle(
        _held(record, said.token(desk.caller.tenant)),
        said.status,
        await _output(incoming, said),
        code=clean_text(said.code)[0] if said.code else None,
        message=clean_text(said.message)[0] if said.message else None,
        state=_state(said.state),
    )
    if said.upload is not None:
        await incoming.clear()
    return outcome_of(settled)


@router.post("/returns")
async def give_back(desk: TheDesk, said: Returning) -> Holding:
    """Give a claim back: nothing lasting was done."""
    record = await desk.held(said)
    held, journal = _held(record, said.token(desk.caller.tenant)), desk.steps.journal
    if not said.failed:
        await journal.hand_back(held)
        return Holding()
    if record.status == "pending" and record.token == held.token:  # asked again: it was counted
        return Holding(failures=record.failures)
    return Holding(failures=await journal.attempt_failed(held, clean_text(said.message or "")[0]))


@router.post("/takeovers")
async def take_over(desk: TheDesk, said: TakingOver) -> Holding:
    """Claim what an attempt before had claimed, after a probe."""
    record, token = await desk.held(said), said.token(desk.caller.tenant)
    if record.token == token and record.status == "claimed":
        return Holding(attempts=record.attempts, failures=record.failures)
    held = await desk.steps.journal.take_over(_held(record, token).claim, token=token, holder=said.holder)
    return Holding(attempts=held.attempt, failures=held.failures)


@router.post("/unknowns")
async def unknown(desk: TheDesk, said: TellingUnknown) -> ToolOutcome:
    """Write down that nobody knows whether it happened."""
    record = await desk.held(said)
    claim = _held(record, said.token(desk.caller.tenant)).claim
    return outcome_of(await desk.steps.journal.mark_unknown(claim, clean_text(said.message)[0]))


@router.post("/workers/{worker}")
async def arrive(desk: TheDesk, worker: WorkerId, said: Arriving) -> Others:
    """Announce a worker and its tools. Returns the others of its group, and the engine's."""
    desk.may_serve(said.group)
    specs = [_a_spec(text) for text in said.specs]
    tools = {spec.name: digest(spec.model_dump(mode="json")) for spec in specs}
    row = replace(_row(worker, said), tools=tools, digest=digest(tools))
    served = await ToolCatalog(desk.ledger).all()
    for spec in specs:
        known = served.get(spec.name)
        if known is not None and known.queue != row.queue and "*" not in desk.caller.tools:
            raise ToolTaken(
                f"The tool {spec.name!r} is of {group_of(known.queue)}; a key for {said.group!r} alone cannot take it.",
                hint="Give the tool another name, or move it with a key for tools:*.",
            )
    living = await ToolWorkers(desk.ledger).arrive(row, specs)
    return Others(data=tuple(_other(other) for other in living if other.queue in (row.queue, ENGINE_QUEUE)))


@router.put("/workers/{worker}", status_code=204)
async def seen(desk: TheDesk, worker: WorkerId, said: WorkerSaid) -> None:
    """Note that a worker lives."""
    desk.may_serve(said.group)
    await ToolWorkers(desk.ledger).seen(_row(worker, said), datetime.now(UTC))


@router.delete("/workers/{worker}", status_code=204)
async def left(desk: TheDesk, worker: WorkerId, group: Annotated[Group, Query()]) -> None:
    """Note that a worker has ended."""
    desk.may_serve(group)
    gone = WorkerSaid(group=group, host="-", pid=0, version="", python="", tools={})
    await ToolWorkers(desk.ledger).left(_row(worker, gone), datetime.now(UTC))


def _steps(request: Request, client: Client, settings: TheSettings) -> LedgerSteps:
    """One for the application: it remembers the plans of runs."""
    known: LedgerSteps | None = getattr(request.app.state, "steps", None)
    if known is None:
        keys, required = KeyRing.of(settings).public_only(), settings.approvals.require_proof
        known = request.app.state.steps = LedgerSteps(client.require_ledger(), keys, require_proof=required)
    return known


def _spec(said: Claiming, found: AskedOf) -> ToolSpec:
    """The tool as the worker has it; of what it may do to the world, the more careful of both words counts."""
    spec, call = _a_spec(said.spec), found.step.call
    if spec.name != call.tool:
        raise StepBlocked(f"{call.tool!r} was asked for, and not {spec.name!r}.")
    return spec.model_copy(update={"effect": max(spec.effect, call.effect, key=_CAREFUL.index)})


def _a_spec(text: str) -> ToolSpec:
    try:
        return ToolSpec.model_validate(clean_json(json.loads(text)))
    except (ValueError, RecursionError) as error:
        raise ConfigError("This is no description of a tool.") from error


def _held(record: StepRecord, token: str) -> Held:
    claim = StepClaim(
        run_id=record.run_id, number=record.number, kind=record.kind, name=record.name, effect=Effect(record.effect)
    )
    return Held(claim, token, record.attempts, record.failures)


async def _output(incoming: Blobs, said: Settling) -> Cleaned:
    if said.upload is None:
        return Cleaned(said.output, None, said.changes)
    try:
        content = await incoming.get(said.upload)
    except FileNotFoundError as error:
        raise StepBlocked("The output is not here: it has to be uploaded first.") from error
    if said.binary:
        return Cleaned("", content, said.changes)
    return Cleaned(content.decode("utf-8", "replace"), None, said.changes)


def _state(text: str | None) -> RoutineState | None:
    """What a tool changed in its routine's state, checked as if it were changed here."""
    if text is None:
        return None
    try:
        changes: Any = json.loads(text)
        state = RoutineState(dict.fromkeys(changes["gone"]))
        for key in changes["gone"]:
            del state[key]
        for key, value in changes["set"].items():
            state[key] = value
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ToolError) as error:
        raise ConfigError("The state cannot be kept so.") from error
    return state


def _row(worker: str, said: WorkerSaid) -> ToolWorker:
    now = datetime.now(UTC)
    tools = {clean_text(name)[0][:64]: value[:80] for name, value in said.tools.items()}
    return ToolWorker(
        id=worker,
        queue=TOOL_QUEUE_PREFIX + said.group,
        host=said.host,
        pid=said.pid,
        version=said.version,
        python=said.python,
        digest=digest(tools),
        tools=tools,
        started_at=now,
        seen_at=now,
    )


def _other(other: ToolWorker) -> Other:
    if other.queue == ENGINE_QUEUE:
        return Other(id=other.id, group=None, host="engine", pid=0, version=other.version, tools={})
    group = other.queue.removeprefix(TOOL_QUEUE_PREFIX)
    return Other(
        id=other.id, group=group, host=other.host, pid=other.pid, version=other.version, tools=dict(other.tools)
    )
