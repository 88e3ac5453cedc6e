"""`horarium routine preview`: what a routine would do, before anything is saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from horarium.cli import routine_words, talk, times, words
from horarium.cli.evidence import moment
from horarium.cli.reach import opened_ledger
from horarium.cli.rows import Row, print_rows
from horarium.cli.start import JsonOption
from horarium.cli.times import ZoneOption
from horarium.durations import words as length
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
UNKNOWN = timedelta(minutes=1)  # how long a tick takes, before there was one
ALIKE = 4  # fires in a row with nothing to say, before they are said in one line
STYLES = {"runs": "", "skipped": "yellow", "missed": "red", "cancelled": "yellow"}


@dataclass(frozen=True, slots=True)
class Subject:
    """What is previewed: a file, or what is deployed, and how long its ticks took."""

    routine: Routine
    origin: str
    record: RoutineRecord | None
    took: tuple[timedelta, ...]
    open_tick: TickRecord | None


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
    Exit codes: 0 done, 2 there is none, its file is wrong or you typed it wrong, 3 cannot reach the ledger.

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
    shown = _Shown(routine, zone, away)
    out.print(Text(f"{routine.name}, {subject.origin}", style="bold"))
    for line in (*_head(subject, each, why), *([shown.outage()] if away else [])):
        out.print(Text(f"  {line}"), soft_wrap=not out.is_terminal)
    out.print()
    _print(shown, reckoned, gaps, limit)
    until = times.shown(dues[-1].at if more else end, shown.zone(None))
    out.print(Text(f"{_sum(reckoned)}, until {until}{'; reckoned no further' if more else ''}."))
    for line in _remarks(subject, reckoned):
        out.print(Text(line), soft_wrap=not out.is_terminal)
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


# ---- in words


def _head(subject: Subject, each: timedelta, why: str) -> Iterator[str]:
    routine, record = subject.routine, subject.record
    for name, trigger in routine.triggers.items():
        yield f"{name}: {routine_words.when(routine, trigger)}"
    yield f"Each tick is taken to take {length(each)}{why}."
    yield routine_words.OVERLAP[routine.overlap]
    if routine.jitter:
        yield f"Each begins somewhere within {length(routine.jitter)} after its time; that is left out below."
    if record is not None and record.paused:
        until = f" until {record.paused_until:%Y-%m-%d %H:%M} UTC" if record.paused_until else ""
        yield f"It is paused{until}; below is what it would do if it were not."
    if record is not None and record.held_by:
        yield f"Tick {record.held_by} holds it: until its approval is decided, none of this begins."
    elif subject.open_tick is not None:
        yield f"A tick is {subject.open_tick.status} now ({subject.open_tick.id}); that is left out below."


@dataclass(frozen=True, slots=True)
class _Shown:
    """How moments are shown, and what happens at each."""

    routine: Routine
    named: str | None
    away: Outage | None

    def zone(self, trigger: str | None) -> Any:
        """The zone of a trigger, unless one was asked for."""
        return times.zone_of(self.named or routine_words.zone_name(self.routine, trigger))

    def outage(self) -> str:
        """The outage, in words."""
        assert self.away is not None
        zone = self.zone(None)
        span = f"{times.shown(self.away.start, zone)} to {times.shown(self.away.end, zone)}"
        return f"Everything is down for {length(self.away.length)}: {span}."

    def at(self, due: Due) -> str:
        """When it fires."""
        return times.shown(due.at, self.zone(due.triggers[0]))

    def clock(self, at: datetime, near: datetime, trigger: str) -> str:
        """The time; with its date when that is another one."""
        zone = self.zone(trigger)
        local, other = at.astimezone(zone), near.astimezone(zone)
        text = f"{local:%H:%M}" + (f":{local:%S}" if local.second else "")
        return text if local.date() == other.date() else f"{local:%a %m-%d} {text}"

    def what(self, tick: Reckoned) -> str:
        """What becomes of a fire."""
        trigger = tick.due.triggers[0] if tick.due else ""

        def clock(at: datetime | None) -> str:
            return self.clock(at, tick.at, trigger) if at is not None else "?"

        match tick.fate:
            case "missed":
                late = length((tick.opens_at or tick.at) - tick.at)
                most = length(self.routine.catch_up) if self.routine.catch_up else "0s"
                return f"missed: it would come {late} late, and `catch_up` is {most}"
            case "skipped" if tick.because == "waits_already":
                return f"skipped: the tick of {clock(tick.other)} waits already"
            case "skipped" if tick.because == "too_many":
                return "skipped: too many ticks wait already"
            case "skipped":
                late = self._late(tick, clock)
                return f"skipped{late}: the tick of {clock(tick.other)} is not done"
            case "cancelled":
                return f"does not begin: the tick of {clock(tick.other)} takes its place"
        return self._runs(tick, clock)

    def _late(self, tick: Reckoned, clock: Any) -> str:
        return f", at {clock(tick.opens_at)} when all is up again" if tick.opens_at != tick.at else ""

    def _runs(self, tick: Reckoned, clock: Any) -> str:
        waited = tick.begins_at != tick.opens_at
        if tick.begins_at == tick.at:
            said = "runs"
        else:
            late = length((tick.begins_at or tick.at) - tick.at)
            why = "once the one before is done" if waited else "when all is up again"
            said = f"runs at {clock(tick.begins_at)}, {late} late, {why}"
        end = clock(tick.ends_at)
        match tick.ending:
            case "done":
                said += f", until {end}"
            case "timeout":
                said += f", fails at {end}: `timeout` is {length(self.routine.timeout)}"
            case "cancelled" | "terminated":
                said += f", until {end}, when the tick of {clock(tick.other)} ends it"
        return said + (", or is missed: a moment decides" if tick.narrow else "")


def _print(shown: _Shown, reckoned: Sequence[Reckoned], gaps: Sequence[Due], limit: int) -> None:
    several = len(shown.routine.timed) > 1
    items: list[tuple[datetime, Reckoned | Due]] = [(tick.at, tick) for tick in reckoned]
    items = sorted([*items, *((gap.at, gap) for gap in gaps)], key=lambda item: item[0])
    rows: list[Row] = []
    plain: list[Row] = []

    def flush() -> None:
        if len(plain) > ALIKE:
            blank = [""] * (len(plain[0][0]) - 1)
            rows.extend([plain[0], (["   …", *blank[1:], f"{len(plain) - 2:,} more alike"], ()), plain[-1]])
        else:
            rows.extend(plain)
        plain.clear()

    for _, item in items:
        row, quiet = _row(shown, item, several)
        if quiet and len(reckoned) > limit:
            plain.append(row)
        else:
            flush()
            rows.append(row)
    flush()
    if not rows:
        talk.out().print(Text("No fire."))
        return
    print_rows(("fire", *(["trigger"] if several else []), "what happens"), rows[:limit])
    if len(rows) > limit:
        talk.out().print(Text(f"   … and {len(rows) - limit:,} more lines; see them with --limit"))
    talk.out().print()


def _row(shown: _Shown, item: Reckoned | Due, several: bool) -> tuple[Row, bool]:
    """A line, and whether there is nothing about it that one would want to know."""
    due = item.due if hasattr(item, "due") else item
    assert due is not None
    triggers = [", ".join(due.triggers)] if several else []
    if item is due:
        return ((shown.at(due), *triggers, Text("no fire", style="yellow")), (due.note,)), False
    what = Text(shown.what(item), style=STYLES[item.fate])  # type: ignore[arg-type,union-attr]
    quiet = not due.note and item.begins_at == due.at and item.ending == "done"  # type: ignore[union-attr]
    return ((shown.at(due), *triggers, what), (due.note,) if due.note else ()), quiet


def _sum(reckoned: Sequence[Reckoned]) -> str:
    counts = {fate: sum(tick.fate == fate for tick in reckoned) for fate in ("runs", "skipped", "missed", "cancelled")}
    late = sum(tick.begins_at is not None and tick.begins_at > tick.at for tick in reckoned)
    names = {"runs": "run", "skipped": "skipped", "missed": "missed", "cancelled": "never begin"}
    said = [f"{number:,} {names[fate]}" for fate, number in counts.items() if number]
    if late:
        said[0] += f" ({late:,} of them late)"
    return f"{words.plural(len(reckoned), 'fire')}{': ' if said else ''}{', '.join(said)}"


def _remarks(subject: Subject, reckoned: Sequence[Reckoned]) -> Iterator[str]:
    routine = subject.routine
    events = [name for name in routine.triggers if name not in routine.timed]
    if events:
        yield f"Not reckoned: ticks that events set off ({', '.join(events)})."
    close = sum(
        later.begins_at is not None and earlier.ends_at is not None and timedelta(0) <= gap <= routine.jitter
        for earlier, later in zip(reckoned, reckoned[1:], strict=False)
        if (gap := later.at - (earlier.ends_at or later.at))
    )
    if routine.jitter and close:
        yield f"{words.plural(close, 'fire')} come less than the jitter after the one before ends: they may meet."


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
    trigger = due.triggers[0] if due else None
    local = tick.at.astimezone(times.zone_of(routine_words.zone_name(routine, trigger)))
    return {
        "tick": tick.id,
        "at": moment(tick.at),
        "local": moment(local),
        "triggers": due.triggers if due else (),
        "note": due.note or None if due else None,
        "fate": tick.fate,
        "because": tick.because,
        "other": moment(tick.other),
        "perhaps_missed": tick.narrow,
        "opens_at": moment(tick.opens_at),
        "begins_at": moment(tick.begins_at),
        "ends_at": moment(tick.ends_at),
        "ending": tick.ending if tick.begins_at else None,
    }
