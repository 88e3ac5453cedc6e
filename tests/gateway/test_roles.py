"""Who may do what: every operation of the OpenAPI document, for whoever is not allowed to, and for whoever is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.testing import WorkflowEnvironment

from horarium.ledger.api_keys import ApiKeys
from tests.gateway.furnished import Furnished, furnished
from tests.gateway.operations import OF_THE_PROJECT, Operation, operations, request_of
from tests.gateway.rest import ROLES, STRANGER

RANKS = ("nobody", *ROLES)


SENT = {  # where the example of the document would say something else
    "routines_put": {"agent": "plain", "input": "Mine.", "triggers": {"it": {"event": "mine"}}},
    "routines_preview": {},
}


@pytest.fixture(scope="module")
async def house(env: WorkflowEnvironment, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Furnished]:
    async with furnished(env, tmp_path_factory.mktemp("house"), each=2) as house:
        yield house


async def document_of(house: Furnished) -> dict[str, Any]:
    """The OpenAPI document."""
    found: dict[str, Any] = await house.rest.ok("GET", "/v1/openapi.json", "viewer")
    return found


async def status(house: Furnished, operation: Operation, who: str | None, **more: Any) -> int:
    """Of the answer, of which only the head is read: it may be a stream."""
    key = {"Authorization": f"Bearer {house.rest.keys[who]}"} if who is not None else {}
    address = operation.address(house, last=who != STRANGER)
    async with house.rest.http.stream(operation.method, address, headers=key, **more) as answer:
        return int(answer.status_code)


async def test_every_operation_lets_in_the_roles_that_the_document_names_and_nobody_else(house: Furnished) -> None:
    document = await document_of(house)
    keys = ApiKeys(house.rest.engine.ledger)
    for name, scopes in (("revoked", ("role:admin",)), ("worker", ("tools:*",)), ("caller", ("toolbox:*",))):
        key, house.rest.keys[name] = await keys.create(name, scopes, tenant="default")
        if name == "revoked":
            await keys.revoke(key.id, by="test")
    found = sorted(operations(document), key=lambda one: one.method == "DELETE")

    wrong: list[tuple[str, str | None, int]] = []
    for operation in found:
        more = request_of(document, operation, house)
        if operation.role == "nobody":
            continue
        refused: dict[str | None, int] = {None: 401, "revoked": 401, "worker": 403, "caller": 403}
        refused |= {role: 403 for role in ROLES if RANKS.index(role) < RANKS.index(operation.role)}
        for who, expected in refused.items():
            if (said := await status(house, operation, who, **more)) != expected:
                wrong.append((operation.id, who, said))
        if (said := await status(house, operation, operation.role, **more)) in (401, 403):
            wrong.append((operation.id, operation.role, said))

    assert wrong == []
    assert [operation.id for operation in found if operation.role == "nobody"] == ["hooks_deliver"]
    assert {operation.role for operation in found} == set(RANKS)


async def test_what_is_another_tenants_is_not_there_whoever_asks(house: Furnished) -> None:
    document = await document_of(house)
    told = {one for noun, ids in house.ids.items() if noun not in {*OF_THE_PROJECT, "file"} for one in ids}

    wrong: list[tuple[str, int]] = []
    by_id, leaked = 0, []
    for operation in operations(document):
        more = request_of(document, operation, house)
        if set(operation.nouns.values()) - OF_THE_PROJECT:
            by_id += 1
            # A routine's name is the project's: that somebody has it can be told, and nothing more.
            expected = 422 if operation.id == "routines_put" else 404
            if operation.id in SENT:
                more["json"] = SENT[operation.id]
            if (said := await status(house, operation, STRANGER, **more)) != expected:
                wrong.append((operation.id, said))
        elif operation.method == "GET" and not operation.nouns and operation.id != "audit_verify":
            text = (await house.rest("GET", operation.path, STRANGER)).text
            leaked += [(operation.id, one) for one in told if one in text]

    assert wrong == []
    assert leaked == []
    assert by_id >= 45


async def test_what_a_body_names_of_another_tenant_is_not_there_either(house: Furnished) -> None:
    rest = house.rest
    decision = {"digest": house.one("digest"), "verdict": "approve"}
    asked = {"model": "plain", "input": "Go."}
    request = f"mcpr_{house.one('approval').removeprefix('apr_')}"
    approves = [{"type": "mcp_approval_response", "approval_request_id": request, "approve": True}]
    waiting = house.one("waiting").replace("run_", "resp_")
    carried_out = [{"type": "function_call_output", "call_id": house.one("call"), "output": "cold"}]
    sent = {
        "threads": ("/v1/runs", {"agent": "plain", "input": "Go.", "thread": house.one("thread")}),
        "conversations": ("/v1/responses", {**asked, "conversation": house.one("conversation")}),
        "responses": ("/v1/responses", {**asked, "previous_response_id": house.one("response")}),
        "approvals": ("/v1/responses", {**asked, "input": approves, "previous_response_id": waiting}),
        "calls": ("/v1/responses", {**asked, "input": carried_out}),
    }

    answers = {name: await rest("POST", path, STRANGER, json=body) for name, (path, body) in sent.items()}
    batch = {"decisions": [{"approval": house.one("approval"), **decision}]}
    decided = await rest.ok("POST", "/v1/approvals/batch", STRANGER, json=batch)

    statuses = {name: answer.status_code for name, answer in answers.items()}
    # OpenAI's protocol says 400 of what a body names and is not there.
    assert {name: status in (400, 404) for name, status in statuses.items()} == dict.fromkeys(sent, True), statuses
    assert [outcome["status"] for outcome in decided["data"]] == [404]
    assert (await rest.ok("GET", f"/v1/approvals/{house.one('approval')}"))["status"] == "pending"
    assert (await rest.ok("GET", f"/v1/runs/{house.one('asking')}"))["status"] == "requires_action"
    assert (await rest.ok("GET", "/v1/runs", STRANGER))["data"] == []
