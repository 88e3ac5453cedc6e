"""What the openai client raises, as errors of ours.

Only statuses and codes are told: a provider's own message may quote the prompt, or the key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import openai

from horarium.errors import ContextLengthExceeded, ModelAuthFailed, ModelError, ModelRejected, ModelUnavailable

_TOO_LONG_CODES = ("context_length_exceeded", "exceed_context_size_error", "string_above_max_length")
# vLLM, SGLang and OpenRouter; llama.cpp; TGI; Gemini and Anthropic behind compatible endpoints. Read 2026-11.
_TOO_LONG_WORDS = re.compile(
    r"maximum context length|exceeds? the (available )?context|context (length|window|size) (exceeded|is exceeded)"
    r"|longer than the model's context|input token count .{0,40}exceeds|prompt is too long"
    r"|`inputs` tokens \+ `max_new_tokens` must be",
    re.I,
)
MOST_WAIT = timedelta(hours=1)  # a server that says "in thirty years" is not obeyed


def translated(error: openai.OpenAIError) -> ModelError:
    """The error to raise for one of the openai client."""
    match error:
        case openai.APITimeoutError():
            return ModelUnavailable("The model did not answer in time.")
        case openai.APIConnectionError():
            return ModelUnavailable("The connection to the model was refused or broke off.")
        case openai.APIStatusError():
            return _of_status(error)
        case openai.APIError():
            code = str(error.code or "no code given")
            if _is_too_long(code, str(error.message)):
                return _too_long()
            rejected = code in ("invalid_prompt", "invalid_request_error")
            return (ModelRejected if rejected else ModelUnavailable)(f"The model failed in mid-answer: {code}.")
        case _:
            return ModelUnavailable(f"The model's client failed: {type(error).__name__}.")


def _too_long() -> ContextLengthExceeded:
    return ContextLengthExceeded("The conversation does not fit the model's window.")


def _is_too_long(code: str, message: str) -> bool:
    """Whether an error means that a request is too long: OpenAI has a code for it, other servers only words."""
    return code in _TOO_LONG_CODES or _TOO_LONG_WORDS.search(message) is not None


def _of_status(error: openai.APIStatusError) -> ModelError:
    status, code = error.status_code, error.code or error.type
    about = f" {status}" + (f" ({code})" if code else "") + (f", parameter {error.param!r}" if error.param else "")
    if status in (401, 403):
        return ModelAuthFailed(
            f"The provider did not accept the credential:{about}.", hint="Check the key, or the identity's roles."
        )
    if status == 429 and error.code == "insufficient_quota":
        return ModelRejected("The account has no quota left.", hint="Waiting does not help; see the provider's bill.")
    if status in (408, 409, 429) or status >= 500:
        return ModelUnavailable(
            f"The provider answered{about}.",
            retry_after=retry_after(error.response.headers),
            throttled=status == 429,
        )
    if status == 413 or (status in (400, 422) and _is_too_long(str(error.code or error.type), str(error.message))):
        return _too_long()
    hint = "Does the model or deployment exist?" if status == 404 else None
    return ModelRejected(f"The provider refused the request:{about}.", hint=hint)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> timedelta | None:
    """The time to wait that a provider named: milliseconds, seconds or an HTTP date; at most an hour."""
    for name, unit in (("retry-after-ms", 0.001), ("x-ms-retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            seconds = _until(value, now or datetime.now(UTC)) if unit == 1.0 else math.nan
        if not math.isnan(seconds):
            return timedelta(seconds=min(max(seconds, 0.0), MOST_WAIT.total_seconds()))
    return None


def _until(date: str, now: datetime) -> float:
    try:
        when = parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return math.nan
    return (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds()
