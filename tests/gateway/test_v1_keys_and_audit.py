"""API keys and the audit trail over REST, and what no request gets past."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from horarium.ledger.schema import audit
from tests.engine.conftest import World
from tests.gateway.conftest import Serve
from tests.gateway.rest import STRANGER, STRICT, Rest, rest_of
from tests.support.engine import Engine


@pytest.fixture
async def rest(engine: Engine, world: World, serve: Serve) -> AsyncIterator[Rest]:
    async with rest_of(engine, serve, STRICT.model_copy(update={"max_body_bytes": 10_000})) as rest:
        yield rest


BOT = {"name": "bot", "scopes": ["role:viewer"]}


async def test_a_key_is_shown_once_opens_what_it_says_and_nothing_after_it_is_revoked(rest: Rest) -> None:
    made = await rest("POST", "/v1/keys", json=BOT)
    rest.keys["bot"] = made.json()["key"]
    used = [(await rest("GET", path, "bot")).status_code for path in ("/v1/agents", "/v1/keys")]
    listed = await rest("GET", "/v1/keys")
    revoked = await rest.ok("DELETE", f"/v1/keys/{made.json()['id']}")

    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    assert used == [200, 403]
    assert made.json()["key"].removeprefix(made.json()["id"]) not in listed.text
    assert listed.json()["data"][0]["created_by"] == "admin"
    assert revoked["status"] == "revoked"
    assert (await rest("GET", "/v1/agents", "bot")).status_code == 401


async def test_keys_are_the_tenants_and_the_admins(rest: Rest) -> None:
    theirs = (await rest.ok("POST", "/v1/keys", STRANGER, json=BOT))["id"]

    listed = [item["id"] for page in await rest.pages("/v1/keys", 2) for item in page]

    assert len(listed) == 4
    assert theirs not in listed
    assert (await rest("DELETE", f"/v1/keys/{theirs}")).status_code == 404
    assert (await rest.ok("GET", "/v1/keys", STRANGER))["data"][0]["status"] == "active"
    assert [(await rest(method, "/v1/keys", "approver", json=BOT)).status_code for method in ("GET", "POST")] == [
        403
    ] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": ["role:god"]},
        {"scopes": []},
        {"scopes": ["agent:clerk"]},
        {"name": "two\nlines"},
        {"expires_at": (datetime.now(UTC) - timedelta(days=1)).isoformat()},
        {"expires_at": "2030-01-01T00:00:00"},
        {"tenant": "elsewhere"},
    ],
)
async def test_a_key_that_makes_no_sense_is_refused(rest: Rest, wrong: dict[str, object]) -> None:
    assert (await rest("POST", "/v1/keys", json=BOT | wrong)).status_code == 422


async def test_the_audit_trail_shows_a_tenant_its_own_and_is_checked_whole(rest: Rest) -> None:
    await rest.ok("POST", "/v1/keys", json=BOT)
    await rest.ok("POST", "/v1/keys", STRANGER, json=BOT)

    own = [entry for page in await rest.pages("/v1/audit", 2, "viewer") for entry in page]
    theirs = await rest.ok("GET", "/v1/audit", STRANGER, params={"kind": "api_key.created"})
    report = await rest.ok("GET", "/v1/audit/verify", params={"anchor": own[-1]["hash"]})

    assert [entry["seq"] for entry in own] == [6, 4, 3, 2, 1]
    assert [entry["seq"] for entry in theirs["data"]] == [7, 5]
    assert (report["entries"], report["intact"], report["problem"]) == (7, True, None)
    assert (await rest("GET", "/v1/audit/verify", "approver")).status_code == 403


async def test_an_entry_that_was_changed_is_found(rest: Rest) -> None:
    async with rest.engine.ledger.write() as connection:
        await connection.execute(update(audit).where(audit.c.seq == 2).values(subject="somebody else"))

    report = await rest.ok("GET", "/v1/audit/verify")

    assert (report["intact"], report["problem"]["flaw"]) == (False, "changed")


@pytest.mark.parametrize(
    "body",
    [
        b'{"name": NaN, "scopes": []}',
        b'{"name": 1e999}',
        b'{"name": ' + b"9" * 5_000 + b"}",
        b"[" * 5_000,
        b'{"a": ' * 100 + b"1" + b"}" * 100,
        b'{"name": "\\ud800", "scopes": ["role:viewer"]}',
        b'{"name": "a\\u0000b", "scopes": ["role:viewer"]}',
        b"\xff\xfe",
        b"{",
    ],
)
async def test_what_is_json_only_to_some_is_refused(rest: Rest, body: bytes) -> None:
    answer = await rest("POST", "/v1/keys", content=body, headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


async def test_a_body_that_is_too_large_is_refused_however_it_comes(rest: Rest) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b" " * 1_000

    told = await rest("POST", "/v1/keys", content=b" " * 20_000, headers={"Content-Type": "application/json"})
    streamed = await rest("POST", "/v1/keys", content=pieces(), headers={"Content-Type": "application/json"})

    assert [(answer.status_code, answer.json()["code"]) for answer in (told, streamed)] == [(413, "too_large")] * 2
