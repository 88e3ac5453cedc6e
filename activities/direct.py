"""Opening a run that makes one call: its caller asks for it, and no model.

The call is written down as the content of a first step, settled as soon as it stands there. So it is read, gated,
performed and resumed as a model's is.
"""

from __future__ import annotations

from typing import Any

from temporalio.exceptions import ApplicationError

from activities.catalog import Catalog
from activities.gating import Gatekeeper
from horarium.content import call_digest, canonical
from horarium.contract import DirectCall, RunRequest
from horarium.definitions import Agent
from horarium.directcalls import CALL_ID, CALLER, as_text, from_text
from horarium.errors import ArgumentsRejected, Conflict, HorariumError, RunNotFound
from horarium.ids import idempotency_key, step_id
from horarium.ledger.agents import ServedTool
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Answered, Held, Journal, StepClaim
from horarium.ledger.runs import Runs
from horarium.protocol import Call
from horarium.schemas import schema_problem
from horarium.tools import Effect
from horarium.turns import StoredCall, StoredTurn

STEP = 1


class DirectCalls:
    """What opening a run needs for a call that its caller asks for."""

    def __init__(self, ledger: Ledger, catalog: Catalog) -> None:
        self._runs = Runs(ledger)
        self._journal = Journal(ledger)
        self._gatekeeper = Gatekeeper(ledger)
        self._catalog = catalog

    async def asked(self, run: str, request: RunRequest) -> DirectCall | None:
        """The call that a request asks for, with its arguments; None when it asks for a model's turns.

        Raises:
            Conflict: It asks for something else as well.
            RunNotFound: The arguments were deleted with their thread.
        """
        call = request.call
        if call is None:
            return None
        if request.input is not None or request.resume_from is not None:
            raise Conflict("A run makes a call, or has an input, or resumes another.", hint="Leave the others out.")
        if call.arguments is not None or call.tool is None:
            return call.model_copy(update={"arguments": call.arguments or {}})
        kept = await self._runs.asked(run)
        found = from_text(kept.input) if kept is not None and kept.input is not None else None
        if found is None or found.tool != call.tool:
            raise RunNotFound(
                f"The ledger has no arguments for the call of run {run}.",
                hint="Give them, or start it with the client.",
            )
        return found

    def as_asked(self, request: RunRequest, call: DirectCall) -> RunRequest:
        """The request with the call as its input, for the run's thread.

        Raises:
            ApplicationError: The arguments cannot be stored.
        """
        try:
            return request.model_copy(update={"input": as_text(call.tool, call.arguments or {})})
        except HorariumError as error:
            raise _rejected(str(error)) from error

    async def served(self, run: str, agent: Agent, call: DirectCall) -> ServedTool | None:
        """The tool of a call, when its arguments fit; None when no call is to be made.

        Raises:
            ToolUnavailable: The run has no such tool.
            ApplicationError: The arguments do not fit it.
        """
        if call.tool is None:
            return None
        served = await self._catalog.tool_of_run(run, agent, call.tool)
        problem = schema_problem(served.spec.parameters, call.arguments or {})
        if problem is not None:
            raise _rejected(f"The arguments do not fit {call.tool!r}: {problem}")
        return served

    async def begin(
        self, run: str, thread: str, request: RunRequest, agent: Agent, served: ServedTool, call: DirectCall
    ) -> Call:
        """Write the call down as the run's first step, once, and give it with what stands before it."""
        written = as_text(call.tool, call.arguments or {})
        arguments = (from_text(written) or call).arguments or {}  # as they are stored
        await self._write(run, thread, served.spec.name, arguments)
        made = Call(
            id=CALL_ID,
            tool=served.spec.name,
            digest=call_digest(served.spec.name, served.spec.schema_digest, arguments),
            key=idempotency_key(run, f"{CALL_ID}.{STEP}"),
            source=step_id(run, STEP),
            effect=served.spec.effect,
            queue=self._catalog.queue_of(served),
            timeout=served.spec.timeout,
            agent=served.agent,
        )
        return await self._gatekeeper.gated(
            made, agent, served.spec, arguments, run=run, thread=thread, tenant=request.tenant
        )

    async def is_callers(self, run: str, number: int) -> bool:
        """Whether a turn with calls was written down for a caller, and is no model's."""
        return (await self._journal.get(run, number)).name == CALLER

    async def _write(self, run: str, thread: str, tool: str, arguments: dict[str, Any]) -> None:
        claim = StepClaim(run, STEP, "model_call", CALLER, Effect.READ)
        held = await self._journal.claim(claim)
        if not isinstance(held, Held):
            return
        turn = StoredTurn(calls=(StoredCall(id=CALL_ID, name=tool, arguments=canonical(arguments)),))
        await self._journal.settle(
            held,
            "completed",
            turn.model_dump_json(exclude_defaults=True),
            model=CALLER,
            thread=thread,
            append=[Answered("assistant", step=step_id(run, STEP))],
            keep=True,
        )


def _rejected(message: str) -> ApplicationError:
    return ApplicationError(message, type=ArgumentsRejected.code, non_retryable=True)
