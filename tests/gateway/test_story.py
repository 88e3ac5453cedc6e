"""The story of a run: whatever was seen of it, and when, each thing is told once."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from horarium.gateway.story import Story
from horarium.ledger.journal import StepRecord
from horarium.ledger.looking import Look
from horarium.ledger.run_statuses import StatusChange
from horarium.ledger.runs import RunRecord

BEGIN = datetime(2026, 11, 21, tzinfo=UTC)


def at(seconds: int) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def step(number: int, **values: Any) -> StepRecord:
    nothing: dict[str, Any] = dict.fromkeys(StepRecord.__dataclass_fields__)
    counts = dict.fromkeys(("attempts", "failures", "permit", "input_tokens", "output_tokens", "cost_micro_usd"), 0)
    row = {"run_id": "run_1", "kind": "tool_call", "name": "look", "status": "claimed", "untrusted": 0}
    return StepRecord(**{**nothing, **counts, **row, "number": number, **values})


def run(closed: datetime | None) -> RunRecord:
    nothing: dict[str, Any] = dict.fromkeys(RunRecord.__dataclass_fields__)
    return RunRecord(**{**nothing, "id": "run_1", "status": "in_progress", "metadata": {}, "closed_at": closed})


def history(dice: random.Random) -> list[Look]:
    """A run as it grows: turns of a few steps in parallel, of which some have no outcome that anybody knows."""
    looks, steps, statuses, now = list[Look](), dict[int, StepRecord](), [StatusChange(1, "queued", at(0))], 0
    for _ in range(dice.randint(1, 12)):
        numbers = range(len(steps) + 1, len(steps) + 1 + dice.randint(1, 5))
        open_ones = list(numbers)
        for number in numbers:
            now += dice.randint(0, 1)
            steps[number] = step(number, claimed_at=at(now) if dice.random() < 0.9 else None, status="pending")
        while open_ones:
            now += dice.randint(0, 1)
            number = open_ones.pop(dice.randrange(len(open_ones)))
            status = dice.choice(["completed", "completed", "failed", "unknown"])
            settled = at(now) if status != "unknown" else None
            steps[number] = replace(steps[number], status=status, settled_at=settled)  # type: ignore[arg-type]
            if dice.random() < 0.3:
                status = dice.choice(["in_progress", "requires_action"])
                statuses.append(StatusChange(len(statuses) + 1, status, at(now)))  # type: ignore[arg-type]
            looks.append(Look(run(None), tuple(statuses), tuple(steps.values()), True))
    looks.append(Look(run(at(now)), tuple(statuses), tuple(steps.values()), True))
    return looks


def what(told: Any) -> tuple[str, int]:
    return told.kind, told.status.seq if told.status else told.step.number if told.step else 0


@pytest.mark.parametrize("seed", range(300))
def test_whoever_comes_back_at_any_time_with_any_place_has_heard_everything_once(seed: int) -> None:
    dice = random.Random(seed)
    looks = history(dice)
    whole = [what(told) for told in Story().goes_on(looks[-1])]

    heard, place = list[tuple[str, int]](), Story().place
    for look in looks:
        if dice.random() < 0.5 and look is not looks[-1]:
            continue  # nobody was looking
        story = Story.at(place)
        assert story is not None
        for told in story.goes_on(look):
            heard.append(what(told))
            place = told.place
            if dice.random() < 0.2:
                break  # the line breaks here; the next one goes on after this event
    story = Story.at(place)
    assert story is not None
    heard += [what(told) for told in story.goes_on(looks[-1])]

    assert len(set(heard)) == len(heard)
    assert sorted(heard) == sorted(whole)
    assert heard[-1][0] == "end"
    assert len(place) < 300


def test_a_step_that_is_done_again_is_told_again_and_its_first_outcome_is_not() -> None:
    story = Story()
    failed = step(1, claimed_at=at(0), settled_at=at(1), status="failed")
    first = [told.kind for told in story.goes_on(Look(run(None), (), (failed,), True))]
    place = story.place

    again = replace(failed, status="claimed", settled_at=None, permit=1)
    done = replace(again, status="completed", settled_at=at(3))
    second = [told.kind for told in story.goes_on(Look(run(None), (), (again,), True))]
    third = [told.kind for told in story.goes_on(Look(run(None), (), (done,), True))]

    assert (first, second, third) == (["step.begun", "step.settled"], ["step.begun"], ["step.settled"])
    later = Story.at(place)
    assert later is not None
    assert [told.kind for told in later.goes_on(Look(run(None), (), (done,), True))] == ["step.begun", "step.settled"]


@pytest.mark.parametrize(
    "place",
    [
        "",
        "x",
        "1-2",
        "1-2-3",
        "1-2-3x0",
        "-1-2-",
        "1-2-3c0.",
        "9" * 30 + "-0-",
        "1-2-\n",
        "1-2-" + "1c11" * 4_000 + "x",
    ],
)
def test_what_is_no_place_of_ours_is_refused(place: str) -> None:
    assert Story.at(place) is None
