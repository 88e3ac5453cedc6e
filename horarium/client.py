"""The client: start runs, watch them, talk to them, decide for them, from any Python service.

Control goes over Temporal, content comes from the ledger. Without a ledger (`ledger=False`) everything
still works that the wire contract has; inputs then travel in the workflow's payload, and outputs are cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from temporalio.client import Client as TemporalClient
from temporalio.client import (
    RPCTimeoutOrCancelledError,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
)
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.exceptions import CancelledError as RunCancelled
from temporalio.service import RPCError, RPCStatusCode

from horarium import contract, errors
from horarium.call_client import CallClient
from horarium.connection import connect
from horarium.content import canonical, digest
from horarium.contract import (
    OPEN_STATUSES,
    Approval,
    ApprovalState,
    CallerFunction,
    Decision,
    Message,
    Reassignment,
    Remember,
    Resolution,
    ResolutionState,
    ResolutionVerdict,
    RunRequest,
    RunResult,
    RunStatus,
    Status,
    StepSummary,
    Usage,
    Verdict,
)
from horarium.definitions import Agent, Limits
from horarium.directcalls import CALLER, call_step
from horarium.edits import check_edit
from horarium.errors import (
    ApprovalAlreadyDecided,
    ApprovalNotFound,
    ConfigError,
    Conflict,
    HorariumError,
    RunNotFound,
    Unreachable,
)
from horarium.evidence_client import EvidenceClient
from horarium.functions import Submitted, check_functions, submit
from horarium.ids import new_run_id, run_id_for_key
from horarium.ledger.agents import Agents, AgentVersion
from horarium.ledger.approvals import ApprovalRecord, Approvals, EditRecord, QuestionKind, VoteRecord
from horarium.ledger.database import Ledger
from horarium.ledger.functions import RunFunctions
from horarium.ledger.grants import Grant, Grants
from horarium.ledger.journal import SETTLED, Journal, StepRecord
from horarium.ledger.runs import RunRecord, Runs
from horarium.memory_client import MemoryClient
from horarium.plans import is_role, plan_problems
from horarium.proof import ANYBODY, KeyRing
from horarium.repeats import said_before
from horarium.routine_client import RoutineClient
from horarium.settings import Settings
from horarium.structured import AnswerSchema, schema_flaw
from horarium.thread_client import ThreadClient
from horarium.toolbox_client import ToolboxClient
from horarium.turns import stored_turn
from horarium.workspace_client import WorkspaceClient

# A workflow task of a run takes milliseconds; when its worker dies, this is how long nobody else gets it.
TASK_TIMEOUT = timedelta(seconds=2)
LOOK_EVERY = 0.2  # seconds, of `watch`
ANSWERED_WITHIN = timedelta(minutes=1)  # by a run, to what a person said; longer than a worker needs to come back
CATCHING_UP = 5.0  # seconds that a run may be behind the ledger
_AWAY = (
    RPCStatusCode.UNAVAILABLE,
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.CANCELLED,
    RPCStatusCode.FAILED_PRECONDITION,  # no worker has been seen on the queue
)
T = TypeVar("T")
Said = TypeVar("Said", Decision, Resolution, Reassignment)


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something to see of a run: its `status` changed, a `step` began or settled, or the model wrote `text`."""

    type: Literal["status", "step", "text"]
    status: RunStatus | None = None
    step: StepRecord | None = None
    text: str | None = None


