"""The step protocol through a gateway, for a tool worker that has no ledger and no blob store.

An answer may be lost on the way, so each attempt has a random name of its own and may ask the same thing again: the
gateway gives it what it has already. An attempt whose claim was never answered leaves its name to the next one here.
So a lost answer is never taken for an effect that nobody knows of.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import httpx2
import structlog
from pydantic import BaseModel, ValidationError

from horarium.content import Cleaned, canonical, clean, clean_text, cut, shorten
from horarium.contract import ENGINE_QUEUE, TOOL_QUEUE_PREFIX
from horarium.errors import BY_CODE, ConfigError, HorariumError, ToolNotReached, Unreachable
from horarium.ledger.journal import SETTLE_PATIENCE, Held, StepClaim
from horarium.ledger.toolworkers import ToolWorker
from horarium.protocol import NOTE_CHARS, ToolOutcome
from horarium.routine_state import RoutineState
from horarium.settings import Settings, reveal
from horarium.step_protocol import (
    ATTEMPT_HEADER,
    CLAIMS,
    CODE_CHARS,
    INLINE_CHARS,
    OUTPUTS,
    RETURNS,
    SETTLEMENTS,
    TAKEOVERS,
    UNKNOWNS,
    WORKERS,
    Arriving,
    Claimed,
    Claiming,
    Holding,
    Others,
    Returning,
    Settling,
    StepRef,
    TakingOver,
    TellingUnknown,
    WorkerSaid,
)
from horarium.stepping import Asked, Begun, SettledAs
from horarium.tools import Tool, ToolSpec
from horarium.workspaces.manifest import Change

log = structlog.get_logger()

CLAIM_PATIENCE = timedelta(seconds=10)  # then Temporal tries again later, and the run can be seen to wait
LEAVE_PATIENCE = timedelta(seconds=5)
ANSWER_TIMEOUT = httpx2.Timeout(30, connect=5)
NOT_BEFORE = timedelta(seconds=2)
REMEMBERED = 10_000  # claims whose answers never came
_FIRST_WAIT, _MOST_WAIT = 0.1, 5.0
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_REFUSED = (401, 403)

Answer = TypeVar("Answer", bound=BaseModel)


class GatewayRefuses(ConfigError):
    """The gateway does not accept this worker's key."""

    code = "gateway_refuses"


class TooLarge(HorariumError):
    """More bytes than the gateway takes."""

    code = "too_large"


class Gateway:
    """A gateway, as a tool worker reaches it. `refused` is done when its key does not count, or not any more."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self.refused: asyncio.Future[GatewayRefuses] = asyncio.get_running_loop().create_future()
        headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=ANSWER_TIMEOUT)

    @classmethod
    def of(cls, settings: Settings) -> Gateway:
        """The one that the settings name.

        Raises:
            ConfigError: They name none, or its key is not set.
        """
        tools = settings.tools
        if tools.gateway is None:
            raise ConfigError("No gateway is named.", hint="Set `gateway` in [tools].")
        return cls(tools.gateway, reveal(tools.gateway_key))

    async def close(self) -> None:
        """Let go of its connections."""
        await self._http.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        answer: type[Answer],
        body: BaseModel | None = None,
        *,
        patience: timedelta,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        params: dict[str, Any] | None = None,
    ) -> Answer:
        """Ask until there is an answer.

        Raises:
            Unreachable: There was none within the patience; what was asked may have been done.
            GatewayRefuses: The key is wrong, expired, revoked, or for something else.
            HorariumError: What the gateway says.
        """
        if body is not None:
            content, headers = body.model_dump_json().encode(), {"Content-Type": "application/json"}
        deadline = asyncio.get_running_loop().time() + patience.total_seconds()
        wait = _FIRST_WAIT
        while True:
            try:
                got = await self._http.request(method, path, content=content, headers=headers, params=params)
                if got.is_success:
                    return answer.model_validate_json(got.content or b"{}")
                if got.status_code not in _AGAIN:
                    raise self._error(got)
                why = f"it answers {got.status_code}"
            except (httpx2.HTTPError, ValidationError) as error:
                why = type(error).__name__
            if asyncio.get_running_loop().time() + wait > deadline:
                raise Unreachable(f"The gateway at {self.url} does not answer ({why}).")
            log.warning("gateway.asked_again", path=path, why=why)
            await asyncio.sleep(wait)
            wait = min(wait * 2, _MOST_WAIT)

    def _error(self, got: httpx2.Response) -> HorariumError:
        try:
            problem = got.json()
            code, detail = str(problem["code"]), str(problem["detail"])
        except (ValueError, KeyError, TypeError):
            code, detail = "", f"The gateway at {self.url} answers {got.status_code}."
        if got.status_code in _REFUSED:
            refusal = GatewayRefuses(
                f"The gateway at {self.url} does not let this tool worker in: {detail}",
                hint="Give it another key: horarium api-keys create --name NAME --tools GROUP",
            )
            if not self.refused.done():
                self.refused.set_result(refusal)
            return refusal
        if got.status_code == 413:
            return TooLarge(detail)
        return BY_CODE.get(code, HorariumError)(detail)


class RemoteSteps:
    """The steps of one group's calls, behind a gateway."""

    def __init__(self, gateway: Gateway, group: str) -> None:
        self.gateway = gateway
        self.group = group
        self._unanswered: OrderedDict[tuple[str, str, int, int], str] = OrderedDict()

    def of(self, asked: Asked) -> RemoteCall:
        """A new attempt at a call; of one whose claim was never answered, the same again."""
        attempt = self._unanswered.pop(_label(asked), None) or secrets.token_hex(16)
        return RemoteCall(self, asked, attempt)

    def unanswered(self, asked: Asked, attempt: str) -> None:
        """Remember that an attempt may hold a claim of which it was not told."""
        self._unanswered[_label(asked)] = attempt
        if len(self._unanswered) > REMEMBERED:
            self._unanswered.popitem(last=False)

    def answered(self, asked: Asked) -> None:
        """Forget it."""
        self._unanswered.pop(_label(asked), None)


