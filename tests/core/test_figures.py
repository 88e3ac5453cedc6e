"""Figures over a whole ledger: whose they are, since when, and that nothing is counted twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from horarium.contract import Status, Usage
from horarium.ids import new_run_id
from horarium.ledger.audit import AuditEntry, AuditTrail, append
from horarium.ledger.database import Ledger
from horarium.ledger.figures import Figures, Used
from horarium.ledger.journal import Journal
from horarium.ledger.memories import Memories
from horarium.ledger.memory_lessons import Lessons, Teaching
from horarium.ledger.routines import Routines
from horarium.ledger.runs import Runs
from horarium.memories import Judgement, Lesson
from horarium.routines import Routine
from tests.core.ledgers import NOON, held, open_run, step
from tests.core.questions import ask

SPENT = Usage(input_tokens=10, output_tokens=5, cost_micro_usd=7)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def tenant() -> str:
    return new_run_id()[-20:]


async def closed(ledger: Ledger, tenant: str, status: Status = "completed") -> str:
    run = await open_run(ledger, tenant=tenant)
    await Runs(ledger).close(run, status, reason=None, message=None, turns=1, steps=2, usage=SPENT)
    return run


async def test_what_runs_used_is_a_tenants_own_and_of_a_span(ledger: Ledger, tenant: str) -> None:
    await closed(ledger, tenant)
    await closed(ledger, tenant, "failed")
    await open_run(ledger, tenant=tenant)
    figures = Figures(ledger)

    assert await figures.used(tenant, LONG_AGO) == Used(3, 1, 20, 10, 14)
    assert await figures.used_by_agents(tenant, LONG_AGO) == {"clerk": Used(3, 1, 20, 10, 14)}
    assert await figures.used_by("clerk", f"{tenant}-2", LONG_AGO) == Used()
    assert await figures.used(tenant, datetime.now(UTC) + timedelta(hours=1)) == Used()
    assert await figures.statuses(tenant, LONG_AGO) == {"completed": 1, "failed": 1, "in_progress": 1}


async def test_of_each_tool_the_last_failure_is_told_and_how_many_there_were(ledger: Ledger, tenant: str) -> None:
    journal = Journal(ledger)
    runs = [await open_run(ledger, tenant=tenant) for _ in range(2)]
    for run in runs:
        await journal.settle(
            await held(journal, step(run)), "failed", code="tool_failed", message=f"It broke in {run}."
        )
    await held(journal, step(runs[0], 3))

    failures = await Figures(ledger).tool_failures("clerk", tenant, LONG_AGO)

    assert list(failures) == ["look"]
    last = failures["look"]
    assert (last.number, last.run, last.step, last.code) == (2, runs[1], 2, "tool_failed")
    assert last.message == f"It broke in {runs[1]}."
    assert await Figures(ledger).tool_failures("clerk", f"{tenant}-2", LONG_AGO) == {}


async def test_what_waits_for_people_is_counted_with_what_ends_soon(ledger: Ledger, tenant: str) -> None:
    await ask(ledger, tenant=tenant)
    await ask(ledger, tenant=tenant, expires_at=None, requested_at=NOON - timedelta(hours=3))
    await ask(ledger, tenant=tenant, status="decided", expires_at=NOON)

    waiting = await Figures(ledger).waiting(tenant, NOON + timedelta(hours=9))

    assert (waiting.questions, waiting.due) == (2, 1)
    assert (waiting.oldest, waiting.next_deadline) == (NOON - timedelta(hours=3), NOON + timedelta(hours=8))


async def test_routines_and_the_database_say_how_far_they_are(ledger: Ledger, tenant: str) -> None:
    name = f"nightly-{tenant.lower()}"
    triggers = {"day": {"cron": "0 6 * * *"}}
    routine = Routine.model_validate(
        {"name": name, "agent": "clerk", "tenant": tenant, "input": "Go.", "triggers": triggers}
    )
    await Routines(ledger).put(routine, by="ana", at=NOON)

    kept = await Figures(ledger).timetable(tenant, LONG_AGO)
    store = await Figures(ledger).store()

    assert (kept.watched_until is not None, kept.missed, kept.open, kept.not_applied) == (True, 0, 0, 1)
    assert [record.name for record in await Routines(ledger).of_agent("clerk", tenant)] == [name]
    assert await Routines(ledger).of_agent("cler", tenant) == []
    assert store.kind == ("SQLite" if ledger.is_sqlite else "PostgreSQL")
    assert (store.revision or "")[:2] == "00"
    assert (store.bytes or 0) > 0


async def test_memories_are_found_by_what_they_say_and_with_the_word_on_their_run(ledger: Ledger, tenant: str) -> None:
    run = await closed(ledger, tenant)
    lesson = Lesson("user", "Acme", "Pays in 14% of cases.")
    await Lessons(ledger).learn(Teaching(tenant, run, "clerk", "desk", "ana", (lesson,), Judgement(True), tainted=True))
    await Lessons(ledger).feedback(run, "positive", "maria", "Right.", tenant)
    memories = Memories(ledger)

    [found] = await memories.list(tenant=tenant, text="IN 14%")
    await memories.used(run, 1, [(found.id, 1)])

    assert await memories.list(tenant=tenant, text="14_") == []
    assert [memory.id for memory in await memories.list(tenant=tenant, text="acme")] == [found.id]
    assert await memories.feedback([run]) == {run: ("positive", "maria", "Right.")}
    assert await memories.use_counts([found.id, "mem_0"]) == {found.id: 1}
    assert await Figures(ledger).memories_waiting(tenant) == 1


async def test_entries_are_found_by_who_and_when_and_exported_for_one_tenant(ledger: Ledger, tenant: str) -> None:
    trail = AuditTrail(ledger)
    async with ledger.write() as connection:
        for hour, by in enumerate(('ana "the boss"', "ben", "ana")):
            at = NOON + timedelta(hours=hour)
            await append(connection, AuditEntry(kind="grant.made", at=at, tenant=tenant, subject=by, data={"by": by}))

    async def found(**where: str | datetime) -> list[str | None]:
        return [entry.subject for entry in await trail.latest(tenant=tenant, **where)]  # type: ignore[arg-type]

    assert await found(by="ana") == ["ana"]
    assert await found(by='ana "the boss"') == ['ana "the boss"']
    assert await found(since=NOON + timedelta(hours=1), until=NOON + timedelta(hours=2)) == ["ben"]
    assert len([line async for line in trail.export(tenant=tenant)]) == 3
