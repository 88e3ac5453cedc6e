"""What has to be true before a call is begun, whoever begins it: a tool's worker, or the engine for a sub-agent.

The workflow's word is not enough: the plan, the exact arguments, the people's word and its proof are looked up again
where the effect is.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from temporalio.exceptions import ApplicationError

from horarium.ballots import Witness
from horarium.content import call_digest, canonical, shorten
from horarium.errors import NotApproved, ProofInvalid, RunNotFound
from horarium.ids import question_id, step_id
from horarium.ledger.approvals import Approvals
from horarium.ledger.database import Ledger
from horarium.ledger.grants import Granting
from horarium.ledger.journal import ApprovalRecorded, Journal
from horarium.plans import WHOLE
from horarium.proof import KeyRing
from horarium.protocol import Ballot, ToolStep
from horarium.runplans import RunPlans
from horarium.tools import Effect, ToolSpec
from horarium.turns import stored_turn

EDIT_CHARS = 4_000  # of a person's arguments, in what the model is told


class Checks:
    """What the checks need; one object for each process."""

    def __init__(self, ledger: Ledger, keys: KeyRing, *, require_proof: bool) -> None:
        self.journal = Journal(ledger)
        self.approvals = Approvals(ledger)
        self.plans = RunPlans(ledger)
        self.witness = Witness(self.approvals, keys, required=require_proof)


class Release:
    """The checks of one call. `asked_by`: the workflow that wants it made."""

    def __init__(self, checks: Checks, step: ToolStep, asked_by: str) -> None:
        self._checks = checks
        self._step = step
        self._call = step.call
        self._asked_by = asked_by

    @property
    def is_the_runs_own(self) -> bool:
        """Whether the run itself asks. Temporal says who does, and of one id there is one open workflow."""
        return self._asked_by == self._step.run

    async def arguments(self) -> dict[str, Any]:
        """The arguments: the model's, or a person's who changed them.

        Raises:
            ApplicationError: They were deleted with their thread.
        """
        edited = await self._edited()
        if edited is not None:
            return edited
        output = await self._checks.journal.output_near(self._step.run, self._call.source)
        if output is None:
            raise ApplicationError(
                "The arguments were deleted with their thread.", type=RunNotFound.code, non_retryable=True
            )
        turn = stored_turn(output)
        call = next(item for item in turn.calls if item.id == self._call.id)
        arguments: dict[str, Any] = json.loads(call.arguments)
        return arguments

    def note(self, arguments: dict[str, Any]) -> str | None:
        """What the model is told of an edit, so that it neither repeats nor undoes it."""
        if not self._call.edited:
            return None
        by = next((b.decision.by for b in self._step.ballots if b.decision.digest != self._call.digest), "A person")
        return (
            f"[{by} changed the arguments of this call before approving it. It was made with "
            f"{shorten(canonical(arguments), EDIT_CHARS)}. That is a person's decision: do not make the call again "
            "with the arguments you had asked for, and do not undo it.]"
        )

    async def approval(self, spec: ToolSpec, arguments: dict[str, Any]) -> ApprovalRecorded | None:
        """What releases the call, to be written down with its claim; None when nobody has to be asked.

        Raises:
            NotApproved: Somebody has to be asked and was not, it is another call than was approved, or another
                workflow wants it.
            ProofInvalid: Proof is required; a signature is missing, wrong, too old, or of a key that was revoked.
        """
        step, call = self._step, self._call
        recorded = None
        if spec.effect is Effect.READ and step.approval is None:
            asked = await self._checks.plans.gate(step.run, call.tool, spec.effect, arguments)
            if asked is not None:
                raise NotApproved(f"The rule {asked.rule} of the approval plan asks people about {call.tool!r} first.")
        else:
            if step.approval is None:
                raise NotApproved(f"{call.tool!r} has effect {spec.effect.value} and nobody approved it.")
            if call_digest(call.tool, spec.schema_digest, arguments) != call.digest:
                raise NotApproved(f"{call.tool!r} or its arguments are not what was approved: the tool has changed.")
            recorded = ApprovalRecorded(
                id=step.approval,
                digest=call.digest,
                step=step.number - 1,
                ballots=await self._proven(step.approval, arguments),
                grant=self._grant(spec, step.approval, arguments),
                stands=not step.ballots,
            )
        if not self.is_the_runs_own:
            raise NotApproved(f"Workflow {self._asked_by!r} asked for a step of run {step.run!r}.")
        return recorded

    async def refused(self, error: NotApproved) -> None:
        """Write into the audit trail that somebody wanted a call made which nobody had released."""
        step = self._step
        subject = step.approval or step_id(step.run, step.number)
        await self._checks.approvals.refused_effect(
            step.run, subject, self._asked_by, datetime.now(UTC), error.code, str(error)
        )

    async def _edited(self) -> dict[str, Any] | None:
        """The arguments as a person changed them, when one did."""
        approval = self._step.approval or self._call.approved_in
        if not self._call.edited or approval is None:
            return None
        text = await self._checks.approvals.edited(approval, self._call.digest, run=self._step.run)
        if text is None:
            raise ApplicationError(
                "The edited arguments were deleted with their thread.", type=RunNotFound.code, non_retryable=True
            )
        arguments: dict[str, Any] = json.loads(text)
        return arguments

    def _grant(self, spec: ToolSpec, approval: str, arguments: dict[str, Any]) -> Granting | None:
        """The standing grant that came with the approval."""
        step, call = self._step, self._call
        ballot = next((ballot for ballot in step.ballots if ballot.decision.remember is not None), None)
        if ballot is None or ballot.decision.remember is None:
            return None
        said = ballot.decision.remember
        return Granting(
            tenant=step.tenant,
            agent=step.agent,
            scope=said.scope,
            scope_id={"run": step.run, "thread": step.thread, "agent": step.agent}[said.scope],
            tool=call.tool,
            schema_digest=spec.schema_digest,
            bounds=said.bounds or {WHOLE: {"const": arguments}},
            by=ballot.decision.by,
            granted_in=approval,
            comment=ballot.decision.comment,
            at=ballot.at,
            ends_at=ballot.at + said.lasts,
        )

    async def _proven(self, approval: str, arguments: dict[str, Any]) -> tuple[Ballot, ...]:
        """The ballots with the keys that prove them, just before the effect: the workflow's word is not enough.

        What was released and recorded before needs no second proof, only the word that it is to be done again.

        Raises:
            ProofInvalid: Proof is required; a signature is missing, wrong, too old, or of a key that was revoked.
        """
        step, witness = self._step, self._checks.witness
        if witness.required and (step.again is not None or step.permit > 0):
            try:
                await self._asked_again()
            except ProofInvalid as error:
                if (said := step.again) is not None:
                    await self._checks.approvals.refused_word(
                        step.run, said.question or approval, said, None, datetime.now(UTC), error.code, str(error)
                    )
                raise
        if await self._checks.approvals.is_released(approval, step.call.digest):
            return step.ballots
        proven = []
        for ballot in step.ballots:
            try:
                proven.append(await witness.of_ballot(step.run, approval, ballot, step.call.digest, arguments))
            except ProofInvalid as error:
                await self._checks.approvals.refused_word(
                    step.run, approval, ballot.decision, ballot.via, datetime.now(UTC), error.code, str(error)
                )
                raise
        return tuple(proven)

    async def _asked_again(self) -> None:
        """Verify the word that raised the permit: a retry of this step, in answer to the question that waited.

        Raises:
            ProofInvalid: It is missing, not proved, or about something else.
        """
        step, said = self._step, self._step.again
        if said is None:
            raise ProofInvalid("Nobody's word to do it again came with it, and proof is required here.")
        own = step_id(step.run, step.number)
        await self._checks.witness.of_resolution(step.run, said.question or "", said, datetime.now(UTC))
        asked = {question_id(own, phase, step.permit - 1) for phase in ("unknown", "held")}
        if said.step != own or said.verdict != "retry" or said.question not in asked:
            raise ProofInvalid("The word to do it again is about another step or another question.")
