"""Ticks on a real server whose clock jumps: failure policies, overlap, what is left for the next tick."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer

from activities.models.base import ModelRequest, RequestedCall, Turn
from activities.ticks import TickKeeper
from horarium import contract
from horarium.contract import OPEN_STATUSES, Decision, RunRequest, TickRequest, TickResult
from horarium.conversion import data_converter
from horarium.definitions import Agent, ApprovalRule, Limits
from horarium.ids import run_id_for_key, step_id
from horarium.ledger.admission import Opened
from horarium.ledger.agents import Agents
from horarium.ledger.approvals import ApprovalRecord
from horarium.ledger.grants import Grants
from horarium.ledger.lateness import Lateness, MissedFire
from horarium.ledger.routines import RoutineRecord, Routines
from horarium.ledger.runs import Runs
from horarium.ledger.schema import ticks
from horarium.ledger.threads import Threads
from horarium.ledger.ticks import TickRecord, Ticks
from horarium.routines import Routine, tick_id
from horarium.settings import Settings, WorkerSettings
from horarium.tick_protocol import CLOSE_TICK, OPEN_ATTEMPT, CloseTick, LookAtAttempt, OpenAttempt, OpenTick
from horarium.tools import Effect, ToolContext, tool
from tests.engine.conftest import own_skipping_environment
from tests.support.engine import PATIENCE, Engine, Said, asks, call, running_engine, sandbox, says
from tests.support.intruder import ask_for
from workflows.routine_tick import RoutineTick

_NUMBERS = itertools.count()
BROKEN = "The archive is away."


class Archive:
    """What the tools of these tests do, outside of the engine, so that it can be counted."""

    def __init__(self) -> None:
        self.filed: list[int] = []
        self.broken_at: int | None = None
        self.breaks = 0
        self.paid: list[int] = []
        self.seen: list[dict[str, Any]] = []
        self.released = asyncio.Event()
        self.entered = asyncio.Event()

    def tools(self) -> list[Any]:
        archive = self

        @tool(effect=Effect.READ, attempts=1)
        def file(number: int) -> str:
            """File a page."""
            if archive.broken_at == number:
                archive.breaks += 1
                raise RuntimeError(BROKEN)
            archive.filed.append(number)
            return f"filed {number}"

        @tool(effect=Effect.EXTERNAL)
        def pay(amount: int, context: ToolContext) -> str:
            """Pay an amount."""
            archive.paid.append(amount)
            return f"paid {amount}"

        @tool(effect=Effect.IDEMPOTENT)
        def keep(key: str, value: int, context: ToolContext) -> str:
            """Keep a value for the next tick."""
            archive.seen.append(dict(context.state))
            context.state[key] = value
            return "kept"

        return [file, pay, keep]


@pytest.fixture
def archive() -> Archive:
    return Archive()


@pytest.fixture
async def engine(tmp_path: Path, archive: Archive) -> AsyncIterator[Engine]:
    """On a server of its own: an abandoned child, which an alert is, keeps the clock of this one from jumping on."""
    async with (
        own_skipping_environment() as environment,
        running_engine(environment, tmp_path, archive.tools()) as engine,
    ):
        yield engine


@pytest.fixture
async def unhurried(env: WorkflowEnvironment, tmp_path: Path, archive: Archive) -> AsyncIterator[Engine]:
    """On the server whose clock is the world's."""
    async with running_engine(env, tmp_path, archive.tools()) as engine:
        yield engine


def clerk(**more: Any) -> Agent:
    return Agent("clerk", model="scripted:lines", **({"tools": ["file", "pay"], "on_step_failure": "fail"} | more))


def files_pages(pages: int) -> Said:
    """A model that files one page after the other, by what it was answered so far."""

    def line(request: ModelRequest) -> Turn:
        asked = next(message.text for message in reversed(request.messages) if message.role == "user")
        since = max(index for index, message in enumerate(request.messages) if message.text == asked)
        done = sum(1 for message in request.messages[since:] if message.role == "assistant")
        if done >= pages:
            return says(f"Filed {pages} pages.")
        return Turn(calls=(RequestedCall(f"call_{done}", "file", json.dumps({"number": done})),), model="test")

    return line


def routine(**more: Any) -> Routine:
    # The server is shared, and ids come from names and times: each test has a name of its own.
    name = f"nightly-{next(_NUMBERS)}"
    return Routine.model_validate({"name": name, "agent": "clerk", "input": "File the pages."} | more)


