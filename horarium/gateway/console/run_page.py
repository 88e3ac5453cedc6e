"""The page of one run: where it is, what it did and in which time, and each of its steps."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote

from fastapi import Query, Request
from starlette.responses import Response

from horarium.client import Client
from horarium.directcalls import CALLER
from horarium.errors import NotFound
from horarium.gateway.console.gantt import picture
from horarium.gateway.console.page import page
from horarium.gateway.console.routing import pages
from horarium.gateway.console.run_words import (
    KINDS,
    RUN_STATUS,
    asked_in_words,
    effect_state,
    step_status,
    took,
    waits_of,
)
from horarium.gateway.console.timeline import bars_of, place_in_story, taken_over
from horarium.gateway.context import TheClient, TheSettings, Viewer
from horarium.gateway.v1.run_views import StepView, run_detail, step_detail, step_view
from horarium.gateway.v1.runs import RunId, StepNumber
from horarium.ledger.approvals import Approvals
from horarium.ledger.journal import Journal, StepRecord
from horarium.ledger.overview import Overview
from horarium.ledger.runs import RunRecord
from horarium.ledger.ticks import Ticks
from horarium.settings import Settings
from horarium.stack import read_stack

STEPS = 50  # on one page
MOST_STEPS = 4_000  # that the timeline looks at
MOST_QUESTIONS = 500
MOST_BELOW, MOST_DEEP = 100, 10  # runs of sub-agents
router = pages()

After = Annotated[int | None, Query(ge=0, le=1_000_000_000)]


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step as the page shows it."""

    record: StepRecord
    view: StepView
    sign: str
    kind: str
    status: str
    effect: str | None
    question: str | None
    handed_to: str | None
    partial: str | None
    took: str


@dataclass(frozen=True, slots=True)
class Below:
    """A run of a sub-agent, and how deep it is below."""

    run: RunRecord
    depth: int


@router.get("/runs/{run}")
async def run_page(
    request: Request, run: RunId, client: TheClient, settings: TheSettings, caller: Viewer, after: After = None
) -> Response:
    """One run."""
    record = await client.run_record(run, tenant=caller.tenant)
    ledger = client.require_ledger()
    overview = Overview(ledger)
    now = datetime.now(UTC)
    statuses = await overview.statuses(run)
    outline = await overview.outline(run, most=MOST_STEPS)
    questions = await overview.questions(run, most=MOST_QUESTIONS)
    if after is None:
        after = _page_of(outline[-1].number) if outline and record.closed_at is None else 0
    below = await _below(client, record)
    rows = await _rows(client, record, after, below)
    detail = await run_detail(client, record)
    drawn = picture(bars_of(record, outline, questions, lambda n: _link(run, n, after), now), record.closed_at or now)
    tick = await Ticks(ledger).get(record.tick, tenant=caller.tenant) if record.tick is not None else None
    asked = await overview.input(record)
    return page(
        request,
        "run.html",
        title=f"{RUN_STATUS[record.status]}: {record.agent}",
        run=record,
        is_open=record.closed_at is None,
        waits=await waits_of(client, detail.waiting_for, tenant=caller.tenant),
        in_words=detail.in_words,
        answer=detail.output,
        asked=asked,
        asked_line=asked_in_words(asked),
        used=(await overview.progress([record]))[run],
        below=below,
        tick=tick,
        resumed_by=await overview.resumed_by(record),
        has_thread=await _has_thread(client, record),
        can_fork=not record.agent.startswith("toolbox:"),
        picture=drawn,
        taken_over=sum(taken_over(record, step) for step in outline),
        is_cut=len(outline) == MOST_STEPS,
        rows=rows,
        count=max(outline[-1].number if outline else 0, len(outline)),
        after=after,
        size=STEPS,
        place=place_in_story(outline, statuses),
        temporal=await temporal_link(settings, run),
    )


