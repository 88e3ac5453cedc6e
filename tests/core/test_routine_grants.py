"""What a routine preapproves is granted for as long as its definition says so, on both databases."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from horarium.ids import new_run_id
from horarium.ledger.database import Ledger
from horarium.ledger.grants import Grants
from horarium.ledger.routines import Routines
from horarium.routines import Routine
from tests.core.ledgers import NOON

DIGESTS = {"pay": "sha256:pay", "ship": "sha256:ship"}


def a_routine(name: str, *tools: dict[str, Any], **more: Any) -> Routine:
    fields = {"name": name, "agent": "clerk", "input": "Go.", "preapproved": list(tools)}
    return Routine.model_validate(fields | more)


def a_name() -> str:
    return new_run_id().replace("run_", "r")


async def held(ledger: Ledger, name: str) -> list[tuple[str, bool]]:
    """Tool, and whether it holds."""
    found = (await Grants(ledger).of_routines()).get(name, [])
    return sorted((grant.tool, grant.revoked_at is None) for grant in found)


async def test_grants_follow_the_definition_and_a_repeat_changes_nothing(ledger: Ledger) -> None:
    name, grants = a_name(), Grants(ledger)
    both = a_routine(name, {"tool": "pay", "when": {"amount": {"maximum": 9}}}, {"tool": "ship"}, {"tool": "unknown"})

    first = await grants.sync_routine(both, DIGESTS, by="ana", at=NOON)
    repeated = await grants.sync_routine(both, DIGESTS, by="ana", at=NOON)
    after_both = await held(ledger, name)
    less = await grants.sync_routine(a_routine(name, {"tool": "ship"}), DIGESTS, by="bob", at=NOON)
    after_less = await held(ledger, name)
    again = await grants.sync_routine(both, DIGESTS, by="eve", at=NOON + timedelta(hours=1))

    assert (first, repeated, less, again) == (True, False, True, True)
    assert after_both == [("pay", True), ("ship", True)]
    assert after_less == [("pay", False), ("ship", True)]
    (pay,) = [grant for grant in (await grants.of_routines())[name] if grant.tool == "pay"]
    assert (pay.granted_by, pay.created_at, pay.revoked_by) == ("eve", NOON + timedelta(hours=1), None)


async def test_what_a_person_revoked_stays_so_until_the_definition_says_something_else(ledger: Ledger) -> None:
    name, grants = a_name(), Grants(ledger)
    await grants.sync_routine(a_routine(name, {"tool": "pay"}), DIGESTS, by="ana", at=NOON)
    (grant,) = (await grants.of_routines())[name]
    await grants.revoke(grant.id, "bob", NOON)

    same = await grants.sync_routine(a_routine(name, {"tool": "pay"}), DIGESTS, by="ana", at=NOON)
    other = a_routine(name, {"tool": "pay", "when": {"amount": {"maximum": 9}}})
    changed = await grants.sync_routine(other, DIGESTS, by="ana", at=NOON)

    assert (same, changed) == (False, True)
    assert await held(ledger, name) == [("pay", False), ("pay", True)]


async def test_a_grant_is_of_one_definition_and_of_whoever_put_that_one(ledger: Ledger) -> None:
    name, grants = a_name(), Grants(ledger)
    first, second = (a_routine(name, {"tool": "pay"}, input=text) for text in ("Pay ben.", "Pay eve."))

    async def standing() -> tuple[str | None, bool, bool]:
        (grant,) = (await grants.of_routines())[name]
        return grant.granter, grant.is_of(first), grant.is_of(second)

    await grants.sync_routine(first, DIGESTS, by="ana", at=NOON)
    of_ana = await standing()
    await grants.sync_routine(first, DIGESTS, by="bob", at=NOON)
    repeated = await standing()
    await grants.sync_routine(second, DIGESTS, by="eve", at=NOON)

    assert of_ana == repeated == ("ana", True, False)
    assert await standing() == ("eve", False, True)


async def test_what_nobody_put_is_nobodys_until_somebody_puts_it(ledger: Ledger) -> None:
    routine, grants = a_routine(a_name(), {"tool": "pay"}, requested_by="ana"), Grants(ledger)

    await grants.sync_routine(routine, DIGESTS, by=None, at=NOON)
    (before,) = (await grants.of_routines())[routine.name]
    await grants.sync_routine(routine, DIGESTS, by="bob", at=NOON)
    (after,) = (await grants.of_routines())[routine.name]

    assert (before.granter, after.granter) == (None, "bob")


async def test_who_puts_nothing_grants_nothing_and_ends_what_is_of_another_definition(ledger: Ledger) -> None:
    name, grants = a_name(), Grants(ledger)
    changed = a_routine(name, {"tool": "pay"}, input="Pay eve.")

    none = await grants.sync_routine(changed, DIGESTS, by="ana", at=NOON, grant=False)
    await grants.sync_routine(a_routine(name, {"tool": "pay"}), DIGESTS, by="ana", at=NOON)
    ended = await grants.sync_routine(changed, DIGESTS, by="ana", at=NOON, grant=False)

    assert (none, ended) == (False, True)
    assert await held(ledger, name) == [("pay", False)]


async def test_a_definition_that_is_no_longer_the_routines_grants_nothing(ledger: Ledger) -> None:
    name, grants = a_name(), Grants(ledger)
    await Routines(ledger).put(a_routine(name, {"tool": "ship"}), by="bob", at=NOON)

    assert not await grants.sync_routine(a_routine(name, {"tool": "pay"}), DIGESTS, by="ana", at=NOON)
    assert await held(ledger, name) == []


async def test_two_at_once_make_one_grant(ledger: Ledger) -> None:
    routine = a_routine(a_name(), {"tool": "pay"})

    done = await asyncio.gather(
        *(Grants(ledger).sync_routine(routine, DIGESTS, by=f"p{number}", at=NOON) for number in range(4))
    )

    assert sorted(done) == [False, False, False, True]
    assert await held(ledger, routine.name) == [("pay", True)]


async def test_a_put_by_two_at_once_is_one_change(ledger: Ledger) -> None:
    routine = a_routine(a_name(), triggers={"main": {"every": "1h"}, "event": {"event": "x"}})

    done = await asyncio.gather(
        *(Routines(ledger).put(routine, by="ana", at=NOON, managed_by="files") for _ in range(4))
    )
    row = await Routines(ledger).get(routine.name)

    assert sorted(changed for _, changed in done) == [False, False, False, True]
    assert (row.generation, list(row.schedules), row.managed_by) == (1, ["main"], "files")


async def test_the_triggers_of_the_definition_before_are_remembered_until_temporal_was_told(ledger: Ledger) -> None:
    name, rows = a_name(), Routines(ledger)
    await rows.put(a_routine(name, triggers={"old": {"every": "1h"}}), by="ana", at=NOON)
    row, _ = await rows.put(a_routine(name, triggers={"new": {"every": "1h"}}), by="ana", at=NOON)

    late = await rows.applied(name, row.generation - 1, None, ["old"])
    told = await rows.applied(name, row.generation, None, ["new"])

    assert list(row.schedules) == ["new", "old"]
    assert (late, told) == (False, True)
    assert list((await rows.get(name)).schedules) == ["new"]
