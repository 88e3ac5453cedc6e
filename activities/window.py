"""How a conversation fits a model's window: what it takes, what a summary may stand for, what is cut.

Sizes are in tokens, estimated from the bytes (three of them a token: too many rather than too few); what a provider
has counted itself takes the place of the estimate, up to the last turn. Pure: the same messages give the same cuts, on
every worker and at every turn.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from activities.models.base import TurnMessage
from horarium.definitions import ModelSettings
from horarium.tools import ToolSpec

BYTES_PER_TOKEN = 3
NEAR = 0.8  # of what a request may have: from here on older messages are summarised
FULL = 0.95  # no request is sent that is estimated at more
LEAST_ANSWER = 60  # tokens that are left of a tool's output, however many there are
TIGHT_ANSWER = 700  # tokens left of one when a window is not known, and was too small
_OF_A_MESSAGE = 4  # tokens that a message takes besides its text
_MOST_TOOLS = 10_000
_tool_sizes: dict[tuple[str, str], int] = {}  # the same tools are offered at every turn


@dataclass(frozen=True, slots=True)
class Window:
    """What one model can be given: `tokens` in all, with room left for its answer."""

    tokens: int
    overhead: int  # instructions and tools

    @classmethod
    def of(cls, tokens: int, settings: ModelSettings, instructions: str, tools: Sequence[ToolSpec]) -> Window:
        """The window of a model with `tokens`, as an agent asks it."""
        answer = min(settings.max_output_tokens or 0, tokens // 2)
        return cls(tokens - answer, overhead_of(instructions, tools))

    @property
    def near(self) -> int:
        """From here on, older messages are summarised."""
        return int(self.tokens * NEAR)

    @property
    def full(self) -> int:
        """More is not sent."""
        return int(self.tokens * FULL)

    @property
    def room(self) -> int:
        """For messages: what instructions and tools leave, but never nothing."""
        return max(self.full - self.overhead, self.tokens // 4)

    @property
    def kept(self) -> int:
        """For the latest messages, which no summary stands for."""
        return self.room // 3

    @property
    def answers(self) -> int:
        """For the answers to the calls of one turn together."""
        return self.room // 3

    @property
    def summary(self) -> int:
        """For a summary."""
        return self.room // 6

    @property
    def piece(self) -> int:
        """For what a model is given to summarise at once."""
        return self.tokens * 4 // 5


def tokens_of(text: str) -> int:
    """An estimate of a text's tokens, rather too high than too low."""
    return (len(text) if text.isascii() else len(text.encode("utf-8", "replace"))) // BYTES_PER_TOKEN


def size_of(message: TurnMessage) -> int:
    """An estimate of a message's tokens."""
    size = tokens_of(message.text) + sum(tokens_of(call.name) + tokens_of(call.arguments) for call in message.calls)
    if message.items:
        size = max(size, tokens_of(json.dumps(message.items, ensure_ascii=False)))
    return size + _OF_A_MESSAGE


def overhead_of(instructions: str, tools: Sequence[ToolSpec]) -> int:
    """An estimate of what a request takes besides its messages."""
    return tokens_of(instructions) + sum(_size_of_tool(tool) for tool in tools)


def _size_of_tool(tool: ToolSpec) -> int:
    key = (tool.schema_digest, tool.description)
    if key not in _tool_sizes:
        if len(_tool_sizes) >= _MOST_TOOLS:
            _tool_sizes.clear()
        _tool_sizes[key] = tokens_of(f"{tool.name}{tool.description}{json.dumps(tool.parameters)}")
    return _tool_sizes[key]


def older(messages: Sequence[TurnMessage], sizes: Sequence[int], kept: int) -> int:
    """How many of the oldest messages a summary may stand for, so that the rest takes about `kept`.

    A turn stays with the answers to its calls, and what came last stays whatever it takes: its answers may still be
    to come.
    """
    begins = [index for index, message in enumerate(messages) if message.role != "tool"]
    last_turn = next((index for index in reversed(begins) if messages[index].role == "assistant"), len(messages))
    first = len(messages)
    taken = 0
    for begin in reversed(begins):
        taken += sum(sizes[begin:first])
        if taken > kept and begin < min(last_turn, begins[-1]):
            break
        first = begin
    return first if first < len(messages) else 0


def cut_answers(messages: list[TurnMessage], sizes: Sequence[int], most: int) -> list[TurnMessage]:
    """The messages with the tools' answers to one turn cut to `most` tokens together, and a note where that is."""
    shown = messages
    start = 0
    while start < len(messages):
        end = start + 1
        while end < len(messages) and messages[start].role == messages[end].role == "tool":
            end += 1
        if messages[start].role == "tool" and sum(sizes[start:end]) > most:
            shown = list(messages) if shown is messages else shown
            for index, share in zip(range(start, end), _shares(sizes[start:end], most), strict=True):
                shown[index] = replace(messages[index], text=shortened(messages[index].text, share))
        start = end
    return shown


def shortened(text: str, most: int) -> str:
    """Both ends of a text that is estimated at more than `most` tokens, and how much is missing between them."""
    if tokens_of(text) <= most:
        return text
    # By characters, as if each took as many bytes as they do on average here.
    chars = max(len(text) * most // max(tokens_of(text), 1), 80)
    head, tail = text[: chars * 2 // 3], text[-(chars // 3) :]
    missing = len(text) - len(head) - len(tail)
    return f"{head}\n[… {missing:,} characters left out here, to fit the model's window …]\n{tail}"


def _shares(sizes: Sequence[int], most: int) -> list[int]:
    """What each may take: the small ones all they want, the large ones the same of what is left."""
    shares = [0] * len(sizes)
    left = most
    by_size = sorted(range(len(sizes)), key=lambda index: sizes[index])
    for place, index in enumerate(by_size):
        shares[index] = max(min(sizes[index], left // (len(sizes) - place)), LEAST_ANSWER)
        left = max(left - shares[index], 0)
    return shares
