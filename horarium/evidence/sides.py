"""The two sides of a difference, as the ledger has them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from horarium.content import canonical, shorten
from horarium.errors import NotFound, RoutineNotFound, RunNotFound, ThreadNotFound
from horarium.ledger.database import Ledger
from horarium.ledger.evidence import Row, RunEvidence
from horarium.ledger.ticks import TickRecord, Ticks
from horarium.ledger.workspaces import Workspaces
from horarium.tickdiff import Difference, Side, SideStep, difference
from horarium.turns import stored_turn

SHOWN_CHARS = 400  # of a call's output
LOOKED_THROUGH = 1_000  # ticks, for one that is named by a part of its id


async def diff_runs(ledger: Ledger, before: str, after: str, *, tenant: str | None = None) -> Difference:
    """What is different between two runs; `tenant`: whose they have to be.

    Raises:
        RunNotFound: There is none, or it is another tenant's.
    """
    one, other = [await run_side(ledger, run, tenant=tenant) for run in (before, after)]
    return await asyncio.to_thread(difference, one, other)


async def diff_ticks(
    ledger: Ledger, routine: str, before: str | None = None, after: str | None = None, *, tenant: str | None = None
) -> Difference:
    """What is different between two ticks of a routine; of those that are not named, the last ones that began.

    Raises:
        RoutineNotFound: There is no such tick of this routine.
        NotFound: It has no two such ticks yet.
    """
    found = await Ticks(ledger).list(routine=routine, tenant=tenant, limit=LOOKED_THROUGH)
    first = _named(found, before, routine) if before is not None else None
    begun = [tick for tick in found if tick.run_id is not None and tick != first]
    second = _named(found, after, routine) if after is not None else next(iter(begun), None)
    if first is None and second is not None:
        earlier = found[found.index(second) + 1 :]
        first = next((tick for tick in earlier if tick in begun), None)
    if first is None or second is None:
        raise NotFound(f"Routine {routine!r} has no two ticks that began.", hint="Name two, or wait for the next one.")
    one, other = [await tick_side(ledger, tick) for tick in (first, second)]
    return await asyncio.to_thread(difference, one, other)


def _named(ticks: Sequence[TickRecord], said: str, routine: str) -> TickRecord:
    begins = (said, f"routine.{routine}-{said}")
    exactly = [tick for tick in ticks if tick.id in begins]
    found = exactly or [tick for tick in ticks if tick.id.startswith(begins)]
    if len(found) != 1:
        said = f"{said!r} begins the ids of {len(found)} ticks" if found else f"There is no tick {said!r}"
        raise RoutineNotFound(f"{said} of {routine!r}.", hint=f"See them: horarium routine ticks {routine}")
    return found[0]


async def run_side(ledger: Ledger, run: str, *, tenant: str | None = None) -> Side:
    """A run, with its calls, its answer, and the files of its thread when it ended.

    Raises:
        RunNotFound: There is none, or it is another tenant's.
    """
    evidence = RunEvidence(ledger)
    rows = await evidence.of_run(run, tenant=await evidence.tenant_of(run, tenant))
    found, steps = rows.run, rows.steps
    begun, ended = found["opened_at"] or found["created_at"], found["closed_at"]
    turns = sum(step["kind"] == "model_call" and step["status"] == "completed" for step in steps)
    own = [message for message in rows.messages if message.run_id == run]
    return Side(
        id=run,
        run=run,
        agent=found["agent"],
        version=found["version"],
        status=found["status"],
        reason=found["reason"],
        message=found["message"],
        started_at=begun,
        took=ended - begun if ended is not None else None,
        attempts=1,
        turns=found["turns"] if ended is not None else turns,
        # From the steps: the run's own figures are written when it ends.
        input_tokens=sum(step["input_tokens"] for step in steps),
        output_tokens=sum(step["output_tokens"] for step in steps),
        cost_micro_usd=sum(step["cost_micro_usd"] for step in steps),
        input=next((message.text for message in own if message.role == "user"), None),
        output=_answer(rows.messages, run) if ended is not None else "",
        definition=rows.agent["definition"] if rows.agent is not None else None,
        steps=[_call(step) for step in steps if step["kind"] in ("tool_call", "handoff")],
        files=await _files(ledger, found["thread_id"], found["tenant"], ended),
    )


async def tick_side(ledger: Ledger, tick: TickRecord) -> Side:
    """A tick: the run of its latest attempt, which has what earlier ones had settled, and the figures of all."""
    side = None
    if tick.run_id is not None:
        try:
            side = await run_side(ledger, tick.run_id, tenant=tick.tenant)
        except RunNotFound:
            side = None
    took = tick.closed_at - tick.started_at if tick.started_at and tick.closed_at else None
    is_closed = tick.closed_at is not None
    return Side(
        id=tick.id,
        run=tick.run_id if side else None,
        agent=side.agent if side else None,
        version=side.version if side else None,
        status=tick.status,
        reason=tick.reason,
        message=tick.message,
        started_at=tick.started_at,
        took=took,
        attempts=tick.attempts,
        turns=tick.turns if is_closed or side is None else side.turns,
        input_tokens=tick.input_tokens if is_closed or side is None else side.input_tokens,
        output_tokens=tick.output_tokens if is_closed or side is None else side.output_tokens,
        cost_micro_usd=tick.cost_micro_usd if is_closed or side is None else side.cost_micro_usd,
        input=tick.input,
        output=side.output if side else "",
        definition=side.definition if side else None,
        routine=tick.definition,
        steps=side.steps if side else (),
        files=side.files if side else {},
    )


def _answer(messages: Any, run: str) -> str:
    for message in reversed(messages):
        if message.role == "assistant" and message.run_id == run:
            return stored_turn(message.output or "{}").text
    return ""


def _call(step: Row) -> SideStep:
    settled, claimed = step["settled_at"], step["claimed_at"]
    output = step["output"]
    return SideStep(
        number=step["number"],
        name=step["name"],
        arguments=_canonical(step["arguments"]),
        status=step["status"],
        outcome=step["output_blob"] or output,
        shown=shorten(output, SHOWN_CHARS) if output is not None else None,
        took=settled - claimed if settled and claimed else None,
    )


def _canonical(arguments: str | None) -> str | None:
    """A call that was not made has its arguments as the model wrote them."""
    try:
        return canonical(json.loads(arguments)) if arguments is not None else None
    except ValueError:
        return arguments


async def _files(
    ledger: Ledger, thread: str, tenant: str, ended: datetime | None
) -> Mapping[str, tuple[int, str]] | None:
    """The files of a thread when a run in it ended, or now; None when that version is not kept any more."""
    workspaces = Workspaces(ledger)
    try:
        await workspaces.check(thread, tenant)
    except ThreadNotFound:
        return None
    versions = await workspaces.versions(thread)
    then = next((one.version for one in versions if ended is None or one.created_at <= ended), None)
    if then is None:
        return {} if not versions or versions[-1].version == 1 else None
    return {path: (entry.size, entry.digest) for path, entry in (await workspaces.manifest(thread, then)).items()}
