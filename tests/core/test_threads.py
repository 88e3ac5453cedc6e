"""Threads and runs in the ledger: order, one writer, deletion, and one run for each key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from horarium.contract import RunRequest, Usage
from horarium.errors import Conflict, RunExists, ThreadBusy, ThreadNotFound
from horarium.ids import approval_id, new_run_id, new_thread_id, run_id_for_key, step_id, thread_id_for_run
from horarium.ledger.approvals import Approvals
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Answered, Journal, append_messages
from horarium.ledger.memories import Memories
from horarium.ledger.memory_lessons import Lessons, Teaching
from horarium.ledger.runs import Runs
from horarium.ledger.threads import Threads
from horarium.memories import Judgement, Lesson
from horarium.tools import Effect
from tests.core.ledgers import ask, held, open_run, step, thread_of
from tests.core.test_journal import asked


async def end(ledger: Ledger, run: str, status: Any = "completed") -> None:
    await Runs(ledger).close(run, status, reason=None, message="why", turns=1, steps=1, usage=Usage())


async def test_messages_stand_in_the_order_in_which_they_were_appended(ledger: Ledger) -> None:
    run = await open_run(ledger)
    thread = await thread_of(ledger, run)
    for word in ("one", "two", "three"):
        await Threads(ledger).queue(thread, f"{run}/{word}", word, run, "ann")
    order = [Answered("user", ref=f"{run}/three"), Answered("system", text="note"), Answered("user", ref=f"{run}/one")]

    async with ledger.write() as connection:
        await append_messages(connection, thread, run, order, datetime.now(UTC))

    messages = await Threads(ledger).read(thread)
    assert [(m.seq, m.text) for m in messages] == [(0, "Go."), (1, "three"), (2, "note"), (3, "one")]
    assert await Threads(ledger).size(thread) == 4
    assert [m.seq for m in await Threads(ledger).read(thread, after=1)] == [2, 3]


async def test_the_same_message_is_queued_once_and_read_once(ledger: Ledger) -> None:
    run = await open_run(ledger)
    thread = await thread_of(ledger, run)
    for text in ("first", "repeated"):
        await Threads(ledger).queue(thread, "ref", text, run, None)
    for _ in range(2):
        async with ledger.write() as connection:
            await append_messages(connection, thread, run, [Answered("user", ref="ref")], datetime.now(UTC))

    assert [m.text for m in await Threads(ledger).read(thread)] == ["Go.", "first"]


async def test_a_thread_has_one_open_run_at_a_time(ledger: Ledger) -> None:
    run = await open_run(ledger)
    thread = await thread_of(ledger, run)

    with pytest.raises(ThreadBusy, match=run):
        await open_run(ledger, thread=thread)

    assert await Threads(ledger).holder(thread) == run
    await end(ledger, run)
    assert await Threads(ledger).holder(thread) is None
    second = await open_run(ledger, thread=thread, input="And now?")
    assert [m.text for m in await Threads(ledger).read(thread)] == ["Go.", "And now?"]
    await end(ledger, run)
    assert await Threads(ledger).holder(thread) == second, "a run closes once, and releases only its own hold"


async def test_of_many_runs_that_want_one_thread_one_gets_it(fresh: Callable[[], Awaitable[Ledger]]) -> None:
    ledgers = [await fresh() for _ in range(6)]
    thread = new_thread_id()

    answers = await asyncio.gather(*(open_run(ledger, thread=thread) for ledger in ledgers), return_exceptions=True)

    assert sum(isinstance(answer, str) for answer in answers) == 1
    assert sum(isinstance(answer, ThreadBusy) for answer in answers) == 5
    assert await Threads(ledgers[0]).size(thread) == 1


async def test_opening_a_run_twice_asks_once(ledger: Ledger) -> None:
    run, thread = new_run_id(), new_thread_id()
    for _ in range(2):
        await Runs(ledger).open(run, thread, RunRequest(agent="clerk", input="Go."), 3)

    assert [m.text for m in await Threads(ledger).read(thread)] == ["Go."]
    record = await Runs(ledger).get(run)
    assert (record.status, record.version) == ("in_progress", 3)


async def test_a_run_needs_something_to_answer(ledger: Ledger) -> None:
    with pytest.raises(Conflict, match="Nothing was asked"):
        await open_run(ledger, input=None)


async def test_a_run_that_owes_calls_leaves_what_was_asked_in_the_queue(ledger: Ledger) -> None:
    run, thread = new_run_id(), new_thread_id()

    refs = await Runs(ledger).open(run, thread, RunRequest(agent="clerk", input="Go."), 1, owes_calls=True)

    assert refs == (f"{run}/input",)
    assert await Threads(ledger).read(thread) == []


async def test_another_tenants_thread_is_not_there(ledger: Ledger) -> None:
    run = await open_run(ledger, tenant="mine")

    with pytest.raises(ThreadNotFound):
        await open_run(ledger, thread=await thread_of(ledger, run), tenant="theirs")


# ---- deleting


async def test_deleting_a_thread_removes_what_was_said_and_leaves_that_something_was_done(ledger: Ledger) -> None:
    journal, run = Journal(ledger), await open_run(ledger, metadata={"case": "7"})
    thread = await thread_of(ledger, run)
    request = asked(run)
    await ask(ledger, run, request, '{"amount":7}')
    claim = step(run, 4)
    attempt = await held(journal, claim, thread=thread, append=[Answered("assistant", text="secret")])
    done = await journal.settle(attempt, "completed", b"\xff" * 50, message="secret")
    lessons = (Lesson("summary", run, "secret"), Lesson("procedural", run, "secret"))
    taught = Teaching("default", run, "clerk", f"scope {run}", "", lessons, Judgement(True))
    await Lessons(ledger).learn(taught)
    await end(ledger, run)

    await Threads(ledger).delete(thread)

    assert await Threads(ledger).read(thread) == []
    assert await Memories(ledger).list(scope=f"scope {run}") == []
    assert await Lessons(ledger).learned(run) is None
    left = await journal.get(run, 4)
    assert (left.status, left.name, left.key, left.input_digest) == ("completed", "look", claim.key, "sha256:in")
    assert (left.arguments, left.output, left.output_blob, left.message) == (None, None, None, None)
    question = await Approvals(ledger).get(approval_id(step_id(run, 3)))
    assert (question.digest, question.arguments) == ("sha256:pay7", "")
    record = await Runs(ledger).get(run)
    assert (record.status, record.metadata, record.message) == ("completed", {}, None)
    with pytest.raises(FileNotFoundError):
        await ledger.blobs.get(done.output_blob or "")
    with pytest.raises(ThreadNotFound):
        await Threads(ledger).delete(thread)
    with pytest.raises(ThreadNotFound):
        await open_run(ledger, thread=thread)


async def test_an_attempt_that_ends_after_its_thread_was_deleted_brings_nothing_back(ledger: Ledger) -> None:
    journal, run = Journal(ledger), await open_run(ledger)
    zombie = await held(journal, step(run, effect=Effect.EXTERNAL))
    await end(ledger, run, "cancelled")
    await Threads(ledger).delete(await thread_of(ledger, run))

    record = await journal.settle(zombie, "completed", "secret")

    assert (record.status, record.output) == ("unknown", None)


async def test_deleting_a_thread_keeps_a_blob_that_another_thread_has_too(ledger: Ledger) -> None:
    journal, runs, same = Journal(ledger), [await open_run(ledger) for _ in range(2)], b"\xfe" * 50
    records = [await journal.settle(await held(journal, step(run)), "completed", same) for run in runs]
    for run in runs:
        await end(ledger, run)

    await Threads(ledger).delete(await thread_of(ledger, runs[0]))

    assert records[0].output_blob == records[1].output_blob
    assert await ledger.blobs.get(records[1].output_blob or "") == same


async def test_a_thread_with_an_open_run_is_not_deleted(ledger: Ledger) -> None:
    run = await open_run(ledger)
    thread = await thread_of(ledger, run)

    with pytest.raises(Conflict, match=f"horarium runs cancel {run}"):
        await Threads(ledger).delete(thread)

    assert await Threads(ledger).size(thread) == 1


# ---- runs


async def test_a_key_used_again_for_the_same_request_is_the_same_run(ledger: Ledger) -> None:
    key = new_run_id()
    run, request = run_id_for_key("default", key), RunRequest(agent="clerk", input="Go.", requested_by="ann")
    creations = [Runs(ledger).create(run, request, key=key, request_digest="sha256:a") for _ in range(4)]

    records = await asyncio.gather(*creations)

    assert len({record.created_at for record in records}) == 1
    assert (records[0].status, records[0].thread_id, records[0].key) == ("queued", thread_id_for_run(run), key)
    await Runs(ledger).open(run, records[0].thread_id, request, 1)
    assert [m.text for m in await Threads(ledger).read(records[0].thread_id)] == ["Go."]


async def test_a_key_used_again_for_another_request_is_refused_and_names_the_run(ledger: Ledger) -> None:
    key = new_run_id()
    run, request = run_id_for_key("default", key), RunRequest(agent="clerk", input="Go.")
    await Runs(ledger).create(run, request, key=key, request_digest="sha256:a")

    with pytest.raises(RunExists, match=run):
        await Runs(ledger).create(run, request, key=key, request_digest="sha256:b")


async def test_a_run_is_closed_once_and_its_ending_stands(ledger: Ledger) -> None:
    run = await open_run(ledger)
    await end(ledger, run, "cancelled")

    await end(ledger, run, "completed")
    await Runs(ledger).mark(run, "requires_action")
    await Runs(ledger).close_gone(run)

    assert (await Runs(ledger).get(run)).status == "cancelled"


async def test_the_latest_runs_are_listed_first_and_can_be_narrowed(ledger: Ledger) -> None:
    tenant = new_run_id()[:60]
    runs = [await open_run(ledger, tenant=tenant) for _ in range(3)]
    await end(ledger, runs[1])

    assert [r.id for r in await Runs(ledger).list(tenant=tenant)] == runs[::-1]
    assert [r.id for r in await Runs(ledger).list(tenant=tenant, status=["completed"])] == [runs[1]]
    assert [r.id for r in await Runs(ledger).list(tenant=tenant, limit=1)] == [runs[2]]
    assert await Runs(ledger).list(tenant=tenant, agent="nobody") == []
