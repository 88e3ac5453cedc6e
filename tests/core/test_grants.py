"""A standing grant releases what it says, for as long as it says, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from horarium.contract import Decision
from horarium.errors import ApprovalNotFound, NotApproved
from horarium.ids import approval_id, new_run_id, step_id
from horarium.ledger.audit import AuditTrail
from horarium.ledger.database import Ledger
from horarium.ledger.grants import Granting, Grants, record_grant
from horarium.ledger.journal import ApprovalRecorded, Journal
from horarium.protocol import ApprovalRequest, Ballot, Call
from horarium.tools import Effect
from tests.core.ledgers import NOON, ask, held, open_run, step

HOUR = timedelta(hours=1)
ASKED = Call(id="call_3", tool="pay", digest="sha256:asked", key="key", source="run_1/0001", effect=Effect.EXTERNAL)
GIVEN: dict[str, Any] = {
    "agent": "clerk",
    "scope": "thread",
    "scope_id": "thr_1",
    "tool": "pay",
    "schema_digest": "sha256:schema",
    "bounds": {"amount": {"maximum": 100}},
    "by": "ana",
    "comment": "until Friday",
    "at": NOON,
    "ends_at": NOON + HOUR,
}
CALL: dict[str, Any] = {
    "agent": "clerk",
    "run": "run_1",
    "thread": "thr_1",
    "tool": "pay",
    "schema_digest": "sha256:schema",
    "arguments": {"amount": 70, "to": "bob"},
    "at": NOON + HOUR / 2,
}


@pytest.fixture
def given() -> dict[str, Any]:
    """Of a tenant and an approval of the test's own: the ledger is shared."""
    return GIVEN | {"tenant": new_run_id(), "granted_in": new_run_id()}


@pytest.fixture
def call(given: dict[str, Any]) -> dict[str, Any]:
    return CALL | {"tenant": given["tenant"]}


async def make(ledger: Ledger, **said: Any) -> str:
    async with ledger.write() as connection:
        return await record_grant(connection, Granting(**said))


async def test_a_grant_releases_the_calls_within_it(
    ledger: Ledger, given: dict[str, Any], call: dict[str, Any]
) -> None:
    made = await make(ledger, **given)

    standing = await Grants(ledger).standing(**call)

    assert standing is not None
    assert (standing.id, standing.granted_by, standing.granted_in) == (made, "ana", given["granted_in"])


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "other"},
        {"agent": "other"},
        {"thread": "thr_2"},
        {"tool": "pay_all"},
        {"schema_digest": "sha256:changed"},
        {"arguments": {"amount": 101}},
        {"arguments": {"amount": "70"}},
        {"arguments": {}},
        {"at": NOON + HOUR},
        {"at": NOON - HOUR},
    ],
    ids=str,
)
async def test_a_call_that_differs_in_anything_is_not_released(
    ledger: Ledger, given: dict[str, Any], call: dict[str, Any], other: dict[str, Any]
) -> None:
    await make(ledger, **given)

    assert await Grants(ledger).standing(**call | other) is None


@pytest.mark.parametrize(("scope", "own"), [("run", "run_1"), ("thread", "thr_1"), ("agent", "clerk")])
async def test_a_grant_holds_in_its_scope_alone(
    ledger: Ledger, given: dict[str, Any], call: dict[str, Any], scope: str, own: str
) -> None:
    await make(ledger, **given | {"scope": scope, "scope_id": own})

    assert await Grants(ledger).standing(**call) is not None
    other = {"run": "run_2"} if scope == "run" else {"thread": "thr_2"} if scope == "thread" else {"agent": "helper"}
    assert await Grants(ledger).standing(**call | other) is None


async def test_an_id_of_another_kind_does_not_make_a_scope(
    ledger: Ledger, given: dict[str, Any], call: dict[str, Any]
) -> None:
    await make(ledger, **given | {"scope": "run", "scope_id": "clerk"})

    assert await Grants(ledger).standing(**call) is None


async def test_a_revoked_grant_releases_nothing_and_the_first_revocation_stands(
    ledger: Ledger, given: dict[str, Any], call: dict[str, Any]
) -> None:
    grants = Grants(ledger)
    made = await make(ledger, **given)

    revoked = await grants.revoke(made, "ben", NOON + HOUR / 4)
    again = await grants.revoke(made, "eva", NOON + HOUR / 3)

    assert await grants.standing(**call) is None
    assert (revoked.revoked_by, again.revoked_by) == ("ben", "ben")


