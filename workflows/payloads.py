"""What each step is asked with, and what it comes to: the same for whoever drives a run's machine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from horarium import protocol
from horarium.contract import Usage
from horarium.protocol import ModelReply, Payload, RunPlan, ToolOutcome
from workflows.commands import CallModel, CallTool, Compact, HandOff, Recall, Remember
from workflows.events import Compacted, Event, ModelReplied, Recalled, Remembered, ToolSettled

Step = CallModel | CallTool | Recall | Compact | Remember

RECALL_PATIENCE = timedelta(minutes=1)  # a store that is away keeps no run from beginning
# What is asked of models one after the other inside of one activity; each has the time of a turn.
MOST_PIECES = 12  # of a conversation that is summarised
FINDING_AND_JUDGING = 2
BEYOND_THE_TOOLS_OWN = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Errand:
    """An activity, what it is asked with, and how long one attempt at it may take; `within`: all attempts together."""

    activity: str
    argument: Payload
    result_type: type[Any]
    timeout: timedelta
    summary: str
    within: timedelta | None = None


def errand(plan: RunPlan, tenant: str, command: Step, *, turn: int = 0) -> Errand:
    """Who carries a command out, and how."""
    match command:
        case CallModel():
            step = model_step(plan, tenant, command)
            return Errand(protocol.CALL_MODEL, step, ModelReply, plan.model_timeout, f"turn {turn}")
        case CallTool():
            # The tool's own timeout is kept by the activity, which can say what became of the call.
            timeout = command.call.timeout + BEYOND_THE_TOOLS_OWN
            return Errand(protocol.CALL_TOOL, tool_step(plan, tenant, command), ToolOutcome, timeout, command.call.tool)
        case Recall():
            recalling = protocol.Recall(**_about(plan, tenant, command), thread=plan.thread)
            return Errand(
                protocol.RECALL_MEMORY,
                recalling,
                protocol.Recalled,
                RECALL_PATIENCE,
                "recall",
                within=RECALL_PATIENCE,
            )
        case Compact():
            compacting = protocol.CompactThread(**_about(plan, tenant, command), thread=plan.thread)
            timeout = MOST_PIECES * plan.model_timeout
            return Errand(protocol.COMPACT_THREAD, compacting, protocol.Compacted, timeout, "summary")
        case Remember():
            writing = protocol.WriteMemory(**_about(plan, tenant, command))
            timeout = FINDING_AND_JUDGING * plan.model_timeout
            return Errand(protocol.WRITE_MEMORY, writing, protocol.WrittenMemory, timeout, "memory")


def _about(plan: RunPlan, tenant: str, command: Recall | Compact | Remember) -> dict[str, Any]:
    return {
        "run": plan.run,
        "agent": plan.agent,
        "version": plan.version,
        "tenant": tenant,
        "number": command.number,
    }


def model_step(plan: RunPlan, tenant: str, command: CallModel) -> protocol.ModelStep:
    """A turn."""
    return protocol.ModelStep(
        run=plan.run,
        thread=plan.thread,
        agent=plan.agent,
        version=plan.version,
        tenant=tenant,
        number=command.number,
        answered=command.answered,
        messages=command.messages,
        note=command.note,
        offer=command.offer,
        closing=command.closing,
        required=command.required,
        max_calls=plan.limits.max_calls_per_turn,
        permit=command.permit,
        recalled=command.recalled,
        compacted=command.compacted,
        structured=plan.structured,
    )


def tool_step(plan: RunPlan, tenant: str, command: CallTool) -> protocol.ToolStep:
    """A call."""
    return protocol.ToolStep(
        run=plan.run,
        thread=plan.thread,
        agent=plan.agent,
        tenant=tenant,
        number=command.number,
        call=command.call,
        approval=command.approval,
        ballots=command.ballots,
        permit=command.permit,
        again=command.again,
    )


def returned(command: Step, result: Any) -> Event:
    """The event of a step that came back with its activity's result."""
    match command:
        case CallModel():
            return ModelReplied(command.number, result)
        case CallTool():
            return ToolSettled(command.number, result)
        case Recall():
            return Recalled(command.number, result.status == "completed")
        case Compact():
            return Compacted(command.number, result)
        case Remember():
            return Remembered(command.number, True, result.usage)


def failed(command: Step | HandOff, code: str, message: str, *, cancelled: bool = False) -> Event:
    """The event of a step whose activity came to nothing for good."""
    match command:
        case CallModel():
            return ModelReplied(command.number, ModelReply(status="failed", code=code, message=message))
        case CallTool() | HandOff():
            outcome = ToolOutcome(status="cancelled" if cancelled else "failed", code=code, message=message)
            return ToolSettled(command.number, outcome)
        case Recall():
            return Recalled(command.number, False)
        case Compact():
            return Compacted(command.number, protocol.Compacted(status="failed", code=code, message=message))
        case Remember():
            return Remembered(command.number, False, Usage())


def not_begun(command: Step | HandOff) -> Event:
    """The event of a step that was stopped in the moment it was begun, or before."""
    words = "The call was not begun." if isinstance(command, CallTool | HandOff) else "The model was not asked."
    return failed(command, "cancelled", words, cancelled=True)