class Ticking:
    """One routine in a running engine, and its ticks."""

    def __init__(self, engine: Engine, definition: Routine) -> None:
        self.engine = engine
        self.routine = definition
        self.ticks = Ticks(engine.ledger)
        self._fired = 0

    @classmethod
    async def of(cls, engine: Engine, definition: Routine, agent: Agent, *lines: Said) -> Ticking:
        await Agents(engine.ledger).register(agent)
        await Routines(engine.ledger).put(definition, by="ana", at=await engine.env.get_current_time())
        engine.model.lines[:] = list(lines)
        engine.model.requests.clear()
        return cls(engine, definition)

    async def preapprove(self, by: str) -> None:
        """As applying the definition does."""
        schemas = {item.spec.name: item.spec.schema_digest for item in Archive().tools()}
        await Grants(self.engine.ledger).sync_routine(self.routine, schemas, by=by, at=await self.now())

    async def now(self) -> datetime:
        return await self.engine.env.get_current_time()

    async def fire(self, at: datetime | None = None, **request: Any) -> WorkflowHandle[Any, TickResult]:
        """Start a tick as a schedule does."""
        self._fired += 1
        at = at or (await self.engine.env.get_current_time() + timedelta(seconds=self._fired)).replace(microsecond=0)
        asked = TickRequest.model_validate({"routine": self.routine.name, "trigger": "t", "at": at} | request)
        return await self.engine.client.temporal.start_workflow(
            contract.TICK_WORKFLOW,
            asked,
            id=tick_id(self.routine.name, at),
            task_queue=contract.ENGINE_QUEUE,
            result_type=TickResult,
        )

    async def result(self, handle: WorkflowHandle[Any, TickResult]) -> TickResult:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            return await handle.result()

    async def tick(self, **request: Any) -> TickResult:
        return await self.result(await self.fire(**request))

    async def record(self) -> RoutineRecord:
        return await Routines(self.engine.ledger).get(self.routine.name)

    async def until(self, handle: WorkflowHandle[Any, Any], that: Callable[[TickRecord], bool]) -> TickRecord:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while True:
                found = [tick for tick in await self.ticks.list() if tick.id == handle.id]
                if found and that(found[0]):
                    return found[0]
                await asyncio.sleep(0.02)

    async def alerts(self) -> list[tuple[str, str]]:
        """Event and tick of everything that people were to be told, oldest first."""
        ticks = sorted(
            await self.ticks.list(limit=1000), key=lambda tick: tick.closed_at or datetime.max.replace(tzinfo=UTC)
        )
        return [(alert["event"], tick.id) for tick in ticks for alert in tick.alerts or ()]


async def test_a_tick_runs_its_agent_and_says_what_came_of_it(engine: Engine, archive: Archive) -> None:
    ticking = await Ticking.of(engine, routine(), clerk(), files_pages(2))

    result = await ticking.tick()

    assert (result.status, result.attempts) == ("completed", 1)
    tick = await ticking.ticks.get(result.tick)
    assert (tick.output, tick.turns, tick.input) == ("Filed 2 pages.", 3, "File the pages.")
    assert archive.filed == [0, 1]
    run = await Runs(engine.ledger).get(result.run or "")
    assert (run.tick, run.requested_by) == (tick.id, f"routine:{ticking.routine.name}")


async def test_a_retry_does_only_what_was_not_settled(engine: Engine, archive: Archive) -> None:
    archive.broken_at = 24
    definition = routine(on_failure="retry", retry={"attempts": 3, "first": "5m"})
    ticking = await Ticking.of(engine, definition, clerk(), files_pages(25))
    began = await engine.env.get_current_time()
    handle = await ticking.fire()
    waiting = await ticking.until(handle, lambda tick: tick.next_try_at is not None)
    archive.broken_at = None

    result = await ticking.result(handle)

    assert (result.status, result.attempts) == ("completed", 2)
    assert archive.filed == list(range(25))
    assert archive.breaks == 1
    assert waiting.next_try_at is not None
    assert waiting.next_try_at - began >= timedelta(minutes=5)
    assert await ticking.alerts() == []


async def test_a_ladder_that_is_used_up_is_one_alert_and_recovery_one_notice(
    unhurried: Engine, archive: Archive
) -> None:
    engine = unhurried
    archive.broken_at = 1
    definition = routine(on_failure="retry", retry={"attempts": 3, "first": "50ms", "factor": 3, "most": "100ms"})
    ticking = await Ticking.of(engine, definition, clerk(), files_pages(2))
    began = await engine.env.get_current_time()

    first = await ticking.tick()
    took = await engine.env.get_current_time() - began
    second = await ticking.tick()
    archive.broken_at = None
    third = await ticking.tick()
    await ticking.tick()

    assert (first.status, first.attempts, first.reason) == ("failed", 3, "tool_failed")
    assert took >= timedelta(milliseconds=150)
    assert second.status == "failed"
    assert await ticking.alerts() == [("failed", first.tick), ("recovered", third.tick)]
    assert archive.breaks == 6


async def test_alert_alone_tries_once_and_tells_once_an_episode(engine: Engine, archive: Archive) -> None:
    archive.broken_at = 0
    ticking = await Ticking.of(engine, routine(on_failure="alert"), clerk(), files_pages(1))

    results = [await ticking.tick() for _ in range(3)]

    assert [result.attempts for result in results] == [1, 1, 1]
    assert await ticking.alerts() == [("failed", results[0].tick)]