async def test_one_approval_makes_one_grant_however_often_it_is_repeated(ledger: Ledger, given: dict[str, Any]) -> None:
    grants = Grants(ledger)
    first = await make(ledger, **given)

    assert await make(ledger, **given | {"bounds": {}}) == first
    (kept,) = await grants.list(at=NOON, tenant=given["tenant"])
    assert kept.bounds == given["bounds"]


async def test_the_list_has_what_holds_and_everything_when_asked(ledger: Ledger, given: dict[str, Any]) -> None:
    grants = Grants(ledger)
    holds = await make(ledger, **given)
    ended = await make(ledger, **given | {"granted_in": new_run_id(), "ends_at": NOON + timedelta(minutes=1)})
    revoked = await make(ledger, **given | {"granted_in": new_run_id()})
    await grants.revoke(revoked, "ben", NOON)
    at, tenant = NOON + HOUR / 2, given["tenant"]

    assert [grant.id for grant in await grants.list(at=at, tenant=tenant)] == [holds]
    assert {grant.id for grant in await grants.list(at=at, tenant=tenant, everything=True)} == {holds, ended, revoked}
    assert await grants.list(at=at, tenant="other") == []


async def test_a_grant_that_is_not_there_cannot_be_revoked(ledger: Ledger) -> None:
    with pytest.raises(ApprovalNotFound, match="gra_none"):
        await Grants(ledger).revoke("gra_none", "ben", NOON)


async def test_a_grant_of_another_tenant_cannot_be_revoked(ledger: Ledger, given: dict[str, Any]) -> None:
    grants = Grants(ledger)
    made = await make(ledger, **given)

    with pytest.raises(ApprovalNotFound, match=made):
        await grants.revoke(made, "mallory", NOON, tenant="other")
    assert [(grant.id, grant.revoked_by) for grant in await grants.list(at=NOON, tenant=given["tenant"])] == [
        (made, None)
    ]
    assert (await grants.revoke(made, "ben", NOON, tenant=given["tenant"])).revoked_by == "ben"


async def test_a_grant_is_there_exactly_when_the_approval_it_came_with_is_recorded(
    ledger: Ledger, given: dict[str, Any]
) -> None:
    run = await open_run(ledger, tenant=given["tenant"])
    request = ApprovalRequest(id=approval_id(step_id(run, 3)), number=2, guards=3, call=ASKED)
    await ask(ledger, run, request, "{}")
    said = Decision(approval=request.id, digest=ASKED.digest, by="ana", verdict="approve")
    granting = Granting(**given | {"granted_in": request.id})
    recorded = ApprovalRecorded(
        request.id, ASKED.digest, 2, (Ballot(decision=said, at=NOON, via="update"),), grant=granting
    )
    claim = step(run, 3, Effect.EXTERNAL)
    refused = replace(
        recorded, ballots=(Ballot(decision=said.model_copy(update={"approval": "apr_other"}), at=NOON, via="update"),)
    )

    with pytest.raises(NotApproved):
        await Journal(ledger).claim(claim, approval=refused)
    assert await Grants(ledger).list(at=NOON, tenant=given["tenant"]) == []
    await held(Journal(ledger), claim, approval=recorded)  # and whoever claimed it is killed here

    (kept,) = await Grants(ledger).list(at=NOON, tenant=given["tenant"])
    assert (kept.granted_by, kept.granted_in) == ("ana", request.id)


async def test_making_and_revoking_are_in_the_audit_trail(ledger: Ledger, given: dict[str, Any]) -> None:
    grants = Grants(ledger)
    made = await make(ledger, **given)
    await make(ledger, **given)
    await grants.revoke(made, "ben", NOON)

    entries = [json.loads(line) async for line in AuditTrail(ledger).export()]

    about = [entry for entry in entries if entry["subject"] == made]
    assert [(entry["kind"], entry["subject"], entry["data"]["by"]) for entry in about] == [
        ("grant.made", made, "ana"),
        ("grant.revoked", made, "ben"),
    ]
