"""A preview as one value, for whoever shows it elsewhere than on a terminal."""

from __future__ import annotations

from datetime import timedelta

from horarium.previews import Asked, NoFire, Preview, PreviewedFire
from horarium.routines import Routine
from schedules.preview import Outage, Reckoned, dues_of, gaps_of, reckon


def preview(routine: Routine, asked: Asked) -> Preview:
    """What the routine would do; a `horarium.previews.Previewer`.

    Raises:
        ConfigError: A trigger cannot be used.
    """
    end = asked.start + asked.length
    dues, more = dues_of(routine, asked.start, end)
    if more and dues:
        end = dues[-1].at + timedelta(seconds=1)
    outage: Outage | None = None
    if asked.outage is not None:
        down = asked.outage_at or (dues[0].at if dues else asked.start)
        outage = Outage(down, down + asked.outage)
    return Preview(
        start=asked.start,
        end=end,
        whole=not more,
        outage_start=outage.start if outage else None,
        outage_end=outage.end if outage else None,
        fires=tuple(_fire(tick) for tick in reckon(routine, dues, asked.takes, outage)),
        no_fires=tuple(
            NoFire(at=gap.at, triggers=gap.triggers, note=gap.note) for gap in gaps_of(routine, asked.start, end)
        ),
    )


def _fire(tick: Reckoned) -> PreviewedFire:
    return PreviewedFire(
        tick=tick.id,
        at=tick.at,
        triggers=tick.due.triggers,
        note=tick.due.note or None,
        fate=tick.fate,
        because=tick.because,
        other=tick.other,
        perhaps_missed=tick.narrow,
        begins_at=tick.begins_at,
        ends_at=tick.ends_at,
        ending=tick.ending if tick.begins_at else None,
    )