async def test_skip_writes_down_why_and_tells_nobody(engine: Engine, archive: Archive) -> None:
    archive.broken_at = 0
    ticking = await Ticking.of(engine, routine(on_failure="skip"), clerk(), files_pages(1))

    result = await ticking.tick()

    assert (result.status, result.reason) == ("failed", "tool_failed")
    assert BROKEN in (result.message or "")
    assert await ticking.alerts() == []


async def test_a_routine_that_keeps_failing_is_paused_and_says_so(engine: Engine, archive: Archive) -> None:
    archive.broken_at = 0
    ticking = await Ticking.of(engine, routine(pause_after=2), clerk(), files_pages(1))

    results = [await ticking.tick() for _ in range(3)]

    record = await ticking.record()
    assert (record.paused, record.paused_by) == (1, "engine")
    assert BROKEN in (record.pause_note or "")
    assert [result.status for result in results] == ["failed", "failed", "skipped"]
    assert results[2].reason == "paused"
    assert await ticking.alerts() == [("failed", results[0].tick), ("paused", results[1].tick)]


async def test_the_same_tick_happens_once(engine: Engine, archive: Archive) -> None:
    ticking = await Ticking.of(engine, routine(), clerk(), files_pages(1))
    at = (await engine.env.get_current_time()).replace(microsecond=0)

    first = await ticking.tick(at=at)
    again = await ticking.tick(at=at)

    assert (first.status, again.status, again.reason) == ("completed", "completed", "done_before")
    assert archive.filed == [0]


async def test_a_tick_that_comes_later_than_catch_up_is_skipped_with_its_lateness(engine: Engine) -> None:
    ticking = await Ticking.of(engine, routine(catch_up="10m"), clerk(), says())
    late = (await engine.env.get_current_time()).replace(microsecond=0) - timedelta(hours=2)

    result = await ticking.tick(at=late)

    assert (result.status, result.reason) == ("skipped", "too_late")
    assert "2h" in (result.message or "")


FREE = ApprovalRule(tools=("keep",), required=0)


async def test_state_goes_from_tick_to_tick_and_calls_of_one_turn_keep_each_others(
    engine: Engine, archive: Archive
) -> None:
    agent = clerk(tools=["keep"], approvals=(FREE,))
    both = asks(call("keep", "call_1", key="a", value=1), call("keep", "call_2", key="b", value=2))
    ticking = await Ticking.of(engine, routine(), agent, both, says(), asks(call("keep", key="a", value=3)), says())

    await ticking.tick()
    between = (await ticking.record()).state
    await ticking.tick()

    assert between == {"a": 1, "b": 2}
    assert archive.seen[-1] == {"a": 1, "b": 2}
    assert (await ticking.record()).state == {"a": 3, "b": 2}


async def test_a_failed_tick_leaves_state_and_previous_as_they_were(engine: Engine, archive: Archive) -> None:
    agent = clerk(tools=["keep", "file"], approvals=(FREE,))
    changes, breaks = asks(call("keep", key="a", value=2)), asks(call("file", number=0))
    ticking = await Ticking.of(engine, routine(), agent, asks(call("keep", key="a", value=1)), says(), changes, breaks)
    first = await ticking.tick()
    archive.broken_at = 0

    failed = await ticking.tick()

    after = await ticking.record()
    assert failed.status == "failed"
    assert (await ticking.ticks.get(failed.tick)).state == {"a": 2}
    assert (after.state, after.previous_tick, after.last_tick) == ({"a": 1}, first.tick, failed.tick)


async def test_a_run_that_is_of_no_routine_has_no_state_and_is_told_so(engine: Engine, archive: Archive) -> None:
    agent = clerk(tools=["keep"], approvals=(FREE,))

    run = await engine.start(agent, asks(call("keep", key="a", value=1)), says())
    await engine.finish(run)

    assert "not of a routine" in engine.model.heard()[-1][1]


async def test_what_a_routine_preapproves_is_done_and_what_is_beyond_its_bounds_is_not(
    engine: Engine, archive: Archive
) -> None:
    definition = routine(unattended="deny", preapproved=[{"tool": "pay", "when": {"amount": {"maximum": 10}}}])
    small, large = call("pay", "call_1", amount=7), call("pay", "call_2", amount=70)
    ticking = await Ticking.of(engine, definition, clerk(), asks(small, large), says())
    await ticking.preapprove("ana")

    result = await ticking.tick()
    outside = await engine.start(clerk(), asks(small), says())
    waiting = await engine.until(outside, "requires_action")

    assert (result.status, archive.paid) == ("completed", [7])
    assert waiting.waiting_for[0].tool == "pay"


