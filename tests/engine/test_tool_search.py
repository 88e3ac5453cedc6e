"""Tool search on a real server: what a turn shows, what `find_tools` finds, and what may be called."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment

from activities.models.base import ModelRequest, Turn
from horarium import embeddings
from horarium.definitions import Agent, ApprovalRule, ToolSearch
from horarium.errors import ConfigError
from horarium.tools import Effect, Tool, ToolContext, tool
from tests.support.engine import Engine, asks, call, running_engine, says

SUBJECTS = (
    *("invoice", "parcel", "weather", "holiday", "contract", "meeting", "recipe", "train", "server", "newspaper"),
    *("garden", "printer", "passport", "lecture", "football", "museum", "bicycle", "concert", "library", "harbour"),
)
SHOW = 3


class Office:
    """Forty tools, of which some do something."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []

    def tools(self) -> list[Tool]:
        """For each subject one that looks and one that files."""
        return [made for subject in SUBJECTS for made in (self._look(subject), self._file(subject))]

    def _look(self, subject: str) -> Tool:
        def look(number: int, context: ToolContext) -> str:
            self.done.append((f"look_up_{subject}", context.idempotency_key))
            return f"{subject} {number} is fine"

        look.__name__, look.__doc__ = f"look_up_{subject}", f"Tell what is known of a {subject}."
        return tool(effect=Effect.READ)(look)

    def _file(self, subject: str) -> Tool:
        def file(number: int, context: ToolContext) -> str:
            self.done.append((f"file_{subject}", context.idempotency_key))
            return "filed"

        file.__name__, file.__doc__ = f"file_{subject}", f"Put a {subject} away.\n- not_a_tool: just a line"
        return tool(effect=Effect.EXTERNAL)(file)


def secretary(**more: object) -> Agent:
    names = [name for subject in SUBJECTS for name in (f"look_up_{subject}", f"file_{subject}")]
    return Agent("secretary", model="scripted:x", tools=names, tool_search=ToolSearch(show=SHOW), **more)  # type: ignore[arg-type]


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
async def engine(env: WorkflowEnvironment, tmp_path: Path, office: Office) -> AsyncIterator[Engine]:
    async with running_engine(env, tmp_path, office.tools()) as engine:
        yield engine


def shown(request: ModelRequest) -> list[str]:
    return [spec.name for spec in request.tools]


async def test_a_turn_shows_find_tools_and_the_few_that_fit_what_was_asked(engine: Engine) -> None:
    run = await engine.start(secretary(), says(), input="Where is the parcel?")
    await engine.finish(run)

    [request] = engine.model.requests
    assert shown(request) == ["look_up_parcel", "file_parcel", "find_tools"]


async def test_an_agent_without_tool_search_is_shown_all(engine: Engine) -> None:
    agent = Agent("secretary", model="scripted:x", tools=list(secretary().tools))
    await engine.finish(await engine.start(agent, says(), input="Where is the parcel?"))

    assert len(engine.model.requests[0].tools) == len(agent.tools)
    assert "find_tools" not in shown(engine.model.requests[0])


async def test_few_tools_are_shown_whole(engine: Engine) -> None:
    agent = Agent("small", model="scripted:x", tools=["look_up_train", "file_train"], tool_search=True)
    await engine.finish(await engine.start(agent, says(), input="Hello."))

    assert shown(engine.model.requests[0]) == ["look_up_train", "file_train", "find_tools"]


async def test_what_find_tools_finds_is_shown_from_the_next_turn_on_and_can_be_called(
    engine: Engine, office: Office
) -> None:
    run = await engine.start(
        secretary(),
        asks(call("find_tools", query="get to know about a passport")),
        asks(call("look_up_passport", "call_2", number=4)),
        says("Fine."),
        input="Where is the parcel?",
    )
    assert (await engine.finish(run)).status == "completed"

    first, second, third = engine.model.requests
    assert "look_up_passport" not in shown(first)
    assert {"look_up_passport", "file_passport", "look_up_parcel"} <= set(shown(second))
    assert "look_up_passport" in shown(third)
    [(_, answer)] = [(role, text) for role, text in engine.model.heard(1) if role == "tool"]
    lines = answer.splitlines()
    assert lines[0] == "These fit, the best first. From your next turn on you can call them:"
    assert "- look_up_passport: Tell what is known of a passport." in lines
    assert len(lines) <= 11
    assert not any(line.startswith("- not_a_tool") for line in lines)
    assert [name for name, _ in office.done] == ["look_up_passport"]
    [step] = [step for step in await run.steps() if step.name == "find_tools"]
    assert (step.kind, step.status, step.effect) == ("tool_call", "completed", "read")


async def test_find_tools_says_when_nothing_fits(engine: Engine) -> None:
    run = await engine.start(secretary(), asks(call("find_tools", query="xylophone")), says())
    await engine.finish(run)

    assert engine.model.heard(1)[-1] == (
        "tool",
        "No tool fits these words. Say in other words what it should do, or go on without.",
    )


