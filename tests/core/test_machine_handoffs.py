"""What a run promises of its sub-agents: shares, clocks, limits, and what a person's retry leads to."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from horarium.contract import Usage, Waiting
from horarium.definitions import Limits
from horarium.protocol import Call
from tests.core.test_machine import Story, call, kinds, plan
from workflows import commands as cmd
from workflows import events as ev


def hands(to: str = "scout", id: str = "h") -> Call:
    return call(to, id, agent=to)


def handed(commands: list[cmd.Command]) -> list[cmd.HandOff]:
    return [command for command in commands if isinstance(command, cmd.HandOff)]


def waits(number: int, *questions: str) -> ev.SubRunWaits:
    asked = [Waiting(kind="sub_agent", id="run_below", question=question, text="Approve?") for question in questions]
    return ev.SubRunWaits(number, tuple(asked))


def test_what_is_left_of_a_budget_is_shared_equally_among_the_sub_agents_of_a_turn() -> None:
    story = Story(plan(limits={"max_tokens": 1_000, "max_cost_usd": Decimal(2), "max_handoffs": 10, "max_depth": 2}))
    used = Usage(input_tokens=80, output_tokens=20, cost_micro_usd=1_000_000)
    calls = [hands("scout", "a"), call("look", "b"), hands("clerk", "c")]

    told = story.turn(*calls, usage=used, after=timedelta(seconds=10))

    shares = [command.limits for command in handed(told)]
    assert [(share.max_tokens, share.max_cost_usd) for share in shares] == [(450, Decimal("0.5"))] * 2
    assert [(share.max_handoffs, share.max_depth, share.wall_time) for share in shares] == [
        (4, 1, timedelta(seconds=50))
    ] * 2


def test_what_sub_agents_used_counts_against_the_budget_of_the_run() -> None:
    story = Story(plan(limits={"max_tokens": 100}))
    story.turn(hands(), usage=Usage(input_tokens=10))

    told = story.settle(2, usage=Usage(input_tokens=95), handoffs=3)

    assert (story.machine.state.usage.input_tokens, story.machine.state.handoffs) == (105, 4)
    assert [(end.status, end.reason) for end in told if isinstance(end, cmd.Close)] == [("incomplete", "max_tokens")]


def test_a_handoff_that_is_tried_again_gets_only_what_its_first_run_left() -> None:
    story = Story(plan(on_step_failure="hold", limits={"max_tokens": 1_000, "max_handoffs": 5}))
    (first,) = handed(story.turn(hands()))
    story.settle(2, "failed", usage=Usage(input_tokens=900), handoffs=1, after=timedelta(seconds=20))

    (again,) = handed(story.resolve(2, "retry"))

    assert (first.limits.max_tokens, again.limits.max_tokens) == (1_000, 100)
    assert (first.limits.max_handoffs, again.limits.max_handoffs) == (4, 2)
    assert (again.permit, again.limits.wall_time) == (1, timedelta(seconds=40))


def test_the_clock_stands_only_while_all_that_is_open_waits_for_people_at_whatever_depth() -> None:
    story = Story(plan())
    story.turn(hands("scout", "a"), hands("clerk", "b"))
    machine = story.machine
    story(waits(2, "apr_1"), timedelta(seconds=10))
    assert (machine.status, machine.time_left(story.now)) == ("in_progress", timedelta(seconds=50))
    story(waits(3, "apr_2", "apr_3"), timedelta(seconds=10))
    assert (machine.status, machine.time_left(story.now)) == ("requires_action", None)
    assert [item.question for item in machine.waiting_for()] == ["apr_1", "apr_2", "apr_3"]

    story(waits(3), timedelta(hours=9))

    assert (machine.status, machine.time_left(story.now)) == ("in_progress", timedelta(seconds=40))


def test_a_run_that_ends_stops_its_sub_agents_and_shows_no_question_of_theirs() -> None:
    story = Story(plan())
    story.turn(hands())
    story(waits(2, "apr_1"))

    stop = story(ev.CancelRequested())

    assert stop == [cmd.StopSteps((2,))]
    assert story.machine.waiting_for() == ()
    assert kinds(story.settle(2, "cancelled")) == ["Close"]


def test_beyond_its_depth_or_its_number_of_runs_a_task_is_refused_in_words_and_nobody_is_asked() -> None:
    deep = Story(plan(limits={"max_depth": 0}))
    many = Story(plan(limits={"max_handoffs": 1}))

    (too_deep,) = deep.turn(hands().model_copy(update={"gated": True}))
    told = many.turn(hands("scout", "a"), hands("scout", "b"))

    assert isinstance(too_deep, cmd.SettleCall)
    assert "too deep" in too_deep.output
    assert sorted(kinds(told)) == ["HandOff", "SettleCall"]
    assert handed(told)[0].limits.max_handoffs == 0


def test_what_a_sub_agents_run_no_longer_waits_for_is_not_shown_when_the_word_comes_late() -> None:
    story = Story(plan())
    story.turn(hands())
    story.settle(2)

    story(waits(2, "apr_1"))

    assert story.machine.waiting_for() == ()
    assert story.machine.status == "in_progress"


def test_a_run_that_has_no_time_left_when_it_has_recalled_begins_nothing() -> None:
    story = Story(plan(recalls=True, pending=(call("look"),)))

    told = story(ev.Recalled(1, ok=True), timedelta(hours=1))

    assert [(end.status, end.reason) for end in told if isinstance(end, cmd.Close)] == [("incomplete", "wall_time")]


def test_a_sub_agent_gets_no_more_than_its_own_definition_allows() -> None:
    from activities.handoff import lesser

    handed_down = Limits(max_tokens=500, wall_time=timedelta(minutes=5), max_handoffs=3, max_depth=1, max_turns=50)
    own = Limits(max_tokens=800, max_cost_usd=Decimal(1), wall_time=timedelta(hours=1), max_depth=0, max_turns=4)

    assert lesser(handed_down, own) == Limits(
        max_tokens=500,
        max_cost_usd=Decimal(1),
        wall_time=timedelta(minutes=5),
        max_handoffs=3,
        max_depth=0,
        max_turns=4,
    )