@pytest.mark.parametrize(
    "rule",
    [
        {"approvers": ("ben",)},
        {"required": 2},
        {"four_eyes": True},
    ],
    ids=["others decide", "two decide", "four eyes"],
)
async def test_preapproval_does_not_stand_in_for_people_that_the_plan_names(
    engine: Engine, archive: Archive, rule: dict[str, Any]
) -> None:
    definition = routine(unattended="deny", preapproved=[{"tool": "pay"}])
    agent = clerk(approvals=(ApprovalRule.model_validate({"tools": ("pay",)} | rule),))
    ticking = await Ticking.of(engine, definition, agent, asks(call("pay", amount=7)), says())
    await ticking.preapprove("ana")

    result = await ticking.tick()

    assert (result.status, archive.paid) == ("completed", [])


async def test_a_timeout_covers_all_attempts_and_the_waits_between_them(engine: Engine, archive: Archive) -> None:
    archive.broken_at = 0
    definition = routine(timeout="10m", on_failure="retry", retry={"attempts": 10, "first": "4m", "factor": 1})
    ticking = await Ticking.of(engine, definition, clerk(), files_pages(1))

    result = await ticking.tick()

    assert (result.status, result.attempts) == ("failed", 3)
    assert "No time is left" in (result.message or "")


async def test_a_tick_parks_at_an_approval_without_using_up_its_timeout(engine: Engine, archive: Archive) -> None:
    ticking = await Ticking.of(engine, routine(timeout="10m"), clerk(), asks(call("pay", amount=7)), says("Paid."))
    handle = await ticking.fire()
    parked = await ticking.until(handle, lambda tick: tick.status == "parked")
    overlapping = await ticking.tick()
    await engine.env.sleep(timedelta(hours=5))

    [approval] = await engine.client.approvals()
    await engine.client.decide(
        approval.run_id, Decision(approval=approval.id, digest=approval.digest, by="ana", verdict="approve")
    )
    result = await ticking.result(handle)

    assert parked.run_id == approval.run_id
    assert (overlapping.status, overlapping.reason) == ("skipped", "overlap")
    assert (result.status, archive.paid) == ("completed", [7])


async def test_hold_next_lets_no_tick_begin_until_the_approval_is_decided(engine: Engine, archive: Archive) -> None:
    ticking = await Ticking.of(
        engine,
        routine(unattended="hold_next", overlap="allow_all"),
        clerk(),
        asks(call("pay", amount=7)),
        says("Paid."),
    )
    handle = await ticking.fire()
    await ticking.until(handle, lambda tick: tick.status == "parked")
    held = await ticking.tick()
    [approval] = await engine.client.approvals()
    await engine.client.decide(
        approval.run_id, Decision(approval=approval.id, digest=approval.digest, by="ana", verdict="reject")
    )
    await ticking.result(handle)

    after = await ticking.tick()

    assert (held.status, held.reason) == ("skipped", "held")
    assert after.status == "completed"
    assert archive.paid == []


async def test_deny_rejects_at_once_and_tells_the_model_so(engine: Engine, archive: Archive) -> None:
    ticking = await Ticking.of(
        engine, routine(unattended="deny"), clerk(), asks(call("pay", amount=7)), says("Left the payment.")
    )

    result = await ticking.tick()

    assert (result.status, archive.paid) == ("completed", [])
    assert await engine.client.approvals(status=None) == []
    said = engine.model.heard()[-1][1]
    assert "nobody" in said.lower()
    assert "do not" in said.lower()


async def test_buffer_one_lets_one_wait_and_no_more(engine: Engine, archive: Archive) -> None:
    ticking = await Ticking.of(
        engine, routine(overlap="buffer_one"), clerk(), asks(call("pay", amount=1)), says("Done.")
    )
    first = await ticking.fire()
    await ticking.until(first, lambda tick: tick.status == "parked")
    second = await ticking.fire()
    await ticking.until(second, lambda tick: tick.message is not None)
    third = await ticking.tick()

    [approval] = await engine.client.approvals()
    await engine.client.decide(
        approval.run_id, Decision(approval=approval.id, digest=approval.digest, by="ana", verdict="reject")
    )
    results = [await ticking.result(handle) for handle in (first, second)]

    assert [result.status for result in (*results, third)] == ["completed", "completed", "skipped"]
    assert "waits already" in (third.message or "")


async def test_a_tick_stops_a_run_that_has_continued_as_new_when_its_time_is_over(
    env: WorkflowEnvironment, tmp_path: Path, archive: Archive
) -> None:
    settings = Settings(root=tmp_path, worker=WorkerSettings(continue_as_new_after=1))
    async with running_engine(env, tmp_path, archive.tools(), settings=settings) as engine:

        async def thinks(request: ModelRequest) -> Turn:
            return await asyncio.Future()

        ticking = await Ticking.of(engine, routine(timeout="2s"), clerk(), asks(call("file", number=1)), thinks)

        tick = await ticking.tick()

        assert (tick.status, tick.reason) == ("failed", "timeout")
        assert (await Runs(engine.ledger).get(tick.run or "")).status == "cancelled"


