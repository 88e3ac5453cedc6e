"""What every model provider speaks: one request in, one turn out.

A provider translates, it does not decide: checking the turn, telling the model what was wrong,
retrying and counting are the engine's. So `generate` is called once per attempt and retries nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from horarium.definitions import ModelSettings
from horarium.tools import ToolSpec

OnText = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RequestedCall:
    """One tool call as the model wrote it. `arguments` is the raw text, not yet known to be JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class TurnMessage:
    """One message of the conversation.

    `user` and `system` have `text`; `assistant` has `text` or `calls` (or both) and the provider's own `items`
    (such as encrypted reasoning) to be sent back as they were; `tool` has `text`, the output for `call_id`.
    The arguments of past `calls` are always valid JSON.
    """

    role: Literal["user", "system", "assistant", "tool"]
    text: str = ""
    calls: tuple[RequestedCall, ...] = ()
    call_id: str | None = None
    items: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What a provider is asked. `messages` are oldest first and must not be changed."""

    model: str
    instructions: str
    messages: list[TurnMessage]
    tools: tuple[ToolSpec, ...]
    settings: ModelSettings
    key: str
    tool_choice: Literal["auto", "required", "none"] = "auto"
    metadata: dict[str, str] = field(default_factory=dict)
    purpose: Literal["turn", "summary"] = "turn"
    answer_schema: Mapping[str, Any] | None = None  # of the final answer; the instructions say it too
    turns_before: int = 0  # of the model, that are not in `messages` because a summary stands for them


@dataclass(frozen=True, slots=True)
class Turn:
    """What the model did: text, or calls, or both.

    `finish` is `stop` (also for calls), `length` when the output limit cut it, `filtered` when it was withheld.
    `items` are sent back with the conversation, when the provider wants that. `model` is what answered.
    """

    text: str = ""
    calls: tuple[RequestedCall, ...] = ()
    finish: Literal["stop", "length", "filtered"] = "stop"
    input_tokens: int = 0
    output_tokens: int = 0
    model: str = ""
    response_id: str | None = None
    items: tuple[dict[str, Any], ...] = ()


class Provider(Protocol):
    """One kind of model server. One object per process, made in its event loop."""

    async def generate(self, request: ModelRequest, on_text: OnText | None = None) -> Turn:
        """Ask once. Cancelling it must stop the request.

        Args:
            request: The whole conversation.
            on_text: Awaited with the text so far, several times a turn, when the provider streams.

        Raises:
            ModelUnavailable: Worth another try; carries `retry_after` when the provider named a time.
            ContextLengthExceeded: The request does not fit the model's window.
            ModelRejected: Asking again will not help.
            ModelAuthFailed: The credential was not accepted.
        """
        ...

    async def window(self, model: str, settings: ModelSettings) -> int | None:
        """How many tokens a request to `model` and its answer may have; None when that is not known.

        Raises:
            ModelError: The provider had to be asked, and did not answer.
        """
        ...

    async def check(self, model: str) -> str:
        """Say in a few words that the provider can be reached and knows `model`; for `horarium doctor`.

        Raises:
            ModelError: It cannot, with a hint what to do.
        """
        ...

    async def close(self) -> None:
        """Close connections and credentials."""
        ...
