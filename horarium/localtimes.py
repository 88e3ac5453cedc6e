"""Times as people type them and want to see them: on the clock of a place."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from horarium.errors import ConfigError


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


def shown(moment: datetime, zone: tzinfo | None, *, named: bool = True) -> str:
    """`Mon 2026-11-23 06:00 GMT`; zone None: where this machine is."""
    local = moment.astimezone(zone)
    text = f"{local:%a %Y-%m-%d %H:%M}" + (f":{local:%S}" if local.second else "")
    return f"{text} {local:%Z}" if named else text