class Client(RoutineClient, MemoryClient, CallClient, WorkspaceClient, ThreadClient, ToolboxClient, EvidenceClient):
    """A connection to Temporal and, unless told otherwise, to the ledger. Close it, or use `async with`."""

    def __init__(self, temporal: TemporalClient, ledger: Ledger | None, settings: Settings | None = None) -> None:
        self.temporal = temporal
        self.ledger = ledger
        self.settings = settings
        self._patience = ANSWERED_WITHIN

    def with_patience(self, patience: timedelta) -> Self:
        """The same connections, for somebody who waits no longer than this until a run answers what a person said."""
        hurried = copy(self)
        hurried._patience = patience
        return hurried

    @classmethod
    async def connect(
        cls,
        settings: Settings | None = None,
        *,
        directory: Path | str | None = None,
        address: str | None = None,
        ledger: bool = True,
    ) -> Self:
        """Connect as the project's settings say.

        Args:
            settings: Else read from `directory`, or from the project around the current directory.
            address: `host:port` of Temporal, instead of what the settings say.
            ledger: False for a service that has no access to it.

        Raises:
            Unreachable: Temporal or the ledger does not answer.
            ConfigError: The settings are wrong.
        """
        settings = settings or Settings.load(directory)
        temporal = await connect(settings, address=address)
        return cls(temporal, await Ledger.open(settings) if ledger else None, settings)

    async def close(self) -> None:
        """Close the ledger's connections."""
        if self.ledger is not None:
            await self.ledger.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(
        self,
        agent: str | Agent,
        input: str | None = None,
        *,
        key: str | None = None,
        version: int | None = None,
        thread: str | None = None,
        tenant: str = "default",
        requested_by: str | None = None,
        resume_from: str | None = None,
        limits: Limits | None = None,
        metadata: Mapping[str, str] | None = None,
        continue_as_new_after: int | None = None,
        functions: Sequence[CallerFunction] = (),
        choice: str | None = None,
        output_schema: Mapping[str, Any] | None = None,
    ) -> Run:
        """Start a run.

        Args:
            agent: Its name, or a definition, which becomes its newest version.
            key: The same key, for the same request, is the same run, however often it is started.
            thread: The conversation to go on with.
            resume_from: A run that ended early; this one continues after its last settled step.
            continue_as_new_after: Steps before the workflow continues as new; None leaves it to the engine.
            functions: Tools that you carry out: when the model calls one, the run waits for `submit_tool_outputs`.
            choice: The tool that the model has to call first; `*` for whichever. Needs a ledger.
            output_schema: JSON Schema that the final answer has to fit, instead of the agent's own; at most 16 KiB.

        Raises:
            RunExists: The key was used for another request.
            ThreadNotFound: There is no such thread.
            ConfigError: The approval plan of the definition cannot be kept, or the functions cannot be used.
            Unreachable: Temporal does not answer; with a key it is safe to try again.
        """
        if isinstance(agent, Agent):
            self._check_plan(agent)
            version = await Agents(self._ledger).register(agent)
            agent = agent.name
        request = RunRequest.model_validate(
            {
                "agent": agent,
                "version": version,
                "thread": thread,
                "tenant": tenant,
                "requested_by": requested_by,
                "resume_from": resume_from,
                "limits": limits,
                "metadata": dict(metadata or {}),
                "continue_as_new_after": continue_as_new_after,
            }
        )
        inline = (
            request
            if self.ledger is not None
            else RunRequest.model_validate(
                {**request.model_dump(), "input": input, "functions": functions, "output_schema": output_schema}
            )
        )
        flaw = schema_flaw(output_schema) if output_schema is not None else None
        if flaw is not None:
            raise ConfigError(f"The output schema {flaw}.")
        check_functions(functions, choice if functions else None)
        if choice is not None and self.ledger is None:
            raise ConfigError("What is called first is kept in the ledger.", hint="Connect with ledger=True.")
        schema = AnswerSchema(json_schema=dict(output_schema), own=True) if output_schema is not None else None
        return await self._begin(request, input, inline, key, RunFunctions(tuple(functions), choice), schema)

    async def _begin(
        self,
        request: RunRequest,
        input: str | None,
        inline: RunRequest,
        key: str | None,
        functions: RunFunctions | None = None,
        schema: AnswerSchema | None = None,
    ) -> Run:
        """Write a run down with its input and start it; without a ledger, start it with `inline`."""
        run_id = run_id_for_key(request.tenant, key) if key is not None else new_run_id()
        if self.ledger is not None:
            # The ledger takes an input of any length; only the workflow's payload is small.
            kept = {**request.metadata, **(schema.as_metadata() if schema is not None else {})}
            asked = request.model_copy(update={"input": input, "metadata": kept})
            whole: dict[str, Any] = {"request": asked.model_dump(mode="json", exclude={"functions", "output_schema"})}
            if functions is not None and (functions.functions or functions.choice):
                whole["functions"] = [one.model_dump(mode="json") for one in functions.functions]
                whole["choice"] = functions.choice
            await Runs(self.ledger).create(run_id, asked, key=key, request_digest=digest(whole), functions=functions)
        await self._start(run_id, request if self.ledger is not None else inline)
        return Run(self, run_id)

    def _check_plan(self, agent: Agent) -> None:
        """Refuse now what the worker would refuse; who has no roles here leaves it to the worker, which has them."""
        names = (name for rule in agent.approvals for name in (*rule.approvers, *rule.escalate_to))
        if self.settings is None or (not self.settings.approvals.roles and any(map(is_role, names))):
            return
        problems = plan_problems(agent, self.settings)
        if problems:
            raise ConfigError(
                f"The approval plan of {agent.name!r} cannot be kept: {'; '.join(problems)}",
                hint="Correct the definition; nothing was started.",
            )

    async def _start(self, run_id: str, request: RunRequest) -> None:
        try:
            await self.temporal.start_workflow(
                contract.RUN_WORKFLOW,
                request,
                id=run_id,
                task_queue=contract.ENGINE_QUEUE,
                task_timeout=TASK_TIMEOUT,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                search_attributes=_attributes(request),
                static_summary=request.agent,
                static_details=canonical(request.metadata) if request.metadata else None,
            )
        except WorkflowAlreadyStartedError:
            return  # ended already; the key leads to it all the same
        except RPCError as error:
            raise _translated(error, run_id) from error

    def run(self, run_id: str) -> Run:
        """A handle on a run that was started elsewhere; nothing is asked yet."""
        return Run(self, run_id)

    async def runs(
        self,
        *,
        status: Sequence[Status] = (),
        agent: str | None = None,
        tenant: str | None = None,
        thread: str | None = None,
        tick: str | None = None,
        routine: str | None = None,
        parent: str | None = None,
        before: tuple[datetime, str] | None = None,
        limit: int = 50,
    ) -> list[RunRecord]:
        """The latest runs, newest first; from the ledger.

        Args:
            parent: The run that handed them their tasks.
            before: Time of creation and id of the last run of the page before this one.
        """
        return await Runs(self._ledger).list(
            status=status,
            agent=agent,
            tenant=tenant,
            thread=thread,
            tick=tick,
            routine=routine,
            parent=parent,
            before=before,
            limit=limit,
        )

    async def run_record(self, run_id: str, *, tenant: str | None = None) -> RunRecord:
        """One run as the ledger has it; `tenant`: whose it has to be, None for anybody's.

        Raises:
            RunNotFound: There is none, or it is another tenant's.
        """
        record = await Runs(self._ledger).get(run_id)
        if tenant not in (None, record.tenant):
            raise RunNotFound(f"There is no run {run_id!r}.", hint="See which there are: horarium runs list")
        return record

    async def approvals(
        self,
        *,
        status: str | None = "pending",
        tenant: str | None = None,
        kind: QuestionKind | None = None,
        run: str | None = None,
        agent: str | None = None,
        tool: str | None = None,
        before: tuple[datetime, str] | None = None,
        limit: int = 50,
    ) -> list[ApprovalRecord]:
        """The inbox over all runs, newest first, from the ledger, with the exact arguments.

        Approvals, and steps that only a person can settle: tell them apart by `kind`.

        Args:
            status: None: whatever became of them.
            before: Time of asking and id of the last one of the page before this.
        """
        return await Approvals(self._ledger).list(
            status=status, tenant=tenant, kind=kind, run=run, agent=agent, tool=tool, before=before, limit=limit
        )

    async def approval(self, approval_id: str, *, tenant: str | None = None) -> ApprovalRecord:
        """One question of the inbox; `tenant`: whose it has to be, None for anybody's.

        Raises:
            ApprovalNotFound: There is none, or it is another tenant's.
        """
        found = await Approvals(self._ledger).get(approval_id)
        if tenant not in (None, found.tenant):
            raise ApprovalNotFound(f"There is no approval {approval_id!r}.")
        return found

    async def edit_of(self, approval_id: str) -> EditRecord | None:
        """How a person last changed the arguments of a call that was asked about, if one did."""
        return await Approvals(self._ledger).latest_edit(approval_id)

    async def votes(self, approval_id: str) -> list[VoteRecord]:
        """Who said what on an approval, in order."""
        return await Approvals(self._ledger).votes(approval_id)

    async def decide(self, run: str, decision: Decision) -> ApprovalState:
        """Send a decision, signed when this client has an approver key for its person.

        Raises:
            ApprovalAlreadyDecided, ApprovalExpired, ApprovalWithdrawn, ApprovalNotFound, DigestMismatch,
            NotAnApprover, ProofInvalid, ArgumentsRejected, Conflict: It does not count.
        """
        if decision.arguments is not None:
            check_edit(decision.arguments)  # before it is sent: JSON would make null of NaN
        return await self._of_approval(run, contract.UPDATE_DECIDE, self._signed(run, decision))

    async def reassign(self, run: str, reassignment: Reassignment) -> ApprovalState:
        """Let others decide on an approval; signed when this client has an approver key for whoever says so.

        Raises:
            NotAnApprover: Others decide on it, and say who does.
            ReassignmentRefused: It cannot be handed to those, or not now, or the plan lets nobody.
            ApprovalAlreadyDecided, ApprovalExpired, ApprovalWithdrawn, ApprovalNotFound, DigestMismatch,
            ProofInvalid, Conflict: It does not count.
        """
        return await self._of_approval(run, contract.UPDATE_REASSIGN, self._signed(run, reassignment))

    async def _of_approval(self, run: str, update: str, said: Decision | Reassignment) -> ApprovalState:
        deadline = asyncio.get_running_loop().time() + CATCHING_UP
        while True:
            try:
                return await self._update(run, update, said, ApprovalState)
            except ApprovalNotFound:
                # The ledger may be ahead of the run for a moment: a worker died between writing and saying so.
                late = asyncio.get_running_loop().time() > deadline
                if late or not await self._waits(said.approval):
                    raise
                await asyncio.sleep(LOOK_EVERY)
            except Conflict as error:
                if type(error) is Conflict:  # the run has ended, and says no more; the ledger knows who decided
                    return await self._decided_before(said, error)
                raise

    async def _decided_before(self, said: Decision | Reassignment, ended: Conflict) -> ApprovalState:
        if self.ledger is None:
            raise ended
        found = await Approvals(self.ledger).get(said.approval)
        if found.verdict is None or found.decided_by is None:
            raise ended
        before = said_before(said, found, await self.votes(found.id))
        if before is not None:
            return before
        raise ApprovalAlreadyDecided(
            f"Approval {found.id} was {found.status} by {found.decided_by}, and its run has ended."
        ) from ended

    async def _waits(self, approval_id: str) -> bool:
        if self.ledger is None:
            return False
        try:
            return (await Approvals(self.ledger).get(approval_id)).status == "pending"
        except ApprovalNotFound:
            return False

    async def decide_many(self, decisions: Sequence[tuple[str, Decision]]) -> list[ApprovalState | HorariumError]:
        """Send many, each with its run; what became of each, in order. One that does not count stops no other."""

        async def one(run: str, decision: Decision) -> ApprovalState | HorariumError:
            try:
                return await self.decide(run, decision)
            except HorariumError as error:
                return error

        return list(await asyncio.gather(*(one(run, decision) for run, decision in decisions)))

    async def grants(self, *, tenant: str | None = None, everything: bool = False) -> list[Grant]:
        """Standing grants, newest first; those that have ended or were revoked too, when asked for."""
        return await Grants(self._ledger).list(tenant=tenant, everything=everything, at=datetime.now(UTC))

    async def revoke_grant(self, grant_id: str, *, by: str, tenant: str | None = None) -> Grant:
        """End a standing grant now.

        Args:
            tenant: Whose it has to be. None: anybody's.

        Raises:
            ApprovalNotFound: There is none of this id, or it is another tenant's.
        """
        return await Grants(self._ledger).revoke(grant_id, by, datetime.now(UTC), tenant=tenant)

    def _signed(self, run: str, said: Said) -> Said:
        if said.proof is not None or self.settings is None:
            return said
        of_admin = isinstance(said, Reassignment) and said.as_admin
        signer = KeyRing.of(self.settings).signer(ANYBODY if of_admin else said.by)
        return signer.sign(run, said) if signer is not None else said

    async def _update(self, run: str, name: str, payload: Any, result: type[T]) -> T:
        handle = self.temporal.get_workflow_handle(run)
        waiting = asyncio.timeout(self._patience.total_seconds())
        try:
            async with waiting:
                answer: T = await handle.execute_update(name, payload, result_type=result)
            return answer
        except WorkflowUpdateFailedError as error:
            cause = error.cause
            kind = errors.BY_CODE.get(cause.type or "", Conflict) if isinstance(cause, ApplicationError) else Conflict
            raise kind(cause.message if isinstance(cause, ApplicationError) else str(cause)) from error
        except (RPCTimeoutOrCancelledError, TimeoutError) as error:
            if not waiting.expired():
                raise
            # The server keeps it until a worker comes; waiting for that could be for ever.
            raise Unreachable(
                "No engine worker has taken this up yet, so it may still count, or not.",
                hint="Say the same again in a moment: it counts once.",
            ) from error
        except RPCError as error:
            raise _translated(error, run) from error

    async def agents(self) -> list[AgentVersion]:
        """The newest version of every agent."""
        return await Agents(self._ledger).newest()

    async def agent(self, name: str, version: int | None = None) -> AgentVersion:
        """One version of an agent, or its newest.

        Raises:
            AgentNotFound: There is none.
        """
        return await Agents(self._ledger).get(name, version)

    def require_ledger(self) -> Ledger:
        """The ledger.

        Raises:
            HorariumError: This client was connected without one.
        """
        if self.ledger is None:
            raise HorariumError("This client has no ledger.", hint="Connect with ledger=True.")
        return self.ledger

    @property
    def _ledger(self) -> Ledger:
        return self.require_ledger()


