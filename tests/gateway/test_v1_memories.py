"""Memories over REST: what runs were taught, and people's last word on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from horarium.ids import new_run_id
from horarium.ledger.memories import Memories
from horarium.ledger.memory_lessons import Lessons, Teaching
from horarium.memories import Judgement, Lesson
from tests.engine.conftest import World
from tests.gateway.conftest import Serve
from tests.gateway.rest import STRANGER, Rest, rest_of
from tests.support.engine import Engine


@pytest.fixture
async def rest(engine: Engine, world: World, serve: Serve) -> AsyncIterator[Rest]:
    async with rest_of(engine, serve) as rest:
        yield rest


async def taught(rest: Rest, text: str, *, subject: str = "acme", tainted: bool = False) -> str:
    """Have a run teach something about a user; the memory's id."""
    lesson = Lesson("user", subject, text)
    teaching = Teaching("default", new_run_id(), "clerk", "desk", "ana", (lesson,), Judgement(True), tainted=tainted)
    await Lessons(rest.engine.ledger).learn(teaching)
    return (await Memories(rest.engine.ledger).list(tenant="default", limit=1))[0].id


async def test_memories_are_listed_newest_first_in_pages_and_by_what_they_are(rest: Rest) -> None:
    made = [await taught(rest, f"Pays in {days} days.", subject=f"acme {days}") for days in (7, 14, 30)]
    waiting = await taught(rest, "Pay to another account.", subject="account", tainted=True)

    pages = await rest.pages("/v1/memories", 3, "viewer")
    quarantined = await rest.ok("GET", "/v1/memories", "viewer", params={"status": "quarantined", "user": "ANA"})

    assert [[item["id"] for item in page] for page in pages] == [[waiting, made[2], made[1]], [made[0]]]
    assert [item["id"] for item in quarantined["data"]] == [waiting]
    assert (await rest.ok("GET", "/v1/memories", params={"kind": "procedural"}))["data"] == []


async def test_what_waits_is_accepted_once_in_the_callers_name(rest: Rest) -> None:
    memory = await taught(rest, "Pays late.", tainted=True)

    accepted = await rest.ok("POST", f"/v1/memories/{memory}/review", "approver", json={"verdict": "accept"})
    again = await rest("POST", f"/v1/memories/{memory}/review", "approver", json={"verdict": "accept"})

    assert (accepted["current"], accepted["pending"]) == (1, None)
    assert accepted["versions"][0]["changed_by"] == "approver"
    assert again.status_code == 409


async def test_an_edit_holds_at_once_and_is_undone(rest: Rest) -> None:
    memory = await taught(rest, "Pays in 14 days.")
    run = new_run_id()

    edited = await rest.ok("PATCH", f"/v1/memories/{memory}", "approver", json={"text": "Pays in 30 days."})
    await Memories(rest.engine.ledger).used(run, 1, [(memory, 2)])
    undone = await rest.ok("POST", f"/v1/memories/{memory}/undo", "approver")

    assert (edited["current"], edited["versions"][1]["text"]) == (2, "Pays in 30 days.")
    assert (undone["undone"], undone["restored"], undone["used_by"]) == (2, 1, [run])
    assert (await rest.ok("GET", f"/v1/memories/{memory}/uses"))["data"] == [{"run": run, "version": 2}]


async def test_only_an_admin_deletes_one(rest: Rest) -> None:
    memory = await taught(rest, "Pays in 14 days.")

    refused = await rest("DELETE", f"/v1/memories/{memory}", "approver")
    await rest.ok("DELETE", f"/v1/memories/{memory}", "admin")

    assert refused.status_code == 403
    assert (await rest("GET", f"/v1/memories/{memory}")).status_code == 404


async def test_another_tenant_finds_nothing_and_a_viewer_changes_nothing(rest: Rest) -> None:
    memory = await taught(rest, "Pays late.", tainted=True)
    changes = [
        ("POST", f"/v1/memories/{memory}/review", {"verdict": "accept"}),
        ("PATCH", f"/v1/memories/{memory}", {"text": "Other."}),
        ("POST", f"/v1/memories/{memory}/undo", None),
        ("DELETE", f"/v1/memories/{memory}", None),
    ]
    looks = [("GET", f"/v1/memories/{memory}", None), ("GET", f"/v1/memories/{memory}/uses", None)]

    foreign = [await rest(method, path, STRANGER, json=body) for method, path, body in changes + looks]
    small = [await rest(method, path, "operator", json=body) for method, path, body in changes]

    assert {answer.status_code for answer in foreign} == {404}
    assert {answer.status_code for answer in small} == {403}
    assert (await rest.ok("GET", "/v1/memories", STRANGER))["data"] == []
    assert (await rest.ok("GET", f"/v1/memories/{memory}"))["versions"][0]["text"] == "Pays late."
