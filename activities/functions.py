"""Steps that whoever started the run carries out: a function, called by the model.

Two activities, because the caller may take days: one claims the step and shows the call, the other settles it with
what was submitted. What was submitted stands in the ledger before the run is told of it, so a worker that dies in
between loses nothing.
"""

from __future__ import annotations

import structlog
from temporalio import activity

from horarium.contract import CallerFunction
from horarium.errors import HorariumError, NotApproved, OutputRefused, StepCrashes, ToolUnavailable
from horarium.ids import function_call_id, step_id
from horarium.ledger.database import Ledger
from horarium.ledger.functions import FunctionCall, Functions, WhyEnded
from horarium.ledger.journal import SETTLED, Journal, StepClaim, StepRecord
from horarium.ledger.toolsets import Toolsets
from horarium.protocol import (
    BEGIN_FUNCTION,
    SETTLE_FUNCTION,
    TAKE_OUTPUTS,
    BeginFunction,
    Call,
    FunctionBegun,
    SettleFunction,
    TakenOutputs,
    TakeOutputs,
    ToolOutcome,
)
from horarium.settings import Settings
from horarium.stepping import outcome_of
from horarium.toolhost import heartbeating
from horarium.tools import Effect, ToolSpec
from horarium.toolsets import CallerSource, PinnedTool
from horarium.turns import stored_turn

log = structlog.get_logger()

EXPIRED = "function_expired"
_WORDS: dict[WhyEnded, str] = {
    "expired": "Whoever was to carry this out sent no output in time. Go on without it, or say what is missing.",
    "withdrawn": "It is not known whether this was done: the run ended before its output came.",
}


def function_tool(function: CallerFunction) -> PinnedTool:
    """A function as a tool of a run.

    As far as the engine goes it only reads: what it does is done by whoever asked for it to be called. What comes back
    was written elsewhere.
    """
    spec = ToolSpec(
        name=function.name,
        description=function.description,
        parameters=function.parameters,
        effect=Effect.READ,
        untrusted=True,
    )
    return PinnedTool(spec=spec, source=CallerSource())


