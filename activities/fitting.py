"""What of a conversation one model is given, and how much of it a summary may stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from activities.conversation import View
from activities.models.base import Provider, TurnMessage
from activities.window import TIGHT_ANSWER, Window, cut_answers, older, shortened, size_of
from horarium.definitions import Agent, ModelSettings
from horarium.errors import ConfigError, ModelError
from horarium.ledger.agents import ServedTool
from horarium.tools import ToolSpec


async def window_for(
    provider: Provider, model: str, settings: ModelSettings, instructions: str, tools: Sequence[ToolSpec]
) -> Window | None:
    """The window of an agent's model: as the agent says, else as its provider knows; None when nobody does."""
    tokens = settings.context_tokens
    if tokens is None:
        try:
            tokens = await provider.window(model, settings)
        except (ModelError, ConfigError):
            return None  # the turn itself says what is wrong
    return None if tokens is None else Window.of(tokens, settings, instructions, tools)


def offered_at_once(agent: Agent, tools: Iterable[ServedTool]) -> list[ToolSpec]:
    """About what a turn of the agent is given: with a search among them, few of its tools."""
    specs = [served.spec for served in tools]
    return specs if agent.tool_search is None else specs[: 2 * agent.tool_search.show + 1]


def fitted(view: View, window: Window | None, *, tight: bool = False) -> View:
    """The conversation with what tools said cut to the window; the whole is in the ledger.

    `tight`: a summary was made and this may still be too long for a window that nobody knows.
    """
    if window is not None:
        messages = cut_answers(view.messages, view.sizes, window.answers)
    elif tight:
        messages = [_tight(message) for message in view.messages]
    else:
        return view
    if messages is view.messages:
        return view
    sizes = [
        size if shown is said else size_of(shown)
        for said, shown, size in zip(view.messages, messages, view.sizes, strict=True)
    ]
    return replace(view, messages=messages, sizes=sizes)


def summarised(view: View, window: Window) -> int:
    """How many of the conversation's messages a summary may stand for; 0 when that would not be worth a step."""
    count = older(view.messages, view.sizes, window.kept)
    before = 0 if view.summary is None else 1  # the earlier summary is nothing new
    return count if sum(view.sizes[before:count]) > window.kept // 2 else 0


def _tight(message: TurnMessage) -> TurnMessage:
    return replace(message, text=shortened(message.text, TIGHT_ANSWER)) if message.role == "tool" else message
