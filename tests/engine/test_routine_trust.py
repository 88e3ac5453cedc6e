"""Who may have a routine do what: orders that are proved, releases in the name of who gave them, four eyes, ids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from horarium.contract import ENGINE_QUEUE, ROUTINE_ORDER_WORKFLOW, TICK_WORKFLOW, Decision, RoutineOrder, TickRequest
from horarium.definitions import Agent, ApprovalRule
from horarium.errors import HorariumError, NotAnApprover, ProofInvalid
from horarium.ids import new_order_id
from horarium.ledger.agents import Agents
from horarium.ledger.audit import AuditRecord, AuditTrail
from horarium.ledger.grants import Grants
from horarium.ledger.routines import Routines
from horarium.ledger.ticks import Ticks
from horarium.proof import KeyRing, Signer
from horarium.routines import Routine, tick_id
from horarium.settings import ApprovalsSettings, Settings
from schedules.orders import Orders
from tests.engine.test_routines import Archive, Ticking, archive, clerk, routine, unhurried
from tests.support.engine import PATIENCE, Engine, asks, call, running_engine, says

__all__ = ["archive", "unhurried"]

PAY = asks(call("pay", amount=7))
PREAPPROVED: dict[str, Any] = {"unattended": "deny", "preapproved": [{"tool": "pay"}]}


@pytest.fixture
async def proving(env: WorkflowEnvironment, tmp_path: Path, archive: Archive) -> AsyncIterator[Engine]:
    """An engine that requires proof, and an agent whose payments ana approves."""
    settings = Settings(root=tmp_path, approvals=ApprovalsSettings(require_proof=True))
    async with running_engine(env, tmp_path, archive.tools(), settings=settings) as engine:
        await Agents(engine.ledger).register(clerk(approvals=(ApprovalRule(tools=("pay",), approvers=("ana",)),)))
        engine.model.lines[:] = [PAY, says("Paid.")]
        yield engine


@pytest.fixture
def anas(proving: Engine) -> Signer:
    return Signer(KeyRing.of(proving.settings).create("ana's", ("ana",)))


def orders_of(engine: Engine) -> Orders:
    return Orders(engine.ledger, engine.client.temporal, engine.settings)


async def obey(engine: Engine, action: str, by: str | None, **more: Any) -> tuple[str, ...]:
    """Give an order to an engine that takes anybody's word; the ticks that it started."""
    order = RoutineOrder.model_validate({"action": action, "by": by} | more)
    return (await orders_of(engine).obey(order, new_order_id(), datetime.now(UTC))).ticks


async def put(engine: Engine, definition: Routine, by: str | None) -> None:
    await obey(engine, "put", by, routine=definition.name, definition=definition.model_dump(mode="json"))


async def give(engine: Engine, order: RoutineOrder, order_id: str | None = None) -> str | None:
    """Give an order as any Temporal client does; the code of the error, when it is not obeyed."""
    try:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            await engine.env.client.execute_workflow(
                ROUTINE_ORDER_WORKFLOW,
                order.model_dump(mode="json", exclude_none=True),
                id=order_id or new_order_id(),
                task_queue=ENGINE_QUEUE,
            )
    except WorkflowFailureError as error:
        return error.cause.type if isinstance(error.cause, ApplicationError) else repr(error.cause)
    return None


async def ended(engine: Engine, *ticks: str) -> None:
    async with asyncio.timeout(PATIENCE.total_seconds()):
        for tick in ticks:
            await engine.client.temporal.get_workflow_handle(tick).result()


async def trail(engine: Engine, kind: str) -> list[AuditRecord]:
    return [entry for entry in await AuditTrail(engine.ledger).entries(limit=1_000) if entry.kind == kind]


def ordering(name: str, action: str = "put", **more: Any) -> RoutineOrder:
    values: dict[str, Any] = {"action": action, "routine": name, "by": "ana"}
    if action == "put":
        values["definition"] = {"agent": "clerk", "input": "Pay."} | PREAPPROVED
    return RoutineOrder.model_validate(values | more)


# ---- proof


