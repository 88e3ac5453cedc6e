"""`horarium routine preview`: what a routine would do, before anything is saved."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from horarium.cli import preview_words, routine_words, talk, times
from horarium.cli.evidence import moment
from horarium.cli.preview_words import Clock, Subject
from horarium.cli.reach import opened_ledger
from horarium.cli.routine_words import length
from horarium.cli.rows import indented
from horarium.cli.start import JsonOption
from horarium.cli.times import ZoneOption
from horarium.engine import use_engine
from horarium.errors import ConfigError, NotFound, Unreachable
from horarium.ledger.routines import RoutineRecord, Routines
from horarium.ledger.ticks import TickRecord, Ticks
from horarium.project import load_routine_files, load_routines
from horarium.routines import Routine
from horarium.settings import Settings

if TYPE_CHECKING:
    from schedules.preview import Due, Outage, Reckoned

LOOKED_AT = 10  # of the latest ticks, for how long one takes
UNKNOWN = timedelta(seconds=30)  # how long a tick takes, before there was one


def preview(
    routine: Annotated[str, typer.Argument(metavar="NAME|FILE", help="One that is deployed, or a file that is not.")],
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="ISO 8601, else local to --zone. Default: now.")
    ] = None,
    days: Annotated[float, typer.Option(min=0.01, max=3660, help="How far to look.")] = 7,
    takes: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long a tick takes. Default: as the last ones did.")
    ] = None,
    outage: Annotated[
        str | None, typer.Option(metavar="DURATION", help="What if everything is down for so long, e.g. 2h.")
    ] = None,
    outage_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="When that begins. Default: at the first fire.")
    ] = None,
    zone: ZoneOption = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Lines to show.")] = 40,
    as_json: JsonOption = False,
) -> None:
    """Show what a routine would do: its fires with clock changes, and what overlap and an outage make of them.

    Nothing is saved and nothing is started; a file needs no server. Times are in the routine's zone, or in --zone.

    \b
    Exit codes: 0 done, 2 there is none, its file is wrong or you typed it wrong,
    3 cannot reach the ledger.

    \b
    Examples:
      horarium routine preview routines/nightly-triage.yaml
      horarium routine preview nightly-triage --from 2027-03-26T00:00Z --days 4
      horarium routine preview nightly-triage --takes 40m --outage 2h
    """
    use_engine()
    talk.perform(_preview(routine, start, days, takes, outage, outage_at, zone, limit, as_json=as_json))


async def _preview(
    said: str,
    start: str | None,
    days: float,
    takes: str | None,
    outage: str | None,
    outage_at: str | None,
    zone: str | None,
    limit: int,
    *,
    as_json: bool,
) -> int:
    from schedules.preview import Outage, dues_of, gaps_of, reckon

    where = times.zone_of(zone)
    begin = times.read_time(start, where, "--from") if start is not None else datetime.now(UTC)
    if outage_at is not None and outage is None:
        raise ConfigError("--outage-at says when, and --outage is missing.", hint="Add e.g. --outage 2h.")
    subject = await _subject(said)
    routine = subject.routine
    end = begin + timedelta(days=days)
    dues, more = dues_of(routine, begin, end)
    each, why = _takes(subject, takes)
    away: Outage | None = None
    if outage is not None:
        first = dues[0].at if dues else begin
        down = times.read_time(outage_at, where, "--outage-at") if outage_at is not None else first
        away = Outage(down, down + times.read_duration(outage, "--outage"))
    reckoned = reckon(routine, dues, each, away)
    gaps = [gap for gap in gaps_of(routine, begin, end) if not more or not dues or gap.at <= dues[-1].at]
    if as_json:
        talk.emit(_json(subject, begin, end, each, away, reckoned, gaps, more))
        return talk.DONE
    out = talk.out()
    clock = Clock(routine, zone)
    out.print(Text(f"{routine.name}, {subject.origin}", style="bold"))
    for line in preview_words.head(subject, each, why):
        indented(line)
    if away is not None:
        indented(preview_words.outage_words(clock, away), style="bold")
    out.print()
    preview_words.print_fires(clock, reckoned, gaps, limit)
    until = times.shown((dues[-1].at if more else end).replace(second=0), clock.zone())
    indented(f"{preview_words.summary(reckoned)}, until {until}{'; reckoned no further' if more else ''}.", 0)
    for line in preview_words.remarks(routine, reckoned):
        indented(line, 0)
    return talk.DONE


async def _subject(said: str) -> Subject:
    """The file of this path, the deployed routine of this name, or the project's file of this name.

    Raises:
        NotFound: There is none of these.
        ConfigError: The file is wrong.
    """
    settings = Settings.load()
    path = Path(said)
    if path.suffix in (".yaml", ".yml") or "/" in said:
        [(name, file)] = load_routine_files(settings, [path]).items()
        with_ticks = await _deployed(settings, name, quietly=True)
        return _of_file(file.routine, f"as in {file.shown}", with_ticks)
    try:
        found = await _deployed(settings, said)
    except NotFound:
        routine = load_routines(settings).get(said)
        if routine is None:
            raise
        return _of_file(routine, "as in its file; it is not deployed", None)
    if found is None:
        raise NotFound(f"There is no routine {said!r}.")
    record, ticks, open_tick = found
    return Subject(record.routine, "as deployed", record, _took(ticks), open_tick)


def _of_file(
    routine: Routine, origin: str, deployed: tuple[RoutineRecord, list[TickRecord], TickRecord | None] | None
) -> Subject:
    ticks = deployed[1] if deployed is not None else []
    return Subject(routine, origin, None, _took(ticks), None)


async def _deployed(
    settings: Settings, name: str, *, quietly: bool = False
) -> tuple[RoutineRecord, list[TickRecord], TickRecord | None] | None:
    try:
        async with opened_ledger(settings) as ledger:
            record = await Routines(ledger).get(name)
            done = await Ticks(ledger).list(routine=name, status=["completed", "failed"], limit=LOOKED_AT)
            now = await Ticks(ledger).list(routine=name, status=["running", "parked"], limit=1)
            return record, done, now[0] if now else None
    except (NotFound, Unreachable):
        if quietly:
            return None
        raise


def _took(ticks: Sequence[TickRecord]) -> tuple[timedelta, ...]:
    return tuple(tick.closed_at - tick.started_at for tick in ticks if tick.started_at and tick.closed_at)


def _takes(subject: Subject, said: str | None) -> tuple[timedelta, str]:
    """How long each tick is taken to take, and why."""
    if said is not None:
        each = times.read_duration(said, "--takes")
        return each, ""
    if not subject.took:
        return UNKNOWN, " (none has run yet; say --takes 40m)"
    each = timedelta(seconds=max(1, round(median(took.total_seconds() for took in subject.took))))
    longest = max(subject.took)
    more = f"; the longest took {length(longest)}" if longest > each * 1.5 else ""
    return each, f" (the middle of the last {len(subject.took)}{more})"


def _json(
    subject: Subject,
    begin: datetime,
    end: datetime,
    each: timedelta,
    away: Outage | None,
    reckoned: Sequence[Reckoned],
    gaps: Sequence[Due],
    more: bool,
) -> dict[str, Any]:
    routine = subject.routine
    return {
        "routine": routine.name,
        "origin": subject.origin,
        "from": moment(begin),
        "until": moment(end),
        "reckoned_to_the_end": not more,
        "takes_seconds": each.total_seconds(),
        "overlap": routine.overlap,
        "catch_up_seconds": routine.catch_up.total_seconds(),
        "jitter_seconds": routine.jitter.total_seconds(),
        "outage": {"start": moment(away.start), "end": moment(away.end)} if away else None,
        "fires": [_tick_json(routine, tick) for tick in reckoned],
        "no_fires": [{"at": moment(gap.at), "triggers": gap.triggers, "note": gap.note} for gap in gaps],
    }


def _tick_json(routine: Routine, tick: Reckoned) -> dict[str, Any]:
    due = tick.due
    local = tick.at.astimezone(times.zone_of(routine_words.zone_name(routine, due.triggers[0])))
    return {
        "tick": tick.id,
        "at": moment(tick.at),
        "local": moment(local),
        "triggers": due.triggers,
        "note": due.note or None,
        "fate": tick.fate,
        "because": tick.because,
        "other": moment(tick.other),
        "perhaps_missed": tick.narrow,
        "opens_at": moment(tick.opens_at),
        "begins_at": moment(tick.begins_at),
        "ends_at": moment(tick.ends_at),
        "ending": tick.ending if tick.begins_at else None,
    }