class RemoteCall:
    """One attempt at one call."""

    def __init__(self, steps: RemoteSteps, asked: Asked, attempt: str) -> None:
        self._steps = steps
        self._gateway = steps.gateway
        self._asked = asked
        self._attempt = attempt
        self._holder: str | None = None
        step = asked.step
        self._ref: dict[str, Any] = StepRef(
            group=steps.group,
            run=step.run,
            number=step.number,
            attempt=attempt,
            workflow=asked.workflow,
            execution=asked.execution,
            activity=asked.activity,
        ).model_dump()

    async def begin(self) -> Begun:
        """See `CallSteps`. Stopped while it asks, it waits a little for the answer, and gives back what it got."""
        asking = asyncio.create_task(self._claimed())
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            with contextlib.suppress(HorariumError, TimeoutError):
                begun = await asyncio.wait_for(asking, LEAVE_PATIENCE.total_seconds())
                if begun.held is not None:
                    await self._return(Returning(**self._ref), LEAVE_PATIENCE)
            raise

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
        """See `CallSteps`; there is no workspace here, so no `change`."""
        cleaned = await asyncio.to_thread(clean, output)
        said = Settling(
            **self._ref,
            status=status,
            changes=cleaned.changes,
            code=shorten(code, CODE_CHARS) if code else None,
            message=shorten(clean_text(message)[0], NOTE_CHARS) if message else None,
            state=canonical(state.merged_into(None)) if state is not None and state.changed else None,
        )
        if cleaned.binary is None and len(cleaned.text) <= INLINE_CHARS:
            with contextlib.suppress(TooLarge):  # a gateway may take less than this at once
                return await self._settled(said.model_copy(update={"output": cleaned.text}))
        return await self._settled(await self._uploaded(said, cleaned))

    async def attempt_failed(self, held: Held, message: str) -> int:
        """See `CallSteps`."""
        said = Returning(**self._ref, failed=True, message=shorten(message, NOTE_CHARS))
        return (await self._return(said, SETTLE_PATIENCE)).failures

    async def hand_back(self, held: Held) -> None:
        """See `CallSteps`."""
        await self._return(Returning(**self._ref), LEAVE_PATIENCE)

    async def take_over(self) -> Held:
        """See `CallSteps`."""
        said = TakingOver(**self._ref, holder=self._holder)
        taken = await self._gateway.ask("POST", TAKEOVERS, Holding, said, patience=SETTLE_PATIENCE)
        return self._held(taken.attempts, taken.failures)

    async def mark_unknown(self, message: str) -> ToolOutcome:
        """See `CallSteps`."""
        said = TellingUnknown(**self._ref, message=shorten(clean_text(message)[0], NOTE_CHARS))
        return await self._gateway.ask("POST", UNKNOWNS, ToolOutcome, said, patience=SETTLE_PATIENCE)

    async def _claimed(self) -> Begun:
        said = Claiming(
            **self._ref, spec=canonical(self._asked.spec.model_dump(mode="json")), wants_state=self._asked.wants_state
        )
        # Forgotten only with an answer: whatever else happens, the gateway may have written the claim down.
        self._steps.unanswered(self._asked, self._attempt)
        try:
            got = await self._gateway.ask("POST", CLAIMS, Claimed, said, patience=CLAIM_PATIENCE)
        except (Unreachable, GatewayRefuses) as error:
            raise ToolNotReached(str(error), retry_after=NOT_BEFORE) from error
        except HorariumError:
            self._steps.answered(self._asked)
            raise
        self._steps.answered(self._asked)
        self._holder = got.holder
        return Begun(
            arguments=json.loads(got.arguments),
            held=self._held(got.attempts, got.failures) if got.held else None,
            outcome=got.outcome,
            unclear=got.unclear,
            holder=got.holder,
            state=RoutineState(None if got.state is None else json.loads(got.state)),
        )

    def _held(self, attempts: int, failures: int) -> Held:
        step, spec = self._asked.step, self._asked.spec
        claim = StepClaim(step.run, step.number, "tool_call", step.call.tool, spec.effect)
        return Held(claim, self._attempt, attempts, failures)

    async def _return(self, said: Returning, patience: timedelta) -> Holding:
        return await self._gateway.ask("POST", RETURNS, Holding, said, patience=patience)

    async def _settled(self, said: Settling) -> ToolOutcome:
        return await self._gateway.ask("POST", SETTLEMENTS, ToolOutcome, said, patience=SETTLE_PATIENCE)

    async def _uploaded(self, said: Settling, cleaned: Cleaned) -> Settling:
        """The settlement of an output that was sent ahead of it."""
        binary = cleaned.binary is not None
        content = await asyncio.to_thread(cleaned.text.encode) if cleaned.binary is None else cleaned.binary
        digest = f"sha256:{(await asyncio.to_thread(hashlib.sha256, content)).hexdigest()}"
        try:
            await self._gateway.ask(
                "PUT",
                f"{OUTPUTS}/{digest}",
                Holding,
                content=content,
                headers={ATTEMPT_HEADER: self._attempt, "Content-Type": "application/octet-stream"},
                params={name: self._ref[name] for name in ("group", "run", "number")},
                patience=SETTLE_PATIENCE,
            )
        except TooLarge as error:
            # It was done all the same, and must be written down.
            shown = "" if binary else cut(cleaned.text, len(content))
            note = f"[The output has {len(content):,} bytes and was not kept: {error.message}]"
            changes = (*said.changes, "too_large")
            return said.model_copy(update={"output": f"{shown}\n{note}".strip(), "changes": changes})
        return said.model_copy(update={"upload": digest, "binary": binary})


