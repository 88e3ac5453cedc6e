"""One call of a client: started as a run, waited for, and answered within a bounded time whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import uuid4

import anyio
import mcp_types as types
import structlog

from horarium.client import Client, Run
from horarium.contract import RunResult
from horarium.directcalls import call_step
from horarium.errors import HorariumError, RunExists, Unreachable
from horarium.gateway import results
from horarium.gateway.auth import Caller
from horarium.gateway.listing import Endpoint
from horarium.ids import run_id_for_key
from horarium.ledger.approvals import ApprovalRecord, Approvals
from horarium.ledger.runs import Runs
from horarium.settings import GatewaySettings

log = structlog.get_logger()

LOOK_EVERY = 0.5  # seconds between two looks at what it waits for
TELL_EVERY = 10.0  # seconds between two words to a client that wants progress, when there is nothing new
BEGIN_PATIENCE = 15.0  # seconds for Temporal and the ledger to take a call in
CANCEL_PATIENCE = 5.0
MOST_KEY_CHARS = 200  # of a run's key

Tell = Callable[[float, str], Awaitable[None]]


class Calls:
    """The calls in flight of one process."""

    def __init__(self, client: Client, settings: GatewaySettings) -> None:
        self._client = client
        self._ledger = client.require_ledger()
        self._settings = settings
        self._waiters: Counter[str] = Counter()
        self.leaving = False
        """Set while the process shuts down: its clients go, and their runs go on."""

    async def call(
        self, endpoint: Endpoint, tool: str, arguments: Mapping[str, Any], caller: Caller, key: str | None, tell: Tell
    ) -> types.CallToolResult:
        """Make a call, or go on waiting for one that was made with the same key.

        Cancelled, it cancels the run, unless another request waits for the same one.
        """
        wanted = key or uuid4().hex
        try:
            with anyio.CancelScope(shield=True):  # what is half started could not be cancelled
                async with asyncio.timeout(BEGIN_PATIENCE):
                    run = await self._begin(endpoint, tool, arguments, caller, wanted)
        except TimeoutError:
            return results.error("Temporal does not answer. Call again, with the same key if you gave one.")
        except RunExists:
            return results.error(f"The key {wanted!r} was used before, for another call. Use a new one.")
        except HorariumError as error:
            return results.error(str(error))
        self._waiters[run.id] += 1
        try:
            return await self._wait(run, wanted, tell)
        except asyncio.CancelledError:
            if not self.leaving and self._waiters[run.id] == 1:
                await _cancel(run)
            raise
        finally:
            self._waiters[run.id] -= 1
            if not self._waiters[run.id]:
                del self._waiters[run.id]

    async def _begin(
        self, endpoint: Endpoint, tool: str, arguments: Mapping[str, Any], caller: Caller, key: str
    ) -> Run:
        run_key = _run_key(caller, endpoint.toolbox, key)
        # A call that was begun keeps the version it began with, also when another one was promoted since.
        before = await Runs(self._ledger).asked(run_id_for_key(caller.tenant, run_key))
        version = before.run.version if before is not None else endpoint.agent_version
        return await self._client.call(
            endpoint.agent,
            tool,
            arguments,
            key=run_key,
            version=version,
            tenant=caller.tenant,
            requested_by=caller.name,
            metadata={"via": "mcp"},
        )

    async def _wait(self, run: Run, key: str, tell: Tell) -> types.CallToolResult:
        loop = asyncio.get_running_loop()
        begun = told = loop.time()
        said = ""
        await tell(0.0, f"Run {run.id} is begun.")
        ending = asyncio.create_task(run.result())
        try:
            while loop.time() - begun < self._settings.call_patience.total_seconds():
                left = begun + self._settings.call_patience.total_seconds() - loop.time()
                done, _ = await asyncio.wait({ending}, timeout=min(LOOK_EVERY, max(left, 0.0)))
                if done:
                    await tell(loop.time() - begun, f"Run {run.id} has ended.")
                    return await self._ended(ending)
                questions = await self._questions(run)
                taken = bool(questions) or (await run.record()).opened_at is not None
                if not taken and loop.time() - begun > self._settings.start_patience.total_seconds():
                    break
                words = results.in_words(questions[0]) if questions else f"Run {run.id} is at work."
                if words != said or loop.time() - told > TELL_EVERY:
                    said, told = words, loop.time()
                    await tell(told - begun, words)
            taken = (await run.record()).opened_at is not None
            return results.waiting(run.id, key, await self._questions(run), taken=taken)
        finally:
            ending.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await ending

    async def _ended(self, ending: asyncio.Task[RunResult]) -> types.CallToolResult:
        try:
            result = ending.result()
        except Unreachable:
            return results.error("Temporal does not answer any more. Call again with the same key, if you gave one.")
        steps = await self._client.run(result.run).steps()
        return await results.of_end(self._ledger, result, call_step(steps))

    async def _questions(self, run: Run) -> list[ApprovalRecord]:
        return [item for item in await Approvals(self._ledger).of_run(run.id) if item.status == "pending"]


async def _cancel(run: Run) -> None:
    with anyio.CancelScope(shield=True):
        try:
            async with asyncio.timeout(CANCEL_PATIENCE):
                await run.cancel()
        except (HorariumError, TimeoutError) as error:
            log.warning("gateway.not_cancelled", run=run.id, error=type(error).__name__)


def _run_key(caller: Caller, toolbox: str, key: str) -> str:
    """Of one API key and one toolbox, so that strangers who use the same key never meet."""
    whole = f"mcp/{caller.key or 'anonymous'}/{toolbox}/{key}"
    return whole if len(whole) <= MOST_KEY_CHARS else f"mcp/{hashlib.sha256(whole.encode()).hexdigest()}"
