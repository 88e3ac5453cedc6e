"""Webhooks in: who may set routines off from outside, and that a delivery does so once."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError
from standardwebhooks import Webhook

from horarium.content import canonical
from horarium.definitions import Agent
from horarium.gateway.deliveries import CUT, fitted
from horarium.ledger.agents import Agents
from horarium.settings import GatewaySettings, Hook
from tests.engine.conftest import World
from tests.gateway.conftest import Serve
from tests.gateway.rest import STRICT, Rest, rest_of
from tests.support.engine import Engine, says

SHARED = "a secret of ours and GitHub's"
WHSEC = "whsec_" + "c2VjcmV0IG9mIG91cnMgYW5kIHRoZWlycw=="
HOOKS = (
    Hook(name="code", kind="github", secret="${HOOK_CODE}"),
    Hook(name="fixed", kind="github", secret="${HOOK_CODE}", event="code.changed"),
    Hook(name="shop", kind="standard", secret="${HOOK_SHOP}"),
    Hook(name="theirs", kind="github", secret="${HOOK_CODE}", tenant="elsewhere"),
    Hook(name="broken", kind="github", secret="${HOOK_NOT_SET}"),
)
OPENED = {"action": "opened", "issue": {"number": 7, "title": "It does not start"}}


@pytest.fixture
async def rest(engine: Engine, world: World, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rest]:
    monkeypatch.setenv("HOOK_CODE", SHARED)
    monkeypatch.setenv("HOOK_SHOP", WHSEC)
    await Agents(engine.ledger).register(Agent("clerk", model="scripted:test"))
    engine.model.lines[:] = [says("Done.")]
    async with rest_of(engine, serve, STRICT.model_copy(update={"hooks": HOOKS})) as rest:
        for name, event in (("triage", "github.issues.opened"), ("build", "code.changed"), ("pack", "order.paid")):
            definition = {"agent": "clerk", "input": "Go.", "triggers": {"it": {"event": event}}}
            await rest.ok("PUT", f"/v1/routines/{name}", json=definition)
        yield rest


async def github(rest: Rest, hook: str, payload: Any, *, delivery: str = "72d3162e", **headers: str) -> httpx2.Response:
    """A delivery as GitHub makes it."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    said = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "issues",
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": "sha256=" + hmac.new(SHARED.encode(), body, hashlib.sha256).hexdigest(),
    }
    return await rest("POST", f"/v1/hooks/{hook}", None, content=body, headers=said | headers)


async def standard(rest: Rest, *, at: datetime | None = None, secret: str = WHSEC) -> httpx2.Response:
    """A delivery as Standard Webhooks has it."""
    body, at = json.dumps({"type": "order.paid", "data": {"order": 7}}), at or datetime.now(UTC)
    headers = {
        "Content-Type": "application/json",
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_1", at, body),
    }
    return await rest("POST", "/v1/hooks/shop", None, content=body.encode(), headers=headers)


async def ticks(rest: Rest) -> list[str]:
    return sorted(tick["routine"] for tick in (await rest.ok("GET", "/v1/ticks"))["data"])


async def test_a_delivery_of_github_sets_off_a_routine_once_however_often_it_comes(rest: Rest) -> None:
    first = await github(rest, "code", OPENED)
    again = await github(rest, "code", OPENED)
    another = await github(rest, "code", OPENED, delivery="80e1")

    assert (first.status_code, first.json()["event"]) == (202, "github.issues.opened")
    assert first.json()["ticks"] == again.json()["ticks"] != another.json()["ticks"]
    assert await ticks(rest) == ["triage", "triage"]


async def test_a_hook_may_say_itself_which_event_it_is(rest: Rest) -> None:
    answer = await github(rest, "fixed", {"zen": "Keep it simple."})

    assert answer.json()["event"] == "code.changed"
    assert await ticks(rest) == ["build"]


async def test_a_delivery_of_standard_webhooks_counts_for_five_minutes_and_once(rest: Rest) -> None:
    old = await standard(rest, at=datetime.now(UTC) - timedelta(minutes=6))
    taken = [await standard(rest) for _ in "ab"]

    assert (old.status_code, old.json()["code"]) == (401, "bad_signature")
    assert [answer.status_code for answer in taken] == [202, 202]
    assert await ticks(rest) == ["pack"]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Hub-Signature-256": "sha256=" + "0" * 64},
        {"X-Hub-Signature-256": ""},
        {"X-Hub-Signature-256": "sha1=00"},
        {"X-Hub-Signature-256": "sha256=" + hmac.new(b"other", json.dumps(OPENED).encode(), "sha256").hexdigest()},
    ],
)
async def test_a_wrong_signature_sets_nothing_off(rest: Rest, headers: dict[str, str]) -> None:
    answer = await github(rest, "code", OPENED, **headers)

    assert (answer.status_code, answer.json()["code"]) == (401, "bad_signature")
    assert await ticks(rest) == []


async def test_a_body_that_was_changed_on_the_way_or_a_secret_of_somebody_else_is_refused(rest: Rest) -> None:
    body = json.dumps(OPENED).encode()
    signature = "sha256=" + hmac.new(SHARED.encode(), body, hashlib.sha256).hexdigest()

    changed = await github(rest, "code", body.replace(b"7", b"8"), **{"X-Hub-Signature-256": signature})
    other = await standard(rest, secret="whsec_" + "b3RoZXI=")

    assert [answer.status_code for answer in (changed, other)] == [401, 401]
    assert await ticks(rest) == []


async def test_what_is_signed_and_makes_no_sense_is_said_to(rest: Rest) -> None:
    answers = [
        await github(rest, "code", OPENED, **{"X-GitHub-Delivery": ""}),
        await github(rest, "code", [1]),
        await github(rest, "code", b"payload=%7B%7D", **{"Content-Type": "application/x-www-form-urlencoded"}),
        await github(rest, "nobody", OPENED),
        await github(rest, "broken", OPENED),
    ]

    assert [answer.status_code for answer in answers] == [422, 422, 422, 404, 503]
    assert "HOOK_NOT_SET" not in answers[-1].text


async def test_it_sets_off_its_own_tenants_routines_and_opens_nothing_else(rest: Rest) -> None:
    theirs = await github(rest, "theirs", OPENED)

    assert (theirs.status_code, theirs.json()["ticks"]) == (202, [])
    assert (await rest("GET", "/v1/hooks/../routines", None)).status_code in (401, 404)
    assert (await rest("GET", "/v1/hooks/code", None)).status_code == 405


async def test_a_long_payload_is_cut_and_its_ids_and_titles_stay(rest: Rest) -> None:
    repository = {f"{name}_url": "https://api.github.com/" + name * 20 for name in map(str, range(200))}
    payload = OPENED | {"issue": {"number": 7, "title": "Long", "body": "x" * 100_000}, "repository": repository}

    cut = fitted(payload)
    taken = await github(rest, "code", payload)

    assert (cut["issue"]["number"], cut["issue"]["title"], cut[CUT]) == (7, "Long", True)
    assert len(canonical(cut)) <= 16_000
    assert len(taken.json()["ticks"]) == 1
    assert fitted(OPENED) == OPENED


def test_two_hooks_of_one_name_and_a_secret_that_stands_there_are_refused() -> None:
    with pytest.raises(ValidationError, match="two hooks"):
        GatewaySettings(hooks=(HOOKS[0], HOOKS[0]))
    with pytest.raises(ValidationError, match="a secret is not written here"):
        Hook(name="code", kind="github", secret="hunter2")
