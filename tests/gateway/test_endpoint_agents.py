"""The agent that stands for a served toolbox: it makes calls, has no model, and is nobody else's."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from horarium.definitions import Agent, ApprovalRule
from horarium.endpoints import endpoint_agent, endpoint_name
from horarium.errors import ConfigError, ToolboxNotFound
from horarium.ledger.agents import Agents
from horarium.ledger.toolboxes import Toolboxes
from horarium.toolboxes import Toolbox
from tests.engine.conftest import World
from tests.support.engine import PATIENCE, Engine

PLAN = (ApprovalRule(tools=("pay",), approvers=("ana",)),)
SHOP = Toolbox(name="shop", tools=("look", "pay"), approvals=PLAN)


@pytest.mark.parametrize(("name", "model"), [("toolbox-shop", "scripted:lines"), ("clerk", "none")])
def test_its_name_and_its_lack_of_a_model_are_kept_for_it(name: str, model: str) -> None:
    with pytest.raises(ValidationError, match="toolboxes that are served"):
        Agent(name, model=model, tools=["look"])


def test_two_toolboxes_with_long_names_are_two_agents() -> None:
    names = {endpoint_name("x" * 62 + last) for last in "ab"}

    assert len(names) == 2
    assert all(len(name) <= 63 for name in names)


async def test_it_has_the_toolboxs_version_and_plan(engine: Engine) -> None:
    await Toolboxes(engine.ledger).register(SHOP)

    agent = endpoint_agent(await Toolboxes(engine.ledger).get("shop"))

    assert (agent.name, agent.toolboxes, agent.approvals) == ("toolbox-shop", ("shop@1",), PLAN)


async def test_a_toolbox_is_called_by_its_default_version_or_by_one_of_them(engine: Engine, world: World) -> None:
    toolboxes = Toolboxes(engine.ledger)
    await toolboxes.register(SHOP)
    await toolboxes.register(Toolbox(name="shop", tools=("look",)))

    by_default = await engine.client.call("toolbox:shop", "pay", {"amount": 7})
    by_number = await engine.client.call("toolbox:shop@2", "pay", {"amount": 7})

    await by_default.approve(await by_default.next_approval(PATIENCE), by="ana")
    assert (await engine.finish(by_default)).output == "paid 7"
    assert (await engine.finish(by_number)).reason == "tool_unavailable"
    with pytest.raises(ToolboxNotFound):
        await engine.client.call("toolbox:shed", "look")


async def test_a_usual_run_of_it_fails_and_says_why(engine: Engine) -> None:
    await Toolboxes(engine.ledger).register(SHOP)
    agent = endpoint_agent(await Toolboxes(engine.ledger).get("shop"))
    await Agents(engine.ledger).register(agent)

    result = await engine.finish(await engine.client.start(agent.name, "Hello."))

    assert (result.status, result.reason) == ("failed", ConfigError.code)
    assert "has no model" in (result.message or "")
