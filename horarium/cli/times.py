"""Times as people type them, and in the zones in which they want to see them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from pydantic import TypeAdapter, ValidationError

from horarium.definition import Duration
from horarium.errors import ConfigError

ZoneOption = Annotated[
    str | None,
    typer.Option("--zone", "-z", envvar="HORARIUM_ZONE", metavar="ZONE", help="IANA name of a time zone."),
]


def zone_of(name: str | None) -> ZoneInfo | None:
    """The zone of this name; None for none. Needs the engine's folders.

    Raises:
        ConfigError: There is no such zone; with the nearest name.
    """
    if name is None:
        return None
    from schedules.clock import clock_of

    return clock_of(name).zone


def read_time(said: str, zone: ZoneInfo | None, option: str) -> datetime:
    """ISO 8601 with an offset, or without one in the zone that was named.

    Raises:
        ConfigError: It is no time, has no zone, or does not name one moment; with what to write.
    """
    try:
        moment = datetime.fromisoformat(said)
    except ValueError:
        raise ConfigError(f"{option}: {said!r} is no time.", hint="Write it like 2026-12-01T09:00Z.") from None
    if moment.tzinfo is not None:
        return moment.astimezone(UTC)
    if zone is None:
        raise ConfigError(
            f"{option}: {said!r} has no time zone.", hint=f"Write {said}Z, or add --zone Europe/London or another."
        )
    # Of two offsets at a change the first is the one before it, whether a time comes twice or not at all.
    both = [moment.replace(tzinfo=zone, fold=fold) for fold in (0, 1)]
    if both[0].utcoffset() == both[1].utcoffset():
        return both[0].astimezone(UTC)
    back = both[0].astimezone(UTC).astimezone(zone).replace(tzinfo=None) == moment
    why = "comes twice" if back else "does not exist"
    first, second = (one.isoformat() for one in both)
    raise ConfigError(
        f"{option}: {said!r} {why} in {zone.key}: clocks change.", hint=f"Write the offset: {first} or {second}."
    )


def read_duration(said: str, option: str, least: timedelta = timedelta(seconds=1)) -> timedelta:
    """`90s`, `2h`, `1d`.

    Raises:
        ConfigError: It is none, or too short.
    """
    try:
        found: timedelta = TypeAdapter(Duration).validate_python(said)
    except ValidationError as error:
        raise ConfigError(f"{option}: {error.errors()[0]['msg'].removeprefix('Value error, ')}.") from error
    if found < least:
        raise ConfigError(f"{option}: {said!r} is too short.", hint="Write e.g. 90s, 40m or 2h.")
    return found


def shown(moment: datetime, zone: tzinfo | None, *, named: bool = True) -> str:
    """`Mon 2026-11-23 06:00 GMT`; zone None: where this machine is."""
    local = moment.astimezone(zone)
    text = f"{local:%a %Y-%m-%d %H:%M}" + (f":{local:%S}" if local.second else "")
    return f"{text} {local:%Z}" if named else text


def shower(zone: tzinfo | None) -> Callable[[datetime], str]:
    """`shown`, for one zone."""
    return lambda moment: shown(moment, zone)
