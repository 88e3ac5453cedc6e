"""Webhooks about runs: told how each ends and when it waits, once, by the engine, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from standardwebhooks import Webhook as Verifier
from temporalio.testing import WorkflowEnvironment

from horarium.client import Run
from horarium.definitions import Agent, ApprovalRule, Limits
from horarium.settings import ApprovalsSettings, GatewaySettings, RunWebhook, Settings
from tests.crash.rig import crash_stack
from tests.engine.conftest import World
from tests.gateway.conftest import env, world
from tests.support.addresses import Request, Server, listening
from tests.support.cast import Cast, approve, hands, until_asked
from tests.support.engine import PATIENCE, Engine, asks, call, running_engine, says
from tests.support.stack import until

__all__ = ["env", "world"]
SECRET = "whsec_" + base64.b64encode(b"thirty-two bytes of no use at all").decode()
CLERK = Agent("clerk", model="scripted:lines", tools=["look", "pay"])


@pytest.fixture
def receiver() -> Iterator[Server]:
    with listening() as server:
        yield server


@pytest.fixture
async def engine(
    env: WorkflowEnvironment, tmp_path: Path, world: World, receiver: Server, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Engine]:
    monkeypatch.setenv("RUN_HOOK", SECRET)
    hooks = (
        hook(receiver, "/all"),
        hook(receiver, "/failures", events=("run.failed",)),
        hook(receiver, "/strangers", tenant="elsewhere"),
    )
    settings = Settings(
        root=tmp_path,
        gateway=GatewaySettings(webhooks=hooks),
        approvals=ApprovalsSettings(links="https://horarium.example.com/"),
    )
    async with running_engine(env, tmp_path, world.tools(), settings=settings) as engine:  # type: ignore[arg-type]
        yield engine


def hook(receiver: Server, path: str, **more: Any) -> RunWebhook:
    return RunWebhook(url=f"http://127.0.0.1:{receiver.port}{path}", secret="${RUN_HOOK}", **more)


def verified(request: Request) -> dict[str, Any]:
    """What a receiver reads, once it has looked at the signature."""
    said: dict[str, Any] = Verifier(SECRET).verify(request.body, request.headers)
    return said


async def told(receiver: Server, path: str, count: int) -> list[dict[str, Any]]:
    """Wait until so many came to a path."""
    await until(lambda: len(receiver.at(path)) >= count, f"{path} was told {count} times", timeout=30)
    return [verified(request) for request in receiver.at(path)]


async def test_a_wait_that_goes_on_while_the_run_works_is_told_once(
    engine: Engine, receiver: Server, world: World
) -> None:
    plan = [ApprovalRule(tools=("wait",))]
    run = await engine.start(
        Agent("porter", model="scripted:lines", tools=["pay", "wait"], approvals=plan),
        asks(call("wait", "a"), call("pay", "b", amount=1)),
        says(),
    )
    await until(lambda: both_asked(run), "both are asked about", timeout=30)
    waits, pays = await run.approvals()
    await run.approve(waits, by="ann")
    await engine.until(run, "in_progress")
    await asyncio.wait_for(world.entered.wait(), PATIENCE.total_seconds())

    world.released.set()
    await engine.until(run, "requires_action")
    await run.approve(pays, by="ann")
    await engine.finish(run)

    kinds = [one["type"] for one in await told(receiver, "/all", 2)]
    assert kinds == ["run.requires_action", "run.completed"]


async def both_asked(run: Run) -> bool:
    return len(await run.approvals()) == 2


async def test_a_receiver_is_told_once_of_each_wait_and_of_the_end_without_content(
    engine: Engine, receiver: Server
) -> None:
    both = asks(call("pay", "a", amount=1), call("pay", "b", amount=2))
    options: dict[str, Any] = {"metadata": {"build": "4711"}, "requested_by": "ci", "continue_as_new_after": 1}
    run = await engine.start(CLERK, both, asks(call("pay", "c", amount=3)), says("Secret words."), **options)
    for _ in range(3):
        await run.approve(await run.next_approval(PATIENCE), by="ann")
    await engine.finish(run)

    waits, again, end = await told(receiver, "/all", 3)

    record = await run.record()
    assert [one["type"] for one in (waits, again, end)] == ["run.requires_action"] * 2 + ["run.completed"]
    assert waits["data"] == {
        "run": run.id,
        "agent": "clerk",
        "version": 1,
        "status": "requires_action",
        "reason": None,
        "thread": record.thread_id,
        "tick": None,
        "metadata": {"build": "4711"},
        "requested_by": "ci",
        "url": f"https://horarium.example.com/runs/{run.id}",
    }
    assert end["data"]["status"] == "completed"
    assert record.closed_at is not None
    assert end["timestamp"] == record.closed_at.isoformat()
    assert "Secret words" not in "".join(request.body for request in receiver.requests)
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 3


async def test_every_kind_of_end_is_told_to_those_who_want_it_also_of_a_run_that_could_not_begin(
    engine: Engine, receiver: Server
) -> None:
    limited = await engine.start(CLERK, asks(call("look")), limits=Limits(max_turns=1))
    await engine.finish(limited)
    gone = await engine.client.start("clerk", "Go.", version=7)
    await engine.finish(gone)
    stopped = await engine.start(CLERK, asks(call("pay", amount=1)), says())
    await stopped.next_approval(PATIENCE)
    await stopped.cancel()
    await engine.finish(stopped)
    other = await engine.start(CLERK, says(), tenant="elsewhere")
    await engine.finish(other)

    everything = await told(receiver, "/all", 4)

    assert {(one["data"]["run"], one["type"]) for one in everything} == {
        (limited.id, "run.incomplete"),
        (gone.id, "run.failed"),
        (stopped.id, "run.requires_action"),
        (stopped.id, "run.cancelled"),
    }
    assert [one["data"]["run"] for one in await told(receiver, "/failures", 1)] == [gone.id]
    assert [(one["data"]["run"], one["type"]) for one in await told(receiver, "/strangers", 1)] == [
        (other.id, "run.completed")
    ]


async def test_what_a_sub_agents_run_waits_for_is_told_once_as_its_parents(engine: Engine, receiver: Server) -> None:
    cast = Cast(engine)
    await cast.agent("payer", asks(call("pay", amount=1)), says("Paid."), tools=["pay"])
    chief = await cast.agent("chief", asks(hands("payer", "Pay.")), says(), agents=["payer"])
    run = await engine.client.start(chief, "Go.")
    (asked,) = await until_asked(engine)
    await told(receiver, "/all", 1)
    await approve(engine, asked)
    await engine.finish(run)

    everything = await told(receiver, "/all", 2)

    assert [(one["type"], one["data"]["run"]) for one in everything] == [
        ("run.requires_action", run.id),
        ("run.completed", run.id),
    ]


def test_a_webhook_about_runs_is_told_over_https_of_events_that_there_are() -> None:
    with pytest.raises(ValidationError, match="https"):
        RunWebhook(url="http://example.com/hook", secret="${RUN_HOOK}")
    with pytest.raises(ValidationError, match=r"run\.completed"):
        RunWebhook(url="https://example.com/hook", secret="${RUN_HOOK}", events=("run.begun",))


async def test_an_end_is_told_by_the_next_worker_when_one_is_killed_before_it_was_delivered(
    tmp_path: Path, receiver: Server
) -> None:
    receiver.answers["/hook"] = 503
    url = f"http://127.0.0.1:{receiver.port}/hook"
    settings = f'[[gateway.webhooks]]\nurl = "{url}"\nsecret = "${{RUN_HOOK}}"\n'
    async with crash_stack(tmp_path, settings=settings, environment={"RUN_HOOK": SECRET}) as (stack, book):
        book.go()
        run = await stack.client.start("look-through", "Go.")
        result = await run.result(PATIENCE)  # it waits for no receiver
        await told(receiver, "/hook", 1)
        stack.kill_worker()
        before = len(receiver.at("/hook"))
        receiver.answers.clear()
        stack.start_worker()

        last = (await told(receiver, "/hook", before + 1))[-1]

    assert (result.status, last["type"], last["data"]["run"]) == ("completed", "run.completed", run.id)
    assert len({request.headers["webhook-id"] for request in receiver.at("/hook")}) == 1
    assert len({request.body for request in receiver.at("/hook")}) == 1
