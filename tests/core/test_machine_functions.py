"""Calls that whoever started the run carries out, one promise at a time."""

from __future__ import annotations

from datetime import timedelta

from horarium.protocol import Call
from tests.core.test_machine import Story, call, kinds, plan
from workflows import commands as cmd
from workflows import events as ev


def beep(id: str = "f") -> Call:
    """A call of the caller's function."""
    return call("beep", id, function=True)


def given(story: Story, number: int, **more: timedelta) -> list[cmd.Command]:
    """The caller sees the call."""
    until = story.now + more["until"] if "until" in more else None
    return story(ev.FunctionBegun(number, until))


def test_a_function_is_given_to_the_caller_and_the_clock_stands_until_its_output() -> None:
    story = Story(plan())

    assert kinds(story.turn(beep())) == ["BeginFunction"]
    assert given(story, 2) == []
    [waiting] = story.machine.waiting_for()
    assert (waiting.kind, waiting.id, waiting.tool) == ("function_call", "call_1_2", "beep")
    assert story.machine.status == "requires_action"
    assert story.machine.time_left(story.now) is None
    [settle] = story(ev.OutputSubmitted(2), after=timedelta(days=3))
    assert isinstance(settle, cmd.SettleFunction)
    assert settle.ended is None
    [ask] = story.settle(2)
    assert isinstance(ask, cmd.CallModel)
    assert ask.answered == ("run_1/0002",)


def test_an_output_that_comes_before_the_run_knows_of_its_call_is_kept() -> None:
    story = Story(plan())
    story.turn(beep())

    assert story(ev.OutputSubmitted(2)) == []
    [settle] = given(story, 2)
    assert isinstance(settle, cmd.SettleFunction)
    assert story(ev.OutputSubmitted(2)) == []


def test_the_wait_expires_and_what_comes_then_settles_nothing_twice() -> None:
    story = Story(plan())
    story.turn(beep())
    given(story, 2, until=timedelta(hours=1))

    assert story.machine.next_deadline() == story.now + timedelta(hours=1)
    [settle] = story(ev.TimePassed(), after=timedelta(hours=1))
    assert isinstance(settle, cmd.SettleFunction)
    assert settle.ended == "expired"
    assert story(ev.OutputSubmitted(2)) == []
    assert kinds(story.settle(2, "cancelled")) == ["CallModel"]


def test_a_run_that_ends_takes_its_call_back_before_it_closes() -> None:
    story = Story(plan())
    story.turn(beep(), call("look", "a"))
    given(story, 2)
    story.settle(3)

    [settle] = story(ev.CancelRequested())
    assert isinstance(settle, cmd.SettleFunction)
    assert settle.ended == "withdrawn"
    [closed] = story.settle(2, "cancelled")
    assert isinstance(closed, cmd.Close)
    assert closed.status == "cancelled"


def test_a_run_that_ends_before_the_caller_sees_the_call_takes_it_back_as_well() -> None:
    story = Story(plan())
    story.turn(beep())

    assert kinds(story(ev.CancelRequested())) == ["StopSteps"]
    [settle] = given(story, 2)
    assert isinstance(settle, cmd.SettleFunction)
    assert settle.ended == "withdrawn"


def test_what_has_to_be_called_first_is_offered_until_something_is_called() -> None:
    story = Story(plan(choice="beep"))

    [first] = story.told
    assert isinstance(first, cmd.CallModel)
    assert (first.offer, first.closing) == ("beep", False)
    [again] = story.turn(finish="malformed", malformed="no call")
    assert isinstance(again, cmd.CallModel)
    assert again.offer == "beep"
    story.turn(beep())
    given(story, 3)
    story(ev.OutputSubmitted(3))
    [free] = story.settle(3)
    assert isinstance(free, cmd.CallModel)
    assert free.offer is None
