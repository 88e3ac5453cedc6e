"""What a segment is given and gives back, and what it reads again after a death."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest

from horarium.contract import Resolution, StepKind
from horarium.definitions import Limits
from horarium.ids import step_id
from horarium.ledger.journal import StepRecord
from horarium.protocol import ApprovalOutcome, ApprovalRequest, Ballot, Call, ModelReply, RunPlan, ToolOutcome
from horarium.tools import Effect
from workers.segments import as_it_was
from workflows import commands as kinds
from workflows.commands import CallModel, CallTool, Command
from workflows.events import ModelReplied, ToolSettled
from workflows.machine import Machine
from workflows.segment import LONGEST_CALL, Left, in_done, in_segment, is_step_of_ours, to_done, to_segment

NOW = datetime(2026, 11, 21, tzinfo=UTC)
CALL = Call(id="c1", tool="pay", digest="d", key="horarium/run_1/c1.1", source="run_1/0001", effect=Effect.EXTERNAL)
RESOLUTION = Resolution(step="run_1/0002", verdict="retry", by="ann")
BALLOT = Ballot.model_validate(
    {"decision": {"approval": "apr_1", "verdict": "approve", "by": "ann", "digest": "d"}, "at": NOW, "via": "update"}
)
PLAN = RunPlan(
    run="run_1",
    thread="thr_1",
    agent="clerk",
    version=1,
    limits=Limits(),
    on_step_failure="tell",
    model_timeout=timedelta(minutes=10),
    heartbeat_timeout=timedelta(seconds=1),
    execution="segments",
)
OUTCOME = ApprovalOutcome(id="apr_1", number=1, guards=2, call=CALL, status="rejected", ballot=BALLOT, at=NOW)
COMMANDS: list[Command] = [
    CallModel(1, ("run_1/0002",), ("m/1",), "note", None, False, 0, True, 3, True),
    CallTool(2, CALL, "apr_1", (BALLOT,), 1, RESOLUTION),
    kinds.HandOff(2, CALL, None, (), 0, None, Limits(max_turns=3)),
    kinds.BeginFunction(2, CALL),
    kinds.SettleFunction(2, CALL, "expired"),
    kinds.Recall(1),
    kinds.Compact(1),
    kinds.AskPeople((ApprovalRequest(id="apr_1", number=1, guards=2, call=CALL),)),
    kinds.AskAgain("apr_1", "why"),
    kinds.Escalate(2, "apr_1", NOW),
    kinds.Tell("requested", "apr_1", 1, "pay"),
    kinds.Inquire("q", "held_step", 2, CALL, "text"),
    kinds.SettleInquiry("q", RESOLUTION, "signal", None),
    kinds.SettleApprovals((OUTCOME,)),
    kinds.SettleCall(2, CALL, "rejected", "no", "ann", None, RESOLUTION),
    kinds.StopSteps((1, 2)),
    kinds.Remember(3),
    kinds.Close("failed", "why", None),
]


def record(number: int, kind: StepKind, name: str = "pay", key: str | None = None) -> StepRecord:
    given: dict[str, Any] = dict.fromkeys(StepRecord.__slots__)
    given |= {"run_id": "run_1", "number": number, "kind": kind, "name": name, "key": key, "status": "completed"}
    return StepRecord(**given)


def test_every_command_comes_back_as_it_was() -> None:
    assert {type(command) for command in COMMANDS} == set(get_args(Command))
    machine = Machine(PLAN)
    left = [Left(command, timedelta(seconds=number)) for number, command in enumerate(COMMANDS)]

    done = to_done(machine.state, left, messages=["m/1"])

    assert in_done(type(done).model_validate_json(done.model_dump_json())) == (machine.state, left)
    given = to_segment(PLAN, machine.state, COMMANDS, tenant="t")
    assert in_segment(type(given).model_validate_json(given.model_dump_json())) == (PLAN, machine.state, COMMANDS)


def test_a_long_run_gives_back_little_and_only_the_last_steps() -> None:
    machine = Machine(PLAN.model_copy(update={"limits": Limits(max_turns=1_000)}))
    [command] = machine.start(NOW)
    for turn in range(300):
        assert isinstance(command, CallModel)
        call = CALL.model_copy(update={"id": f"c{turn}", "digest": str(turn)})
        [made] = machine.handle(ModelReplied(command.number, ModelReply(finish="calls", calls=(call,))), NOW)
        assert isinstance(made, CallTool)
        [command] = machine.handle(ToolSettled(made.number, ToolOutcome(status="completed")), NOW)

    done = to_done(machine.state, [Left(command)])

    state, _ = in_done(done)
    assert [step.id for step in state.steps] == [step_id("run_1", number) for number in range(582, 602)]
    assert len(done.model_dump_json()) < 4_000


@pytest.mark.parametrize(
    ("call", "ours"),
    [
        (CALL, True),
        (CALL.model_copy(update={"queue": "horarium-tools-a"}), False),
        (CALL.model_copy(update={"timeout": LONGEST_CALL * 2}), False),
    ],
)
def test_a_call_that_others_make_or_that_may_take_long_is_an_activity_of_its_own(call: Call, ours: bool) -> None:
    assert is_step_of_ours(CallTool(2, call, None, (), 0, None)) is ours


def test_a_turn_that_is_read_again_leads_to_the_steps_that_it_led_to_before() -> None:
    """The tool asks people since, and the conversation is longer: what was begun says how it was."""
    reply = ModelReply(finish="calls", calls=(CALL.model_copy(update={"gated": True}),), compact=True)
    made = record(2, "tool_call", key=CALL.key)

    again = as_it_was(reply, 1, [record(1, "model_call"), made, record(3, "model_call", "scripted:test")])
    summarised = as_it_was(reply, 1, [record(1, "model_call"), made, record(3, "model_call", "summary")])
    asked = as_it_was(reply, 1, [record(1, "model_call"), record(2, "approval"), record(3, "tool_call", key=CALL.key)])
    not_begun = as_it_was(reply, 1, [record(1, "model_call")])

    assert [(one.calls[0].gated, one.compact) for one in (again, summarised, asked, not_begun)] == [
        (False, False),
        (False, True),
        (True, True),
        (True, True),
    ]
