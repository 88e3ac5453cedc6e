"""Everything this package raises on purpose.

HorariumError               code, a sentence, and what to do next
├── ConfigError             you can fix it before starting
│   └── ToolImportClash     a tool imports a name that is the engine's here
├── NotFound                RunNotFound, AgentNotFound, ThreadNotFound, RoutineNotFound, ApprovalNotFound,
│                           ToolUnavailable, ToolboxNotFound, MemoryNotFound, LinkInvalid
├── Conflict                RunExists, ThreadBusy, AlreadyRunning, ApprovalAlreadyDecided, ApprovalExpired,
│                           ApprovalWithdrawn, DigestMismatch, ReassignmentRefused, LinkUsed, LinkExpired, ToolChanged
├── TemplateFailed          a routine's input cannot be rendered (horarium/templates.py)
├── ArgumentsRejected       edited arguments that do not fit the tool
├── NotAnApprover           somebody else decides this
├── Unreachable             Temporal or the ledger does not answer
├── ModelError
│   ├── ModelUnavailable    timeout, 429, 5xx: tried again
│   ├── ModelRejected       the provider calls the request wrong: not tried again
│   │   └── ContextLengthExceeded   the conversation is too long: summarised, and asked again once
│   └── ModelAuthFailed     the credential was not accepted: not tried again
├── StepBlocked             a claim that must not go on: OutcomeUnknown, StepCrashes, NotApproved,
│                           ProofInvalid
├── StepTaken               another attempt performs it by now: this one gives up
├── WorkspaceError          a file that leads out of its workspace, is too large, or is not there
├── ToolNotReached          nothing was done, because whatever does it could not be reached: tried again
└── ToolError               a tool says: not done, tell the model why
    └── AddressRefused      a URL leads where nothing may be sent: not tried again

Callers branch on the class or on `code`, which is stable; never on the text.
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar


class HorariumError(Exception):
    """Base of every error raised on purpose. `code` is stable; `hint` says what to do next."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class ConfigError(HorariumError):
    """A definition or a setting is wrong; nothing was started."""

    code = "config"


class ToolImportClash(ConfigError):
    """A tool imports a top-level name that belongs to the engine in this process."""

    code = "tool_import_clash"


class NotFound(HorariumError):
    """The thing named does not exist."""

    code = "not_found"


class RunNotFound(NotFound):
    """No run has this id."""

    code = "run_not_found"


class AgentNotFound(NotFound):
    """No agent has this name, or not in this version."""

    code = "agent_not_found"


class ThreadNotFound(NotFound):
    """No thread has this id, or it was deleted."""

    code = "thread_not_found"


class RoutineNotFound(NotFound):
    """There is no routine, or no tick, of this name."""

    code = "routine_not_found"


class ApprovalNotFound(NotFound):
    """No approval has this id in this run."""

    code = "approval_not_found"


class FunctionCallNotFound(NotFound):
    """No call of this id was given to whoever started the run."""

    code = "function_call_not_found"


class ToolUnavailable(NotFound):
    """An agent names a tool that no worker serves."""

    code = "tool_unavailable"


class Conflict(HorariumError):
    """The request contradicts what already stands."""

    code = "conflict"


class RunExists(Conflict):
    """The key was used before, for another request."""

    code = "run_exists"


class ThreadBusy(Conflict):
    """Another run of this thread is open; a thread has one open run at a time."""

    code = "thread_busy"


class ApprovalAlreadyDecided(Conflict):
    """Someone answered this approval first, with the other verdict."""

    code = "approval_already_decided"


class ApprovalExpired(Conflict):
    """Nobody decided in time; nothing is released any more."""

    code = "approval_expired"


class ApprovalWithdrawn(Conflict):
    """The run no longer waits for this."""

    code = "approval_withdrawn"


class OutputRefused(Conflict):
    """The call has another output already, or the run no longer waits for one."""

    code = "output_refused"


class NotAnApprover(HorariumError):
    """The approval plan lets others decide, or asks for somebody who did not start the run."""

    code = "not_an_approver"


class DigestMismatch(Conflict):
    """The decision was made on other arguments than those that wait."""

    code = "digest_mismatch"


class ReassignmentRefused(Conflict):
    """An approval cannot be handed to those people, or not now."""

    code = "reassignment_refused"