@pytest.mark.parametrize(("overlap", "status"), [("cancel_other", "cancelled"), ("terminate_other", "cancelled")])
async def test_the_newer_tick_ends_the_older_one(engine: Engine, archive: Archive, overlap: str, status: str) -> None:
    ticking = await Ticking.of(engine, routine(overlap=overlap), clerk(), asks(call("pay", amount=1)), says("Done."))
    older = await ticking.fire()
    parked = await ticking.until(older, lambda tick: tick.status == "parked")

    newer = await ticking.tick()

    assert newer.status == "completed"
    assert (await ticking.ticks.get(older.id)).status == status
    run = await Runs(engine.ledger).get(parked.run_id or "")
    assert run.closed_at is not None
    assert await engine.client.approvals() == []
    ended = (await older.describe()).status
    assert ended in (WorkflowExecutionStatus.CANCELED, WorkflowExecutionStatus.TERMINATED)


async def test_a_conversation_goes_on_from_tick_to_tick(engine: Engine) -> None:
    ticking = await Ticking.of(engine, routine(conversation="continue"), clerk(), says("One."), says("Two."))

    first, second = await ticking.tick(), await ticking.tick()

    threads = [(await ticking.ticks.get(result.tick)).thread_id for result in (first, second)]
    assert threads[0] == threads[1]
    assert ("assistant", "One.") in engine.model.heard()


async def test_a_template_is_given_the_tick_before_and_what_happened(engine: Engine) -> None:
    text = "{% if previous %}Since {{ previous.tick }}.{% else %}First.{% endif %} {{ event.title }}"
    ticking = await Ticking.of(engine, routine(input=text), clerk(), says())

    first = await ticking.tick(source="event", event={"title": "A bug"})
    second = await ticking.tick(source="event", event={"title": "Another"})

    assert (await ticking.ticks.get(first.tick)).input == "First. A bug"
    assert (await ticking.ticks.get(second.tick)).input == f"Since {first.tick}. Another"


async def test_a_template_that_does_not_fit_fails_the_tick_with_words(engine: Engine) -> None:
    ticking = await Ticking.of(engine, routine(input="{{ event.title }}", on_failure="retry"), clerk(), says())

    result = await ticking.tick()

    assert (result.status, result.reason) == ("failed", "template_failed")
    assert await ticking.alerts() == [("failed", result.tick)]


async def test_a_tick_whose_request_makes_no_sense_ends(engine: Engine) -> None:
    handle = await engine.client.temporal.start_workflow(
        contract.TICK_WORKFLOW, {"routine": 7}, id="routine.nonsense", task_queue=contract.ENGINE_QUEUE
    )

    with pytest.raises(Exception, match="failed"):
        async with asyncio.timeout(PATIENCE.total_seconds()):
            await handle.result()


async def test_a_cancelled_tick_ends_its_run_and_says_so(engine: Engine, archive: Archive) -> None:
    ticking = await Ticking.of(engine, routine(), clerk(), asks(call("pay", amount=1)), says())
    handle = await ticking.fire()
    parked = await ticking.until(handle, lambda tick: tick.status == "parked")

    await handle.cancel()
    tick = await ticking.until(handle, lambda tick: tick.closed_at is not None)

    assert (tick.status, tick.reason) == ("cancelled", "cancelled")
    assert (await Runs(engine.ledger).get(parked.run_id or "")).status == "cancelled"


async def test_no_more_ticks_run_at_once_than_the_settings_let(
    env: WorkflowEnvironment, tmp_path: Path, archive: Archive
) -> None:
    from horarium.settings import RoutinesSettings, Settings

    settings = Settings(root=tmp_path, routines=RoutinesSettings(max_ticks=2))
    running: list[int] = []
    most: list[int] = []

    async def line(request: ModelRequest) -> Turn:
        running.append(1)
        most.append(len(running))
        await asyncio.sleep(0.05)
        running.pop()
        return says()

    async with running_engine(env, tmp_path, archive.tools(), settings=settings) as engine:
        ticking = await Ticking.of(engine, routine(overlap="allow_all"), clerk(), line)
        handles = [await ticking.fire() for _ in range(12)]
        results = [await ticking.result(handle) for handle in handles]

    assert [result.status for result in results] == ["completed"] * 12
    assert max(most) <= 2


async def test_a_missed_tick_that_comes_after_all_is_done(engine: Engine) -> None:
    ticking = await Ticking.of(engine, routine(), clerk(), says())
    at = (await engine.env.get_current_time()).replace(microsecond=0)
    fire = MissedFire(
        tick_id(ticking.routine.name, at), trigger="t", at=at, reason="engine_down", message="It did not fire."
    )
    await Lateness(engine.ledger).miss(await ticking.record(), [fire], at)
    assert (await ticking.ticks.get(tick_id(ticking.routine.name, at))).status == "missed"

    result = await ticking.tick(at=at)

    assert result.status == "completed"


# ---- waiting for a turn


