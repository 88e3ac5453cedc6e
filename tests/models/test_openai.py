"""The `openai` provider: chat completions, and any base URL, against the emulator."""

from __future__ import annotations

import pytest

from activities.models.base import RequestedCall, TurnMessage
from activities.models.local import _packaged_weights
from activities.models.openai import OpenAIProvider
from horarium.errors import ConfigError, ModelAuthFailed, ModelUnavailable
from horarium.settings import OpenAISettings
from tests.emulator.server import TOKEN, Fault, FoundryEmulator
from tests.emulator.wire import call, message
from tests.models.asking import read_log, request


async def test_calls_and_their_answers_travel_both_ways(emulator: FoundryEmulator, chat: OpenAIProvider) -> None:
    emulator.answers = [[message("Looking."), call("read_log", '{"path": "a"}')], [message("Fine.")]]
    asked = TurnMessage("user", "Check a.")

    first = await chat.generate(request(asked, tools=(read_log.spec,), tool_choice="required"))
    said = TurnMessage("assistant", text=first.text, calls=first.calls)
    second = await chat.generate(request(asked, said, TurnMessage("tool", "all good", call_id="call_1")))

    assert first.text == "Looking."
    assert first.calls == (RequestedCall("call_1", "read_log", '{"path": "a"}'),)
    assert (second.text, second.input_tokens, second.output_tokens) == ("Fine.", 11, 7)
    assert emulator.asked[0]["tool_choice"] == "required"
    assert [sent["role"] for sent in emulator.asked[1]["messages"]] == ["system", "user", "assistant", "tool"]
    assert emulator.asked[1]["messages"][2]["tool_calls"][0]["function"]["arguments"] == '{"path": "a"}'
    assert emulator.headers[0]["idempotency-key"] == "horarium/run_1/turn-1"


async def test_text_streams_from_chat_completions(emulator: FoundryEmulator, chat: OpenAIProvider) -> None:
    seen: list[str] = []

    async def on_text(text: str) -> None:
        seen.append(text)

    await chat.generate(request(), on_text)

    assert seen[0] == "Hello"
    assert seen[-1] == "Hello from the emulator."


async def test_an_output_limit_a_model_calls_otherwise_is_left_out(
    emulator: FoundryEmulator, chat: OpenAIProvider
) -> None:
    await chat.generate(request(max_output_tokens=50, family="unheard-of"))

    assert ["max_tokens" in asked for asked in emulator.asked] == [True, False]


@pytest.mark.parametrize(("reason", "finish"), [("length", "length"), ("content_filter", "filtered")])
async def test_a_cut_completion_says_why(
    emulator: FoundryEmulator, chat: OpenAIProvider, reason: str, finish: str
) -> None:
    emulator.faults = [Fault(reason=reason)]

    assert (await chat.generate(request())).finish == finish


async def test_a_completion_that_breaks_off_is_unavailable(emulator: FoundryEmulator, chat: OpenAIProvider) -> None:
    emulator.faults = [Fault(cut_after=3)]

    with pytest.raises(ModelUnavailable, match="broke off"):
        await chat.generate(request())


async def test_a_wrong_key_is_an_auth_failure_that_does_not_tell_it(
    chat: OpenAIProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMULATED_KEY", "sk-mine")

    with pytest.raises(ModelAuthFailed) as caught:
        await chat.generate(request())

    assert "sk-mine" not in str(caught.value)


async def test_a_key_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)

    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        await OpenAIProvider(OpenAISettings(api_key="${NO_SUCH_KEY}")).generate(request())


async def test_a_server_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMULATED_KEY", TOKEN)
    provider = OpenAIProvider(OpenAISettings(base_url="http://127.0.0.1:1/v1", api_key="${EMULATED_KEY}"))

    with pytest.raises(ModelUnavailable, match="connection"):
        await provider.generate(request())

    await provider.close()


async def test_a_real_llama_cpp_server_answers_by_chat_completions(monkeypatch: pytest.MonkeyPatch) -> None:
    xllamacpp = pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    monkeypatch.setenv("EMULATED_KEY", TOKEN)
    params = xllamacpp.CommonParams()
    params.model.path = str(_packaged_weights())
    params.n_ctx, params.n_parallel, params.verbosity, params.api_keys = 512, 1, -1, [TOKEN]
    server = xllamacpp.Server(params)
    settings = OpenAISettings(base_url=f"{server.listening_address}/v1", api_key="${EMULATED_KEY}", api="chat")
    provider = OpenAIProvider(settings)

    turn = await provider.generate(request(TurnMessage("user", "Say hello."), max_output_tokens=6))
    await provider.close()

    assert (turn.finish, turn.output_tokens) == ("length", 6)
    assert turn.text


async def test_check_asks_for_the_model(chat: OpenAIProvider) -> None:
    assert "knows gpt-4.1" in await chat.check("gpt-4.1")
