"""Memories in a Foundry store: the real SDK against an emulator on loopback, with runs on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from temporalio.testing import WorkflowEnvironment

from activities.memory_foundry import FoundryMemory, StoreAway, StoreRefused, UpdateLost
from horarium.client import Run
from horarium.definitions import Agent, Memory, Rubric
from horarium.foundry_memory import foundry_scope
from horarium.ids import memory_workflow_id
from horarium.ledger.memory_outbox import Delivery, Outbox
from horarium.ledger.schema import memory_outbox
from horarium.settings import Settings
from tests.memory.store import STORE, StoreEmulator
from tests.support.engine import PATIENCE, Engine, running_engine, says

ITEMS = [{"type": "message", "role": "user", "content": "I live in Leeds."}]


@pytest.fixture
async def foundry(settings: Settings) -> AsyncIterator[FoundryMemory]:
    client = FoundryMemory(settings)
    yield client
    await client.close()


@pytest.fixture
async def engine(env: WorkflowEnvironment, tmp_path: Path, settings: Settings) -> AsyncIterator[Engine]:
    async with running_engine(env, tmp_path, [], settings=settings) as engine:
        yield engine


def clerk(**memory: Any) -> Agent:
    memory = {"scope": "desk", "kinds": ("user", "summary"), "store": "foundry", **memory}
    return Agent("clerk", model="scripted:x", instructions="Be brief.", memory=Memory(**memory))


async def run_of(engine: Engine, agent: Agent, **options: Any) -> Run:
    """A run that has completed."""
    run = await engine.start(agent, says("Noted."), **{"input": "I live in Leeds.", "requested_by": "Ana", **options})
    assert (await engine.finish(run)).status == "completed"
    return run


async def delivery_of(engine: Engine, run: Run, until: Callable[[Delivery], bool]) -> Delivery:
    """What a run left, when it is as far as that."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            delivery = await Outbox(engine.ledger).get(run.id)
            if delivery is not None and until(delivery):
                return delivery
            await asyncio.sleep(0.02)


def is_delivered(delivery: Delivery) -> bool:
    return delivery.status == "delivered"


# ---- the store itself


async def test_an_update_is_started_and_looked_at_by_its_id_from_another_client(
    store: StoreEmulator, foundry: FoundryMemory, settings: Settings
) -> None:
    store.looks_needed = 2
    update_id = await foundry.start(STORE, "default/user/ana", ITEMS)
    other = FoundryMemory(settings)

    first, second = await foundry.look(STORE, update_id), await other.look(STORE, update_id)
    await other.close()

    assert (first.done, second.done, second.message) == (False, True, "The store changed 1 memories.")
    assert store.posts == [{"scope": "default/user/ana", "items": ITEMS, "update_delay": 0}]


async def test_what_is_found_has_ids_and_times_and_only_of_the_scope(
    store: StoreEmulator, foundry: FoundryMemory
) -> None:
    for scope in ("default/user/ana", "default/user/bob"):
        await foundry.look(STORE, await foundry.start(STORE, scope, ITEMS))

    (known,) = await foundry.search(STORE, "default/user/ana", "Where?", 5)

    assert (known.id, known.kind, known.text, known.version) == ("mem_0", "user", "I live in Leeds.", 1795240000)


@pytest.mark.parametrize(
    ("status", "error"), [(503, StoreAway), (429, StoreAway), (403, StoreAway), (400, StoreRefused)]
)
async def test_each_fault_is_asked_once_and_told_without_words_of_others(
    store: StoreEmulator, foundry: FoundryMemory, status: int, error: type[Exception]
) -> None:
    store.away = status

    with pytest.raises(error) as caught:
        await foundry.start(STORE, "s", ITEMS)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("ends", ["superseded", "failed"])
async def test_an_update_that_came_to_nothing_says_which_way(
    store: StoreEmulator, foundry: FoundryMemory, ends: str
) -> None:
    store.ends = ends
    update_id = await foundry.start(STORE, "s", ITEMS)

    with pytest.raises(UpdateLost if ends == "superseded" else StoreRefused):
        await foundry.look(STORE, update_id)


def test_no_two_users_and_no_two_tenants_share_a_scope() -> None:
    names = ["a", "a/user/b", "a%2Fuser%2Fb", "", "user"]
    scopes = [foundry_scope(tenant, owner, "desk") for tenant in names for owner in names]

    assert len(set(scopes)) == len(scopes)


# ---- runs


