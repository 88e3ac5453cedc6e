"""Threads without a run: listing, appending, forking, and what deleting leaves to the forks; on both databases."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from horarium.content import canonical
from horarium.contract import RunRequest, Usage
from horarium.errors import Conflict, NotFound, ThreadBusy, ThreadNotFound
from horarium.ids import new_run_id, new_thread_id, step_id
from horarium.ledger.audit import AuditTrail
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Answered, Journal, StepClaim, StepRecord
from horarium.ledger.runs import Asked, Runs
from horarium.ledger.schema import summaries as summaries_table
from horarium.ledger.summaries import Summaries
from horarium.ledger.threads import Threads
from horarium.tools import Effect
from horarium.turns import StoredCall, StoredTurn
from tests.core.ledgers import held, open_run, step, thread_of


async def end(ledger: Ledger, run: str) -> None:
    await Runs(ledger).close(run, "completed", reason=None, message=None, turns=1, steps=1, usage=Usage())


async def turn(ledger: Ledger, run: str, number: int, text: str, *calls: str) -> StepRecord:
    """A settled turn of the model, that makes these calls."""
    stored = StoredTurn(text=text, calls=tuple(StoredCall(id=id, name="look", arguments="{}") for id in calls))
    claim = StepClaim(run, number, "model_call", "model", Effect.IDEMPOTENT)
    attempt = await held(Journal(ledger), claim)
    append = [Answered("assistant", step=step_id(run, number))]
    thread = await thread_of(ledger, run)
    return await Journal(ledger).settle(attempt, "completed", stored.model_dump_json(), thread=thread, append=append)


async def answers(ledger: Ledger, run: str, *numbers: int, output: object = "seen") -> None:
    """Settled calls, `call_<number>`, and their places in the thread."""
    for number in numbers:
        attempt = await held(Journal(ledger), step(run, number))
        await Journal(ledger).settle(attempt, "completed", output)
    claim = StepClaim(run, 100 + numbers[0], "model_call", "model", Effect.IDEMPOTENT)
    append = [Answered("tool", step=step_id(run, number)) for number in numbers]
    await Journal(ledger).claim(claim, thread=await thread_of(ledger, run), append=append)


async def talked(ledger: Ledger, *, output: object = "seen", tenant: str = "default") -> tuple[str, str]:
    """A run and its thread: 0 user, 1 turn with two calls, 2 and 3 their answers, 4 the final turn."""
    run = await open_run(ledger, tenant=tenant, requested_by="ana")
    await turn(ledger, run, 1, "I look.", "call_2", "call_3")
    await answers(ledger, run, 2, 3, output=output)
    await turn(ledger, run, 4, "All seen.")
    await end(ledger, run)
    return run, await thread_of(ledger, run)


async def said(ledger: Ledger, thread: str) -> list[tuple[str, str]]:
    return [(message.role, message.said) for message in await Threads(ledger).read(thread)]


WHOLE = [("user", "Go."), ("assistant", "I look."), ("tool", "seen"), ("tool", "seen"), ("assistant", "All seen.")]


# ---- looking


async def test_threads_are_listed_by_tenant_newest_first_and_page_by_page(ledger: Ledger) -> None:
    tenant = new_run_id()[:60]
    threads = [(await talked(ledger, tenant=tenant))[1] for _ in range(2)]
    busy = await open_run(ledger, tenant=tenant)
    threads.append(await thread_of(ledger, busy))

    found = await Threads(ledger).list(tenant=tenant)
    pages = await Threads(ledger).list(tenant=tenant, limit=2)
    rest = await Threads(ledger).list(tenant=tenant, before=pages[-1].id)

    assert [record.id for record in found] == threads[::-1]
    assert [record.id for record in (*pages, *rest)] == threads[::-1]
    assert [(record.messages, record.open_run) for record in found] == [(1, busy), (5, None), (5, None)]
    last = (await Threads(ledger).read(threads[0]))[-1].created_at
    assert found[-1].last_message_at == last
    assert await Threads(ledger).list(tenant="nobody") == []
    for before, whose in (("thr_none", None), (threads[0], "nobody")):
        with pytest.raises(ThreadNotFound):
            await Threads(ledger).list(before=before, tenant=whose)


async def test_messages_are_read_in_pages_whole_and_with_who_said_them(ledger: Ledger) -> None:
    run, thread = await talked(ledger, output="long " * 1_000)

    first = await Threads(ledger).read(thread, limit=3)
    rest = await Threads(ledger).read(thread, after=first[-1].seq, limit=10)

    assert [m.seq for m in (*first, *rest)] == [0, 1, 2, 3, 4]
    assert first[0].author == "ana"
    assert [call.id for call in first[1].calls] == ["call_2", "call_3"]
    assert (first[2].said, first[2].run_id, first[2].step) == ("long " * 1_000, run, 2)


# ---- appending


async def test_a_message_without_a_run_is_placed_at_the_end_and_read_by_the_next_run(ledger: Ledger) -> None:
    _, thread = await talked(ledger)

    places = [await Threads(ledger).append(thread, f"Also {n}.\x00", author="ben") for n in range(2)]
    await open_run(ledger, thread=thread, input="And?")

    assert places == [5, 6]
    assert [text for _, text in (await said(ledger, thread))[5:]] == ["Also 0.\ufffd", "Also 1.\ufffd", "And?"]
    assert (await Threads(ledger).read(thread))[5].author == "ben"


async def test_many_who_append_at_once_each_get_a_place(ledger: Ledger) -> None:
    _, thread = await talked(ledger)

    places = await asyncio.gather(*(Threads(ledger).append(thread, str(n), role="system") for n in range(8)))

    assert sorted(places) == list(range(5, 13))


async def test_nothing_is_appended_beside_an_open_run(ledger: Ledger) -> None:
    run = await open_run(ledger)

    with pytest.raises(ThreadBusy, match=f"horarium runs message {run}"):
        await Threads(ledger).append(await thread_of(ledger, run), "Too late.")


async def test_nothing_is_appended_between_a_call_and_its_answer(ledger: Ledger) -> None:
    run = await open_run(ledger)
    thread = await thread_of(ledger, run)
    await turn(ledger, run, 1, "I look.", "call_2")
    await end(ledger, run)

    with pytest.raises(Conflict, match=run):
        await Threads(ledger).append(thread, "Hello?")

    fork = await Threads(ledger).fork(thread)
    assert fork.forked_at == 0
    assert await Threads(ledger).append(fork.id, "Hello?") == 1


async def test_a_deleted_thread_takes_no_message(ledger: Ledger) -> None:
    _, thread = await talked(ledger)
    await Threads(ledger).delete(thread)

    with pytest.raises(ThreadNotFound):
        await Threads(ledger).append(thread, "Hello?")
    with pytest.raises(ThreadNotFound):
        await Threads(ledger).queue(thread, "ref", "Hello?", None, None)


async def test_another_tenants_thread_is_neither_shown_nor_touched(ledger: Ledger) -> None:
    _, thread = await talked(ledger, tenant="mine")
    threads = Threads(ledger)

    for touching in (
        threads.get(thread, tenant="theirs"),
        threads.append(thread, "Hello?", tenant="theirs"),
        threads.fork(thread, tenant="theirs"),
        threads.delete(thread, tenant="theirs"),
    ):
        with pytest.raises(ThreadNotFound):
            await touching

    assert await said(ledger, thread) == WHOLE


# ---- forking


async def test_a_fork_has_the_messages_and_goes_its_own_way(ledger: Ledger) -> None:
    _, thread = await talked(ledger, tenant="mine")

    fork = await Threads(ledger).fork(thread)
    await Threads(ledger).append(fork.id, "Here only.")

    assert (fork.tenant, fork.forked_from, fork.forked_at, fork.messages) == ("mine", thread, 4, 5)
    assert await said(ledger, fork.id) == [*WHOLE, ("user", "Here only.")]
    assert await said(ledger, thread) == WHOLE


@pytest.mark.parametrize(("at", "end"), [(0, 0), (1, 3), (2, 3), (3, 3), (4, 4)])
async def test_a_fork_never_cuts_a_call_from_its_answer(ledger: Ledger, at: int, end: int) -> None:
    _, thread = await talked(ledger)

    fork = await Threads(ledger).fork(thread, at=at)

    assert fork.forked_at == end
    assert await said(ledger, fork.id) == WHOLE[: end + 1]


async def test_a_fork_at_a_turn_that_waits_for_answers_is_refused_and_says_where_instead(ledger: Ledger) -> None:
    run = await open_run(ledger)
    thread = await thread_of(ledger, run)
    await turn(ledger, run, 1, "I look.", "call_2")

    with pytest.raises(Conflict, match="--at 0"):
        await Threads(ledger).fork(thread, at=1)
    for at in (-1, 2):
        with pytest.raises(NotFound, match="its last is 1"):
            await Threads(ledger).fork(thread, at=at)
    with pytest.raises(Conflict, match="Nothing was said"):
        await Threads(ledger).fork(await empty_thread(ledger))


async def empty_thread(ledger: Ledger) -> str:
    thread = new_thread_id()
    async with ledger.write() as connection:
        await Threads(ledger).ensure(connection, thread, "default")
    return thread


async def test_summaries_of_what_is_copied_come_along(ledger: Ledger) -> None:
    run, thread = await talked(ledger)
    await Summaries(ledger).keep(thread, 0, "first", run, 9)
    await Summaries(ledger).keep(thread, 3, "second", run, 10)

    early, late = await Threads(ledger).fork(thread, at=0), await Threads(ledger).fork(thread)

    for fork, text in ((early, "first"), (late, "second")):
        summary = await Summaries(ledger).latest(fork.id)
        assert summary is not None
        assert (summary.text, summary.run_id) == (text, run)
    stood_for = await Summaries(ledger).stood_for(late.id, 3)
    assert (stood_for.request, stood_for.turns) == ("Go.", 1)


# ---- deleting


async def test_a_fork_keeps_what_it_shows_when_the_thread_before_it_is_deleted(ledger: Ledger) -> None:
    run, thread = await talked(ledger, output=b"\xff" * 40)
    blob = (await Journal(ledger).get(run, 2)).output_blob or ""
    fork = await Threads(ledger).fork(thread, at=3)

    await Threads(ledger).delete(thread)

    assert [role for role, _ in await said(ledger, fork.id)] == ["user", "assistant", "tool", "tool"]
    assert (await said(ledger, fork.id))[1] == ("assistant", "I look.")
    assert await ledger.blobs.get(blob) == b"\xff" * 40
    assert (await Journal(ledger).get(run, 4)).output is None, "the fork does not show it"

    await Threads(ledger).delete(fork.id)

    assert [(await Journal(ledger).get(run, number)).output for number in (1, 2, 3, 4)] == [None] * 4
    with pytest.raises(FileNotFoundError):
        await ledger.blobs.get(blob)


async def test_deleting_a_fork_leaves_the_thread_it_was_made_of(ledger: Ledger) -> None:
    run, thread = await talked(ledger)
    fork = await Threads(ledger).fork(thread)
    later = await open_run(ledger, thread=fork.id, input="More.")
    await turn(ledger, later, 1, "Only in the fork.")
    await end(ledger, later)

    await Threads(ledger).delete(fork.id)

    assert await said(ledger, thread) == WHOLE
    assert (await Journal(ledger).get(later, 1)).output is None
    assert (await Journal(ledger).get(run, 4)).output is not None


async def test_of_forks_of_forks_the_last_one_keeps_the_content(ledger: Ledger) -> None:
    run, thread = await talked(ledger)
    child = await Threads(ledger).fork(thread)
    grandchild = await Threads(ledger).fork(child.id, at=3)

    await asyncio.gather(Threads(ledger).delete(thread), Threads(ledger).delete(child.id))

    assert await said(ledger, grandchild.id) == WHOLE[:4]
    assert (await Journal(ledger).get(run, 4)).output is None
    await Threads(ledger).delete(grandchild.id)
    assert (await Journal(ledger).get(run, 1)).output is None


async def test_a_deleted_thread_leaves_no_summary_no_queue_and_an_entry_in_the_audit(ledger: Ledger) -> None:
    run, thread = await talked(ledger)
    await Summaries(ledger).keep(thread, 3, "secret", run, 9)
    await Threads(ledger).queue(thread, "late", "secret", None, None)
    before = (await AuditTrail(ledger).head()).seq

    await Threads(ledger).delete(thread, by="ana")
    await Summaries(ledger).keep(thread, 3, "secret", run, 9)

    async with ledger.read() as connection:
        left = await connection.scalars(select(summaries_table.c.text).where(summaries_table.c.thread_id == thread))
        assert list(left) == []
    entries = [e for e in await AuditTrail(ledger).entries(after=before) if e.subject == thread]
    assert [entry.kind for entry in entries] == ["thread.deleted"]
    assert entries[0].data == {"by": "ana", "messages": 6}
    assert thread not in [record.id for record in await Threads(ledger).list(limit=500)]
    assert canonical(entries[0].data).count("secret") == 0
    assert entries[0].at <= datetime.now(UTC)


async def test_deleting_a_thread_takes_those_of_its_sub_agents_at_any_depth_unless_one_is_at_work(
    ledger: Ledger,
) -> None:
    run, thread = await talked(ledger)
    runs = Runs(ledger)
    asked = RunRequest(agent="scout", parent=step_id(run, 2))
    child = await runs.create_below(new_run_id(), asked, "secret", parent=await runs.get(run), step=2)
    asked = RunRequest(agent="digger", parent=step_id(child.id, 2))
    grandchild = await runs.create_below(new_run_id(), asked, "secret", parent=child, step=2)
    await runs.open(grandchild.id, grandchild.thread_id, asked, 1)

    with pytest.raises(Conflict, match=grandchild.id):
        await Threads(ledger).delete(thread)
    assert await said(ledger, thread) == WHOLE
    await end(ledger, grandchild.id)
    await Threads(ledger).delete(thread)

    for gone in (thread, child.thread_id, grandchild.thread_id):
        with pytest.raises(ThreadNotFound):
            await Threads(ledger).get(gone)
        assert await said(ledger, gone) == []
    assert await runs.asked(grandchild.id) == Asked(await runs.get(grandchild.id), None)
