"""What people are asked and what they say, written down: questions, votes, escalations, how each was settled.

What the workflow cannot know is checked here: signatures, roles, and whether a person's arguments fit the tool. Each
is short and safe to repeat.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from temporalio import activity

from activities.catalog import Catalog
from horarium.ballots import Witness
from horarium.content import call_digest, canonical, shorten
from horarium.contract import MAX_ARGUMENT_CHARS, Decision, Resolution, StepStatus
from horarium.definitions import Agent, bound_problem
from horarium.edits import check_edit, check_secrets
from horarium.errors import (
    ApprovalNotFound,
    ArgumentsRejected,
    Conflict,
    HorariumError,
    NotAnApprover,
    NotApproved,
    ProofInvalid,
)
from horarium.ids import approval_id, step_id
from horarium.ledger.agents import ServedTool
from horarium.ledger.approvals import Approvals, Asking
from horarium.ledger.database import Ledger
from horarium.ledger.grants import Grant, Grants
from horarium.ledger.journal import Journal, StepClaim
from horarium.ledger.runs import RunRecord, Runs
from horarium.ledger.ticks import TickRecord, Ticks
from horarium.people import is_among
from horarium.plans import gate_of, listed, people_of, rule_for, rule_named
from horarium.problems import near_miss
from horarium.proof import KeyRing
from horarium.protocol import (
    ASK_APPROVALS,
    CHECK_DECISION,
    CHECK_RESOLUTION,
    ESCALATE,
    NOTE_CHARS,
    OPEN_QUESTION,
    PREVIEW_CHARS,
    RECORD_VOTE,
    SETTLE_APPROVALS,
    SETTLE_QUESTION,
    SETTLE_STEP,
    ApprovalOutcome,
    ApprovalRequest,
    AskApprovals,
    AskedApproval,
    AskedApprovals,
    Ballot,
    Call,
    CheckDecision,
    Checked,
    CheckResolution,
    Escalate,
    Escalated,
    Gate,
    OpenQuestion,
    RecordVote,
    SettleApprovals,
    SettledApprovals,
    SettleQuestion,
    SettleStep,
    ToolOutcome,
)
from horarium.schemas import schema_problem
from horarium.settings import Settings
from horarium.stepping import outcome_of
from horarium.toolhost import heartbeating
from horarium.turns import stored_turn

LISTED_BYTES = 6_400  # of names of people, in what the workflow carries of all questions of a turn
LISTED_QUESTIONS = 8  # at least so many share it
NOBODY_THERE = (
    "Not done: this needs a person's approval, and this run is unattended: nobody is asked. Do not make this call "
    "again. Go on without it, and say at the end what was left undone."
)
_STEP_STATUS: dict[str, StepStatus] = {
    "rejected": "rejected",
    "answered": "skipped",
    "expired": "cancelled",
    "withdrawn": "cancelled",
}
_VERDICTS = {"rejected": "reject", "answered": "answer"}
_RESOLVED_BY = {"completed": "supply", "skipped": "skip"}


class Deciding:
    """The activities of approvals and of other questions to people, and what they need."""

    def __init__(self, ledger: Ledger, catalog: Catalog, settings: Settings) -> None:
        self._runs = Runs(ledger)
        self._approvals = Approvals(ledger)
        self._grants = Grants(ledger)
        self._journal = Journal(ledger)
        self._ticks = Ticks(ledger)
        self._catalog = catalog
        self._settings = settings
        keys = KeyRing.of(settings).public_only()
        self._witness = Witness(self._approvals, keys, required=settings.approvals.require_proof)

    @activity.defn(name=ASK_APPROVALS)
    async def ask_approvals(self, asking: AskApprovals) -> AskedApprovals:
        """Write questions down with their exact arguments, before anybody can answer them."""
        questions = [await self._asking(asking, request) for request in asking.requests]
        run = await self._runs.get(asking.run)  # into whose inbox it comes is not the payload's to say
        await self._approvals.ask(run.id, run.tenant, run.agent, questions, asking.requested_at)
        most = LISTED_BYTES // max(len(questions), LISTED_QUESTIONS)
        asked: list[AskedApproval] = []
        for one in questions:
            people, more = listed(one.people, most)
            released = one.released_by is not None
            asked.append(
                AskedApproval(guards=one.request.guards, people=people, more=more, released=released, denied=one.denied)
            )
        return AskedApprovals(asked=tuple(asked))

    async def _asking(self, asking: AskApprovals, request: ApprovalRequest) -> Asking:
        """The question, with the plan looked up again: nobody's word but the plan's releases a call unasked."""
        call = request.call
        text = await self._arguments(asking.run, call)
        arguments = json.loads(text)
        run = await self._runs.get(asking.run)
        agent = await self._agent_of(run)
        spec = (await self._catalog.tool_of_run(run.id, agent, call.tool)).spec
        name, rule = rule_for(agent, call.tool, spec.effect, arguments)
        gate = gate_of(agent, call.tool, spec.effect, arguments) or Gate()
        people = people_of(rule.approvers if rule is not None else (), self._settings)
        tick = await self._ticks.of_run(run.id)
        released = denied = None
        if rule is not None and rule.required == 0:
            released = f"plan:{name}"
        elif gate.remember is not None or tick is not None:
            grant = await self._grants.standing(
                tenant=run.tenant,
                agent=run.agent,
                run=run.id,
                thread=run.thread_id,
                tool=call.tool,
                schema_digest=spec.schema_digest,
                arguments=arguments,
                at=asking.requested_at,
                routine=tick.routine if tick is not None else None,
                counts=lambda grant: self._counts(grant, gate, people, tick),
            )
            released = grant.id if grant is not None else None
        if released is None and tick is not None and tick.routine_then.unattended == "deny":
            denied = NOBODY_THERE
        asked = request.model_copy(update={"call": call.model_copy(update={"gate": gate})})
        not_by = asking.not_by if gate.four_eyes else ()
        return Asking(request=asked, arguments=text, people=people, not_by=not_by, released_by=released, denied=denied)

    def _counts(self, grant: Grant, gate: Gate, people: Sequence[str], tick: TickRecord | None) -> bool:
        """Whether a grant counts under the rule that fits now: if whoever gave it may decide alone under that one."""
        if grant.scope != "routine":
            return gate.remember is not None and (not people or is_among(grant.granted_by, people))
        if tick is None or not grant.is_of(tick.routine_then) or gate.required != 1 or gate.four_eyes:
            return False
        if self._witness.required and (tick.event or {}).get("input") is not None:
            return False  # whoever reaches Temporal's port can start a tick with an input of his own
        return not people or (grant.granter is not None and is_among(grant.granter, people))

    async def _tool_of(self, checking: CheckDecision) -> ServedTool:
        agent = await self._agent_of(await self._runs.get(checking.run))
        return await self._catalog.tool_of_run(checking.run, agent, checking.call.tool)

    async def _agent_of(self, run: RunRecord) -> Agent:
        return (await self._catalog.agent(run.agent, run.version or 0)).agent

    @activity.defn(name=CHECK_DECISION)
    async def check_decision(self, checking: CheckDecision) -> Checked:
        """Check what the workflow cannot: the signature, and whether a person's arguments fit the tool."""
        decision = checking.decision
        try:
            key = self._proven(checking.run, decision, checking.at)
            await self._may_decide(decision.approval, decision.by)
            await self._may_remember(checking)
            call = await self._edited(checking) if decision.arguments is not None else None
        except HorariumError as error:
            await self._approvals.refused(checking, decision.approval, error.code, str(error))
            return Checked(code=error.code, message=shorten(str(error), NOTE_CHARS))
        return Checked(key=key, call=call)

    @activity.defn(name=CHECK_RESOLUTION)
    async def check_resolution(self, checking: CheckResolution) -> Checked:
        """Check the signature of a person's word on a step."""
        resolution = checking.resolution
        try:
            key = self._proven(checking.run, resolution, checking.at)
            await self._may_decide(approval_id(resolution.step), resolution.by)
            return Checked(key=key)
        except HorariumError as error:
            subject = resolution.question or resolution.step
            await self._approvals.refused(checking, subject, error.code, str(error))
            return Checked(code=error.code, message=shorten(str(error), NOTE_CHARS))

    def _proven(self, run: str, said: Decision | Resolution, at: datetime) -> str | None:
        if said.proof is None and not self._settings.approvals.require_proof:
            return None
        return KeyRing.of(self._settings).public_only().verify(run, said, at)

    async def _may_decide(self, approval: str, by: str) -> None:
        """Look among all who are asked: the workflow has only the first of many.

        Raises:
            NotAnApprover: Others decide.
        """
        try:
            asked = await self._approvals.get(approval)
        except ApprovalNotFound:
            return  # nothing was asked: the call was released by the run that this one resumes, or needed nobody
        if is_among(by, asked.not_by) or (asked.approvers and not is_among(by, asked.approvers)):
            people, more = listed(asked.approvers, NOTE_CHARS // 2)
            others = f" and {more} more" if more else ""
            raise NotAnApprover(
                f"{shorten(by, 60)} may not decide this.", hint=f"These may: {', '.join(people)}{others}."
            )

    async def _may_remember(self, checking: CheckDecision) -> None:
        """Refuse a standing grant whose bounds could not be compared.

        Raises:
            ArgumentsRejected: A bound is no bound, or is on an argument that the tool does not take.
        """
        remember = checking.decision.remember
        if remember is None:
            return
        spec = (await self._tool_of(checking)).spec
        known = list(spec.parameters.get("properties", {}))
        for name, bound in remember.bounds.items():
            if name not in known:
                raise ArgumentsRejected(f"{spec.name!r} takes no argument {name!r}{near_miss(name, known)}")
            problem = bound_problem(bound) if isinstance(bound, dict) else "must be a mapping of keywords"
            if problem is not None:
                raise ArgumentsRejected(f"The bound on {name!r} cannot be kept: {problem}")

    async def _edited(self, checking: CheckDecision) -> Call:
        """Keep a person's arguments, checked as a model's are.

        Raises:
            ArgumentsRejected: They do not fit the tool, are too long, or could not be kept exactly as they are.
        """
        call, decision = checking.call, checking.decision
        served = await self._tool_of(checking)
        arguments = decision.arguments or {}
        check_edit(arguments)
        check_secrets(arguments)
        text = canonical(arguments)
        if len(text) > MAX_ARGUMENT_CHARS:
            raise ArgumentsRejected(
                f"The edited arguments have {len(text):,} characters; at most {MAX_ARGUMENT_CHARS:,} are taken."
            )
        problem = schema_problem(served.spec.parameters, arguments)
        if problem is not None:
            raise ArgumentsRejected(f"The edited arguments do not fit {call.tool!r}: {problem}")
        digest = call_digest(call.tool, served.spec.schema_digest, arguments)
        if digest != call.digest:
            await self._approvals.keep_edit(checking.approval, digest, text, decision.by, checking.at)
        edited = {"digest": digest, "edited": digest != call.digest or call.edited}
        return call.model_copy(update=edited | {"preview": shorten(text, PREVIEW_CHARS)})

    @activity.defn(name=RECORD_VOTE)
    async def record_vote(self, vote: RecordVote) -> Checked:
        """Write down a vote that does not decide yet, with the key that proves it here."""
        said = vote.ballot.decision
        async with heartbeating():
            try:
                self._is_of(vote.run)
                ballot = await self._witness.of_ballot(vote.run, vote.approval, vote.ballot, vote.digest)
            except HorariumError as error:
                return await self._does_not_count(vote.run, vote.approval, said, vote.ballot.via, vote.ballot.at, error)
            await self._approvals.vote(vote.run, vote.approval, ballot, vote.digest)
        return Checked(key=ballot.key)

    def _is_of(self, run: str) -> None:
        """Where proof is required: whether the run itself asks, of which Temporal knows one open workflow.

        Raises:
            NotApproved: Another workflow does.
        """
        asked_by = activity.info().workflow_id
        if self._witness.required and asked_by != run:
            raise NotApproved(f"Workflow {asked_by!r} speaks for run {run!r}.")

    async def _does_not_count(
        self,
        run: str,
        subject: str,
        said: Decision | Resolution,
        via: str | None,
        at: datetime,
        error: HorariumError,
    ) -> Checked:
        await self._approvals.refused_word(run, subject, said, via, at, error.code, str(error))
        return Checked(code=error.code, message=shorten(str(error), NOTE_CHARS))

    @activity.defn(name=ESCALATE)
    async def escalate(self, escalation: Escalate) -> Escalated:
        """Let others decide as well; roles are looked up anew.

        Raises:
            Conflict: It is another run's approval.
        """
        asked = await self._approvals.get(escalation.approval)
        if asked.run_id != escalation.run:
            raise Conflict(f"{asked.id} is no approval of run {escalation.run}.")
        if asked.escalated_at is None:
            agent = await self._agent_of(await self._runs.get(escalation.run))
            rule = rule_named(agent, asked.rule)
            added = rule.escalate_to if rule is not None else ()
            # An approval that anybody may decide stays so.
            people = people_of((*asked.approvers, *added), self._settings) if asked.approvers else ()
            await self._approvals.escalate(escalation, people)
            asked = await self._approvals.get(escalation.approval)
        people, more = listed(asked.approvers, LISTED_BYTES // LISTED_QUESTIONS)
        return Escalated(people=people, more=more)

    @activity.defn(name=OPEN_QUESTION)
    async def open_question(self, question: OpenQuestion) -> None:
        """Put what only a person can settle into the inbox."""
        call = question.call
        arguments = await self._released_arguments(question, call) if call is not None else "{}"
        run = await self._runs.get(question.run)
        question = question.model_copy(update={"tenant": run.tenant, "agent": run.agent})
        await self._approvals.open_question(question, arguments, call.tool if call is not None else "model")

    @activity.defn(name=SETTLE_QUESTION)
    async def settle_question(self, settled: SettleQuestion) -> Checked:
        """Write down how a person settled a question, with the key that proves it here."""
        said = settled.resolution
        async with heartbeating():
            try:
                self._is_of(settled.run)
                key = await self._witness.of_resolution(settled.run, settled.id, said, settled.at)
            except HorariumError as error:
                return await self._does_not_count(settled.run, settled.id, said, settled.via, settled.at, error)
            await self._approvals.settle_question(settled.model_copy(update={"key": key}))
        return Checked(key=key)

    @activity.defn(name=SETTLE_APPROVALS)
    async def settle_approvals(self, settling: SettleApprovals) -> SettledApprovals:
        """Write down how approvals ended, and settle the calls they were about: they are not made.

        Whose word does not count here settles nothing; the result says why, and the question stays open.
        """
        refused: dict[int, str] = {}
        async with heartbeating():
            for told in settling.outcomes:
                try:
                    outcome = await self._verified(settling.run, told)
                except HorariumError as error:
                    if told.ballot is not None:
                        refused[told.guards] = await self._word_refused(settling.run, told, told.ballot, error)
                    else:
                        asked_by = activity.info().workflow_id or ""
                        await self._approvals.refused_effect(
                            settling.run, told.id, asked_by, told.at, error.code, str(error)
                        )
                    continue
                await self._approvals.settle(settling.run, outcome)
                await self._journal.settle_unclaimed(
                    await self._claim_of(settling.run, outcome.guards, outcome.call),
                    _STEP_STATUS[outcome.status],
                    refusal(outcome),
                    by=outcome.by,
                    code="approval_expired" if outcome.status == "expired" else None,
                )
        return SettledApprovals(refused=refused)

    async def _word_refused(self, run: str, told: ApprovalOutcome, ballot: Ballot, error: HorariumError) -> str:
        checked = await self._does_not_count(run, told.id, ballot.decision, ballot.via, ballot.at, error)
        return checked.message or error.code

    async def _verified(self, run: str, told: ApprovalOutcome) -> ApprovalOutcome:
        """How an approval ended, with the key that proves whose word it was.

        Raises:
            NotApproved: It is not the approval of this step, or it has released its call already.
            ProofInvalid: Proof is required, and the word is not proved.
            NotAnApprover: Others decide.
        """
        self._is_of(run)
        try:
            asked = await self._approvals.get(told.id)
        except ApprovalNotFound:
            if self._witness.required:
                raise
        else:
            if (asked.run_id, asked.guards) != (run, told.guards) or asked.status == "approved":
                raise NotApproved(f"Approval {told.id} does not settle step {step_id(run, told.guards)}.")
        if told.ballot is None:
            return told
        if _VERDICTS.get(told.status) != told.ballot.decision.verdict:
            raise ProofInvalid(f"Nobody can end an approval as {told.status} with that verdict.")
        ballot = await self._witness.of_ballot(run, told.id, told.ballot, told.call.digest)
        await self._may_decide(told.id, ballot.decision.by)
        return told.model_copy(update={"ballot": ballot})

    @activity.defn(name=SETTLE_STEP)
    async def settle_step(self, settling: SettleStep) -> ToolOutcome:
        """Write down how a person settled a call."""
        output = settling.output
        if settling.status == "skipped":
            because = f" because: {settling.comment}" if settling.comment else ""
            output = f"Not done: {settling.by} skipped this call{because}. Go on without it; do not call it again."
        async with heartbeating():
            try:
                await self._may_settle(settling)
            except HorariumError as error:
                asked_by, step = activity.info().workflow_id or "", step_id(settling.run, settling.number)
                now = datetime.now(UTC)
                await self._approvals.refused_effect(settling.run, step, asked_by, now, error.code, str(error))
                return ToolOutcome(status="refused", code=error.code, message=shorten(str(error), NOTE_CHARS))
            claim = await self._claim_of(settling.run, settling.number, settling.call)
            return outcome_of(await self._journal.settle_unclaimed(claim, settling.status, output, by=settling.by))

    async def _may_settle(self, settling: SettleStep) -> None:
        """Whether a step may be settled so: by the word of a person who is proved to have said it.

        Raises:
            NotApproved: Another workflow wants it, or nobody said it.
            ProofInvalid: It is not proved.
        """
        self._is_of(settling.run)
        if not self._witness.required or settling.status not in _RESOLVED_BY:
            return
        said, step = settling.resolution, step_id(settling.run, settling.number)
        if said is None:
            raise NotApproved(f"Nobody's word came with step {step}.")
        await self._witness.of_resolution(settling.run, said.question or "", said, datetime.now(UTC))
        wanted = (step, _RESOLVED_BY[settling.status], settling.output, settling.by, settling.comment)
        if wanted != (said.step, said.verdict, said.output or "", said.by, said.comment):
            raise NotApproved(f"Something else was said of step {step}.")

    async def _arguments(self, run: str, call: Call) -> str:
        turn = stored_turn((await self._journal.near(run, call.source)).output or "{}")
        return next(item.arguments for item in turn.calls if item.id == call.id)

    async def _released_arguments(self, question: OpenQuestion, call: Call) -> str:
        """The arguments that the call was made with: a person's, when one changed them."""
        approval = call.approved_in or approval_id(step_id(question.run, question.number))
        edited = await self._approvals.edited(approval, call.digest, run=question.run) if call.edited else None
        return edited if edited is not None else await self._arguments(question.run, call)

    async def _claim_of(self, run: str, number: int, call: Call) -> StepClaim:
        return StepClaim(
            run_id=run,
            number=number,
            kind="tool_call" if call.agent is None else "handoff",
            name=call.tool,
            effect=call.effect,
            key=call.key,
            call_id=call.id,
            input_digest=call.digest,
            arguments=await self._arguments(run, call),
        )


def refusal(outcome: ApprovalOutcome) -> str:
    """What the model is told of a call that people did not release, in words that keep it from asking again."""
    if outcome.status == "withdrawn":
        return "Not done: the run ended before anybody decided."
    if outcome.status == "expired":
        return (
            "Not done: nobody decided in time. That is no person's rejection, and nobody is asked again in this run. "
            "Do not make the call again; go on without it, or say what you could not do."
        )
    if outcome.status == "answered":
        answer = outcome.ballot.decision.answer if outcome.ballot else None
        return (
            f"Not done: {outcome.by} answered instead of making this call. Take the answer as its result, and do not "
            f"make the call again. The answer: {answer}"
        )
    because = f" The reason given: {outcome.comment}" if outcome.comment else ""
    return (
        f"Not done: {outcome.by} rejected this call.{because}\n"
        "This decision is final for this run. Do not make the call again, neither in the same nor in another form; "
        "go on without it, or say what you could not do."
    )
