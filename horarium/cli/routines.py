"""`horarium routine`: which routines there are, when they fire, and what became of their ticks.

Looking needs the ledger only; what changes a routine or has it run is in `routine_orders`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Annotated, Any, get_args
from zoneinfo import ZoneInfo

import typer
from rich.text import Text

from horarium.cli import preview, routine_orders, routine_starts, routine_words, talk, tick_diff, times, words
from horarium.cli.reach import opened_ledger
from horarium.cli.routine_import import export, import_
from horarium.cli.rows import Row, heading, indented, pairs, print_rows
from horarium.cli.start import JsonOption
from horarium.cli.times import ZoneOption
from horarium.contract import OPEN_TICK_STATUSES, TickStatus
from horarium.engine import use_engine
from horarium.errors import ConfigError
from horarium.ledger.database import Ledger
from horarium.ledger.routines import RoutineRecord, Routines
from horarium.ledger.ticks import TickRecord, Ticks
from horarium.problems import near_miss
from horarium.settings import Settings

app = typer.Typer(no_args_is_help=True, help="See routines and their ticks, try them out, run, pause and delete them.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The routine's name.")]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object a line.")]
FIRES_SHOWN = 5
STATE_SHOWN = 200  # characters of what it remembers


@app.command("list")
def list_(
    failing: Annotated[bool, typer.Option("--failing", help="Only those whose last ticks failed.")] = False,
    paused: Annotated[bool, typer.Option("--paused", help="Only those that are paused or held.")] = False,
    as_json: JsonLinesOption = False,
) -> None:
    """List routines: what sets each off, when it fires next, and how its latest tick went. Needs only the ledger.

    Times are in the routine's zone.

    \b
    Exit codes: 0 done, 3 cannot reach the ledger.

    \b
    Examples:
      horarium routine list
      horarium routine list --failing --json | jq -r .routine
    """
    use_engine()
    talk.perform(_list(failing=failing, paused=paused, as_json=as_json))


async def _list(*, failing: bool, paused: bool, as_json: bool) -> int:
    now = datetime.now(UTC)
    async with opened_ledger() as ledger:
        every = await Routines(ledger).list()
        found = [
            record
            for record in every
            if (not failing or record.failures or record.failing_since)
            and (not paused or record.paused or record.held_by)
        ]
        latest = {record.name: await _latest(ledger, record.name) for record in found}
    if as_json:
        for record in found:
            coming = _next_fire(record, now)
            talk.emit(routine_words.routine_json(record, coming[0] if coming else None, latest[record.name]))
    elif found:
        print_rows(
            ("routine", "next", "latest tick", "state"),
            [_list_row(record, latest[record.name], now) for record in found],
        )
    elif every:
        talk.say(f"None of {words.plural(len(every), 'routine')}. See all: horarium routine list")
    else:
        talk.say("No routines. Write routines/NAME.yaml, then: horarium apply")
    return talk.DONE


def _list_row(record: RoutineRecord, latest: TickRecord | None, now: datetime) -> Row:
    coming = _next_fire(record, now)
    row: list[str | Text] = [
        record.name,
        times.shown(*coming) if coming else "-",
        Text(routine_words.outcome(latest), style=routine_words.STYLES.get(latest.status, "")) if latest else "never",
        routine_words.state(record, coming[1] if coming else UTC),
    ]
    routine = record.routine
    return row, [f"{routine_words.agent(routine)}: {routine_words.all_triggers(routine)}"]


def _next_fire(record: RoutineRecord, now: datetime) -> tuple[datetime, ZoneInfo | None] | None:
    """When it fires next, and the zone to show that in; None when nothing sets it off any more."""
    from schedules.expected import expected

    if record.paused and record.paused_until is None:
        return None
    after = max(now, record.paused_until) if record.paused_until else now
    try:
        coming = expected(record.routine, after, datetime(9999, 1, 1, tzinfo=UTC), 1)
    except ConfigError:
        return None
    if not coming:
        return None
    return coming[0].at, times.zone_of(routine_words.zone_name(record.routine, coming[0].trigger))


async def _latest(ledger: Ledger, name: str) -> TickRecord | None:
    found = await Ticks(ledger).list(routine=name, limit=1)
    return found[0] if found else None


# ---- one routine


@app.command()
def show(name: NameArgument, zone: ZoneOption = None, as_json: JsonOption = False) -> None:
    """Show a routine: what sets it off, its next fires, its policy in plain sentences, and how it stands.

    Fires are shown in the routine's zone, and in yours: that of this machine, or --zone. Needs only the ledger.

    \b
    Exit codes: 0 done, 2 there is none, 3 cannot reach the ledger.

    \b
    Examples:
      horarium routine show nightly-triage
      horarium routine show nightly-triage --zone America/New_York
    """
    use_engine()
    talk.perform(_show(name, zone, as_json=as_json))


async def _show(name: str, zone: str | None, *, as_json: bool) -> int:
    from schedules.preview import next_dues

    settings = Settings.load()
    viewer = times.zone_of(zone)
    now = datetime.now(UTC)
    async with opened_ledger(settings) as ledger:
        record = await Routines(ledger).get(name)
        ticks = Ticks(ledger)
        open_ticks = await ticks.list(routine=name, status=OPEN_TICK_STATUSES, limit=3)
        seen = [await routine_words.TickSeen.read(ledger, tick) for tick in open_ticks]
        last = (
            await routine_words.TickSeen.read(ledger, await ticks.get(record.last_tick)) if record.last_tick else None
        )
        previous = await ticks.get(record.previous_tick) if record.previous_tick else None
        latest = await _latest(ledger, name)
    routine = record.routine
    after = max(now, record.paused_until) if record.paused_until else now
    dues = [] if record.paused and record.paused_until is None else next_dues(routine, after, FIRES_SHOWN)
    policy = list(routine_words.policy(routine, len(settings.routines.alert) + len(settings.routines.webhooks)))
    if as_json:
        said = routine_words.routine_json(record, dues[0].at if dues else None, latest)
        fires = [{"at": due.at.isoformat(), "triggers": due.triggers, "note": due.note or None} for due in dues]
        talk.emit(said | {"fires": fires, "policy": policy, "open": [tick.json() for tick in seen]})
        return talk.DONE
    out = talk.out()
    own = times.zone_of(routine_words.zone_name(routine))
    out.print(Text(f"Routine {record.name}", style="bold"))
    if routine.description:
        indented(words.one_line(routine.description))
    pairs(list(_header(record, seen, last, previous, own)))
    heading("When")
    pairs([(key, routine_words.when(routine, trigger)) for key, trigger in routine.triggers.items()])
    pairs(list(_limits(record, own)))
    heading("Next fires")
    _fires(record, dues, viewer, zone)
    heading("Policy")
    for sentence in policy:
        indented(sentence)
    for line in _links(record, seen):
        talk.say(line)
    return talk.DONE


def _header(
    record: RoutineRecord,
    seen: Sequence[routine_words.TickSeen],
    last: routine_words.TickSeen | None,
    previous: TickRecord | None,
    zone: ZoneInfo | None,
) -> Iterator[tuple[str, str]]:
    yield "agent", routine_words.agent(record.routine) + ("" if record.routine.version else " (the newest version)")
    yield "state", routine_words.state(record, zone) or "ready"
    if record.paused and (why := routine_words.paused(record)):
        yield "paused", why
    if record.failing_since:
        yield "failing", f"since {words.when(record.failing_since)}"
    if record.held_by:
        yield "held by", record.held_by
    for tick in seen:
        at = times.shown(tick.record.scheduled_at, zone)
        yield "now", f"the tick of {at} is {tick.record.status}: {tick.happened(zone)}"
    if last is not None:
        why = last.happened(zone)
        yield "last", f"{routine_words.outcome(last.record)}{f': {why}' if why else ''}"
    if previous is not None and (last is None or previous.id != last.record.id):
        yield "previous", f"{routine_words.outcome(previous)} ({previous.run_id})"
    if record.state:
        text = json.dumps(dict(record.state), ensure_ascii=False)
        cut = "…" if len(text) > STATE_SHOWN else ""
        yield "remembers", words.one_line(text[:STATE_SHOWN] + cut)
    if record.thread_id and record.routine.conversation == "continue":
        yield "thread", record.thread_id
    if record.routine.labels:
        yield (
            "labels",
            ", ".join(f"{words.one_line(key)}={words.one_line(value)}" for key, value in record.routine.labels.items()),
        )
    by = f" by {words.one_line(record.changed_by)}" if record.changed_by else ""
    came = "from a file" if record.managed_by == "files" else "by an order"
    yield "deployed", f"{words.when(record.changed_at)}{by}, {came}"


def _limits(record: RoutineRecord, zone: ZoneInfo | None) -> Iterator[tuple[str, str]]:
    routine = record.routine
    if not routine.triggers:
        yield "triggers", f"none: horarium routine run {record.name}"
    if routine.start:
        yield "start", f"no fire before {times.shown(routine.start, zone)}"
    if routine.end:
        yield "end", f"no fire after {times.shown(routine.end, zone)}"


def _fires(record: RoutineRecord, dues: Sequence[Any], viewer: tzinfo | None, named: str | None) -> None:
    routine = record.routine
    if not dues:
        why = "None: it is paused." if record.paused else "None: no trigger of time is left."
        talk.out().print(Text(f"  {why}"))
        return
    zones = {routine_words.zone_name(routine, trigger) for due in dues for trigger in due.triggers[:1]}
    rows: list[Row] = []
    for due in dues:
        zone = times.zone_of(routine_words.zone_name(routine, due.triggers[0]))
        row = [f"  {times.shown(due.at, zone)}", times.shown(due.at, viewer), ", ".join(due.triggers)]
        rows.append((row, [due.note] if due.note else []))
    columns = [f"  {zones.pop() if len(zones) == 1 else 'its zone'}", named or "here", "trigger"]
    if all(row[0].strip() == row[1] for row, _ in rows if isinstance(row[0], str)):
        columns.pop(1)
        rows = [((row[0], row[2]), below) for row, below in rows]
    print_rows(columns, rows)


def _links(record: RoutineRecord, seen: Sequence[routine_words.TickSeen]) -> Iterator[str]:
    yield f"Its ticks: horarium routine ticks {record.name}"
    asked = [item for tick in seen for item in tick.waits_for]
    if asked:
        yield f"Answer: horarium approvals show {asked[0].id}"
    elif seen and seen[0].record.run_id:
        yield f"Watch it: horarium runs watch {seen[0].record.run_id}"
    if record.paused:
        yield f"Let it fire again: horarium routine resume {record.name}"
    if record.applied != record.generation:
        yield "Bring it into Temporal: horarium apply"


# ---- ticks


@app.command()
def ticks(
    name: NameArgument,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 20,
    status: Annotated[
        list[str] | None,
        typer.Option(metavar="STATUS", help=f"Only these: {', '.join(get_args(TickStatus))}. May be repeated."),
    ] = None,
    zone: ZoneOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """List a routine's ticks, the newest first: what happened and why, also to those that did not run.

    Times are in the routine's zone, or in --zone. Needs only the ledger.

    \b
    Exit codes: 0 done, 2 there is no such routine, 3 cannot reach the ledger.

    \b
    Examples:
      horarium routine ticks nightly-triage
      horarium routine ticks nightly-triage --status failed --status missed
    """
    use_engine()
    wrong = [item for item in status or [] if item not in get_args(TickStatus)]
    if wrong:
        miss = near_miss(wrong[0], get_args(TickStatus))
        raise typer.BadParameter(f"{wrong[0]!r} is none{miss}", param_hint="--status")
    talk.perform(_ticks(name, limit, status or [], zone, as_json=as_json))


async def _ticks(name: str, limit: int, status: list[Any], zone: str | None, *, as_json: bool) -> int:
    async with opened_ledger() as ledger:
        record = await Routines(ledger).current(name)
        if record is None:
            record = await Routines(ledger).get(name)  # which says what there is
        found = await Ticks(ledger).list(routine=name, status=status, limit=limit)
        seen = [await routine_words.TickSeen.read(ledger, tick) for tick in found]
    if as_json:
        for tick in seen:
            talk.emit(tick.json())
        return talk.DONE
    named = zone or routine_words.zone_name(record.routine)
    if seen:
        talk.say(f"Times in {named}.")
        print_rows(("scheduled", "by", "status", "started", "late", "tries", "took"), _tick_rows(seen, named))
    else:
        talk.say(f"No ticks{' of this status' if status else ' yet'}. When it fires: horarium routine show {name}")
    return talk.DONE


def _tick_rows(seen: Sequence[routine_words.TickSeen], zone: str) -> list[Row]:
    where = times.zone_of(zone)
    rows: list[Row] = []
    for item in seen:
        tick = item.record
        row: list[str | Text] = [
            times.shown(tick.scheduled_at, where, named=False),
            routine_words.source(tick),
            Text(tick.status, style=routine_words.STYLES.get(tick.status, "")),
            f"{tick.started_at.astimezone(where):%H:%M:%S}" if tick.started_at else "-",
            words.span(tick.scheduled_at, tick.started_at),
            str(tick.attempts or "-"),
            words.span(tick.started_at, tick.closed_at),
        ]
        happened = item.happened(where)
        run = ", ".join(part for part in (tick.run_id, routine_words.spent(tick)) if part)
        rows.append((row, [line for line in (happened, run) if line]))
    return rows


app.command("preview")(preview.preview)
app.command("run")(routine_starts.run)
app.command("pause")(routine_orders.pause)
app.command("resume")(routine_orders.resume)
app.command("backfill")(routine_starts.backfill)
app.command("fire")(routine_starts.fire)
app.command("delete")(routine_orders.delete)
app.command("import")(import_)
app.command("export")(export)
app.command("diff")(tick_diff.routine_diff)