class Run:
    """A handle on one run."""

    def __init__(self, client: Client, run_id: str) -> None:
        self.id = run_id
        self._client = client

    @property
    def client(self) -> Client:
        """The client that it came from."""
        return self._client

    @property
    def _handle(self) -> WorkflowHandle[Any, RunResult]:
        return self._client.temporal.get_workflow_handle(self.id, result_type=RunResult)

    # ---- looking

    async def record(self) -> RunRecord:
        """The run as the ledger has it.

        Raises:
            RunNotFound: There is none.
        """
        return await Runs(self._client._ledger).get(self.id)

    async def status(self) -> RunStatus:
        """Where the run is and what it waits for.

        Raises:
            RunNotFound: There is no such run.
            Unreachable: No worker, or no server, answers.
        """
        record = await self.record() if self._client.ledger is not None else None
        if record is not None and record.closed_at is not None:
            return _as_recorded(record)
        try:
            return await self._asked(contract.QUERY_STATUS, RunStatus, rpc_timeout=timedelta(seconds=10))
        except RPCError as error:
            if record is not None and record.opened_at is None and error.status is RPCStatusCode.NOT_FOUND:
                return _as_recorded(record)  # written down a moment ago, and not started yet
            raise _translated(error, self.id) from error

    async def _asked(self, query: str, kind: type[T], rpc_timeout: timedelta | None = None) -> T:
        """Ask the run; again when its worker had to read it afresh first (workers/alignment.py).

        Raises:
            Unreachable: It does not answer, however often it is asked.
            RPCError: As the server says it.
        """
        deadline = asyncio.get_running_loop().time() + CATCHING_UP
        while True:
            try:
                answer: T = await self._handle.query(query, result_type=kind, rpc_timeout=rpc_timeout)
                return answer
            except WorkflowQueryFailedError as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise Unreachable(f"Run {self.id} does not answer: {error}", hint="Try it again.") from error
                await asyncio.sleep(LOOK_EVERY)

    async def result(self, timeout: timedelta | None = None) -> RunResult:
        """Wait for the end, whatever it is: a failed run is a result, not an exception.

        Raises:
            RunNotFound: There is no such run.
            TimeoutError: It has not ended within `timeout`.
        """
        try:
            return await asyncio.wait_for(
                self._handle.result(rpc_timeout=None), timeout.total_seconds() if timeout else None
            )
        except WorkflowFailureError as error:
            return await self._ended_badly(error.cause)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND and self._client.ledger is not None:
                return _result(await self.record())
            raise _translated(error, self.id) from error

    async def _ended_badly(self, cause: BaseException) -> RunResult:
        if isinstance(cause, ApplicationError) and cause.details:
            return RunResult.model_validate(cause.details[0])
        if self._client.ledger is not None and isinstance(cause, RunCancelled):
            return _result(await self.record())
        status: Status = "cancelled" if isinstance(cause, RunCancelled) else "failed"
        reason = "cancelled" if status == "cancelled" else "terminated"
        return RunResult(run=self.id, thread="", agent="", version=0, status=status, reason=reason, message=str(cause))

    async def output(self) -> str:
        """The whole final answer, from the ledger; empty while there is none. Of a run without a model, its call's."""
        record = await self.record()
        for message in reversed(await self._client.thread(record.thread_id)):
            if message.role == "assistant" and message.run_id == self.id:
                text = stored_turn(message.output or "{}").text
                return text or await self._call_output()
        return await self._call_output()

    async def _call_output(self) -> str:
        steps = await self.steps()
        if any(step.kind == "model_call" and step.name != CALLER for step in steps):
            return ""
        step = call_step(steps)
        if step is None or step.status != "completed":
            return ""
        if step.output_blob is None or (step.changes or "").startswith("binary"):
            return step.output or ""
        return (await self._client.require_ledger().blobs.get(step.output_blob)).decode("utf-8", "replace")

    async def steps(self, *, after: int = 0) -> list[StepRecord]:
        """The evidence: every step from number `after` + 1, with its content, from the ledger."""
        return await Journal(self._client._ledger).of_run(self.id, after=after)

    async def step_summaries(self) -> list[StepSummary]:
        """The latest 200 steps, without content; needs no ledger."""
        try:
            return await self._asked(contract.QUERY_STEPS, list[StepSummary])
        except RPCError as error:
            raise _translated(error, self.id) from error

    async def watch(self) -> AsyncIterator[RunEvent]:
        """See the run as it goes, from its first step to its end."""
        seen: dict[int, tuple[str, int, str | None]] = {}
        last: RunStatus | None = None
        settled_up_to = 0
        while True:
            status = await self.status()
            for step in await self.steps(after=settled_up_to):
                shape = (step.status, step.attempts, step.partial)
                before = seen.get(step.number)
                if before == shape:
                    continue
                if before is None or before[:2] != shape[:2]:
                    yield RunEvent("step", step=step)
                if step.partial and (before is None or before[2] != step.partial):
                    yield RunEvent("text", step=step, text=step.partial)
                seen[step.number] = shape
            while settled_up_to + 1 in seen and seen[settled_up_to + 1][0] in SETTLED:
                settled_up_to += 1
            if last is None or (last.status, last.waiting_for) != (status.status, status.waiting_for):
                last = status
                yield RunEvent("status", status=status)
            if status.status not in OPEN_STATUSES:
                return
            await asyncio.sleep(LOOK_EVERY)

    # ---- talking

    async def message(self, text: str, *, by: str | None = None) -> None:
        """Send more input; the run reads it before its next turn.

        Raises:
            Conflict: The run has ended.
        """
        await self.signal(contract.SIGNAL_MESSAGE, Message(text=text, by=by))

    async def submit_tool_outputs(self, outputs: Mapping[str, str], *, by: str | None = None) -> Submitted:
        """Give the run what came of calls that it waits for its starter to carry out, by the calls' ids in `status`.

        The first output of a call stands; the same once more changes nothing. Calls that are left out go on waiting.

        Raises:
            FunctionCallNotFound: The run has given no such call to anybody.
            OutputRefused: Another output was first, or it is no longer waited for. Nothing of these was taken.
            Conflict: The run has ended.
        """
        return await submit(self, outputs, by=by)

    async def cancel(self) -> None:
        """Ask the run to end now; what is in flight says first what became of it.

        Raises:
            Conflict: The run has ended.
        """
        try:
            if (await self._handle.describe()).close_time is not None:  # Temporal takes a late request in silence
                raise Conflict(f"Run {self.id} has ended.", hint=f"See how: horarium runs show {self.id}")
            await self._handle.cancel()
        except RPCError as error:
            raise _translated(error, self.id) from error

    async def resolve(
        self,
        step: str,
        verdict: ResolutionVerdict,
        *,
        by: str,
        output: str | None = None,
        comment: str | None = None,
        question: str | None = None,
    ) -> ResolutionState:
        """Say how to go on with a held step or an unknown outcome; see `contract.Resolution`.

        Args:
            question: Its id in the inbox. None: the one that waits now.

        Raises:
            Conflict: The step does not wait for this; names who settled it.
            ProofInvalid: The worker requires a proof that this client could not give.
        """
        if question is None:
            waiting = (await self.status()).waiting_for
            question = next((item.question for item in waiting if item.id == step), None)
        resolution = Resolution(step=step, verdict=verdict, by=by, output=output, comment=comment, question=question)
        signed = self._client._signed(self.id, resolution) if question is not None else resolution
        return await self._client._update(self.id, contract.UPDATE_RESOLVE, signed, ResolutionState)

    async def signal(self, name: str, payload: Any) -> None:
        """Send one of the contract's signals as it is.

        Raises:
            Conflict: The run has ended.
        """
        try:
            await self._handle.signal(name, payload)
        except RPCError as error:
            raise _translated(error, self.id) from error

    # ---- deciding

    async def approvals(self) -> list[Approval]:
        """Every approval of the run, oldest first."""
        try:
            return await self._asked(contract.QUERY_APPROVALS, list[Approval])
        except RPCError as error:
            raise _translated(error, self.id) from error

    async def next_approval(self, timeout: timedelta = timedelta(minutes=5)) -> Approval:
        """Wait for a pending approval.

        Raises:
            TimeoutError: There was none in time.
            Conflict: The run ended without one.
        """
        async with asyncio.timeout(timeout.total_seconds()):
            while True:
                for approval in await self.approvals():
                    if approval.status == "pending":
                        return approval
                status = await self.status()
                if status.status not in OPEN_STATUSES:
                    raise Conflict(f"Run {self.id} is {status.status}; it asks for nothing.")
                await asyncio.sleep(LOOK_EVERY)

    async def approve(
        self,
        approval: Approval,
        *,
        by: str,
        comment: str | None = None,
        arguments: dict[str, Any] | None = None,
        remember: Remember | None = None,
    ) -> ApprovalState:
        """Approve exactly what the approval shows, or with these arguments instead.

        Args:
            remember: Release such calls from now on, where the plan allows it.

        Raises:
            ApprovalAlreadyDecided: Somebody decided otherwise first; names who.
            ApprovalExpired, ApprovalWithdrawn: Nobody is asked any more.
            NotAnApprover: The plan lets others decide.
            ArgumentsRejected: The arguments do not fit the tool.
            ApprovalNotFound, DigestMismatch, ProofInvalid, Conflict: It does not count.
        """
        return await self._decide(approval, "approve", by, comment=comment, arguments=arguments, remember=remember)

    async def reject(self, approval: Approval, *, by: str, comment: str | None = None) -> ApprovalState:
        """Reject; the model is told the comment. Raises as `approve`."""
        return await self._decide(approval, "reject", by, comment=comment)

    async def answer(self, approval: Approval, answer: str, *, by: str, comment: str | None = None) -> ApprovalState:
        """Tell the model this instead of making the call. Raises as `approve`."""
        return await self._decide(approval, "answer", by, comment=comment, answer=answer)

    async def reassign(
        self, approval: Approval, *to: str, by: str, comment: str | None = None, as_admin: bool = False
    ) -> ApprovalState:
        """Let these people, and roles as `role:<name>`, decide instead. Raises as `Client.reassign`."""
        said = Reassignment(
            approval=approval.id, digest=approval.digest, to=to, by=by, comment=comment, as_admin=as_admin
        )
        return await self._client.reassign(self.id, said)

    async def _decide(self, approval: Approval, verdict: Verdict, by: str, **rest: Any) -> ApprovalState:
        decision = Decision(approval=approval.id, digest=approval.digest, by=by, verdict=verdict, **rest)
        return await self._client.decide(self.id, decision)


