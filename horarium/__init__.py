"""Horarium: a durable engine for agent runs, on Temporal.

This is the public API; everything else may move. What talks to servers is imported when it is first used,
so that a module which only defines tools and agents starts fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from horarium.contract import Approval, ApprovalState, CallerFunction, Decision, RunResult, RunStatus
from horarium.definitions import Agent, Limits, Memory, ModelSettings, Rubric, ToolSearch
from horarium.errors import (
    AgentNotFound,
    AlreadyRunning,
    ApprovalAlreadyDecided,
    ApprovalNotFound,
    ConfigError,
    Conflict,
    DigestMismatch,
    HorariumError,
    MemoryNotFound,
    NotFound,
    RoutineNotFound,
    RunExists,
    RunNotFound,
    ThreadBusy,
    ThreadNotFound,
    ToolboxNotFound,
    ToolChanged,
    ToolError,
    ToolNotReached,
    ToolUnavailable,
    Unreachable,
    WorkspaceError,
)
from horarium.mcpservers import McpServer
from horarium.memories import JudgedRun
from horarium.routines import (
    AtTrigger,
    CronTrigger,
    EventTrigger,
    EveryTrigger,
    Preapproved,
    Retry,
    Routine,
)
from horarium.tools import Effect, NotPerformed, Performed, Tool, ToolContext, tool

if TYPE_CHECKING:
    from horarium.client import Client, Run, RunEvent
    from horarium.serving import serve_tools
    from horarium.settings import Settings
    from horarium.sync import SyncClient
    from horarium.toolboxes import OpenApi, Toolbox
    from horarium.workspace import Workspace

__all__ = [  # noqa: RUF022 - grouped by topic
    # define
    "Agent",
    "Limits",
    "Memory",
    "ModelSettings",
    "McpServer",
    "OpenApi",
    "Toolbox",
    "ToolSearch",
    "Rubric",
    "JudgedRun",
    # schedule
    "Routine",
    "CronTrigger",
    "EveryTrigger",
    "AtTrigger",
    "EventTrigger",
    "Retry",
    "Preapproved",
    # tools
    "tool",
    "Tool",
    "Effect",
    "ToolContext",
    "Performed",
    "NotPerformed",
    "Workspace",
    "serve_tools",
    # run
    "Client",
    "CallerFunction",
    "Run",
    "RunEvent",
    "RunResult",
    "RunStatus",
    "SyncClient",
    # decide
    "Approval",
    "ApprovalState",
    "Decision",
    # configure
    "Settings",
    # errors
    "HorariumError",
    "ConfigError",
    "NotFound",
    "RunNotFound",
    "AgentNotFound",
    "RoutineNotFound",
    "ThreadNotFound",
    "ApprovalNotFound",
    "ToolUnavailable",
    "Conflict",
    "RunExists",
    "ThreadBusy",
    "AlreadyRunning",
    "ApprovalAlreadyDecided",
    "DigestMismatch",
    "Unreachable",
    "ToolError",
    "ToolNotReached",
    "ToolChanged",
    "WorkspaceError",
    "MemoryNotFound",
    "ToolboxNotFound",
]

_LATER = {
    "Client": "horarium.client",
    "Run": "horarium.client",
    "RunEvent": "horarium.client",
    "Settings": "horarium.settings",
    "SyncClient": "horarium.sync",
    "OpenApi": "horarium.toolboxes",
    "Toolbox": "horarium.toolboxes",
    "Workspace": "horarium.workspace",
    "serve_tools": "horarium.serving",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'horarium' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_LATER[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
