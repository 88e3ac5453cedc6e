"""An agent of ours is the model of another framework's agent: the OpenAI Agents SDK."""

from __future__ import annotations

import pytest
from agents import Agent, ModelSettings, OpenAIResponsesModel, RunConfig, Runner, function_tool
from pydantic import BaseModel

from tests.gateway.responses.conftest import Desk
from tests.support.engine import asks, call, says

QUIET = RunConfig(tracing_disabled=True)


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city, which the other framework looks up."""
    return f"It is cold in {city}."


class Weather(BaseModel):
    """What the other framework wants for an answer."""

    city: str
    degrees: int


@pytest.fixture
async def model(desk: Desk) -> OpenAIResponsesModel:
    """Our clerk, as the SDK's model."""
    return OpenAIResponsesModel(model="clerk", openai_client=await desk.client("operator"))


async def test_it_is_answered_and_goes_on_with_the_conversation(desk: Desk, model: OpenAIResponsesModel) -> None:
    agent = Agent(name="host", instructions="Be brief.", model=model, model_settings=ModelSettings(temperature=0.1))
    desk.says(says("It is sunny."), says("Tomorrow as well."))

    first = await Runner.run(agent, "How is the weather?", run_config=QUIET)
    said = [*first.to_input_list(), {"role": "user", "content": "And tomorrow?"}]
    second = await Runner.run(agent, said, run_config=QUIET)  # type: ignore[arg-type]
    third = await Runner.run(agent, "Sure?", run_config=QUIET, previous_response_id=second.last_response_id)

    assert (first.final_output, second.final_output) == ("It is sunny.", "Tomorrow as well.")
    assert third.final_output == "Tomorrow as well."
    usage = first.context_wrapper.usage
    assert (usage.input_tokens, usage.output_tokens) == (10, 5)
    told = desk.engine.model.heard(1)[-1][1]
    places = [told.index(words) for words in ("Be brief.", "Assistant: It is sunny.", "And tomorrow?")]
    assert places == sorted(places)


async def test_its_stream_is_put_together(desk: Desk, model: OpenAIResponsesModel) -> None:
    agent = Agent(name="host", model=model)
    desk.says(says("The quick brown fox jumps over the lazy dog."))

    run = Runner.run_streamed(agent, "Go.", run_config=QUIET)
    kinds = [event.data.type async for event in run.stream_events() if event.type == "raw_response_event"]

    assert run.final_output == "The quick brown fox jumps over the lazy dog."
    assert kinds.count("response.output_text.delta") == 2
    assert kinds[-1] == "response.completed"


async def test_an_answer_of_a_type_is_one(desk: Desk, model: OpenAIResponsesModel) -> None:
    agent = Agent(name="host", model=model, output_type=Weather)
    desk.says(says('{"city": "Salzburg", "degrees": 21}'))

    result = await Runner.run(agent, "How is the weather?", run_config=QUIET)

    assert result.final_output == Weather(city="Salzburg", degrees=21)


@pytest.mark.parametrize("streamed", [False, True], ids=["at-once", "streamed"])
async def test_it_carries_out_its_own_functions(desk: Desk, model: OpenAIResponsesModel, streamed: bool) -> None:
    agent = Agent(name="host", model=model, tools=[get_weather])
    desk.says(asks(call("get_weather", city="Oslo")), says("Take a coat."))

    if streamed:
        run = Runner.run_streamed(agent, "How is Oslo?", run_config=QUIET)
        async for _ in run.stream_events():
            pass
        answer = run.final_output
    else:
        answer = (await Runner.run(agent, "How is Oslo?", run_config=QUIET)).final_output

    assert answer == "Take a coat."
    assert ("tool", "It is cold in Oslo.") in desk.engine.model.heard()
    assert len(await desk.engine.client.runs()) == 1
