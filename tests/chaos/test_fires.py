"""Every fire has one tick, whatever is killed around it. `python -m tests.chaos --fires 500` is the long form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from horarium.ledger.ticks import TickRecord
from horarium.routines import tick_id
from schedules.expected import Fire
from tests.chaos.fire_counting import Evidence, count
from tests.chaos.fires import TRIGGERS, fires, planned

AT = datetime(2026, 11, 21, 7, tzinfo=UTC)
ID = tick_id("digest", AT)
WANTED = {ID: Fire(AT, "t", ID)}
RUN = "run_1"


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_no_fire_is_lost_or_doubled_when_worker_and_server_are_killed_around_it(tmp_path: Path) -> None:
    outcome = await fires(tmp_path, due=65, seed=8)

    assert outcome.problems == []
    assert {"engine", "engine and server"} <= set(outcome.kills)
    assert outcome.findings.ticks == {"completed": outcome.findings.due}
    assert outcome.findings.effects == outcome.findings.due >= 65


def test_the_plan_ends_when_enough_fires_are_due_and_every_routine_has_some() -> None:
    dozen, wanted = planned(200, AT)

    assert 200 <= len(wanted) <= 220
    assert {fire.id.removeprefix("routine.")[:-21] for fire in wanted.values()} == set(TRIGGERS)
    assert min(fire.at for fire in wanted.values()) == AT
    assert {routine.end for routine in dozen} == {max(fire.at for fire in wanted.values())}


def tick(**changes: object) -> TickRecord:
    made = TickRecord(
        id=ID,
        routine="digest",
        tenant="default",
        trigger="t",
        source="schedule",
        scheduled_at=AT,
        execution="1",
        definition=None,
        event=None,
        status="completed",
        reason=None,
        message=None,
        input="Count.",
        state=None,
        attempts=1,
        run_id=RUN,
        thread_id=None,
        next_try_at=None,
        output="Counted.",
        alerts=None,
        turns=2,
        input_tokens=0,
        output_tokens=0,
        cost_micro_usd=0,
        opened_at=AT,
        started_at=AT,
        closed_at=AT,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def evidence(**changes: object) -> Evidence:
    made = Evidence(
        ticks=[tick()],
        runs={ID: [RUN]},
        counted=Counter({RUN: 1}),
        tick_starts=Counter({ID: 1}),
        run_starts=Counter({RUN: 1}),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_where_every_fire_came_once_nothing_is_found() -> None:
    assert count(WANTED, evidence()).problems == []


STRAY = tick_id("digest", AT + timedelta(seconds=1))


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda: evidence(ticks=[]), "lost: "),
        (lambda: evidence(ticks=[tick(status="missed", reason="engine_down")]), "lost: "),
        (lambda: evidence(ticks=[tick(status="skipped", reason="overlap")]), "lost: "),
        (lambda: evidence(counted=Counter()), "lost: "),
        (lambda: evidence(given_up=1), "lost: "),
        (lambda: evidence(counted=Counter({RUN: 2})), "done twice: "),
        (lambda: evidence(runs={ID: [RUN, "run_2"]}), "done twice: "),
        (lambda: evidence(run_starts=Counter({RUN: 2})), "done twice: "),
        (lambda: evidence(ticks=[tick(), tick(id=STRAY)]), "not expected: "),
        (lambda: evidence(tick_starts=Counter({ID: 1, STRAY: 1})), "not expected: "),
        (lambda: evidence(ticks=[tick(scheduled_at=AT + timedelta(seconds=1))]), "not expected: "),
        (lambda: evidence(ticks=[tick(status="failed")]), "ended badly: "),
        (lambda: evidence(ticks=[tick(attempts=2)]), "an attempt used up: "),
        (lambda: evidence(ticks=[tick(status="queued", closed_at=None)]), "left over: "),
        (lambda: evidence(still_running=1), "left over: "),
    ],
    ids=[
        *("no-tick", "missed", "skipped", "not-in-the-book", "given-up"),
        *("counted-twice", "two-runs", "run-started-twice"),
        *("stray-tick", "stray-workflow", "another-time", "failed", "two-attempts", "open", "running"),
    ],
)
def test_what_must_not_happen_to_a_fire_is_found(made: Callable[[], Evidence], expected: str) -> None:
    problems = count(WANTED, made()).problems

    assert [problem for problem in problems if problem.startswith(expected)]


def test_a_second_start_that_found_its_tick_done_is_counted_and_is_no_problem() -> None:
    found = count(WANTED, evidence(tick_starts=Counter({ID: 2})))

    assert (found.starts, found.found_done, found.problems) == (2, 1, [])
