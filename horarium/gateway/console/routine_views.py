"""What pages say of a routine: how it stands, when it fires next, and how its ticks went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from horarium.errors import ConfigError, HorariumError
from horarium.gateway.console import strip
from horarium.ledger.lateness import allowance
from horarium.ledger.routines import RoutineRecord
from horarium.ledger.ticks import TickMark
from horarium.localtimes import read_time
from horarium.previews import Asked, Preview, PreviewedFire, Previewer, what_happens
from horarium.routine_words import paused, zone_name
from horarium.routines import Routine

YEARS = (1970, 9000)  # that a form may name, as the REST routes have it
FAR = timedelta(days=5 * 366)  # how far ahead the next fires are looked for


@dataclass(frozen=True, slots=True)
class State:
    """One thing that there is to know of how a routine stands, as a badge."""

    kind: str  # of the badge
    word: str


@dataclass(frozen=True, slots=True)
class Coming:
    """When a routine fires, in words, and its next fires. `problem`: why that cannot be said."""

    words: tuple[str, ...]
    fires: tuple[PreviewedFire, ...]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A routine in the list."""

    record: RoutineRecord
    states: tuple[State, ...]
    coming: Coming
    next_local: str | None  # its next fire, on its clock
    paused: str  # by whom, and why
    squares: tuple[strip.Square, ...]
    summary: str
    latest: TickMark | None
    kind: strip.Kind | None
    late: timedelta | None  # by how much the latest one began too late
    why: str  # the reason of the latest one; empty where it went well


def zone_of(name: str) -> ZoneInfo:
    """The time zone of this name.

    Raises:
        ConfigError: There is none.
    """
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError) as error:
        raise ConfigError(f"There is no time zone {name!r}.", hint="Use an IANA name, as in Europe/London.") from error


def home_of(routine: Routine) -> ZoneInfo:
    """The time zone in which a routine's times are shown; UTC where this machine does not know its own."""
    try:
        return zone_of(zone_name(routine))
    except ConfigError:
        return ZoneInfo("UTC")


def typed_time(said: str | None, zone: ZoneInfo, field: str) -> datetime | None:
    """The moment that somebody typed, on the clock of a zone; None for none.

    Raises:
        ConfigError: It is no time, or not one moment, because clocks change; or of a year that nobody means.
    """
    try:
        moment = None if said is None else read_time(said, zone, field)
    except OverflowError:
        raise ConfigError(f"{field}: {said!r} is no time that there is on every clock.") from None
    if moment is not None and not YEARS[0] <= moment.year <= YEARS[1]:
        raise ConfigError(f"{field}: a time is of the years {YEARS[0]} to {YEARS[1]}.")
    return moment


def states(record: RoutineRecord) -> tuple[State, ...]:
    """How it stands; at least one."""
    found: list[State] = []
    if record.paused:
        found.append(State("paused", "paused"))
    if record.held_by:
        found.append(State("held", "held by an approval"))
    if record.failures:
        found.append(State("failed", f"failed {record.failures} times in a row" if record.failures > 1 else "failed"))
    elif record.failing_since:
        found.append(State("failed", "failing"))
    if record.applied != record.generation:
        found.append(State("queued", "not in Temporal yet"))
    return tuple(found) or (State("active", "ready"),)


def coming(
    record: RoutineRecord, now: datetime, most: int, calendar: Previewer, takes: timedelta = timedelta(seconds=1)
) -> Coming:
    """When it fires, and its next fires; none while it is paused without an end. It computes and blocks."""
    is_shut = record.paused and record.paused_until is None
    after = max(now, record.paused_until) if record.paused and record.paused_until else now
    try:
        found = calendar(record.routine, Asked(after, FAR, takes, most=most))
    except HorariumError as error:
        return Coming((), (), error.message)
    words = tuple(trigger.words for trigger in found.triggers) or ("When somebody says so",)
    return Coming(words, () if is_shut else found.fires)


def row(record: RoutineRecord, ticks: Sequence[TickMark], coming: Coming) -> Row:
    """A routine in the list; `ticks`: its latest ones, newest first."""
    allowed, home = allowance(record.routine), home_of(record.routine)
    squares = tuple(strip.strip(ticks, allowed, home))
    latest = ticks[0] if ticks else None
    late = strip.lateness(latest) if latest else None
    kind = strip.kind_of(latest, allowed) if latest else None
    fires = coming.fires
    return Row(
        record=record,
        states=states(record),
        coming=coming,
        next_local=on_clock(fires[0].at, zone_of_trigger(record.routine, fires[0].triggers)) if fires else None,
        paused=paused(record),
        squares=squares,
        summary=strip.in_words(squares),
        latest=latest,
        kind=kind,
        late=late if late is not None and late > allowed else None,
        why=strip.why_of(latest) if latest and kind not in strip.WENT_WELL else "",
    )


@dataclass(frozen=True, slots=True)
class FireLine:
    """One fire of a preview, in words."""

    at: datetime
    local: str
    triggers: str
    what: str
    note: str | None
    fate: str  # as previewed, or `no_fire`


def fire_lines(routine: Routine, preview: Preview) -> list[FireLine]:
    """The fires of a preview in order, and the times at which clocks leave one out."""
    lines = [fire_line(routine, fire) for fire in preview.fires]
    lines += [
        FireLine(
            gap.at,
            on_clock(gap.at, zone_of_trigger(routine, gap.triggers)),
            ", ".join(gap.triggers),
            "no fire",
            gap.note,
            "no_fire",
        )
        for gap in preview.no_fires
    ]
    return sorted(lines, key=lambda line: line.at)


def fire_line(routine: Routine, fire: PreviewedFire) -> FireLine:
    """One fire."""
    zone = zone_of_trigger(routine, fire.triggers)

    def near(at: datetime | None) -> str:
        if at is None:
            return "?"
        local, day = at.astimezone(zone), fire.at.astimezone(zone).date()
        text = f"{local:%H:%M}" + (f":{local:%S}" if local.second else "")
        return text if local.date() == day else f"{local:%a %d %b} {text}"

    what = what_happens(routine, fire, near)
    return FireLine(fire.at, on_clock(fire.at, zone), ", ".join(fire.triggers), what, fire.note, fire.fate)


def zone_of_trigger(routine: Routine, triggers: Sequence[str]) -> ZoneInfo:
    """The zone in which a fire of these triggers is shown."""
    try:
        return zone_of(zone_name(routine, triggers[0] if triggers else None))
    except ConfigError:
        return ZoneInfo("UTC")


def on_clock(at: datetime, zone: ZoneInfo) -> str:
    """`Sat 21 Nov 2026 06:00 GMT`."""
    local = at.astimezone(zone)
    return f"{local:%a} {local.day} {local:%b %Y %H:%M}" + (f":{local:%S}" if local.second else "") + f" {local:%Z}"


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)
