"""Requests and tools for the tests of the providers."""

from __future__ import annotations

from typing import Any, Literal

from activities.models.base import ModelRequest, TurnMessage
from horarium.definitions import ModelSettings
from horarium.tools import ToolSpec, tool


@tool(effect="read")
def read_log(path: str) -> str:
    """Read a log file.

    Args:
        path: The file to read.
    """
    return path


@tool
def open_ticket(title: str, evidence: str, severity: Literal["low", "high"]) -> str:
    """Open a ticket.

    Args:
        title: What failed, in one line.
        evidence: The lines of the log that show it.
        severity: How bad it is.
    """
    return title + evidence + severity


def request(
    *messages: TurnMessage,
    model: str = "main",
    tools: tuple[ToolSpec, ...] = (),
    tool_choice: Literal["auto", "required", "none"] = "auto",
    answer_schema: dict[str, Any] | None = None,
    **settings: Any,
) -> ModelRequest:
    return ModelRequest(
        model=model,
        instructions="You triage build logs. Find what failed, and open one ticket for it.",
        messages=list(messages) or [TurnMessage("user", "Hello?")],
        tools=tools,
        settings=ModelSettings(**settings),
        key="horarium/run_1/turn-1",
        tool_choice=tool_choice,
        metadata={"horarium_run": "run_1"},
        answer_schema=answer_schema,
    )
