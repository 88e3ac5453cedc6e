"""The difference of two ticks or runs: what is beside what, and what is said to be different."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from horarium.tickdiff import MOST_STEPS, Change, Side, SideStep, aligned, changes, difference, text_difference
from tests.core.ledgers import NOON


def step(number: int, name: str = "look", arguments: str = "{}", outcome: str = "ok") -> SideStep:
    return SideStep(number, name, arguments, "completed", outcome, outcome, timedelta(milliseconds=number))


SIDE = Side(
    id="routine.daily-1",
    run="run_1",
    agent="clerk",
    version=1,
    status="completed",
    reason=None,
    message=None,
    started_at=NOON,
    took=timedelta(seconds=2),
    attempts=1,
    turns=2,
    input_tokens=10,
    output_tokens=5,
    cost_micro_usd=0,
    input="Look.",
    output="Fine.",
    definition={"instructions": "Help.", "limits": {"max_turns": 5}, "tools": ["look"]},
    files={"a.txt": (3, "sha256:a")},
)
STEPS = st.lists(st.builds(step, st.just(1), st.sampled_from("abc"), st.sampled_from("xyz"), st.sampled_from("12")))


def test_a_side_is_the_same_as_itself() -> None:
    found = difference(SIDE, replace(SIDE, id="routine.daily-2", run="run_2", took=timedelta(seconds=9)))

    assert found.same
    assert (found.agent, found.input, found.steps, found.files, found.output) == ([], "", [], [], "")
    took = next(figure for figure in found.figures if figure.name == "duration_ms")
    assert (took.before, took.after) == (2_000, 9_000)


def test_everything_that_is_different_is_said() -> None:
    after = replace(
        SIDE,
        version=2,
        status="failed",
        reason="max_turns",
        input="Look\nagain.",
        output="Fine.\nBut late.",
        definition={"instructions": "Help.", "limits": {"max_turns": 9}, "tools": ["look", "pay"], "memory": None},
        files={"a.txt": (4, "sha256:b"), "b.txt": (1, "sha256:c")},
    )

    found = difference(SIDE, after)

    assert not found.same
    assert found.agent == [
        Change(path="limits.max_turns", change="changed", before=5, after=9),
        Change(path="memory", change="added", after=None),
        Change(path="tools", change="changed", before=["look"], after=["look", "pay"]),
    ]
    assert found.input.splitlines()[3:] == ["-Look.", "+Look", "+again."]
    assert found.output.splitlines()[3:] == [" Fine.", "+But late."]
    assert [(one.path, one.change, one.before_bytes, one.after_bytes) for one in found.files or ()] == [
        ("a.txt", "changed", 3, 4),
        ("b.txt", "added", None, 1),
    ]
    assert difference(SIDE, replace(SIDE, files=None)).files is None
    assert not difference(SIDE, replace(SIDE, status="failed")).same


def test_one_call_more_does_not_make_every_later_one_another() -> None:
    before = [step(1, "look", "a"), step(2, "look", "b"), step(3, "pay", "5"), step(4, "ship", "x")]
    after = [step(1, "look", "new"), step(2, "look", "a"), step(3, "look", "b", "other"), step(4, "pay", "6")]

    found = [
        (pair.change, pair.differs, pair.before and pair.before.number, pair.after and pair.after.number)
        for pair in aligned(before, after)
    ]

    assert found == [
        ("added", (), None, 1),
        ("same", (), 1, 2),
        ("changed", ("outcome",), 2, 3),
        ("changed", ("arguments",), 3, 4),
        ("removed", (), 4, None),
    ]


@given(STEPS, STEPS)
@settings(max_examples=200, deadline=None)
def test_every_call_of_both_is_there_once_in_its_order_beside_one_of_the_same_tool(
    before: list[SideStep], after: list[SideStep]
) -> None:
    pairs = list(aligned(before, after))

    assert [one.before.name for one in pairs if one.before] == [one.name for one in before]
    assert [one.after.name for one in pairs if one.after] == [one.name for one in after]
    assert all(one.before.name == one.after.name for one in pairs if one.before and one.after)
    assert all(pair.change == "same" for pair in aligned(before, before))


def test_what_is_too_much_to_compare_is_said_and_is_not_the_same() -> None:
    many = [step(number, arguments=str(number)) for number in range(MOST_STEPS + 3)]

    found = difference(replace(SIDE, steps=many), replace(SIDE, steps=many))
    long = "\n".join(map(str, range(6_000)))

    assert (len(found.steps), found.steps_left_out, found.same) == (MOST_STEPS, 6, False)
    assert text_difference(long, f"{long}\nmore") == "[… only the first 5,000 lines of each were compared …]"
    assert text_difference("a\n", "a") == "[only line ends are different]"
    assert list(changes([1, {"a": 2}], [1, {"a": 3}])) == [Change(path="1.a", change="changed", before=2, after=3)]
