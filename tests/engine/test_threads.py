"""Threads on a running engine: runs go on with what was appended, forks go their own way, a message finds its run."""

from __future__ import annotations

import pytest

from horarium.definitions import Agent
from horarium.errors import Conflict, HorariumError, ThreadBusy, ThreadNotFound
from tests.engine.conftest import World
from tests.support.engine import Engine, asks, call, says
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes

pytestmark = in_both_modes


def agent() -> Agent:
    return Agent("clerk", model="scripted:test", tools=["look", "wait", "pay"])


async def test_the_next_run_reads_what_was_appended_and_needs_no_other_input(engine: Engine) -> None:
    first = await engine.start(agent(), says("Hello."))
    thread = (await engine.finish(first)).thread
    place = await engine.client.append_message(thread, "The invoice was paid.", by="ana")
    await engine.client.append_message(thread, "Answer in one word.", role="system")

    second = await engine.start(agent(), says("Noted."), input=None, thread=thread)
    await engine.finish(second)

    assert place == 2
    assert engine.model.heard()[2:] == [("user", "The invoice was paid."), ("system", "Answer in one word.")]
    messages = await engine.client.thread(thread)
    assert [(m.seq, m.role, m.said, m.author) for m in messages[1:4]] == [
        (1, "assistant", "Hello.", None),
        (2, "user", "The invoice was paid.", "ana"),
        (3, "system", "Answer in one word.", None),
    ]
    with pytest.raises(HorariumError, match="nothing to append"):
        await engine.client.append_message(thread, "  ")


async def test_a_thread_with_an_open_run_takes_messages_through_the_run_alone(engine: Engine, world: World) -> None:
    run = await engine.start(agent(), asks(call("wait")), says("Done."))
    await world.entered.wait()
    thread = (await run.record()).thread_id

    with pytest.raises(ThreadBusy, match=f"horarium runs message {run.id}"):
        await engine.client.append_message(thread, "Hurry.")
    with pytest.raises(Conflict, match="runs cancel"):
        await engine.client.delete_thread(thread)
    assert (await engine.client.thread_record(thread)).open_run == run.id
    await run.message("Hurry.", by="ana")
    world.released.set()
    await engine.finish(run)

    assert ("user", "Hurry.") in engine.model.heard()


async def test_a_run_on_a_fork_sees_the_past_and_leaves_the_first_thread_alone(engine: Engine) -> None:
    first = await engine.start(agent(), asks(call("look", what="a")), says("Blue."), input="Which colour?")
    thread = (await engine.finish(first)).thread
    fork = await engine.client.fork_thread(thread, at=1)

    run = await engine.start(agent(), says("Red."), input="Are you sure?", thread=fork.id)
    await engine.finish(run)

    assert fork.forked_at == 2, "the answer to the call came along"
    assert engine.model.heard()[-2:] == [("tool", "looked"), ("user", "Are you sure?")]
    assert [m.said for m in await engine.client.thread(thread)] == ["Which colour?", "", "looked", "Blue."]
    assert [m.said for m in await engine.client.thread(fork.id)][-2:] == ["Are you sure?", "Red."]


async def test_a_fork_of_a_run_in_progress_ends_before_the_turn_that_is_not_whole(engine: Engine, world: World) -> None:
    run = await engine.start(agent(), asks(call("wait")), says("Done."))
    await world.entered.wait()

    fork = await engine.client.fork_thread((await run.record()).thread_id)
    world.released.set()
    await engine.finish(run)
    other = await engine.start(agent(), says("Other."), input="Instead?", thread=fork.id)

    assert (await engine.finish(other)).status == "completed"
    assert engine.model.heard() == [("user", "Go."), ("user", "Instead?")]


async def test_a_fork_goes_on_after_its_origin_was_deleted(engine: Engine) -> None:
    first = await engine.start(agent(), asks(call("look", what="a")), says("Blue."))
    thread = (await engine.finish(first)).thread
    fork = await engine.client.fork_thread(thread)

    await engine.client.delete_thread(thread, by="ana")
    run = await engine.start(agent(), says("Still blue."), input="And now?", thread=fork.id)
    result = await engine.finish(run)

    assert result.status == "completed"
    assert [text for _, text in engine.model.heard()] == ["Go.", "", "looked", "Blue.", "And now?"]
    assert await engine.client.thread(thread) == []
    with pytest.raises(ThreadNotFound):
        await engine.client.thread_record(thread)


async def test_another_tenant_sees_nothing_through_the_client(engine: Engine) -> None:
    run = await engine.start(agent(), says("Hello."), tenant="mine")
    thread = (await engine.finish(run)).thread

    with pytest.raises(ThreadNotFound):
        await engine.client.thread(thread, tenant="theirs")
    assert [record.id for record in await engine.client.threads(tenant="mine")] == [thread]
    assert await engine.client.threads(tenant="theirs") == []