class LinkUsed(Conflict):
    """A link decides once, and it has."""

    code = "link_used"


class LinkExpired(Conflict):
    """The link was good for a time that is over; the question may still be open."""

    code = "link_expired"


class LinkInvalid(NotFound):
    """No link of ours: cut, changed, or made with another secret."""

    code = "link_invalid"


class ArgumentsRejected(HorariumError):
    """A person's arguments do not fit the tool; nothing was decided."""

    code = "arguments_rejected"


class AlreadyRunning(Conflict):
    """Another `horarium up` owns this state directory."""

    code = "already_running"


class Unreachable(HorariumError):
    """A server we need does not answer."""

    code = "unreachable"


class ModelError(HorariumError):
    """The model side went wrong."""

    code = "model_error"


class ModelUnavailable(ModelError):
    """Timeout, connection, 408, 409, 429 or 5xx. Tried again, after `retry_after` when the provider named one."""

    code = "model_unavailable"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        retry_after: timedelta | None = None,
        throttled: bool = False,
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
        self.throttled = throttled


class ModelRejected(ModelError):
    """The provider says the request itself is wrong (400, 404, 413, 422). Not tried again."""

    code = "model_rejected"


class ContextLengthExceeded(ModelRejected):
    """The conversation does not fit the model's window. Asked again once, after its older part was summarised."""

    code = "context_length_exceeded"


class ModelAuthFailed(ModelError):
    """The provider did not accept the credential (401, 403). Not tried again."""

    code = "model_auth_failed"


class StepBlocked(HorariumError):
    """The step may not be performed."""

    code = "step_blocked"


class OutcomeUnknown(StepBlocked):
    """An earlier attempt claimed an external effect and nobody knows whether it happened.

    `holder`: the token of that attempt, as long as the claim is its.
    """

    code = "outcome_unknown"
    holder: str | None = None

    @classmethod
    def held_by(cls, holder: str | None, message: str) -> OutcomeUnknown:
        """Of a claim that somebody has."""
        error = cls(message)
        error.holder = holder
        return error


class StepTaken(HorariumError):
    """Another attempt has the step by now; whoever finds that out gives up its own."""

    code = "step_taken"


class StepCrashes(StepBlocked):
    """The step took its worker down again and again."""

    code = "step_crashes"


class NotApproved(StepBlocked):
    """The ledger has no approval for exactly this call."""

    code = "not_approved"


class ProofInvalid(StepBlocked):
    """A decision is not proved to be its person's; it releases nothing."""

    code = "proof_invalid"


class ToolError(HorariumError):
    """Raise it in a tool to say: this was not done, and the model should be told why.

    For a tool of effect `external` it is the promise that nothing happened; any other
    exception leaves the outcome unknown, and a person is asked.
    """

    code = "tool_error"


class AddressRefused(ToolError):
    """A URL leads to an address that nothing may be sent to. Nothing was sent."""

    code = "address_refused"


class ToolNotReached(HorariumError):
    """Raise it in a tool to say: whatever does this could not be reached, so nothing was done.

    Unlike any other exception it is worth another attempt even for a tool of effect `external`; not before
    `retry_after`, when it was told one.
    """

    code = "tool_not_reached"

    def __init__(self, message: str, *, hint: str | None = None, retry_after: timedelta | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class ToolChanged(Conflict):
    """A server says other things of a tool than somebody trusted."""

    code = "tool_changed"


class ToolTaken(Conflict):
    """Another worker serves a tool of this name, on another queue."""

    code = "tool_taken"


class ToolboxNotFound(NotFound):
    """No toolbox of this name, or not in this version."""

    code = "toolbox_not_found"


class MemoryNotFound(NotFound):
    """No memory of this id, or it is another tenant's."""

    code = "memory_not_found"


class WorkspaceError(HorariumError):
    """A file of a workspace cannot be what was asked: it leads out, is too large, or is not there."""

    code = "workspace_error"


BY_CODE: dict[str, type[HorariumError]] = {
    kind.code: kind
    for kind in list(vars().values())
    if isinstance(kind, type) and issubclass(kind, HorariumError) and kind is not ModelUnavailable
}
"""What a code that came back from Temporal stands for."""