@router.get("/runs/{run}/steps/{number}")
async def step_page(request: Request, run: RunId, number: StepNumber, client: TheClient, caller: Viewer) -> Response:
    """One step, with its whole arguments and output."""
    record = await client.run_record(run, tenant=caller.tenant)
    step = await Journal(client.require_ledger()).get(run, number)
    (row,) = await _shown(client, record, [step], await _below(client, record))
    place = await Overview(client.require_ledger()).place_of(record, number)
    return page(
        request,
        "step.html",
        title=f"Step {number} of {record.agent}",
        run=record,
        row=row,
        whole=await step_detail(client, step),
        place=place,
        can_fork=place is not None and step.name != CALLER and not record.agent.startswith("toolbox:"),
        needs_input=step.kind == "model_call" and not row.view.calls,
        back_to=_link(run, number, None),
    )


async def temporal_link(settings: Settings, run: str) -> str | None:
    """Where Temporal's own UI shows a run; None: it is not known where that is."""
    root, namespace = settings.temporal.ui, settings.temporal.namespace
    if root is None and settings.temporal.address is None and settings.temporal.profile is None:
        stack = await asyncio.to_thread(read_stack, settings)
        if stack is not None:
            root, namespace = stack.ui, stack.namespace
    if root is None:
        return None
    return f"{root.rstrip('/')}/namespaces/{quote(namespace, safe='')}/workflows/{quote(run, safe='')}"


async def _rows(client: Client, record: RunRecord, after: int, below: list[Below]) -> list[StepRow]:
    found = await Journal(client.require_ledger()).of_run(record.id, after=after, limit=STEPS)
    return await _shown(client, record, found, below)


async def _shown(client: Client, record: RunRecord, steps: list[StepRecord], below: list[Below]) -> list[StepRow]:
    asked = await Approvals(client.require_ledger()).list(status=None, run=record.id, limit=MOST_QUESTIONS)
    # Newest first: of several questions about one step the one that counts now is kept.
    questions = {number: one.id for one in reversed(asked) for number in {one.step, one.guards}}
    handed = {one.run.parent_step: one.run.id for one in below if one.run.parent_run == record.id}
    return [
        StepRow(
            record=step,
            view=step_view(step),
            sign=KINDS[step.kind][0],
            kind=KINDS[step.kind][1],
            status=step_status(step.kind, step.status, step.output),
            effect=effect_state(step.kind, step.status, step.effect),
            question=questions.get(step.number),
            handed_to=handed.get(step.number),
            partial=step.partial if step.status == "claimed" else None,
            took=took(step.claimed_at, step.settled_at),
        )
        for step in steps
    ]


async def _below(client: Client, record: RunRecord) -> list[Below]:
    """The runs of sub-agents below a run, each after the one that handed it its task."""
    found: dict[str, list[RunRecord]] = {}
    level, count = [record.id], 0
    for _ in range(MOST_DEEP):
        following: list[str] = []
        for parent in level:
            children = await client.runs(tenant=record.tenant, parent=parent, limit=MOST_BELOW - count)
            count += len(children)
            found[parent] = sorted(children, key=lambda run: (run.parent_step or 0, run.created_at))
            following += [child.id for child in children]
            if count >= MOST_BELOW:
                following = []
                break
        level = following
        if not level:
            break
    return list(_in_order(found, record.id, 0))


def _in_order(found: dict[str, list[RunRecord]], parent: str, depth: int) -> list[Below]:
    shown: list[Below] = []
    for run in found.get(parent, ()):
        shown += [Below(run, depth), *_in_order(found, run.id, depth + 1)]
    return shown


async def _has_thread(client: Client, record: RunRecord) -> bool:
    try:
        await client.thread_record(record.thread_id, tenant=record.tenant)
    except NotFound:
        return False
    return True


def _page_of(number: int) -> int:
    return (number - 1) // STEPS * STEPS


def _link(run: str, number: int, after: int | None) -> str:
    """Of a step in the list; on the page that is open already, without loading it again."""
    here = _page_of(number)
    place = "" if here == after else f"/runs/{quote(run, safe='')}?after={here}"
    return f"{place}#step-{number}"
