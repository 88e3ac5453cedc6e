"""What a run promises, on a real server, with a model that says what the test wants."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from activities.models.base import RequestedCall
from horarium.content import digest
from horarium.contract import RunRequest
from horarium.definition import Execution
from horarium.definitions import Agent, Limits, Memory
from horarium.errors import (
    ApprovalAlreadyDecided,
    Conflict,
    ModelRejected,
    ModelUnavailable,
    RunExists,
    ThreadNotFound,
)
from horarium.ids import new_run_id
from horarium.ledger.runs import Runs
from horarium.tools import NotPerformed, Performed
from tests.engine.conftest import World
from tests.support.engine import PATIENCE, Engine, asks, call, says
from tests.support.modes import execution as execution

TOOLS = ["look", "pay", "ship", "wait", "slow_pay", "refuse"]


def agent(name: str = "clerk", **more: Any) -> Agent:
    return Agent(name, model="scripted:lines", tools=TOOLS, **more)


async def test_a_run_calls_a_tool_answers_and_leaves_evidence_of_every_step(engine: Engine, world: World) -> None:
    run = await engine.start(agent(), asks(call("look", what="sky")), says("It is blue."))

    result = await engine.finish(run)

    assert (result.status, result.output, result.turns, result.steps) == ("completed", "It is blue.", 2, 3)
    assert (result.usage.input_tokens, result.usage.output_tokens) == (20, 10)
    steps = await run.steps()
    assert [(s.number, s.kind, s.name, s.status, s.attempts) for s in steps] == [
        (1, "model_call", "scripted:lines", "completed", 1),
        (2, "tool_call", "look", "completed", 1),
        (3, "model_call", "scripted:lines", "completed", 1),
    ]
    assert steps[1].arguments == '{"what":"sky"}'
    assert steps[1].output == "looked"
    assert engine.model.heard() == [("user", "Go."), ("assistant", ""), ("tool", "looked")]
    assert (await run.record()).status == "completed"


async def test_an_external_call_is_made_only_after_its_approval(engine: Engine, world: World) -> None:
    run = await engine.start(agent(), asks(call("pay", amount=7)), says())
    approval = await run.next_approval(PATIENCE)
    assert world.effects == []
    assert approval.preview == '{"amount":7}'
    assert (await engine.until(run, "requires_action")).waiting_for[0].kind == "approval"

    await run.approve(approval, by="finance")

    assert (await engine.finish(run)).status == "completed"
    assert [amount for _, amount in world.effects] == ["7"]
    steps = await run.steps()
    assert [(s.kind, s.status, s.by) for s in steps[1:3]] == [
        ("approval", "completed", "finance"),
        ("tool_call", "completed", None),
    ]


async def test_a_rejected_call_is_not_made_and_the_model_is_told_why(engine: Engine, world: World) -> None:
    run = await engine.start(agent(), asks(call("pay", amount=7)), says("Not paid."))

    await run.reject(await run.next_approval(PATIENCE), by="finance", comment="No invoice.")

    assert (await engine.finish(run)).status == "completed"
    assert world.effects == []
    told = engine.model.heard()[-1]
    assert told[0] == "tool"
    assert "finance rejected" in told[1]
    assert "No invoice." in told[1]
    assert "Do not make the call again" in told[1]


async def test_parallel_approvals_are_decided_in_any_order_and_one_rejection_leaves_the_others(
    engine: Engine, world: World
) -> None:
    calls = [call("pay", f"c{n}", amount=n) for n in range(3)]
    run = await engine.start(agent(), asks(*calls), says())
    await run.next_approval(PATIENCE)
    approvals = await run.approvals()

    await run.approve(approvals[2], by="ann")
    await run.reject(approvals[0], by="bob")
    await run.approve(approvals[1], by="ann")

    assert (await engine.finish(run)).status == "completed"
    assert sorted(amount for _, amount in world.effects) == ["1", "2"]
    answers = [message.call_id for message in engine.model.requests[-1].messages if message.role == "tool"]
    assert answers == ["c0", "c1", "c2"]


async def test_the_first_decision_wins_a_repeat_is_a_no_op_and_a_contradiction_names_the_winner(
    engine: Engine, world: World
) -> None:
    run = await engine.start(agent(), asks(call("pay", "a", amount=1), call("pay", "b", amount=2)), says())
    await run.next_approval(PATIENCE)
    first, second = await run.approvals()

    assert not (await run.approve(first, by="ann")).repeated
    assert (await run.approve(first, by="ann")).repeated
    with pytest.raises(ApprovalAlreadyDecided, match="already approved by ann"):
        await run.reject(first, by="bob")
    await run.reject(second, by="bob")

    await engine.finish(run)
    assert [amount for _, amount in world.effects] == ["1"]


async def test_a_signal_from_any_temporal_client_approves_and_a_wrong_one_changes_nothing(
    engine: Engine, world: World
) -> None:
    run = await engine.start(agent(), asks(call("pay", amount=5)), says())
    approval = await run.next_approval(PATIENCE)
    handle = engine.env.client.get_workflow_handle(run.id)

    await handle.signal("approve", {"approval": approval.id, "digest": digest("other"), "by": "eve"})
    await handle.signal("approve", "nonsense")
    await handle.signal("approve", {"approval": "apr_unknown", "digest": approval.digest, "by": "eve"})
    status = await run.status()
    assert len(status.refused_signals) == 3
    assert status.status == "requires_action"
    assert world.effects == []

    await handle.signal("approve", {"approval": approval.id, "digest": approval.digest, "by": "ann"})
    assert (await engine.finish(run)).status == "completed"
    assert len(world.effects) == 1


async def test_wrong_calls_go_back_to_the_model_with_the_reason(engine: Engine, world: World) -> None:
    run = await engine.start(
        agent(),
        asks(
            RequestedCall("a", "look", '{"what": '),
            call("lok", "b"),
            call("look", "c", wat=1),
            call("look", "d"),
            call("look", "d"),
            RequestedCall("e", "look", '{"what": NaN}'),
        ),
        says(),
    )

    assert (await engine.finish(run)).status == "completed"

    answers = {m.call_id: m.text for m in engine.model.requests[-1].messages if m.role == "tool"}
    assert "not valid JSON" in answers["a"]
    assert "no tool 'lok'" in answers["b"]
    assert "do not fit 'look'" in answers["c"]
    assert answers["d"] == "looked"
    assert any("used twice" in text for text in answers.values())
    assert "NaN is not JSON" in answers["e"]
    assert world.looks == 1


async def test_four_turns_in_a_row_that_do_not_count_fail_the_run(engine: Engine) -> None:
    run = await engine.start(agent(), says(""))

    result = await engine.finish(run)

    assert (result.status, result.reason, result.turns) == ("failed", "malformed_turns", 4)
    assert "empty" in engine.model.heard()[-1][1]


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(max_turns=3), "max_turns"),
        (Limits(max_tokens=40), "max_tokens"),
        (Limits(max_repeats=2), "max_repeats"),
    ],
)
async def test_a_model_that_never_stops_is_stopped_by_a_limit(engine: Engine, limits: Limits, reason: str) -> None:
    run = await engine.start(agent(limits=limits), asks(call("look")))

    result = await engine.finish(run)

    assert (result.status, result.reason) == ("incomplete", reason)


async def test_wall_time_ends_a_run_but_does_not_run_while_people_are_waited_for(
    skipping_engine: Engine, world: World
) -> None:
    engine = skipping_engine
    brief = agent(limits=Limits(wall_time=timedelta(seconds=30)))
    waiting = await engine.start(brief, asks(call("pay", amount=1)), says())
    approval = await waiting.next_approval(PATIENCE)
    await engine.env.sleep(timedelta(hours=3))

    await waiting.approve(approval, by="ann")
    assert (await engine.finish(waiting)).status == "completed"

    stuck = await engine.start(brief, ModelUnavailable("busy", retry_after=timedelta(seconds=20), throttled=True))
    await engine.env.sleep(timedelta(minutes=2))
    result = await engine.until(stuck, "incomplete")
    assert result.reason == "wall_time"


@pytest.mark.parametrize("every", [1, 2, 3])
async def test_continuing_as_new_at_every_step_changes_nothing_that_can_be_seen(
    engine: Engine, world: World, execution: Execution, every: int
) -> None:
    run = await engine.start(
        agent(),
        asks(call("look", "a"), call("look", "b")),
        asks(call("pay", "c", amount=1), call("pay", "d", amount=2)),
        asks(call("look", "e")),
        says("All done."),
        continue_as_new_after=every,
    )
    await run.next_approval(PATIENCE)
    first, second = [a for a in await run.approvals() if a.status == "pending"]
    await run.approve(second, by="ann")
    await run.reject(first, by="bob")

    result = await engine.finish(run)

    assert (result.status, result.output, result.turns, result.steps) == ("completed", "All done.", 4, 11)
    assert [s.number for s in await run.steps()] == list(range(1, 12))
    assert [amount for _, amount in world.effects] == ["2"]
    executions = [e async for e in engine_executions(engine, run.id)]
    assert len(executions) > (2 if execution == "steps" else 1)  # a segment leaves few events, which is what counts


async def engine_executions(engine: Engine, run_id: str) -> Any:
    """The chain of executions, followed from the first through its continue-as-new events."""
    handle = engine.env.client.get_workflow_handle(run_id)
    latest = (await handle.describe()).run_id
    seen: str | None = latest
    while seen:
        history = await engine.env.client.get_workflow_handle(run_id, run_id=seen).fetch_history()
        yield seen
        seen = history.events[0].workflow_execution_started_event_attributes.continued_execution_run_id or None


async def test_a_message_to_a_run_in_progress_is_read_before_its_next_turn(engine: Engine, world: World) -> None:
    run = await engine.start(agent(), asks(call("pay", amount=1)), says())
    approval = await run.next_approval(PATIENCE)

    await run.message("And be quick.", by="ann")
    await run.approve(approval, by="ann")

    assert (await engine.finish(run)).status == "completed"
    assert engine.model.heard()[-1] == ("user", "And be quick.")
    with pytest.raises(Conflict, match="has ended"):
        await run.message("Too late.")


async def test_cancelling_withdraws_open_approvals_and_late_decisions_are_told_so(engine: Engine, world: World) -> None:
    run = await engine.start(agent(), asks(call("pay", amount=1)), says())
    approval = await run.next_approval(PATIENCE)

    await run.cancel()

    assert (await engine.finish(run)).status == "cancelled"
    with pytest.raises(Conflict):
        await run.approve(approval, by="ann")
    assert world.effects == []
    assert [(s.kind, s.status) for s in (await run.steps())[1:]] == [
        ("approval", "cancelled"),
        ("tool_call", "cancelled"),
    ]


async def test_cancelling_reaches_the_tool_in_flight_and_says_that_nobody_knows(engine: Engine, world: World) -> None:
    run = await engine.start(agent(), asks(call("slow_pay", amount=1)), says())
    await run.approve(await run.next_approval(PATIENCE), by="ann")
    assert await asyncio.to_thread(world.entered_thread.wait, 20)

    await run.cancel()

    result = await engine.finish(run)
    assert result.status == "cancelled"
    step = (await run.steps())[2]
    assert (step.name, step.status) == ("slow_pay", "unknown")
    assert world.effects == []


async def test_a_tool_that_refuses_on_purpose_is_not_tried_again_and_the_model_reads_why(engine: Engine) -> None:
    run = await engine.start(agent(on_step_failure="fail"), asks(call("refuse")), says())

    assert (await engine.finish(run)).status == "completed"
    assert engine.model.heard()[-1][1] == "Error: The archive is closed on Sundays."
    assert (await run.steps())[1].attempts == 1


async def test_a_read_that_breaks_is_tried_again_and_then_the_model_is_told(engine: Engine, world: World) -> None:
    world.fail_next = [OSError("no route")] * 2
    run = await engine.start(agent(), asks(call("look")), says())
    assert (await engine.finish(run)).status == "completed"
    step = (await run.steps())[1]
    assert (step.status, step.attempts, step.failures) == ("completed", 3, 2)

    world.fail_next = [OSError("no route")] * 3
    run = await engine.start(agent(), asks(call("look")), says())
    assert (await engine.finish(run)).status == "completed"
    assert "OSError: no route" in engine.model.heard()[-1][1]


@pytest.mark.parametrize(
    ("verdict", "status", "effects"),
    [("retry", "completed", 1), ("supply", "completed", 0), ("skip", "completed", 0), ("fail", "failed", 0)],
)
async def test_an_external_call_that_broke_is_unknown_and_a_person_says_how_to_go_on(
    engine: Engine, world: World, verdict: Any, status: str, effects: int
) -> None:
    world.fail_next = [ConnectionError("reset by peer")]
    run = await engine.start(agent(), asks(call("pay", amount=3)), says())
    await run.approve(await run.next_approval(PATIENCE), by="ann")
    waiting = (await engine.until(run, "requires_action")).waiting_for
    while waiting[0].kind != "unknown_outcome":
        await asyncio.sleep(0.02)
        waiting = (await run.status()).waiting_for or waiting
    assert world.effects == []

    await run.resolve(waiting[0].id, verdict, by="ann", output="receipt 12" if verdict == "supply" else None)

    result = await engine.finish(run)
    assert (result.status, len(world.effects)) == (status, effects)
    if verdict == "supply":
        assert engine.model.heard()[-1] == ("tool", "receipt 12")


async def test_a_verify_probe_answers_instead_of_a_person(engine: Engine, world: World) -> None:
    world.fail_next = [ConnectionError("reset by peer")]
    world.verify_says = Performed("shipped before")
    run = await engine.start(agent(), asks(call("ship", item="box")), says())
    await run.approve(await run.next_approval(PATIENCE), by="ann")
    assert (await engine.finish(run)).status == "completed"
    assert engine.model.heard()[-1] == ("tool", "shipped before")
    assert world.effects == []

    world.fail_next = [ConnectionError("reset by peer")]
    world.verify_says = NotPerformed()
    run = await engine.start(agent(), asks(call("ship", item="box")), says())
    await run.approve(await run.next_approval(PATIENCE), by="ann")
    assert (await engine.finish(run)).status == "completed"
    assert [item for _, item in world.effects] == ["box"]


async def test_a_held_model_call_waits_for_a_person_and_goes_on_after_a_retry(engine: Engine) -> None:
    holding = agent(on_step_failure="hold")
    run = await engine.start(holding, ModelRejected("context too long"), says("Now it works."))
    waiting = (await engine.until(run, "requires_action")).waiting_for

    await run.resolve(waiting[0].id, "retry", by="ann")

    assert (await engine.finish(run)).output == "Now it works."


async def test_a_failed_model_fails_the_run_with_its_cause_and_resuming_continues_after_the_settled_steps(
    engine: Engine, world: World
) -> None:
    run = await engine.start(agent(), asks(call("look", what="sky")), ModelRejected("quota of the project is used up"))
    result = await engine.finish(run)
    assert (result.status, result.reason) == ("failed", "model_rejected")
    assert "quota" in (result.message or "")

    resumed = await engine.start(agent(), says("It is blue."), input=None, resume_from=run.id)

    result = await engine.finish(resumed)
    assert (result.status, result.output, result.thread) == ("completed", "It is blue.", (await run.record()).thread_id)
    assert world.looks == 1
    assert engine.model.heard()[-1] == ("tool", "looked")


async def test_a_resumed_run_makes_the_owed_call_under_its_old_key_and_approval(engine: Engine, world: World) -> None:
    world.fail_next = [ConnectionError("reset by peer")]
    run = await engine.start(agent(), asks(call("pay", amount=9)), says())
    await run.approve(await run.next_approval(PATIENCE), by="ann")
    await engine.until(run, "requires_action")
    await engine.env.client.get_workflow_handle(run.id).terminate("test")
    key = (await run.steps())[2].key

    resumed = await engine.start(agent(), says("Paid."), input=None, resume_from=run.id)
    status = await engine.until(resumed, "requires_action")
    assert status.waiting_for[0].kind == "unknown_outcome"
    await resumed.resolve(status.waiting_for[0].id, "retry", by="ann")

    assert (await engine.finish(resumed)).status == "completed"
    assert world.effects == [(key, "9")]


async def test_an_unavailable_model_is_asked_again_when_it_said_so_and_throttling_uses_up_no_attempt(
    skipping_engine: Engine,
) -> None:
    engine = skipping_engine
    busy = ModelUnavailable("429", retry_after=timedelta(minutes=2), throttled=True)
    patient = agent(settings={"attempts": 1})
    run = await engine.start(patient, busy, busy, busy, says("At last."))
    await engine.env.sleep(timedelta(minutes=7))

    assert (await engine.finish(run)).output == "At last."
    assert (await run.steps())[0].failures == 0

    run = await engine.start(patient, ModelUnavailable("500"))
    result = await engine.finish(run)
    assert (result.status, result.reason) == ("failed", "model_unavailable")


async def test_a_procedure_offers_only_the_next_tool_and_nothing_off_the_script_is_made(
    engine: Engine, world: World
) -> None:
    scripted = agent(procedure=["look", "refuse"], limits=Limits(max_turns=6))
    run = await engine.start(
        scripted, asks(call("pay", amount=1)), asks(call("look")), says("skip it?"), asks(call("refuse")), says("end")
    )

    await engine.finish(run)

    offers = [[spec.name for spec in request.tools] for request in engine.model.requests]
    assert offers[:4] == [["look"], ["look"], ["refuse"], ["refuse"]]
    assert world.effects == []


async def test_the_same_key_is_the_same_run_and_another_request_under_it_is_refused(engine: Engine) -> None:
    first = await engine.start(agent(), says("once"), key="order-7")
    second = await engine.start(agent(), says("once"), key="order-7")
    assert first.id == second.id
    await engine.finish(first)
    third = await engine.start(agent(), key="order-7")
    assert (await engine.finish(third)).output == "once"
    with pytest.raises(RunExists, match="order-7"):
        await engine.start(agent(), input="Something else.", key="order-7")


async def test_a_thread_goes_on_with_the_next_run_and_has_one_open_run_at_a_time(engine: Engine, world: World) -> None:
    first = await engine.start(agent(), says("One."), input="First?")
    thread = (await engine.finish(first)).thread
    busy = await engine.start(agent(), asks(call("pay", amount=1)), says("Two."), input="Second?", thread=thread)
    approval = await busy.next_approval(PATIENCE)

    third = await engine.client.start(agent(), "Third?", thread=thread)
    result = await engine.finish(third)
    assert (result.status, result.reason) == ("failed", "thread_busy")
    assert busy.id in (result.message or "")
    assert (await third.record()).status == "failed"

    await run_to_end(engine, busy, approval)
    assert [text for role, text in engine.model.heard() if role == "user"][:2] == ["First?", "Second?"]


async def run_to_end(engine: Engine, run: Any, approval: Any) -> None:
    await run.approve(approval, by="ann")
    assert (await engine.finish(run)).status == "completed"


async def test_deleting_a_thread_removes_what_was_said_and_keeps_that_it_was_done(engine: Engine, world: World) -> None:
    world.result = "x" * 100_000
    run = await engine.start(agent(), asks(call("look", what="canary-1")), says("canary-2"), input="canary-3")
    result = await engine.finish(run)
    blob = (await run.steps())[1].output_blob
    assert blob is not None

    await engine.client.delete_thread(result.thread)

    steps = await run.steps()
    assert [(s.kind, s.status) for s in steps] == [
        ("model_call", "completed"),
        ("tool_call", "completed"),
        ("model_call", "completed"),
    ]
    assert all(s.output is None and s.arguments is None for s in steps)
    assert await engine.client.thread(result.thread) == []
    with pytest.raises(FileNotFoundError):
        await engine.ledger.blobs.get(blob)
    with pytest.raises(ThreadNotFound):
        await engine.client.start(agent(), "again", thread=result.thread)


async def test_a_completed_run_leaves_a_note_that_a_later_run_of_the_scope_is_given(engine: Engine) -> None:
    remembering = agent(memory=Memory(scope="weather"))
    first = await engine.start(remembering, says("It rained."), input="How was Monday?")
    assert (await engine.finish(first)).status == "completed"
    assert [s.kind for s in await first.steps()] == ["tool_call", "model_call", "memory_write"]

    second = await engine.start(remembering, says("As I said."), input="Again?")
    await engine.finish(second)

    assert "How was Monday?" in engine.model.requests[-1].instructions
    assert "It rained." in engine.model.requests[-1].instructions


HOSTILE: list[tuple[str, object]] = [
    ("bytes", b"\x00\xff" * 50),
    ("nan", {"a": float("nan"), "b": [float("inf")]}),
    ("surrogate", "half \ud83d pair"),
    ("nul", "a\x00b"),
    ("big", "line\n" * 4_000_000),
    ("huge_int", 10**5000),
    ("object", object()),
    ("none", None),
]


@pytest.mark.parametrize(("kind", "value"), HOSTILE, ids=[kind for kind, _ in HOSTILE])
async def test_whatever_a_tool_returns_ends_as_a_settled_step_done_once(
    engine: Engine, world: World, kind: str, value: object
) -> None:
    world.result = value
    run = await engine.start(agent(), asks(call("look")), says())

    assert (await engine.finish(run)).status == "completed"

    step = (await run.steps())[1]
    assert (step.status, step.attempts, world.looks) == ("completed", 1, 1)
    shown = engine.model.heard()[-1][1]
    shown.encode("utf-8")
    assert len(shown) < 17_000
    assert "\x00" not in shown
    if kind == "big":
        assert "20,000,000 bytes" in shown
        assert step.output_blob is not None
        assert len(await engine.ledger.blobs.get(step.output_blob)) == 20_000_000


async def test_no_payload_is_large_and_no_conversation_is_in_the_history(engine: Engine, world: World) -> None:
    world.result = "tool-canary " * 5_000
    run = await engine.start(
        agent(),
        asks(*[call("look", f"c{n}", what=f"argument-canary {n}") for n in range(20)]),
        says("done"),
        input="input-canary " * 9_000,
    )
    assert (await engine.finish(run)).status == "completed"

    history = await engine.env.client.get_workflow_handle(run.id).fetch_history()
    text = history.to_json()
    for canary in ("input-canary", "argument-canary", "tool-canary"):
        assert canary not in text
    largest = max(event.ByteSize() for event in history.events)
    assert largest < 64 * 1024


@pytest.mark.parametrize(
    "request_payload",
    [None, "text", {"agent": 7}, {"agent": "clerk", "input": "x" * 20_000}, {"agent": "clerk", "carried": {"plan": 7}}],
)
async def test_a_bad_request_from_any_client_ends_the_run_and_says_what_is_wrong(
    engine: Engine, request_payload: object
) -> None:
    handle = await engine.env.client.start_workflow(
        "AgentRun", request_payload, id=f"run_bad_{abs(hash(str(request_payload)))}", task_queue="horarium"
    )

    result = await engine.client.run(handle.id).result(PATIENCE)

    assert result.status == "failed"
    assert "request is wrong" in (result.message or "")


async def test_an_unknown_agent_fails_the_run_with_the_near_miss(engine: Engine) -> None:
    await engine.finish(await engine.start(agent(), says()))

    run = await engine.client.start("clark", "Go.")

    result = await engine.finish(run)
    assert (result.status, result.reason) == ("failed", "agent_not_found")
    assert "did you mean 'clerk'" in (result.message or "")


async def test_any_temporal_client_can_start_a_run_without_the_ledger(engine: Engine) -> None:
    await engine.finish(await engine.start(agent(), says("Hello.")))
    handle = await engine.env.client.start_workflow(
        "AgentRun", {"agent": "clerk", "input": "Hi."}, id="run_from-elsewhere", task_queue="horarium"
    )

    assert (await engine.client.run(handle.id).result(PATIENCE)).output == "Hello."
    assert ("user", "Hi.") in engine.model.heard()


async def test_a_secret_that_a_tool_shouts_is_stored_nowhere(
    engine: Engine, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from horarium.secrets import reveal

    monkeypatch.setenv("CANARY_KEY", "sk-canary-4711")
    secret = reveal("${CANARY_KEY}")
    world.fail_next = [OSError(f"401 for key {secret}")] * 3
    run = await engine.start(agent(), asks(call("look")), asks(call("look", "c2")), says(f"The key is {secret}."))
    world.result = {"leak": secret}

    assert (await engine.finish(run)).status == "completed"

    history = await engine.env.client.get_workflow_handle(run.id).fetch_history()
    assert secret not in history.to_json()
    stored = b"".join(path.read_bytes() for path in engine.settings.state.rglob("*") if path.is_file())
    assert secret.encode() not in stored
    assert b"[secret]" in stored


async def test_a_run_that_is_written_down_and_not_started_yet_is_queued(engine: Engine) -> None:
    run = engine.client.run(new_run_id())
    request = RunRequest(agent="helper", input="Go.")
    await Runs(engine.ledger).create(run.id, request, key=None, request_digest="sha256:0")

    assert (await run.status()).status == "queued"
