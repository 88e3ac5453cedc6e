"""A preview as one value, for whoever shows it elsewhere than on a terminal; and when triggers fire, in words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from horarium.errors import ConfigError
from horarium.previews import Asked, NoFire, Preview, PreviewedFire, TriggerWords
from horarium.routine_words import zone_name
from horarium.routines import EventTrigger, Routine, Trigger
from schedules.expected import expected
from schedules.preview import Due, Outage, Reckoned, dues_of, gaps_of, reckon
from schedules.specs import since_now, timing

_INSTANT = timedelta(microseconds=1)


def preview(routine: Routine, asked: Asked) -> Preview:
    """What the routine would do; a `horarium.previews.Previewer`.

    Raises:
        ConfigError: A trigger cannot be used.
    """
    dues, end, whole = _dues(routine, asked)
    outage: Outage | None = None
    if asked.outage is not None:
        down = asked.outage_at or (dues[0].at if dues else asked.start)
        outage = Outage(down, down + asked.outage)
    return Preview(
        start=asked.start,
        end=end,
        whole=whole,
        outage_start=outage.start if outage else None,
        outage_end=outage.end if outage else None,
        fires=tuple(previewed(tick) for tick in reckon(routine, dues, asked.takes, outage)),
        no_fires=tuple(
            NoFire(at=gap.at, triggers=gap.triggers, note=gap.note) for gap in gaps_of(routine, asked.start, end)
        ),
        triggers=tuple(
            TriggerWords(name=name, words=trigger_words(routine, trigger), time_zone=zone_name(routine, name))
            for name, trigger in routine.triggers.items()
        ),
    )


def _dues(routine: Routine, asked: Asked) -> tuple[Sequence[Due], datetime, bool]:
    """The fires, where they end, and whether they are all."""
    end = asked.start + asked.length
    if asked.most is not None:
        coming = expected(routine, asked.start - _INSTANT, end, asked.most + 1)
        if len(coming) > asked.most:
            last = coming[asked.most - 1].at
            dues, _ = dues_of(routine, asked.start, last + _INSTANT)
            return dues, last + timedelta(seconds=1), False
    dues, more = dues_of(routine, asked.start, end)
    return dues, dues[-1].at + timedelta(seconds=1) if more and dues else end, not more


def previewed(tick: Reckoned) -> PreviewedFire:
    """One fire of a reckoning."""
    return PreviewedFire(
        tick=tick.id,
        at=tick.at,
        triggers=tick.due.triggers,
        note=tick.due.note or None,
        fate=tick.fate,
        because=tick.because,
        other=tick.other,
        perhaps_missed=tick.narrow,
        opens_at=tick.opens_at,
        begins_at=tick.begins_at,
        ends_at=tick.ends_at,
        ending=tick.ending if tick.begins_at else None,
    )


def trigger_words(routine: Routine, trigger: Trigger) -> str:
    """When a trigger fires, in words; or that it cannot any more."""
    if isinstance(trigger, EventTrigger):
        return f"On the event {trigger.event}"
    try:
        return timing(routine, trigger, since_now(datetime.now(UTC))).words
    except ConfigError as error:
        return error.message
