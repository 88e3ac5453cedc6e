"""Windows of models by their names, and the many ways in which servers say that a request is too long."""

from __future__ import annotations

import httpx2
import openai
import pytest

from activities.models.failures import translated
from activities.models.families import window_of
from activities.models.responses import failure
from horarium.errors import ContextLengthExceeded, ModelRejected


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("gpt-3.5-turbo", 16_385),
        ("gpt-4", 8_192),
        ("gpt-4-0613", 8_192),
        ("gpt-4-turbo", 128_000),
        ("gpt-4o-mini-2024-07-18", 128_000),
        ("openai/gpt-4.1-mini", 1_047_576),
        ("gpt-5.3", 272_000),
        ("gpt-5-chat-latest", 128_000),
        ("o4-mini", 200_000),
        ("o1-mini", 128_000),
        ("qwen3-8b", None),
    ],
)
def test_a_window_is_known_by_the_models_name(model: str, tokens: int | None) -> None:
    assert window_of(model) == tokens


def refused(status: int, code: str | None, message: str) -> openai.APIStatusError:
    response = httpx2.Response(status, request=httpx2.Request("POST", "http://model/v1"))
    return openai.APIStatusError(message, response=response, body={"code": code, "message": message})


@pytest.mark.parametrize(
    "error",
    [
        refused(400, "context_length_exceeded", "Your input exceeds the context window of this model."),
        refused(400, "400", "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens."),
        refused(400, "exceed_context_size_error", "the request exceeds the available context size"),
        refused(400, None, "prompt is too long: 210000 tokens > 200000 maximum"),
        refused(413, None, "Payload Too Large"),
        refused(422, None, "`inputs` tokens + `max_new_tokens` must be <= 4096."),
    ],
    ids=["OpenAI", "vLLM", "llama.cpp", "Anthropic", "a proxy", "TGI"],
)
def test_a_request_that_is_too_long_is_told_from_one_that_is_wrong(error: openai.APIStatusError) -> None:
    assert isinstance(translated(error), ContextLengthExceeded)
    assert "4096" not in str(translated(error)), "a provider's own words are not told"


def test_other_refusals_are_not_about_length() -> None:
    assert type(translated(refused(400, "invalid_value", "temperature must be at most 2"))) is ModelRejected


def test_a_response_that_failed_for_its_length_says_so() -> None:
    assert isinstance(failure("context_length_exceeded"), ContextLengthExceeded)