async def test_a_run_leaves_what_was_said_and_the_next_is_told(engine: Engine, store: StoreEmulator) -> None:
    first = await run_of(engine, clerk())
    delivery = await delivery_of(engine, first, is_delivered)

    second = await run_of(engine, clerk(), input="Where do I live?")

    assert (delivery.scope, delivery.items, delivery.update_id) == ("default/user/ana", [], "upd_1")
    assert "- I live in Leeds. / Noted." in engine.model.requests[0].instructions
    assert await engine.client.memory_deliveries(status=["failed"]) == []
    recall, *_ = await second.steps()
    assert '"id": "mem_0"' in (recall.output or "")


async def test_two_users_never_see_each_others(engine: Engine, store: StoreEmulator) -> None:
    await delivery_of(engine, await run_of(engine, clerk()), is_delivered)

    await run_of(engine, clerk(), requested_by="bob")
    await run_of(engine, clerk(), tenant="other")

    assert "Leeds" not in engine.model.requests[0].instructions
    assert [search["scope"] for search in store.searches] == ["default/user/ana", "default/user/bob", "other/user/ana"]


@pytest.mark.parametrize("outage", ["away", "hangs"])
async def test_a_store_that_is_away_neither_loses_a_write_nor_keeps_a_run(
    engine: Engine, store: StoreEmulator, outage: str
) -> None:
    setattr(store, outage, 503 if outage == "away" else True)

    run = await run_of(engine, clerk())
    recall, *_ = await run.steps()
    waiting = await delivery_of(engine, run, lambda delivery: outage == "hangs" or delivery.message is not None)
    setattr(store, outage, None if outage == "away" else False)
    await delivery_of(engine, run, is_delivered)

    assert (recall.status, recall.code) == ("failed", "memory_store_away")
    assert "Gone on without what is remembered" in (recall.message or "")
    assert (waiting.status, waiting.items[0]["content"]) == ("pending", "I live in Leeds.")
    assert [each["content"] for each in store.memories] == ["I live in Leeds. / Noted."]
    assert len(store.posts) == 1


async def test_what_the_store_has_taken_is_looked_at_again_and_not_told_twice(
    engine: Engine, store: StoreEmulator
) -> None:
    store.looks_needed = 1_000_000
    run = await run_of(engine, clerk())
    await delivery_of(engine, run, lambda delivery: delivery.status == "sent")
    store.away = 503  # the attempt ends here, as with its worker
    await delivery_of(engine, run, lambda delivery: delivery.message is not None)
    looks = store.looks
    store.away, store.looks_needed = None, looks + 1

    await delivery_of(engine, run, is_delivered)

    assert len(store.posts) == 1
    assert store.looks > looks


async def test_an_update_that_the_store_forgot_is_told_again(engine: Engine, store: StoreEmulator) -> None:
    store.forgets = 1

    await delivery_of(engine, await run_of(engine, clerk()), is_delivered)

    assert len(store.posts) == 2
    assert len(store.memories) == 1


async def test_what_the_store_refuses_is_kept_and_said(engine: Engine, store: StoreEmulator) -> None:
    store.ends = "failed"

    run = await run_of(engine, clerk())
    delivery = await delivery_of(engine, run, lambda delivery: delivery.status == "failed")

    assert "content_filter" in (delivery.message or "")
    assert delivery.items[0]["content"] == "I live in Leeds."


async def test_what_is_pending_with_nobody_at_work_on_it_is_delivered_when_asked(
    engine: Engine, store: StoreEmulator
) -> None:
    run = await run_of(engine, clerk())
    await engine.client.temporal.get_workflow_handle(memory_workflow_id(run.id)).result()
    async with engine.ledger.write() as connection:
        values = {"status": "pending", "update_id": None, "items": ITEMS}
        await connection.execute(update(memory_outbox).where(memory_outbox.c.run_id == run.id).values(**values))

    begun = await engine.client.deliver_memories()

    await delivery_of(engine, run, is_delivered)
    assert (begun, len(store.posts)) == (1, 2)


async def test_procedures_go_out_only_when_the_run_did_well_or_a_person_says_so(
    engine: Engine, store: StoreEmulator
) -> None:
    rubric = Rubric(check="rubrics/none.py:good")
    agent = clerk(kinds=("procedural",), rubric=rubric)
    first, second = await run_of(engine, agent), await run_of(engine, agent)
    held = [await delivery_of(engine, run, lambda _: True) for run in (first, second)]

    await engine.client.feedback(first.id, "positive", by="carl")
    await engine.client.feedback(second.id, "negative", by="carl")
    await delivery_of(engine, first, is_delivered)

    assert [delivery.status for delivery in held] == ["candidate", "candidate"]
    assert (await delivery_of(engine, second, lambda _: True)).status == "withdrawn"
    assert len(store.posts) == 1
