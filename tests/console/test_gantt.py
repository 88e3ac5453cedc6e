"""The arithmetic of the timeline, without a browser."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from horarium.gateway.console.gantt import GROUPS, LEAST_BAR, MARGIN_LEFT, MOST_BARS, Bar, Picture, elapsed, picture

BEGAN = datetime(2026, 11, 21, 9, tzinfo=UTC)
SECONDS = st.one_of(st.floats(0, 2), st.floats(0, 300), st.floats(0, 400_000))


@st.composite
def bars(draw: st.DrawFn, most: int = 40) -> list[Bar]:
    found = []
    for n in range(draw(st.integers(1, most))):
        start = BEGAN + timedelta(seconds=draw(SECONDS))
        end = draw(st.one_of(st.none(), SECONDS))
        found.append(
            Bar(
                draw(st.sampled_from(GROUPS)),
                start,
                start + timedelta(seconds=end) if end is not None else None,
                f"step {n}",
                mark=draw(st.sampled_from(("", "", "✕", "↻3"))),
                link=f"#step-{n}",
            )
        )
    return found


def laid_out(some: list[Bar]) -> Picture:
    now = max(bar.end or bar.start for bar in some) + timedelta(seconds=1)
    found = picture(some, now)
    assert found is not None
    return found


@given(bars())
def test_nothing_overlaps_in_a_lane_and_everything_is_inside_the_axis(some: list[Bar]) -> None:
    shown = laid_out(some)

    assert len(shown.bars) == len(some)
    lanes: dict[int, list[tuple[float, float]]] = {}
    for one in shown.bars:
        assert one.x >= MARGIN_LEFT
        assert one.x + one.width <= shown.width
        assert one.width >= LEAST_BAR
        assert one.y + 18 <= shown.height
        lanes.setdefault(one.lane, []).append((one.x, one.x + one.width))
    for lane in lanes.values():
        ordered = sorted(lane)
        assert all(before[1] <= after[0] for before, after in pairwise(ordered))


@given(bars())
def test_what_began_earlier_is_further_left_and_ticks_can_be_read(some: list[Bar]) -> None:
    shown = laid_out(some)

    by_start = sorted(shown.bars, key=lambda one: one.bar.start)
    assert [one.x for one in by_start] == sorted(one.x for one in shown.bars)
    assert all(after.x - before.x >= 60 for before, after in pairwise(shown.ticks))
    assert all(tick.x <= shown.width for tick in shown.ticks)


@given(bars(most=8), st.integers(0, 400))
def test_a_lane_has_one_group_and_each_group_its_own(some: list[Bar], more: int) -> None:
    some += [Bar("Model", BEGAN + timedelta(seconds=n), BEGAN + timedelta(seconds=n + 1), "m") for n in range(more)]

    shown = laid_out(some)

    groups: dict[int, set[str]] = {}
    for one in shown.bars:
        groups.setdefault(one.lane, set()).add(one.bar.group)
    assert all(len(group) == 1 for group in groups.values())
    assert [lane.label for lane in shown.lanes] == [name for name in GROUPS if any(b.group == name for b in some)]


def test_three_days_of_waiting_leave_the_steps_to_be_seen() -> None:
    at = [BEGAN + timedelta(seconds=n) for n in (0, 2, 5)]
    later = BEGAN + timedelta(days=3)
    some = [
        Bar("Model", at[0], at[1], "model call"),
        Bar("People", at[1], later, "approval"),
        Bar("Tools", later, later + timedelta(seconds=1), "pay"),
        Bar("Model", later + timedelta(seconds=1), later + timedelta(seconds=3), "model call"),
    ]

    shown = laid_out(some)

    assert [one.label for one in shown.shortened] == ["3 d"]
    assert all(one.width > 20 for one in shown.bars)
    assert shown.width < 1200


def test_a_thousand_turns_are_drawn_together_but_for_those_that_say_something() -> None:
    some = []
    for n in range(1000):
        start = BEGAN + timedelta(seconds=3 * n)
        some.append(Bar("Model", start, start + timedelta(seconds=1), f"model call {n}", link=f"#{n}"))
        some.append(Bar("Tools", start + timedelta(seconds=1), start + timedelta(seconds=3), f"look {n}", link=f"#{n}"))
    some[700] = Bar("Model", some[700].start, some[700].end, "model call", state="failed", mark="✕", link="#700")

    shown = laid_out(some)

    assert len(shown.bars) <= MOST_BARS
    assert sum(one.bar.count for one in shown.bars) == 2000
    assert [one.bar.link for one in shown.bars if one.bar.mark] == ["#700"]
    assert shown.width < 8_500
    assert len(shown.lanes) == 2


def test_times_are_said_with_as_much_as_matters() -> None:
    said = [elapsed(seconds) for seconds in (0, 0.042, 4.2, 12, 60, 120, 3600, 7500, 86_400, 270_000)]

    assert said == ["0 s", "42 ms", "4.2 s", "12 s", "60 s", "2 min", "1 h", "2 h 5 min", "1 d", "3 d 3 h"]
