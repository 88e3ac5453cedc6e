"""A segment: many steps of a run inside of one activity, which drives the same machine by the same step protocol.

Here is what it is given and gives back: the machine's state, and the commands that nobody has begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeGuard, get_args

from pydantic import TypeAdapter

from horarium.contract import StepSummary
from horarium.ids import split_step_id
from horarium.protocol import ModelReply, RunPlan, Segment, SegmentDone
from workflows.commands import CallModel, CallTool, Command, Compact, Recall
from workflows.machine_state import MachineState
from workflows.packing import packed, unpacked

LONGEST_CALL = timedelta(hours=12)  # one that may take longer is an activity of its own
SHOWN_STEPS = 20  # that come back, for who looks at the workflow; the ledger has all
_KINDS: dict[str, TypeAdapter[Any]] = {kind.__name__: TypeAdapter(kind) for kind in get_args(Command)}


class Left(NamedTuple):
    """A command that was not begun; `wait`: how long it has to wait yet, as a provider asked."""

    command: Command
    wait: timedelta = timedelta(0)


def is_step_of_ours(command: Command) -> TypeGuard[CallModel | CallTool | Compact | Recall]:
    """Whether the engine's own worker carries a command out by itself, with no people, timers or other queues.

    Remembering is the run's end, which is the workflow's: a message that came before leads to another turn.
    """
    if isinstance(command, CallTool):
        return command.call.queue is None and command.call.timeout <= LONGEST_CALL
    return isinstance(command, CallModel | Compact | Recall)


def to_segment(
    plan: RunPlan, state: MachineState, commands: Sequence[Command], *, tenant: str, stop: bool = False
) -> Segment:
    """What the activity is given: nothing of what it does not need."""
    first = min((call.number for call in state.calls), default=state.model_number)
    shown = [step for step in state.steps if split_step_id(step.id)[1] >= first]
    plan = plan.model_copy(update={"pending": (), "answered": (), "messages": ()})  # they are in the state
    items = [
        plan.model_dump(mode="json", exclude_defaults=True),
        _dumped(state.model_copy(update={"steps": shown})),
        *(_written(Left(command)) for command in commands),
    ]
    return Segment(run=plan.run, tenant=tenant, carried=packed(items), stop=stop)


def in_segment(segment: Segment) -> tuple[RunPlan, MachineState, list[Command]]:
    """The other way round.

    Raises:
        ValueError: It is nothing that `to_segment` makes.
    """
    plan, state, *commands = unpacked(segment.carried)
    read = [_read(item).command for item in commands]
    return RunPlan.model_validate(plan), MachineState.model_validate(state), read


def to_done(
    state: MachineState, left: Sequence[Left], *, messages: Sequence[str] = (), final: ModelReply | None = None
) -> SegmentDone:
    """What the activity gives back."""
    first = min((call.number for call in state.calls), default=state.next_number)
    shown = [step for step in state.steps if split_step_id(step.id)[1] >= first]
    shown = max(shown, state.steps[-SHOWN_STEPS:], key=len)
    items = [_dumped(state.model_copy(update={"steps": shown})), *(_written(item) for item in left)]
    return SegmentDone(carried=packed(items), messages=tuple(messages), final=final)


def in_done(done: SegmentDone, shown: Sequence[StepSummary] = ()) -> tuple[MachineState, list[Left]]:
    """The other way round; `shown`: the steps before it, which stay in sight."""
    carried, *left = unpacked(done.carried)
    state = MachineState.model_validate(carried)
    known = {step.id for step in state.steps}
    state.steps[:0] = [step for step in shown[-SHOWN_STEPS:] if step.id not in known]
    return state, [_read(item) for item in left]


def _dumped(state: MachineState) -> dict[str, Any]:
    return state.model_dump(mode="json", exclude_defaults=True)


def _written(left: Left) -> dict[str, Any]:
    command, kind = left.command, type(left.command).__name__
    item = _KINDS[kind].dump_python(command, mode="json", exclude_defaults=True)
    return {"command": kind, "wait": left.wait.total_seconds(), **item}


def _read(item: dict[str, Any]) -> Left:
    kind = _KINDS[item["command"]]
    wait = timedelta(seconds=item["wait"])
    return Left(
        kind.validate_python({key: value for key, value in item.items() if key not in ("command", "wait")}), wait
    )
