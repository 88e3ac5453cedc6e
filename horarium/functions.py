"""Functions that whoever starts a run carries out: what may be one, and how an output reaches its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from horarium.content import canonical
from horarium.contract import MAX_FUNCTIONS, MAX_MESSAGE_CHARS, SIGNAL_TOOL_OUTPUTS, CallerFunction, ToolOutputs
from horarium.errors import ConfigError, Conflict, FunctionCallNotFound
from horarium.ledger.functions import FunctionCall, Functions
from horarium.schemas import in_one_check, nothing_checked_by

if TYPE_CHECKING:
    from horarium.client import Run

MOST_CHARS = 200_000  # of all functions of a run together, as JSON


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of outputs: the ids of calls that have one now, and of those that had the same one before."""

    taken: tuple[str, ...]
    repeated: tuple[str, ...] = ()


def check_functions(functions: Sequence[CallerFunction], choice: str | None = None) -> None:
    """Refuse functions that a run could not use.

    Args:
        choice: The function that has to be called first; `*` for whichever.

    Raises:
        ConfigError: Names the function, and what is wrong with it.
    """
    names = [function.name for function in functions]
    if len(names) > MAX_FUNCTIONS:
        raise ConfigError(f"A run has at most {MAX_FUNCTIONS} functions.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"Two functions have the name {twice!r}.")
    if choice not in (None, "*", *names):
        raise ConfigError(f"There is no function {choice!r} to call first.")
    size = sum(len(canonical(function.model_dump(mode="json"))) for function in functions)
    if size > MOST_CHARS:
        raise ConfigError(f"All functions together may have {MOST_CHARS:,} characters, and have {size:,}.")
    with in_one_check():  # whoever brings many schemas gets no more time than for one
        for function in functions:
            problem = _schema_problem(function)
            if problem is not None:
                words = f"The parameters of function {function.name!r} are no schema of an object: {problem}."
                raise ConfigError(words)


def _schema_problem(function: CallerFunction) -> str | None:
    schema = function.parameters
    if schema.get("type") != "object":
        return "`type` has to be `object`"
    try:
        canonical(schema)
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return error.message[:200].rstrip(".")
    except (ValueError, RecursionError) as error:
        return str(error)
    return nothing_checked_by(schema)


async def submit(run: Run, outputs: Mapping[str, str], *, by: str | None) -> Submitted:
    """Put outputs into the ledger, and tell the run that they are there; without a ledger, send them.

    Raises:
        FunctionCallNotFound: The run has given no such call to anybody.
        OutputRefused: Another output was first, or the run no longer waits for one. Nothing of these was taken.
        Conflict: The run has ended.
        ConfigError: They are too long to be sent without a ledger.
    """
    if not outputs:
        return Submitted(())
    ledger = run.client.ledger
    if ledger is None:
        if sum(map(len, outputs.values())) > MAX_MESSAGE_CHARS:
            raise ConfigError(
                f"Without a ledger all outputs together may have {MAX_MESSAGE_CHARS:,} characters.",
                hint="Connect with ledger=True.",
            )
        await run.signal(SIGNAL_TOOL_OUTPUTS, ToolOutputs(outputs=dict(outputs), by=by))
        return Submitted(tuple(outputs))
    functions = Functions(ledger)
    calls = {call.call_id: call for call in await functions.calls(run.id)}
    unknown = [name for name in outputs if name not in calls]
    if unknown:
        raise FunctionCallNotFound(f"Run {run.id} waits for no output of a call {unknown[0]!r}.")
    repeated = await functions.submit(run.id, {calls[name].step: text for name, text in outputs.items()}, by=by)
    await _tell(run, [calls[name] for name in outputs], repeated, by)
    again = tuple(name for name in outputs if calls[name].step in repeated)
    return Submitted(tuple(outputs), again)


async def _tell(run: Run, calls: Sequence[FunctionCall], repeated: Sequence[int], by: str | None) -> None:
    """Also of what was there before: whoever brought it may have died before telling."""
    told: dict[str, str | None] = {call.call_id: None for call in calls}
    try:
        await run.signal(SIGNAL_TOOL_OUTPUTS, ToolOutputs(outputs=told, by=by))
    except Conflict:
        if len(repeated) < len(calls):
            raise  # it ended in this moment