async def waits_behind_an_approval(ticking: Ticking) -> list[WorkflowHandle[Any, TickResult]]:
    """A tick that waits for a person, and one that waits for it."""
    first = await ticking.fire()
    await ticking.until(first, lambda tick: tick.status == "parked")
    second = await ticking.fire()
    await ticking.until(second, lambda tick: tick.message is not None)
    return [first, second]


async def rejected(engine: Engine) -> None:
    """The one open approval, by a person."""
    [approval] = await asked(engine)
    await engine.client.decide(
        approval.run_id, Decision(approval=approval.id, digest=approval.digest, by="ana", verdict="reject")
    )


async def test_a_tick_that_waits_asks_less_and_less_often_and_begins_when_it_is_told(engine: Engine) -> None:
    ticking = await Ticking.of(
        engine, routine(overlap="buffer_one"), clerk(), asks(call("pay", amount=1)), says("Done.")
    )
    first, second = await waits_behind_an_approval(ticking)
    before = (await second.describe()).history_length

    await engine.env.sleep(timedelta(hours=8))

    assert (await second.describe()).history_length - before < 120
    await rejected(engine)
    results = [await ticking.result(handle) for handle in (first, second)]
    assert [result.status for result in results] == ["completed", "completed"]


async def test_a_tick_that_waits_for_weeks_continues_as_new_and_is_the_same_tick(engine: Engine) -> None:
    ticking = await Ticking.of(
        engine, routine(overlap="buffer_one", catch_up="10m"), clerk(), asks(call("pay", amount=1)), says("Done.")
    )
    first, second = await waits_behind_an_approval(ticking)
    began = (await ticking.ticks.get(second.id)).execution

    await engine.env.sleep(timedelta(days=10))
    now = await engine.client.temporal.get_workflow_handle(second.id).describe()
    await rejected(engine)
    await ticking.result(first)
    result = await ticking.result(engine.client.temporal.get_workflow_handle(second.id, result_type=TickResult))

    assert now.run_id != began
    assert (now.status, result.status) == (WorkflowExecutionStatus.RUNNING, "completed")
    assert (await ticking.ticks.get(second.id)).execution == began
    waited = await engine.client.temporal.get_workflow_handle(second.id, run_id=began).fetch_history()
    await Replayer(workflows=[RoutineTick], workflow_runner=sandbox(), data_converter=data_converter).replay_workflow(
        waited
    )


# ---- what was half done when a process died


def keeper_of(engine: Engine) -> TickKeeper:
    return TickKeeper(engine.ledger, engine.client.temporal, engine.settings, None)


async def opened(ticking: Ticking, at: datetime) -> tuple[str, Opened]:
    """A tick in the ledger that has no workflow."""
    tick, request = tick_id(ticking.routine.name, at), TickRequest(routine=ticking.routine.name)
    return tick, await ticking.ticks.open(OpenTick(tick=tick, execution="e", request=request, scheduled_at=at, at=at))


async def test_what_a_tick_had_to_tell_is_told_by_the_one_that_ended_it(unhurried: Engine) -> None:
    engine = unhurried
    ticking = await Ticking.of(engine, routine(overlap="terminate_other"), clerk(), says())
    now = datetime.now(UTC)
    one, _ = await opened(ticking, now)
    _, second = await opened(ticking, now + timedelta(seconds=1))
    assert second.terminate == (one,)
    closed = await ticking.ticks.close(CloseTick(tick=one, status="failed", code="x", at=now))

    await keeper_of(engine)._let_in(second)

    [alert] = closed.alerts
    assert (await engine.client.temporal.get_workflow_handle(alert.workflow_id).describe()).workflow_type == (
        contract.ROUTINE_ALERT_WORKFLOW
    )


async def test_an_attempt_that_was_half_opened_is_opened_again_with_what_it_was_asked_then(unhurried: Engine) -> None:
    engine = unhurried
    ticking = await Ticking.of(engine, routine(input="At {{ state.page | default('first') }}."), clerk(), says())
    tick, _ = await opened(ticking, datetime.now(UTC))
    opening = OpenAttempt(tick=tick, number=1, at=datetime.now(UTC))
    keeper = keeper_of(engine)
    before = await keeper._begun(await ticking.ticks.get(tick), run := run_id_for_key("default", f"{tick}/1"), None)
    request = RunRequest(agent="clerk", version=before.version, thread=before.thread, input=before.input)
    # Killed here: the run is written down, and not yet that it is this tick's attempt.
    await Runs(engine.ledger).create(run, request, key=None, request_digest="before", tick=tick)
    await Agents(engine.ledger).register(clerk(limits=Limits(max_turns=30)))
    async with engine.ledger.write() as connection:
        await connection.execute(update(ticks).where(ticks.c.id == tick).values(state={"page": "last"}))

    attempt = await keeper.open_attempt(opening)

    assert attempt.run == run
    assert attempt.request is not None
    assert attempt.request.version == before.version
    assert ((await ticking.ticks.get(tick)).input, before.input) == ("At first.", "At first.")


# ---- attempts


