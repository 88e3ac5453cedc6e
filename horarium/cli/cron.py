"""`horarium cron explain`: what a cron line means here, before a routine depends on it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import ZoneInfo

import typer
from rich.text import Text

from horarium.cli import talk, words
from horarium.engine import use_engine

if TYPE_CHECKING:
    from schedules.explaining import Explanation, Fire

app = typer.Typer(no_args_is_help=True, help="See what a cron line means.")

CALENDARS_SHOWN = 6
RAW_SHOWN = 3


@app.callback()
def _cron() -> None:
    """See what a cron line means."""


@app.command()
def explain(
    line: Annotated[str, typer.Argument(metavar="LINE", help="5 fields, 6 (seconds last) or 7 (then the year).")],
    zone: Annotated[
        str, typer.Option("--zone", "-z", envvar="HORARIUM_ZONE", metavar="ZONE", help="IANA name of its time zone.")
    ] = "UTC",
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="ISO 8601; without an offset, in the zone. Default: now."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=1_000, help="Fires to show.")] = 10,
    repeat: Annotated[
        Literal["once", "both"], typer.Option(help="Fixed hours, where a time comes twice: the first time, or both.")
    ] = "once",
    gap: Annotated[
        Literal["fire", "skip"], typer.Option(help="Times that do not exist: after the gap, or not at all.")
    ] = "fire",
    routine: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose H is to be drawn, for lines with an H.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one JSON object, with the whole spec.")] = False,
) -> None:
    """Explain a cron line: in words, its next fires, and what Temporal is given for it.

    Needs neither a project nor a server.

    \b
    Exit codes: 0 done, 2 the line or the zone cannot be used.

    \b
    Examples:
      horarium cron explain "0 6 * * 5#2" --zone Europe/London
      horarium cron explain "30 1 * * *" --zone Europe/Paris --from 2027-10-29
    """
    use_engine()
    talk.perform(_explain(line, zone, start, count, repeat, gap, routine, as_json=as_json))


async def _explain(
    text: str,
    zone: str,
    said: str | None,
    count: int,
    repeat: Literal["once", "both"],
    gap: Literal["fire", "skip"],
    routine: str | None,
    *,
    as_json: bool,
) -> int:
    from schedules.cron import CronLine
    from schedules.explaining import explain as explained

    line = CronLine.parse(text, zone, repeat=repeat, gap=gap, hash_id=routine)
    found = explained(line, _moment(said, line.clock.zone), count)
    if as_json:
        talk.emit(_json(found))
    else:
        _show(found)
    return talk.DONE


def _moment(said: str | None, zone: ZoneInfo) -> datetime:
    if said is None:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(said)
    except ValueError:
        raise typer.BadParameter(f"{said!r} is no time; write e.g. 2027-10-31T00:30Z", param_hint="--from") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)


def _show(found: Explanation) -> None:
    from schedules.explaining import calendar_text

    out = talk.out()
    seconds = any(fire.utc.second for fire in found.fires)
    out.print(Text(f"{words.one_line(found.line.text)}  in {found.line.zone}", "bold"))
    out.print(Text(f"{found.words}."))
    out.print()
    if found.fires:
        columns = ["utc", found.line.zone, *(["clock"] if any(fire.note for fire in found.fires) else [])]
        rows = [(_utc(fire.utc, seconds), _local(fire, seconds), fire.note)[: len(columns)] for fire in found.fires]
        out.print(talk.table(columns, rows, keep=columns[:2]))
    else:
        out.print(Text("No fire is left."))
    _heading("Temporal, given this text")
    out.print(Text(_raw_words(found)))
    _heading("What it is given instead")
    spec = found.made.spec
    out.print(Text(_spec_words(found)))
    for calendar in spec.calendars[:CALENDARS_SHOWN]:
        out.print(Text(f"  {calendar_text(calendar)}"))
    if len(spec.calendars) > CALENDARS_SHOWN:
        left = words.plural(len(spec.calendars) - CALENDARS_SHOWN, "more calendar")
        out.print(Text(f"  and {left}; --json shows all"))
    for note in found.made.notes:
        out.print(Text(note))


def _heading(text: str) -> None:
    out = talk.out()
    out.print()
    out.print(Text(text, "bold"))


def _utc(moment: datetime, seconds: bool) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if seconds else f"{moment:%Y-%m-%d %H:%M}"


def _local(fire: Fire, seconds: bool) -> str:
    return f"{fire.local:%a} {_utc(fire.local, seconds)} {fire.local:%Z}"


def _raw_words(found: Explanation) -> str:
    if found.raw.refused is not None:
        return f"It refuses it: {found.raw.refused}."
    if found.differs is not None:
        fire = found.differs
        what = "It would fire when it should not" if found.added else "It would not fire when it should"
        when = f"{_utc(fire.utc, bool(fire.utc.second))} UTC ({_local(fire, bool(fire.utc.second))})"
        said = f"{what}, first at {when}{f', {fire.note}' if fire.note else ''}."
        return said if fire.note else f"{said}\n{_raw_fires(found)}"
    return "It fires at the same times, clock changes of the next year included."


def _raw_fires(found: Explanation) -> str:
    fires = found.raw.fires[:RAW_SHOWN]
    if not fires:
        return "It would never fire."
    return "Its next fires in UTC: " + ", ".join(_utc(at, any(fire.second for fire in fires)) for at in fires) + "."


def _spec_words(found: Explanation) -> str:
    made = found.made
    repeated = len(made.spec.intervals) - made.one_shots
    parts = [
        words.plural(number, noun)
        for number, noun in (
            (len(made.spec.calendars), "calendar"),
            (repeated, "interval"),
            (made.one_shots, "one-shot"),
        )
        if number
    ]
    said = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts) or "Nothing that fires"
    return f"{said}, right until {made.until:%Y-%m-%d}."


def _json(found: Explanation) -> dict[str, Any]:
    from schedules.explaining import spec_json

    line = found.line
    return {
        "line": line.text,
        "zone": line.zone,
        "repeat": line.rule.repeat,
        "gap": line.rule.gap,
        "words": found.words,
        "fires": [
            {"utc": fire.utc.isoformat(), "local": fire.local.isoformat(), "note": fire.note or None}
            for fire in found.fires
        ],
        "raw": {
            "refused": found.raw.refused,
            "fires": [moment.isoformat() for moment in found.raw.fires],
            "first_difference": found.differs.utc.isoformat() if found.differs else None,
        },
        "spec": spec_json(found.made.spec),
        "one_shots": found.made.one_shots,
        "until": found.made.until.isoformat(),
        "notes": list(found.made.notes),
    }
