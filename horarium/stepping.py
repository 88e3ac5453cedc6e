"""One tool call on the ledger, from its claim to its settlement, as whoever performs it needs it.

`Steps` has two implementations: `LedgerSteps` here, for whoever has the ledger, and `RemoteSteps`
(horarium/remote_journal.py), which asks a gateway. The gateway answers with `LedgerSteps`, so what releases a call is
checked in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import structlog

from horarium.content import canonical, shorten
from horarium.errors import (
    HorariumError,
    NotApproved,
    OutcomeUnknown,
    ProofInvalid,
    StepBlocked,
    StepCrashes,
    ToolError,
)
from horarium.ledger.database import Ledger
from horarium.ledger.journal import ApprovalRecorded, Held, Journal, StepClaim, StepRecord, output_digest, settled
from horarium.ledger.ticks import Ticks
from horarium.proof import KeyRing
from horarium.protocol import NOTE_CHARS, ToolOutcome, ToolStep
from horarium.release import Checks, Release
from horarium.routine_state import RoutineState
from horarium.tools import Effect, ToolSpec
from horarium.workspaces.manifest import Change

log = structlog.get_logger()

SettledAs = Literal["completed", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that a workflow asks for, and who performs it. `execution` and `activity` name the asking in Temporal."""

    step: ToolStep
    spec: ToolSpec
    workflow: str
    execution: str = ""
    activity: str = ""
    wants_state: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """What a claim came to: `held`, to be performed; `outcome`, there is nothing to do; else `unclear`, and why."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    held: Held | None = None
    outcome: ToolOutcome | None = None
    unclear: str = ""
    holder: str | None = None  # whose claim it is, when it is unclear
    state: RoutineState = field(default_factory=RoutineState)


class CallSteps(Protocol):
    """One attempt at one call, by the step protocol."""

    async def begin(self) -> Begun:
        """Check what releases the call, and claim it.

        Raises:
            ToolNotReached: Nothing is known to have been claimed, and nothing was done; worth another attempt.
        """
        ...

    async def settle(
        self,
        held: Held,
        status: SettledAs,
        output: Any = "",
        *,
        code: str | None = None,
        message: str | None = None,
        state: RoutineState | None = None,
        change: Change | None = None,
    ) -> ToolOutcome:
        """Write the outcome down, for as long as that takes; what stood first stands."""
        ...

    async def attempt_failed(self, held: Held, message: str) -> int:
        """Give the claim back after an attempt that did nothing lasting. Returns the failures so far."""
        ...

    async def hand_back(self, held: Held) -> None:
        """Give the claim back unperformed."""
        ...

    async def take_over(self) -> Held:
        """Claim the call after its probe said what became of the attempt before.

        Raises:
            StepBlocked: Another attempt did so first.
        """
        ...

    async def mark_unknown(self, message: str) -> ToolOutcome:
        """Say that nobody knows whether it happened."""
        ...


class Steps(Protocol):
    """Where the steps of calls are."""

    def of(self, asked: Asked) -> CallSteps:
        """A new attempt at a call."""
        ...


class LedgerSteps:
    """The steps of calls on a ledger; one object for each process."""

    def __init__(self, ledger: Ledger, keys: KeyRing, *, require_proof: bool) -> None:
        """`keys`: they tell what is recorded as proven, also where no proof is required."""
        self.journal = Journal(ledger)
        self.ticks = Ticks(ledger)
        self.checks = Checks(ledger, keys, require_proof=require_proof)

    def of(self, asked: Asked, *, token: str | None = None) -> LedgerCall:
        """A new attempt at a call; `token`: of one that may ask the same thing twice (see `Journal.claim`)."""
        return LedgerCall(self, asked, token)


class LedgerCall:
    """One attempt at one call."""

    def __init__(self, steps: LedgerSteps, asked: Asked, token: str | None) -> None:
        self._steps = steps
        self._journal = steps.journal
        self._asked = asked
        self._token = token
        self._holder: str | None = None
        self._release = Release(steps.checks, asked.step, asked.workflow)
        step, call, spec = asked.step, asked.step.call, asked.spec
        self._claim = StepClaim(
            run_id=step.run,
            number=step.number,
            kind="tool_call",
            name=call.tool,
            effect=spec.effect,
            untrusted=spec.untrusted,
            key=call.key,
            call_id=call.id,
            input_digest=call.digest,
            permit=step.permit,
        )

    async def begin(self) -> Begun:
        """See `CallSteps`.

        Raises:
            ApplicationError: The arguments were deleted with their thread.
        """
        arguments = await self._release.arguments()
        # Before the claim: when it cannot be read, nothing is begun.
        state = await self._state() if self._asked.wants_state else RoutineState()
        claim = replace(self._claim, arguments=canonical(arguments), note=self._release.note(arguments))
        try:
            held = await self._claimed(claim, arguments)
        except ProofInvalid as error:
            log.warning("tool.not_released", why=str(error))
            return Begun(outcome=_refused(error))
        except OutcomeUnknown as error:
            self._holder = error.holder
            return Begun(arguments, unclear=str(error), holder=error.holder, state=state)
        except (StepCrashes, NotApproved) as error:
            return Begun(outcome=await self._not_performed(claim, error))
        if isinstance(held, StepRecord):
            return Begun(outcome=outcome_of(held))
        return Begun(arguments, held, state=state)

    async def settle(
        self,
        held: Held,
        status: SettledAs,
        output: Any = "",
        *,
        code: str | None = None,
        message: str | None = None,
        state: RoutineState | None = None,
        change: Change | None = None,
    ) -> ToolOutcome:
        """See `CallSteps`."""
        return outcome_of(
            await self._journal.settle(held, status, output, code=code, message=message, state=state, change=change)
        )

    async def attempt_failed(self, held: Held, message: str) -> int:
        """See `CallSteps`."""
        return await self._journal.attempt_failed(held, message)

    async def hand_back(self, held: Held) -> None:
        """See `CallSteps`."""
        await self._journal.hand_back(held)

    async def take_over(self) -> Held:
        """See `CallSteps`."""
        return await self._journal.take_over(self._claim, token=self._token, holder=self._holder)

    async def mark_unknown(self, message: str) -> ToolOutcome:
        """See `CallSteps`."""
        return outcome_of(await self._journal.mark_unknown(self._claim, message))

    async def _claimed(self, claim: StepClaim, arguments: dict[str, Any]) -> Held | StepRecord:
        step, call = self._asked.step, self._asked.step.call
        approval = await self._release.approval(self._asked.spec, arguments)
        if not call.key.startswith(f"horarium/{step.run}/"):
            before = await self._journal.earlier(call.key, step.run)
            if before is not None and step.permit == 0:
                return await self._resumed(claim, before, approval)
        return await self._journal.claim(claim, approval=approval, token=self._token)

    async def _resumed(
        self, claim: StepClaim, before: StepRecord, approval: ApprovalRecorded | None
    ) -> Held | StepRecord:
        """A resumed run meets a call that the run before had begun: what that one knows counts here."""
        if before.status in ("completed", "skipped", "rejected"):
            return await self._journal.adopt(claim, before)
        held = await self._journal.claim(claim, approval=approval, token=self._token)
        if isinstance(held, StepRecord):
            return held
        if before.status in ("claimed", "unknown") and claim.effect is Effect.EXTERNAL:
            raise OutcomeUnknown.held_by(
                held.token, f"Run {before.run_id} ended without saying whether {claim.name!r} was done."
            )
        return held

    async def _not_performed(self, claim: StepClaim, error: StepBlocked) -> ToolOutcome:
        log.error("tool.not_performed", code=error.code, why=str(error))
        if isinstance(error, NotApproved):
            await self._release.refused(error)
            if not self._release.is_the_runs_own:  # the step waits for its own run, as it was
                return _refused(error)
        return outcome_of(
            await self._journal.settle_unclaimed(claim, "failed", str(error), code=error.code, message=str(error))
        )

    async def _state(self) -> RoutineState:
        """The state that a tool in this run may read and write."""
        tick = await self._steps.ticks.of_run(self._asked.step.run)
        return RoutineState(tick.state or {} if tick is not None else None)


def outcome_of(record: StepRecord) -> ToolOutcome:
    """What the workflow is told of a settled (or unknown) tool step.

    Raises:
        StepTaken: Another attempt has it by now.
    """
    status = settled(record).status
    if status not in ("completed", "failed", "unknown", "cancelled", "rejected", "skipped"):
        raise HorariumError(f"Step {record.run_id}/{record.number:04d} is {status}, not settled.")
    return ToolOutcome(
        status=status,
        digest=output_digest(record),
        code=record.code,
        message=shorten(record.message, NOTE_CHARS) if record.message else None,
        told=record.code == ToolError.code,
    )


def _refused(error: StepBlocked) -> ToolOutcome:
    return ToolOutcome(status="refused", code=error.code, message=shorten(str(error), NOTE_CHARS))