async def test_an_attempt_that_reached_a_limit_is_not_tried_again(unhurried: Engine, archive: Archive) -> None:
    engine = unhurried
    definition = routine(on_failure="retry", retry={"attempts": 4, "first": "20ms"})
    ticking = await Ticking.of(engine, definition, clerk(limits=Limits(max_turns=3)), files_pages(100))

    result = await ticking.tick()

    assert (result.status, result.reason, result.attempts) == ("failed", "max_turns", 1)
    assert "not tried again" in (result.message or "")
    assert (await ticking.ticks.get(result.tick)).turns == 3


async def test_whoever_signals_that_a_tick_is_parked_stops_no_clock(unhurried: Engine, archive: Archive) -> None:
    engine = unhurried

    async def line(request: ModelRequest) -> Turn:
        archive.entered.set()
        await archive.released.wait()
        return says()

    ticking = await Ticking.of(engine, routine(timeout="1s"), clerk(), line)
    handle = await ticking.fire()
    await asyncio.wait_for(archive.entered.wait(), PATIENCE.total_seconds())
    for _ in range(100):
        await handle.signal("attempt", True)

    try:
        result = await ticking.result(handle)
    finally:
        archive.released.set()

    assert (result.status, result.reason) == ("failed", "timeout")
    looks = [
        event async for event in handle.fetch_history_events() if event.HasField("marker_recorded_event_attributes")
    ]
    assert len(looks) < 30


async def test_a_routine_that_asks_nobody_tells_people_when_only_they_can_go_on(
    env: WorkflowEnvironment, tmp_path: Path, archive: Archive
) -> None:
    @tool(effect=Effect.EXTERNAL)
    def ship(item: str) -> str:
        """Ship."""
        raise ConnectionError("reset by peer")

    agent = clerk(tools=["ship"], approvals=(ApprovalRule(tools=("ship",), required=0),))
    async with running_engine(env, tmp_path, [*archive.tools(), ship]) as engine:
        lines = asks(call("ship", item="a")), says("Done.")
        ticking = await Ticking.of(engine, routine(unattended="deny"), agent, *lines)
        handle = await ticking.fire()
        await ticking.until(handle, lambda tick: tick.status == "parked")
        [question] = await asked(engine)
        alert = f"routine-alert.{ticking.routine.name}.parked.{question.id}"

        told = await started(engine, alert)
        await engine.client.run(question.run_id).resolve(
            step_id(question.run_id, question.guards), "supply", by="ana", output="shipped", question=question.id
        )
        result = await ticking.result(handle)

    assert told == contract.ROUTINE_ALERT_WORKFLOW
    assert (question.kind, result.status) == ("unknown_outcome", "completed")


async def test_a_routine_that_asks_people_leaves_telling_them_to_the_question(unhurried: Engine) -> None:
    engine = unhurried
    ticking = await Ticking.of(engine, routine(unattended="ask"), clerk(), asks(call("pay", amount=1)), says())
    handle = await ticking.fire()
    await ticking.until(handle, lambda tick: tick.status == "parked")
    [question] = await asked(engine)

    now = await keeper_of(engine).look_at_attempt(LookAtAttempt(tick=handle.id, number=1, at=datetime.now(UTC)))

    assert now.parked
    with pytest.raises(RPCError, match="not found"):
        await engine.client.temporal.get_workflow_handle(
            f"routine-alert.{ticking.routine.name}.parked.{question.id}"
        ).describe()
    await rejected(engine)
    assert (await ticking.result(handle)).status == "completed"


async def asked(engine: Engine) -> list[ApprovalRecord]:
    """What people are asked, once there is something; a tick is parked a moment before."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not (found := await engine.client.approvals()):
            await asyncio.sleep(0.02)
    return found


async def started(engine: Engine, workflow: str) -> str:
    """The type of a workflow, once there is one of this id."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            with contextlib.suppress(RPCError):
                return (await engine.client.temporal.get_workflow_handle(workflow).describe()).workflow_type
            await asyncio.sleep(0.02)


# ---- conversations


async def test_a_tick_that_found_its_conversation_busy_leaves_nothing_in_it(unhurried: Engine) -> None:
    engine = unhurried
    definition = routine(conversation="continue", input="File page {{ tick.id }}.")
    ticking = await Ticking.of(engine, definition, clerk(), says("One."))
    await ticking.tick()
    thread = (await ticking.record()).thread_id
    person = await engine.start(clerk(), asks(call("pay", amount=1)), says("Ok."), input="Hello.", thread=thread)
    await engine.until(person, "requires_action")

    busy = await ticking.tick()
    await rejected(engine)
    await engine.finish(person)
    after = await ticking.tick()

    assert (busy.reason, after.status) == ("thread_busy", "completed")
    assert [text for role, text in engine.model.heard() if role == "user" and busy.tick in text] == []


