"""Calls that whoever starts a run asks for, and no model: how they stand in the ledger, and what came of them.

The arguments are what the run was asked, so they are kept where an input is, and go when its thread is deleted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from horarium.content import canonical, clean_json
from horarium.contract import DirectCall
from horarium.errors import ArgumentsRejected
from horarium.ledger.journal import StepRecord

CALLER = "caller"  # stands where a model's name stands, in the step that has the call
CALL_ID = "call_1"


def as_text(tool: str | None, arguments: Mapping[str, Any]) -> str:
    """A call as the input of its run.

    Raises:
        ArgumentsRejected: The arguments are no JSON.
    """
    try:
        return canonical({"call": tool, "arguments": clean_json(arguments)})
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentsRejected(f"The arguments of {tool!r} are no JSON: {error}.") from error


def from_text(text: str) -> DirectCall | None:
    """Read what `as_text` wrote; None when it is something else."""
    try:
        read = json.loads(text)
        return DirectCall(tool=read["call"], arguments=dict(read["arguments"]))
    except (ValueError, TypeError, KeyError):
        return None


def call_step(steps: Sequence[StepRecord]) -> StepRecord | None:
    """The step of the call, among those of its run; None while it was not begun."""
    return next((step for step in reversed(steps) if step.kind in ("tool_call", "handoff")), None)
