"""What every run promises: random histories against the machine, then the promises one by one."""

from __future__ import annotations

import os
import random
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from horarium.contract import Decision, Resolution, Usage
from horarium.definitions import Limits
from horarium.ids import approval_id, step_id
from horarium.protocol import Ballot, Call, ModelReply, RunPlan, ToolOutcome
from horarium.tools import Effect
from tests.core.simulation import NOON, Simulation, make_plan
from workflows import commands as cmd
from workflows import events as ev
from workflows import machine as m

HISTORIES = int(os.environ.get("HORARIUM_TEST_HISTORIES", "12000"))


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
        "sub_agent_failed",
        *("max_turns", "max_tokens", "max_cost_usd", "max_repeats", "wall_time", "max_output_tokens", "content_filter"),
    }, ends


# ---- the promises one by one

LIMITS: dict[str, Any] = {"max_turns": 10, "wall_time": timedelta(minutes=1)}


def plan(*, limits: dict[str, Any] | None = None, **more: Any) -> RunPlan:
    given: dict[str, Any] = {"on_step_failure": "tell", **more}
    return RunPlan(
        run="run_1",
        thread="thr_1",
        agent="clerk",
        version=1,
        limits=Limits(**{**LIMITS, **(limits or {})}),
        model_timeout=timedelta(minutes=1),
        heartbeat_timeout=timedelta(seconds=1),
        **given,
    )


def call(tool: str, id: str = "c", **more: Any) -> Call:
    gated = tool in ("pay", "ship")
    effect = Effect.EXTERNAL if gated else Effect.READ
    digest = f"sha256:{tool}{id}"
    return Call(
        **{
            "id": id,
            "tool": tool,
            "digest": digest,
            "key": id,
            "source": "run_1/0001",
            "effect": effect,
            "gated": gated,
        }
        | more
    )


class Story:
    """A machine, told what happens one event after the other."""

    def __init__(self, plan: RunPlan) -> None:
        self.machine = m.Machine(plan)
        self.now = NOON
        self.told: list[cmd.Command] = self.machine.start(self.now)

    def __call__(self, event: ev.Event, after: timedelta = timedelta(0)) -> list[cmd.Command]:
        self.now += after
        self.told = self.machine.handle(event, self.now)
        return self.told

    def turn(self, *calls: Call, after: timedelta = timedelta(0), **more: Any) -> list[cmd.Command]:
        """The model answers what it was asked."""
        reply = ModelReply(**{"finish": "calls" if calls else "final", "calls": calls, **more})
        return self(ev.ModelReplied(self.machine.state.model_number, reply), after)

    def settle(self, number: int, status: Any = "completed", after: timedelta = timedelta(0), **more: Any) -> Any:
        return self(ev.ToolSettled(number, ToolOutcome(status=status, **more)), after)

    def decide(self, number: int, verdict: Any = "approve", after: timedelta = timedelta(0)) -> list[cmd.Command]:
        approval = approval_id(step_id("run_1", number))
        decision = Decision(approval=approval, digest="d", by="ann", verdict=verdict)
        return self(ev.Decided(approval, (Ballot(decision=decision, at=self.now, via="update"),)), after)

    def resolve(self, number: int, verdict: Any, **more: Any) -> list[cmd.Command]:
        return self(ev.Resolved(Resolution(step=step_id("run_1", number), verdict=verdict, by="ann", **more)))