async def test_a_routine_whose_conversation_was_deleted_begins_a_new_one(unhurried: Engine) -> None:
    engine = unhurried
    ticking = await Ticking.of(engine, routine(conversation="continue"), clerk(), says("One."))
    await ticking.tick()
    before = (await ticking.record()).thread_id
    await Threads(engine.ledger).delete(before or "")

    results = [await ticking.tick() for _ in range(2)]

    assert [result.status for result in results] == ["completed", "completed"]
    threads = {(await ticking.ticks.get(result.tick)).thread_id for result in results}
    assert threads == {(await ticking.record()).thread_id}
    assert before not in threads


# ---- requests that anybody may have written


def raw(request: bytes, encoding: bytes = b"json/plain") -> RawValue:
    return RawValue(Payload(metadata={"encoding": encoding}, data=request))


@pytest.mark.parametrize(
    "argument",
    [
        raw(b'{"routine": "x", "at": "0001-01-01T00:00:00+14:00"}'),
        raw(b'{"routine": "x", "at": "9999-12-31T23:59:59-14:00"}'),
        raw(b'{"routine": "x", "at": "2026-11-21T07:00:00"}'),
        raw(b'{"routine": "' + b"r" * 64 + b'"}'),
        raw(b'{"routine": "x", "trigger": "a\\u0000"}'),
        raw(b'{"routine": "x", "event": {"x": "\\ud800"}}'),
        raw(b'{"routine": "x", "event": ' + b'{"x": ' * 150 + b"1" + b"}" * 150 + b"}"),
        raw(b"{"),
        raw(b"\x00\xff", b"binary/plain"),
        raw(b"\x00\xff", b"of/nobody"),
    ],
    ids=["first day", "last day", "no offset", "name", "nul", "surrogate", "deep", "no json", "bytes", "encoding"],
)
async def test_a_request_that_cannot_be_kept_ends_its_tick(unhurried: Engine, argument: RawValue) -> None:
    handle = await unhurried.client.temporal.start_workflow(
        contract.TICK_WORKFLOW, argument, id=f"routine.forged-{next(_NUMBERS)}", task_queue=contract.ENGINE_QUEUE
    )

    with pytest.raises(WorkflowFailureError) as failure:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            await handle.result()

    assert isinstance(failure.value.cause, ApplicationError)
    assert failure.value.cause.type == "bad_request"


@pytest.mark.parametrize("id", [f"routine.{'x' * 200}", "routine.x-\n"], ids=["long", "invisible"])
async def test_a_tick_whose_id_cannot_be_kept_ends(unhurried: Engine, id: str) -> None:
    handle = await unhurried.client.temporal.start_workflow(
        contract.TICK_WORKFLOW, TickRequest(routine="x"), id=id, task_queue=contract.ENGINE_QUEUE
    )

    with pytest.raises(WorkflowFailureError) as failure:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            await handle.result()

    assert isinstance(failure.value.cause, ApplicationError)
    assert failure.value.cause.type == "bad_request"


async def test_an_event_is_kept_as_far_as_it_can_be(unhurried: Engine) -> None:
    text = "{{ event.a }} {{ event.b }}"
    ticking = await Ticking.of(unhurried, routine(input=text), clerk(), says())

    result = await ticking.tick(source="event", event={"a": float("nan"), "b": "x\x00y"})

    assert (await ticking.ticks.get(result.tick)).input == "nan x\ufffdy"


@pytest.mark.parametrize("moment", range(8))
async def test_a_tick_that_is_cancelled_at_any_moment_leaves_nothing_open(
    unhurried: Engine, archive: Archive, moment: int
) -> None:
    ticking = await Ticking.of(unhurried, routine(), clerk(), asks(call("pay", amount=1)), says())
    handle = await ticking.fire()
    for _ in range(moment):  # a little later each time: while it opens, begins its run, looks, waits
        await handle.describe()

    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await ticking.result(handle)

    assert [tick.status for tick in await ticking.ticks.list() if tick.is_open] == []
    async with asyncio.timeout(PATIENCE.total_seconds()):
        # A run that was just being started is asked to end by the server, when its tick has ended.
        while await unhurried.client.approvals() or await unhurried.client.runs(status=OPEN_STATUSES):
            await asyncio.sleep(0.05)


async def test_a_stranger_writes_nothing_down_about_a_tick(unhurried: Engine, archive: Archive) -> None:
    ticking = await Ticking.of(unhurried, routine(), clerk(), asks(call("pay", amount=1)), says())
    handle = await ticking.fire()
    parked = await ticking.until(handle, lambda tick: tick.status == "parked")
    now = datetime.now(UTC)

    for activity, payload in (
        (CLOSE_TICK, CloseTick(tick=handle.id, status="completed", output="Paid.", at=now)),
        (OPEN_ATTEMPT, OpenAttempt(tick=handle.id, number=2, at=now)),
    ):
        with pytest.raises(WorkflowFailureError):
            await ask_for(unhurried, activity, payload)

    assert await ticking.ticks.get(handle.id) == parked
    await handle.cancel()
    await ticking.until(handle, lambda tick: tick.closed_at is not None)
