"""The great comparison: what a real server fires for a translated line, and what croniter and our rule say.

Each case is 200 fires over at least two clock changes: in one stretch where the line fires seldom, else in three, of
which two lie across a change.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

from temporalio.client import Client

from schedules.civil import Gap, Repeat
from schedules.clock import clock_of
from schedules.cron import CronLine, CronRefused
from schedules.translation import HORIZON, Translation, translate
from tests.schedules.expressions import line
from tests.schedules.server import Refused, asked

FIRES = 200
FIRST_DAY = datetime(2026, 11, 21, tzinfo=UTC)
HASH_ID = "nightly-triage"
AT_ONCE = 12
SHORTLY = 6 * 60  # minutes


@dataclass(frozen=True)
class Case:
    """One line in one zone, from one moment on."""

    text: str
    zone: str
    start: datetime
    repeat: Repeat
    gap: Gap


@dataclass
class Tally:
    """What came out."""

    cases: int = 0
    fires: int = 0
    changes: int = 0
    calendars: list[int] = field(default_factory=list)
    one_shots: list[int] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[str, str, str, str]] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)

    def __iadd__(self, other: Tally) -> Tally:
        self.cases += other.cases
        self.fires += other.fires
        self.changes += other.changes
        self.calendars += other.calendars
        self.one_shots += other.one_shots
        self.refusals += other.refusals
        self.refused += other.refused
        self.mismatches += other.mismatches
        return self


def cases(seed: int, expressions: int, zones: Sequence[str]) -> Iterator[Case]:
    """The same for the same seed: each expression in each zone, most starts shortly before a clock change."""
    random = Random(seed)
    for _ in range(expressions):
        text = line(random)
        repeat: Repeat = "both" if random.random() < 0.25 else "once"
        gap: Gap = "skip" if random.random() < 0.25 else "fire"
        for zone in zones:
            start = FIRST_DAY + timedelta(minutes=random.randrange(730 * 24 * 60))
            changes = clock_of(zone).changes(int(start.timestamp()), int(start.timestamp()) + 400 * 86_400)
            if changes and random.random() < 0.6:
                before = timedelta(minutes=random.randrange(SHORTLY), seconds=random.choice((0, 0, 17)))
                start = datetime.fromtimestamp(random.choice(changes).at, UTC) - before
            yield Case(text, zone, start, repeat, gap)


async def compare(client: Client, these: Sequence[Case]) -> Tally:
    """All cases, some at once."""
    total, some = Tally(), asyncio.Semaphore(AT_ONCE)

    async def one(case: Case) -> None:
        nonlocal total
        async with some:
            total += await _case(client, case)

    await asyncio.gather(*(one(case) for case in these))
    return total


async def _case(client: Client, case: Case) -> Tally:
    tally = Tally(cases=1)
    try:
        cron = CronLine.parse(case.text, case.zone, repeat=case.repeat, gap=case.gap, hash_id=HASH_ID)
        made = translate(cron, case.start)
    except CronRefused as error:
        tally.refusals[error.kind] += 1
        tally.refused.append((error.kind, case.text, case.zone, error.reason))
        return tally
    tally.calendars.append(len(made.spec.calendars))
    tally.one_shots.append(made.one_shots)
    try:
        async with asked(client, made.spec) as there:
            for start, expected in stretches(cron, case.start, made):
                end = expected[-1] if len(expected) > 0 else made.until
                said = await there.between(start, end)
                tally.fires += len(expected)
                tally.changes += len(cron.clock.changes(int(start.timestamp()), int(end.timestamp()) + 1))
                if said != expected:
                    tally.mismatches.append(_difference(case, start, said, expected))
    except Refused as error:
        tally.mismatches.append(f"{case}: the server refused its spec: {error}")
    return tally


def stretches(cron: CronLine, start: datetime, made: Translation) -> Iterator[tuple[datetime, list[datetime]]]:
    """Where to compare, and the fires that are expected there."""
    horizon = start + HORIZON
    changes = cron.clock.changes(int(start.timestamp()), int(horizon.timestamp()))
    fires = _until(cron.fires(start, FIRES), horizon)
    if len(changes) < 2 or len(fires) < FIRES or fires[-1].timestamp() > changes[1].at:
        yield start, fires
        return
    third = fires[: FIRES // 3]
    yield start, third
    half = (third[-1] - third[0]) / 2
    for change in changes[:2]:
        # The start itself is no fire of the answer, so it lies between two.
        near = max(start, datetime.fromtimestamp(change.at, UTC) - half - timedelta(seconds=1))
        yield near, _until(cron.fires(near, FIRES // 3), horizon)


def _until(fires: list[datetime], horizon: datetime) -> list[datetime]:
    return [moment for moment in fires if moment <= horizon]


def _difference(case: Case, start: datetime, said: list[datetime], expected: list[datetime]) -> str:
    missing = sorted(set(expected) - set(said))[:3]
    added = sorted(set(said) - set(expected))[:3]
    return f"{case} from {start}: missing {[str(at) for at in missing]}, added {[str(at) for at in added]}"
