"""Two gateways before one ledger, as behind a load balancer: whichever is asked, it is one house."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from temporalio.testing import WorkflowEnvironment

from horarium.client import Client
from horarium.definitions import Agent
from horarium.gateway.serving import Serving, serving
from horarium.ids import new_run_id
from horarium.ledger.agents import Agents
from horarium.ledger.api_keys import ApiKeys
from horarium.ledger.database import Ledger
from horarium.settings import GatewaySettings, LedgerSettings, Settings
from tests.engine.conftest import World
from tests.gateway.conftest import of_gateway
from tests.gateway.streams import Event, events
from tests.gateway.test_sessions import Visitor
from tests.support.engine import PATIENCE, Engine, asks, call, running_engine, says
from tests.support.postgres import postgres_url

PUBLIC = "horarium.example.com"
SETTINGS = GatewaySettings(anonymous=False, hosts=(PUBLIC,))
PAYER = Agent("payer", model="scripted:none", tools=["pay"])


@dataclass
class Pair:
    """Two of them, each with connections of its own, and who calls."""

    engine: Engine
    world: World
    gateways: tuple[Serving, Serving]
    keys: dict[str, str]

    def http(self, which: int, who: str = "ann") -> httpx2.AsyncClient:
        """A client of one of them."""
        headers = {"Authorization": f"Bearer {self.keys[who]}"}
        return httpx2.AsyncClient(base_url=self.gateways[which].url, headers=headers, timeout=30)

    async def asked(self) -> dict[str, Any]:
        """What a run asks people for."""
        lines = (asks(call("pay", amount=5)), says("Paid."))
        run = await self.engine.start(PAYER, *lines, requested_by="ann")
        approval = await run.next_approval(PATIENCE)
        return {"run": run.id, "id": approval.id, "digest": approval.digest}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
async def pair(
    env: WorkflowEnvironment, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Pair]:
    directory, world = tmp_path_factory.mktemp(request.param), World()
    async with AsyncExitStack() as stack:
        settings = Settings(root=directory)
        if request.param == "postgres":
            settings = Settings(root=directory, ledger=LedgerSettings(url=stack.enter_context(postgres_url())))
        tools: Any = world.tools()
        engine = await stack.enter_async_context(running_engine(env, directory, tools, settings=settings))
        await Agents(engine.ledger).register(PAYER)
        names = ("ann", "bob")
        keys = {name: (await ApiKeys(engine.ledger).create(name, ("role:admin",)))[1] for name in names}
        gateways = []
        for _ in range(2):
            ledger = await Ledger.open(settings)
            stack.push_async_callback(ledger.close)
            client = Client(env.client, ledger, settings)
            served = serving(client, of_gateway(settings, SETTINGS), host="127.0.0.1", port=0)
            gateways.append(await stack.enter_async_context(served))
        yield Pair(engine, world, (gateways[0], gateways[1]), keys)


async def test_a_stream_that_began_at_one_goes_on_at_the_other(pair: Pair) -> None:
    question = await pair.asked()
    seen: list[Event] = []
    async with pair.http(0) as one, pair.http(1) as other:
        async for event in events(one, question["run"]):
            seen.append(event)
            if event.what == ("status", "requires_action"):
                break
        decided = await _decide(other, question, "approve")
        seen += [event async for event in events(other, question["run"], seen[-1].id)]
        whole = [event async for event in events(one, question["run"])]

    assert decided.status_code == 200
    told = [event for event in seen if event.kind != "text"]
    assert len({event.id for event in told}) == len(told)
    assert sorted(map(_what, told)) == sorted(_what(event) for event in whole if event.kind != "text")
    assert told[-1].what == ("end", "completed")


async def test_who_signed_in_at_one_is_known_to_the_other_and_so_are_his_forms(pair: Pair) -> None:
    question = await pair.asked()
    async with pair.http(0) as one, pair.http(1) as other:
        visitor = Visitor(one, PUBLIC)
        del one.headers["Authorization"], other.headers["Authorization"]
        assert (await visitor.sign_in(pair.keys["bob"])).status_code == 303
        page = await visitor.ask("GET", f"/inbox/{question['id']}")
        token = re.findall(r'name="token" value="([^"]+)"', page.text)[0]
        visitor.http = other

        form = {"token": token, "digest": question["digest"], "verdict": "approve"}
        answer = await visitor.ask("POST", f"/inbox/{question['id']}/decide", **form)

        assert answer.status_code == 303, answer.text
        visitor.http = one
        assert "pay is approved." in (await visitor.ask("GET", answer.headers["location"])).text
    run = pair.engine.client.run(question["run"])
    await run.result(PATIENCE)
    assert [item.decided_by for item in await pair.engine.client.approvals(run=run.id, status=None)] == ["bob"]


async def test_one_key_at_both_at_once_starts_one_run(pair: Pair) -> None:
    pair.engine.model.lines[:] = [says("Done.")]
    key = {"Idempotency-Key": new_run_id()}
    body = {"agent": "payer", "input": "Go."}
    async with pair.http(0) as one, pair.http(1) as other:
        asked = [http.post("/v1/runs", json=body, headers=key) for http in (one, other) * 4]
        answers = await asyncio.gather(*asked)
    await pair.engine.client.run(answers[0].json()["id"]).result(PATIENCE)

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len([run for run in await pair.engine.client.runs() if run.key == key["Idempotency-Key"]]) == 1


async def test_of_two_who_decide_at_the_same_instant_one_is_told_who_was_first(pair: Pair) -> None:
    paid = len(pair.world.effects)
    async with pair.http(0, "ann") as ann, pair.http(1, "bob") as bob:
        for _ in range(3):
            question = await pair.asked()
            answers = await asyncio.gather(_decide(ann, question, "approve"), _decide(bob, question, "reject"))

            assert sorted(answer.status_code for answer in answers) == [200, 409]
            first, second = sorted(answers, key=lambda answer: answer.status_code)
            assert first.json()["approval"]["decided_by"] in second.json()["detail"]
            await pair.engine.client.run(question["run"]).result(PATIENCE)
            paid += answers[0].status_code == 200
            assert len(pair.world.effects) == paid


def _what(event: Event) -> tuple[str, str]:
    return event.what[0], str(event.what[1])


async def _decide(http: httpx2.AsyncClient, question: dict[str, Any], verdict: str) -> httpx2.Response:
    body = {"digest": question["digest"], "verdict": verdict}
    return await http.post(f"/v1/approvals/{question['id']}/decide", json=body)
