"""What every run promises: random histories against the machine, then the promises one by one."""

from __future__ import annotations

import os
import random
from collections import Counter

from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests.core.simulation import Simulation, make_plan

HISTORIES = int(os.environ.get("HORARIUM_TEST_HISTORIES", "3000"))


@settings(max_examples=150)
@given(st.data())
def test_whatever_happens_a_run_keeps_its_promises_and_ends(data: st.DataObject) -> None:
    def dice(sides: int) -> int:
        return data.draw(st.integers(0, sides - 1))

    simulation = Simulation(make_plan(dice), dice, patience=15)
    try:
        simulation.run()
    finally:
        for line in simulation.log:
            note(repr(line))


def test_thousands_of_long_histories_keep_every_promise_and_reach_every_kind_of_end() -> None:
    ends: Counter[tuple[str, str | None]] = Counter()
    for seed in range(HISTORIES):
        dice = random.Random(seed).randrange
        simulation = Simulation(make_plan(dice), dice, patience=20 + seed % 100)
        try:
            close = simulation.run()
        except Exception as error:
            history = "\n".join(map(repr, [simulation.plan, *simulation.log]))
            raise AssertionError(f"History {seed}: {error}\n{history}") from error
        ends[close.status, close.reason] += 1

    reasons = {reason for _, reason in ends}
    assert reasons >= {
        *(None, "cancelled", "failed_by_person", "malformed_turns", "model_rejected", "tool_failed"),
        *("max_turns", "max_tokens", "max_cost_usd", "max_repeats", "wall_time", "max_output_tokens", "content_filter"),
    }, ends
