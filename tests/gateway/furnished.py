"""A gateway with one of everything behind it: runs that ended, wait and are held, and all that runs leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from temporalio.testing import WorkflowEnvironment

from activities.models.base import ModelRequest, Turn
from horarium.definitions import Agent
from horarium.gateway.serving import Serving, serving
from horarium.ids import new_run_id
from horarium.ledger.agents import Agents
from horarium.ledger.api_keys import ApiKeys
from horarium.ledger.memories import Memories
from horarium.ledger.memory_lessons import Lessons, Teaching
from horarium.ledger.toolboxes import Toolboxes
from horarium.memories import Judgement, Lesson
from horarium.settings import GatewaySettings, Hook, LimitSettings
from horarium.toolboxes import Toolbox
from tests.engine.conftest import World
from tests.gateway.conftest import SHOP, of_gateway
from tests.gateway.rest import STRICT, Rest, rest_of
from tests.support.engine import PATIENCE, Engine, asks, call, running_engine, says

AS_OFTEN_AS_LIKED = LimitSettings(
    per_key="1000000/second", per_tenant="1000000/second", per_address="1000000/second", failure_weight=1
)
FURNISHED = STRICT.model_copy(
    update={"limits": AS_OFTEN_AS_LIKED, "hooks": (Hook(name="code", kind="github", secret="${FURNISHED_HOOK}"),)}
)
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
MORNINGS = {"mornings": {"cron": "0 6 * * *", "time_zone": "Europe/London"}, "opened": {"event": "issue.opened"}}
OF_EACH = 3


@dataclass
class Furnished:
    """The gateway, and the ids of what is behind it, by the noun."""

    rest: Rest
    ids: dict[str, list[str]] = field(default_factory=dict)

    def put(self, noun: str, *ids: str) -> None:
        """Remember them."""
        self.ids.setdefault(noun, []).extend(ids)

    def one(self, noun: str, *, last: bool = False) -> str:
        """The first of them; or the last, for whoever uses it up."""
        return self.ids[noun][-1 if last else 0]


def _answer(request: ModelRequest) -> Turn:
    """Whoever can pay, or ask for the weather, does so once; everybody else is done at once."""
    offered = {tool.name for tool in request.tools}
    if request.messages[-1].role == "user":
        if "pay" in offered:
            return asks(call("pay", amount=5))
        if "get_weather" in offered:
            return asks(call("get_weather", city="Oslo"))
        if "look" in offered:
            return asks(call("look"))
    return says("Done.")


@asynccontextmanager
async def furnished(
    env: WorkflowEnvironment, directory: Path, settings: GatewaySettings = FURNISHED, *, each: int = OF_EACH
) -> AsyncIterator[Furnished]:
    """Have an engine of its own served. `each`: how many there are of what requests use up."""
    async with running_engine(env, directory, World().tools()) as engine, AsyncExitStack() as stack:  # type: ignore[arg-type]

        async def serve(gateway: GatewaySettings, **more: Any) -> Serving:
            whole = of_gateway(engine.settings, gateway)
            return await stack.enter_async_context(serving(engine.client, whole, host="127.0.0.1", port=0, **more))

        await _definitions(engine)
        rest = await stack.enter_async_context(rest_of(engine, serve, settings))
        house = Furnished(rest)
        house.put("agent", "clerk", "payer", "plain")
        house.put("toolbox", "shop")
        house.put("hook", "code")
        await _runs(house, each)
        await _said(house, each)
        await _routines(house, each)
        await _memories(house, each)
        for number in range(each):
            key, _ = await ApiKeys(engine.ledger).create(f"spare-{number}", ("role:viewer",), tenant="default")
            house.put("key", key.id)
        yield house


async def _definitions(engine: Engine) -> None:
    engine.model.lines[:] = [_answer]
    agents = Agents(engine.ledger)
    for agent in (
        Agent("clerk", model="scripted:test", tools=["look"]),
        Agent("payer", model="scripted:test", tools=["pay"]),
        Agent("plain", model="scripted:test"),
        Agent("triage", model="scripted:test"),  # this one and the next are those of the document's examples
        Agent("log-triage", model="scripted:test", tools=["look"]),
    ):
        await agents.register(agent)
    await Toolboxes(engine.ledger).register(SHOP)
    await Toolboxes(engine.ledger).register(Toolbox(name="shop", tools=("look",), description="Smaller."))


async def _runs(house: Furnished, each: int) -> None:
    for number in range(each):
        for noun, agent, more in (
            ("run", "clerk", {}),
            ("waiting", "payer", {}),
            ("asking", "plain", {"functions": [WEATHER]}),
        ):
            body = {"agent": agent, "input": f"Go {number}.", **more}
            run = await house.rest.ok("POST", "/v1/runs", json=body)
            house.put(noun, run["id"])
            house.put("thread" if noun == "run" else "open thread", run["thread"])
    for run in house.ids["run"]:
        await house.rest.engine.client.run(run).result(PATIENCE)
    for run in house.ids["waiting"] + house.ids["asking"]:
        waits = await _until(house.rest, f"/v1/runs/{run}", "waiting_for")
        house.put("approval" if waits[0]["kind"] == "approval" else "call", waits[0]["id"])
    questions = (await house.rest.ok("GET", "/v1/approvals"))["data"]
    house.put("digest", *(question["digest"] for question in questions))


async def _said(house: Furnished, each: int) -> None:
    for number, thread in enumerate(list(house.ids["thread"])):
        await house.rest.ok("PUT", f"/v1/threads/{thread}/files/notes.txt", content=f"{number}".encode())
    house.put("file", "notes.txt")
    for number in range(each):
        asked = {"model": "clerk", "input": f"Go {number}."}
        house.put("response", (await house.rest.ok("POST", "/v1/responses", json=asked))["id"])
        items = [{"type": "message", "role": "user", "content": "I am Ana."}]
        conversation = (await house.rest.ok("POST", "/v1/conversations", json={"items": items}))["id"]
        house.put("conversation", conversation)
        house.put("item", (await house.rest.ok("GET", f"/v1/conversations/{conversation}/items"))["first_id"])


async def _routines(house: Furnished, each: int) -> None:
    for number in range(each):
        name = f"daily-{number}"
        definition = {"agent": "plain", "input": "Go.", "triggers": MORNINGS}
        await house.rest.ok("PUT", f"/v1/routines/{name}", json=definition)
        house.put("routine", name)
        for _ in range(2):
            [tick] = (await house.rest.ok("POST", f"/v1/routines/{name}/run"))["ticks"]
            await _until(house.rest, f"/v1/ticks/{tick}", "closed_at")
            house.put("tick", tick)


async def _memories(house: Furnished, each: int) -> None:
    for number in range(2 * each):
        lesson = Lesson("user", f"customer {number}", "Pays late.")
        run, tainted = new_run_id(), bool(number % 2)
        teaching = Teaching("default", run, "clerk", "desk", "ana", (lesson,), Judgement(True), tainted=tainted)
        await Lessons(house.rest.engine.ledger).learn(teaching)
    known = await Memories(house.rest.engine.ledger).list(tenant="default", limit=2 * each)
    house.put("memory", *(memory.id for memory in known))


async def _until(rest: Rest, path: str, name: str) -> Any:
    """A field of what is there, once it is there."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        # A tick that was just ordered is there a moment later.
        while (answer := await rest("GET", path)).status_code == 404 or not answer.json()[name]:
            await asyncio.sleep(0.05)
        return answer.json()[name]
