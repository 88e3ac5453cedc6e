"""Which model takes which parameters, decided from the model's own name.

Never from a deployment's name, which is free text. What is not known is sent as the agent says; a provider that
refuses a parameter names it, and is asked once more without (`without`).

Source: error texts and parameter tables of OpenAI and Azure OpenAI, read 2026-11.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from horarium.definitions import ModelSettings

Api = Literal["responses", "chat"]

_CHATTY = re.compile(r"^(gpt-3|gpt-4|chatgpt|gpt-\d+(\.\d+)?.*-chat)")
_REASONING = re.compile(r"^(o\d|gpt-([5-9]|\d\d))")
_O_SERIES = re.compile(r"^o\d")

# The first that fits. Of models that take less than their window as input, what they take.
_WINDOWS: tuple[tuple[re.Pattern[str], int], ...] = tuple(
    (re.compile(pattern), tokens)
    for pattern, tokens in (
        (r"gpt-3\.5-turbo", 16_385),
        (r"gpt-4-32k", 32_768),
        (r"gpt-4\.1", 1_047_576),
        (r"gpt-4o|gpt-4\.5|gpt-4-turbo|gpt-4-(0125|1106)|chatgpt", 128_000),
        (r"gpt-4(-\d{4})?$", 8_192),
        (r"gpt-\d+(\.\d+)?.*-chat", 128_000),
        (r"gpt-([5-9]|\d\d)", 272_000),  # of 400,000, the rest is for output; newer ones take no less
        (r"o1-(mini|preview)", 128_000),
        (r"o\d", 200_000),
    )
)


@dataclass(frozen=True, slots=True)
class Family:
    """What a kind of model can be told."""

    name: Literal["chat", "reasoning", "unknown"]
    samples: bool  # temperature, top_p
    reasons: bool  # reasoning_effort
    verbosity: bool
    parallel: bool  # parallel_tool_calls
    instructions_role: Literal["developer", "system"]
    chat_limit: Literal["max_completion_tokens", "max_tokens"]


CHAT = Family("chat", True, False, False, True, "system", "max_completion_tokens")
REASONING = Family("reasoning", False, True, True, True, "developer", "max_completion_tokens")
O_SERIES = Family("reasoning", False, True, False, False, "developer", "max_completion_tokens")
UNKNOWN = Family("unknown", True, True, True, True, "system", "max_tokens")


def family_of(model: str) -> Family:
    """The family of a model by its own name, such as `gpt-5.3` or `openai/o4-mini`."""
    name = model.rpartition("/")[2].lower()
    if _CHATTY.match(name):
        return CHAT
    if _O_SERIES.match(name):
        return O_SERIES
    return REASONING if _REASONING.match(name) else UNKNOWN


def window_of(model: str) -> int | None:
    """How many tokens a request to a model may have, by the model's own name; None when it is not known."""
    name = model.rpartition("/")[2].lower()
    return next((tokens for pattern, tokens in _WINDOWS if pattern.match(name)), None)


def parameters(family: Family, settings: ModelSettings, api: Api, *, tools: bool) -> dict[str, Any]:
    """The settings that this family knows, under the names that this API has for them."""
    chosen: dict[str, Any] = {}
    if family.samples:
        chosen |= {"temperature": settings.temperature, "top_p": settings.top_p}
    limit = "max_output_tokens" if api == "responses" else family.chat_limit
    chosen[limit] = settings.max_output_tokens
    if family.reasons and settings.reasoning_effort is not None:
        if api == "responses":
            chosen["reasoning"] = {"effort": settings.reasoning_effort}
        else:
            chosen["reasoning_effort"] = settings.reasoning_effort
    if family.verbosity and settings.verbosity is not None:
        if api == "responses":
            chosen["text"] = {"verbosity": settings.verbosity}
        else:
            chosen["verbosity"] = settings.verbosity
    if family.parallel and tools:
        chosen["parallel_tool_calls"] = settings.parallel_tool_calls
    return {name: value for name, value in chosen.items() if value is not None}


def without(body: dict[str, Any], parameter: str) -> dict[str, Any] | None:
    """The request without the parameter that was refused, such as `reasoning.effort`; None when it is not in it."""
    name, _, rest = parameter.partition(".")
    if name in ("model", "input", "messages", "stream") or name not in body:
        return None
    left = {key: value for key, value in body.items() if key != name}
    if rest and isinstance(body[name], dict):
        inner = {key: value for key, value in body[name].items() if key != rest.partition(".")[0]}
        if inner:
            left[name] = inner
    return left
