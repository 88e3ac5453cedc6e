"""Who performs a tool call: a function of this process, a server somewhere, another agent.

The step protocol around it is the same for all (horarium/toolhost.py); what differs is behind this interface.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from horarium.tools import NotPerformed, Performed, ToolContext, ToolSpec


class Performer(Protocol):
    """One tool, as the step protocol needs it."""

    @property
    def spec(self) -> ToolSpec:
        """What model and approvals know of it."""
        ...

    async def perform(self, arguments: Mapping[str, Any], context: ToolContext) -> Any:
        """Do it, once. Cancelling asks it to stop.

        Raises:
            ToolError: It was not done, and the model is to be told why.
            ToolNotReached: It was not done, because whatever does it could not be reached; worth another attempt.
            TimeoutError: No answer within the tool's time.
            Exception: Anything else leaves the outcome of an external effect unknown.
        """
        ...

    async def verify(self, arguments: Mapping[str, Any], context: ToolContext) -> Performed | NotPerformed | None:
        """Say whether the call of this context's key happened; None: it cannot be told."""
        ...


FindPerformer = Callable[[str, str], Awaitable[Performer | None]]
"""Run and tool name to whoever performs it there; None: nobody here does."""