class RemoteWorkers:
    """As `ledger.toolworkers.ToolWorkers`, through a gateway."""

    def __init__(self, gateway: Gateway, group: str) -> None:
        self._gateway = gateway
        self._group = group

    async def arrive(self, worker: ToolWorker, specs: Sequence[ToolSpec]) -> list[ToolWorker]:
        """Announce a worker and its tools. Returns the others of its group, and the engine's, that live.

        Raises:
            ToolTaken: Another queue has one of the tools.
            Unreachable: The gateway does not answer.
            GatewayRefuses: The key is not for this group.
        """
        said = Arriving(**self._said(worker), specs=tuple(canonical(spec.model_dump(mode="json")) for spec in specs))
        others = await self._gateway.ask("POST", f"{WORKERS}/{worker.id}", Others, said, patience=CLAIM_PATIENCE)
        now = datetime.now(UTC)
        return [
            ToolWorker(
                id=other.id,
                queue=ENGINE_QUEUE if other.group is None else TOOL_QUEUE_PREFIX + other.group,
                host=other.host,
                pid=other.pid,
                version=other.version,
                python="",
                digest="",
                tools=other.tools,
                started_at=now,
                seen_at=now,
            )
            for other in others.data
        ]

    async def seen(self, worker: ToolWorker, now: datetime) -> None:
        """Note that a worker lives; when is said by the gateway's clock."""
        said = WorkerSaid(**self._said(worker))
        await self._gateway.ask("PUT", f"{WORKERS}/{worker.id}", Holding, said, patience=LEAVE_PATIENCE)

    async def left(self, worker: ToolWorker, now: datetime) -> None:
        """Note that a worker ended by itself."""
        path, group = f"{WORKERS}/{worker.id}", {"group": self._group}
        await self._gateway.ask("DELETE", path, Holding, params=group, patience=LEAVE_PATIENCE)

    def _said(self, worker: ToolWorker) -> dict[str, Any]:
        return {
            "group": self._group,
            "host": worker.host,
            "pid": worker.pid,
            "version": worker.version,
            "python": worker.python,
            "tools": dict(worker.tools),
        }


_FILES = {"workspace", "open_workspace"}


def refuse_workspaces(tools: Sequence[Tool]) -> None:
    """Refuse tools whose code asks for the files of the thread: they do not travel through the gateway.

    Raises:
        ConfigError: There is one.
    """
    for tool in tools:
        if tool.context_parameter is not None and _names(getattr(tool.function, "__code__", None)) & _FILES:
            raise ConfigError(
                f"The tool {tool.name!r} uses the workspace, which there is not behind a gateway.",
                hint="Serve it where the ledger and the blob store are within reach, without `gateway` in [tools].",
            )


def _names(code: Any) -> set[str]:
    """The attributes that a function's code asks for, in the functions inside of it too."""
    if code is None:
        return set()
    inner = [_names(item) for item in code.co_consts if hasattr(item, "co_names")]
    return set(code.co_names).union(*inner)


def _label(asked: Asked) -> tuple[str, str, int, int]:
    return (asked.workflow, asked.step.run, asked.step.number, asked.step.permit)