class FunctionSteps:
    """The activities `begin_function`, `take_tool_outputs` and `settle_function`."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._functions = Functions(ledger)
        self._journal = Journal(ledger)
        self._toolsets = Toolsets(ledger)
        self._patience = settings.tools.function_expires_after

    @activity.defn(name=BEGIN_FUNCTION)
    async def begin_function(self, beginning: BeginFunction) -> FunctionBegun:
        """Claim the step, and let whoever started the run see the call. Safe to repeat."""
        run, number, call = beginning.run, beginning.number, beginning.call
        async with heartbeating():
            with structlog.contextvars.bound_contextvars(run=run, step=number, tool=call.tool):
                if activity.info().workflow_id != run:
                    return FunctionBegun(outcome=_not_its_own(run, number))
                pinned = await self._toolsets.tool(run, call.tool)
                if pinned is None or not isinstance(pinned.source, CallerSource):
                    raise ToolUnavailable(f"Run {run} has no function {call.tool!r} of its caller's.")
                claim = await self._claim_of(run, number, call)
                if (before := await self._earlier(claim)) is not None:
                    return FunctionBegun(outcome=outcome_of(before))
                # Shown first: whoever looks at the steps then knows of each whose it is.
                until = beginning.at + self._patience if self._patience is not None else None
                shown = await self._functions.ask(run, number, call.tool, at=beginning.at, expires_at=until)
                return await self._begun(claim, shown)

    async def _begun(self, claim: StepClaim, shown: FunctionCall) -> FunctionBegun:
        try:
            held = await self._journal.claim(claim)
        except StepCrashes as error:
            record = await self._journal.settle_unclaimed(
                claim, "failed", str(error), code=error.code, message=str(error)
            )
            await self._functions.end(claim.run_id, claim.number, "withdrawn")
            return FunctionBegun(outcome=outcome_of(record))
        if isinstance(held, StepRecord):
            return FunctionBegun(outcome=outcome_of(held))
        if not shown.waits:
            return FunctionBegun(outcome=outcome_of(await self._settled(claim, shown)))
        return FunctionBegun(expires_at=shown.expires_at)

    async def _earlier(self, claim: StepClaim) -> StepRecord | None:
        """What the run that this one resumes has of the call: an outcome, or an output that it did not settle."""
        if claim.key is None or claim.key.startswith(f"horarium/{claim.run_id}/"):
            return None
        before = await self._journal.earlier(claim.key, claim.run_id)
        if before is None:
            return None
        if before.status in ("completed", "skipped", "rejected"):
            return await self._journal.adopt(claim, before)
        given = next((c for c in await self._functions.calls(before.run_id) if c.step == before.number), None)
        if given is None or await self._functions.output(given) is None:
            return None
        held = await self._journal.claim(claim)
        return held if isinstance(held, StepRecord) else await self._settled(claim, given)

    @activity.defn(name=TAKE_OUTPUTS)
    async def take_tool_outputs(self, taking: TakeOutputs) -> TakenOutputs:
        """Put outputs that came with a signal into the ledger, and look for those that should be there already."""
        refused: dict[int, str] = {}
        for number, text in taking.outputs.items():
            try:
                if text is not None:
                    await self._functions.submit(taking.run, {number: text}, by=taking.by)
                if (await self._functions.call(taking.run, number)).submitted_at is None:
                    raise OutputRefused(f"The ledger has no output of {function_call_id(taking.run, number)!r}.")
            except HorariumError as error:
                refused[number] = str(error)
        # Also of what was refused: whoever brought the first output may have died before the run was told of it.
        there = {call.step for call in await self._functions.calls(taking.run) if call.submitted_at is not None}
        return TakenOutputs(taken=tuple(number for number in taking.outputs if number in there), refused=refused)

    @activity.defn(name=SETTLE_FUNCTION)
    async def settle_function(self, settling: SettleFunction) -> ToolOutcome:
        """Settle the step with its output, or without one when that is not waited for any longer. Safe to repeat."""
        run, number = settling.run, settling.number
        async with heartbeating():
            if activity.info().workflow_id != run:
                return _not_its_own(run, number)
            record = await self._journal.get(run, number)
            if record.status in SETTLED:
                return outcome_of(record)
            if settling.ended is not None:
                call = await self._functions.end(run, number, settling.ended)
            else:
                call = await self._functions.call(run, number)
            return outcome_of(await self._settled(await self._claim_of(run, number, settling.call), call))

    async def _settled(self, claim: StepClaim, call: FunctionCall) -> StepRecord:
        """The first word of the ledger counts: an output that came before the end of the wait is taken."""
        output = await self._functions.output(call)
        if output is not None:
            record = await self._journal.settle_unclaimed(claim, "completed", output, by=call.by)
        else:
            ended: WhyEnded = call.ended or "withdrawn"
            code, words = EXPIRED if ended == "expired" else "cancelled", _WORDS[ended]
            record = await self._journal.settle_unclaimed(claim, "cancelled", words, code=code, message=words)
        await self._functions.settled(call.run_id, call.step)
        log.info("function.settled", run=claim.run_id, step=claim.number, status=record.status)
        return record

    async def _claim_of(self, run: str, number: int, call: Call) -> StepClaim:
        stored = stored_turn((await self._journal.near(run, call.source)).output or "{}")
        return StepClaim(
            run_id=run,
            number=number,
            kind="tool_call",
            name=call.tool,
            effect=Effect.READ,
            key=call.key,
            call_id=call.id,
            input_digest=call.digest,
            arguments=next(item.arguments for item in stored.calls if item.id == call.id),
            untrusted=True,
        )


def _not_its_own(run: str, number: int) -> ToolOutcome:
    words = f"Another workflow cannot have step {step_id(run, number)} done."
    return ToolOutcome(status="refused", code=NotApproved.code, message=words)
