"""What `horarium routine` has the engine begin: a tick now, those of a past range, those that an event sets off.

Each is an order that a worker obeys, as the same words from any other service would be.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.text import Text
from temporalio.client import WorkflowFailureError
from temporalio.service import RPCError

from horarium.cli import evidence, routine_words, talk, times, words
from horarium.cli.reach import opened_client, opened_ledger
from horarium.cli.routine_orders import ByOption
from horarium.cli.rows import Row, print_rows
from horarium.cli.start import JsonOption
from horarium.cli.times import ZoneOption
from horarium.client import Client
from horarium.contract import RoutineOrder, RoutineOrdered
from horarium.engine import use_engine
from horarium.errors import RoutineNotFound, Unreachable
from horarium.ledger.database import Ledger
from horarium.ledger.lateness import Lateness
from horarium.ledger.routines import Routines
from horarium.ledger.runs import Runs
from horarium.ledger.ticks import DID_NOT_RUN, TickRecord, Ticks
from horarium.problems import near_miss
from horarium.routines import EventTrigger

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The routine's name.")]
LOOK = 0.3  # seconds between two looks at a tick that is waited for
IDS_SHOWN = 10
ENDED = {"skipped": "was skipped", "cancelled": "was cancelled", "missed": "was missed"}


# ---- run


def run(
    name: NameArgument,
    input: Annotated[
        str | None, typer.Option("--input", metavar="TEXT", help="Instead of the routine's template; - reads stdin.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="The same key is the same tick, however often it is asked for.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the tick's end and print the answer.")] = False,
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a tick now, also of a paused routine. It waits its turn where another one is not done.

    \b
    Exit codes: 0 done, 1 the tick did not complete (with --wait), 2 you typed it wrong,
    3 no worker answers, or cannot reach Temporal or the ledger.

    \b
    Examples:
      horarium routine run nightly-triage
      horarium routine run nightly-triage --input "Only the issues of today." --wait
    """
    asked = sys.stdin.read() if input == "-" else input
    if asked is not None and not asked.strip():
        raise typer.BadParameter("the input is empty", param_hint="--input")
    talk.perform(_run(name, asked, key, by, wait=wait, as_json=as_json))


async def _run(name: str, asked: str | None, key: str | None, by: str | None, *, wait: bool, as_json: bool) -> int:
    async with opened_client() as (client, ledger):
        record = await Routines(ledger).get(name)
        ordered = await client.run_routine(name, asked, key=key, tenant=record.tenant, by=by)
        tick = ordered.ticks[0]
        if wait:
            return await _waited(client, ledger, tick, as_json=as_json)
    if as_json:
        talk.emit(ordered.model_dump(mode="json"))
        return talk.DONE
    talk.out().print(Text(tick), soft_wrap=True)
    started = "Started" if ordered.changed else "This key had started a tick before:"
    talk.say(f"{started} {name}. See what comes of it: horarium routine ticks {name}")
    return talk.DONE


async def _waited(client: Client, ledger: Ledger, tick: str, *, as_json: bool) -> int:
    talk.say(f"Tick {tick}")
    ending = asyncio.ensure_future(client.temporal.get_workflow_handle(tick).result())
    said = ""
    try:
        while not ending.done():
            await asyncio.wait({ending}, timeout=LOOK)
            said = await _said_of(ledger, tick, said)
        await ending
    except WorkflowFailureError:
        pass  # it was cancelled, or ended in Temporal: the ledger says what became of it
    except RPCError as error:
        raise Unreachable(f"Temporal does not answer: {error.message}.", hint="Try: horarium doctor") from error
    except asyncio.CancelledError:
        talk.say("The tick goes on.")
        raise
    finally:
        ending.cancel()
    return await _ended(ledger, await Ticks(ledger).get(tick), as_json=as_json)


async def _said_of(ledger: Ledger, tick: str, before: str) -> str:
    """Say how the tick stands, when that is news."""
    with contextlib.suppress(RoutineNotFound):  # not opened yet
        seen = await routine_words.TickSeen.read(ledger, await Ticks(ledger).get(tick))
        happened = seen.happened(UTC)
        now = f"{seen.record.status}{f': {happened}' if happened else ''}"
        if seen.record.is_open and now != before:
            talk.say(now)
            if seen.waits_for:
                talk.say(f"Answer: horarium approvals show {seen.waits_for[0].id}")
        return now
    return before


async def _ended(ledger: Ledger, tick: TickRecord, *, as_json: bool) -> int:
    seen = await routine_words.TickSeen.read(ledger, tick)
    output = tick.output or ""
    if tick.run_id is not None and tick.status == "completed":
        output = await evidence.final_answer(ledger, await Runs(ledger).get(tick.run_id)) or output
    if as_json:
        talk.emit(seen.json() | {"output": output})
    elif output:
        print(words.harmless(output) if sys.stdout.isatty() else output, flush=True)
    if tick.status == "completed":
        return talk.DONE
    why = seen.happened(UTC)
    hint = f"See what it did: horarium runs show {tick.run_id}" if tick.run_id else None
    talk.problem(f"The tick {ENDED.get(tick.status, tick.status)}{f': {why}' if why else '.'}", hint)
    return talk.RUN_FAILED


# ---- backfill


