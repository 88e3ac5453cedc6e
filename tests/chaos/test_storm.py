"""Many routines at the same second: each has its tick, and no more run at once than may. `python -m bench storm`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from bench.storm import Storm, storm

ROUTINES, AT_ONCE = 60, 10
JITTER = timedelta(seconds=2)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_routines_that_fire_at_the_same_second_all_have_their_tick_a_few_at_once(tmp_path: Path) -> None:
    measured = await storm(tmp_path, ROUTINES, at_once=AT_ONCE, jitter=JITTER)

    assert measured.wrong == 0
    assert len(measured.ticks) == len(measured.due) == ROUTINES
    assert 1 < measured.most_running <= AT_ONCE
    assert all(measured.at <= moment <= measured.at + JITTER for moment in measured.due.values())
    assert len(set(measured.due.values())) > ROUTINES / 2
    _what_went_wrong_would_be_counted(measured)


def _what_went_wrong_would_be_counted(well: Storm) -> None:
    one, *others = well.ticks
    for broken in (
        replace(well, ticks=others),
        replace(well, ticks=[replace(one, status="failed"), *others]),
        replace(well, ticks=[replace(one, attempts=2), *others]),
        replace(well, starts=well.starts + Counter([one.id])),
        replace(well, runs=well.runs + Counter([one.id])),
        replace(well, starts=well.starts + Counter(["routine.stray"])),
    ):
        assert broken.wrong == 1