def kinds(commands: list[cmd.Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


def close(commands: list[cmd.Command]) -> cmd.Close:
    last = commands[-1]
    assert isinstance(last, cmd.Close)
    return last


def test_reads_are_made_at_once_and_external_calls_after_their_approval() -> None:
    story = Story(plan())

    begun = story.turn(call("look", "a"), call("pay", "b"))
    assert kinds(begun) == ["CallTool", "AskPeople"]
    assert story(ev.Asked((4,))) == []
    assert story.settle(2) == []
    assert story.machine.status == "requires_action"

    assert kinds(story.decide(4)) == ["CallTool"]
    [ask] = story.settle(4)
    assert isinstance(ask, cmd.CallModel)
    assert ask.answered == ("run_1/0002", "run_1/0004")


def test_a_rejected_call_is_never_made_and_is_answered_in_its_place() -> None:
    story = Story(plan())
    story.turn(call("pay", "a"), call("look", "b"))
    story(ev.Asked((3,)))
    story.settle(4)

    [written] = story.decide(3, "reject")
    assert isinstance(written, cmd.SettleApprovals)
    [ask] = story(ev.Refused((3,)))
    assert isinstance(ask, cmd.CallModel)
    assert ask.answered == ("run_1/0003", "run_1/0004")


def test_a_message_that_comes_while_the_model_gives_its_last_answer_gets_another_turn() -> None:
    story = Story(plan())
    story(ev.MessageQueued("one more thing"))

    [ask] = story.turn(output="Done.")
    assert isinstance(ask, cmd.CallModel)
    assert ask.messages == ("one more thing",)
    assert close(story.turn(output="Now done.")).status == "completed"
    assert story.machine.state.output == "Now done."


def test_a_message_that_comes_while_the_memory_is_written_gets_another_turn_and_no_second_memory() -> None:
    story = Story(plan(remembers=True))
    assert kinds(story.turn(output="Done.")) == ["Remember"]
    story(ev.MessageQueued("one more thing"))

    assert kinds(story(ev.Remembered(2, ok=True))) == ["CallModel"]
    assert kinds(story.turn(output="Now done.")) == ["Close"]


def test_a_message_after_the_last_answer_begins_no_turn_beyond_the_budget() -> None:
    story = Story(plan(remembers=True, limits={"max_tokens": 10}))
    story.turn(output="Done.", usage=Usage(input_tokens=20))
    story(ev.MessageQueued("one more thing"))

    assert close(story(ev.Remembered(2, ok=True))).reason == "max_tokens"


def test_the_same_call_too_often_in_a_row_is_stopped_also_within_one_turn() -> None:
    same = {"digest": "sha256:same"}
    story = Story(plan(limits={"max_repeats": 2}))

    turn = [call("look", "a", **same), call("look", "b", **same), call("look", "c", **same), call("find", "d")]

    assert close(story.turn(*turn)).reason == "max_repeats"


def test_time_that_is_up_when_a_step_comes_back_begins_no_other() -> None:
    story = Story(plan())
    story.turn(call("look", "a"), call("look", "b"))
    story.settle(2)

    assert kinds(story.settle(3, after=timedelta(minutes=2))) == ["Close"]
    assert close(story.told).reason == "wall_time"


def test_time_that_is_up_when_a_decision_comes_makes_no_call() -> None:
    story = Story(plan())
    story.turn(call("look", "a"), call("pay", "b"))
    story(ev.Asked((4,)))

    assert kinds(story.decide(4, after=timedelta(minutes=2))) == ["StopSteps", "SettleApprovals"]
    story.settle(2, "cancelled")
    assert close(story(ev.Refused((4,)))).reason == "wall_time"


def test_a_final_answer_that_comes_late_is_an_answer() -> None:
    story = Story(plan())

    assert close(story.turn(output="Done.", after=timedelta(hours=1))).status == "completed"


def test_a_run_that_has_its_answer_is_not_stopped_while_it_writes_its_memory() -> None:
    story = Story(plan(remembers=True))
    story.turn(output="Done.")

    assert story(ev.TimePassed(), timedelta(hours=1)) == []
    assert close(story(ev.Remembered(2, ok=True))).status == "completed"


def test_the_clock_stands_while_only_people_are_waited_for() -> None:
    story = Story(plan())
    story.turn(call("pay"), after=timedelta(seconds=20))
    story(ev.Asked((3,)), after=timedelta(seconds=10))
    assert story.machine.time_left(story.now) is None

    assert kinds(story.decide(3, after=timedelta(days=30))) == ["CallTool"]
    assert story.machine.time_left(story.now) == timedelta(seconds=30)


def test_cancelling_stops_what_is_in_flight_withdraws_what_is_asked_and_then_closes() -> None:
    story = Story(plan())
    story.turn(call("look", "a"), call("pay", "b"))
    story(ev.Asked((4,)))

    stop, withdraw = story(ev.CancelRequested())
    assert stop == cmd.StopSteps((2,))
    assert isinstance(withdraw, cmd.SettleApprovals)
    assert [outcome.status for outcome in withdraw.outcomes] == ["withdrawn"]
    assert story.settle(2, "cancelled") == []
    assert close(story(ev.Refused((4,)))).status == "cancelled"


def test_a_question_that_was_being_asked_when_the_run_was_cancelled_is_withdrawn() -> None:
    story = Story(plan())
    story.turn(call("pay"))
    story(ev.CancelRequested())

    assert kinds(story(ev.Asked((3,)))) == ["SettleApprovals"]


def test_a_call_is_not_retried_once_the_run_is_ending() -> None:
    story = Story(plan())
    story.turn(call("look", "a"), call("look", "b"))
    story.settle(2, "unknown")
    story(ev.CancelRequested())

    assert "is ending" in (story.machine.may_resolve(Resolution(step="run_1/0002", verdict="retry", by="ann")) or "")
    assert story.resolve(2, "retry") == []
    ended = close(story.settle(3, "cancelled"))
    assert ended.message == "The run was cancelled. Nobody knows whether this was done: look."


@pytest.mark.parametrize(
    ("verdict", "more", "leads_to"),
    [
        ("retry", {}, "CallTool"),
        ("supply", {"output": "x"}, "SettleCall"),
        ("skip", {}, "SettleCall"),
        ("fail", {}, "Close"),
    ],
)
def test_a_held_step_waits_for_a_person_who_says_how_to_go_on(verdict: str, more: Any, leads_to: str) -> None:
    story = Story(plan(on_step_failure="hold"))
    story.turn(call("look"))
    assert story.settle(2, "failed", message="no route") == []
    [waiting] = story.machine.waiting_for()
    assert (waiting.kind, waiting.text) == ("held_step", "look failed: no route. Retry, supply, skip or fail it.")

    assert kinds(story.resolve(2, verdict, **more)) == [leads_to]


def test_what_a_tool_refuses_on_purpose_is_always_the_models_to_handle() -> None:
    for policy in ("tell", "fail", "hold"):
        story = Story(plan(on_step_failure=policy))
        story.turn(call("look"))

        assert kinds(story.settle(2, "failed", told=True)) == ["CallModel"]


def test_a_procedure_goes_on_when_its_call_was_made_or_refused_and_not_when_it_failed() -> None:
    story = Story(plan(procedure=("look", "pay")))
    offers = []
    for status in ("failed", "completed"):
        story.turn(call("look"))
        [ask] = story.settle(story.machine.state.calls[0].number, status)
        assert isinstance(ask, cmd.CallModel)
        offers.append((ask.offer, ask.closing))
    story.turn(call("pay"))
    number = story.machine.state.calls[0].number
    story(ev.Asked((number,)))
    story.decide(number, "reject")
    [ask] = story(ev.Refused((number,)))
    assert isinstance(ask, cmd.CallModel)

    assert [*offers, (ask.offer, ask.closing)] == [("look", False), ("pay", False), (None, True)]


def test_a_resumed_run_first_makes_the_calls_it_owes_under_the_approval_that_stands() -> None:
    owed = (call("pay", "a", approved_in="apr_old"), call("ship", "b"))
    story = Story(plan(pending=owed, answered=("run_0/0002",), messages=("run_1/input",)))

    made, asks = story.told
    assert isinstance(made, cmd.CallTool)
    assert (made.approval, made.ballots) == ("apr_old", ())
    assert isinstance(asks, cmd.AskPeople)
    assert [request.guards for request in asks.requests] == [3]
    story.settle(1)
    story(ev.Asked((3,)))
    story.decide(3)
    [ask] = story.settle(3)
    assert isinstance(ask, cmd.CallModel)
    assert (ask.answered, ask.messages) == (("run_0/0002", "run_1/0001", "run_1/0003"), ("run_1/input",))