def _attributes(request: RunRequest) -> TypedSearchAttributes:
    pairs = [
        SearchAttributePair(SearchAttributeKey.for_keyword(contract.SEARCH_AGENT), request.agent),
        SearchAttributePair(SearchAttributeKey.for_keyword(contract.SEARCH_STATUS), "queued"),
        SearchAttributePair(SearchAttributeKey.for_keyword(contract.SEARCH_TENANT), request.tenant),
    ]
    return TypedSearchAttributes(pairs)


def _as_recorded(record: RunRecord) -> RunStatus:
    return RunStatus(
        run=record.id,
        thread=record.thread_id,
        agent=record.agent,
        version=record.version,
        status=record.status,
        reason=record.reason,
        turns=record.turns,
        steps=record.steps,
        usage=_usage(record),
    )


def _result(record: RunRecord) -> RunResult:
    return RunResult(
        run=record.id,
        thread=record.thread_id,
        agent=record.agent,
        version=record.version or 0,
        status=record.status,
        reason=record.reason,
        message=record.message,
        turns=record.turns,
        steps=record.steps,
        usage=_usage(record),
    )


def _usage(record: RunRecord) -> Usage:
    return Usage(
        input_tokens=record.input_tokens, output_tokens=record.output_tokens, cost_micro_usd=record.cost_micro_usd
    )


def _translated(error: RPCError, run_id: str) -> HorariumError:
    if error.status is RPCStatusCode.NOT_FOUND:
        if any(word in str(error).lower() for word in ("completed", "closing")):  # the latter: while it was being sent
            return Conflict(f"Run {run_id} has ended.", hint=f"See how: horarium runs show {run_id}")
        return RunNotFound(f"There is no run {run_id!r}.", hint="See which there are: horarium runs list")
    if error.status in _AWAY:
        return Unreachable("Temporal, or a worker, does not answer.", hint="Is it running? Try: horarium doctor")
    return HorariumError(str(error))