async def test_orders_without_proof_are_not_obeyed_and_the_attempts_are_in_the_audit_trail(
    proving: Engine, archive: Archive
) -> None:
    engine, deployed, name = proving, routine(triggers={"t": {"every": "1h"}}), routine().name
    await Routines(engine.ledger).put(deployed, by="ana", at=datetime.now(UTC))
    before = await Routines(engine.ledger).get(deployed.name)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    forged = [
        ordering(name),
        ordering(deployed.name),
        *(ordering(deployed.name, action) for action in ("run", "pause", "resume", "delete")),
        ordering(deployed.name, "run", input="Pay 7 to me."),
        ordering(deployed.name, "backfill", start=yesterday, end=yesterday + timedelta(hours=2)),
    ]

    told = await asyncio.gather(*(give(engine, order) for order in forged))

    assert set(told) == {"proof_invalid"}
    assert await Routines(engine.ledger).list() == [before]
    assert await Ticks(engine.ledger).list() == []
    assert await Grants(engine.ledger).list(everything=True, at=datetime.now(UTC)) == []
    refused = await trail(engine, "routine.refused")
    assert sorted((e.subject, e.data["action"]) for e in refused) == sorted((o.routine, o.action) for o in forged)
    assert {(e.data["by"], e.data["code"]) for e in refused} == {("ana", "proof_invalid")}


async def test_a_client_with_a_key_is_obeyed_and_the_key_is_on_record(
    proving: Engine, anas: Signer, archive: Archive
) -> None:
    engine, definition = proving, routine(**PREAPPROVED)

    await engine.client.put_routine(definition, by="ana")
    ordered = await engine.client.run_routine(definition.name, by="ana", key="now")
    await ended(engine, *ordered.ticks)
    await engine.client.pause_routine(definition.name, note="holidays", by="ana")
    await engine.client.resume_routine(definition.name, by="ana")
    await engine.client.delete_routine(definition.name, by="ana")

    assert archive.paid == [7]
    proved = await trail(engine, "routine.ordered")
    assert [entry.data["action"] for entry in proved] == ["put", "run", "pause", "resume", "delete"]
    assert {(entry.data["by"], entry.data["key"]) for entry in proved} == {("ana", anas.id)}


async def test_a_client_without_a_key_for_the_name_is_told_so(proving: Engine, anas: Signer) -> None:
    for by in ("eve", None):
        with pytest.raises(ProofInvalid, match="no proof"):
            await proving.client.put_routine(routine(), by=by)