def backfill(
    name: NameArgument,
    start: Annotated[str, typer.Option("--start", metavar="TIME", help="From here; ISO 8601, else local to --zone.")],
    end: Annotated[str | None, typer.Option("--end", metavar="TIME", help="Up to here. Default: now.")] = None,
    zone: ZoneOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show which ticks it would start.")] = False,
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a tick for each fire of a past range that has none, or that was missed or skipped. They run one after the
    other, in the order of their times.

    Safe to repeat: a fire has one tick. At most 1,000 at a time.

    \b
    Exit codes: 0 done, 2 you typed it wrong, 3 no worker answers, or cannot reach
    Temporal or the ledger.

    \b
    Examples:
      horarium routine backfill nightly-triage --start 2026-11-16T00:00Z --dry-run
      horarium routine backfill nightly-triage --start 2026-11-16T00:00 --zone Europe/London
    """
    use_engine()
    talk.perform(_backfill(name, start, end, zone, by, dry_run=dry_run, as_json=as_json))


async def _backfill(
    name: str, start: str, end: str | None, zone: str | None, by: str | None, *, dry_run: bool, as_json: bool
) -> int:
    where = times.zone_of(zone)
    now = datetime.now(UTC)
    begin = times.read_time(start, where, "--start")
    until = times.read_time(end, where, "--end") if end is not None else now
    if dry_run:
        return await _would_start(name, begin, until, zone, now, as_json=as_json)
    async with opened_client() as (client, ledger):
        record = await Routines(ledger).get(name)
        ordered = await client.backfill_routine(name, begin, until, tenant=record.tenant, by=by)
    if as_json:
        talk.emit(ordered.model_dump(mode="json"))
    else:
        _started(ordered)
        talk.say(f"See what comes of them: horarium routine ticks {name}")
    return talk.DONE


async def _would_start(
    name: str, begin: datetime, until: datetime, zone: str | None, now: datetime, *, as_json: bool
) -> int:
    from schedules.starts import starts_of_range

    async with opened_ledger() as ledger:
        record = await Routines(ledger).get(name)
        order = RoutineOrder(action="backfill", routine=name, start=begin, end=until)
        starts = await asyncio.to_thread(starts_of_range, record.routine, order, now)
        there = await Lateness(ledger).known([start.id for start in starts])
    would = [start for start in starts if start.id not in there or there[start.id].status in DID_NOT_RUN]
    if as_json:
        talk.emit({"routine": name, "would_start": [start.id for start in would], "fires": len(starts)})
        return talk.DONE
    named = zone or routine_words.zone_name(record.routine)
    rows: list[Row] = []
    for start in starts:
        tick = there.get(start.id)
        what = "would start" if tick is None or tick.status in DID_NOT_RUN else f"stays: {routine_words.outcome(tick)}"
        at = times.shown(start.request.at or now, times.zone_of(named), named=False)
        rows.append(((at, start.request.trigger or "", what), ()))
    if rows:
        talk.say(f"Times in {named}.")
        print_rows(("fire", "trigger", "backfill"), rows)
    talk.say(f"{words.plural(len(would), 'tick')} would be started, of {words.plural(len(starts), 'fire')}.")
    return talk.DONE


# ---- fire


def fire(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="The event's name, as in `{event: …}` of a trigger.")],
    payload: Annotated[
        str | None, typer.Option(metavar="JSON", help="An object: what templates get as `event`; - reads stdin.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="The same key sets a routine off once.")] = None,
    tenant: Annotated[str, typer.Option(help="Whose routines.")] = "default",
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that something happened: each routine with a trigger for this event begins a tick, unless it is paused.

    \b
    Exit codes: 0 done, also when no routine waits for it, 2 you typed it wrong,
    3 no worker answers, or cannot reach Temporal or the ledger.

    \b
    Examples:
      horarium routine fire github.issue.opened --payload '{"issue": {"number": 7}}' --key issue-7
      cat delivery.json | horarium routine fire github.issue.opened --payload -
    """
    given = _object(sys.stdin.read() if payload == "-" else payload) if payload is not None else None
    talk.perform(_fire(event, given, key, tenant, by, as_json=as_json))


async def _fire(
    event: str, payload: dict[str, Any] | None, key: str | None, tenant: str, by: str | None, *, as_json: bool
) -> int:
    async with opened_client() as (client, ledger):
        ordered = await client.fire_event(event, payload, key=key, tenant=tenant, by=by)
        known = {
            trigger.event
            for record in await Routines(ledger).list(tenant=tenant)
            for trigger in record.routine.triggers.values()
            if isinstance(trigger, EventTrigger)
        }
    if as_json:
        talk.emit(ordered.model_dump(mode="json"))
        return talk.DONE
    _started(ordered)
    if event not in known:
        miss = near_miss(event, sorted(known))
        talk.say(f"No routine waits for {event!r}{miss or '.'}")
    return talk.DONE


def _started(ordered: RoutineOrdered) -> None:
    out = talk.out()
    out.print(Text(ordered.message), soft_wrap=True)
    for tick in ordered.ticks[:IDS_SHOWN]:
        out.print(Text(f"  {tick}"), soft_wrap=True)
    if len(ordered.ticks) > IDS_SHOWN:
        out.print(Text(f"  and {len(ordered.ticks) - IDS_SHOWN:,} more"))


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"is not JSON: {error}", param_hint="--payload") from error
    if not isinstance(value, dict):
        raise typer.BadParameter("must be one JSON object", param_hint="--payload")
    return value
