"""Times as people type them, and in the zones in which they want to see them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from pydantic import TypeAdapter, ValidationError

from horarium.definition import Duration
from horarium.errors import ConfigError
from horarium.localtimes import read_time as read_time
from horarium.localtimes import shown as shown

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


def shower(zone: tzinfo | None) -> Callable[[datetime], str]:
    """`shown`, for one zone."""
    return lambda moment: shown(moment, zone)
