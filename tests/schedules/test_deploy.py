"""Deploying brings Temporal's schedules in line with the ledger, again and again, whatever happens in between."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import (
    Client as TemporalClient,
)
from temporalio.client import (
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from horarium.errors import Unreachable
from horarium.ledger.agents import ToolCatalog
from horarium.ledger.database import Ledger
from horarium.ledger.grants import Grants
from horarium.ledger.routines import Routines
from horarium.routines import Routine
from horarium.tools import Effect, ToolSpec
from schedules.deploy import Deployment
from schedules.differences import Change, Plan, differences

MORNINGS = {"cron": "0 6 * * 1-5", "time_zone": "Europe/London"}
ALL_KINDS = {
    "mornings": MORNINGS,
    "often": {"every": "15m", "offset": "1m"},
    "once": {"at": "2031-12-01T09:00:00Z"},
    "opened": {"event": "github.issue.opened"},
}


def a_routine(name: str = "triage", **more: Any) -> Routine:
    fields = {"name": name, "agent": "clerk", "input": "Triage.", "triggers": {"mornings": MORNINGS}}
    return Routine.model_validate(fields | more)


class Deployed:
    """What a test deploys to, in the words of the command line."""

    def __init__(self, ledger: Ledger, engine_temporal: TemporalClient) -> None:
        self.ledger, self.temporal = ledger, engine_temporal
        self.deployment = Deployment(ledger, engine_temporal)
        self.rows = Routines(ledger)

    async def plan(self, *routines: Routine, prune: bool = False, whole: bool = True) -> Plan:
        wanted = {routine.name: routine for routine in routines}
        return await differences(self.ledger, self.temporal, wanted, whole=whole, prune=prune, now=datetime.now(UTC))

    async def apply(self, *routines: Routine, prune: bool = False) -> Plan:
        plan = await self.plan(*routines, prune=prune)
        outcomes = await self.deployment.apply(plan, by="ana")
        assert [outcome.error for outcome in outcomes if outcome.error] == []
        return plan

    async def schedules(self) -> set[str]:
        return {row.id async for row in await self.temporal.list_schedules()}

    async def change(self, schedule_id: str, **fields: Any) -> None:
        """Change a schedule as somebody would by hand."""

        def updated(now: ScheduleUpdateInput) -> ScheduleUpdate:
            return ScheduleUpdate(schedule=replace(now.description.schedule, **fields))

        await self.temporal.get_schedule_handle(schedule_id).update(updated)

    async def exists(self, schedule_id: str) -> bool:
        try:
            await self.temporal.get_schedule_handle(schedule_id).describe()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            return False
        return True


@pytest.fixture
def deployed(ledger: Ledger, engine_temporal: TemporalClient) -> Deployed:
    return Deployed(ledger, engine_temporal)


def drift_of(plan: Plan) -> list[tuple[str, str]]:
    return [(item.kind, item.subject) for change in plan.changes for item in change.drift]


async def test_what_was_applied_is_as_planned_and_applying_it_again_changes_nothing(deployed: Deployed) -> None:
    routine = a_routine(triggers=ALL_KINDS, jitter="30s", start="2026-01-01T00:00:00Z", end="2040-01-01T00:00:00Z")

    first = await deployed.apply(routine)
    row = await deployed.rows.get("triage")

    assert [change.action for change in first.changes] == ["create"]
    assert (await deployed.plan(routine)).empty
    assert (await deployed.apply(routine)).empty
    assert (await deployed.rows.get("triage")).generation == row.generation == row.applied == 1
    assert list(row.schedules) == ["mornings", "often", "once"]
    assert row.managed_by == "files"


async def test_a_schedule_tells_what_it_is_of_and_what_it_starts(deployed: Deployed) -> None:
    await deployed.apply(a_routine())

    told = await deployed.temporal.get_schedule_handle("routine.triage.mornings").describe()

    assert await told.memo() == {"routine": "triage", "trigger": "mornings"}
    assert {pair.key.name: pair.value for pair in told.typed_search_attributes} == {
        "HorariumRoutine": "triage",
        "HorariumAgent": "clerk",
        "HorariumTenant": "default",
    }
    assert told.schedule.policy == SchedulePolicy(
        overlap=ScheduleOverlapPolicy.ALLOW_ALL, catchup_window=timedelta(hours=1)
    )
    assert told.schedule.state.note is not None
    assert "Europe/London" in told.schedule.state.note


async def test_a_changed_definition_is_told_field_by_field(deployed: Deployed) -> None:
    await deployed.apply(a_routine(on_failure="retry", retry={"first": "1m"}))
    changed = a_routine(
        on_failure="retry",
        retry={"first": "2m"},
        triggers={"mornings": MORNINGS | {"cron": "0 7 * * 1-5"}, "noon": {"cron": "0 12 * * *"}},
    )

    (change,) = (await deployed.plan(changed)).changes

    assert change.action == "update"
    told = {item.field: (item.old, item.new) for item in change.fields}
    assert told["retry.first"] == (timedelta(minutes=1), timedelta(minutes=2))
    assert told["triggers.mornings.cron"] == ("0 6 * * 1-5", "0 7 * * 1-5")
    assert told["triggers.noon"][0] is None
    assert len(told) == 3


async def test_a_trigger_that_is_gone_loses_its_schedule(deployed: Deployed) -> None:
    await deployed.apply(a_routine(triggers=ALL_KINDS))

    await deployed.apply(a_routine(triggers={"evenings": MORNINGS | {"cron": "0 20 * * *"}}))

    assert not await deployed.exists("routine.triage.mornings")
    assert not await deployed.exists("routine.triage.often")
    assert await deployed.exists("routine.triage.evenings")
    assert (await deployed.plan(a_routine(triggers={"evenings": MORNINGS | {"cron": "0 20 * * *"}}))).empty


HANDMADE: dict[str, dict[str, Any]] = {
    "paused": {"state": ScheduleState(paused=True, note="holidays")},
    "note": {"state": ScheduleState(note="mine")},
    "times": {"spec": ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(minutes=5))])},
    "policy": {"policy": SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=timedelta(hours=1))},
}


@pytest.mark.parametrize("kind", HANDMADE)
async def test_a_change_made_by_hand_shows_as_drift_and_is_undone(deployed: Deployed, kind: str) -> None:
    await deployed.apply(a_routine())
    await deployed.change("routine.triage.mornings", **HANDMADE[kind])

    shown = await deployed.plan(a_routine())
    await deployed.apply(a_routine())

    assert drift_of(shown) == [(kind, "routine.triage.mornings")]
    assert not shown.empty
    assert (await deployed.plan(a_routine())).empty


async def test_an_action_that_was_changed_shows_as_drift(deployed: Deployed) -> None:
    await deployed.apply(a_routine())
    told = await deployed.temporal.get_schedule_handle("routine.triage.mornings").describe()
    action: Any = told.schedule.action
    action.task_queue, action.args = "elsewhere", ["something"]
    await deployed.change("routine.triage.mornings", action=action)

    shown = await deployed.plan(a_routine())
    await deployed.apply(a_routine())

    assert drift_of(shown) == [("action", "routine.triage.mornings")]
    assert "queue, arguments" in shown.changes[0].drift[0].message
    assert (await deployed.plan(a_routine())).empty


async def test_a_schedule_that_was_deleted_by_hand_is_made_again(deployed: Deployed) -> None:
    await deployed.apply(a_routine())
    await deployed.temporal.get_schedule_handle("routine.triage.mornings").delete()

    shown = await deployed.plan(a_routine())
    await deployed.apply(a_routine())

    assert drift_of(shown) == [("missing", "routine.triage.mornings")]
    assert await deployed.exists("routine.triage.mornings")


async def test_a_schedule_that_was_put_there_by_hand_goes_away(deployed: Deployed) -> None:
    await deployed.apply(a_routine())
    told = await deployed.temporal.get_schedule_handle("routine.triage.mornings").describe()
    await deployed.temporal.create_schedule("routine.triage.mine", told.schedule)
    async with asyncio.timeout(10):
        while "routine.triage.mine" not in await deployed.schedules():
            await asyncio.sleep(0.02)

    shown = await deployed.plan(a_routine())
    await deployed.apply(a_routine())

    assert ("extra", "routine.triage.mine") in drift_of(shown)
    assert not await deployed.exists("routine.triage.mine")
    assert await deployed.exists("routine.triage.mornings")


async def test_a_pause_in_the_ledger_is_no_drift_and_survives_an_apply(deployed: Deployed) -> None:
    await deployed.apply(a_routine())
    await deployed.rows.pause("triage", note="holidays", until=None, by="bob", at=datetime.now(UTC))
    await deployed.deployment.converge("triage")

    assert (await deployed.plan(a_routine())).empty
    await deployed.apply(a_routine(input="Triage well."))
    told = await deployed.temporal.get_schedule_handle("routine.triage.mornings").describe()

    assert told.schedule.state.paused
    assert told.schedule.state.note == "holidays (by bob)"


async def test_what_died_between_the_row_and_its_schedules_is_finished_by_the_next_apply(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deployed.apply(a_routine())
    changed = a_routine(triggers={"mornings": MORNINGS | {"cron": "0 9 * * *"}, "noon": {"cron": "0 12 * * *"}})

    async def dies(*_: object, **__: object) -> None:
        raise Unreachable("The machine went away.")

    with monkeypatch.context() as broken:
        broken.setattr(Deployment, "_schedules", dies)
        (outcome,) = await deployed.deployment.apply(await deployed.plan(changed), by="ana")
    row = await deployed.rows.get("triage")
    half = await deployed.plan(changed)
    await deployed.apply(changed)

    assert isinstance(outcome.error, Unreachable)
    assert (row.generation, row.applied) == (2, 1)
    assert {kind for kind, _ in drift_of(half)} >= {"missing", "times"}
    assert (await deployed.plan(changed)).empty


async def test_two_who_apply_the_same_files_at_once_both_succeed(deployed: Deployed) -> None:
    routines = [a_routine(f"r{number}") for number in range(5)]

    await asyncio.gather(deployed.apply(*routines), deployed.apply(*routines))

    assert (await deployed.plan(*routines)).empty
    assert [row.generation for row in await deployed.rows.list()] == [1] * 5


async def test_two_who_change_a_routine_at_once_end_with_the_schedules_of_the_row_that_was_written_last(
    deployed: Deployed,
) -> None:
    await deployed.apply(a_routine())
    hours = range(1, 9)

    await asyncio.gather(
        *(
            deployed.deployment.put(a_routine(triggers={f"at-{hour}": {"cron": f"0 {hour} * * *"}}), by=f"p{hour}")
            for hour in hours
        )
    )
    row = await deployed.rows.get("triage")

    assert row.applied == row.generation == 1 + len(hours)
    assert drift_of(await deployed.plan(whole=True)) == []
    there = [hour for hour in hours if await deployed.exists(f"routine.triage.at-{hour}")]
    assert [f"at-{hour}" for hour in there] == row.routine.timed


async def test_a_slow_apply_does_not_leave_the_schedules_of_an_older_row(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deployed.apply(a_routine())
    slow, fast = Deployment(deployed.ledger, deployed.temporal), deployed.deployment
    made, go_on = asyncio.Event(), asyncio.Event()
    schedules = slow._schedules

    async def late(*arguments: Any, **options: Any) -> Any:
        if not made.is_set():
            made.set()
            await go_on.wait()
        return await schedules(*arguments, **options)

    monkeypatch.setattr(slow, "_schedules", late)
    older = asyncio.create_task(slow.put(a_routine(triggers={"mornings": {"cron": "0 1 * * *"}}), by="slow"))
    await asyncio.wait_for(made.wait(), 10)
    await fast.put(a_routine(triggers={"mornings": {"cron": "0 2 * * *"}}), by="fast")
    go_on.set()
    await asyncio.wait_for(older, 10)

    assert (await deployed.plan(whole=True)).changes[0].drift == ()
    told = await deployed.temporal.get_schedule_handle("routine.triage.mornings").describe()
    assert told.schedule.spec.calendars[0].hour[0].start == 2


async def test_only_what_came_from_files_is_pruned(deployed: Deployed) -> None:
    await deployed.apply(a_routine("first"), a_routine("second"))
    await deployed.deployment.put(a_routine("of-a-service"), by="crm")

    kept = await deployed.plan(a_routine("first"))
    pruned = await deployed.apply(a_routine("first"), prune=True)

    assert kept.kept == ("second",)
    assert kept.empty
    assert [(change.routine, change.action) for change in pruned.changes if not change.empty] == [("second", "delete")]
    assert not await deployed.exists("routine.second.mornings")
    assert await deployed.exists("routine.of-a-service.mornings")
    assert [row.name for row in await deployed.rows.list()] == ["first", "of-a-service"]


async def test_a_schedule_of_a_routine_that_the_ledger_never_had_goes_only_with_a_prune(deployed: Deployed) -> None:
    await deployed.apply(a_routine())
    told = await deployed.temporal.get_schedule_handle("routine.triage.mornings").describe()
    await deployed.temporal.create_schedule("routine.unknown.main", told.schedule)
    async with asyncio.timeout(10):
        while "routine.unknown.main" not in await deployed.schedules():
            await asyncio.sleep(0.02)

    shown = await deployed.plan(a_routine())
    await deployed.apply(a_routine())
    left_alone = await deployed.exists("routine.unknown.main")
    await deployed.apply(a_routine(), prune=True)

    assert shown.strangers == ("routine.unknown.main",)
    assert shown.empty
    assert left_alone
    assert not await deployed.exists("routine.unknown.main")


async def test_a_ledger_that_began_anew_takes_the_schedules_over(deployed: Deployed, tmp_path: Any) -> None:
    for text in ("one", "two", "three"):
        await deployed.apply(a_routine(input=text))
    from horarium.settings import Settings

    (tmp_path / "anew").mkdir()
    other = await Ledger.open(Settings(root=tmp_path / "anew"))
    try:
        anew = Deployed(other, deployed.temporal)
        await anew.apply(a_routine(input="four"))

        assert (await anew.plan(a_routine(input="four"))).empty
    finally:
        await other.close()


async def test_a_deleted_routine_begins_anew_when_its_file_comes_back(deployed: Deployed) -> None:
    await deployed.apply(a_routine())
    await deployed.apply(prune=True)

    plan = await deployed.apply(a_routine())

    assert [change.action for change in plan.changes] == ["create"]
    assert (await deployed.plan(a_routine())).empty


async def test_a_preapproved_tool_becomes_a_grant_for_as_long_as_the_definition_has_it(
    deployed: Deployed, ledger: Ledger
) -> None:
    await ToolCatalog(ledger).announce([a_tool("amount")])
    grants = Grants(ledger)
    bounded = a_routine(preapproved=[{"tool": "pay", "when": {"amount": {"maximum": 10}}}])
    call: dict[str, Any] = {
        "tenant": "default",
        "agent": "clerk",
        "run": "run_1",
        "thread": "thr_1",
        "tool": "pay",
        "schema_digest": a_tool("amount").schema_digest,
        "routine": "triage",
    }

    await deployed.apply(bounded)
    standing = await grants.standing(**call, arguments={"amount": 5}, at=datetime.now(UTC))
    too_much = await grants.standing(**call, arguments={"amount": 11}, at=datetime.now(UTC))
    of_another = await grants.standing(**(call | {"routine": "other"}), arguments={"amount": 5}, at=datetime.now(UTC))
    await deployed.apply(a_routine())
    after = await grants.standing(**call, arguments={"amount": 5}, at=datetime.now(UTC))
    await deployed.apply(bounded)
    again = await grants.standing(**call, arguments={"amount": 5}, at=datetime.now(UTC))

    assert standing is not None
    assert (standing.scope, standing.scope_id, standing.granted_by) == ("routine", "triage", "ana")
    assert (too_much, of_another, after) == (None, None, None)
    assert again is not None
    assert again.id == standing.id


async def test_a_grant_that_a_person_revoked_stays_revoked_and_is_told(deployed: Deployed, ledger: Ledger) -> None:
    await ToolCatalog(ledger).announce([a_tool("amount")])
    routine = a_routine(preapproved=[{"tool": "pay"}])
    await deployed.apply(routine)
    (grant,) = await Grants(ledger).list(at=datetime.now(UTC))
    await Grants(ledger).revoke(grant.id, "bob", datetime.now(UTC))

    plan = await deployed.apply(routine)

    assert plan.empty
    assert [(item.tool, item.revoked_by) for item in plan.revoked] == [("pay", "bob")]
    assert await Grants(ledger).list(at=datetime.now(UTC)) == []


async def test_a_tool_whose_arguments_changed_is_granted_anew_by_the_next_apply(
    deployed: Deployed, ledger: Ledger
) -> None:
    await ToolCatalog(ledger).announce([a_tool("amount")])
    routine = a_routine(preapproved=[{"tool": "pay"}])
    await deployed.apply(routine)
    await ToolCatalog(ledger).announce([a_tool("euros")])

    shown = await deployed.plan(routine)
    await deployed.apply(routine)

    assert {item for item in drift_of(shown)} == {("grants", "pay")}
    (grant,) = await Grants(ledger).list(at=datetime.now(UTC))
    assert grant.schema_digest == a_tool("euros").schema_digest
    assert (await deployed.plan(routine)).empty


async def test_a_tool_whose_arguments_changed_is_granted_by_nobody_who_only_touches_the_routine(
    deployed: Deployed, ledger: Ledger
) -> None:
    await ToolCatalog(ledger).announce([a_tool("amount")])
    routine = a_routine(preapproved=[{"tool": "pay"}])
    await deployed.apply(routine)
    await ToolCatalog(ledger).announce([a_tool("euros")])

    await deployed.deployment.converge("triage", by="ana")

    assert await Grants(ledger).list(at=datetime.now(UTC)) == []
    assert drift_of(await deployed.plan(routine)) == [("grants", "pay")]


async def test_a_definition_whose_grants_were_not_made_shows_as_drift_after_the_watch_set_its_schedules_right(
    deployed: Deployed, ledger: Ledger
) -> None:
    await ToolCatalog(ledger).announce([a_tool("amount")])
    await deployed.apply(a_routine(preapproved=[{"tool": "pay"}]))
    changed = a_routine(preapproved=[{"tool": "pay"}], input="Triage well.")
    await deployed.rows.put(changed, by="eve", at=datetime.now(UTC), managed_by="files")  # and the process dies here
    await deployed.deployment.converge("triage")

    shown = await deployed.plan(changed)
    await deployed.apply(changed)

    assert drift_of(shown) == [("grants", "pay")]
    (grant,) = await Grants(ledger).list(at=datetime.now(UTC))
    assert (grant.granter, grant.is_of(changed)) == ("ana", True)


async def test_two_hundred_routines_are_applied_and_planned(deployed: Deployed) -> None:
    many = [
        a_routine(f"r{number}", triggers={"main": MORNINGS | {"cron": f"{number % 60} {number % 24} * * *"}})
        for number in range(200)
    ]

    await asyncio.wait_for(deployed.apply(*many), 60)
    plan = await asyncio.wait_for(deployed.plan(*many), 60)

    assert plan.empty
    assert plan.count("unchanged") == 200


def a_tool(argument: str) -> ToolSpec:
    parameters = {"type": "object", "properties": {argument: {"type": "integer"}}, "required": [argument]}
    return ToolSpec(name="pay", parameters=parameters, effect=Effect.EXTERNAL)


def test_nothing_to_do_is_an_empty_change() -> None:
    assert Change("triage", "unchanged").empty
    assert not Change("triage", "create").empty
