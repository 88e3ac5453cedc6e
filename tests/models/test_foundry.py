"""The `foundry` provider: the real Azure and OpenAI SDKs against the emulator."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from email.utils import formatdate
from time import time
from typing import Any

import pytest

from activities.models.base import RequestedCall, TurnMessage
from activities.models.foundry import FoundryProvider
from horarium.errors import ConfigError, ModelAuthFailed, ModelRejected, ModelUnavailable
from horarium.settings import FoundrySettings
from tests.emulator.server import Fault, FoundryEmulator
from tests.emulator.wire import call, message, reasoning
from tests.models.asking import read_log, request


async def test_text_streams_and_the_turn_says_what_it_used(emulator: FoundryEmulator, foundry: FoundryProvider) -> None:
    seen: list[str] = []

    async def on_text(text: str) -> None:
        seen.append(text)

    turn = await foundry.generate(request(), on_text)

    assert turn.text == "Hello from the emulator." == seen[-1]
    assert len(seen) > 2
    assert (turn.input_tokens, turn.output_tokens, turn.model, turn.response_id) == (11, 7, "gpt-5.3", "resp_1")
    assert emulator.asked[0]["store"] is False
    assert emulator.asked[0]["metadata"] == {"horarium_run": "run_1", "horarium_key": "horarium/run_1/turn-1"}
    assert emulator.headers[0]["idempotency-key"] == "horarium/run_1/turn-1"


async def test_a_conversation_with_calls_and_reasoning_goes_back_as_it_came(
    emulator: FoundryEmulator, foundry: FoundryProvider
) -> None:
    items = [reasoning("gAAA"), call("read_log", '{"path": "a"}', "c1"), call("read_log", '{"path": "b"}', "c2")]
    emulator.answers = [items, [message("Both are fine.")]]
    asked = TurnMessage("user", "Compare a and b.")

    first = await foundry.generate(request(asked, tools=(read_log.spec,), tool_choice="required"))
    said = TurnMessage("assistant", calls=first.calls, items=first.items)
    answers = [TurnMessage("tool", f"log of {name}", call_id=name) for name in ("c1", "c2")]
    second = await foundry.generate(request(asked, said, *answers, tools=(read_log.spec,)))

    assert first.calls == (
        RequestedCall("c1", "read_log", '{"path": "a"}'),
        RequestedCall("c2", "read_log", '{"path": "b"}'),
    )
    assert second.text == "Both are fine."
    assert emulator.asked[0]["tool_choice"] == "required"
    assert emulator.asked[0]["tools"][0]["strict"] is False
    assert emulator.asked[0]["include"] == ["reasoning.encrypted_content"]
    assert emulator.asked[1]["input"][1:4] == items
    assert emulator.asked[1]["input"][4]["call_id"] == "c1"


async def test_calls_the_engine_renamed_are_sent_back_under_their_new_ids(
    emulator: FoundryEmulator, foundry: FoundryProvider
) -> None:
    items = (call("read_log", "{not json", "same"), call("read_log", "{}", "same"))
    calls = (RequestedCall("same", "read_log", "{}"), RequestedCall("same.1", "read_log", "{}"))
    answers = [TurnMessage("tool", "Error", call_id=each.id) for each in calls]

    await foundry.generate(
        request(TurnMessage("user", "Go."), TurnMessage("assistant", calls=calls, items=items), *answers)
    )

    sent = [item for item in emulator.asked[0]["input"] if item.get("type") == "function_call"]
    assert [(item["call_id"], item["arguments"]) for item in sent] == [("same", "{}"), ("same.1", "{}")]


async def test_the_family_is_that_of_the_deployed_model_and_looked_up_once(
    emulator: FoundryEmulator, foundry: FoundryProvider
) -> None:
    settings: dict[str, Any] = {"temperature": 0.5, "reasoning_effort": "low", "max_output_tokens": 99}

    for model in ("main", "main", "old"):
        await foundry.generate(request(model=model, **settings))

    reasoner, _, chatty = emulator.asked
    assert "temperature" not in reasoner
    assert reasoner["reasoning"] == {"effort": "low"}
    assert chatty["temperature"] == 0.5
    assert "reasoning" not in chatty
    assert reasoner["max_output_tokens"] == chatty["max_output_tokens"] == 99
    assert emulator.lookups == 2


async def test_a_parameter_that_is_refused_by_name_is_left_out_once_and_from_then_on(
    emulator: FoundryEmulator, foundry: FoundryProvider
) -> None:
    for _ in range(2):
        turn = await foundry.generate(request(temperature=0.5, family="unheard-of"))

    assert turn.text == "Hello from the emulator."
    assert ["temperature" in asked for asked in emulator.asked] == [True, False, False]
    assert emulator.lookups == 0


async def test_a_second_refused_parameter_is_not_guessed_at(
    emulator: FoundryEmulator, foundry: FoundryProvider
) -> None:
    with pytest.raises(ModelRejected, match="top_p"):
        await foundry.generate(request(temperature=0.5, top_p=0.5, family="unheard-of"))

    assert len(emulator.asked) == 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": formatdate(time() + 3600 * 24 * 400, usegmt=True)}, 3600),
        ({"retry-after": "1000000000"}, 3600),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
async def test_a_throttled_turn_says_how_long_to_wait_but_never_above_an_hour(
    emulator: FoundryEmulator, foundry: FoundryProvider, headers: dict[str, str], seconds: float | None
) -> None:
    emulator.faults = [Fault(status=429, headers=headers)]

    with pytest.raises(ModelUnavailable) as caught:
        await foundry.generate(request())

    assert caught.value.throttled
    assert caught.value.retry_after == (None if seconds is None else timedelta(seconds=seconds))
    assert len(emulator.asked) == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(status=500), ModelUnavailable),
        (Fault(status=503, headers={"retry-after": "1"}), ModelUnavailable),
        (Fault(status=408), ModelUnavailable),
        (Fault(status=400), ModelRejected),
        (Fault(status=413), ModelRejected),
        (Fault(status=422), ModelRejected),
        (Fault(status=403), ModelAuthFailed),
        (Fault(status=429, code="insufficient_quota"), ModelRejected),
        (Fault(cut_after=6), ModelUnavailable),
        (Fault(stall_after=4), ModelUnavailable),
        (Fault(stall_first=True), ModelUnavailable),
        (Fault(ends="failed", reason="server_error"), ModelUnavailable),
        (Fault(ends="failed", reason="rate_limit_exceeded"), ModelUnavailable),
        (Fault(ends="failed", reason="invalid_prompt"), ModelRejected),
    ],
    ids=str,
)
async def test_each_fault_is_asked_once_and_told_without_prompt_or_token(
    emulator: FoundryEmulator, foundry: FoundryProvider, fault: Fault, error: type[Exception]
) -> None:
    emulator.faults = [fault]

    with pytest.raises(error) as caught:
        await foundry.generate(request())

    assert len(emulator.asked) == 1
    assert "secret" not in str(caught.value)
    assert emulator.token not in str(caught.value)


async def test_a_turn_that_takes_too_long_in_all_is_unavailable(
    emulator: FoundryEmulator, foundry: FoundryProvider
) -> None:
    emulator.faults = [Fault(stall_after=4)]

    with pytest.raises(ModelUnavailable, match="no whole turn"):
        await foundry.generate(request(timeout=timedelta(seconds=1)))


@pytest.mark.parametrize(("reason", "finish"), [("max_output_tokens", "length"), ("content_filter", "filtered")])
async def test_an_incomplete_turn_says_why_and_makes_no_calls(
    emulator: FoundryEmulator, foundry: FoundryProvider, reason: str, finish: str
) -> None:
    emulator.answers = [[message("Half a"), call("read_log", '{"pa')]]
    emulator.faults = [Fault(ends="incomplete", reason=reason)]

    turn = await foundry.generate(request(tools=(read_log.spec,)))

    assert (turn.finish, turn.text, turn.calls, turn.items) == (finish, "Half a", (), ())


async def test_a_prompt_that_the_filter_stops_is_a_filtered_turn(
    emulator: FoundryEmulator, foundry: FoundryProvider
) -> None:
    emulator.faults = [Fault(status=400, code="content_filter")]

    assert (await foundry.generate(request())).finish == "filtered"


async def test_a_refusal_is_what_the_model_says(emulator: FoundryEmulator, foundry: FoundryProvider) -> None:
    emulator.answers = [[message("I will not do that.", refusal=True)]]

    assert (await foundry.generate(request())).text == "I will not do that."


async def test_cancelling_closes_the_connection(emulator: FoundryEmulator, foundry: FoundryProvider) -> None:
    emulator.faults = [Fault(stall_after=6)]
    streaming = asyncio.Event()

    async def on_text(text: str) -> None:
        streaming.set()

    task = asyncio.create_task(foundry.generate(request(), on_text))
    await asyncio.wait_for(streaming.wait(), 10)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(emulator.closed_early.wait, 10)


async def test_many_turns_use_one_token(emulator: FoundryEmulator, foundry: FoundryProvider) -> None:
    await asyncio.gather(*(foundry.generate(request(family="gpt-5.3")) for _ in range(5)))
    await foundry.generate(request())

    assert {asked["resource"] for asked in emulator.token_requests} == {"https://ai.azure.com"}
    assert len(emulator.token_requests) <= 2


async def test_a_token_the_project_does_not_take_is_an_auth_failure(
    emulator: FoundryEmulator, foundry: FoundryProvider
) -> None:
    emulator.token = "a-stranger's"

    for family in (None, "gpt-5.3"):
        with pytest.raises(ModelAuthFailed) as caught:
            await foundry.generate(request(family=family))
        assert "stranger" not in str(caught.value)


async def test_an_identity_that_gets_no_token_is_an_auth_failure(
    emulator: FoundryEmulator, foundry: FoundryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDENTITY_HEADER", "wrong")

    with pytest.raises(ModelAuthFailed):
        await foundry.generate(request())


async def test_check_names_the_deployed_model_or_says_that_there_is_none(foundry: FoundryProvider) -> None:
    assert await foundry.check("main") == "deployment main is gpt-5.3"
    with pytest.raises(ModelRejected, match="404"):
        await foundry.check("nonesuch")


async def test_a_project_without_endpoint_or_credential_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_TOKEN_CREDENTIALS", raising=False)

    with pytest.raises(ConfigError, match=r"models\.foundry\.endpoint"):
        await FoundryProvider(FoundrySettings()).check("main")
    with pytest.raises(ConfigError, match="AZURE_TOKEN_CREDENTIALS"):
        await FoundryProvider(FoundrySettings(endpoint="https://localhost/api/projects/p")).check("main")
