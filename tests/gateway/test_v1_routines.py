"""Routines over REST: every order, every look, and whose they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from horarium.definitions import Agent
from horarium.ledger.agents import Agents
from tests.engine.conftest import World
from tests.gateway.conftest import Serve
from tests.gateway.rest import STRANGER, Rest, rest_of
from tests.support.engine import Engine, says

DAILY: dict[str, Any] = {
    "agent": "clerk",
    "input": "Go.",
    "triggers": {"mornings": {"cron": "0 6 * * *", "time_zone": "Europe/London"}, "opened": {"event": "issue.opened"}},
}


@pytest.fixture
async def rest(engine: Engine, world: World, serve: Serve) -> AsyncIterator[Rest]:
    await Agents(engine.ledger).register(Agent("clerk", model="scripted:test"))
    engine.model.lines[:] = [says("Done.")]
    async with rest_of(engine, serve) as rest:
        yield rest


async def closed(rest: Rest, tick: str) -> Any:
    """The tick, once it has ended."""
    async with asyncio.timeout(30):
        while (found := await rest.ok("GET", f"/v1/ticks/{tick}"))["closed_at"] is None:
            await asyncio.sleep(0.05)
        return found


async def test_a_routine_is_made_once_looked_at_and_taken_out_of_use(rest: Rest) -> None:
    made = await rest.ok("PUT", "/v1/routines/daily", "operator", json=DAILY)
    again = await rest.ok("PUT", "/v1/routines/daily", "operator", json=DAILY)
    listed = await rest.ok("GET", "/v1/routines", "viewer")
    shown = await rest.ok("GET", "/v1/routines/daily", "viewer")
    deleted = await rest.ok("DELETE", "/v1/routines/daily", "operator")

    assert (made["changed"], again["changed"], deleted["changed"]) == (True, False, True)
    assert [item["name"] for item in listed["data"]] == ["daily"]
    assert (shown["definition"]["agent"], shown["changed_by"], shown["deployed"]) == ("clerk", "operator", True)
    assert (await rest("GET", "/v1/routines/daily")).status_code == 404


async def test_its_tenant_and_who_starts_its_runs_are_the_callers(rest: Rest) -> None:
    await rest.ok("PUT", "/v1/routines/daily", "operator", json=DAILY)

    definition = (await rest.ok("GET", "/v1/routines/daily"))["definition"]
    refused = [
        (await rest("PUT", "/v1/routines/daily", json=DAILY | said)).json()["code"]
        for said in ({"tenant": "elsewhere"}, {"requested_by": "somebody"}, {"name": "other"})
    ]

    assert (definition["tenant"], definition["requested_by"]) == ("default", "operator")
    assert refused == ["config"] * 3


async def test_a_definition_that_cannot_be_deployed_is_refused_with_every_reason(rest: Rest) -> None:
    wrong = await rest("PUT", "/v1/routines/daily", json=DAILY | {"timeuot": "3m", "overlap": "maybe"})
    unknown = await rest("PUT", "/v1/routines/daily", json=DAILY | {"agent": "clrk"})

    assert (wrong.status_code, unknown.status_code) == (422, 422)
    assert "timeuot" in wrong.json()["detail"]
    assert "overlap" in wrong.json()["detail"]
    assert "clerk" in unknown.json()["detail"]


async def test_a_paused_routine_says_why_and_resumes(rest: Rest) -> None:
    await rest.ok("PUT", "/v1/routines/daily", json=DAILY)

    await rest.ok(
        "POST", "/v1/routines/daily/pause", "operator", json={"note": "Moving house.", "until": "2030-01-01T00:00:00Z"}
    )
    paused = await rest.ok("GET", "/v1/routines/daily")
    await rest.ok("POST", "/v1/routines/daily/resume", "operator")
    resumed = await rest.ok("GET", "/v1/routines/daily")

    assert (paused["paused"], paused["pause_note"], paused["paused_by"]) == (True, "Moving house.", "operator")
    assert paused["paused_until"] == "2030-01-01T00:00:00Z"
    assert resumed["paused"] is False


async def test_the_same_key_runs_it_once(rest: Rest) -> None:
    await rest.ok("PUT", "/v1/routines/daily", json=DAILY)

    first, second = [
        await rest.ok("POST", "/v1/routines/daily/run", "operator", headers={"Idempotency-Key": "k1"}) for _ in "ab"
    ]

    tick = await closed(rest, first["ticks"][0])
    assert first["ticks"] == second["ticks"]
    assert (tick["status"], tick["source"], tick["routine"]) == ("completed", "manual", "daily")


async def test_an_event_sets_off_who_waits_for_it(rest: Rest) -> None:
    await rest.ok("PUT", "/v1/routines/daily", json=DAILY | {"input": "Look at {{ event.number }}."})

    nobody = await rest.ok("POST", "/v1/events", "operator", json={"event": "issue.closed"})
    fired = await rest.ok("POST", "/v1/events", "operator", json={"event": "issue.opened", "payload": {"number": 7}})
    await closed(rest, fired["ticks"][0])

    assert nobody["ticks"] == []
    assert rest.engine.model.heard()[-1] == ("user", "Look at 7.")


async def test_a_backfill_makes_up_for_the_fires_of_a_range_and_its_ticks_come_in_pages(rest: Rest) -> None:
    await rest.ok("PUT", "/v1/routines/daily", json=DAILY | {"overlap": "buffer_all"})
    span = {"start": "2026-11-10T00:00:00Z", "end": "2026-11-13T00:00:00Z"}

    done = await rest.ok("POST", "/v1/routines/daily/backfill", "operator", json=span)
    pages = await rest.pages("/v1/routines/daily/ticks", 2)

    assert len(done["ticks"]) == 3
    assert [len(page) for page in pages] == [2, 1]
    assert [tick["scheduled_at"][:10] for page in pages for tick in page] == ["2026-11-12", "2026-11-11", "2026-11-10"]
    assert sum(map(len, await rest.pages("/v1/ticks", 2))) == 3


async def test_a_preview_shows_clock_changes_and_an_outage_before_anything_is_saved(rest: Rest) -> None:
    asked = {"start": "2027-03-27T00:00:00Z", "days": 3, "outage": "20h", "definition": DAILY}

    shown = await rest.ok("POST", "/v1/routines/daily/preview", "viewer", json=asked)

    assert [fire["at"][:16] for fire in shown["fires"]] == ["2027-03-27T06:00", "2027-03-28T05:00", "2027-03-29T05:00"]
    assert [fire["fate"] for fire in shown["fires"]] == ["missed", "runs", "runs"]
    assert (await rest("GET", "/v1/routines/daily")).status_code == 404


async def test_another_tenant_finds_nothing_of_it_not_even_its_name(rest: Rest) -> None:
    await rest.ok("PUT", "/v1/routines/daily", json=DAILY)
    tick = (await rest.ok("POST", "/v1/routines/daily/run"))["ticks"][0]
    span = {"start": "2026-11-10T00:00:00Z", "end": "2026-11-13T00:00:00Z"}

    calls: list[tuple[str, str, Any]] = [
        ("GET", "/v1/routines/daily", None),
        ("DELETE", "/v1/routines/daily", None),
        ("POST", "/v1/routines/daily/pause", None),
        ("POST", "/v1/routines/daily/resume", None),
        ("POST", "/v1/routines/daily/run", None),
        ("POST", "/v1/routines/daily/backfill", span),
        ("POST", "/v1/routines/daily/preview", None),
        ("GET", "/v1/routines/daily/ticks", None),
        ("GET", f"/v1/ticks/{tick}", None),
    ]
    answers = [await rest(method, path, STRANGER, json=body) for method, path, body in calls]
    near = await rest("GET", "/v1/routines/dialy", STRANGER)
    fired = await rest.ok("POST", "/v1/events", STRANGER, json={"event": "issue.opened"})

    assert {answer.status_code for answer in answers} == {404}
    assert "did you mean" not in near.json()["detail"]
    assert fired["ticks"] == []
    assert (await rest.ok("GET", "/v1/routines", STRANGER))["data"] == []
    assert (await rest.ok("GET", "/v1/ticks", STRANGER))["data"] == []
    assert (await rest("PUT", "/v1/routines/daily", STRANGER, json=DAILY)).status_code == 422


async def test_orders_are_for_operators_and_looking_is_for_viewers(rest: Rest) -> None:
    orders = [
        ("PUT", "/v1/routines/daily", DAILY),
        ("DELETE", "/v1/routines/daily", None),
        ("POST", "/v1/routines/daily/pause", None),
        ("POST", "/v1/routines/daily/run", None),
        ("POST", "/v1/events", {"event": "issue.opened"}),
    ]

    answers = [await rest(method, path, "viewer", json=body) for method, path, body in orders]

    assert [answer.status_code for answer in answers] == [403] * len(orders)
    assert {answer.json()["code"] for answer in answers} == {"not_allowed"}
    assert (await rest("GET", "/v1/routines", None)).status_code == 401
