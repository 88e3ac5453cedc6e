"""Orders that begin a run, or are given to one: as the REST routes have them, from a form."""

from __future__ import annotations

import secrets
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from horarium.errors import ConfigError, Conflict, NotFound
from horarium.gateway.console.forms import Form, TheForm
from horarium.gateway.console.page import said
from horarium.gateway.console.routing import pages
from horarium.gateway.context import Operator, TheClient
from horarium.gateway.v1 import runs as v1
from horarium.gateway.v1.runs import FeedbackBody, MessageBody, ResumeRun, RunId, StartRun, StepNumber
from horarium.ledger.overview import Overview

router = pages()
M = TypeVar("M", bound=BaseModel)


def new_key() -> str:
    """An idempotency key for a form: sent twice, it starts one run."""
    return f"console-{secrets.token_hex(12)}"


def sent(model: type[M], **fields: Any) -> M:
    """What a form says, as the body of the REST route that does the same.

    Raises:
        ConfigError: It does not fit.
    """
    try:
        return model.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc'])) or 'The form'}: {first['msg']}.") from error


def _number(form: Form, name: str) -> int | None:
    value = form.get(name)
    if value is None:
        return None
    if not value.strip().isdecimal() or len(value) > 9:
        raise ConfigError(f"{name} is a number, not {value[:40]!r}.")
    return int(value)


@router.post("/runs/start")
async def start(request: Request, client: TheClient, caller: Operator, form: TheForm) -> Response:
    """Start a run of an agent."""
    body = sent(
        StartRun,
        agent=form["agent"].strip(),
        input=form.get("input"),
        thread=form.get("thread"),
        version=_number(form, "version"),
    )
    run = await v1.start(body, Response(), client, caller, form.get("key"))
    return said(request, f"Started a run of {run.agent}.", back=f"/runs/{run.id}")


@router.post("/runs/{run}/cancel")
async def cancel(request: Request, run: RunId, client: TheClient, caller: Operator, form: TheForm) -> Response:
    """End a run."""
    await v1.cancel(run, client, caller)
    return said(request, "Asked it to end; what is in flight says first what became of it.", back=f"/runs/{run}")


@router.post("/runs/{run}/message")
async def message(request: Request, run: RunId, client: TheClient, caller: Operator, form: TheForm) -> Response:
    """Say something more to a run."""
    await v1.message(run, sent(MessageBody, text=form["text"]), client, caller)
    return said(request, "Sent; it is read before the next turn.", back=f"/runs/{run}")


@router.post("/runs/{run}/feedback")
async def feedback(request: Request, run: RunId, client: TheClient, caller: Operator, form: TheForm) -> Response:
    """Say how a run did."""
    body = sent(FeedbackBody, verdict=form["verdict"], note=form.get("note"))
    changed = (await v1.feedback(run, body, client, caller)).changed
    learnt = f" It changed {len(changed)} of what is remembered." if changed else ""
    return said(request, f"Noted: {body.verdict}.{learnt}", back=f"/runs/{run}")


@router.post("/runs/{run}/resume")
async def resume(request: Request, run: RunId, client: TheClient, caller: Operator, form: TheForm) -> Response:
    """Go on where a run ended."""
    body = sent(ResumeRun, input=form.get("input"), version=_number(form, "version"))
    started = await v1.resume(run, body, Response(), client, caller, form.get("key"))
    return said(request, "This run goes on where the other ended.", back=f"/runs/{started.id}")


@router.post("/runs/{run}/steps/{number}/fork")
async def fork(
    request: Request, run: RunId, number: StepNumber, client: TheClient, caller: Operator, form: TheForm
) -> Response:
    """Go on from a step, in a new run of a new conversation that has all up to it. What was done after it stays done.

    Raises:
        Conflict: The new run would have nothing to answer.
    """
    record = await client.run_record(run, tenant=caller.tenant)
    place = await Overview(client.require_ledger()).place_of(record, number)
    if place is None:
        raise NotFound(f"Step {number} of run {run} is not in its conversation.", hint="Choose another step.")
    text = form.get("input")
    last = (await client.thread(record.thread_id, after=place - 1, limit=1, tenant=caller.tenant))[0]
    if text is None and last.role == "assistant" and not last.calls:
        raise Conflict("The model has answered there: nothing is left to do.", hint="Say what it is to do next.")
    thread = await client.fork_thread(record.thread_id, at=place, tenant=caller.tenant)
    body = sent(
        StartRun,
        agent=record.agent,
        input=text,
        thread=thread.id,
        version=None if form.get("newest") else record.version,
        metadata={"forked_from": run, "forked_at": str(number)},
    )
    started = await v1.start(body, Response(), client, caller, None)
    return said(request, f"A new run goes on from step {number}.", back=f"/runs/{started.id}")