CHANGES: dict[str, dict[str, Any]] = {
    "definition": {"definition": {"agent": "clerk", "input": "Pay eve."} | PREAPPROVED},
    "name": {"routine": "another"},
    "tenant": {"tenant": "acme"},
    "person": {"by": "eve"},
    "action": {"action": "delete"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_proof_is_of_everything_that_the_order_says(
    proving: Engine, anas: Signer, change: dict[str, Any]
) -> None:
    order_id = new_order_id()
    signed = anas.sign(order_id, ordering(routine().name))

    assert await give(proving, signed.model_copy(update=change), order_id) == "proof_invalid"
    assert await Routines(proving.ledger).list() == []


@pytest.mark.parametrize("change", [{"input": "Pay eve."}, {"key": "again"}], ids=["input", "key"])
async def test_a_proof_to_run_a_routine_is_of_its_input_and_key(
    proving: Engine, anas: Signer, change: dict[str, Any]
) -> None:
    order_id, definition = new_order_id(), routine()
    await Routines(proving.ledger).put(definition, by="ana", at=datetime.now(UTC))
    signed = anas.sign(order_id, ordering(definition.name, "run", input="Pay ben.", key="once"))

    assert await give(proving, signed.model_copy(update=change), order_id) == "proof_invalid"
    assert await Ticks(proving.ledger).list() == []


async def test_a_proof_is_good_for_one_order(proving: Engine, anas: Signer) -> None:
    """Whoever reads it in Temporal's history, and gives it again, undoes nothing that came after."""
    name, order_id = routine().name, new_order_id()
    signed = anas.sign(order_id, ordering(name))

    first = await give(proving, signed, order_id)
    await Routines(proving.ledger).delete(name, by="ana", at=datetime.now(UTC))
    again = await give(proving, signed, order_id)
    elsewhere = await give(proving, signed)

    assert (first, again, elsewhere) == (None, "proof_invalid", "proof_invalid")
    assert await Routines(proving.ledger).list() == []
    refused = await trail(proving, "routine.refused")
    assert ["used by another order" in entry.data["reason"] for entry in refused] == [True, False]


async def test_an_event_needs_no_proof_and_a_wrong_one_does_not_count(proving: Engine, anas: Signer) -> None:
    definition = routine(triggers={"opened": {"event": "opened"}}, unattended="deny")
    await Routines(proving.ledger).put(definition, by="ana", at=datetime.now(UTC))
    event = RoutineOrder(action="fire", event="opened", by="crm", key=definition.name)

    plain = await give(proving, event)
    wrong = await give(proving, anas.sign("order_other", event.model_copy(update={"by": "ana"})))

    assert (plain, wrong) == (None, "proof_invalid")
    await ended(proving, f"routine.{definition.name}.{definition.name}")


async def test_a_tick_that_somebody_forged_with_its_own_input_is_preapproved_nothing(
    proving: Engine, anas: Signer, archive: Archive
) -> None:
    definition = routine(**PREAPPROVED)
    await proving.client.put_routine(definition, by="ana")
    request = TickRequest(routine=definition.name, source="manual", input="Pay eve.", by="ana")

    forged = f"routine.{definition.name}.forged"
    await proving.env.client.start_workflow(TICK_WORKFLOW, request, id=forged, task_queue=ENGINE_QUEUE)
    await ended(proving, forged)

    assert (await Ticks(proving.ledger).get(forged)).status == "completed"
    assert archive.paid == []


# ---- in whose name


def asking_ana() -> Agent:
    return clerk(approvals=(ApprovalRule(tools=("pay",), approvers=("ana",)),))


async def test_what_ana_puts_is_released_in_her_name(unhurried: Engine, archive: Archive) -> None:
    definition = routine(**PREAPPROVED)
    ticking = await Ticking.of(unhurried, definition, asking_ana(), PAY, says())
    await put(unhurried, definition, "ana")

    await ticking.tick()

    assert archive.paid == [7]


@pytest.mark.parametrize("action", ["pause", "run"])
async def test_whoever_touches_a_routine_releases_nothing(unhurried: Engine, archive: Archive, action: str) -> None:
    definition = routine(**PREAPPROVED)
    ticking = await Ticking.of(unhurried, definition, asking_ana(), PAY, says())
    grants = Grants(unhurried.ledger)
    await grants.sync_routine(definition, {"pay": "of the schema before"}, by="ana", at=datetime.now(UTC))

    started = await obey(unhurried, action, "ana", routine=definition.name)
    await ended(unhurried, *started)
    await obey(unhurried, "resume", "ana", routine=definition.name)
    await ticking.tick()

    assert archive.paid == []


async def test_a_definition_cannot_name_who_releases(unhurried: Engine, archive: Archive) -> None:
    definition = routine(**PREAPPROVED, requested_by="ana")
    ticking = await Ticking.of(unhurried, definition, asking_ana(), PAY, says())
    await put(unhurried, definition, None)

    await ticking.tick()

    assert archive.paid == []


async def test_what_nobody_put_counts_where_anybody_may_approve(unhurried: Engine, archive: Archive) -> None:
    definition = routine(**PREAPPROVED)
    ticking = await Ticking.of(unhurried, definition, clerk(), PAY, says())
    await put(unhurried, definition, None)

    await ticking.tick()

    assert archive.paid == [7]


async def test_whoever_changes_a_definition_does_not_keep_what_another_released(
    unhurried: Engine, archive: Archive
) -> None:
    definition = routine(**PREAPPROVED)
    ticking = await Ticking.of(unhurried, definition, asking_ana(), PAY, says())
    await put(unhurried, definition, "ana")
    await put(unhurried, definition.model_copy(update={"input": "Pay eve."}), "eve")

    await ticking.tick()

    assert archive.paid == []


async def test_a_definition_whose_grants_were_not_made_yet_has_none_of_the_one_before(
    unhurried: Engine, archive: Archive
) -> None:
    definition = routine(**PREAPPROVED)
    ticking = await Ticking.of(unhurried, definition, asking_ana(), PAY, says())
    await put(unhurried, definition, "ana")
    changed = definition.model_copy(update={"input": "Pay eve."})
    await Routines(unhurried.ledger).put(changed, by="eve", at=datetime.now(UTC))  # and the worker dies here

    await ticking.tick()

    assert archive.paid == []


# ---- four eyes


FOUR_EYES = ApprovalRule(tools=("pay",), four_eyes=True)


async def approve(engine: Engine, by: str) -> None:
    [approval] = await engine.client.approvals()
    await engine.client.decide(
        approval.run_id, Decision(approval=approval.id, digest=approval.digest, by=by, verdict="approve")
    )


@pytest.mark.parametrize("action", ["run", "fire", "backfill"])
async def test_whoever_asked_for_a_tick_does_not_approve_under_four_eyes(
    unhurried: Engine, archive: Archive, action: str
) -> None:
    engine = unhurried
    definition = routine(triggers={"hours": {"every": "1h"}, "opened": {"event": "opened"}})
    ticking = await Ticking.of(engine, definition, clerk(approvals=(FOUR_EYES,)), PAY, says())
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    asked: dict[str, dict[str, Any]] = {
        "run": {"routine": definition.name, "key": "k", "input": "Pay 7 to me."},
        "fire": {"event": "opened", "key": "k"},
        "backfill": {"routine": definition.name, "start": hour, "end": hour},
    }

    (tick,) = await obey(engine, action, "ana", **asked[action])
    handle = engine.client.temporal.get_workflow_handle(tick)
    await ticking.until(handle, lambda tick: tick.status == "parked")
    with pytest.raises(NotAnApprover):
        await approve(engine, "ana")
    paid_by_ana = list(archive.paid)
    await approve(engine, "ben")
    await ended(engine, tick)

    assert (paid_by_ana, archive.paid) == ([], [7])


async def test_whoever_asked_for_a_tick_is_kept_out_of_its_later_attempts(unhurried: Engine, archive: Archive) -> None:
    engine = unhurried
    archive.broken_at = 1
    definition = routine(on_failure="retry", retry={"attempts": 2, "first": "50ms"})
    lines = (asks(call("file", number=1)), PAY, says())
    ticking = await Ticking.of(engine, definition, clerk(approvals=(FOUR_EYES,)), *lines)

    (tick,) = await obey(engine, "run", "ana", routine=definition.name, key="k")
    handle = engine.client.temporal.get_workflow_handle(tick)
    await ticking.until(handle, lambda tick: tick.next_try_at is not None or tick.attempts == 2)
    archive.broken_at = None
    parked = await ticking.until(handle, lambda tick: tick.status == "parked")
    with pytest.raises(NotAnApprover):
        await approve(engine, "ana")
    await handle.cancel()

    assert (parked.attempts, archive.paid) == (2, [])


# ---- which tick it is


async def test_a_key_cannot_take_the_tick_of_another_routine(unhurried: Engine) -> None:
    engine, mine = unhurried, routine(tenant="acme")
    longer = routine(name=f"{mine.name}-reports", tenant="other")
    ticking = await Ticking.of(engine, longer, clerk(), says())
    await Routines(engine.ledger).put(mine, by="eve", at=datetime.now(UTC))
    due = datetime.now(UTC).replace(microsecond=0)
    key = f"reports-{due:%Y-%m-%dT%H:%M:%SZ}"

    taken = await obey(engine, "run", "eve", routine=mine.name, tenant="acme", key=key)
    await ended(engine, *taken)
    fired = await ticking.tick(at=due)

    assert fired.tick not in taken
    assert (fired.status, fired.reason, fired.attempts) == ("completed", None, 1)


async def test_a_tick_that_came_too_late_can_be_made_up_for(unhurried: Engine) -> None:
    engine = unhurried
    definition = routine(catch_up="10m", triggers={"t": {"every": "1h"}})
    ticking = await Ticking.of(engine, definition, clerk(), says())
    due = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    late = await ticking.tick(at=due)  # the server was up, and the worker was not

    span = {"routine": definition.name, "start": due, "end": due + timedelta(minutes=1)}
    made_up = await obey(engine, "backfill", "ana", **span)
    await ended(engine, *made_up)
    again = await obey(engine, "backfill", "ana", **span)

    assert (late.status, late.reason) == ("skipped", "too_late")
    assert made_up == (late.tick,)
    assert (await ticking.ticks.get(late.tick)).status == "completed"
    assert again == ()


async def test_a_backfill_runs_its_ticks_in_the_order_of_their_times_and_each_once(unhurried: Engine) -> None:
    engine = unhurried
    definition = routine(
        triggers={"t": {"every": "1h"}}, conversation="continue", input="After {{ previous.scheduled_at }}."
    )
    ticking = await Ticking.of(engine, definition, clerk(), says())
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=20)
    fires = [hour + timedelta(hours=number) for number in range(12)]
    there = await ticking.tick(at=fires[4], source="backfill")

    ordered = await engine.client.backfill_routine(definition.name, fires[0], fires[-1])
    again = await engine.client.backfill_routine(definition.name, fires[0], fires[-1])
    await ended(engine, *ordered.ticks)

    missing = [fire for fire in fires if fire != fires[4]]
    assert list(ordered.ticks) == [tick_id(definition.name, fire) for fire in missing]
    assert there.tick not in ordered.ticks
    assert again.ticks == ()
    made = [await ticking.ticks.get(tick) for tick in ordered.ticks]
    before = [fires[4], *missing[:-1]]
    assert [tick.input for tick in made] == [f"After {fire:%Y-%m-%dT%H:%M:%SZ}." for fire in before]
    assert {tick.source for tick in made} == {"backfill"}


async def test_no_routine_by_a_name_ends_with_a_full_stop(unhurried: Engine) -> None:
    with pytest.raises(HorariumError) as told:
        await Routines(unhurried.ledger).get("never-there")
    assert told.value.message == "There is no routine 'never-there'."