async def test_a_tool_that_was_not_shown_can_be_called_and_is_checked_like_any_other(
    engine: Engine, office: Office
) -> None:
    run = await engine.start(
        secretary(),
        asks(call("look_up_harbour", number="seven")),
        asks(call("look_up_harbour", "call_2", number=7)),
        asks(call("look_up_moon", "call_3", number=7)),
        says(),
        input="Where is the parcel?",
    )
    assert (await engine.finish(run)).status == "completed"

    assert "look_up_harbour" not in shown(engine.model.requests[0])
    assert "do not fit 'look_up_harbour'" in engine.model.heard(1)[-1][1]
    assert engine.model.heard(3)[-1][1] == (
        "Error: there is no tool 'look_up_moon' here. Look for the one that you need with find_tools."
    )
    assert [name for name, _ in office.done] == ["look_up_harbour"]


async def test_a_found_tool_with_a_side_effect_still_waits_for_a_person(engine: Engine, office: Office) -> None:
    run = await engine.start(
        secretary(),
        asks(call("find_tools", query="put a contract away")),
        asks(call("file_contract", "call_2", number=1)),
        says(),
    )
    await engine.until(run, "requires_action")
    [approval] = [approval for approval in await run.approvals() if approval.status == "pending"]
    assert (approval.tool, office.done) == ("file_contract", [])

    await run.approve(approval, by="ana")

    assert (await engine.finish(run)).status == "completed"
    assert [name for name, _ in office.done] == ["file_contract"]


async def test_what_was_called_stays_in_sight_when_the_conversation_turns_elsewhere(engine: Engine) -> None:
    run = await engine.start(
        secretary(), asks(call("look_up_museum", number=1)), says("It opens at nine."), input="Which museum is open?"
    )
    result = await engine.finish(run)
    assert result.status == "completed"
    thread = (await run.status()).thread

    again = await engine.start(secretary(), says(), input="And the football? The football, I mean.", thread=thread)
    await engine.finish(again)

    assert {"look_up_football", "file_football", "look_up_museum"} <= set(shown(engine.model.requests[0]))


async def test_a_turn_that_is_tried_again_shows_the_same(engine: Engine) -> None:
    run = await engine.start(
        secretary(),
        asks(call("find_tools", query="bicycle or train or concert or library")),
        ConnectionError("reset by peer"),
        says(),
        input="Where is the parcel?",
    )
    assert (await engine.finish(run)).status == "completed"

    _, failed, repeated = engine.model.requests
    assert shown(failed) == shown(repeated)
    assert failed.messages == repeated.messages
    assert "look_up_bicycle" in shown(failed)


async def test_what_is_shown_stays_bounded_however_much_is_found_and_called(engine: Engine) -> None:
    searches = [
        asks(call("find_tools", f"call_{number}", query=f"{subject} look up"))
        for number, subject in enumerate(SUBJECTS)
    ]
    calls = [asks(call(f"look_up_{subject}", f"again_{number}", number=1)) for number, subject in enumerate(SUBJECTS)]
    run = await engine.start(secretary(), *searches, *calls, says(), input="All of it, please.")
    assert (await engine.finish(run)).status == "completed"

    assert max(len(request.tools) for request in engine.model.requests) <= 1 + SHOW + 10 + 10


async def test_the_embedding_finds_what_shares_no_word(engine: Engine) -> None:
    agent = secretary().model_copy(update={"tool_search": ToolSearch(show=SHOW, ranking="embedding")})
    await engine.finish(await engine.start(agent, says(), input="Is it going to rain on my bike ride?"))

    assert len(shown(engine.model.requests[0])) == SHOW + 1
    assert {"look_up_weather", "look_up_bicycle"} & set(shown(engine.model.requests[0]))


async def test_a_plan_that_asks_about_every_tool_does_not_ask_about_looking_for_one(
    engine: Engine, office: Office
) -> None:
    agent = secretary(approvals=[ApprovalRule(tools=("*",), required=1)])
    searching, looking = call("find_tools", query="train"), call("look_up_train", "call_2", number=1)
    run = await engine.start(agent, asks(searching), asks(looking), says())
    await engine.until(run, "requires_action")

    [approval] = await run.approvals()
    assert (approval.tool, office.done) == ("look_up_train", [])
    await run.approve(approval, by="ana")
    assert (await engine.finish(run)).status == "completed"


async def test_a_run_whose_ranking_is_not_installed_fails_and_says_what_to_install(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wordllama", None)
    embeddings._model.cache_clear()
    agent = secretary().model_copy(update={"tool_search": ToolSearch(show=SHOW, ranking="embedding")})

    result = await engine.finish(await engine.start(agent, says()))

    assert result.status == "failed"
    assert "pip install 'horarium[search]'" in (result.message or "")
    assert engine.model.requests == []


async def test_two_runs_search_side_by_side(engine: Engine) -> None:
    def look_around(request: ModelRequest) -> Turn:
        return says() if request.messages[-1].role == "tool" else asks(call("find_tools", query="concert"))

    runs = [await engine.start(secretary(), look_around, input="Go.") for _ in range(2)]

    assert [result.status for result in await asyncio.gather(*map(engine.finish, runs))] == ["completed", "completed"]


def test_a_procedure_shows_its_next_tool_and_searches_nothing() -> None:
    with pytest.raises((ConfigError, ValueError), match="tool_search"):
        secretary(procedure=["look_up_train"])
